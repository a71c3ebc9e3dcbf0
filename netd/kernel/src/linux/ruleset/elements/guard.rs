//! The spoof guard's objects as elements, and back.

use std::net::IpAddr;

use netd_config::LinkName;
use netd_netlink::nft::Element;

use super::super::skeleton::guard::BORNE;
use super::super::skeleton::{DEAF, LEASED, NAME, PORT, PORT_MAC, TRUNKS};
use super::{index, name, octets, plain, read_address, read_name};
use crate::object::{Key, Mac, Object, link_local_of};

/// A MAC address fills 8 octets in a concatenation.
const MAC: usize = 8;

/// By the MAC comes the link-local address that the kernel makes of it.
pub(super) fn port_mac(port: &LinkName, mac: Mac) -> Vec<(&'static str, Element)> {
    let station = [name(port), filled(mac)].concat();
    let own = [name(port), borne(mac, 1), octets(link_local_of(mac))].concat();
    vec![(PORT_MAC, plain(station)), (LEASED[1], plain(own))]
}

pub(super) fn port_address(port: &LinkName, mac: Mac, address: IpAddr) -> Vec<(&'static str, Element)> {
    let at = index(address);
    vec![(LEASED[at], plain([name(port), borne(mac, at), octets(address)].concat()))]
}

/// The object of the guard that an element stands for.
pub(super) fn read(set: &str, key: &[u8]) -> Option<(Key, Object)> {
    let (link, rest) = (read_name(key.get(..NAME as usize)?)?, key.get(NAME as usize..)?);
    let wide = set.ends_with('6');
    let key = match set {
        DEAF => Key::NoFlood(link),
        TRUNKS => Key::Trunk(link),
        PORT => Key::Guarded(link),
        PORT_MAC => Key::PortMac(link, *rest.first_chunk()?),
        _ if LEASED.contains(&set) => {
            let (mac, address) = (*rest.first_chunk()?, read_address(rest.get(MAC..)?, wide)?.0);
            // It comes with the MAC.
            if address == link_local_of(mac) {
                return None;
            }
            Key::PortAddress(link, mac, address)
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

/// A MAC, and behind it what a frame with such an address bears.
fn borne(mac: Mac, version: usize) -> Vec<u8> {
    [&mac[..], &BORNE[version]].concat()
}

/// One of each, for tests.
#[cfg(test)]
pub(super) fn samples() -> crate::object::Objects {
    let link = LinkName::new("nd1").unwrap();
    let mac = [2, 0x6e, 10, 4, 0, 2];
    let keys = [
        Key::NoFlood(link.clone()),
        Key::Guarded(link.clone()),
        Key::Trunk(link.clone()),
        Key::PortMac(link.clone(), mac),
        Key::PortAddress(link.clone(), mac, "10.4.0.2".parse().unwrap()),
        Key::PortAddress(link, mac, "fd00::2".parse().unwrap()),
    ];
    keys.map(|key| (key, Object::Set)).into()
}
