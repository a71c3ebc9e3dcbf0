//! The spoof guard's objects as elements, and back.

use netd_netlink::nft::Element;

use super::super::skeleton::{DEAF, LEASED, NAME, PORT, PORT_MAC, TRUNKS};
use super::{index, name, octets, plain, read_address, read_name};
use crate::linux::messages::link_local_of;
use crate::object::{Key, Mac, Object};

/// A MAC address fills 8 octets in a concatenation.
const MAC: usize = 8;

/// The elements of an object of the guard.
pub(super) fn of(key: &Key) -> Vec<(&'static str, Element)> {
    match key {
        Key::Deaf(port) => vec![(DEAF, plain(name(port)))],
        Key::Guarded(port) => vec![(PORT, plain(name(port)))],
        Key::Trunk(port) => vec![(TRUNKS, plain(name(port)))],
        Key::Station(port, mac) => {
            let station = [name(port), filled(*mac)].concat();
            let own = [station.clone(), octets(link_local_of(*mac))].concat();
            vec![(PORT_MAC, plain(station)), (LEASED[1], plain(own))]
        }
        Key::Leased(port, mac, address) => {
            vec![(LEASED[index(*address)], plain([name(port), filled(*mac), octets(*address)].concat()))]
        }
        Key::Bridge(_)
        | Key::GatewayLink(_)
        | Key::Filtered(_)
        | Key::Ruleset
        | Key::Forwarding(_)
        | Key::Silent(_)
        | Key::Isolated(..)
        | Key::Itself(..)
        | Key::Class(_)
        | Key::Block(..)
        | Key::Span(_)
        | Key::Pair(..)
        | Key::Admitted(_)
        | Key::Fenced(_)
        | Key::Connected
        | Key::Peer(_)
        | Key::PeersOnly(_)
        | Key::Inside(_)
        | Key::Masquerade(..)
        | Key::Published(_)
        | Key::Tunnel(_)
        | Key::FarEnd(_)
        | Key::Route(_)
        | Key::Veth(_)
        | Key::Gateway(..)
        | Key::Way(..)
        | Key::Interface(..) => Vec::new(),
    }
}

/// The object of the guard that an element stands for.
pub(super) fn read(set: &str, key: &[u8]) -> Option<(Key, Object)> {
    let (link, rest) = (read_name(key.get(..NAME as usize)?)?, key.get(NAME as usize..)?);
    let wide = set.ends_with('6');
    let key = match set {
        DEAF => Key::Deaf(link),
        TRUNKS => Key::Trunk(link),
        PORT => Key::Guarded(link),
        PORT_MAC => Key::Station(link, *rest.first_chunk()?),
        _ if LEASED.contains(&set) => {
            let (mac, address) = (*rest.first_chunk()?, read_address(rest.get(MAC..)?, wide)?.0);
            // It comes with the MAC.
            if address == link_local_of(mac) {
                return None;
            }
            Key::Leased(link, mac, address)
        }
        _ => return None,
    };
    Some((key, Object::Set))
}

fn filled(mac: Mac) -> Vec<u8> {
    let mut octets = mac.to_vec();
    octets.resize(MAC, 0);
    octets
}

/// One of each, for tests.
#[cfg(test)]
pub(super) fn samples() -> crate::object::Objects {
    let link = netd_config::LinkName::new("nd1").unwrap();
    let mac = [2, 0x6e, 10, 4, 0, 2];
    let keys = [
        Key::Deaf(link.clone()),
        Key::Guarded(link.clone()),
        Key::Trunk(link.clone()),
        Key::Station(link.clone(), mac),
        Key::Leased(link.clone(), mac, "10.4.0.2".parse().unwrap()),
        Key::Leased(link, mac, "fd00::2".parse().unwrap()),
    ];
    keys.map(|key| (key, Object::Set)).into()
}
