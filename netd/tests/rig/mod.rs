//! A node for tests: a network namespace with netd's service on the real kernel in it, or its program, sandboxes, and an outside.
//!
//! ```text
//! sandbox eth0 ── nd… br0 [ node ] up0 192.0.2.1, 2001:db8::1 ── out0 192.0.2.9, 2001:db8::9 [ outside ]
//! ```
#![expect(clippy::unwrap_used, clippy::unwrap_in_result, reason = "helpers of tests stand outside of them")]
#![allow(dead_code, clippy::allow_attributes, reason = "each test program uses a part of the rig")]

pub(crate) mod daemon;
pub(crate) mod nodes;
pub(crate) mod shop;

use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use netd::allowlist::Allowlist;
use netd::executor::Executor;
use netd::journal::Journal;
use netd::lifecycle::Lifecycle;
use netd::networks::Networks;
use netd::node::Node as NodeRecord;
use netd::policies::files::{PolicyFiles, sources};
use netd::policies::follow::put_in_force;
use netd::policies::{Policies, Settings};
use netd::ports::Ports;
use netd::reservations::Reservations;
use netd::resync::{self, Exclusivity};
use netd::runtime::Runtime;
use netd::server::{PolicyDesk, Service, Unmet};
use netd::tombstones::Tombstones;
use netd_api::{Client, Tag, blocking};
use netd_config::Quarantine;
use netd_kernel::LinuxKernel;
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, socket};

/// After so long, nothing is heard any more.
const PATIENCE: Duration = Duration::from_millis(1000);
/// What should be heard may take longer on a busy machine.
const MORE_PATIENCE: Duration = Duration::from_secs(30);

type Order = Box<dyn FnOnce() + Send>;

pub(crate) fn portmap(ports: &str) -> String {
    format!(
        r#"{{"type":"portmap","capabilities":{{"portMappings":true}},"runtimeConfig":{{"portMappings":[{ports}]}}}}"#
    )
}

