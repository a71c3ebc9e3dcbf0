//! Of 200 sandboxes that start at once and speak from the first moment, not a packet passes that the policy denies; and with the
//! quarantine switched off, packets do. Each has its record in a real containerd. Needs root.
#![expect(clippy::unwrap_used, reason = "helpers of tests stand outside of them")]

use std::collections::BTreeMap;
use std::io::{ErrorKind, Write};
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::symlink;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::ensure;
use netd_rig::{BUSYBOX, Bed, NERDCTL_DEFAULT, Nerdctl, Netd, Place, Plugins, Release, parts, until};
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, setsockopt, socket, sockopt};
use serde_json::Value;

const STARTS: usize = 200;
/// Two cores carry no more at once.
const AT_ONCE: usize = 20;
/// One in so many is one whom the policy allows everything.
const FREE: usize = 10;
/// The neighbour, who comes first.
const EAR: Ipv4Addr = Ipv4Addr::new(10, 4, 0, 2);
const PORT: u16 = 9;
/// Between two rounds of datagrams.
const PAUSE: Duration = Duration::from_millis(20);
const PATIENCE: Duration = Duration::from_secs(60);
/// How long to listen on once everybody has been heard who is allowed to speak.
const LONG_ENOUGH: Duration = Duration::from_secs(2);
/// How long netd stays dead.
const DEAD: Duration = Duration::from_millis(500);
/// Octets that may wait to be read: every frame that floods the bridge comes to each of them.
const ROOM: usize = 8 << 20;
/// CNI's code for an error that passes.
const TRY_AGAIN_LATER: u64 = 11;
/// Who is mute neither speaks nor is spoken to.
const MUTE: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: mute, namespace: default}
spec:
  podSelector: {matchLabels: {app: mute}}
  policyTypes: [Ingress, Egress]
";
/// netd looks for containerd where nobody listens yet: labels come late.
const LATE: &str = "containerd_socket = '/run/later.sock'\n";

/// What passed that the policy denies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Passed {
    /// Heard by a neighbour on the bridge.
    sent: usize,
    /// Captured inside of the sandboxes.
    received: usize,
}

const NOTHING: Passed = Passed { sent: 0, received: 0 };

#[test]
fn not_a_packet_passes_that_the_policy_denies_when_labels_are_there_at_once() {
    assert_eq!(starts("", false), NOTHING);
}

#[test]
fn nor_when_labels_come_late_and_netd_is_killed_in_the_midst() {
    assert_eq!(starts(LATE, true), NOTHING);
}

/// The same run without what it is to show: `quarantine = 'never'` switches off that a port stays shut until labels are known.
/// That packets are caught then is what makes the two runs above worth something.
#[test]
fn with_the_quarantine_switched_off_packets_are_caught_both_ways() {
    let passed = starts(&format!("quarantine = 'never'\n{LATE}"), false);
    assert!(passed.sent > 0 && passed.received > 0, "{passed:?}");
}

fn starts(settings: &str, netd_dies: bool) -> Passed {
    let mut bed = Bed::start(Release::V2_4, &Plugins::Netd).unwrap();
    bed.node.write("/run/mute.yaml", MUTE).unwrap();
    netdctl(&bed, &["policy", "apply", "-f", "/run/mute.yaml"]);
    let ear =
        Nerdctl::like(&bed.node).unwrap().run(&["--label", "app=ear"], &["/bin/sleep", "infinity"]).unwrap().place;
    let mut netd = bed.netd.take().unwrap();
    start_again(&bed, &mut netd, settings);

    let sandboxes: Vec<Sandbox> = (0..STARTS).map(Sandbox::new).collect();
    in_batches(&sandboxes, |one| record(&bed, one));
    let is_over = AtomicBool::new(false);
    let (speaking, spoken_to) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let (sent, received) = thread::scope(|scope| {
        scope.spawn(|| speak(&sandboxes, &is_over));
        let hearing = scope.spawn(|| ear.run(|| call_and_hear(&sandboxes, &speaking, &is_over)).unwrap());
        let capturing = scope.spawn(|| capture(&sandboxes, &spoken_to, &is_over));
        // A failure is to end the others too.
        let over = Over(&is_over);
        let (early, late) = sandboxes.split_at(STARTS / 2);
        in_batches(early, |one| attach(&bed, one));
        thread::scope(|midst| {
            if netd_dies {
                midst.spawn(|| die(&bed, &mut netd));
            }
            in_batches(late, |one| attach(&bed, one));
        });
        symlink("/run/containerd/containerd.sock", bed.node.outside("/run/later.sock")).unwrap();
        let known = until("the labels of all", PATIENCE, || Ok((known(&bed) == STARTS + 1).then_some(())));
        // Without this nobody could have been heard at all. A question for a MAC that got lost is repeated after a second.
        let free = [&speaking, &spoken_to];
        let all_free = || free.iter().all(|count| count.load(Ordering::Relaxed) == STARTS / FREE);
        let heard = until("all who may speak and be spoken to", PATIENCE, || Ok(all_free().then_some(())));
        thread::sleep(LONG_ENOUGH);
        drop(over);
        known.and(heard).unwrap();
        (hearing.join().unwrap(), capturing.join().unwrap())
    });
    let sent = sent.iter().filter(|(number, _)| !sandboxes[**number].is_free()).map(|(_, count)| count).sum();
    let passed = Passed { sent, received };
    let mut stderr = std::io::stderr();
    writeln!(stderr, "{settings:?}, netd dies: {netd_dies}: {passed:?}").unwrap();
    passed
}

