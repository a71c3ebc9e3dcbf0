//! The rules of tunnels: who may send encapsulated packets, what may come out of one, where it may go on to. Which devices
//! and routes there are, `linux/fabric` knows; who is a peer, and what is the fleet's, the sets.
//!
//! ```text
//! raw          encapsulated for this node ─▶ from_peers: of our links ─▶ drop; by a peer ─▶ on; drop
//!              (VXLAN: to an address that is no entrance ─▶ drop)
//!              by a tunnel ─▶ by_tunnel: IP in IP ─▶ drop; of a peer, or routed back by a tunnel ─▶ on;
//!                             the fleet's, and routed back past our links ─▶ on; drop
//! forward      to a peer ─▶ to_peer: of our links and encapsulated ─▶ drop
//!              TCP that opens, by a tunnel either way ─▶ segments no larger than fit
//!              (known ─▶ accept, and policy: as for any other packet)
//!              by a tunnel, and not from or to our bridges and routed links ─▶ drop
//! postrouting  from the fleet's to the fleet's ─▶ no masquerade
//! ```
//!
//! Sandboxes of a peer are no other network of this node: a fence does not keep them out, a policy does.

use netd_netlink::nft::{Expression, Meta, Register, Verdict};

use super::sets::{ENTRANCES, INSIDE, IPIP_ENTRANCES, PEERS, TUNNEL_PORTS};
use super::{FORWARD, Links, POSTROUTING, RAW, Rule, VERSIONS, Version, is_version};
use crate::linux::fabric::{NETWORK, tunnels_prefix};

const TO_ENTRANCE: &str = "to_entrance";
const FROM_PEERS: &str = "from_peers";
const BY_TUNNEL: &str = "by_tunnel";
const TO_PEER: &str = "to_peer";
pub(super) const CHAINS: [&str; 4] = [TO_ENTRANCE, FROM_PEERS, BY_TUNNEL, TO_PEER];

const IPIP: u8 = 4;
const TCP: u8 = 6;
const UDP: u8 = 17;

/// Ahead of what routed links are asked: their names begin as those of tunnels do.
pub(super) fn raw(link_prefix: &str) -> Vec<Rule> {
    let mut by_tunnel = Links::Tunnels(link_prefix).by(Meta::InputName);
    by_tunnel.push(Expression::verdict(Verdict::Goto(BY_TUNNEL)));
    [vxlan_arrives(), ipip_arrives(), by_tunnel].map(|rule| (RAW.name, rule)).into()
}

/// The chains that [`raw`] and [`ahead_of_known`] lead to.
pub(super) fn rules(link_prefix: &str) -> Vec<Rule> {
    let mut rules: Vec<Rule> = VERSIONS.iter().map(|version| (TO_ENTRANCE, to_entrance(version))).collect();
    rules.push((TO_ENTRANCE, vec![drop_it()]));
    rules.extend(from_peers(link_prefix).into_iter().map(|rule| (FROM_PEERS, rule)));
    rules.extend(out_of_a_tunnel(link_prefix).into_iter().map(|rule| (BY_TUNNEL, rule)));
    rules.extend(to_peer(link_prefix).map(|rule| (TO_PEER, rule)));
    rules
}

/// What holds for packets of known flows too.
pub(super) fn ahead_of_known(link_prefix: &str) -> Vec<Rule> {
    let tunnels = Links::Tunnels(link_prefix);
    let mut rules: Vec<Rule> = VERSIONS.iter().map(|version| (FORWARD.name, asked_if_to_peer(version))).collect();
    rules.extend([Meta::OutputName, Meta::InputName].map(|name| (FORWARD.name, clamped(tunnels.by(name)))));
    rules
}

