//! A network namespace with a thread in it, and what can be heard from there.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, SockaddrIn6, recv, sendto,
    setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

/// After so long, nothing is heard any more.
pub(crate) const PATIENCE: Duration = Duration::from_secs(1);
/// What is answered or refused may take longer on a busy machine.
const MORE_PATIENCE: Duration = Duration::from_secs(3);
/// The same in turns.
pub(crate) const TURN: Duration = Duration::from_millis(500);
const TURNS: u32 = 6;
/// Whoever was let in is greeted by a thread of the test, in its turn.
const GREETED_WITHIN: Duration = Duration::from_secs(20);
/// A refusal that takes longer is none: a neighbour that nobody answers for is given up after three seconds.
const QUICKLY: Duration = Duration::from_secs(2);

/// What became of a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Heard {
    Answer,
    /// At once.
    Refusal,
    Nothing,
}

type Order = Box<dyn FnOnce() + Send>;

pub(crate) struct Space {
    orders: Option<mpsc::Sender<Order>>,
    thread: Option<JoinHandle<()>>,
    fd: OwnedFd,
}

impl Space {
    pub(crate) fn new() -> Self {
        let (orders, inbox) = mpsc::channel::<Order>();
        let (opened, fd) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap_or_else(|error| panic!("this test needs root (unshare: {error})"));
            opened.send(File::open("/proc/thread-self/ns/net").unwrap().into()).unwrap();
            inbox.into_iter().for_each(|order| order());
        });
        Self { orders: Some(orders), thread: Some(thread), fd: fd.recv().unwrap() }
    }

    /// By which other programs find it.
    pub(crate) fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.fd.as_raw_fd())
    }

    /// Runs a program to its end, and returns what it printed.
    pub(crate) fn output(&self, line: &str) -> String {
        let line = line.to_owned();
        self.run(move || {
            let mut words = line.split_whitespace();
            let output = Command::new(words.next().unwrap()).args(words).output().unwrap();
            assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8(output.stdout).unwrap()
        })
    }

    /// Whose address a datagram has when it comes from `sender` to this address here.
    pub(crate) fn source_seen(&self, sender: &Self, address: IpAddr) -> Option<IpAddr> {
        let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = self.run(move || UdpSocket::bind(any).unwrap());
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let port = socket.local_addr().unwrap().port();
        // The kernel sends none again that got lost while a link came up.
        (0..5).find_map(|_| {
            sender.say((address, port), b"?");
            socket.recv_from(&mut [0; 1]).ok().map(|(_, from)| from.ip())
        })
    }

    /// Sends a datagram, also to all. Nobody is told if the node refuses it.
    pub(crate) fn say(&self, to: (IpAddr, u16), payload: &[u8]) {
        self.say_as(None, to, payload);
    }

    /// The same, under an address that the namespace has.
    pub(crate) fn say_as(&self, from: Option<IpAddr>, to: (IpAddr, u16), payload: &[u8]) {
        let payload = payload.to_vec();
        self.run(move || {
            let any = if to.0.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
            let socket = UdpSocket::bind((from.unwrap_or(any), 0)).unwrap();
            socket.set_broadcast(true).unwrap();
            drop(socket.send_to(&payload, to));
        });
    }

    pub(crate) fn fd(&self) -> OwnedFd {
        self.fd.try_clone().unwrap()
    }

    pub(crate) fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let (done, answer) = mpsc::channel();
        self.orders.as_ref().unwrap().send(Box::new(move || drop(done.send(work())))).unwrap();
        answer.recv().unwrap()
    }

    /// Answers whoever connects to these ports.
    pub(crate) fn serve_tcp(&self, ports: &[u16]) {
        for port in ports.iter().copied() {
            self.run(move || {
                let listener = TcpListener::bind(("::", port)).unwrap();
                std::thread::spawn(move || {
                    for mut stream in listener.incoming().flatten() {
                        std::thread::spawn(move || echo(&mut stream));
                    }
                });
            });
        }
    }

    /// Sends back what comes to these ports.
    pub(crate) fn serve_udp(&self, ports: &[u16]) {
        for port in ports.iter().copied() {
            self.run(move || {
                let socket = UdpSocket::bind(("::", port)).unwrap();
                std::thread::spawn(move || {
                    let mut bytes = [0; 64];
                    while let Ok((length, peer)) = socket.recv_from(&mut bytes) {
                        drop(socket.send_to(&bytes[..length], peer));
                    }
                });
            });
        }
    }

    /// Connects, and waits for the greeting. An error that was late is none of a machine that stood still for a moment, if it is
    /// late again.
    pub(crate) fn tcp(&self, address: IpAddr, port: u16) -> Heard {
        self.run(move || {
            for _ in 0..2 {
                let start = Instant::now();
                match TcpStream::connect_timeout(&SocketAddr::new(address, port), MORE_PATIENCE) {
                    Ok(mut stream) => {
                        stream.set_read_timeout(Some(GREETED_WITHIN)).unwrap();
                        return if stream.read_exact(&mut [0]).is_ok() { Heard::Answer } else { Heard::Nothing };
                    }
                    Err(error) if is_late(&error, start) => {}
                    Err(error) => return refusal(&error, start),
                }
            }
            Heard::Nothing
        })
    }

    pub(crate) fn connect(&self, address: IpAddr, port: u16) -> TcpStream {
        self.run(move || {
            let mut stream = TcpStream::connect_timeout(&SocketAddr::new(address, port), GREETED_WITHIN).unwrap();
            stream.set_read_timeout(Some(GREETED_WITHIN)).unwrap();
            stream.read_exact(&mut [0]).unwrap();
            stream
        })
    }

    pub(crate) fn udp(&self, address: IpAddr, port: u16) -> Heard {
        self.run(move || ask(&open_udp(address, port)))
    }

    pub(crate) fn open_udp(&self, address: IpAddr, port: u16) -> UdpSocket {
        self.run(move || open_udp(address, port))
    }

    /// Sends an echo request.
    pub(crate) fn ping(&self, address: IpAddr) -> Heard {
        self.run(move || ping(address))
    }

    /// Sends a frame by `eth0` as it is.
    pub(crate) fn send_frame(&self, frame: &[u8]) {
        let frame = frame.to_vec();
        self.run(move || {
            let socket = raw(AddressFamily::Packet, SockProtocol::EthAll);
            let is_eth0 = getifaddrs().unwrap().find(|one| one.interface_name == "eth0");
            let link: LinkAddr = *is_eth0.unwrap().address.unwrap().as_link_addr().unwrap();
            sendto(socket.as_raw_fd(), &frame, &link, MsgFlags::empty()).unwrap();
        });
    }

    /// Sends an IPv4 packet as it is.
    pub(crate) fn send_packet(&self, to: IpAddr, packet: &[u8]) {
        let IpAddr::V4(to) = to else { panic!("{to} is not of IPv4") };
        let packet = packet.to_vec();
        self.run(move || {
            // Of the protocol `IPPROTO_RAW`: it has its header.
            let socket = raw(AddressFamily::Inet, SockProtocol::Raw);
            let to = SockaddrIn::from(SocketAddrV4::new(to, 0));
            sendto(socket.as_raw_fd(), &packet, &to, MsgFlags::empty()).unwrap();
        });
    }

    /// Hears all frames of the namespace from now on.
    pub(crate) fn listen(&self) -> OwnedFd {
        self.run(|| raw(AddressFamily::Packet, SockProtocol::EthAll))
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

/// Asks once more on a stream that stands.
pub(crate) fn goes_on(stream: &mut TcpStream) -> Heard {
    stream.set_read_timeout(Some(TURN)).unwrap();
    let asked = stream.write_all(b"?");
    in_turns(asked, TURNS, || stream.read_exact(&mut [0]))
}

/// Asks by a socket that stands. A refusal that was late for the question before is the answer to this one.
pub(crate) fn ask(socket: &UdpSocket) -> Heard {
    socket.set_read_timeout(Some(TURN)).unwrap();
    let asked = socket.send(b"?").map(drop);
    in_turns(asked, TURNS, || socket.recv(&mut [0; 64]).map(drop))
}

/// What comes back of what was asked. A machine that stands still takes one turn, however long it does.
pub(crate) fn in_turns(asked: io::Result<()>, turns: u32, mut hear: impl FnMut() -> io::Result<()>) -> Heard {
    if asked.is_err_and(|error| !has_waited(&error)) {
        return Heard::Refusal;
    }
    for turn in 0..turns {
        match hear() {
            Ok(()) => return Heard::Answer,
            Err(error) if has_waited(&error) => {}
            Err(_) => return if TURN * turn < QUICKLY { Heard::Refusal } else { Heard::Nothing },
        }
    }
    Heard::Nothing
}

/// Whether a frame with these octets in it is heard.
pub(crate) fn hears_frame(socket: &OwnedFd, marker: &[u8]) -> bool {
    hear(socket, |frame| frame.windows(marker.len()).any(|part| part == marker).then_some(())).is_some()
}

/// Which of these are heard, each in a frame of its own.
pub(crate) fn all_heard(socket: &OwnedFd, markers: &[Vec<u8>]) -> Vec<bool> {
    let mut heard = vec![false; markers.len()];
    let is_in = |marker: &Vec<u8>, frame: &[u8]| frame.windows(marker.len()).any(|part| part == marker);
    while let Some(at) = hear(socket, |frame| markers.iter().position(|marker| is_in(marker, frame))) {
        heard[at] = true;
    }
    heard
}

/// What is made of the first frame that something can be made of.
pub(crate) fn hear<T>(socket: &OwnedFd, make: impl Fn(&[u8]) -> Option<T>) -> Option<T> {
    let start = Instant::now();
    let mut bytes = [0; 2048];
    loop {
        // What has come by then is heard, also by who was late.
        let is_over = start.elapsed() >= PATIENCE;
        match recv(socket.as_raw_fd(), &mut bytes, MsgFlags::empty()) {
            Ok(length) => {
                if let Some(made) = make(&bytes[..length]) {
                    return Some(made);
                }
            }
            Err(_) if is_over => return None,
            Err(_) => {}
        }
    }
}

fn refusal(error: &io::Error, start: Instant) -> Heard {
    if has_waited(error) || is_late(error, start) { Heard::Nothing } else { Heard::Refusal }
}

fn has_waited(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::TimedOut | ErrorKind::WouldBlock)
}

