//! Address blocks that overlap, as ranges that do not. Which class a range has is `compile.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use crate::model::Block;

use super::atom::AtomId;
use super::compiled::AddressRange;

/// Disjoint ranges, each with the blocks that contain it.
#[derive(Debug, Default)]
pub(super) struct Ranges(BTreeMap<IpAddr, (IpAddr, Vec<AtomId>)>);

impl Ranges {
    pub(super) fn new<'a>(blocks: impl Iterator<Item = (AtomId, &'a Block)>) -> Self {
        let mut edges: BTreeMap<(bool, u128), Vec<(AtomId, i32)>> = BTreeMap::new();
        for (atom, block) in blocks {
            let mut net = |net: &IpNet, step: i32| {
                let (is_v6, first, last) = numbers(net);
                edges.entry((is_v6, first)).or_default().push((atom, step));
                if let Some(after) = last.checked_add(1) {
                    edges.entry((is_v6, after)).or_default().push((atom, -step));
                }
            };
            net(&block.cidr, 1);
            for hole in outermost(&block.except) {
                net(hole, -1);
            }
        }
        Self::sweep(&edges)
    }

    fn sweep(edges: &BTreeMap<(bool, u128), Vec<(AtomId, i32)>>) -> Self {
        let mut ranges = BTreeMap::new();
        let mut inside: BTreeMap<AtomId, i32> = BTreeMap::new();
        let mut family = false;
        let mut points = edges.iter().peekable();
        while let Some(((is_v6, first), steps)) = points.next() {
            if *is_v6 != family {
                inside.clear();
                family = *is_v6;
            }
            for (atom, step) in steps {
                *inside.entry(*atom).or_default() += step;
            }
            inside.retain(|_, count| *count != 0);
            if inside.is_empty() || *first > last_of(family) {
                continue;
            }
            let last = match points.peek() {
                Some(((next_family, next), _)) if *next_family == family => next - 1,
                Some(_) | None => last_of(family),
            };
            ranges.insert(address(family, *first), (address(family, last), inside.keys().copied().collect()));
        }
        Self(ranges)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (AddressRange, &[AtomId])> {
        self.0.iter().map(|(first, (last, atoms))| (AddressRange { first: *first, last: *last }, atoms.as_slice()))
    }

    /// The blocks that contain `address`.
    pub(super) fn at(&self, address: IpAddr) -> &[AtomId] {
        match self.0.range(..=address).next_back() {
            Some((first, (last, atoms))) if address <= *last && first.is_ipv4() == address.is_ipv4() => atoms,
            Some(_) | None => &[],
        }
    }
}

/// Holes may lie in holes; counting needs each address once.
fn outermost(holes: &BTreeSet<IpNet>) -> impl Iterator<Item = &IpNet> {
    holes.iter().filter(|hole| !holes.iter().any(|other| other != *hole && other.contains(*hole)))
}

fn numbers(net: &IpNet) -> (bool, u128, u128) {
    match net {
        IpNet::V4(net) => (false, u32::from(net.network()).into(), u32::from(net.broadcast()).into()),
        IpNet::V6(net) => (true, net.network().into(), net.broadcast().into()),
    }
}

fn last_of(is_v6: bool) -> u128 {
    if is_v6 { u128::MAX } else { u32::MAX.into() }
}

fn address(is_v6: bool, number: u128) -> IpAddr {
    match u32::try_from(number) {
        Ok(number) if !is_v6 => Ipv4Addr::from(number).into(),
        Ok(_) | Err(_) => Ipv6Addr::from(number).into(),
    }
}
