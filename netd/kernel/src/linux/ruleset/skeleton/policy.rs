//! The rules of policy: which flows are asked about, who their ends are, what is decided, and what a refusal is.
//!
//! ```text
//! forward   known, or told of such ─▶ accept; cut ─▶ refuse; TCP that nobody saw begin, of an isolated sandbox ─▶ refuse;
//!           isolated ─▶ to_isolated4 … from_isolated6, and on behind this rule if allowed
//! node_in, node_out   the same, but for who is isolated from its node ─▶ from_ and to_isolated_of_node4, 6
//! to_isolated4        from a sandbox to itself ─▶ allowed
//!           with ports, ICMP, other ─▶ one chain each:
//!             class of subject . class of peer ─▶ pairs_in ─▶ profiles ─▶ decisions
//!             class of subject . block of peer ─▶ pairs_in ─▶ profiles ─▶ decisions
//!             class of subject                 ─▶ any_in   ─▶ profiles ─▶ decisions
//!             deny
//! to_isolated_of_node4   class of subject . NODE ─▶ pairs_in ─▶ profiles ─▶ decisions; else allowed
//! ```
//!
//! Only the first packet of an isolated sandbox's flow comes here, and meets as many look-ups whatever is in the sets.

use netd_netlink::nft::{self, Element, Expression, Family, Meta, Refusal, Register, Request, Status, Verdict};

use super::sets::{
    ANY, BLOCK, CLASS, CUT, DECISIONS, EGRESS, INGRESS, ITSELF, NODE_EGRESS, NODE_INGRESS, PAIRS, PORTED, PROFILES,
    SILENT,
};
use super::{LISTENER_REPORT, ROUTER_SOLICITATION, Rule, VERSIONS, Version, is_of_the_link, is_version};
use crate::object::Class;

/// Whoever wants to hear of refused packets listens to this group (NFLOG).
pub const LOG_GROUP: u16 = 0x6e64;
/// What the log says of a packet that was denied.
pub const LOGGED_DENY: &str = "netd deny";
/// Of one that opened what a policy with `netd/log` allows.
pub const LOGGED_ALLOW: &str = "netd allow";
/// Of one that a policy in audit mode would have denied.
pub const LOGGED_AUDIT: &str = "netd audit";
/// Packets a second that are told, beyond the first so many.
const TOLD_A_SECOND: u64 = 50;
const TOLD_AT_ONCE: u32 = 200;

const DENY: &str = "deny";
const REFUSE: &str = "refuse";
const LOST: &str = "lost";
const BEGUN: &str = "begun";
const ERRORS: &str = "errors";
const LOGGED: &str = "logged";
const AUDITED: &str = "audited";

const ICMP: u8 = 1;
const TCP: u8 = 6;
const ICMPV6: u8 = 58;
/// Types of ICMPv6 (RFC 2710, RFC 4861).
const LISTENER_QUERY: u8 = 130;
const LISTENER_DONE: u8 = 132;
const REDIRECT: u8 = 137;
/// TCP, UDP, DCCP, SCTP, UDP-Lite.
pub(in crate::linux::ruleset) const WITH_PORTS: [u8; 5] = [TCP, 17, 33, 132, 136];
/// The flag of a packet that opens a connection, without ACK.
const SYN: u8 = 0x02;
const RST: u8 = 0x04;

/// What is decided, as the map `profiles` has it.
pub(in crate::linux::ruleset) const ALLOW: u32 = 0;
pub(in crate::linux::ruleset) const ALLOW_LOGGED: u32 = 1;
pub(in crate::linux::ruleset) const REFUSED: u32 = 2;
pub(in crate::linux::ruleset) const AUDIT: u32 = 3;

/// A number as a map's value; see `numbered`.
pub(in crate::linux::ruleset) fn numbered_value(number: u32) -> Vec<u8> {
    [[0; 4], number.to_ne_bytes()].concat()
}

/// How the port of a protocol is read.
#[derive(Clone, Copy)]
enum Kind {
    Ported,
    Icmp,
    Other,
}

