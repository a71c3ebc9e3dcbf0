//! Arithmetic of address ranges.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;

/// The address as a number.
pub(crate) fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits(),
    }
}

/// Whether all of `inner` lies in `outer`.
pub(crate) fn holds(outer: IpNet, inner: IpNet) -> bool {
    outer.prefix_len() <= inner.prefix_len() && outer.contains(&inner.network())
}

/// Whether they share an address.
pub(crate) fn meet(one: IpNet, other: IpNet) -> bool {
    holds(one, other) || holds(other, one)
}

/// What is left of `range` without `taken`, as few ranges as there can be.
#[must_use]
pub fn without(range: IpNet, taken: &BTreeSet<IpNet>) -> Vec<IpNet> {
    if taken.iter().any(|one| holds(*one, range)) {
        return Vec::new();
    }
    if !taken.iter().any(|one| holds(range, *one)) {
        return vec![range];
    }
    let halves = range.subnets(range.prefix_len() + 1).into_iter().flatten();
    halves.flat_map(|half| without(half, taken)).collect()
}

#[cfg(test)]
mod tests {
    use super::without;

    fn left(range: &str, taken: &[&str]) -> String {
        let taken = taken.iter().map(|one| one.parse().unwrap()).collect();
        without(range.parse().unwrap(), &taken).iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn what_is_taken_is_cut_out() {
        assert_eq!(left("10.0.0.0/24", &[]), "10.0.0.0/24");
        assert_eq!(left("10.0.0.0/24", &["10.0.0.0/8"]), "");
        assert_eq!(left("10.0.0.0/24", &["10.0.0.64/26"]), "10.0.0.0/26 10.0.0.128/25");
        assert_eq!(left("10.0.0.0/30", &["10.0.0.0/32", "10.0.0.3/32", "10.9.0.0/16"]), "10.0.0.1/32 10.0.0.2/32");
        assert_eq!(left("fd00::/126", &["fd00::1/128"]), "fd00::/128 fd00::2/127");
        assert_eq!(left("10.0.0.0/32", &["fd00::/8"]), "10.0.0.0/32");
    }
}
