//! The rules of tunnels: who may send encapsulated packets, what may come out of one, where it may go on to. Which devices
//! and routes there are, `linux/fabric` knows; who is a peer, and what is the fleet's, the sets.
//!
//! ```text
//! by_link      by a tunnel, and not routed back by it ─▶ by_tunnel: of a peer, or routed back by another ─▶ on;
//!                             the fleet's, and routed back past our links ─▶ on; drop
//! raw, node_in, forward   to VXLAN's port, or IP in IP, known or not ─▶ entering, leaving, arriving, crossing
//! forward      TCP that begins ─▶ opening: by a tunnel either way ─▶ segments no larger than fit
//! entering     VXLAN or IP in IP, to an entrance, by none of our bridges ─▶ not tracked
//! leaving      the node's own, from an entrance to a peer ─▶ not tracked
//! arriving     VXLAN ─▶ to_entrance: to an entrance ─▶ from_peers; else, while the node is connected with others ─▶ drop
//!              by a link of ours, IP in IP ─▶ drop; IP in IP, to an entrance ─▶ from_peers
//! from_peers   of our links ─▶ drop; by a peer ─▶ accept; drop
//! node_out     not tracked, to a peer's tunnel ─▶ accept
//! crossing     by a link of ours, IP in IP ─▶ drop; VXLAN or IP in IP ─▶ to_peer: of our links to a peer ─▶ drop
//!              (known ─▶ accept, and policy: as for any other packet)
//! forward      by a tunnel, and not from or to our bridges and routed links ─▶ drop
//! postrouting  from the fleet's to the fleet's ─▶ no masquerade
//! ```
//!
//! Sandboxes of a peer are no other network of this node: a fence does not keep them out, a policy does.

use netd_netlink::nft::{Chain, Expression, Meta, Register, Status, Verdict};

use super::guard::{in_a_tunnel, is_in_a_tunnel};
use super::sets::{BRIDGES, ENTRANCES, INSIDE, IPIP_ENTRANCES, PEERS, TUNNEL_PORTS};
use super::{
    FORWARD, ICMPV6, INPUT, Links, NODE_OUT, POSTROUTING, RAW, RAW_OUT, Rule, VERSIONS, Version, has_version,
    is_version,
};
use crate::linux::fabric::{NETWORK, tunnels_prefix};
use crate::object::VXLAN_PORT;

const ENTERING: &str = "entering";
const LEAVING: &str = "leaving";
const ARRIVING: &str = "arriving";
const TO_ENTRANCE: &str = "to_entrance";
const FROM_PEERS: &str = "from_peers";
pub(super) const BY_TUNNEL: &str = "by_tunnel";
const CROSSING: &str = "crossing";
const OPENING: &str = "opening";
const TO_PEER: &str = "to_peer";
const OUT_OF_TUNNEL: &str = "out_of_tunnel";
pub(super) const CHAINS: [&str; 10] =
    [ENTERING, LEAVING, ARRIVING, TO_ENTRANCE, FROM_PEERS, BY_TUNNEL, CROSSING, OPENING, TO_PEER, OUT_OF_TUNNEL];

const IPIP: u8 = 4;
const IPV6_IN_IP: u8 = 41;
const TCP: u8 = 6;
const UDP: u8 = 17;

/// Ahead of what is known: it holds for packets of known flows too. In `raw`, what came by our links is gone by then, and IP in
/// IP ends at an address of IPv4 only. Of every packet these ask with octets compared where they stand, which costs next to
/// nothing; one look-up or jump costs as much as fifty of them. Who is sent to a chain by mistake, by the same octets of the
/// other IP version or of another protocol, meets nothing there.
pub(super) fn ahead_of_known() -> Vec<Rule> {
    let outer =
        [(RAW, ENTERING), (RAW_OUT, LEAVING)].map(|(hook, chain)| (hook, vec![to_port(), ipv4_of(IPIP)], chain));
    let inner = [(INPUT, ARRIVING), (FORWARD, CROSSING)]
        .map(|(hook, chain)| (hook, vec![to_port(), ipv4_of(IPIP), ipv4_of(IPV6_IN_IP), ipv6_of_others()], chain));
    let asked = outer.into_iter().chain(inner).chain([(FORWARD, Vec::from(begins()), OPENING)]);
    let jumps = |(hook, rules, chain): (Chain, Vec<Vec<Expression>>, &'static str)| {
        rules.into_iter().map(move |mut rule| {
            rule.push(Expression::verdict(Verdict::Jump(chain)));
            (hook.name, rule)
        })
    };
    asked.flat_map(jumps).collect()
}

