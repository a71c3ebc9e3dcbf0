//! What looks like neighbours' talk and is not: it gets past neither the guard of a routed link nor a policy.

use std::net::IpAddr;

use netd_kernel::{Direction, Mac, Reach};

use crate::frames::{ICMPV6, framed, icmpv6, ip};
use crate::node::{Node, Sandbox};
use crate::policy::{filtered, isolated};
use crate::space::{Space, all_heard, hear};

/// Types of ICMPv6.
const QUERY: u8 = 130;
const REPORT: u8 = 131;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
const REDIRECT: u8 = 137;

/// A message of this type: of discovery, it asks or tells of the target.
fn message(kind: u8, target: IpAddr, rest: &[u8]) -> Vec<u8> {
    let IpAddr::V6(target) = target else { panic!("{target} is not of IPv6") };
    [&[kind, 0, 0, 0, 0, 0, 0, 0][..], &target.octets(), rest].concat()
}

/// The MAC of a link, as `ip` prints it.
pub(crate) fn mac(space: &Space, link: &str) -> Mac {
    let line = space.output(&format!("ip -br link show {link}"));
    let octets = line.split_whitespace().nth(2).unwrap().split(':').map(|octet| u8::from_str_radix(octet, 16).unwrap());
    octets.collect::<Vec<_>>().try_into().unwrap()
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn a_routed_link_passes_what_finds_its_neighbour_and_nothing_that_looks_so() {
    let node = Node::new(false);
    let (receiver, sender) = (node.sandbox(0, 2), node.routed_sandbox(7));
    let ears = receiver.space.listen();
    let gateway = mac(&node.space, sender.port.as_str());
    let foreign = [address("10.4.0.9"), address("fd00:0::9")];
    let own = sender.addresses();
    let mut sent = Vec::new();
    for (name, from, is_own) in [("own", own, true), ("foreign", foreign, false)] {
        for kind in [SOLICITATION, ADVERTISEMENT] {
            for (from, to) in from.into_iter().zip(receiver.addresses()) {
                let marker = format!("<{name} {kind} {to}>");
                let message = message(kind, receiver.v6, marker.as_bytes());
                // A packet of IPv4 may say that it carries ICMPv6.
                let packet = if to.is_ipv4() { ip(from, to, ICMPV6, &message) } else { icmpv6(from, to, &message) };
                sender.space.send_frame(&framed(gateway, sender.mac, &packet));
                sent.push((marker.into_bytes(), is_own));
            }
        }
    }
    let markers: Vec<Vec<u8>> = sent.iter().map(|(marker, _)| marker.clone()).collect();
    let heard = all_heard(&ears, &markers);
    let amiss = sent.iter().zip(heard).filter(|((_, is_own), heard)| is_own != heard);
    let amiss: Vec<_> = amiss.map(|((marker, _), _)| String::from_utf8_lossy(marker)).collect();
    assert!(amiss.is_empty(), "{amiss:?}");
    // The gateway answers who asks from an address without a way.
    let to = address("fd00:0::1");
    let answered = |from: IpAddr| {
        let answers = sender.space.listen();
        let asks = icmpv6(from, to, &message(SOLICITATION, to, &[&[1, 1][..], &sender.mac].concat()));
        sender.space.send_frame(&framed(gateway, sender.mac, &asks));
        hear(&answers, |frame| (frame.get(14 + 40) == Some(&ADVERTISEMENT)).then_some(())).is_some()
    };
    assert!(answered(address("fe80::6e:7")));
    assert!(!answered(foreign[1]));
}

/// Where it is bridged through the rules, it is needed; where it is routed, nobody asks or answers so.
#[test]
fn what_is_routed_is_no_discovery_to_a_policy() {
    let node = Node::new(false);
    let (subject, near, far) = (node.sandbox(0, 2), node.sandbox(0, 3), node.sandbox(1, 2));
    let gateway = mac(&node.space, "br0");
    let all: IpAddr = address("ff02::1");
    let case = |to: &Sandbox, mac: Mac, kind: u8, address: IpAddr, passes: bool| {
        (to.space.listen(), mac, kind, address, passes)
    };
    let cases = [
        case(&near, near.mac, SOLICITATION, near.v6, true),
        case(&near, near.mac, ADVERTISEMENT, near.v6, true),
        case(&near, near.mac, REDIRECT, near.v6, true),
        case(&near, [0x33, 0x33, 0, 0, 0, 1], QUERY, all, true),
        case(&near, [0x33, 0x33, 0, 0, 0, 1], REPORT, all, true),
        case(&near, near.mac, REPORT, near.v6, false),
        case(&near, near.mac, 140, near.v6, false),
        case(&far, gateway, REDIRECT, far.v6, false),
        case(&far, gateway, SOLICITATION, far.v6, false),
        case(&far, gateway, ADVERTISEMENT, far.v6, false),
        case(&far, gateway, REPORT, far.v6, false),
    ];
    let mut policy = filtered();
    for is_isolated in [false, true] {
        if is_isolated {
            policy.extend(isolated(Direction::Egress, Reach::Others, &subject));
        }
        node.enforce(&policy);
        for (ears, mac, kind, to, passes) in &cases {
            let marker = format!("<{is_isolated} {kind} {to}>").into_bytes();
            let packet = icmpv6(subject.v6, *to, &message(*kind, *to, &marker));
            subject.space.send_frame(&framed(*mac, subject.mac, &packet));
            let heard = hear(ears, |frame| frame.windows(marker.len()).any(|part| *part == marker).then_some(()));
            assert_eq!(heard.is_some(), *passes || !is_isolated, "{}", String::from_utf8_lossy(&marker));
        }
    }
}