/// Ends those who speak and listen.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn start_again(bed: &Bed, netd: &mut Netd, settings: &str) {
    bed.node.write("/etc/netd/netd.toml", settings).unwrap();
    netd.daemon.terminate().unwrap();
    netd.daemon.start_again().unwrap();
    netd.wait(&bed.node).unwrap();
}

fn die(bed: &Bed, netd: &mut Netd) {
    netd.daemon.kill9().unwrap();
    thread::sleep(DEAD);
    netd.daemon.start_again().unwrap();
    netd.wait(&bed.node).unwrap();
}

fn in_batches(sandboxes: &[Sandbox], work: impl Fn(&Sandbox) + Sync) {
    for batch in sandboxes.chunks(AT_ONCE) {
        thread::scope(|scope| batch.iter().for_each(|one| drop(scope.spawn(|| work(one)))));
    }
}

/// A namespace in which somebody speaks, and in which all is captured, from before it has a network.
struct Sandbox {
    number: usize,
    place: Place,
    mouth: UdpSocket,
    capture: OwnedFd,
}

impl Sandbox {
    fn new(number: usize) -> Self {
        let place = Place::fresh().unwrap();
        let open = || {
            let mouth = unblocked((Ipv4Addr::UNSPECIFIED, 0));
            let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
            let capture = socket(AddressFamily::Packet, SockType::Raw, flags, SockProtocol::EthAll).unwrap();
            setsockopt(&capture, sockopt::RcvBufForce, &ROOM).unwrap();
            (mouth, capture)
        };
        let (mouth, capture) = place.run(open).unwrap();
        Self { number, place, mouth, capture }
    }

    fn is_free(&self) -> bool {
        self.number.is_multiple_of(FREE)
    }

    /// As containerd makes them up.
    fn id(&self) -> String {
        format!("{:064x}", self.number)
    }

    /// How many datagrams of the neighbour's have come in since.
    fn captured(&self) -> usize {
        let mut frame = [0; 64];
        let mut count = 0;
        loop {
            match recv(self.capture.as_raw_fd(), &mut frame, MsgFlags::empty()) {
                Ok(length) => count += usize::from(is_of_the_ear(&frame[..length])),
                Err(Errno::EAGAIN) => return count,
                // The link went down.
                Err(Errno::ENETDOWN) => {}
                Err(error) => panic!("cannot capture: {error}"),
            }
        }
    }
}

/// How much came that a socket of this namespace had no room for. `which` are arguments for `ss` that name that one only.
fn lost(which: &[&str]) -> u64 {
    let shown = Command::new("ss").args(["--no-header", "--numeric", "--memory"]).args(which).output().unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    let drops: Vec<_> = shown.split(",d").skip(1).filter_map(|rest| rest.split_once(')')?.0.parse().ok()).collect();
    let [one] = drops[..] else { panic!("not one socket is {which:?}: {shown}") };
    one
}

/// IPv4, UDP, and from the neighbour.
fn is_of_the_ear(frame: &[u8]) -> bool {
    frame.get(12..14) == Some(&[8, 0]) && frame.get(23) == Some(&17) && frame.get(26..30) == Some(&EAR.octets())
}

/// Makes the record of a container in containerd, with its labels.
fn record(bed: &Bed, sandbox: &Sandbox) {
    let label = format!("app={}", if sandbox.is_free() { "free" } else { "mute" });
    let mut ctr = bed.containerd.ctr("default");
    let arguments = ["container", "create", "--label", &label, BUSYBOX, &sandbox.id(), "/bin/true"];
    bed.node.output(ctr.args(arguments)).unwrap();
}