/// To VXLAN's port, whatever has ports.
fn to_port() -> Vec<Expression> {
    vec![Expression::transport(2, 2, Register(0)), Expression::is(Register(0), &VXLAN_PORT.to_be_bytes())]
}

fn ipv4_of(protocol: u8) -> Vec<Expression> {
    const PROTOCOL: u32 = 9;
    vec![Expression::network(PROTOCOL, 1, Register(0)), Expression::is(Register(0), &[protocol])]
}

/// What stands behind a header of another kind is not to be compared where it stands.
fn ipv6_of_others() -> Vec<Expression> {
    ipv6_but_of(&[TCP, UDP, ICMPV6])
}

fn ipv6_but_of(protocols: &[u8]) -> Vec<Expression> {
    const NEXT_HEADER: u32 = 6;
    let mut rule = Vec::from(has_version(6));
    rule.push(Expression::network(NEXT_HEADER, 1, Register(0)));
    rule.extend(protocols.iter().map(|protocol| Expression::is_not(Register(0), &[*protocol])));
    rule
}

/// TCP that begins.
fn begins() -> [Vec<Expression>; 2] {
    const SYN: u8 = 0x02;
    [ipv4_of(TCP), ipv6_but_of(&[UDP])].map(|mut rule| {
        rule.push(Expression::transport(13, 1, Register(0)));
        rule.extend([Expression::mask(Register(0), [SYN, 0, 0, 0]), Expression::is(Register(0), &[SYN])]);
        rule
    })
}

/// No peer's address is a sandbox's: of what the node sends there without tracking, mostly in a tunnel, no policy is asked.
pub(super) fn behind_known() -> [Rule; 2] {
    VERSIONS.each_ref().map(|version| {
        let mut rule = Vec::from(Expression::connection(Status::Untracked, Register(0)));
        rule.extend(to_a_peer(version));
        rule.push(Expression::verdict(Verdict::Accept));
        (NODE_OUT.name, rule)
    })
}

/// The chains that [`ahead_of_known`] and those of links of ours lead to.
pub(super) fn rules(link_prefix: &str) -> Vec<Rule> {
    let mut rules: Vec<Rule> =
        at_entrances(|version| version.destination).map(|rule| (ENTERING, untracked(rule))).collect();
    rules.extend(leaving().map(|rule| (LEAVING, rule)));
    rules.extend(arriving(link_prefix).map(|rule| (ARRIVING, rule)));
    rules.extend(VERSIONS.iter().map(|version| (TO_ENTRANCE, to_entrance(version))));
    let mut elsewhere = Vec::from(of_service(TUNNEL_PORTS));
    elsewhere.push(drop_it());
    rules.push((TO_ENTRANCE, elsewhere));
    rules.extend(from_peers(link_prefix).into_iter().map(|rule| (FROM_PEERS, rule)));
    rules.extend(out_of_a_tunnel(link_prefix).into_iter().map(|rule| (BY_TUNNEL, rule)));
    rules.extend(crossing(link_prefix).map(|rule| (CROSSING, rule)));
    rules.extend(opening(link_prefix).map(|rule| (OPENING, rule)));
    rules.extend(to_peer(link_prefix).into_iter().map(|rule| (TO_PEER, rule)));
    rules
}

/// A node is no router between tunnels, nor between one and its uplinks.
pub(super) fn behind_policy(link_prefix: &str) -> Vec<Rule> {
    let tunnels = Links::Tunnels(link_prefix);
    let to = |mut rule: Vec<Expression>, verdict| {
        rule.push(Expression::verdict(verdict));
        rule
    };
    let beyond = |other: Meta| to(Links::of_none(Expression::meta(other, Register(0)), link_prefix), Verdict::Drop);
    let mut into = tunnels.by(Meta::OutputName);
    into.extend(beyond(Meta::InputName));
    vec![
        (FORWARD.name, to(tunnels.by(Meta::InputName), Verdict::Jump(OUT_OF_TUNNEL))),
        (FORWARD.name, into),
        (OUT_OF_TUNNEL, to(tunnels.by(Meta::OutputName), Verdict::Drop)),
        (OUT_OF_TUNNEL, beyond(Meta::OutputName)),
    ]
}

/// Within the fleet everybody is known by an address of his own. Who has none of the fleet's is not known there.
pub(super) fn unchanged(version: &Version) -> Rule {
    let mut rule = is_version(version);
    for (offset, length) in [version.source, version.destination] {
        rule.push(Expression::network(offset, length, Register(0)));
        rule.push(Expression::in_set(INSIDE[version.index], Register(0)));
    }
    rule.push(Expression::verdict(Verdict::Accept));
    (POSTROUTING.name, rule)
}

