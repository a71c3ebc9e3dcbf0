//! Conntrack over netlink (linux/netfilter/nfnetlink_conntrack.h): forgets the connections of an address.

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
