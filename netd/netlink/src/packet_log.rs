//! Packets that a rule logs (linux/netfilter/nfnetlink_log.h): who sent what to whom, and the words of the rule. Why a rule
//! stands is the reader's business.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use nix::errno::Errno;
use nix::sys::socket::{setsockopt, sockopt};

use crate::answer::{Answer, answers};
use crate::attributes::{Attributes, attribute};
use crate::nft::Request;
use crate::socket::{NetlinkError, Socket};

/// `NFNL_SUBSYS_ULOG`, in the upper octet of a message's type.
const LOG: u16 = 4 << 8;
const CONFIGURE: u16 = LOG | 1;
/// Octets of a packet that are copied: both headers, with IPv6's usual extensions.
const COPIED: u32 = 128;
/// How long the kernel gathers packets for one datagram (hundredths of a second); unasked, a whole second.
const GATHERED: u32 = 10;
/// Room for a burst (octets).
const RECEIVE_BUFFER: usize = 1 << 20;
const HEADERS: usize = 20;

/// One packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoggedPacket {
    /// The rule's words.
    pub prefix: String,
    /// Index of the link that it came in by; 0 where the node itself sent it.
    pub input: u32,
    /// Who sent it.
    pub source: IpAddr,
    /// To whom.
    pub destination: IpAddr,
    /// IP protocol number.
    pub protocol: u8,
    /// TCP, UDP and SCTP: source and destination port. ICMP: type and code. `None` where the packet has neither.
    pub ports: Option<(u16, u16)>,
}

/// A socket that never blocks and hears what is logged to one group, in the namespace that it was opened in.
#[derive(Debug)]
pub struct PacketLog {
    socket: Socket,
}

impl PacketLog {
    /// Listens from now on. A group has one listener.
    ///
    /// # Errors
    /// `EPERM`: somebody else listens to this group.
    pub fn open(group: u16) -> io::Result<Self> {
        let mut socket = Socket::open_netfilter()?;
        setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER)
            .or_else(|_| setsockopt(&socket, sockopt::RcvBuf, &RECEIVE_BUFFER))?;
        for request in [bind(group), copy(group), gather(group)] {
            socket.command(&request).map_err(refusal)?;
        }
        socket.set_non_blocking()?;
        Ok(Self { socket })
    }

    /// The packets of one datagram. What the kernel had no room for is missing.
    ///
    /// # Errors
    /// `WouldBlock`: nothing was logged since. Any other is the socket's end.
    pub fn receive(&self) -> io::Result<Vec<LoggedPacket>> {
        match self.socket.datagram() {
            Ok(datagram) => Ok(answers(&datagram).iter().filter_map(LoggedPacket::read).collect()),
            Err(error) if error.raw_os_error() == Some(Errno::ENOBUFS as i32) => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }
}

