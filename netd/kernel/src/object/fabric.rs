//! The vocabulary of the fabric: tunnels of a node, their far ends, and how a range of addresses is reached. Who is a peer,
//! and which ranges are whose, is not looked at.

use std::net::{IpAddr, Ipv4Addr};

use serde::{Deserialize, Serialize};

use super::{Family, Mac, Object};

/// How packets between nodes are wrapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Encapsulation {
    /// IPv4 in IPv4 (RFC 2003, protocol 4). It carries nothing else, over nothing else.
    Ipip,
    /// Ethernet in UDP (RFC 7348). It carries and is carried by both versions.
    Vxlan,
}

impl Encapsulation {
    /// Octets that it adds to a packet: so much less fits than into the path to the peer.
    #[must_use]
    pub const fn overhead(self, underlay: Family) -> u32 {
        match (self, underlay) {
            (Self::Ipip, _) => 20,
            (Self::Vxlan, Family::V4) => 50,
            (Self::Vxlan, Family::V6) => 70,
        }
    }
}

/// UDP port of VXLAN (IANA). To it, no sandbox sends a peer anything.
pub const VXLAN_PORT: u16 = 4_789;

/// Where encapsulated packets come to: an address of the node and, for VXLAN, its UDP port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Entrance {
    /// Of protocol 4.
    Ipip(Ipv4Addr),
    /// Of UDP.
    Vxlan(IpAddr, u16),
}

impl Entrance {
    /// Which encapsulation it is of.
    #[must_use]
    pub const fn encapsulation(self) -> Encapsulation {
        match self {
            Self::Ipip(_) => Encapsulation::Ipip,
            Self::Vxlan(..) => Encapsulation::Vxlan,
        }
    }

    /// Of the node.
    #[must_use]
    pub const fn address(self) -> IpAddr {
        match self {
            Self::Ipip(address) => IpAddr::V4(address),
            Self::Vxlan(address, _) => address,
        }
    }
}

/// A tunnel device. It leads to every peer: which one, routes say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tunnel {
    /// Also the address that it sends from.
    pub entrance: Entrance,
    /// Octets of a packet that is carried.
    pub mtu: u32,
    /// Of the node, each alone in its prefix, in order: what the node itself sends by the tunnel, it sends from there.
    pub addresses: Vec<IpAddr>,
}

/// How a range of addresses is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Hop {
    /// By a peer on a link of this node, unwrapped. IPv4 may go by an IPv6 address, not the other way round.
    Direct(IpAddr),
    /// By the tunnel to this peer. IPv4 only.
    Ipip(Ipv4Addr),
    /// By the tunnel to this peer, which has its [`super::Key::FarEnd`].
    Vxlan(IpAddr),
    /// Not at all: it is refused, where the default route would carry it away.
    Nowhere,
}

impl Hop {
    /// The tunnel that it goes by.
    #[must_use]
    pub const fn encapsulation(self) -> Option<Encapsulation> {
        match self {
            Self::Ipip(_) => Some(Encapsulation::Ipip),
            Self::Vxlan(_) => Some(Encapsulation::Vxlan),
            Self::Direct(_) | Self::Nowhere => None,
        }
    }

    /// Whether it can carry packets of this family.
    #[must_use]
    pub const fn carries(self, family: Family) -> bool {
        match (self, family) {
            (Self::Ipip(_) | Self::Direct(IpAddr::V4(_)), Family::V6) => false,
            (Self::Ipip(_) | Self::Direct(_) | Self::Vxlan(_) | Self::Nowhere, _) => true,
        }
    }
}

/// A route to a range of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct NextHop {
    /// Where packets go.
    pub hop: Hop,
    /// Octets of the largest packet that passes, where a link on the way to this peer is narrower than the one by which it begins:
    /// what is larger is cut up, or its sender is told (`ip_dst_mtu_maybe_forward`, include/net/ip.h).
    pub mtu: Option<u32>,
}

impl From<Hop> for Object {
    fn from(hop: Hop) -> Self {
        Self::NextHop(NextHop { hop, mtu: None })
    }
}

/// The MAC of a node's end of the VXLAN tunnel. Both ends make it of the node's address, so that nobody has to tell it.
#[must_use]
pub fn mac_of_end(node: IpAddr) -> Mac {
    match node {
        IpAddr::V4(v4) => {
            let [a, b, c, d] = v4.octets();
            [0x02, 0x6e, a, b, c, d]
        }
        IpAddr::V6(v6) => {
            // FNV-1a. The second lowest bit says that nobody was given it, the lowest that it is one station's (IEEE 802, 8.4).
            let hash = v6
                .octets()
                .iter()
                .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
            let [.., a, b, c, d, e, f] = hash.to_be_bytes();
            [a & 0xfc | 0x02, b, c, d, e, f]
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::mac_of_end;

    /// Nodes of different versions of netd must agree.
    #[test]
    fn the_mac_of_an_end_never_changes() {
        assert_eq!(mac_of_end("192.0.2.1".parse().unwrap()), [0x02, 0x6e, 192, 0, 2, 1]);
        assert_eq!(mac_of_end("2001:db8::1".parse().unwrap()), [98, 183, 163, 190, 28, 20]);
    }

    #[test]
    fn ends_are_told_apart() {
        let low = |text: &str| (0..=255).map(|last| format!("{text}{last:x}").parse().unwrap()).collect::<Vec<_>>();
        let macs: BTreeSet<_> = low("2001:db8::").into_iter().chain(low("2001:db8:1::")).map(mac_of_end).collect();
        assert_eq!(macs.len(), 512);
        assert!(macs.iter().all(|mac| mac[0] & 3 == 2), "{macs:?}");
    }
}
