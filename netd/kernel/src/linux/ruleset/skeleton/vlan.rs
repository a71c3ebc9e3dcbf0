//! Sandboxes whose gateway is not the bridge but a link of their VLAN.
//!
//! Where what is bridged meets the rules (`br_netfilter`), what goes to that link or comes from it would be judged, tracked and
//! translated twice: on its way through the bridge, and at the link. The first time it is let pass untracked.

use netd_netlink::nft::{Expression, Meta, Register, Status, Verdict};

use super::guard;
use super::sets::BRIDGES;
use super::{ICMPV6, Rule, in_names, is_icmpv6};
use crate::linux::vlan::{GATEWAY_MACS, PORT_MARK};

/// Sandboxes' frames, when the guard is content with them.
pub(super) const TO_GATEWAYS: &str = "to_gateways";

/// What is forwarded, and not tracked.
pub(super) const UNTRACKED: &str = "untracked";

/// What is let pass untracked gets to a gateway and nowhere else: the bridge floods to all ports what it knows no port of.
pub(super) fn port_rules(port_in: &'static str, port_out: &'static str, link_prefix: &str) -> [Rule; 5] {
    let gateway_port = format!("{link_prefix}{PORT_MARK}");
    let untracked = || {
        let mut rule = to_a_gateway();
        rule.push(Expression::untrack());
        rule
    };
    let of_gateway = vec![
        Expression::meta(Meta::InputName, Register(0)),
        Expression::is(Register(0), gateway_port.as_bytes()),
        Expression::untrack(),
    ];
    let mut flooded = to_a_gateway();
    flooded.extend([
        Expression::meta(Meta::OutputName, Register(0)),
        Expression::is_not(Register(0), gateway_port.as_bytes()),
        Expression::verdict(Verdict::Drop),
    ]);
    [
        (guard::OWN[0], untracked()),
        (TO_GATEWAYS, untracked()),
        (port_in, untracked()),
        (port_in, of_gateway),
        (port_out, flooded),
    ]
}

fn to_a_gateway() -> Vec<Expression> {
    const DESTINATION: u32 = 0;
    a_gateway_at(DESTINATION).into()
}

/// At this place of the Ethernet header.
fn a_gateway_at(offset: u32) -> [Expression; 3] {
    let [a, b, c] = GATEWAY_MACS;
    [
        Expression::link(offset, 4, Register(0)),
        Expression::mask(Register(0), [0xff, 0xff, 0xff, 0]),
        Expression::is(Register(0), &[a, b, c, 0]),
    ]
}

/// Others may have their own reasons not to track: what is let pass is bridged, by a bridge of ours, from or to a gateway. What is
/// routed through a gateway comes in by its link, which is no bridge. The kernel itself tracks no discovery of neighbours
/// (`icmpv6_error`, nf_conntrack_proto_icmpv6.c), routed or bridged: policy is asked.
pub(super) fn forward(chain: &'static str) -> Vec<Rule> {
    const LAST_OF_OTHERS: u8 = 129;
    const ENDS: [u32; 2] = [0, 6];
    let [transport, is_icmpv6] = is_icmpv6();
    let others = vec![transport.clone(), Expression::is_not(Register(0), &[ICMPV6])];
    let kind = Expression::transport(0, 1, Register(0));
    let of_icmpv6 = vec![transport, is_icmpv6, kind, Expression::in_range(Register(0), &[0], &[LAST_OF_OTHERS])];
    let rule = |(end, kinds): (u32, &Vec<Expression>)| {
        let mut rule = vec![Expression::meta(Meta::InputKind, Register(0)), Expression::is(Register(0), b"bridge\0")];
        rule.extend(in_names(Meta::InputName, BRIDGES));
        rule.extend(in_names(Meta::OutputName, BRIDGES));
        rule.extend(a_gateway_at(end));
        rule.extend(kinds.iter().cloned());
        rule.push(Expression::verdict(Verdict::Accept));
        (UNTRACKED, rule)
    };
    let mut untracked = Vec::from(Expression::connection(Status::Untracked, Register(0)));
    untracked.push(Expression::verdict(Verdict::Jump(UNTRACKED)));
    let of_kinds = [others, of_icmpv6];
    let rules = of_kinds.iter().flat_map(|kinds| ENDS.map(|end| (end, kinds))).map(rule);
    [(chain, untracked)].into_iter().chain(rules).collect()
}
