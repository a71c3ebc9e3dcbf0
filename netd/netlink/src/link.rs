//! Who a link is: the few attributes that most questions are about. The rest of them is netlink-packet-route's to read, and takes
//! longer to read than the kernel takes to tell it.

use crate::attributes::attributes;

/// Netlink's header and the link's own (`struct ifinfomsg`).
const HEADERS: usize = 32;
/// `ifi_index`, behind netlink's header, family, padding and kind.
const INDEX: usize = 20;
/// `IFLA_ADDRESS` (linux/if_link.h).
const ADDRESS: u16 = 1;
/// `IFLA_MTU`.
const MTU: u16 = 4;
/// `IFLA_LINK`.
const OTHER_END: u16 = 5;
/// `IFLA_MASTER`.
const CONTROLLER: u16 = 10;

/// A link, as far as others name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Its number in its namespace.
    pub index: u32,
    /// Its MAC; empty where it has none.
    pub mac: Vec<u8>,
    /// Octets.
    pub mtu: u32,
    /// Number of the bridge that it is a port of.
    pub controller: Option<u32>,
    /// Number of a veth's other end, in that one's namespace.
    pub other_end: Option<u32>,
}

impl Link {
    /// Reads a whole `RTM_NEWLINK`. `None`: it is too short to be one.
    #[must_use]
    pub fn read(message: &[u8]) -> Option<Self> {
        let index = u32::from_ne_bytes(*message.get(INDEX..)?.first_chunk()?);
        let mut link = Self { index, mac: Vec::new(), mtu: 0, controller: None, other_end: None };
        for (kind, value) in attributes(message.get(HEADERS..)?) {
            match kind {
                ADDRESS => link.mac = value.to_vec(),
                MTU => link.mtu = number(value).unwrap_or_default(),
                CONTROLLER => link.controller = number(value),
                OTHER_END => link.other_end = number(value),
                _ => {}
            }
        }
        Some(link)
    }
}

fn number(value: &[u8]) -> Option<u32> {
    value.first_chunk().map(|octets| u32::from_ne_bytes(*octets))
}

#[cfg(test)]
mod tests {
    use netlink_packet_core::{NetlinkHeader, NetlinkMessage, NetlinkPayload};
    use netlink_packet_route::RouteNetlinkMessage;
    use netlink_packet_route::link::{LinkAttribute, LinkMessage};
    use proptest::prelude::*;

    use super::Link;

    fn written(index: u32, attributes: Vec<LinkAttribute>) -> Vec<u8> {
        let mut link = LinkMessage::default();
        link.header.index = index;
        link.attributes = attributes;
        let payload = NetlinkPayload::from(RouteNetlinkMessage::NewLink(link));
        let mut message = NetlinkMessage::new(NetlinkHeader::default(), payload);
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        bytes
    }

    #[test]
    fn what_another_wrote_is_read() {
        let mac = vec![2, 0, 0, 0, 0, 7];
        let name = LinkAttribute::IfName("nd00000001".to_owned());
        let port = vec![
            LinkAttribute::Address(mac.clone()),
            name,
            LinkAttribute::Mtu(1_400),
            LinkAttribute::Controller(9),
            LinkAttribute::Link(2),
        ];
        assert_eq!(
            Link::read(&written(4_711, port)),
            Some(Link { index: 4_711, mac, mtu: 1_400, controller: Some(9), other_end: Some(2) })
        );
        let alone = Link { index: 1, mac: Vec::new(), mtu: 0, controller: None, other_end: None };
        assert_eq!(Link::read(&written(1, Vec::new())), Some(alone));
        assert_eq!(Link::read(&[0; 31]), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_safe(bytes in prop::collection::vec(any::<u8>(), 0..96)) {
            prop_assert_eq!(Link::read(&bytes).is_some(), bytes.len() >= 32);
        }
    }
}
