//! Sandboxes whose gateway is not the bridge but a link of their VLAN.
//!
//! Where what is bridged meets the rules (`br_netfilter`), what goes to that link or comes from it would be judged, tracked and
//! translated twice: on its way through the bridge, and at the link. The first time it is let pass untracked.

use netd_netlink::nft::{Expression, Meta, Register, Status, Verdict};

use super::sets::BRIDGES;
use super::{Rule, in_names};
use crate::linux::vlan::{GATEWAY_MACS, PORT_MARK};

pub(super) fn port_rules(port_in: &'static str, link_prefix: &str) -> [Rule; 2] {
    let [a, b, c] = GATEWAY_MACS;
    let to_gateway = vec![
        Expression::link(0, 4, Register(0)),
        Expression::mask(Register(0), [0xff, 0xff, 0xff, 0]),
        Expression::is(Register(0), &[a, b, c, 0]),
        Expression::untrack(),
    ];
    let of_gateway = vec![
        Expression::meta(Meta::InputName, Register(0)),
        Expression::is(Register(0), format!("{link_prefix}{PORT_MARK}").as_bytes()),
        Expression::untrack(),
    ];
    [(port_in, to_gateway), (port_in, of_gateway)]
}

/// Others may have their own reasons not to track; what is bridged here comes by a bridge of ours and goes by it.
pub(super) fn forward(chain: &'static str) -> Rule {
    let mut rule = in_names(Meta::InputName, BRIDGES);
    rule.extend(in_names(Meta::OutputName, BRIDGES));
    rule.extend(Expression::connection(Status::Untracked, Register(0)));
    rule.push(Expression::verdict(Verdict::Accept));
    (chain, rule)
}
