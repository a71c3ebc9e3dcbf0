//! Objects of policy as elements, and back.

use std::collections::BTreeMap;
use std::net::IpAddr;

use netd_netlink::nft::Element;

use super::super::ICMP;
use super::super::skeleton::policy::{ALLOW, ALLOW_LOGGED, AUDIT, REFUSED, WITH_PORTS, numbered_value};
use super::super::skeleton::{
    ANY, BLOCK, CLASS, CUT, EGRESS, INGRESS, ITSELF, NODE_EGRESS, NODE_INGRESS, PAIRS, PROFILES, SILENT,
};
use super::range::{behind, range, ranges, read_addresses};
use super::{index, number, octets, padded, plain, read_address, read_number};
use crate::object::{Class, Decision, Direction, Family, Flow, Key, Object, Profile, Reach, Service, Span};

type Elements = Vec<(&'static str, Element)>;

pub(super) fn drop_silently(family: Family) -> Elements {
    vec![(SILENT, plain(vec![number(family)]))]
}

pub(super) fn isolated(direction: Direction, reach: Reach, address: IpAddr) -> Elements {
    vec![(subjects(direction, reach)[index(address)], plain(octets(address)))]
}

pub(super) fn hairpin(from: IpAddr, to: IpAddr) -> Elements {
    vec![(ITSELF[index(from)], plain([octets(from), octets(to)].concat()))]
}

pub(super) fn class(address: IpAddr, object: &Object) -> Elements {
    vec![(CLASS[index(address)], valued(octets(address), object))]
}

pub(super) fn block(first: IpAddr, last: IpAddr, object: &Object) -> Elements {
    range(BLOCK[index(first)], valued(octets(first), object), behind(last))
}

pub(super) fn span(span: Span, object: &Object) -> Elements {
    let first = valued(service(span.profile, span.first, false), object);
    range(PROFILES, first, Some(service(span.profile, span.last, true)))
}

pub(super) fn pair(direction: Direction, subject: Class, peer: Option<Class>, object: &Object) -> Elements {
    let subject = subject.0.to_ne_bytes();
    let Some(peer) = peer else {
        return vec![(ANY[way(direction)], valued(subject.into(), object))];
    };
    vec![(PAIRS[way(direction)], valued([subject, peer.0.to_ne_bytes()].concat(), object))]
}

/// The objects of policy that a set holds.
pub(super) fn read(set: &str, elements: &[Element]) -> Vec<(Key, Object)> {
    if let Some(wide) = position(BLOCK, set) {
        return ranges(elements).into_iter().filter_map(|range| read_block(wide, range)).collect();
    }
    if set == PROFILES {
        return ranges(elements).into_iter().filter_map(read_span).collect();
    }
    elements.iter().filter_map(|element| read_one(set, element)).collect()
}

fn read_one(set: &str, element: &Element) -> Option<(Key, Object)> {
    let key = element.key.as_slice();
    if set == SILENT {
        return Some((Key::DropSilently(read_number(key)?), Object::Set));
    }
    for direction in [Direction::Ingress, Direction::Egress] {
        for reach in [Reach::Others, Reach::Node] {
            if let Some(wide) = position(subjects(direction, reach), set) {
                return Some((Key::Isolated(direction, reach, read_address(key, wide)?.0), Object::Set));
            }
        }
        if set == PAIRS[way(direction)] {
            let (subject, peer) = (read_u32(key)?, read_u32(key.get(4..)?)?);
            return Some((Key::Pair(direction, Class(subject), Some(Class(peer))), read_profile(element)?));
        }
        if set == ANY[way(direction)] {
            return Some((Key::Pair(direction, Class(read_u32(key)?), None), read_profile(element)?));
        }
    }
    if let Some(wide) = position(ITSELF, set) {
        let (from, rest) = read_address(key, wide)?;
        return Some((Key::Hairpin(from, read_address(rest, wide)?.0), Object::Set));
    }
    let address = read_address(key, position(CLASS, set)?)?.0;
    Some((Key::Class(address), Object::Class(Class(read_value(element)?))))
}

/// What each object of a set has counted. Of a part of a profile, its start counts.
pub(in crate::linux::ruleset) fn counts(set: &str, counted: &[(Element, u64)]) -> Vec<(Key, u64)> {
    let elements: Vec<Element> = counted.iter().map(|(element, _)| element.clone()).collect();
    let starts: BTreeMap<&[u8], u64> = counted
        .iter()
        .filter(|(element, _)| !element.is_end)
        .map(|(element, count)| (&element.key[..], *count))
        .collect();
    let count = |(key, object): (Key, Object)| {
        let (_, element) = super::of(&key, &object).into_iter().next()?;
        Some((key, *starts.get(&element.key[..])?))
    };
    read(set, &elements).into_iter().filter_map(count).collect()
}

/// A flow that was cut, as packets show it behind the translation of addresses. Whoever opened it is asked about as anybody
/// else, and passes if he may again; but for him to whom he spoke, who could open it anew from his end. In the middle of a TCP
/// connection nothing is asked. An answer of ICMP opens no flow.
pub(in crate::linux::ruleset) fn cut(flow: &Flow) -> Elements {
    const TCP: u8 = 6;
    let one = |source: (IpAddr, u16), destination: (IpAddr, u16)| {
        let has_ports = WITH_PORTS.contains(&flow.protocol);
        let protocol = vec![flow.protocol, 0, 0, 0];
        let end = |(address, port): (IpAddr, u16)| {
            [octets(address), padded(if has_ports { port } else { 0 }).to_vec()].concat()
        };
        (CUT[index(source.0)], plain([protocol, end(source), end(destination)].concat()))
    };
    let back = one(flow.answerer, flow.opener);
    match flow.protocol {
        TCP => vec![one(flow.opener, flow.answerer), back],
        protocol if ICMP.contains(&protocol) => Vec::new(),
        _ => vec![back],
    }
}

fn subjects(direction: Direction, reach: Reach) -> [&'static str; 2] {
    match (direction, reach) {
        (Direction::Ingress, Reach::Others) => INGRESS,
        (Direction::Egress, Reach::Others) => EGRESS,
        (Direction::Ingress, Reach::Node) => NODE_INGRESS,
        (Direction::Egress, Reach::Node) => NODE_EGRESS,
    }
}

fn way(direction: Direction) -> usize {
    match direction {
        Direction::Ingress => 0,
        Direction::Egress => 1,
    }
}

/// Whether the set is that of IPv6; `None` if it is neither.
fn position(pair: [&str; 2], set: &str) -> Option<bool> {
    pair.iter().position(|one| *one == set).map(|at| at == 1)
}

fn valued(key: Vec<u8>, object: &Object) -> Element {
    Element { key, data: value(object), is_end: false }
}

/// A deletion needs no value.
fn value(object: &Object) -> Vec<u8> {
    let number = match object {
        Object::Class(Class(number)) | Object::Profile(Profile(number)) => *number,
        Object::Decision(decision) => decided(*decision),
        Object::Ruleset(_)
        | Object::Forwarding { .. }
        | Object::Set
        | Object::Target(_)
        | Object::Bridge(_)
        | Object::GatewayLink(_)
        | Object::Tunnel(_)
        | Object::NextHop(_)
        | Object::Veth(_)
        | Object::Interface(_) => return Vec::new(),
    };
    numbered_value(number)
}

fn decided(decision: Decision) -> u32 {
    match decision {
        Decision::Allow => ALLOW,
        Decision::AllowLogged => ALLOW_LOGGED,
        Decision::Deny => REFUSED,
        Decision::Audit => AUDIT,
    }
}

/// Profile, protocol and port as rules load them. What follows a port of two octets is always zero in a packet: the end of a
/// range is a one there, so that no two ranges share a key.
fn service(profile: Profile, service: Service, is_end: bool) -> Vec<u8> {
    let [high, low] = service.port.to_be_bytes();
    let [a, b, c, d] = profile.0.to_ne_bytes();
    vec![a, b, c, d, service.protocol, 0, 0, 0, high, low, 0, u8::from(is_end)]
}

fn read_block(wide: bool, (start, end): (&Element, Option<&Element>)) -> Option<(Key, Object)> {
    let (first, last) = read_addresses(wide, start, end)?;
    Some((Key::Block(first, last), Object::Class(Class(read_value(start)?))))
}

fn read_span((start, end): (&Element, Option<&Element>)) -> Option<(Key, Object)> {
    let read = |key: &[u8]| {
        let port = u16::from_be_bytes(*key.get(8..)?.first_chunk()?);
        Some((Profile(read_u32(key)?), Service { protocol: *key.get(4)?, port }))
    };
    let ((profile, first), (_, last)) = (read(&start.key)?, read(&end?.key)?);
    let all = [Decision::Allow, Decision::AllowLogged, Decision::Deny, Decision::Audit];
    let value = read_value(start)?;
    let decision = all.into_iter().find(|decision| decided(*decision) == value)?;
    Some((Key::Span(Span { profile, first, last }), Object::Decision(decision)))
}

fn read_profile(element: &Element) -> Option<Object> {
    Some(Object::Profile(Profile(read_value(element)?)))
}

fn read_value(element: &Element) -> Option<u32> {
    read_u32(element.data.get(4..)?)
}

fn read_u32(bytes: &[u8]) -> Option<u32> {
    bytes.first_chunk().map(|number| u32::from_ne_bytes(*number))
}

/// One of each, for tests.
#[cfg(test)]
pub(super) fn samples() -> crate::object::Objects {
    use crate::object::Family;

    let address = |text: &str| text.parse::<IpAddr>().unwrap();
    let block = |first, last, class| (Key::Block(address(first), address(last)), Object::Class(Class(class)));
    let pair = |direction, peer| (Key::Pair(direction, Class(1), peer), Object::Profile(Profile(7)));
    let mut objects = crate::object::profile(
        Profile(7),
        &[(Service { protocol: 6, port: 80 }, Service { protocol: 6, port: 90 }, Decision::AllowLogged)],
        Decision::Audit,
    );
    objects.extend([
        (Key::DropSilently(Family::V6), Object::Set),
        (Key::Isolated(Direction::Ingress, Reach::Others, address("10.4.0.2")), Object::Set),
        (Key::Isolated(Direction::Egress, Reach::Node, address("fd00::2")), Object::Set),
        (Key::Hairpin(address("10.4.0.2"), address("10.5.0.2")), Object::Set),
        (Key::Hairpin(address("fd00::2"), address("fd00::2")), Object::Set),
        (Key::Class(address("10.4.0.2")), Object::Class(Class(1))),
        (Key::Class(address("fd00::2")), Object::Class(Class(1))),
        block("0.0.0.0", "9.255.255.255", 3),
        block("10.0.0.0", "10.255.255.255", 4),
        block("192.168.0.0", "255.255.255.255", 5),
        block("fd00::", "fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", 6),
        pair(Direction::Ingress, Some(Class(2))),
        pair(Direction::Egress, Some(Class::WORLD)),
        pair(Direction::Ingress, None),
        pair(Direction::Egress, None),
    ]);
    objects
}
