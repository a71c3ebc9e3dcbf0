//! Traffic: protocols, ports and ICMP types as numbers. Who sends it is `world.rs`.

use std::net::IpAddr;

/// IP protocol numbers (IANA).
pub const ICMP: u8 = 1;
/// TCP.
pub const TCP: u8 = 6;
/// UDP.
pub const UDP: u8 = 17;
/// ICMP for IPv6.
pub const ICMPV6: u8 = 58;
/// SCTP.
pub const SCTP: u8 = 132;

/// A protocol that has ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// Its number.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => TCP,
            Self::Udp => UDP,
            Self::Sctp => SCTP,
        }
    }
}

/// The two directions, as the subject sees them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    /// To the subject.
    Ingress,
    /// From the subject.
    Egress,
}

/// What is sent: the protocol's number, and the destination port.
/// ICMP has its type and code in the port's place (`type << 8 | code`), every other protocol 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Traffic {
    /// IP protocol number.
    pub protocol: u8,
    /// Destination port, or ICMP type and code.
    pub port: u16,
}

/// A connection's first packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Flow {
    /// Source.
    pub from: IpAddr,
    /// Destination.
    pub to: IpAddr,
    /// What is sent.
    pub traffic: Traffic,
}

impl Traffic {
    /// To a port.
    #[must_use]
    pub fn to(protocol: Protocol, port: u16) -> Self {
        Self { protocol: protocol.number(), port }
    }

    /// ICMP (`protocol` is [`ICMP`] or [`ICMPV6`]).
    #[must_use]
    pub fn icmp(protocol: u8, kind: u8, code: u8) -> Self {
        Self { protocol, port: u16::from_be_bytes([kind, code]) }
    }

    /// Multicast listeners and neighbour discovery (RFC 4861, RFC 3810): without these IPv6 has no link, so no policy
    /// is asked. The spoof guard is.
    #[must_use]
    pub fn keeps_link(self) -> bool {
        self.protocol == ICMPV6 && matches!(self.port.to_be_bytes()[0], 130..=137 | 143)
    }
}