fn is_late(error: &io::Error, start: Instant) -> bool {
    !has_waited(error) && start.elapsed() >= QUICKLY
}

fn echo(stream: &mut TcpStream) {
    let mut byte = [b'!'];
    while stream.write_all(&byte).is_ok() && stream.read_exact(&mut byte).is_ok() {}
}

/// Each by a port of its own: the kernel may choose one a second time, and the question would be one more packet of a known flow.
fn open_udp(address: IpAddr, port: u16) -> UdpSocket {
    // Below those that the kernel chooses from.
    static OWN: AtomicU16 = AtomicU16::new(20_000);
    let own = OWN.fetch_add(1, Ordering::Relaxed);
    let any = if address.is_ipv4() { IpAddr::from(Ipv4Addr::UNSPECIFIED) } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, own)).unwrap();
    socket.connect((address, port)).unwrap();
    socket
}

fn raw(family: AddressFamily, protocol: SockProtocol) -> OwnedFd {
    let opened = socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol).unwrap();
    setsockopt(&opened, sockopt::ReceiveTimeout, &TimeVal::milliseconds(100)).unwrap();
    opened
}

/// Each with an identifier of its own, or it would be one more packet of a known flow.
fn ping(address: IpAddr) -> Heard {
    static COUNT: AtomicU16 = AtomicU16::new(1);
    let id = COUNT.fetch_add(1, Ordering::Relaxed);
    let [high, low] = id.to_be_bytes();
    let (socket, sent, reply) = match address {
        IpAddr::V4(v4) => {
            let socket = raw(AddressFamily::Inet, SockProtocol::Icmp);
            // The checksum of type 8, identifier and nothing else.
            let [a, b] = (!(0x0800 + id)).to_be_bytes();
            let to = SockaddrIn::from(SocketAddrV4::new(v4, 0));
            let sent = sendto(socket.as_raw_fd(), &[8, 0, a, b, high, low, 0, 0], &to, MsgFlags::empty());
            (socket, sent, (20, 0))
        }
        IpAddr::V6(v6) => {
            let socket = raw(AddressFamily::Inet6, SockProtocol::IcmpV6);
            let to = SockaddrIn6::from(SocketAddrV6::new(v6, 0, 0, 0));
            // The kernel makes the checksum.
            let sent = sendto(socket.as_raw_fd(), &[128, 0, 0, 0, high, low, 0, 0], &to, MsgFlags::empty());
            (socket, sent, (0, 129))
        }
    };
    // A node is told at once that its own rules refuse it.
    if sent == Err(Errno::EPERM) {
        return Heard::Refusal;
    }
    sent.unwrap();
    let start = Instant::now();
    let mut bytes = [0; 256];
    loop {
        let is_over = start.elapsed() >= MORE_PATIENCE;
        let Ok(length) = recv(socket.as_raw_fd(), &mut bytes, MsgFlags::empty()) else {
            if is_over {
                return Heard::Nothing;
            }
            continue;
        };
        // Destination unreachable is type 3, or 1 in IPv6.
        match bytes[..length].get(reply.0) {
            Some(kind) if *kind == reply.1 => return Heard::Answer,
            Some(3) if address.is_ipv4() => return Heard::Refusal,
            Some(1) if address.is_ipv6() => return Heard::Refusal,
            Some(_) | None => {}
        }
    }
}
