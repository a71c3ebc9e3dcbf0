//! The spoof guard: what a sandbox sends bears its own MAC and addresses, and no router's or DHCP server's word.
//!
//! ```text
//! bridge prerouting   IPv4, IPv6: port . MAC . what it bears . address leased ─▶ own4, own6: no tunnel, no DHCP server, no router
//!                     guarded port ─▶ with a VLAN's tag: a trunk's, by its own MAC; ARP: port . MAC . address leased; a DHCP
//!                                     client's question; or dropped
//! bridge forward      to many, deaf port ─▶ no multicast of others but discovery
//! ```

use netd_netlink::nft::{self, Element, Expression, Family, Meta, Register, Request, Verdict};

use super::sets::{DEAF, LEASED, PORT, PORT_MAC, TRUNKS, TUNNELS};
use super::{Rule, VERSIONS, Version, has_version, in_names, vlan};

const GUARD: &str = "guard";
const DHCP: &str = "guard_dhcp";
const ARP: &str = "guard_arp";
pub(super) const OWN: [&str; 2] = ["own4", "own6"];
const TO_DEAF: &str = "to_deaf";
pub(super) const UNFLOODED: &str = "unflooded";
pub(super) const CHAINS: [&str; 7] = [GUARD, DHCP, ARP, OWN[0], OWN[1], TO_DEAF, UNFLOODED];

/// Of the header (RFC 8200).
const NEXT_HEADER: u32 = 6;
const IPV4: [u8; 2] = [0x08, 0x00];
const IPV6: [u8; 2] = [0x86, 0xdd];
/// What frames bear that come from addresses of the sets [`LEASED`].
pub(in crate::linux::ruleset) const BORNE: [[u8; 2]; 2] = [IPV4, IPV6];
const ETHER_ARP: [u8; 2] = [0x08, 0x06];
const IPIP: u8 = 4;
const TCP: u8 = 6;
const UDP: u8 = 17;
const IPV6_IN_IP: u8 = 41;
const ICMPV6: u8 = 58;
const ROUTER_ADVERTISEMENT: u8 = 134;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
const REDIRECT: u8 = 137;

/// IPv4 and IPv6 in IP: what is inside has not been looked at.
fn tunnels(family: Family, table: &str, set: &str) -> Vec<Request> {
    let protocols = [4, 41].map(|protocol| Element { key: vec![protocol], ..Element::default() });
    nft::elements(family, table, set, &protocols)
}

pub(super) fn elements(table: &str) -> Vec<Request> {
    tunnels(Family::Inet, table, TUNNELS)
}

pub(super) fn port_elements(table: &str) -> Vec<Request> {
    tunnels(Family::Bridge, table, TUNNELS)
}

/// What a sandbox sends under its own address has passed the guard with one look-up, before anybody asks whether its port is
/// guarded. An address is leased to guarded ports only.
pub(super) fn rules(port_in: &'static str, port_out: &'static str) -> Vec<Rule> {
    let mut rules: Vec<Rule> = (0..VERSIONS.len()).map(|version| (port_in, under_its_own_address(version))).collect();
    let mut discovery = Vec::from(super::is_icmpv6());
    discovery.push(Expression::verdict(Verdict::Jump(UNFLOODED)));
    let mut guarded = in_names(Meta::InputName, PORT);
    guarded.push(Expression::verdict(Verdict::Jump(GUARD)));
    rules.extend([(port_in, discovery), (port_in, guarded)]);
    rules.extend([(IPV4, DHCP), (ETHER_ARP, ARP)].map(|(protocol, chain)| {
        let mut rule = Vec::from(bears(protocol));
        rule.push(Expression::verdict(Verdict::Goto(chain)));
        (GUARD, rule)
    }));
    rules.extend([tagged(), vec![drop_it()]].map(|rule| (GUARD, rule)));
    rules.extend(of_ipv4().into_iter().chain(of_ipv6()).chain(of_arp()));
    rules.push((port_out, to_deaf()));
    rules.extend(deaf().map(|rule| (TO_DEAF, rule)));
    rules
}

/// What looks like this version elsewhere is asked about for nothing: the frame says what it bears.
fn under_its_own_address(version: usize) -> Vec<Expression> {
    let Version { number, source: (offset, length), .. } = VERSIONS[version];
    let mut rule = Vec::from(has_version(number));
    rule.extend(port_mac_and_borne());
    rule.extend([Expression::network(offset, length, Register(6)), Expression::in_set(LEASED[version], Register(0))]);
    rule.push(Expression::verdict(Verdict::Goto(OWN[version])));
    rule
}

/// Most frames are for one: the kernel has noted who they are for when they came in (`eth_type_trans`).
fn to_deaf() -> Vec<Expression> {
    const TO_THIS_HOST: u8 = 0;
    const TO_ANOTHER: u8 = 3;
    let mut rule = vec![Expression::meta(Meta::PacketKind, Register(0))];
    rule.extend([TO_ANOTHER, TO_THIS_HOST].map(|one| Expression::is_not(Register(0), &[one])));
    rule.extend(in_names(Meta::OutputName, DEAF));
    rule.push(Expression::verdict(Verdict::Jump(TO_DEAF)));
    rule
}

