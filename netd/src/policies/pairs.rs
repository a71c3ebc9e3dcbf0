//! By which addresses two ends meet: a packet has one family, and a link-local address is of its link. Pure.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::ends::{End, of_link};
use super::ground::Ground;

/// Source and destination.
pub(crate) type Pair = (IpAddr, IpAddr);

/// All of them, in the order of the addresses, IPv4 first. Of the node that sends one address a family stands for all: the rules ask
/// nothing of it.
pub(super) fn pairs(ground: &Ground<'_>, from: &End, to: &End) -> Vec<Pair> {
    let by_link = [from, to].into_iter().any(|end| matches!(end, End::Address(address) if of_link(*address)));
    let (senders, receivers) = (from.addresses(&ground.world, by_link), to.addresses(&ground.world, by_link));
    let senders = if matches!(from, End::Node(_)) { one_a_family(&senders) } else { senders };
    let all = senders.iter().flat_map(|from| receivers.iter().map(move |to| (*from, *to)));
    all.filter(|(from, to)| ground.meet(*from, *to)).collect()
}

fn one_a_family(addresses: &[IpAddr]) -> Vec<IpAddr> {
    let kind = |address: IpAddr| (address.is_ipv4(), of_link(address));
    let first = |wanted| addresses.iter().copied().find(|address| kind(*address) == wanted);
    [(true, false), (false, false), (false, true)].into_iter().filter_map(first).collect()
}

/// What people call the families of these pairs.
pub(crate) fn families(pairs: &[Pair]) -> Vec<String> {
    let family = |pair: &Pair| match pair.1 {
        IpAddr::V4(_) => "IPv4",
        address if of_link(address) => "IPv6 link-local",
        IpAddr::V6(_) => "IPv6",
    };
    let all: BTreeSet<&str> = pairs.iter().map(family).collect();
    all.into_iter().map(str::to_owned).collect()
}