fn arriving(link_prefix: &str) -> [Vec<Expression>; 3] {
    [vxlan_arrives(), in_a_tunnel_of_ours(link_prefix), ipip_arrives()]
}

/// Of our network (RFC 7348, 5): another's may share the port. The kernel takes it at any address.
fn vxlan_arrives() -> Vec<Expression> {
    const IDENTIFIER: u32 = 8 + 4;
    let mut rule = is_protocol(UDP);
    rule.push(Expression::transport(IDENTIFIER, 3, Register(0)));
    let [_, identifier @ ..] = NETWORK.to_be_bytes();
    rule.extend([Expression::is(Register(0), &identifier), Expression::verdict(Verdict::Goto(TO_ENTRANCE))]);
    rule
}

/// What is in a tunnel has not been looked at: it does not pass, also not as the answer to what is known, nor out of
/// another tunnel.
fn in_a_tunnel_of_ours(link_prefix: &str) -> Vec<Expression> {
    let mut rule = Links::Routed(link_prefix).by(Meta::InputName);
    rule.extend(in_a_tunnel());
    rule
}

/// The kernel takes it at the tunnel's address only. What comes to another is of somebody else's tunnel.
fn ipip_arrives() -> Vec<Expression> {
    let mut rule = at_ipip_entrance(VERSIONS[0].destination);
    rule.push(Expression::verdict(Verdict::Goto(FROM_PEERS)));
    rule
}

/// Goes on for packets in a tunnel one end of which is this node's; `end` tells which.
fn at_entrances(end: fn(&Version) -> (u32, u32)) -> impl Iterator<Item = Vec<Expression>> {
    VERSIONS.iter().map(move |version| at_entrance(version, end(version))).chain([at_ipip_entrance(end(&VERSIONS[0]))])
}

/// VXLAN's port is the one that it is sent to, whichever end it leaves.
fn at_entrance(version: &Version, (offset, length): (u32, u32)) -> Vec<Expression> {
    let next = length / 4;
    let mut rule = is_version(version);
    rule.extend([
        Expression::network(offset, length, Register(0)),
        Expression::meta(Meta::Transport, Register(next)),
        Expression::transport(2, 2, Register(next + 1)),
        Expression::in_set(ENTRANCES[version.index], Register(0)),
    ]);
    rule
}

fn at_ipip_entrance((offset, length): (u32, u32)) -> Vec<Expression> {
    let mut rule = is_version(&VERSIONS[0]);
    rule.extend(is_protocol(IPIP));
    rule.extend([Expression::network(offset, length, Register(0)), Expression::in_set(IPIP_ENTRANCES, Register(0))]);
    rule
}

/// Nobody answers in kind: to the kernel's tracking each packet would begin a flow, and others' rules might give it another
/// source.
fn leaving() -> impl Iterator<Item = Vec<Expression>> {
    let versions = VERSIONS.iter().chain([&VERSIONS[0]]);
    at_entrances(|version| version.source).zip(versions).map(|(mut rule, version)| {
        rule.extend([destination(version), Expression::in_set(PEERS[version.index], Register(0))]);
        rule.extend([Expression::untrack(), Expression::verdict(Verdict::Accept)]);
        rule
    })
}

fn to_a_peer(version: &Version) -> Vec<Expression> {
    let mut rule = is_version(version);
    rule.extend([destination(version), Expression::in_set(PEERS[version.index], Register(0))]);
    rule
}

/// What a sandbox sends from the tunnel's port, or as IP in IP, may be masqueraded to the entrance: then a peer's packets would
/// be answers to that, and go to the sandbox. What comes by a bridge may be for another port of it, and policy asks only about
/// what is tracked.
fn untracked(mut rule: Vec<Expression>) -> Vec<Expression> {
    rule.extend([Expression::meta(Meta::InputName, Register(0)), Expression::not_in_set(BRIDGES, Register(0))]);
    rule.extend([Expression::untrack(), Expression::verdict(Verdict::Accept)]);
    rule
}

/// A sandbox's VXLAN that is masqueraded looks like its node's. It cannot be sent to an entrance, so nothing is taken elsewhere.
fn to_entrance(version: &Version) -> Vec<Expression> {
    let mut rule = at_entrance(version, version.destination);
    rule.push(Expression::verdict(Verdict::Goto(FROM_PEERS)));
    rule
}

