//! Objects of the fabric that the ruleset knows, as elements, and back.

use std::net::IpAddr;

use ipnet::IpNet;
use netd_netlink::nft::Element;

use super::super::skeleton::{ENTRANCES, INSIDE, IPIP_ENTRANCES, PEERS, TUNNEL_PORTS};
use super::range::{behind, range, ranges, read_addresses};
use super::{index, octets, padded, plain, read_address};
use crate::object::{Entrance, Key, Object, VXLAN_PORT};

/// IP's number of what carries VXLAN.
const UDP: u8 = 17;

pub(super) fn connected() -> Vec<(&'static str, Element)> {
    vec![(TUNNEL_PORTS, tunnel_port())]
}

pub(super) fn peer(address: IpAddr) -> Vec<(&'static str, Element)> {
    vec![(PEERS[index(address)], plain(octets(address)))]
}

pub(super) fn inside(net: IpNet) -> Vec<(&'static str, Element)> {
    range(INSIDE[index(net.addr())], plain(octets(net.network())), behind(net.broadcast()))
}

pub(super) fn entrance(entrance: Entrance) -> Vec<(&'static str, Element)> {
    let address = entrance.address();
    match entrance {
        Entrance::Ipip(_) => vec![(IPIP_ENTRANCES, plain(octets(address)))],
        Entrance::Vxlan(_, port) => {
            let at = plain([octets(address), service(UDP, port).to_vec()].concat());
            vec![(ENTRANCES[index(address)], at)]
        }
    }
}

/// Of all nodes, whether they have a tunnel or not: what is sent there to a peer is asked about, and what comes there.
fn tunnel_port() -> Element {
    plain(service(UDP, VXLAN_PORT).to_vec())
}

/// Protocol and port as rules load them.
fn service(protocol: u8, port: u16) -> [u8; 8] {
    let [high, low, ..] = padded(port);
    [protocol, 0, 0, 0, high, low, 0, 0]
}

/// The objects of the fabric that a set holds.
pub(super) fn read(set: &str, elements: &[Element]) -> Vec<(Key, Object)> {
    let wide = set.ends_with('6');
    let keys: Vec<Key> = if INSIDE.contains(&set) {
        ranges(elements).into_iter().filter_map(|(start, end)| read_inside(wide, start, end)).collect()
    } else if set == TUNNEL_PORTS {
        elements.contains(&tunnel_port()).then_some(Key::Connected).into_iter().collect()
    } else if PEERS.contains(&set) {
        elements.iter().filter_map(|element| read_address(&element.key, wide)).map(|one| Key::Peer(one.0)).collect()
    } else if set == IPIP_ENTRANCES {
        elements.iter().filter_map(|element| read_ipip(&element.key)).collect()
    } else if ENTRANCES.contains(&set) {
        elements.iter().filter_map(|element| read_entrance(wide, &element.key)).collect()
    } else {
        Vec::new()
    };
    keys.into_iter().map(|key| (key, Object::Set)).collect()
}

fn read_entrance(wide: bool, key: &[u8]) -> Option<Key> {
    let (address, service) = read_address(key, wide)?;
    let port = u16::from_be_bytes(*service.get(4..)?.first_chunk()?);
    (*service.first()? == UDP).then_some(Key::PeersOnly(Entrance::Vxlan(address, port)))
}

fn read_ipip(key: &[u8]) -> Option<Key> {
    let octets: &[u8; 4] = key.first_chunk()?;
    Some(Key::PeersOnly(Entrance::Ipip((*octets).into())))
}

/// A range that is no network is nobody's.
fn read_inside(wide: bool, start: &Element, end: Option<&Element>) -> Option<Key> {
    let (first, last) = read_addresses(wide, start, end)?;
    let longest = if wide { 128 } else { 32 };
    let nets = (0..=longest).filter_map(|length| IpNet::new(first, length).ok());
    nets.into_iter().find(|net| net.network() == first && net.broadcast() == last).map(Key::Inside)
}

/// One of each, for tests.
#[cfg(test)]
pub(super) fn samples() -> crate::object::Objects {
    let keys = [
        Key::Connected,
        Key::Peer("192.0.2.2".parse().unwrap()),
        Key::Peer("2001:db8::2".parse().unwrap()),
        Key::PeersOnly(Entrance::Ipip("192.0.2.1".parse().unwrap())),
        Key::PeersOnly(Entrance::Vxlan("192.0.2.1".parse().unwrap(), 4_789)),
        Key::PeersOnly(Entrance::Vxlan("2001:db8::1".parse().unwrap(), 8_472)),
        Key::Inside("10.4.0.0/16".parse().unwrap()),
        Key::Inside("10.5.0.0/16".parse().unwrap()),
        Key::Inside("255.255.255.0/24".parse().unwrap()),
        Key::Inside("fd00::/48".parse().unwrap()),
    ];
    keys.map(|key| (key, Object::Set)).into()
}
