//! Sandboxes whose gateway is not the bridge but a link of their VLAN.
//!
//! Where what is bridged meets the rules (`br_netfilter`), what goes to that link or comes from it would be judged, tracked and
//! translated twice: on its way through the bridge, and at the link. The first time it is let pass untracked.

use netd_netlink::nft::{Expression, Meta, Register, Status, Verdict};

use super::sets::BRIDGES;
use super::{ICMPV6, Rule, in_names, is_icmpv6};
use crate::linux::vlan::{GATEWAY_MACS, PORT_MARK};

/// What is let pass untracked gets to a gateway and nowhere else: the bridge floods to all ports what it knows no port of.
pub(super) fn port_rules(port_in: &'static str, port_out: &'static str, link_prefix: &str) -> [Rule; 3] {
    let gateway_port = format!("{link_prefix}{PORT_MARK}");
    let mut untracked = to_a_gateway();
    untracked.push(Expression::untrack());
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
    [(port_in, untracked), (port_in, of_gateway), (port_out, flooded)]
}

fn to_a_gateway() -> Vec<Expression> {
    let [a, b, c] = GATEWAY_MACS;
    vec![
        Expression::link(0, 4, Register(0)),
        Expression::mask(Register(0), [0xff, 0xff, 0xff, 0]),
        Expression::is(Register(0), &[a, b, c, 0]),
    ]
}

/// Others may have their own reasons not to track; what is bridged here comes by a bridge of ours and goes by it. The kernel
/// itself tracks no discovery of neighbours (`icmpv6_error`, nf_conntrack_proto_icmpv6.c), routed or bridged: policy is asked.
pub(super) fn forward(chain: &'static str) -> [Rule; 2] {
    const LAST_OF_OTHERS: u8 = 129;
    let [transport, is_icmpv6] = is_icmpv6();
    let others = vec![transport.clone(), Expression::is_not(Register(0), &[ICMPV6])];
    let kind = Expression::transport(0, 1, Register(0));
    let of_icmpv6 = vec![transport, is_icmpv6, kind, Expression::in_range(Register(0), &[0], &[LAST_OF_OTHERS])];
    [others, of_icmpv6].map(|kinds| {
        let mut rule = in_names(Meta::InputName, BRIDGES);
        rule.extend(in_names(Meta::OutputName, BRIDGES));
        rule.extend(Expression::connection(Status::Untracked, Register(0)));
        rule.extend(kinds);
        rule.push(Expression::verdict(Verdict::Accept));
        (chain, rule)
    })
}