/// What bears a tag, be it VLAN 0's, would get past the rules of IPv4 and IPv6 (`br_nf_pre_routing`, net/bridge), and to
/// its receiver. Which addresses are a trunk's in the VLANs that it carries, netd does not know. A second tag would get past
/// those rules behind the first, which they look through.
fn tagged() -> Vec<Expression> {
    const CUSTOMER: [u8; 2] = [0x81, 0x00];
    const PROVIDER: [u8; 2] = [0x88, 0xa8];
    let mut trunk = Vec::from(bears(CUSTOMER));
    trunk.push(Expression::link(16, 2, Register(0)));
    trunk.extend([CUSTOMER, PROVIDER].map(|tag| Expression::is_not(Register(0), &tag)));
    trunk.extend(in_names(Meta::InputName, TRUNKS));
    trunk.extend(port_and_mac(6));
    trunk.extend([Expression::in_set(PORT_MAC, Register(0)), Expression::verdict(Verdict::Return)]);
    trunk
}

/// What the frame says that it carries, or its tag: where the kernel has taken that off the frame, it is put back for
/// whoever reads there.
fn bears(protocol: [u8; 2]) -> [Expression; 2] {
    [Expression::link(12, 2, Register(0)), Expression::is(Register(0), &protocol)]
}

fn of_ipv4() -> Vec<Rule> {
    /// Of the header (RFC 791).
    const PROTOCOL: u32 = 9;
    let of =
        |protocol: u8| vec![Expression::network(PROTOCOL, 1, Register(0)), Expression::is(Register(0), &[protocol])];
    let mut from_server = of(UDP);
    from_server.extend([Expression::transport(0, 2, Register(0)), Expression::is(Register(0), &[0, 67])]);
    let own = [of(IPIP), of(IPV6_IN_IP), from_server].map(|mut rule| {
        rule.push(drop_it());
        (OWN[0], rule)
    });
    let mut client = port_and_mac(6);
    client.push(Expression::in_set(PORT_MAC, Register(0)));
    client.extend([Expression::network(VERSIONS[0].source.0, 4, Register(0)), Expression::is(Register(0), &[0; 4])]);
    client.extend(is_udp());
    // Ports 68 to 67: a client that has no address yet.
    client.extend([Expression::transport(0, 4, Register(0)), Expression::is(Register(0), &[0, 68, 0, 67])]);
    client.push(Expression::verdict(Verdict::Return));
    own.into_iter().chain([(DHCP, client), (DHCP, vec![drop_it()])]).collect()
}

/// Nothing is in TCP that is asked about; and it is most of what there is.
fn of_ipv6() -> Vec<Rule> {
    let to_gateways = || Expression::verdict(Verdict::Goto(vlan::TO_GATEWAYS));
    let mut of_tcp = vec![Expression::network(NEXT_HEADER, 1, Register(0)), Expression::is(Register(0), &[TCP])];
    of_tcp.push(to_gateways());
    let mut others = vec![Expression::meta(Meta::Transport, Register(0)), Expression::is_not(Register(0), &[ICMPV6])];
    others.push(to_gateways());
    let of_kind = |kind: u8| {
        let mut rule = is_icmpv6();
        rule.push(Expression::is(Register(0), &[kind]));
        rule
    };
    let dropped = |mut rule: Vec<Expression>, more: Vec<Expression>| {
        rule.extend(more);
        rule.push(drop_it());
        (OWN[1], rule)
    };
    let discovery = || {
        let mut rule = is_icmpv6();
        rule.push(Expression::in_range(Register(0), &[SOLICITATION], &[ADVERTISEMENT]));
        rule
    };
    let unflooded = vec![Expression::verdict(Verdict::Jump(UNFLOODED))];
    vec![
        (OWN[1], of_tcp),
        (OWN[1], in_a_tunnel()),
        (OWN[1], from_udp_port(547)),
        (OWN[1], others),
        (OWN[1], unflooded),
        dropped(of_kind(ROUTER_ADVERTISEMENT), Vec::new()),
        dropped(of_kind(REDIRECT), Vec::new()),
        dropped(discovery(), neither_bare_nor_with_one_option()),
        dropped(of_kind(ADVERTISEMENT), foreign_target()),
        dropped(discovery(), foreign_option()),
        (OWN[1], vec![to_gateways()]),
    ]
}

/// Neighbour discovery with no option, or one of a MAC's length: what else could stand there could hide a MAC.
fn neither_bare_nor_with_one_option() -> Vec<Expression> {
    let mut rule = vec![Expression::network(4, 2, Register(0))];
    rule.extend([24_u16, 32].map(|length| Expression::is_not(Register(0), &length.to_be_bytes())));
    rule
}

fn foreign_target() -> Vec<Expression> {
    let mut rule = port_mac_and_borne();
    rule.extend([Expression::transport(8, 16, Register(6)), Expression::not_in_set(LEASED[1], Register(0))]);
    rule
}

