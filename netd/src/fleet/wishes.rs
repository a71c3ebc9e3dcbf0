//! How many blocks this node wants, and which it can do without. Pure.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use netd_config::NetworkName;

use crate::node::BlockUse;

/// One more block is wanted when fewer addresses than this part of the last one are free.
const FEW: u128 = 8;
/// A block is given back only if this part of it is free in the others.
const PLENTY: u128 = 2;

/// What is wanted of the fleet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wishes {
    /// Blocks of each pool, in all.
    pub blocks: BTreeMap<String, usize>,
    /// Blocks that nobody uses, and more than enough remain.
    pub spare: BTreeSet<IpNet>,
    /// Blocks of networks that are gone: any other may have them.
    pub free: BTreeSet<IpNet>,
}

/// What is wanted of `pools`, each with those that it continues, by networks, each with its pool's name, as this node's blocks
/// are used.
#[must_use]
pub fn wishes(
    pools: &BTreeMap<String, BTreeSet<String>>,
    networks: &BTreeSet<(NetworkName, String)>,
    usage: &[BlockUse],
) -> Wishes {
    let mut wishes = Wishes::default();
    for (pool, before) in pools {
        let own: Vec<&BlockUse> = usage.iter().filter(|one| one.pool == *pool && !one.is_leaving).collect();
        let mut names: BTreeSet<&NetworkName> =
            networks.iter().filter(|(_, of)| of == pool).map(|(name, _)| name).collect();
        names.extend(own.iter().filter_map(|one| one.network.as_ref()));
        let mut wanted = 0;
        for name in names {
            let of: Vec<&BlockUse> = own.iter().copied().filter(|one| one.network.as_ref() == Some(name)).collect();
            if !networks.iter().any(|(known, _)| known == name) && of.iter().all(|one| one.held == 0) {
                wishes.free.extend(of.iter().map(|one| one.block));
                continue;
            }
            let is_its =
                |one: &&BlockUse| one.network.as_ref() == Some(name) && before.contains(&one.pool) && !one.is_leaving;
            let before = usage.iter().filter(is_its).map(free).sum();
            let (count, spare) = of_network(&of, before);
            wanted += count;
            // One that is no network's goes as all such do.
            if before > 0 { wishes.free.extend(spare) } else { wishes.spare.extend(spare) }
        }
        // A first container finds a block, and a node that has one keeps its place.
        let wanted = wanted.max(1);
        let idle: Vec<IpNet> = own.iter().filter(|one| one.network.is_none()).map(|one| one.block).collect();
        let given = own.iter().filter(|one| wishes.spare.contains(&one.block)).count();
        let surplus = own.len().saturating_sub(given).saturating_sub(wanted).min(idle.len());
        wishes.spare.extend(&idle[idle.len() - surplus..]);
        wishes.blocks.insert(pool.clone(), wanted);
    }
    // Of a pool that is for other nodes, whatever is left from when it was not.
    for one in usage.iter().filter(|one| !one.pool.is_empty() && !pools.contains_key(&one.pool)) {
        wishes.blocks.insert(one.pool.clone(), 0);
        wishes.spare.extend(Some(one.block).filter(|_| one.held == 0 && !one.is_leaving));
    }
    wishes
}

fn free(one: &BlockUse) -> u128 {
    one.size.saturating_sub(one.held)
}

/// Blocks of a pool that a network wants in all, and one that it can do without; `before`: addresses that it has left in pools
/// that this one continues. Without any it keeps a block here.
fn of_network(own: &[&BlockUse], before: u128) -> (usize, Option<IpNet>) {
    let Some(largest) = own.iter().map(|one| one.size).max() else { return (1, None) };
    let all = own.iter().map(|one| free(one)).fold(before, u128::saturating_add);
    if all.saturating_mul(FEW) < largest {
        return (own.len() + 1, None);
    }
    let without = |one: &&BlockUse| all.saturating_sub(free(one)).saturating_mul(PLENTY) >= largest;
    let spare =
        own.iter().rev().copied().filter(|_| own.len() > 1 || before > 0).find(|one| one.held == 0 && without(one));
    (own.len() - usize::from(spare.is_some()), spare.map(|one| one.block))
}

#[cfg(test)]
mod tests;
