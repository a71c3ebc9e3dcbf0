//! Conntrack over netlink (linux/netfilter/nfnetlink_conntrack.h): forgets the connections of an address.

use std::net::IpAddr;

use crate::attributes::Attributes;
use crate::nft::Request;

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

/// Forgets all connections that `address` opened, or answers. Needs a kernel that deletes by
/// `CTA_FILTER`; an older one refuses it (`EINVAL` or `EOPNOTSUPP`) and forgets nothing.
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