fn foreign_option() -> Vec<Expression> {
    let length = 32_u16.to_be_bytes();
    vec![
        Expression::network(4, 2, Register(0)),
        Expression::is(Register(0), &length),
        Expression::meta(Meta::InputName, Register(0)),
        Expression::transport(26, 6, Register(4)),
        Expression::not_in_set(PORT_MAC, Register(0)),
    ]
}

fn of_arp() -> Vec<Rule> {
    /// Ethernet, IPv4, and the lengths of their addresses.
    const SHAPE: [u8; 6] = [0, 1, 8, 0, 6, 4];
    let odd = vec![Expression::network(0, 6, Register(0)), Expression::is_not(Register(0), &SHAPE), drop_it()];
    let mut foreign = port_and_mac(6);
    foreign.extend([Expression::not_in_set(PORT_MAC, Register(0)), drop_it()]);
    let sender = || [Expression::meta(Meta::InputName, Register(0)), Expression::network(8, 6, Register(4))];
    let mut own = Vec::from(sender());
    // What bears ARP speaks of the address that would bear IPv4.
    let [high, low] = IPV4;
    own.push(Expression::put(Register(4), [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0], [0, 0, 0, 0, 0, 0, high, low]));
    own.extend([Expression::network(14, 4, Register(6)), Expression::in_set(LEASED[0], Register(0))]);
    own.push(Expression::verdict(Verdict::Return));
    // It asks whether somebody has an address.
    let mut probe = Vec::from(sender());
    probe.extend([Expression::in_set(PORT_MAC, Register(0)), Expression::network(14, 4, Register(0))]);
    probe.extend([Expression::is(Register(0), &[0; 4]), Expression::verdict(Verdict::Return)]);
    [odd, foreign, own, probe, vec![drop_it()]].map(|rule| (ARP, rule)).into()
}

/// Multicast and broadcast would get to an isolated sandbox past its address. What stays: ARP, ICMPv6's discovery and
/// listener messages, and DHCP's answers.
fn deaf() -> [Vec<Expression>; 4] {
    let to_all = |protocol| {
        let mut rule = vec![
            Expression::link(0, 1, Register(0)),
            Expression::mask(Register(0), [1, 0, 0, 0]),
            Expression::is(Register(0), &[1]),
        ];
        rule.extend(is_protocol(protocol));
        rule
    };
    let mut answers = to_all(IPV4);
    answers.extend(is_udp());
    // Ports 67 to 68.
    answers.extend([Expression::transport(0, 4, Register(0)), Expression::is(Register(0), &[0, 67, 0, 68])]);
    answers.push(Expression::verdict(Verdict::Accept));
    let mut discovery = to_all(IPV6);
    discovery.extend(is_icmpv6());
    discovery.extend([Expression::in_range(Register(0), &[130], &[143]), Expression::verdict(Verdict::Accept)]);
    let dropped = |protocol| {
        let mut rule = to_all(protocol);
        rule.push(drop_it());
        rule
    };
    [answers, dropped(IPV4), discovery, dropped(IPV6)]
}

/// Loads the port's name and the MAC at this place of the Ethernet header.
fn port_and_mac(offset: u32) -> Vec<Expression> {
    vec![Expression::meta(Meta::InputName, Register(0)), Expression::link(offset, 6, Register(4))]
}

/// The same, with the sender's MAC and what the frame bears behind it: the key of an address.
fn port_mac_and_borne() -> Vec<Expression> {
    vec![Expression::meta(Meta::InputName, Register(0)), Expression::link(6, 8, Register(4))]
}

pub(super) fn in_a_tunnel() -> Vec<Expression> {
    let [transport, is_so] = is_in_a_tunnel();
    vec![transport, is_so, drop_it()]
}

pub(super) fn is_in_a_tunnel() -> [Expression; 2] {
    [Expression::meta(Meta::Transport, Register(0)), Expression::in_set(TUNNELS, Register(0))]
}

fn from_udp_port(port: u16) -> Vec<Expression> {
    let mut rule = is_udp();
    rule.extend([
        Expression::transport(0, 2, Register(0)),
        Expression::is(Register(0), &port.to_be_bytes()),
        drop_it(),
    ]);
    rule
}

fn is_udp() -> Vec<Expression> {
    vec![Expression::meta(Meta::Transport, Register(0)), Expression::is(Register(0), &[UDP])]
}

/// Loads the message's type.
fn is_icmpv6() -> Vec<Expression> {
    vec![
        Expression::meta(Meta::Transport, Register(0)),
        Expression::is(Register(0), &[ICMPV6]),
        Expression::transport(0, 1, Register(0)),
    ]
}

fn is_protocol(protocol: [u8; 2]) -> Vec<Expression> {
    vec![Expression::meta(Meta::Protocol, Register(0)), Expression::is(Register(0), &protocol)]
}

fn drop_it() -> Expression {
    Expression::verdict(Verdict::Drop)
}
