//! Objects as elements of the ruleset's sets, and back.

use std::net::{IpAddr, SocketAddr};

use netd_config::{LinkName, Protocol};
use netd_netlink::nft::Element;

mod fabric;
mod guard;
mod policy;
mod range;

use super::skeleton::{BRIDGES, DEAF, FENCED, GUARDED, HOME, HOST_PORTS, MASQ, NAME, PORT, PORTS, SAME, TRUNKS};
use crate::object::{Family, Key, Object, Objects, Publication};
pub(super) use policy::{counts, cut};

/// The elements of an object, each with its set. To delete them, the key is enough.
pub(super) fn of(key: &Key, object: &Object) -> Vec<(&'static str, Element)> {
    match key {
        Key::Admitted(bridge) => vec![(BRIDGES, plain(name(bridge)))],
        Key::Fenced(bridge) => {
            vec![(SAME, plain([name(bridge), name(bridge)].concat())), (FENCED, plain(name(bridge)))]
        }
        Key::Masquerade(address, home) => {
            let at = index(*address);
            vec![(HOME[at], plain([octets(*address), name(home)].concat())), (MASQ[at], plain(octets(*address)))]
        }
        Key::Published(publication) => vec![published(publication, object)],
        Key::Forwarding(family) if *object == (Object::Forwarding { guarded: true }) => {
            vec![(GUARDED, plain(vec![number(*family)]))]
        }
        Key::NoFlood(port) => vec![(DEAF, plain(name(port)))],
        Key::Guarded(port) => vec![(PORT, plain(name(port)))],
        Key::Trunk(port) => vec![(TRUNKS, plain(name(port)))],
        Key::PortMac(port, mac) => guard::port_mac(port, *mac),
        Key::PortAddress(port, mac, address) => guard::port_address(port, *mac, *address),
        Key::DropSilently(family) => policy::drop_silently(*family),
        Key::Isolated(direction, reach, address) => policy::isolated(*direction, *reach, *address),
        Key::Hairpin(from, to) => policy::hairpin(*from, *to),
        Key::Class(address) => policy::class(*address, object),
        Key::Block(first, last) => policy::block(*first, *last, object),
        Key::Span(span) => policy::span(*span, object),
        Key::Pair(direction, subject, peer) => policy::pair(*direction, *subject, *peer, object),
        Key::Connected => fabric::connected(),
        Key::Peer(address) => fabric::peer(*address),
        Key::PeersOnly(entrance) => fabric::entrance(*entrance),
        Key::Inside(net) => fabric::inside(*net),
        Key::Ruleset
        | Key::Forwarding(_)
        | Key::Bridge(_)
        | Key::GatewayLink(_)
        | Key::Filtered(_)
        | Key::Tunnel(_)
        | Key::FarEnd(_)
        | Key::Route(_)
        | Key::Veth(_)
        | Key::Gateway(..)
        | Key::SandboxRoute(..)
        | Key::Interface(..) => Vec::new(),
    }
}

/// Adds the objects that the elements of the set `set` stand for. An element of no object is passed over.
pub(super) fn read(objects: &mut Objects, set: &str, elements: &[Element]) {
    objects.extend(policy::read(set, elements));
    objects.extend(fabric::read(set, elements));
    objects.extend(
        elements.iter().filter_map(|element| read_one(set, element).or_else(|| guard::read(set, &element.key))),
    );
}

fn read_one(set: &str, element: &Element) -> Option<(Key, Object)> {
    let key = element.key.as_slice();
    match set {
        FENCED => read_name(key).map(|bridge| (Key::Fenced(bridge), Object::Set)),
        BRIDGES => read_name(key).map(|bridge| (Key::Admitted(bridge), Object::Set)),
        GUARDED => read_number(key).map(|family| (Key::Forwarding(family), Object::Forwarding { guarded: true })),
        _ if HOME.contains(&set) => read_home(key),
        _ if PORTS.contains(&set) || HOST_PORTS.contains(&set) => read_published(set, element),
        _ => None,
    }
}

fn plain(key: Vec<u8>) -> Element {
    Element { key, ..Element::default() }
}

fn published(publication: &Publication, object: &Object) -> (&'static str, Element) {
    let Publication { address, protocol, port } = publication;
    let at = index(*address);
    let mut key = if address.is_unspecified() { Vec::new() } else { octets(*address) };
    key.extend([protocol.number(), 0, 0, 0]);
    key.extend(padded(*port));
    let data = match object {
        Object::Target(target) => [octets(target.ip()), padded(target.port()).to_vec()].concat(),
        Object::Bridge(_)
        | Object::GatewayLink(_)
        | Object::Ruleset(_)
        | Object::Forwarding { .. }
        | Object::Set
        | Object::Class(_)
        | Object::Decision(_)
        | Object::Profile(_)
        | Object::Tunnel(_)
        | Object::NextHop(_)
        | Object::Veth(_)
        | Object::Interface(_) => Vec::new(),
    };
    let set = if address.is_unspecified() { PORTS[at] } else { HOST_PORTS[at] };
    (set, Element { key, data, is_end: false })
}

