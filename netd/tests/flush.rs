//! Somebody else's `nft flush ruleset` while policies are in force. Where the kernel has tables with owners nothing happens;
//! elsewhere netd makes its rules again, and this measures what passes meanwhile. Needs root.
#![expect(clippy::unwrap_used, reason = "helpers of tests stand outside of them")]

mod rig;

use std::io::{Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::sleep;
use std::time::{Duration, Instant};

use netd_api::{Client, Tag, blocking};
use rig::daemon::{Daemon, inside, soon, start};
use rig::shop::{apply, describe};
use rig::{Space, call};

const WEB: &str = r#"{"cniVersion":"1.0.0","name":"web","type":"bridge","bridge":"br0","isGateway":true,
    "ipam":{"type":"host-local","dataDir":"/nonexistent","ranges":[[{"subnet":"10.4.0.0/24"}]]}}"#;
const FROM_LOGIN: &str = "apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: from-login, namespace: shop}
spec:
  podSelector: {matchLabels: {app: web}}
  ingress:
  - from:
    - podSelector: {matchLabels: {app: login}}
";
const FLUSHES: usize = 24;
/// What Debian's `/etc/nftables.conf` does, with a rule that keeps conntrack at work: flows that begin meanwhile are known.
const RELOAD: &str = "flush ruleset
table inet filter { chain forward { type filter hook forward priority filter; ct state established accept; }; }
";
/// Between two packets that are denied.
const PACE: Duration = Duration::from_micros(200);
/// Nothing for so long: nothing passes any more.
const SILENCE: Duration = Duration::from_millis(250);
const DENIED: u16 = 5_000;

fn attach(daemon: &Daemon, name: &str) -> Space {
    let space = Space::new();
    let mut request = blocking::AttachRequest::new();
    request.call = Some(call(WEB, name, "")).into();
    let client = Client::connect(&daemon.socket, &[(Tag::SandboxNetns, space.fd.as_fd())]).unwrap();
    let response = client.attach(&request).unwrap();
    assert!(response.failure.is_none(), "{response:?}");
    describe(&Client::connect(&daemon.socket, &[]).unwrap(), name, name, &[("app", name)]);
    space
}

/// Sends from `from` to the server at `DENIED`, on and on.
fn knock(from: &Space, over: &Arc<AtomicBool>) {
    let over = Arc::clone(over);
    from.run(move || {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        std::thread::spawn(move || {
            while !over.load(Ordering::Relaxed) {
                // Refused, as a rule.
                drop(socket.send_to(b"?", ("10.4.0.2", DENIED)));
                sleep(PACE);
            }
        });
    });
}

/// When something arrives there. It is answered: conntrack then takes the flow for established.
fn arrivals(at: &Space) -> mpsc::Receiver<Instant> {
    let (heard, arrivals) = mpsc::channel();
    at.run(move || {
        let socket = UdpSocket::bind(("10.4.0.2", DENIED)).unwrap();
        std::thread::spawn(move || {
            while let Ok((_, peer)) = socket.recv_from(&mut [0; 8])
                && heard.send(Instant::now()).is_ok()
            {
                drop(socket.send_to(b"!", peer));
            }
        });
    });
    arrivals
}

/// An allowed connection that stands.
struct Talk {
    stream: TcpStream,
    datagrams: UdpSocket,
}

impl Talk {
    fn begin(from: &Space) -> Self {
        from.run(|| {
            let stream = TcpStream::connect("10.4.0.2:7").unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
            let datagrams = UdpSocket::bind("0.0.0.0:0").unwrap();
            datagrams.connect("10.4.0.2:7").unwrap();
            datagrams.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
            Self { stream, datagrams }
        })
    }

    fn goes_on(&mut self) {
        let echoed = self.stream.write_all(b"y").and_then(|()| self.stream.read_exact(&mut [0]));
        assert!(echoed.is_ok(), "an allowed connection ended: {echoed:?}");
        let asked = self.datagrams.send(b"y").and_then(|_| self.datagrams.recv(&mut [0; 64]));
        assert!(asked.is_ok(), "an allowed flow of datagrams ended: {asked:?}");
    }
}

