//! The fixed part of the ruleset, as data: sets, chains, rules. It never changes while netd runs; elements do.

mod fabric;
pub(crate) mod guard;
pub(crate) mod policy;
mod sets;
mod vlan;

use std::sync::LazyLock;

use netd_netlink::nft::{self, Chain, ChainKind, Expression, Family, Hook, Meta, Register, Request, Status, Verdict};

use super::super::fabric::tunnels_prefix;
pub(super) use sets::*;

const PREROUTING: Chain = Chain { name: "prerouting", kind: ChainKind::Nat, hook: Hook::Prerouting, priority: -100 };
const OUTPUT: Chain = Chain { name: "output", kind: ChainKind::Nat, hook: Hook::Output, priority: -100 };
const POSTROUTING: Chain = Chain { name: "postrouting", kind: ChainKind::Nat, hook: Hook::Postrouting, priority: 100 };
const FORWARD: Chain = Chain { name: "forward", kind: ChainKind::Filter, hook: Hook::Forward, priority: 0 };
const INPUT: Chain = Chain { name: "node_in", kind: ChainKind::Filter, hook: Hook::Input, priority: 0 };
const NODE_OUT: Chain = Chain { name: "node_out", kind: ChainKind::Filter, hook: Hook::Output, priority: 0 };
const RAW: Chain = Chain { name: "raw_prerouting", kind: ChainKind::Filter, hook: Hook::Prerouting, priority: -300 };
const RAW_OUT: Chain = Chain { name: "raw_output", kind: ChainKind::Filter, hook: Hook::Output, priority: -300 };
/// In the bridge family, before the bridge looks at a frame.
const PORT_IN: Chain = Chain { name: "prerouting", kind: ChainKind::Filter, hook: Hook::Prerouting, priority: -300 };
/// In the bridge family, for each port that a frame would leave by.
const PORT_OUT: Chain = Chain { name: "forward", kind: ChainKind::Filter, hook: Hook::Forward, priority: -300 };
const TO_LOOPBACK: &str = "to_loopback";
const BY_LINK: &str = "by_link";
const BY_ANOTHER: &str = "by_another";

/// An IP version, with what differs between the two.
struct Version {
    index: usize,
    number: u8,
    family: u8,
    source: (u32, u32),
    destination: (u32, u32),
}

const VERSIONS: [Version; 2] = [
    Version { index: 0, number: 4, family: 2, source: (12, 4), destination: (16, 4) },
    Version { index: 1, number: 6, family: 10, source: (8, 16), destination: (24, 16) },
];