/// Whose source address is a peer's may still be a sandbox. By a routed link it is none: there it has no way back. A peer is no
/// sandbox, and nobody's policy asks more of it.
fn from_peers(link_prefix: &str) -> Vec<Vec<Expression>> {
    let peers = VERSIONS.iter().map(|version| {
        let mut rule = is_version(version);
        rule.extend(Links::of_none(Expression::meta(Meta::InputName, Register(0)), link_prefix));
        rule.extend([source(version), Expression::in_set(PEERS[version.index], Register(0))]);
        rule.push(Expression::verdict(Verdict::Accept));
        rule
    });
    peers.chain([vec![drop_it()]]).collect()
}

/// What is routed back by its tunnel does not come here. A peer's own packets, as it tells of errors on the way, have its address. The fleet's come by a tunnel without a way back
/// by one, while two nodes change from one encapsulation to another.
fn out_of_a_tunnel(link_prefix: &str) -> Vec<Vec<Expression>> {
    let prefix = tunnels_prefix(link_prefix);
    let of_peers = VERSIONS.iter().map(|version| is_from(version, PEERS[version.index], Verdict::Return));
    let mut rules: Vec<_> = of_peers.collect();
    rules.push(vec![
        Expression::way_back_name(Register(0)),
        Expression::is(Register(0), prefix.as_bytes()),
        Expression::verdict(Verdict::Return),
    ]);
    rules.extend(VERSIONS.iter().map(|version| {
        let mut rule = is_version(version);
        rule.extend([source(version), Expression::in_set(INSIDE[version.index], Register(0))]);
        rule.extend([Expression::way_back_name(Register(0)), Expression::is_not(Register(0), &[0; 4])]);
        rule.extend(Links::of_none(Expression::way_back_name(Register(0)), link_prefix));
        rule.push(Expression::verdict(Verdict::Return));
        rule
    }));
    rules.push(vec![drop_it()]);
    rules
}

fn crossing(link_prefix: &str) -> [Vec<Expression>; 3] {
    let mut vxlan = Vec::from(of_service(TUNNEL_PORTS));
    vxlan.push(Expression::verdict(Verdict::Goto(TO_PEER)));
    let mut ip_in_ip = Vec::from(is_in_a_tunnel());
    ip_in_ip.push(Expression::verdict(Verdict::Goto(TO_PEER)));
    [vxlan, in_a_tunnel_of_ours(link_prefix), ip_in_ip]
}

/// What a sandbox sends to a peer may take the node's address, which the peer trusts.
fn to_peer(link_prefix: &str) -> Vec<Vec<Expression>> {
    let mut others = Links::of_none(Expression::meta(Meta::InputName, Register(0)), link_prefix);
    others.push(Expression::verdict(Verdict::Return));
    let to_peers = VERSIONS.iter().map(|version| {
        let mut rule = to_a_peer(version);
        rule.push(drop_it());
        rule
    });
    [others].into_iter().chain(to_peers).collect()
}

/// The sandbox's own interface may be wider than the tunnel.
fn opening(link_prefix: &str) -> [Vec<Expression>; 3] {
    let mut others = vec![Expression::meta(Meta::Transport, Register(0)), Expression::is_not(Register(0), &[TCP])];
    others.push(Expression::verdict(Verdict::Return));
    let [there, back] = [Meta::OutputName, Meta::InputName].map(|name| {
        let mut rule = Links::Tunnels(link_prefix).by(name);
        rule.extend(Expression::clamp_segments(Register(0)));
        rule
    });
    [others, there, back]
}

/// Goes on if the set has the packet's protocol and port.
fn of_service(set: &str) -> [Expression; 3] {
    [
        Expression::meta(Meta::Transport, Register(0)),
        Expression::transport(2, 2, Register(1)),
        Expression::in_set(set, Register(0)),
    ]
}

fn is_from(version: &Version, set: &str, then: Verdict) -> Vec<Expression> {
    let mut rule = is_version(version);
    rule.extend([source(version), Expression::in_set(set, Register(0)), Expression::verdict(then)]);
    rule
}

fn source(version: &Version) -> Expression {
    Expression::network(version.source.0, version.source.1, Register(0))
}

fn destination(version: &Version) -> Expression {
    Expression::network(version.destination.0, version.destination.1, Register(0))
}

fn is_protocol(protocol: u8) -> Vec<Expression> {
    vec![Expression::meta(Meta::Transport, Register(0)), Expression::is(Register(0), &[protocol])]
}

fn drop_it() -> Expression {
    Expression::verdict(Verdict::Drop)
}