/// What passed in one flush that is denied: how many packets, and from the first to the last.
type Window = (usize, Duration);

fn window(arrivals: &mpsc::Receiver<Instant>) -> Window {
    let begin = Instant::now();
    let mut times: Vec<Instant> = Vec::new();
    while let Ok(time) = arrivals.recv_timeout(SILENCE) {
        times.push(time);
        assert!(begin.elapsed() < Duration::from_secs(30), "what is denied goes on passing after a flush");
    }
    (times.len(), times.first().zip(times.last()).map(|(first, last)| *last - *first).unwrap_or_default())
}

fn say(windows: &mut [Window]) {
    windows.sort_unstable();
    let packets: Vec<usize> = windows.iter().map(|(packets, _)| *packets).collect();
    let mut times: Vec<Duration> = windows.iter().map(|(_, time)| *time).collect();
    times.sort_unstable();
    let (middle, last) = (windows.len() / 2, windows.len() - 1);
    let text = format!(
        "of {} flushes: denied packets that passed min {} median {} max {}; from the first to the last of them min {:.1?} \
         median {:.1?} max {:.1?}\n",
        windows.len(),
        packets[0],
        packets[middle],
        packets[last],
        times[0],
        times[middle],
        times[last]
    );
    std::io::stderr().write_all(text.as_bytes()).unwrap();
}

/// Without the flows that were cut, which are told so for two minutes.
fn lasting(table: &[u8]) -> String {
    let text = String::from_utf8_lossy(table);
    let is_cut = |line: &str| line.contains("udp . 10.4.0.2 . 5000 . ");
    text.lines().filter(|line| !is_cut(line)).collect::<Vec<_>>().join("\n")
}

#[test]
fn a_flush_opens_a_window_at_most_and_what_is_allowed_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = start(folder.path());
    let (web, login, other) = (attach(&daemon, "web"), attach(&daemon, "login"), attach(&daemon, "other"));
    web.echo(7);
    web.serve_udp(7);
    apply(&Client::connect(&daemon.socket, &[]).unwrap(), FROM_LOGIN);
    let rules = || {
        ["inet", "bridge"].map(|family| lasting(&inside(&daemon, &format!("nft -s list table {family} netd")).stdout))
    };
    let before = rules();
    let is_owned = before[0].contains("flags owner");
    let reload = folder.path().join("nftables.conf");
    std::fs::write(&reload, RELOAD).unwrap();
    let flushes = [vec!["flush", "ruleset"], vec!["-f", reload.to_str().unwrap()]];
    let (heard, over) = (arrivals(&web), Arc::new(AtomicBool::new(false)));
    knock(&other, &over);
    let mut talk = Talk::begin(&login);
    talk.goes_on();
    assert_eq!(window(&heard), (0, Duration::ZERO), "denied from the start");
    let mut windows = Vec::new();
    for flush in flushes.iter().cycle().take(FLUSHES) {
        let namespace = format!("--net=/proc/{}/ns/net", daemon.child.id());
        let mut flush = Command::new("nsenter").arg(namespace).arg("nft").args(flush).spawn().unwrap();
        let pid = flush.id();
        assert!(flush.wait().unwrap().success());
        talk.goes_on();
        windows.push(window(&heard));
        soon("the rules", || rules() == before);
        talk.goes_on();
        let said = format!("somebody took rules of netd away; they are made again program=\"nft\" pid={pid}");
        assert_eq!(daemon.log().contains(&said), !is_owned, "{said}\n{}", daemon.log());
    }
    over.store(true, Ordering::Relaxed);
    say(&mut windows);
    if is_owned {
        assert!(windows.iter().all(|(packets, _)| *packets == 0), "{windows:?}");
    }
}