/// A chain's name, and a rule of it.
type Rule = (&'static str, Vec<Expression>);

/// Two skeletons with the same mark are the same.
pub(crate) static MARK: LazyLock<u64> = LazyLock::new(|| {
    // FNV-1a over what is sent: any change of a set, chain or rule gives another mark.
    let text = format!("{:?}", build("", "", 0, &[]));
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
});

/// The skeleton, with its mark.
pub(super) fn requests(table: &str, link_prefix: &str, flags: u32) -> Vec<Request> {
    build(table, link_prefix, flags, &MARK.to_ne_bytes())
}

pub(super) fn read_mark(userdata: &[u8]) -> Option<u64> {
    userdata.first_chunk().map(|mark| u64::from_ne_bytes(*mark))
}

pub(super) fn rule_count() -> usize {
    rules("").len() + port_rules("").len()
}

fn build(table: &str, link_prefix: &str, flags: u32, mark: &[u8]) -> Vec<Request> {
    let base = [RAW, RAW_OUT, PREROUTING, OUTPUT, INPUT, NODE_OUT, FORWARD, POSTROUTING];
    let inner: Vec<_> = policy::chains()
        .into_iter()
        .chain(fabric::CHAINS)
        .chain([TO_LOOPBACK, BY_LINK, BY_ANOTHER, vlan::UNTRACKED])
        .collect();
    let mut requests = part(Family::Inet, table, (flags, mark), (&base, &inner, &rules(link_prefix)));
    requests.extend(policy::elements(table));
    requests.extend(guard::elements(table));
    let rules = port_rules(link_prefix);
    let inner: Vec<_> = guard::CHAINS.into_iter().chain([vlan::TO_GATEWAYS]).collect();
    requests.extend(part(Family::Bridge, table, (flags, mark), (&[PORT_IN, PORT_OUT], &inner, &rules)));
    requests.extend(guard::port_elements(table));
    requests
}

/// A table, with all in it but the elements of its sets.
fn part(
    family: Family,
    table: &str,
    (flags, mark): (u32, &[u8]),
    (base, inner, rules): (&[Chain], &[&'static str], &[Rule]),
) -> Vec<Request> {
    let mut requests = vec![nft::table(family, table, flags, mark)];
    let sets = (1..).zip(SETS).filter(|(_, (of, _))| *of == family);
    requests.extend(sets.map(|(id, (_, set))| nft::set(family, table, set, id)));
    requests.extend(base.iter().map(|chain| nft::chain(family, table, *chain)));
    requests.extend(inner.iter().map(|chain| nft::inner_chain(family, table, chain)));
    requests.extend(rules.iter().map(|(chain, rule)| nft::rule(family, table, chain, rule)));
    requests
}

/// A packet of a known flow meets two or three rules in `raw` and two where it is forwarded: what few packets are asked stands in
/// chains of its own, behind the one question that tells who these are.
fn rules(link_prefix: &str) -> Vec<Rule> {
    let [bridges, routed] = [Links::Bridges, Links::Routed(link_prefix)];
    let mut rules = vec![(RAW.name, to_loopback()), (RAW.name, by_a_link_of_ours(routed))];
    rules.extend([bridges, routed].map(|links| (TO_LOOPBACK, no_loopback_from_a_sandbox(links))));
    rules.extend(fabric::ahead_of_known());
    rules.extend(from_a_link_of_ours(link_prefix));
    rules.extend(from_somebody_elses_link(link_prefix));
    rules.extend([PREROUTING, OUTPUT].map(|chain| (chain.name, to_others())));
    for version in &VERSIONS {
        for chain in [PREROUTING, OUTPUT] {
            rules.push((chain.name, to_published(version, chain, true)));
            rules.push((chain.name, to_published(version, chain, false)));
        }
    }
    for chain in [INPUT, FORWARD, NODE_OUT] {
        rules.extend(policy::known().map(|rule| (chain.name, rule)));
    }
    rules.extend(fabric::behind_known());
    rules.extend(vlan::forward(FORWARD.name));
    rules.extend(policy::hooks(INPUT.name, FORWARD.name, NODE_OUT.name));
    rules.extend(fabric::behind_policy(link_prefix));
    rules.extend(forward(link_prefix));
    rules.push((POSTROUTING.name, to_a_routed_sandbox(link_prefix)));
    for version in &VERSIONS {
        rules.push((POSTROUTING.name, published_on_its_own_bridge(version)));
        rules.push(fabric::unchanged(version));
        rules.extend(masquerade(version, link_prefix).map(|rule| (POSTROUTING.name, rule)));
    }
    rules.extend([bridges, routed].map(|links| (POSTROUTING.name, published_from_loopback(links))));
    rules.extend(policy::rules());
    rules.extend(fabric::rules(link_prefix));
    rules
}

fn port_rules(link_prefix: &str) -> Vec<Rule> {
    let unflooded = unflooded(link_prefix).into_iter().map(|rule| (guard::UNFLOODED, rule));
    guard::rules(PORT_IN.name, PORT_OUT.name)
        .into_iter()
        .chain(unflooded)
        .chain(vlan::port_rules(PORT_IN.name, PORT_OUT.name, link_prefix))
        .collect()
}

/// Links of the node that lead to sandboxes, here or at a peer's.
#[derive(Clone, Copy)]
enum Links<'a> {
    /// Those of the set [`BRIDGES`].
    Bridges,
    /// Host ends that are no ports: what a port receives comes by its bridge here. All our links begin so; a tunnel's
    /// packets are not asked about where these are.
    Routed(&'a str),
    /// Of our links, those to peers.
    Tunnels(&'a str),
}

impl Links<'_> {
    /// Goes on for a packet by one of them.
    fn by(self, name: Meta) -> Vec<Expression> {
        let load = Expression::meta(name, Register(0));
        match self {
            Self::Bridges => vec![load, Expression::in_set(BRIDGES, Register(0))],
            Self::Routed(prefix) => vec![load, Expression::is(Register(0), prefix.as_bytes())],
            Self::Tunnels(prefix) => vec![load, Expression::is(Register(0), tunnels_prefix(prefix).as_bytes())],
        }
    }

    /// Goes on if the name that is loaded is none of them all.
    fn of_none(load: Expression, link_prefix: &str) -> Vec<Expression> {
        let is_no_link = Expression::is_not(Register(0), link_prefix.as_bytes());
        vec![load, is_no_link, Expression::not_in_set(BRIDGES, Register(0))]
    }
}

fn by_a_link_of_ours(routed: Links<'_>) -> Vec<Expression> {
    let mut rule = routed.by(Meta::InputName);
    rule.push(Expression::verdict(Verdict::Goto(BY_LINK)));
    rule
}

/// A sandbox sends under its own addresses only, and nothing once its way is gone; the node takes no router's word from
/// it. Neighbours are found all the same: a solicitation may come from a link-local address, which has no way, or from none at
/// all. From such, nothing is routed (`ip6_forward`, net/ipv6). Every packet
/// of a routed link or a tunnel comes here, known or not: what is as it should be is through with one rule.
fn from_a_link_of_ours(link_prefix: &str) -> Vec<Rule> {
    let rule = |mut rule: Vec<Expression>, verdict| {
        rule.push(Expression::verdict(verdict));
        (BY_LINK, rule)
    };
    vec![
        rule(Expression::way_back(Register(0)).into(), Verdict::Accept),
        rule(Links::Tunnels(link_prefix).by(Meta::InputName), Verdict::Goto(fabric::BY_TUNNEL)),
        rule(finds_neighbours(from_link_local()), Verdict::Accept),
        rule(finds_neighbours(from_nobody()), Verdict::Accept),
        rule(Vec::new(), Verdict::Drop),
    ]
}

/// A sandbox's address is no other's: what begins by a link that is none of ours is not from who has his way by one. Of the
/// packets of a known flow none comes to a chain of address translation.
fn from_somebody_elses_link(link_prefix: &str) -> Vec<Rule> {
    let with = |mut rule: Vec<Expression>, verdict| {
        rule.push(Expression::verdict(verdict));
        rule
    };
    let no_link =
        vec![Expression::meta(Meta::InputName, Register(0)), Expression::is_not(Register(0), link_prefix.as_bytes())];
    let no_way_by_ours = Links::of_none(Expression::way_back_name(Register(0)), link_prefix);
    // Nodes may send each other by more than one way.
    let prefix = tunnels_prefix(link_prefix);
    let by_tunnel = vec![Expression::way_back_name(Register(0)), Expression::is(Register(0), prefix.as_bytes())];
    vec![
        (PREROUTING.name, with(no_link, Verdict::Jump(BY_ANOTHER))),
        (BY_ANOTHER, with(Links::Bridges.by(Meta::InputName), Verdict::Return)),
        (BY_ANOTHER, with(no_way_by_ours, Verdict::Return)),
        (BY_ANOTHER, with(by_tunnel, Verdict::Return)),
        (BY_ANOTHER, with(Vec::new(), Verdict::Drop)),
    ]
}

fn finds_neighbours(from: Vec<Expression>) -> Vec<Expression> {
    let mut rule = is_version(&VERSIONS[1]);
    rule.extend(is_icmpv6());
    rule.push(Expression::transport(0, 1, Register(0)));
    rule.push(Expression::in_range(Register(0), &[NEIGHBOUR_SOLICITATION], &[NEIGHBOUR_ADVERTISEMENT]));
    rule.extend(is_of_the_link());
    rule.extend(from);
    rule
}

/// fe80::/10.
fn from_link_local() -> Vec<Expression> {
    vec![
        Expression::network(VERSIONS[1].source.0, 4, Register(0)),
        Expression::mask(Register(0), [0xff, 0xc0, 0, 0]),
        Expression::is(Register(0), &[0xfe, 0x80, 0, 0]),
    ]
}

fn from_nobody() -> Vec<Expression> {
    vec![Expression::network(VERSIONS[1].source.0, 16, Register(0)), Expression::is(Register(0), &[0; 16])]
}

/// Of IPv6: no router has passed it on (RFC 4861, 7.1).
fn is_of_the_link() -> [Expression; 2] {
    const HOP_LIMIT: u32 = 7;
    [Expression::network(HOP_LIMIT, 1, Register(0)), Expression::is(Register(0), &[255])]
}

/// The octet that nearly no packet has there.
fn to_loopback() -> Vec<Expression> {
    let octet = Expression::network(VERSIONS[0].destination.0, 1, Register(0));
    vec![octet, Expression::is(Register(0), &[127]), Expression::verdict(Verdict::Jump(TO_LOOPBACK))]
}

/// 127/8 leads into our links only for what the node itself sends: `route_localnet` stands on them.
fn no_loopback_from_a_sandbox(links: Links<'_>) -> Vec<Expression> {
    let mut rule = is_version(&VERSIONS[0]);
    rule.extend(links.by(Meta::InputName));
    rule.push(Expression::verdict(Verdict::Drop));
    rule
}

/// `fib daddr type != local accept`: what is for others is none of ours, by whatever port.
fn to_others() -> Vec<Expression> {
    let mut rule = Vec::from(Expression::destined_elsewhere(Register(0)));
    rule.push(Expression::verdict(Verdict::Accept));
    rule
}

/// `dnat to [address .] protocol . port map @...`
fn to_published(version: &Version, chain: Chain, by_address: bool) -> Vec<Expression> {
    let mut rule = is_version(version);
    let (offset, length) = version.destination;
    if version.family == 10 && chain == OUTPUT {
        // Answers to ::1 would come from another address than it: netd accepts there itself.
        let mut loopback = [0; 16];
        loopback[15] = 1;
        rule.push(Expression::network(offset, length, Register(0)));
        rule.push(Expression::is_not(Register(0), &loopback));
    }
    let mut next = 0;
    if by_address {
        rule.push(Expression::network(offset, length, Register(0)));
        next = length / 4;
    }
    rule.push(Expression::meta(Meta::Transport, Register(next)));
    rule.push(Expression::transport(2, 2, Register(next + 1)));
    let map = if by_address { HOST_PORTS[version.index] } else { PORTS[version.index] };
    rule.push(Expression::map(map, Register(0), Register(0)));
    rule.push(Expression::destination_nat(version.family.into(), Register(0), Register(length / 4)));
    rule
}

fn forward(link_prefix: &str) -> Vec<Rule> {
    let accept = |mut rule: Vec<Expression>, verdict| {
        rule.push(Expression::verdict(verdict));
        (FORWARD.name, rule)
    };
    let mut fenced = in_names(Meta::InputName, FENCED);
    fenced.extend(in_names(Meta::OutputName, FENCED));
    fenced.extend([
        Expression::meta(Meta::InputName, Register(0)),
        Expression::meta(Meta::OutputName, Register(4)),
        Expression::not_in_set(SAME, Register(0)),
    ]);
    let mut guarded = Vec::new();
    for name in [Meta::InputName, Meta::OutputName] {
        guarded.extend(Links::of_none(Expression::meta(name, Register(0)), link_prefix));
    }
    guarded.extend([Expression::meta(Meta::Family, Register(0)), Expression::in_set(GUARDED, Register(0))]);
    vec![
        accept(Expression::connection(Status::DestinationChanged, Register(0)).into(), Verdict::Accept),
        accept(fenced, Verdict::Drop),
        accept(guarded, Verdict::Drop),
    ]
}

/// To a routed sandbox everybody speaks as himself, but for who came by a published port, or from 127/8. IPv6 whose address has
/// that octet there goes the longer way.
fn to_a_routed_sandbox(link_prefix: &str) -> Vec<Expression> {
    let mut rule = Links::Routed(link_prefix).by(Meta::OutputName);
    rule.push(Expression::is_not(Register(0), tunnels_prefix(link_prefix).as_bytes()));
    rule.extend([Expression::network(VERSIONS[0].source.0, 1, Register(0)), Expression::is_not(Register(0), &[127])]);
    let [load, mask, _] = Expression::connection(Status::DestinationChanged, Register(0));
    rule.extend([load, mask, Expression::is(Register(0), &[0; 4]), Expression::verdict(Verdict::Accept)]);
    rule
}

/// A sandbox that comes back to its own bridge or link by a published port must hear the answer from where it asked.
fn published_on_its_own_bridge(version: &Version) -> Vec<Expression> {
    let mut rule = is_version(version);
    rule.extend(Expression::connection(Status::DestinationChanged, Register(0)));
    rule.extend(at_home(version));
    rule.extend([Expression::in_set(HOME[version.index], Register(0)), Expression::masquerade()]);
    rule
}

/// What the node sends from 127/8 to a published port.
fn published_from_loopback(links: Links<'_>) -> Vec<Expression> {
    let mut rule = is_version(&VERSIONS[0]);
    rule.extend([
        Expression::network(VERSIONS[0].source.0, 4, Register(0)),
        Expression::mask(Register(0), [0xff, 0, 0, 0]),
        Expression::is(Register(0), &[127, 0, 0, 0]),
    ]);
    rule.extend(links.by(Meta::OutputName));
    rule.push(Expression::masquerade());
    rule
}

/// To whom a link of its own leads, a sandbox's address is known. By a tunnel, those of the fleet are.
fn masquerade(version: &Version, link_prefix: &str) -> [Vec<Expression>; 2] {
    let past_ours =
        vec![Expression::meta(Meta::OutputName, Register(0)), Expression::is_not(Register(0), link_prefix.as_bytes())];
    let by_tunnel = Links::Tunnels(link_prefix).by(Meta::OutputName);
    [past_ours, by_tunnel].map(|links| {
        let mut rule = is_version(version);
        rule.extend(links);
        rule.push(Expression::network(version.source.0, version.source.1, Register(0)));
        rule.push(Expression::in_set(MASQ[version.index], Register(0)));
        rule.extend(at_home(version));
        rule.push(Expression::not_in_set(HOME[version.index], Register(0)));
        // Multicast: 224/4 and ff00::/8.
        let (mask, prefix) = if version.family == 2 { (0xf0, 0xe0) } else { (0xff, 0xff) };
        rule.extend([
            Expression::network(version.destination.0, 4, Register(0)),
            Expression::mask(Register(0), [mask, 0, 0, 0]),
            Expression::is_not(Register(0), &[prefix, 0, 0, 0]),
            Expression::masquerade(),
        ]);
        rule
    })
}

/// Loads source address and outgoing interface, as the sets `home4` and `home6` have them.
fn at_home(version: &Version) -> [Expression; 2] {
    let (offset, length) = version.source;
    [Expression::network(offset, length, Register(0)), Expression::meta(Meta::OutputName, Register(length / 4))]
}

fn in_names(name: Meta, set: &str) -> Vec<Expression> {
    vec![Expression::meta(name, Register(0)), Expression::in_set(set, Register(0))]
}

fn is_version(version: &Version) -> Vec<Expression> {
    vec![Expression::meta(Meta::Family, Register(0)), Expression::is(Register(0), &[version.family])]
}

/// By the header itself: cheaper than the family, and as true where the kernel has looked at the header.
fn has_version(version: u8) -> [Expression; 3] {
    [
        Expression::network(0, 1, Register(0)),
        Expression::mask(Register(0), [0xf0, 0, 0, 0]),
        Expression::is(Register(0), &[version << 4]),
    ]
}

/// Types of ICMPv6 (RFC 4861, RFC 3810).
const ROUTER_SOLICITATION: u8 = 133;
const NEIGHBOUR_SOLICITATION: u8 = 135;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
const LISTENER_REPORT: u8 = 143;

const ICMPV6: u8 = 58;

fn of_icmpv6(kind: u8) -> [Expression; 4] {
    let [transport, is_icmpv6] = is_icmpv6();
    [transport, is_icmpv6, Expression::transport(0, 1, Register(0)), Expression::is(Register(0), &[kind])]
}

fn is_icmpv6() -> [Expression; 2] {
    [Expression::meta(Meta::Transport, Register(0)), Expression::is(Register(0), &[ICMPV6])]
}

/// Multicast listener reports, router solicitations and duplicate address probes of a sandbox flood every port of its
/// bridge, so that an attach costs the more the more ports there are. Nobody on the bridge needs them: netd gives the
/// addresses, and the bridge floods multicast without reports.
fn unflooded(link_prefix: &str) -> Vec<Vec<Expression>> {
    let of_ours = |kind: u8, unspecified: bool| {
        // Of all frames, few are that.
        let mut rule = Vec::from(of_icmpv6(kind));
        rule.extend([
            Expression::meta(Meta::InputName, Register(0)),
            Expression::is(Register(0), link_prefix.as_bytes()),
        ]);
        if unspecified {
            rule.extend(from_nobody());
        }
        rule.push(Expression::verdict(Verdict::Drop));
        rule
    };
    vec![of_ours(LISTENER_REPORT, false), of_ours(ROUTER_SOLICITATION, false), of_ours(NEIGHBOUR_SOLICITATION, true)]
}
