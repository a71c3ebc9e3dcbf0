//! Sandboxes whose gateway is not the bridge but a link of their VLAN.
//!
//! Where what is bridged meets the rules (`br_netfilter`), what goes to that link or comes from it would be judged, tracked and
//! translated twice: on its way through the bridge, and at the link. The first time it is let pass untracked.

use netd_netlink::nft::{Expression, Meta, Register, Status, Verdict};

use super::sets::BRIDGES;
use super::{Rule, in_names};
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

/// Others may have their own reasons not to track; what is bridged here comes by a bridge of ours and goes by it.
pub(super) fn forward(chain: &'static str) -> Rule {
    let mut rule = in_names(Meta::InputName, BRIDGES);
    rule.extend(in_names(Meta::OutputName, BRIDGES));
    rule.extend(Expression::connection(Status::Untracked, Register(0)));
    rule.push(Expression::verdict(Verdict::Accept));
    (chain, rule)
}
