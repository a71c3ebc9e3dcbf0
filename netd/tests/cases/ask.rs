//! One probe as a real packet, and what became of it. Who answers has got it: all ports of the table are served everywhere.

use std::io::{self, ErrorKind, Read};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, bind, connect, recv, sendto,
    setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

use crate::net::Net;
use crate::probes::Probe;
pub(crate) use crate::space::Heard;

/// After so long, nothing is heard any more.
const PATIENCE: Duration = Duration::from_secs(1);

/// A packet of a flow that was is known, and passes: each probe of a protocol has a source port, or identifier, of its own.
struct Numbers(AtomicU16);

static OF_TCP: Numbers = Numbers(AtomicU16::new(10_000));
static OF_UDP: Numbers = Numbers(AtomicU16::new(10_000));
static OF_ICMP: Numbers = Numbers(AtomicU16::new(10_000));

impl Numbers {
    fn fresh(&self) -> u16 {
        let number = self.0.fetch_add(1, Ordering::Relaxed);
        assert!((10_000..65_000).contains(&number), "no numbers left");
        number
    }
}

/// Sends it from where it comes.
pub(crate) fn ask(net: &Net, probe: &Probe) -> Heard {
    let (from, to) = (probe.flow.from, probe.flow.to);
    let by = |numbers: &Numbers| SocketAddr::new(from, numbers.fresh());
    let (protocol, port) = probe.traffic.split_once('/').unwrap_or((probe.traffic, "0"));
    let port: u16 = port.parse().unwrap();
    let asked = match protocol {
        "tcp" => {
            let from = by(&OF_TCP);
            net.space(&probe.from).run(move || tcp(from, SocketAddr::new(to, port)))
        }
        "udp" => {
            let from = by(&OF_UDP);
            net.space(&probe.from).run(move || udp(from, SocketAddr::new(to, port)))
        }
        "ping" => {
            let id = OF_ICMP.fresh();
            net.space(&probe.from).run(move || ping(from, to, id))
        }
        other => panic!("nobody answers {other}"),
    };
    match asked {
        Ok(()) => Heard::Answer,
        Err(error) if matches!(error.kind(), ErrorKind::TimedOut | ErrorKind::WouldBlock) => Heard::Nothing,
        Err(_) => Heard::Refusal,
    }
}

fn opened(at: IpAddr, kind: SockType, protocol: Option<SockProtocol>) -> OwnedFd {
    let family = if at.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let opened = socket(family, kind, SockFlag::SOCK_CLOEXEC, protocol).unwrap();
    setsockopt(&opened, sockopt::ReceiveTimeout, &TimeVal::seconds(1)).unwrap();
    setsockopt(&opened, sockopt::SendTimeout, &TimeVal::seconds(1)).unwrap();
    opened
}

/// Whoever takes the connection greets.
fn tcp(from: SocketAddr, to: SocketAddr) -> io::Result<()> {
    let opened = opened(from.ip(), SockType::Stream, None);
    bind(opened.as_raw_fd(), &SockaddrStorage::from(from))?;
    let connected = connect(opened.as_raw_fd(), &SockaddrStorage::from(to));
    connected.map_err(
        |error| if error == Errno::EINPROGRESS { ErrorKind::TimedOut.into() } else { io::Error::from(error) },
    )?;
    TcpStream::from(opened).read_exact(&mut [0])
}

fn udp(from: SocketAddr, to: SocketAddr) -> io::Result<()> {
    let socket = UdpSocket::bind(from)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.connect(to)?;
    socket.send(b"?")?;
    socket.recv(&mut [0; 8]).map(drop)
}

fn ping(from: IpAddr, to: IpAddr, id: u16) -> io::Result<()> {
    let protocol = if from.is_ipv4() { SockProtocol::Icmp } else { SockProtocol::IcmpV6 };
    let opened = opened(from, SockType::Raw, Some(protocol));
    bind(opened.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(from, 0)))?;
    let [high, low] = id.to_be_bytes();
    // The checksum of type 8, identifier and nothing else; the kernel makes that of IPv6.
    let [a, b] = (!(0x0800 + id)).to_be_bytes();
    let request = if from.is_ipv4() { [8, 0, a, b, high, low, 0, 0] } else { [128, 0, 0, 0, high, low, 0, 0] };
    sendto(opened.as_raw_fd(), &request, &SockaddrStorage::from(SocketAddr::new(to, 0)), MsgFlags::empty())?;
    let start = Instant::now();
    let mut bytes = [0; 256];
    while start.elapsed() < PATIENCE {
        let length = recv(opened.as_raw_fd(), &mut bytes, MsgFlags::empty())?;
        match heard(&bytes[..length], from.is_ipv4(), [high, low]) {
            Some(true) => return Ok(()),
            Some(false) => return Err(ErrorKind::PermissionDenied.into()),
            None => {}
        }
    }
    Err(ErrorKind::TimedOut.into())
}

/// The reply to this request, or its refusal, which quotes it behind an IP header.
fn heard(packet: &[u8], is_v4: bool, id: [u8; 2]) -> Option<bool> {
    let (outer, inner, reply, unreachable) = if is_v4 { (20, 20, 0, 3) } else { (0, 40, 129, 1) };
    let message = packet.get(outer..)?;
    let at = |place: usize| message.get(place..place + 2);
    match *message.first()? {
        kind if kind == reply => (at(4)? == id).then_some(true),
        kind if kind == unreachable => (at(8 + inner + 4)? == id).then_some(false),
        _ => None,
    }
}