/// One direction in one IP version: where its isolated subjects are, and its chains.
struct Way {
    version: usize,
    /// The subject is the source.
    is_egress: bool,
    subjects: &'static str,
    node_subjects: &'static str,
    chain: &'static str,
    node_chain: &'static str,
    kinds: [(&'static str, Kind); 3],
}

const fn kinds(names: [&'static str; 3]) -> [(&'static str, Kind); 3] {
    [(names[0], Kind::Ported), (names[1], Kind::Icmp), (names[2], Kind::Other)]
}

/// Also the order in which an isolated destination, then an isolated source is asked about.
const WAYS: [Way; 4] = [
    Way {
        version: 0,
        is_egress: false,
        subjects: INGRESS[0],
        node_subjects: NODE_INGRESS[0],
        chain: "to_isolated4",
        node_chain: "to_isolated_of_node4",
        kinds: kinds(["to_ports4", "to_icmp4", "to_other4"]),
    },
    Way {
        version: 1,
        is_egress: false,
        subjects: INGRESS[1],
        node_subjects: NODE_INGRESS[1],
        chain: "to_isolated6",
        node_chain: "to_isolated_of_node6",
        kinds: kinds(["to_ports6", "to_icmp6", "to_other6"]),
    },
    Way {
        version: 0,
        is_egress: true,
        subjects: EGRESS[0],
        node_subjects: NODE_EGRESS[0],
        chain: "from_isolated4",
        node_chain: "from_isolated_of_node4",
        kinds: kinds(["from_ports4", "from_icmp4", "from_other4"]),
    },
    Way {
        version: 1,
        is_egress: true,
        subjects: EGRESS[1],
        node_subjects: NODE_EGRESS[1],
        chain: "from_isolated6",
        node_chain: "from_isolated_of_node6",
        kinds: kinds(["from_ports6", "from_icmp6", "from_other6"]),
    },
];

pub(super) fn chains() -> Vec<&'static str> {
    let ways =
        WAYS.iter().flat_map(|way| [way.chain, way.node_chain].into_iter().chain(way.kinds.map(|(name, _)| name)));
    [DENY, REFUSE, LOST, BEGUN, ERRORS, LOGGED, AUDITED].into_iter().chain(ways).collect()
}

/// What stands in the sets from the start. A profile that is not there denies, who has no class is looked for in the blocks,
/// and an address in no block is the world.
pub(super) fn elements(table: &str) -> Vec<Request> {
    let ported = WITH_PORTS.map(|protocol| Element { key: vec![protocol], ..Element::default() });
    let decisions = [
        (ALLOW, Verdict::Return),
        (ALLOW_LOGGED, Verdict::Goto(LOGGED)),
        (REFUSED, Verdict::Goto(DENY)),
        (AUDIT, Verdict::Goto(AUDITED)),
    ];
    let mut requests = nft::elements(Family::Inet, table, PORTED, &ported);
    requests.extend(nft::verdicts(Family::Inet, table, DECISIONS, &decisions, Some(Verdict::Goto(DENY))));
    requests.extend(nft::catch_all(Family::Inet, table, PROFILES, &numbered_value(REFUSED)));
    let others = [(CLASS, Class::UNKNOWN), (BLOCK, Class::WORLD)];
    for (map, Class(number)) in others.into_iter().flat_map(|(maps, class)| maps.map(|map| (map, class))) {
        requests.extend(nft::catch_all(Family::Inet, table, map, &numbered_value(number)));
    }
    requests
}

/// What has begun goes on, and what is told of it: a reset or an ICMP error. What else is related to it is a connection that a
/// helper of somebody's (FTP, SIP) expects: it is asked about as any other.
pub(super) fn known() -> [Vec<Expression>; 2] {
    [(Status::Established, Verdict::Accept), (Status::Related, Verdict::Jump(ERRORS))].map(|(status, verdict)| {
        let mut rule: Vec<_> = Expression::connection(status, Register(0)).into();
        rule.push(Expression::verdict(verdict));
        rule
    })
}

/// The reset of a refused packet is related to its connection (`nf_ct_attach`); one that opens a connection is none.
fn errors() -> [Vec<Expression>; 3] {
    let protocol =
        |number| vec![Expression::meta(Meta::Transport, Register(0)), Expression::is(Register(0), &[number])];
    let mut reset = protocol(TCP);
    reset.extend([Expression::transport(13, 1, Register(0)), Expression::mask(Register(0), [RST, 0, 0, 0])]);
    reset.push(Expression::is(Register(0), &[RST]));
    [protocol(ICMP), protocol(ICMPV6), reset].map(|mut rule| {
        rule.push(Expression::verdict(Verdict::Accept));
        rule
    })
}

/// Where packets that are not known are asked about: what is forwarded, and what goes between the node itself and its
/// sandboxes.
pub(super) fn hooks(input: &'static str, forward: &'static str, output: &'static str) -> Vec<Rule> {
    let mut rules = Vec::new();
    for hook in [input, forward, output] {
        rules.extend(VERSIONS.iter().flat_map(cut).map(|rule| (hook, rule)));
        rules.extend((hook == forward).then(|| (hook, begun())));
        for way in &WAYS {
            if hook == forward {
                rules.push((hook, isolated(way, way.subjects, way.chain)));
            } else if way.is_egress == (hook == input) {
                // To the node a sandbox is a source only, from it a destination only.
                rules.push((hook, isolated(way, way.node_subjects, way.node_chain)));
            }
        }
    }
    rules
}

pub(super) fn rules() -> Vec<Rule> {
    let mut rules: Vec<Rule> = WAYS.iter().flat_map(asked).chain(WAYS.iter().flat_map(asked_of_node)).collect();
    rules.extend(WAYS.iter().flat_map(of_isolated));
    rules.extend(errors().map(|rule| (ERRORS, rule)));
    rules.extend(refusals());
    rules
}

/// `protocol . source . port . destination . port` in the set of flows that have lost their permission. A protocol without
/// ports has 0 there; what it has where ports would be is in the set only if that is 0, too.
fn cut(version: &Version) -> [Vec<Expression>; 2] {
    const UDP: u8 = 17;
    let words = version.source.1 / 4;
    let (source, destination) = (Register(1 + words), Register(2 + 2 * words));
    let of_port = |offset, to| Expression::transport(offset, 2, to);
    let nothing = |to| Expression::load(&[0; 4], to);
    let rule = |is_it: Vec<Expression>, ports: [Expression; 2]| {
        let mut rule = is_version(version);
        rule.push(Expression::meta(Meta::Transport, Register(0)));
        rule.extend(is_it);
        rule.extend([
            Expression::network(version.source.0, version.source.1, Register(1)),
            Expression::network(version.destination.0, version.destination.1, Register(2 + words)),
        ]);
        rule.extend(ports);
        rule.extend([Expression::in_set(CUT[version.index], Register(0)), Expression::verdict(Verdict::Jump(LOST))]);
        rule
    };
    // Most are of these: they are spared the look-up.
    let mut others: Vec<_> = [TCP, UDP].map(|protocol| Expression::is_not(Register(0), &[protocol])).into();
    others.push(Expression::not_in_set(PORTED, Register(0)));
    [
        rule(Vec::new(), [of_port(0, source), of_port(2, destination)]),
        rule(others, [nothing(source), nothing(destination)]),
    ]
}

/// TCP that is new to conntrack and does not open a connection: it was there before its bridge was filtered, or was
/// forgotten. Its first packet may be an answer, which would make a flow that is allowed of one that is not.
fn begun() -> Vec<Expression> {
    let mut rule = is_tcp();
    rule.extend(flags());
    rule.extend([Expression::is_not(Register(0), &[SYN]), Expression::verdict(Verdict::Jump(BEGUN))]);
    rule
}

/// An isolated sandbox at either end.
fn of_isolated(way: &Way) -> [Rule; 2] {
    let version = &VERSIONS[way.version];
    [version.source, version.destination].map(|(offset, length)| {
        let mut rule = is_version(version);
        rule.push(Expression::network(offset, length, Register(0)));
        rule.extend([Expression::in_set(way.subjects, Register(0)), Expression::verdict(Verdict::Goto(REFUSE))]);
        (BEGUN, rule)
    })
}

fn is_tcp() -> Vec<Expression> {
    vec![Expression::meta(Meta::Transport, Register(0)), Expression::is(Register(0), &[TCP])]
}

/// Loads SYN and ACK.
fn flags() -> [Expression; 2] {
    [Expression::transport(13, 1, Register(0)), Expression::mask(Register(0), [0x12, 0, 0, 0])]
}

fn isolated(way: &Way, subjects: &str, chain: &'static str) -> Vec<Expression> {
    let version = &VERSIONS[way.version];
    let mut rule = is_version(version);
    rule.push(subject(way, Register(0)));
    rule.extend([Expression::in_set(subjects, Register(0)), Expression::verdict(Verdict::Jump(chain))]);
    rule
}

fn subject(way: &Way, to: Register) -> Expression {
    let version = &VERSIONS[way.version];
    let (offset, length) = if way.is_egress { version.source } else { version.destination };
    Expression::network(offset, length, to)
}

fn peer(way: &Way, to: Register) -> Expression {
    let version = &VERSIONS[way.version];
    let (offset, length) = if way.is_egress { version.destination } else { version.source };
    Expression::network(offset, length, to)
}

/// The chains of one way: by kind of protocol to the one that decides.
fn asked(way: &Way) -> Vec<Rule> {
    let mut rules = vec![(way.chain, to_itself(&VERSIONS[way.version]))];
    if way.version == 1 {
        rules.extend(discovery().map(|rule| (way.chain, rule)));
    }
    for (chain, kind) in way.kinds {
        let mut rule = is_kind(way, kind);
        rule.push(Expression::verdict(Verdict::Goto(chain)));
        rules.push((way.chain, rule));
    }
    for (chain, kind) in way.kinds {
        rules.extend(decided(way, kind).map(|rule| (chain, rule)));
    }
    rules
}

fn to_itself(version: &Version) -> Vec<Expression> {
    let [source, destination] = [version.source, version.destination];
    vec![
        Expression::network(source.0, source.1, Register(0)),
        Expression::network(destination.0, destination.1, Register(source.1 / 4)),
        Expression::in_set(ITSELF[version.index], Register(0)),
        Expression::verdict(Verdict::Return),
    ]
}

/// Neighbours must find each other, on a bridge through this very chain: discovery and listener messages. Whoever gets one
/// from beyond its link passes it over (RFC 4861, 7.1; RFC 3810, 5): what is routed is none, whatever it looks like.
fn discovery() -> [Vec<Expression>; 3] {
    let of_kinds = |first: u8, last: u8, more: Vec<Expression>| {
        let mut rule = vec![
            Expression::meta(Meta::Transport, Register(0)),
            Expression::is(Register(0), &[ICMPV6]),
            Expression::transport(0, 1, Register(0)),
            Expression::in_range(Register(0), &[first], &[last]),
        ];
        rule.extend(more);
        rule.push(Expression::verdict(Verdict::Return));
        rule
    };
    let to_group =
        || vec![Expression::network(VERSIONS[1].destination.0, 1, Register(0)), Expression::is(Register(0), &[0xff])];
    [
        of_kinds(ROUTER_SOLICITATION, REDIRECT, is_of_the_link().into()),
        of_kinds(LISTENER_QUERY, LISTENER_DONE, to_group()),
        of_kinds(LISTENER_REPORT, LISTENER_REPORT, to_group()),
    ]
}

fn decided(way: &Way, kind: Kind) -> [Vec<Expression>; 4] {
    let direction = usize::from(way.is_egress);
    let scratch = Register(4);
    let by_class = numbered(peer(way, scratch), CLASS[way.version], Register(1)).to_vec();
    let mut by_block = by_class.clone();
    by_block.push(Expression::is(Register(2), &Class::UNKNOWN.0.to_ne_bytes()));
    by_block.extend(numbered(peer(way, scratch), BLOCK[way.version], Register(1)));
    let profiled = |map, mut rule: Vec<Expression>| {
        rule.extend(profiled(way, kind, map));
        rule
    };
    [
        profiled(PAIRS[direction], by_class),
        profiled(PAIRS[direction], by_block),
        profiled(ANY[direction], Vec::new()),
        vec![Expression::verdict(Verdict::Goto(DENY))],
    ]
}

/// The chain of one way between a sandbox and its node. What has no pair finds none in all three rules.
fn asked_of_node(way: &Way) -> Vec<Rule> {
    let mut rules = Vec::new();
    if way.version == 1 {
        rules.extend(discovery().map(|rule| (way.node_chain, rule)));
    }
    rules.extend(way.kinds.map(|(_, kind)| {
        let mut rule = is_kind(way, kind);
        rule.push(Expression::load(&Class::NODE.0.to_ne_bytes(), Register(2)));
        rule.extend(profiled(way, kind, PAIRS[usize::from(way.is_egress)]));
        (way.node_chain, rule)
    }));
    rules
}

/// Goes on for a packet of this kind, where those of the kinds before it are not.
fn is_kind(way: &Way, kind: Kind) -> Vec<Expression> {
    let icmp = if way.version == 0 { ICMP } else { ICMPV6 };
    let transport = Expression::meta(Meta::Transport, Register(0));
    match kind {
        Kind::Ported => vec![transport, Expression::in_set(PORTED, Register(0))],
        Kind::Icmp => vec![transport, Expression::is(Register(0), &[icmp])],
        Kind::Other => Vec::new(),
    }
}

/// The class of the subject is put into register 1; the peer's is in 2, if the map asks for it. Then 1 has the profile, and 2
/// and 3 the service; then 1 the decision.
fn profiled(way: &Way, kind: Kind, map: &str) -> Vec<Expression> {
    let mut rule = numbered(subject(way, Register(4)), CLASS[way.version], Register(0)).to_vec();
    rule.push(Expression::map(map, Register(1), Register(0)));
    rule.extend(service(kind));
    rule.push(Expression::map(PROFILES, Register(1), Register(0)));
    rule.push(Expression::verdict_of(DECISIONS, Register(1)));
    rule
}

/// The map's number of an address in register 4, put behind the register `to`. `nft` dies of a map's value in a key
/// (`netlink_parse_concat_expr`), since it does not know its length. So all maps to numbers have an empty word ahead of it:
/// `nft` takes that for the value, and the number for the constant that was loaded there before.
fn numbered(address: Expression, map: &str, to: Register) -> [Expression; 3] {
    [Expression::load(&[0; 4], Register(to.0 + 1)), address, Expression::map(map, Register(4), to)]
}

/// Loads protocol and port behind the profile.
fn service(kind: Kind) -> [Expression; 2] {
    let port = match kind {
        Kind::Ported => Expression::transport(2, 2, Register(3)),
        Kind::Icmp => Expression::transport(0, 2, Register(3)),
        Kind::Other => Expression::load(&[0; 4], Register(3)),
    };
    [Expression::meta(Meta::Transport, Register(2)), port]
}

fn refusals() -> Vec<Rule> {
    let told = |prefix| vec![Expression::limit(TOLD_A_SECOND, TOLD_AT_ONCE), Expression::log(LOG_GROUP, prefix)];
    let mut opens = is_tcp();
    opens.extend(flags());
    // A new flow, which is asked about as any other.
    opens.extend([Expression::is(Register(0), &[SYN]), Expression::verdict(Verdict::Return)]);
    let goto_refuse = || Expression::verdict(Verdict::Goto(REFUSE));
    let mut silent = vec![Expression::meta(Meta::Family, Register(0)), Expression::in_set(SILENT, Register(0))];
    silent.push(Expression::verdict(Verdict::Drop));
    let mut reset = is_tcp();
    reset.push(Expression::refuse(Refusal::Reset));
    let [untranslated4, untranslated6] = VERSIONS.each_ref().map(untranslated);
    vec![
        (DENY, told(LOGGED_DENY)),
        (DENY, vec![Expression::counter(), goto_refuse()]),
        (LOST, opens),
        (LOST, vec![Expression::counter(), goto_refuse()]),
        (REFUSE, silent),
        (REFUSE, untranslated4),
        (REFUSE, untranslated6),
        (REFUSE, reset),
        (REFUSE, vec![Expression::refuse(Refusal::Prohibited)]),
        (LOGGED, told(LOGGED_ALLOW)),
        (AUDITED, vec![Expression::counter()]),
        (AUDITED, told(LOGGED_AUDIT)),
    ]
}

/// The reset of a packet that came by a filtered bridge goes out by that port as it is (`nf_send_reset`), past conntrack and
/// the translation of addresses. So the packet is what it was before it: the reset comes from whom its sender asked. Resets
/// by the usual way are translated back to the same.
fn untranslated(version: &Version) -> Vec<Expression> {
    const TCP_CHECKSUM: u32 = 16;
    let (offset, length) = version.destination;
    let checksum = if version.family == 2 { Some(10) } else { None };
    let mut rule = is_version(version);
    rule.extend(is_tcp());
    rule.extend(Expression::connection(Status::DestinationChanged, Register(0)));
    rule.extend([
        Expression::asked_address(version.family, Register(0)),
        Expression::put_address(Register(0), offset, length, checksum),
        Expression::asked_port(Register(0)),
        Expression::put_transport(Register(0), 2, 2, TCP_CHECKSUM),
    ]);
    rule
}