/// A node is no router between tunnels, nor between one and its uplinks.
pub(super) fn behind_policy(link_prefix: &str) -> Vec<Rule> {
    let tunnels = Links::Tunnels(link_prefix);
    let beyond = |one: Meta, other: Meta| {
        let mut rule = tunnels.by(one);
        rule.extend(Links::of_none(Expression::meta(other, Register(0)), link_prefix));
        rule.push(drop_it());
        rule
    };
    let mut between = tunnels.by(Meta::InputName);
    between.extend(tunnels.by(Meta::OutputName));
    between.push(drop_it());
    let rules = [between, beyond(Meta::InputName, Meta::OutputName), beyond(Meta::OutputName, Meta::InputName)];
    rules.map(|rule| (FORWARD.name, rule)).into()
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

/// For this node, of our network (RFC 7348, 5): another's may share the port. The kernel takes it at any address.
fn vxlan_arrives() -> Vec<Expression> {
    const IDENTIFIER: u32 = 8 + 4;
    let mut rule = is_protocol(UDP);
    rule.extend(of_service(TUNNEL_PORTS));
    rule.push(Expression::transport(IDENTIFIER, 3, Register(0)));
    let [_, identifier @ ..] = NETWORK.to_be_bytes();
    rule.push(Expression::is(Register(0), &identifier));
    rule.extend(Expression::ends_here(Register(0)));
    rule.push(Expression::verdict(Verdict::Jump(TO_ENTRANCE)));
    rule
}

/// The kernel takes it at the tunnel's address only. What comes to another is of somebody else's tunnel.
fn ipip_arrives() -> Vec<Expression> {
    let version = &VERSIONS[0];
    let mut rule = is_version(version);
    rule.extend(is_protocol(IPIP));
    rule.extend([
        destination(version),
        Expression::in_set(IPIP_ENTRANCES, Register(0)),
        Expression::verdict(Verdict::Jump(FROM_PEERS)),
    ]);
    rule
}

/// A sandbox's VXLAN that is masqueraded looks like its node's. It cannot be sent to an entrance, so nothing is taken elsewhere.
fn to_entrance(version: &Version) -> Vec<Expression> {
    let next = version.destination.1 / 4;
    let mut rule = is_version(version);
    rule.extend([
        destination(version),
        Expression::meta(Meta::Transport, Register(next)),
        Expression::transport(2, 2, Register(next + 1)),
        Expression::in_set(ENTRANCES[version.index], Register(0)),
        Expression::verdict(Verdict::Goto(FROM_PEERS)),
    ]);
    rule
}

/// Whose source address is a peer's may still be a sandbox. By a routed link it is none: there it has no way back.
fn from_peers(link_prefix: &str) -> Vec<Vec<Expression>> {
    let of_ours = [Links::Bridges, Links::Tunnels(link_prefix)].map(|links| {
        let mut rule = links.by(Meta::InputName);
        rule.push(drop_it());
        rule
    });
    let peers = VERSIONS.iter().map(|version| is_from(version, PEERS[version.index], Verdict::Return));
    of_ours.into_iter().chain(peers).chain([vec![drop_it()]]).collect()
}

/// A peer's own packets, as it tells of errors on the way, have its address. The fleet's come by a tunnel without a way back
/// by one, while two nodes change from one encapsulation to another.
fn out_of_a_tunnel(link_prefix: &str) -> Vec<Vec<Expression>> {
    let prefix = tunnels_prefix(link_prefix);
    let mut rules = vec![super::guard::in_a_tunnel()];
    rules.extend(VERSIONS.iter().map(|version| is_from(version, PEERS[version.index], Verdict::Return)));
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

fn asked_if_to_peer(version: &Version) -> Vec<Expression> {
    let mut rule = is_version(version);
    rule.extend([destination(version), Expression::in_set(PEERS[version.index], Register(0))]);
    rule.push(Expression::verdict(Verdict::Jump(TO_PEER)));
    rule
}

/// What a sandbox sends to a peer may take the node's address, which the peer trusts.
fn to_peer(link_prefix: &str) -> [Vec<Expression>; 3] {
    let mut others = Links::of_none(Expression::meta(Meta::InputName, Register(0)), link_prefix);
    others.push(Expression::verdict(Verdict::Return));
    let mut vxlan = is_protocol(UDP);
    vxlan.extend(of_service(TUNNEL_PORTS));
    vxlan.push(drop_it());
    [others, super::guard::in_a_tunnel(), vxlan]
}

/// The sandbox's own interface may be wider than the tunnel.
fn clamped(mut rule: Vec<Expression>) -> Vec<Expression> {
    const SYN: u8 = 0x02;
    rule.extend(is_protocol(TCP));
    rule.extend([
        Expression::transport(13, 1, Register(0)),
        Expression::mask(Register(0), [SYN, 0, 0, 0]),
        Expression::is(Register(0), &[SYN]),
    ]);
    rule.extend(Expression::clamp_segments(Register(0)));
    rule
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
