//! Conntrack over netlink (linux/netfilter/nfnetlink_conntrack.h): reads flows, and forgets them by themselves, by address or
//! by port.

use std::net::IpAddr;

use crate::attributes::{Attributes, attribute};
use crate::nft::Request;

const GET: u16 = (1 << 8) | 1;
const DELETE: u16 = (1 << 8) | 2;
const ORIGINAL: u16 = 1;
const REPLY: u16 = 2;
const FILTER: u16 = 25;

/// Which end of which direction of a connection is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Who opened it.
    Opener,
    /// Who answers: of a published port, the sandbox.
    Answerer,
}

/// Forgets all connections that `address` opened, or answers. Needs a kernel that deletes by `CTA_FILTER`; an older one, such
/// as 6.1, refuses it (`EINVAL` or `EOPNOTSUPP`) and forgets nothing: there [`list`] and [`forget_one`] do it.
#[must_use]
pub fn forget(address: IpAddr, end: End) -> Request {
    const FILTER_SOURCE: u32 = 1;
    let (family, source) = match address {
        IpAddr::V4(v4) => (2, Attributes::new().bytes(1, &v4.octets())),
        IpAddr::V6(v6) => (10, Attributes::new().bytes(3, &v6.octets())),
    };
    // The source of the opener's direction, or of the answers.
    let (tuple, flags) = match end {
        End::Opener => (ORIGINAL, 1),
        End::Answerer => (REPLY, 2),
    };
    let filter = Attributes::new().bytes(flags, &FILTER_SOURCE.to_ne_bytes());
    let body = Attributes::new().nested(tuple, &Attributes::new().nested(1, &source)).nested(FILTER, &filter);
    Request { kind: DELETE, flags: 0, family, resource: 0, body }
}

/// Forgets all connections to a UDP port, by IPv4 and by IPv6.
#[must_use]
pub fn forget_udp_port(port: u16) -> [Request; 2] {
    const UDP: u8 = 17;
    const FILTER_PROTOCOL: u32 = 1 << 3;
    const FILTER_DESTINATION_PORT: u32 = 1 << 5;
    let protocol = Attributes::new().bytes(1, &[UDP]).bytes(3, &port.to_be_bytes());
    let filter = Attributes::new().bytes(1, &(FILTER_PROTOCOL | FILTER_DESTINATION_PORT).to_ne_bytes());
    let body = Attributes::new().nested(ORIGINAL, &Attributes::new().nested(2, &protocol)).nested(FILTER, &filter);
    [2, 10].map(|family| Request { kind: DELETE, flags: 0, family, resource: 0, body: body.clone() })
}

/// Asks for the connections that `request` would forget (Linux 5.8).
#[must_use]
pub fn list(request: &Request) -> Request {
    Request { kind: GET, ..request.clone() }
}

/// Forgets one connection of the answer to [`list`], unless it has ended and another has its addresses. `body` follows the
/// netfilter header.
#[must_use]
pub fn forget_one(request: &Request, body: &[u8]) -> Option<Request> {
    const ID: u16 = 12;
    const ZONE: u16 = 18;
    let mut one = Attributes::new().nested_bytes(ORIGINAL, attribute(body, ORIGINAL)?).bytes(ID, attribute(body, ID)?);
    if let Some(zone) = attribute(body, ZONE) {
        one = one.bytes(ZONE, zone);
    }
    Some(Request { kind: DELETE, body: one, ..*request })
}

/// One direction of a flow. ICMP's ports are its identifier at the source, and its type times 256 and its code at the
/// destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tuple {
    /// IP's number of the protocol.
    pub protocol: u8,
    /// Who sends it.
    pub source: (IpAddr, u16),
    /// Who gets it.
    pub destination: (IpAddr, u16),
}

/// Where a tuple has its protocol's ports: the attributes of source and destination, or identifier, type and code.
enum Ports {
    Two(u16, u16),
    Icmp(u16, u16, u16),
}

fn ports(protocol: u8) -> Ports {
    match protocol {
        1 => Ports::Icmp(4, 5, 6),
        58 => Ports::Icmp(7, 8, 9),
        _ => Ports::Two(2, 3),
    }
}

/// Asks for all flows of both versions; each is read by [`read`].
#[must_use]
pub fn all() -> Request {
    Request { kind: GET, flags: 0, family: 0, resource: 0, body: Attributes::new() }
}

/// Asks for all flows of the address' version; each is read by [`read`].
#[must_use]
pub fn all_of(address: IpAddr) -> Request {
    Request { family: if address.is_ipv4() { 2 } else { 10 }, ..all() }
}

/// A flow in the answer to [`all`]: as it was opened, and as it is answered. `body` follows the netfilter header.
#[must_use]
pub fn read(body: &[u8]) -> Option<(Tuple, Tuple)> {
    Some((read_tuple(attribute(body, ORIGINAL)?)?, read_tuple(attribute(body, REPLY)?)?))
}

fn read_tuple(bytes: &[u8]) -> Option<Tuple> {
    let (addresses, transport) = (attribute(bytes, 1)?, attribute(bytes, 2)?);
    let address = |v4: u16, v6: u16| {
        let octets = |kind| attribute(addresses, kind);
        let of_v4 = octets(v4).and_then(|octets| octets.first_chunk::<4>()).map(|octets| IpAddr::from(*octets));
        of_v4.or_else(|| octets(v6)?.first_chunk::<16>().map(|octets| IpAddr::from(*octets)))
    };
    let number =
        |kind| attribute(transport, kind).and_then(|octets| octets.first_chunk()).map(|two| u16::from_be_bytes(*two));
    let octet = |kind| attribute(transport, kind).and_then(|octets| octets.first()).copied();
    let protocol = octet(1)?;
    let (from, to) = match ports(protocol) {
        Ports::Two(source, destination) => (number(source), number(destination)),
        Ports::Icmp(id, kind, code) => {
            (number(id), octet(kind).zip(octet(code)).map(|pair| u16::from_be_bytes(pair.into())))
        }
    };
    Some(Tuple {
        protocol,
        source: (address(1, 3)?, from.unwrap_or_default()),
        destination: (address(2, 4)?, to.unwrap_or_default()),
    })
}

/// Forgets one flow, named by how it was opened.
#[must_use]
pub fn forget_flow(opened: &Tuple) -> Request {
    let end = |list: Attributes, address: IpAddr, v4, v6| match address {
        IpAddr::V4(address) => list.bytes(v4, &address.octets()),
        IpAddr::V6(address) => list.bytes(v6, &address.octets()),
    };
    let addresses = end(end(Attributes::new(), opened.source.0, 1, 3), opened.destination.0, 2, 4);
    let protocol = Attributes::new().bytes(1, &[opened.protocol]);
    let (from, to) = (opened.source.1.to_be_bytes(), opened.destination.1.to_be_bytes());
    let transport = match ports(opened.protocol) {
        Ports::Two(source, destination) => protocol.bytes(source, &from).bytes(destination, &to),
        Ports::Icmp(id, kind, code) => protocol.bytes(id, &from).bytes(kind, &to[..1]).bytes(code, &to[1..]),
    };
    let tuple = Attributes::new().nested(1, &addresses).nested(2, &transport);
    let family = if opened.source.0.is_ipv4() { 2 } else { 10 };
    Request { kind: DELETE, flags: 0, family, resource: 0, body: Attributes::new().nested(ORIGINAL, &tuple) }
}
