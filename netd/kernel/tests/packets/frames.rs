//! Frames and packets, octet by octet.

use std::net::IpAddr;

use netd_kernel::Mac;

pub(crate) const IPIP: u8 = 4;
const TCP: u8 = 6;
const UDP: u8 = 17;
pub(crate) const ICMPV6: u8 = 58;
/// For the destination (RFC 8200): another header follows.
pub(crate) const OPTIONS: u8 = 60;

pub(crate) fn ethernet(to: Mac, from: Mac, protocol: u16, payload: &[u8]) -> Vec<u8> {
    [&to[..], &from[..], &protocol.to_be_bytes()[..], payload].concat()
}

/// A packet in its frame.
pub(crate) fn framed(to: Mac, from: Mac, packet: &[u8]) -> Vec<u8> {
    ethernet(to, from, if packet[0] >> 4 == 4 { 0x0800 } else { 0x86dd }, packet)
}

pub(crate) fn ipv4(from: [u8; 4], to: [u8; 4], protocol: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(20 + payload.len()).unwrap().to_be_bytes();
    let mut header = vec![0x45, 0, length[0], length[1], 0, 0, 0, 0, 64, protocol, 0, 0];
    header.extend([from, to].concat());
    let sum = checksum(&header);
    header[10..12].copy_from_slice(&sum);
    [&header[..], payload].concat()
}

pub(crate) fn ipv6(from: [u8; 16], to: [u8; 16], protocol: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).unwrap().to_be_bytes();
    [&[0x60, 0, 0, 0, length[0], length[1], protocol, 255][..], &from, &to, payload].concat()
}

pub(crate) fn ip(from: IpAddr, to: IpAddr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => ipv4(from.octets(), to.octets(), protocol, payload),
        (IpAddr::V6(from), IpAddr::V6(to)) => ipv6(from.octets(), to.octets(), protocol, payload),
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => {
            panic!("{from} is of another version than {to}")
        }
    }
}

/// A packet of this protocol behind options that say nothing (RFC 8200, 4.6), as [`OPTIONS`] have it.
pub(crate) fn behind_options(protocol: u8, payload: &[u8]) -> Vec<u8> {
    [&[protocol, 0, 1, 4, 0, 0, 0, 0][..], payload].concat()
}

pub(crate) fn udp(from: u16, to: u16, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(8 + payload.len()).unwrap();
    [&from.to_be_bytes()[..], &to.to_be_bytes(), &length.to_be_bytes(), &[0, 0], payload].concat()
}

/// A packet of UDP, with its checksum.
pub(crate) fn datagram(from: (IpAddr, u16), to: (IpAddr, u16), payload: &[u8]) -> Vec<u8> {
    let mut body = udp(from.1, to.1, payload);
    let sum = checksum(&[pseudo_header(from.0, to.0, UDP, body.len()), body.clone()].concat());
    body[6..8].copy_from_slice(&sum);
    ip(from.0, to.0, UDP, &body)
}

/// A packet of ICMPv6, with its checksum.
pub(crate) fn icmpv6(from: IpAddr, to: IpAddr, body: &[u8]) -> Vec<u8> {
    let mut body = body.to_vec();
    let sum = checksum(&[pseudo_header(from, to, ICMPV6, body.len()), body.clone()].concat());
    body[2..4].copy_from_slice(&sum);
    ip(from, to, ICMPV6, &body)
}

/// A packet with a text.
pub(crate) fn message(from: IpAddr, to: IpAddr, text: &[u8]) -> Vec<u8> {
    datagram((from, 9), (to, 9), text)
}

/// What UDP carries of a VXLAN packet (RFC 7348, 5).
pub(crate) fn vxlan(identifier: u32, frame: &[u8]) -> Vec<u8> {
    [&[8, 0, 0, 0][..], &(identifier << 8).to_be_bytes(), frame].concat()
}

/// A TCP packet that opens a connection and announces this segment size.
pub(crate) fn opening(from: (IpAddr, u16), to: (IpAddr, u16), segment: u16) -> Vec<u8> {
    let [ports, sequence] = [[from.1.to_be_bytes(), to.1.to_be_bytes()].concat(), vec![0, 0, 0, 1, 0, 0, 0, 0]];
    let option = [&[2, 4][..], &segment.to_be_bytes()].concat();
    let mut header = [ports, sequence, vec![6 << 4, 2, 0xff, 0xff, 0, 0, 0, 0], option].concat();
    let sum = checksum(&[pseudo_header(from.0, to.0, TCP, header.len()), header.clone()].concat());
    header[16..18].copy_from_slice(&sum);
    ip(from.0, to.0, TCP, &header)
}

/// The segment size that a TCP packet of the port announces, and whether it is an answer.
pub(crate) fn segment_of(packet: &[u8], port: u16) -> Option<(u16, bool)> {
    const SYN: u8 = 2;
    const ACK: u8 = 16;
    let (protocol, header) = if packet.first()? >> 4 == 4 { (packet.get(9)?, 20) } else { (packet.get(6)?, 40) };
    let tcp = packet.get(header..).filter(|_| *protocol == TCP)?;
    let is_of = tcp.get(..4)?.chunks(2).any(|end| end == port.to_be_bytes());
    let flags = tcp.get(13).filter(|flags| *flags & SYN != 0 && is_of)?;
    let size = tcp.get(20..24)?.strip_prefix(&[2, 4])?;
    Some((u16::from_be_bytes(*size.first_chunk()?), flags & ACK != 0))
}

fn pseudo_header(from: IpAddr, to: IpAddr, protocol: u8, length: usize) -> Vec<u8> {
    let octets = |address: IpAddr| match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    let [high, low] = u16::try_from(length).unwrap().to_be_bytes();
    [octets(from), octets(to), vec![0, protocol, high, low]].concat()
}

/// Of the internet (RFC 1071).
fn checksum(octets: &[u8]) -> [u8; 2] {
    let sum: u32 = octets.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    (!u16::try_from((folded & 0xffff) + (folded >> 16)).unwrap()).to_be_bytes()
}