fn read_published(set: &str, element: &Element) -> Option<(Key, Object)> {
    let wide = set.ends_with('6');
    let (address, rest) = if PORTS.contains(&set) {
        let any = if wide { IpAddr::from([0; 16]) } else { IpAddr::from([0; 4]) };
        (any, element.key.as_slice())
    } else {
        read_address(&element.key, wide)?
    };
    let protocol = Protocol::from_number(*rest.first()?)?;
    let port = u16::from_be_bytes(*rest.get(4..)?.first_chunk()?);
    let (target, rest) = read_address(&element.data, wide)?;
    let target = SocketAddr::new(target, u16::from_be_bytes(*rest.first_chunk()?));
    Some((Key::Published(Publication { address, protocol, port }), Object::Target(target)))
}

fn read_home(key: &[u8]) -> Option<(Key, Object)> {
    let (address, rest) = read_address(key, key.len() > 4 + NAME as usize)?;
    Some((Key::Masquerade(address, read_name(rest)?), Object::Set))
}

fn read_address(bytes: &[u8], wide: bool) -> Option<(IpAddr, &[u8])> {
    if wide {
        let (octets, rest) = bytes.split_first_chunk::<16>()?;
        return Some((IpAddr::from(*octets), rest));
    }
    let (octets, rest) = bytes.split_first_chunk::<4>()?;
    Some((IpAddr::from(*octets), rest))
}

fn index(address: IpAddr) -> usize {
    usize::from(address.is_ipv6())
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

fn padded(port: u16) -> [u8; 4] {
    let [high, low] = port.to_be_bytes();
    [high, low, 0, 0]
}

/// A name fills its 16 octets.
fn name(link: &LinkName) -> Vec<u8> {
    let mut bytes = link.as_str().as_bytes().to_vec();
    bytes.resize(NAME as usize, 0);
    bytes
}

fn read_name(bytes: &[u8]) -> Option<LinkName> {
    let bytes = bytes.split(|byte| *byte == 0).next()?;
    LinkName::new(String::from_utf8(bytes.to_vec()).ok()?).ok()
}

/// `NFPROTO_IPV4` and `NFPROTO_IPV6`.
fn number(family: Family) -> u8 {
    match family {
        Family::V4 => 2,
        Family::V6 => 10,
    }
}

fn read_number(key: &[u8]) -> Option<Family> {
    [Family::V4, Family::V6].into_iter().find(|family| key.first() == Some(&number(*family)))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::net::SocketAddr;

    use netd_config::{LinkName, Protocol};
    use netd_netlink::nft::Element;
    use proptest::prelude::*;

    use super::super::skeleton::SETS;
    use super::{of, read};
    use crate::object::{Family, Key, Object, Objects, Publication};

    #[test]
    fn every_object_comes_back_from_its_elements() {
        let bridge = LinkName::new("fifteen-letters").unwrap();
        let published = |address: &str| {
            Key::Published(Publication { address: address.parse().unwrap(), protocol: Protocol::Udp, port: 8080 })
        };
        let target = |text: &str| Object::Target(text.parse::<SocketAddr>().unwrap());
        let objects = Objects::from([
            (Key::Admitted(bridge.clone()), Object::Set),
            (Key::Fenced(bridge.clone()), Object::Set),
            (Key::Masquerade("10.4.0.2".parse().unwrap(), bridge.clone()), Object::Set),
            (Key::Masquerade("fd00::2".parse().unwrap(), bridge), Object::Set),
            (Key::Forwarding(Family::V6), Object::Forwarding { guarded: true }),
            (published("0.0.0.0"), target("10.4.0.2:80")),
            (published("::"), target("[fd00::2]:80")),
            (published("192.0.2.1"), target("10.4.0.2:81")),
            (published("2001:db8::1"), target("[fd00::2]:81")),
        ]);
        let objects: Objects = [objects, super::policy::samples(), super::guard::samples(), super::fabric::samples()]
            .into_iter()
            .flatten()
            .collect();
        let mut sets: BTreeMap<&str, Vec<Element>> = BTreeMap::new();
        for (key, object) in &objects {
            for (set, element) in of(key, object) {
                sets.entry(set).or_default().push(element);
            }
        }
        let mut back = Objects::new();
        sets.iter().for_each(|(set, elements)| read(&mut back, set, elements));
        assert_eq!(back, objects);
    }

    proptest! {
        #[test]
        fn any_element_of_any_set_is_safe(
            at in 0..SETS.len(),
            key in prop::collection::vec(any::<u8>(), 0..48),
            data in prop::collection::vec(any::<u8>(), 0..24),
        ) {
            let mut objects = Objects::new();
            read(&mut objects, SETS[at].1.name, &[Element { key, data, is_end: false }]);
            prop_assert!(objects.len() <= 1);
        }
    }
}