pub(crate) fn tcp(host: u16, container: u16) -> String {
    format!(r#"{{"HostPort":{host},"ContainerPort":{container},"Protocol":"tcp","HostIP":""}}"#)
}

/// The whole table at once: who asks where, and what is heard.
pub(crate) fn assert_heard(table: &[(&str, &Space, &str, Result<&str, ()>)]) {
    let lines = |of: &dyn Fn(usize) -> String| {
        (0..table.len()).map(|row| format!("{} -> {}: {}\n", table[row].0, table[row].2, of(row))).collect::<String>()
    };
    let expected = lines(&|row| table[row].3.map_or_else(|()| "nothing".to_owned(), str::to_owned));
    let heard = |row: usize| {
        let (_, space, address, expected) = &table[row];
        if expected.is_ok() { space.hears_in_the_end(address) } else { space.hears(address) }
    };
    let actual = lines(&|row| heard(row).unwrap_or_else(|_| "nothing".to_owned()));
    assert_eq!(actual, expected);
}

/// Whether this kernel keeps VLANs apart; where not, it is told that `what` was not shown.
pub(crate) fn can_filter(what: &str) -> bool {
    let can = filters();
    if !can {
        let why = "this kernel is built without CONFIG_BRIDGE_VLAN_FILTERING";
        std::io::stderr().write_all(format!("SKIPPED VLANs ({what}): {why}\n").as_bytes()).unwrap();
    }
    can
}

pub(crate) fn filters() -> bool {
    let add = ["link", "add", "probe", "type", "bridge", "vlan_filtering", "1"];
    Space::new().run(move || Command::new("ip").args(add).output().unwrap().status.success())
}

/// A network namespace, held by a thread that works in it.
pub(crate) struct Space {
    orders: Option<mpsc::Sender<Order>>,
    thread: Option<JoinHandle<()>>,
    pub(crate) fd: File,
}

impl Space {
    pub(crate) fn new() -> Self {
        let (orders, inbox) = mpsc::channel::<Order>();
        let (opened, fd) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap_or_else(|error| panic!("this test needs root (unshare: {error})"));
            opened.send(File::open("/proc/thread-self/ns/net").unwrap()).unwrap();
            inbox.into_iter().for_each(|order| order());
        });
        Self { orders: Some(orders), thread: Some(thread), fd: fd.recv().unwrap() }
    }

    /// Does `work` in the namespace.
    pub(crate) fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let (done, answer) = mpsc::channel();
        self.orders.as_ref().unwrap().send(Box::new(move || drop(done.send(work())))).unwrap();
        answer.recv().unwrap()
    }

    pub(crate) fn command(&self, line: &str) -> String {
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        let line = line.to_owned();
        self.run(move || {
            let output = Command::new(&words[0]).args(&words[1..]).output().unwrap();
            assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8(output.stdout).unwrap()
        })
    }

    /// Serves TCP on a port: each connection hears who it is taken for.
    pub(crate) fn serve(&self, port: u16) {
        self.run(move || {
            let listener = TcpListener::bind(("::", port)).unwrap();
            std::thread::spawn(move || {
                for stream in listener.incoming() {
                    let mut stream = stream.unwrap();
                    let peer = stream.peer_addr().unwrap().ip().to_canonical().to_string();
                    drop(stream.write_all(peer.as_bytes()));
                }
            });
        });
    }

    /// Gives back on a TCP port what it gets, as long as a connection lasts.
    pub(crate) fn echo(&self, port: u16) {
        self.run(move || {
            let listener = TcpListener::bind(("::", port)).unwrap();
            std::thread::spawn(move || {
                for stream in listener.incoming() {
                    let (mut from, mut to) = (stream.as_ref().unwrap().try_clone().unwrap(), stream.unwrap());
                    std::thread::spawn(move || drop(std::io::copy(&mut from, &mut to)));
                }
            });
        });
    }

    /// Serves UDP in the same way.
    pub(crate) fn serve_udp(&self, port: u16) {
        self.run(move || {
            let socket = UdpSocket::bind(("::", port)).unwrap();
            std::thread::spawn(move || {
                while let Ok((_, peer)) = socket.recv_from(&mut [0; 64]) {
                    drop(socket.send_to(peer.ip().to_canonical().to_string().as_bytes(), peer));
                }
            });
        });
    }

    /// What a connection to `address` hears; why not, otherwise.
    pub(crate) fn hears(&self, address: &str) -> Result<String, String> {
        self.hears_within(address, PATIENCE)
    }

    /// As [`Space::hears`], with more time to hear it. A neighbour that did not answer while its link was down is given up for a
    /// moment by the kernel, also when the link is up again: it is asked anew.
    pub(crate) fn hears_in_the_end(&self, address: &str) -> Result<String, String> {
        let start = Instant::now();
        loop {
            let heard = self.hears_within(address, MORE_PATIENCE);
            if heard != Err("host unreachable".to_owned()) || start.elapsed() > MORE_PATIENCE {
                return heard;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn hears_within(&self, address: &str, patience: Duration) -> Result<String, String> {
        let address: SocketAddr = address.parse().unwrap();
        self.run(move || {
            let connected = TcpStream::connect_timeout(&address, patience);
            let mut stream = connected.map_err(|error| error.kind().to_string())?;
            stream.set_read_timeout(Some(patience)).unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).map_err(|error| error.kind().to_string())?;
            Ok(text)
        })
    }

    /// Asks every few milliseconds until it is over, and so often at least; how often it asked, and how often it was answered.
    pub(crate) fn exchange_udp(&self, address: &str, at_least: u32, over: &Arc<AtomicBool>) -> (u32, u32) {
        let address: SocketAddr = address.parse().unwrap();
        let over = Arc::clone(over);
        self.run(move || {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            // An answer that is late is not lost.
            socket.set_read_timeout(Some(MORE_PATIENCE)).unwrap();
            let (start, mut sent, mut heard) = (Instant::now(), 0, 0);
            // Whoever says that it is over may have failed before.
            while (sent < at_least || !over.load(Ordering::Relaxed)) && start.elapsed() < Duration::from_secs(60) {
                socket.send_to(b"?", address).unwrap();
                sent += 1;
                heard += u32::from(socket.recv(&mut [0; 64]).is_ok());
                std::thread::sleep(Duration::from_millis(2));
            }
            (sent, heard)
        })
    }

    /// Says of each datagram to a port who it is from.
    pub(crate) fn listen_udp(&self, port: u16) -> mpsc::Receiver<String> {
        let (heard, arrivals) = mpsc::channel();
        self.run(move || {
            let socket = UdpSocket::bind(("::", port)).unwrap();
            std::thread::spawn(move || {
                while let Ok((_, peer)) = socket.recv_from(&mut [0; 64]) {
                    drop(heard.send(peer.ip().to_canonical().to_string()));
                }
            });
        });
        arrivals
    }

    /// Takes down what comes in at all links from now on, before any rule.
    pub(crate) fn capture(&self) -> Capture {
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        Capture(self.run(move || socket(AddressFamily::Packet, SockType::Raw, flags, SockProtocol::EthAll).unwrap()))
    }

    /// As [`Space::hears_udp`], asked anew: a datagram that nobody took, as a port of a bridge that was just made, is not sent again by
    /// the kernel.
    pub(crate) fn hears_udp_in_the_end(&self, address: &str) -> Option<String> {
        let start = Instant::now();
        loop {
            let heard = self.hears_udp(address);
            if heard.is_some() || start.elapsed() > MORE_PATIENCE {
                return heard;
            }
        }
    }

    pub(crate) fn hears_udp(&self, address: &str) -> Option<String> {
        let address: SocketAddr = address.parse().unwrap();
        self.run(move || {
            let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            let socket = UdpSocket::bind(any).unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            socket.send_to(b"?", address).ok()?;
            let mut bytes = [0; 64];
            let length = socket.recv(&mut bytes).ok()?;
            Some(String::from_utf8_lossy(&bytes[..length]).into_owned())
        })
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        drop(self.orders.take());
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// Frames of a namespace's links.
pub(crate) struct Capture(OwnedFd);

impl Capture {
    /// Whether somebody began a TCP connection to this address.
    pub(crate) fn has_opening(&self, to: SocketAddrV4) -> bool {
        let mut frame = [0; 64];
        while let Ok(length) = recv(self.0.as_raw_fd(), &mut frame, MsgFlags::empty()) {
            // Ethernet, IPv4 without options.
            let is_tcp = length > 47 && (&frame[12..15], frame[23]) == (&[8, 0, 0x45], 6);
            let is_to = frame[30..34] == to.ip().octets() && frame[36..38] == to.port().to_be_bytes();
            if is_tcp && is_to && frame[47] & 0x12 == 2 {
                return true;
            }
        }
        false
    }
}

/// A node with netd in it.
pub(crate) struct Node {
    // The first to go.
    netd: Netd,
    pub(crate) folder: tempfile::TempDir,
    pub(crate) space: Space,
}

/// How netd runs on a node.
enum Netd {
    /// Its service, in the test's own process: put together here, and stopped in good order.
    Service(Option<(mpsc::Sender<()>, JoinHandle<()>)>),
    /// Its program, which ends by signal 9 only.
    Program(Option<daemon::Daemon>),
}

impl Node {
    pub(crate) fn new() -> Self {
        Self::with(Netd::Service(None))
    }

    /// Runs the program itself: the order of its start, and what it finds after a crash, are the real ones.
    pub(crate) fn of_the_program() -> Self {
        Self::with(Netd::Program(None))
    }

    fn with(netd: Netd) -> Self {
        let mut node = Self { netd, folder: tempfile::tempdir().unwrap(), space: Space::new() };
        node.start();
        node
    }

    pub(crate) fn socket(&self) -> PathBuf {
        match self.netd {
            Netd::Service(_) => self.folder.path().join("netd.sock"),
            Netd::Program(_) => daemon::socket(self.folder.path()),
        }
    }

    pub(crate) fn conf_dir(&self) -> PathBuf {
        self.folder.path().join("net.d")
    }

    /// Where netd keeps the policies that were applied.
    pub(crate) fn policies(&self) -> PathBuf {
        self.socket().with_file_name("policies")
    }

    /// Where the program has those of its node's owner. Nothing is there at first.
    pub(crate) fn own_policies(&self) -> PathBuf {
        self.folder.path().join("none")
    }

    pub(crate) fn start(&mut self) {
        let socket = self.socket();
        match &mut self.netd {
            Netd::Service(service) => *service = Some(start_service(&self.space, &socket)),
            Netd::Program(program) => {
                *program = Some(begin_program(&self.space, self.folder.path()).until_it_listens());
            }
        }
    }

    /// The program is killed so long after it was begun, whatever it is about.
    pub(crate) fn start_and_die(&self, after: Duration) {
        let begun = begin_program(&self.space, self.folder.path());
        std::thread::sleep(after);
        drop(begun);
    }

    pub(crate) fn stop(&mut self) {
        match &mut self.netd {
            Netd::Service(service) => {
                if let Some((stop, thread)) = service.take() {
                    drop(stop);
                    thread.join().unwrap();
                }
            }
            Netd::Program(program) => drop(program.take()),
        }
    }

    /// Four times the program is killed and started again, each time past one more that dies at another place of its start.
    pub(crate) fn die_again_and_again(&mut self) {
        for half in [2, 5, 12, 30] {
            std::thread::sleep(Duration::from_millis(100));
            self.stop();
            std::thread::sleep(Duration::from_millis(100));
            self.start_and_die(Duration::from_millis(half));
            self.start();
        }
    }

    /// Links the node to an outside; forwarding is off before netd switches it on.
    pub(crate) fn outside(&self) -> Space {
        let outside = Space::new();
        let node = format!("/proc/{}/fd/{}", std::process::id(), self.space.fd.as_raw_fd());
        outside.command(&format!("ip link add out0 type veth peer name up0 netns {node}"));
        for (space, link, number) in [(&outside, "out0", 9), (&self.space, "up0", 1)] {
            space.command(&format!("ip addr add 192.0.2.{number}/24 dev {link}"));
            space.command(&format!("ip addr add 2001:db8::{number}/64 dev {link} nodad"));
            // Without it, the link's own address is tried out for a second, and nobody answers meanwhile.
            space.run(move || std::fs::write(format!("/proc/sys/net/ipv6/conf/{link}/accept_dad"), "0").unwrap());
            space.command(&format!("ip link set {link} up"));
            space.command("ip link set lo up");
        }
        // The kernel looks at a carrier that has just come once a second.
        while outside.hears("[2001:db8::1]:9") != Err(std::io::ErrorKind::ConnectionRefused.to_string()) {}
        outside
    }

    /// Another network beside the outside's, whose router the node could be.
    pub(crate) fn neighbour(&self) -> Space {
        let neighbour = Space::new();
        let path = format!("/proc/{}/fd/{}", std::process::id(), self.space.fd.as_raw_fd());
        neighbour.command(&format!("ip link add n0 type veth peer name up1 netns {path}"));
        for (space, link, number) in [(&neighbour, "n0", 9), (&self.space, "up1", 1)] {
            space.command(&format!("ip addr add 198.51.100.{number}/24 dev {link}"));
            space.command(&format!("ip link set {link} up"));
        }
        neighbour.command("ip route add default via 198.51.100.1");
        neighbour
    }

    /// Attaches `space` by one stanza.
    pub(crate) fn call(&self, space: &Space, call: blocking::Call) -> Result<serde_json::Value, String> {
        Ok(serde_json::from_str(&self.answer(space, call)?).unwrap())
    }

    /// The result's text.
    pub(crate) fn answer(&self, space: &Space, call: blocking::Call) -> Result<String, String> {
        let client = Client::connect(&self.socket(), &[(Tag::SandboxNetns, space.fd.as_fd())]).unwrap();
        let mut request = blocking::AttachRequest::new();
        request.call = Some(call).into();
        let response = client.attach(&request).unwrap();
        if let Some(failure) = response.failure.as_ref() {
            return Err(failure.message.clone());
        }
        Ok(String::from_utf8(response.result).unwrap())
    }

    /// Attaches `space` by a chain, as libcni does: each stanza with name, version and the result before it.
    pub(crate) fn attach(&self, space: &Space, container: &str, chain: &[&str]) -> Result<serde_json::Value, String> {
        let mut result = serde_json::Value::Null;
        for stanza in chain {
            let mut config: serde_json::Value = serde_json::from_str(stanza).unwrap();
            config["cniVersion"] = "1.0.0".into();
            if config["name"].is_null() {
                config["name"] = "web".into();
            }
            if !result.is_null() {
                config["prevResult"] = result;
            }
            result = self.call(space, call(&config.to_string(), container, &format!("/run/netns/{container}")))?;
        }
        Ok(result)
    }

    pub(crate) fn detach(&self, container: &str, stanza: &str) {
        let mut config: serde_json::Value = serde_json::from_str(stanza).unwrap();
        config["cniVersion"] = "1.0.0".into();
        if config["name"].is_null() {
            config["name"] = "web".into();
        }
        let mut request = blocking::DetachRequest::new();
        request.call = Some(call(&config.to_string(), container, "")).into();
        let response = Client::connect(&self.socket(), &[]).unwrap().detach(&request).unwrap();
        assert!(response.failure.is_none(), "{response:?}");
    }

    /// Makes record and kernel agree; says what was done.
    pub(crate) fn resync(&self) -> Vec<String> {
        let response = Client::connect(&self.socket(), &[]).unwrap().resync(&blocking::ResyncRequest::new()).unwrap();
        assert!(response.failure.is_none(), "{response:?}");
        response.steps
    }

    /// Waits until `is_so`.
    pub(crate) fn until(&self, is_so: impl Fn(&Self) -> bool) {
        let start = Instant::now();
        while !is_so(self) {
            assert!(start.elapsed() < MORE_PATIENCE, "it does not come about");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub(crate) fn status(&self) -> blocking::StatusResponse {
        Client::connect(&self.socket(), &[]).unwrap().status(&blocking::StatusRequest::new()).unwrap()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.stop();
    }
}

/// As the daemon does; the runtime's threads inherit the namespace. It goes on until what is given is dropped.
fn start_service(space: &Space, socket: &Path) -> (mpsc::Sender<()>, JoinHandle<()>) {
    let (socket, journal) = (socket.to_owned(), socket.with_file_name("journal"));
    let (ready, is_ready) = mpsc::channel();
    let (stop, stopped) = mpsc::channel::<()>();
    let thread = space.run(move || {
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
            let server = runtime.block_on(serve(&socket, &journal));
            ready.send(()).unwrap();
            // The other end is dropped to stop.
            assert!(stopped.recv().is_err());
            drop(server);
            runtime.shutdown_background();
        })
    });
    is_ready.recv().unwrap();
    (stop, thread)
}

fn begin_program(space: &Space, folder: &Path) -> daemon::Daemon {
    // Nothing of the machine's own.
    let none = folder.join("none");
    daemon::begin_in(space, folder, &format!("policies_dir = {none:?}\n"))
}

pub(crate) fn call(config: &str, container: &str, netns_path: &str) -> blocking::Call {
    let mut call = blocking::Call::new();
    call.container_id = container.to_owned();
    call.interface = "eth0".to_owned();
    call.netns_path = netns_path.to_owned();
    call.config = config.as_bytes().to_vec();
    call
}

/// The threads of one that was stopped end in a moment; until then its tables are its own.
fn kernel() -> LinuxKernel {
    let begin = Instant::now();
    loop {
        match LinuxKernel::new("netd", "nd") {
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
                assert!(begin.elapsed() < Duration::from_secs(20), "one that was stopped holds its tables");
                std::thread::sleep(Duration::from_millis(10));
            }
            kernel => return kernel.unwrap(),
        }
    }
}

async fn serve(socket: &Path, journal: &Path) -> netd_api::server::Server {
    let (journal, records) = Journal::open(journal, "boot").unwrap();
    let record = NodeRecord::replay("nd", records);
    let kernel = kernel();
    let executor = Arc::new(Executor::new(Arc::new(kernel), record.guarded().clone()));
    let policies =
        Policies::start(Arc::clone(&executor), Settings { node: "here".to_owned(), ..Settings::default() }).unwrap();
    let lifecycle = Lifecycle::new(netd::owner::start(record, journal), executor)
        .with_tombstones(Tombstones::new(socket.with_file_name("tombstones")))
        .with_ports(Ports::default().with_gate(policies.gate()))
        .with_policies(policies);
    let directory = socket.with_file_name("policies");
    let before = PolicyFiles::default();
    let files = Arc::new(before.next(&sources(std::slice::from_ref(&directory), &before)));
    put_in_force(&lifecycle, Quarantine::Policies, move || files).await.unwrap();
    resync::run(&lifecycle, Exclusivity::Exclusive, false).await.unwrap();
    for attachment in lifecycle.owner.snapshot().await.unwrap().attachments {
        lifecycle.ports.hold(&attachment).await.unwrap();
    }
    let service = Service {
        lifecycle,
        reservations: Arc::new(Reservations::default()),
        runtime: Runtime::default(),
        networks: Networks::watch(vec![socket.with_file_name("net.d")]).unwrap(),
        desk: PolicyDesk { directories: vec![directory], ..PolicyDesk::default() },
        unmet: Unmet::default(),
        sysctls: Allowlist::at(&socket.with_file_name("allowlist.conf")),
        instance: "test".to_owned(),
    };
    netd_api::bind(socket).unwrap().serve(Arc::new(service)).unwrap()
}