/// ADD, as a runtime has it done: again where netd is away, which it says by CNI's code 11. Any other refusal is a failure.
fn attach(bed: &Bed, sandbox: &Sandbox) {
    let attached = until("an attach", PATIENCE, || {
        let output = bed.node.place.outcome(&mut plugin(sandbox), &stanza())?;
        let result: Value = serde_json::from_slice(&output.stdout)?;
        ensure!(output.status.success() || result["code"] == TRY_AGAIN_LATER, "{result}");
        Ok(output.status.success().then_some(()))
    });
    attached.unwrap();
}

fn plugin(sandbox: &Sandbox) -> Command {
    let mut plugin = Command::new("/opt/cni/bin/bridge");
    plugin.env("CNI_COMMAND", "ADD").env("CNI_CONTAINERID", format!("default-{}", sandbox.id()));
    plugin.env("CNI_NETNS", sandbox.place.path()).env("CNI_IFNAME", "eth0").env("CNI_PATH", "/opt/cni/bin");
    plugin
}

/// The bridge of nerdctl's default network, without the rest of its chain.
fn stanza() -> String {
    let network: Value = serde_json::from_str(NERDCTL_DEFAULT).unwrap();
    let mut stanza = network["plugins"][0].clone();
    for key in ["cniVersion", "name"] {
        stanza[key] = network[key].clone();
    }
    stanza.to_string()
}

/// Everybody sends all the time; what has no network yet fails, and that is all.
fn speak(sandboxes: &[Sandbox], is_over: &AtomicBool) {
    while !is_over.load(Ordering::Relaxed) {
        for one in sandboxes {
            drop(one.mouth.send_to(&u32::try_from(one.number).unwrap().to_be_bytes(), (EAR, PORT)));
        }
        thread::sleep(PAUSE);
    }
}

/// The neighbour sends to every address of the network all the time. Gives how often it heard each sandbox.
fn call_and_hear(sandboxes: &[Sandbox], speaking: &AtomicUsize, is_over: &AtomicBool) -> BTreeMap<usize, usize> {
    let socket = unblocked((EAR, PORT));
    setsockopt(&socket, sockopt::RcvBufForce, &ROOM).unwrap();
    // A mouth for each: what waits for an address that is not there yet would fill a common one's buffer.
    let mouths: Vec<_> = (EAR.octets()[3] + 1..=254).map(|last| (unblocked((EAR, 0)), last)).collect();
    let mut heard = BTreeMap::new();
    while !is_over.load(Ordering::Relaxed) {
        for (mouth, last) in &mouths {
            drop(mouth.send_to(b"hear", (Ipv4Addr::new(10, 4, 0, *last), PORT)));
        }
        let mut words = [0; 4];
        loop {
            match socket.recv(&mut words) {
                Ok(_) => {
                    let number = u32::from_be_bytes(words) as usize;
                    let count = heard.entry(number).or_insert(0);
                    *count += 1;
                    speaking.fetch_add(usize::from(*count == 1 && sandboxes[number].is_free()), Ordering::Relaxed);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                // Somebody refused to hear.
                Err(_) => {}
            }
        }
        thread::sleep(PAUSE);
    }
    assert_eq!(lost(&["--udp", "--all", "sport", "=", &format!(":{PORT}")]), 0, "the neighbour did not hear all");
    heard
}

fn unblocked(at: (Ipv4Addr, u16)) -> UdpSocket {
    let socket = UdpSocket::bind(at).unwrap();
    socket.set_nonblocking(true).unwrap();
    socket
}

/// How many datagrams came in to who is mute.
fn capture(sandboxes: &[Sandbox], spoken_to: &AtomicUsize, is_over: &AtomicBool) -> usize {
    let mut counts = vec![0; sandboxes.len()];
    let mut is_last = false;
    while !is_last {
        is_last = is_over.load(Ordering::Relaxed);
        sandboxes.iter().zip(&mut counts).for_each(|(one, count)| *count += one.captured());
        let reached = sandboxes.iter().zip(&counts).filter(|(one, count)| one.is_free() && **count > 0).count();
        spoken_to.store(reached, Ordering::Relaxed);
        thread::sleep(PAUSE / 4);
    }
    for one in sandboxes {
        assert_eq!(one.place.run(|| lost(&["--packet"])).unwrap(), 0, "{}: not all was captured", one.number);
    }
    sandboxes.iter().zip(&counts).filter(|(one, _)| !one.is_free()).map(|(_, count)| count).sum()
}

/// How many have labels.
fn known(bed: &Bed) -> usize {
    let sandboxes: Value = serde_json::from_str(&netdctl(bed, &["-o", "json", "sandbox", "ls"])).unwrap();
    sandboxes.as_array().unwrap().iter().filter(|one| one["labels"]["app"].is_string()).count()
}

fn netdctl(bed: &Bed, arguments: &[&str]) -> String {
    bed.node.output(Command::new(parts::ours().unwrap().join("netdctl")).args(arguments)).unwrap()
}
