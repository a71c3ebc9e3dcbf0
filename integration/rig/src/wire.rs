//! What passes on the underlay's wires, unpacked: how a packet travels between nodes, and whose addresses it has inside. IPv4
//! only, and only what has a use here; anything else is passed over.

use std::fmt;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, socket};

use crate::Place;

/// Longer than any frame here.
const FRAME: usize = 65_536;
const ETHERNET: usize = 14;
const IPV4: [u8; 2] = [8, 0];
const VXLAN_PORT: [u8; 2] = 4_789_u16.to_be_bytes();
const VXLAN: usize = 8;
const UDP: usize = 8;

/// How a packet travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wrapping {
    /// As it is.
    Direct,
    /// In IP, protocol 4.
    Ipip,
    /// In VXLAN, UDP port 4789.
    Vxlan,
}

/// One packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Seen {
    /// How it travels.
    pub wrapping: Wrapping,
    /// Who sends it: the innermost address.
    pub from: Ipv4Addr,
    /// Who gets it: the innermost address.
    pub to: Ipv4Addr,
    /// The innermost protocol's number: 1 ICMP, 6 TCP, 17 UDP.
    pub protocol: u8,
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let wrapping = match self.wrapping {
            Wrapping::Direct => "as it is",
            Wrapping::Ipip => "in IP (protocol 4)",
            Wrapping::Vxlan => "in VXLAN",
        };
        write!(f, "{} > {}, {wrapping}", self.from, self.to)
    }
}

/// Listens to everything on all links of a place, from now on.
#[derive(Debug)]
pub struct Wire(OwnedFd);

impl Wire {
    /// Of this place.
    ///
    /// # Errors
    /// The place cannot be entered.
    pub fn of(place: &Place) -> Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let open = || socket(AddressFamily::Packet, SockType::Raw, flags, SockProtocol::EthAll);
        Ok(Self(place.run(open)?.context("cannot listen to the wire")?))
    }

    /// What has passed since it was asked last, once for each link that it passed.
    ///
    /// # Errors
    /// The kernel's.
    pub fn seen(&self) -> Result<Vec<Seen>> {
        let (mut frame, mut seen) = (vec![0; FRAME], Vec::new());
        loop {
            match recv(self.0.as_raw_fd(), &mut frame, MsgFlags::empty()) {
                Ok(length) => seen.extend(frame.get(..length).and_then(unpack)),
                Err(Errno::EAGAIN) => return Ok(seen),
                Err(error) => return Err(error).context("cannot read from the wire"),
            }
        }
    }
}

fn unpack(frame: &[u8]) -> Option<Seen> {
    let packet = in_ethernet(frame)?;
    let (outer, payload) = in_ipv4(packet)?;
    match outer.protocol {
        4 => in_ipv4(payload).map(|(inner, _)| Seen { wrapping: Wrapping::Ipip, ..inner }),
        17 if payload.get(2..4) == Some(&VXLAN_PORT) => {
            let (inner, _) = in_ipv4(in_ethernet(payload.get(UDP + VXLAN..)?)?)?;
            Some(Seen { wrapping: Wrapping::Vxlan, ..inner })
        }
        _ => Some(outer),
    }
}

fn in_ethernet(frame: &[u8]) -> Option<&[u8]> {
    if frame.get(12..ETHERNET)? == IPV4 { frame.get(ETHERNET..) } else { None }
}

/// The packet as one that travels as it is, and what it carries.
fn in_ipv4(packet: &[u8]) -> Option<(Seen, &[u8])> {
    let header = usize::from(packet.first()? & 0xf) * 4;
    let address = |at: usize| Some(Ipv4Addr::from(*packet.get(at..)?.first_chunk::<4>()?));
    let (from, to) = (address(12)?, address(16)?);
    let seen = Seen { wrapping: Wrapping::Direct, from, to, protocol: *packet.get(9)? };
    Some((seen, packet.get(header..)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ipv4(protocol: u8, last: [u8; 2], payload: &[u8]) -> Vec<u8> {
        let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, protocol, 0, 0, 10, 0, 0, last[0], 10, 0, 0, last[1]];
        packet.extend(payload);
        packet
    }

    fn ethernet(packet: &[u8]) -> Vec<u8> {
        [&[0; 12], &IPV4[..], packet].concat()
    }

    #[test]
    fn a_packet_is_known_by_what_is_innermost() {
        let inner = ipv4(6, [3, 4], &[0; 20]);
        let seen = |wrapping, from, to, protocol| {
            let address = |last| Ipv4Addr::new(10, 0, 0, last);
            Some(Seen { wrapping, from: address(from), to: address(to), protocol })
        };
        assert_eq!(unpack(&ethernet(&inner)), seen(Wrapping::Direct, 3, 4, 6));
        assert_eq!(unpack(&ethernet(&ipv4(4, [1, 2], &inner))), seen(Wrapping::Ipip, 3, 4, 6));
        let udp = [&[0, 1][..], &VXLAN_PORT, &[0; 4 + VXLAN], &ethernet(&inner)].concat();
        assert_eq!(unpack(&ethernet(&ipv4(17, [1, 2], &udp))), seen(Wrapping::Vxlan, 3, 4, 6));
        let other = [&[0, 1][..], &53_u16.to_be_bytes(), &[0; 40]].concat();
        assert_eq!(unpack(&ethernet(&ipv4(17, [1, 2], &other))), seen(Wrapping::Direct, 1, 2, 17));
        for length in 0..ethernet(&ipv4(17, [1, 2], &udp)).len() {
            // Whatever is cut off, nothing panics.
            let _ = unpack(&ethernet(&ipv4(17, [1, 2], &udp))[..length]);
        }
    }
}