impl AsRawFd for PacketLog {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

impl AsFd for PacketLog {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn refusal(error: NetlinkError) -> io::Error {
    match error {
        NetlinkError::Refused { source, .. } | NetlinkError::Socket { source, .. } => source,
        NetlinkError::Restless => io::ErrorKind::Interrupted.into(),
    }
}

fn bind(group: u16) -> Request {
    const COMMAND: u16 = 1;
    const BIND: u8 = 1;
    configure(group, Attributes::new().bytes(COMMAND, &[BIND]))
}

/// `struct nfulnl_msg_config_mode`: range, mode, padding.
fn copy(group: u16) -> Request {
    const MODE: u16 = 2;
    const PACKET: u8 = 2;
    let [a, b, c, d] = COPIED.to_be_bytes();
    configure(group, Attributes::new().bytes(MODE, &[a, b, c, d, PACKET, 0]))
}

fn gather(group: u16) -> Request {
    const TIMEOUT: u16 = 4;
    configure(group, Attributes::new().bytes(TIMEOUT, &GATHERED.to_be_bytes()))
}

fn configure(group: u16, body: Attributes) -> Request {
    Request { kind: CONFIGURE, flags: 0, family: 0, resource: group, body }
}

impl LoggedPacket {
    /// Reads any message of the kernel's; `None`: it logs no packet, or none that can be read.
    #[must_use]
    pub fn read(answer: &Answer) -> Option<Self> {
        const INPUT: u16 = 4;
        const PAYLOAD: u16 = 9;
        const PREFIX: u16 = 10;
        let Answer::Object { message, .. } = answer else { return None };
        if u16::from_ne_bytes(*message.get(4..)?.first_chunk()?) != LOG {
            return None;
        }
        let body = message.get(HEADERS..)?;
        let text =
            |value: &[u8]| String::from_utf8_lossy(value.split(|byte| *byte == 0).next().unwrap_or_default()).into();
        let link = attribute(body, INPUT).and_then(|value| value.first_chunk().copied()).map_or(0, u32::from_be_bytes);
        let read = headers(attribute(body, PAYLOAD)?)?;
        Some(Self { prefix: attribute(body, PREFIX).map_or_else(String::new, text), input: link, ..read })
    }
}

fn headers(packet: &[u8]) -> Option<LoggedPacket> {
    match packet.first()? >> 4 {
        4 => version4(packet),
        6 => version6(packet),
        _ => None,
    }
}

fn version4(packet: &[u8]) -> Option<LoggedPacket> {
    let address = |at: usize| Some(IpAddr::from(*packet.get(at..)?.first_chunk::<4>()?));
    let (protocol, length) = (*packet.get(9)?, usize::from(packet.first()? & 0xf) * 4);
    // Only the first fragment has the transport's header.
    let is_first = u16::from_be_bytes(*packet.get(6..)?.first_chunk()?) & 0x1fff == 0;
    let ports = packet.get(length..).filter(|_| is_first).and_then(|rest| ports(protocol, rest));
    Some(told(address(12)?, address(16)?, protocol, ports))
}

fn version6(packet: &[u8]) -> Option<LoggedPacket> {
    let address = |at: usize| Some(IpAddr::from(*packet.get(at..)?.first_chunk::<16>()?));
    let (mut protocol, mut at) = (*packet.get(6)?, 40);
    // Hop-by-hop, routing, fragment and destination options (RFC 8200, 4.1) stand before the transport.
    while matches!(protocol, 0 | 43 | 44 | 60) {
        let Some([next, length]) = packet.get(at..).and_then(<[u8]>::first_chunk) else { break };
        at += if protocol == 44 { 8 } else { (usize::from(*length) + 1) * 8 };
        protocol = *next;
    }
    Some(told(address(8)?, address(24)?, protocol, packet.get(at..).and_then(|rest| ports(protocol, rest))))
}

fn told(source: IpAddr, destination: IpAddr, protocol: u8, ports: Option<(u16, u16)>) -> LoggedPacket {
    LoggedPacket { prefix: String::new(), input: 0, source, destination, protocol, ports }
}

fn ports(protocol: u8, transport: &[u8]) -> Option<(u16, u16)> {
    const ICMP: [u8; 2] = [1, 58];
    const WITH_PORTS: [u8; 5] = [6, 17, 33, 132, 136];
    if ICMP.contains(&protocol) {
        let [kind, code] = *transport.first_chunk()?;
        return Some((kind.into(), code.into()));
    }
    let [a, b, c, d] = *transport.first_chunk::<4>()?;
    WITH_PORTS.contains(&protocol).then_some((u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])))
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use proptest::prelude::*;

    use super::{LoggedPacket, headers};

    fn v4(protocol: u8, fragment: u16, transport: &[u8]) -> Vec<u8> {
        let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
        packet[6..8].copy_from_slice(&fragment.to_be_bytes());
        packet.extend(transport);
        packet
    }

    fn v6(next: u8, rest: &[u8]) -> Vec<u8> {
        let mut packet = vec![0x60, 0, 0, 0, 0, 0, next, 64];
        packet.extend([[0xfd_u8; 16], [0xfe; 16]].concat());
        packet.extend(rest);
        packet
    }

    fn read(packet: &[u8]) -> (u8, Option<(u16, u16)>) {
        headers(packet).map(|read| (read.protocol, read.ports)).unwrap()
    }

    #[test]
    fn the_ends_of_a_packet_are_read() {
        let LoggedPacket { source, destination, ports, .. } = headers(&v4(6, 0, &[0x9c, 0x40, 0, 80])).unwrap();
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        assert_eq!((source, destination, ports), (address("10.0.0.1"), address("10.0.0.2"), Some((40_000, 80))));
        assert_eq!(read(&v4(1, 0, &[8, 0, 1, 2])), (1, Some((8, 0))));
        assert_eq!(read(&v4(17, 1, &[0, 53, 0, 53])), (17, None));
        assert_eq!(read(&v4(47, 0, &[0, 53, 0, 53])), (47, None));
        assert_eq!(read(&v4(6, 0, &[0])), (6, None));
    }

    #[test]
    fn extension_headers_stand_before_the_transport() {
        assert_eq!(read(&v6(17, &[0, 53, 0, 54])), (17, Some((53, 54))));
        let options = [17, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(read(&v6(0, &[&options[..], &[0, 53, 0, 54]].concat())), (17, Some((53, 54))));
        assert_eq!(read(&v6(44, &[58, 255, 0, 0, 0, 0, 0, 0, 128, 0])), (58, Some((128, 0))));
    }

    proptest! {
        #[test]
        fn any_bytes_are_safe(bytes in prop::collection::vec(any::<u8>(), 0..128)) {
            drop(headers(&bytes));
        }
    }
}
