//! What is wanted of the fleet: more blocks or fewer, and nodes removed.

use std::collections::BTreeSet;

use ipnet::IpNet;

use super::{Action, Scene, witness};
use crate::identity::{ClaimId, InstanceId};
use crate::memory::{Hold, Holding};
use crate::plan::Pool;

pub(super) fn step(scene: &Scene<'_>) -> Option<Action> {
    give_up(scene)
        .or_else(|| scene.wish.remove.iter().find_map(|node| remove(scene, *node)))
        .or_else(|| scene.wish.blocks.iter().find_map(|(pool, count)| claim(scene, pool, *count)))
}

/// First it is no longer used, then the store hears of it.
fn give_up(scene: &Scene<'_>) -> Option<Action> {
    let given_up = |id: &ClaimId| scene.wish.give_up.contains(id);
    let any = scene.memory.holdings.keys().any(given_up);
    any.then(|| scene.save(|memory| memory.holdings.retain(|id, _| !given_up(id))))
}

fn claim(scene: &Scene<'_>, pool: &str, count: usize) -> Option<Action> {
    let pool = scene.charter.plan.pool(pool)?;
    if scene.memory.blocks_in(pool).count() >= count {
        return None;
    }
    let block = choose(scene, pool)?;
    let holding = Holding { block, state: Hold::Pending };
    Some(scene.save(|memory| {
        memory.holdings.insert(ClaimId::new(scene.fresh), holding);
    }))
}

fn choose(scene: &Scene<'_>, pool: &Pool) -> Option<IpNet> {
    let held: BTreeSet<IpNet> = scene.memory.holdings.values().map(|holding| holding.block).collect();
    pool.block_from(scene.me().number(), |block| {
        let record = scene.view.blocks.get(&block);
        held.contains(&block) || record.is_some_and(|record| !record.claims.is_empty() || !scene.is_firm(record))
    })
}

/// An operator's word that a node is gone: its claims end.
fn remove(scene: &Scene<'_>, node: InstanceId) -> Option<Action> {
    if scene.charter.witnesses.contains(&node) {
        let rest = scene.charter.witnesses.iter().filter(|witness| **witness != node).copied();
        let rest: BTreeSet<InstanceId> = rest.collect();
        return (!rest.is_empty()).then(|| witness::appoint(scene, rest));
    }
    scene.view.blocks.iter().find_map(|(block, record)| {
        if record.author == node && scene.is_witnessed(record) {
            return Some(scene.seal(*block, record));
        }
        let any = record.claims.values().any(|claim| claim.owner == node);
        (any && scene.is_firm(record))
            .then(|| scene.change(*block, record, |claims| claims.retain(|_, claim| claim.owner != node)))
    })
}
