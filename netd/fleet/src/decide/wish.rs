//! What is wanted of the fleet: more blocks or fewer, loans, and nodes removed.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;

use super::{Action, Lending, Part, Scene, witness};
use crate::identity::{ClaimId, InstanceId};
use crate::memory::{Hold, Holding, Loan};
use crate::plan::Pool;
use crate::span::holds;

pub(super) fn step(scene: &Scene<'_>) -> Option<Action> {
    give_up(scene)
        .or_else(|| scene.wish.lend.iter().find_map(|(id, lending)| lend(scene, *id, lending)))
        .or_else(|| scene.wish.borrow.iter().find_map(|(id, part)| borrow(scene, *id, *part)))
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
    let holding = Holding { block, range: block, state: Hold::Pending, loans: BTreeMap::new() };
    Some(scene.save(|memory| drop(memory.holdings.insert(ClaimId::new(scene.fresh), holding))))
}

fn choose(scene: &Scene<'_>, pool: &Pool) -> Option<IpNet> {
    let whole = scene.memory.holdings.values().filter(|holding| holding.range == holding.block);
    let held: BTreeSet<IpNet> = whole.map(|holding| holding.block).collect();
    pool.block_from(scene.me().number(), |block| {
        let record = scene.view.blocks.get(&block);
        held.contains(&block) || record.is_some_and(|record| !record.claims.is_empty() || !scene.is_firm(record))
    })
}

/// First it is no longer used here, then the store names the borrower.
fn lend(scene: &Scene<'_>, id: ClaimId, lending: &Lending) -> Option<Action> {
    let Part { block, range } = lending.part;
    let record = scene.view.blocks.get(&block).filter(|record| scene.is_firm(record))?;
    let (mine, holding) = scene.memory.holdings.iter().find(|(_, holding)| {
        holding.range == block && holding.state == Hold::Confirmed && block != range && holds(block, range)
    })?;
    let is_taken = holding.loans.iter().any(|(other, loan)| *other == id || crate::span::meet(loan.range, range));
    if is_taken || !record.claims.contains_key(mine) {
        return None;
    }
    let loan = Loan { range, borrower: lending.borrower, name: lending.name.clone(), since: record.epoch };
    Some(scene.save(|memory| {
        if let Some(holding) = memory.holdings.get_mut(mine) {
            holding.loans.insert(id, loan);
        }
    }))
}

/// A claim that its lender writes.
fn borrow(scene: &Scene<'_>, id: ClaimId, part: Part) -> Option<Action> {
    let Part { block, range } = part;
    let is_known = scene.memory.holdings.contains_key(&id) || scene.wish.give_up.contains(&id);
    let holding = Holding { block, range, state: Hold::Pending, loans: BTreeMap::new() };
    (!is_known).then(|| scene.save(|memory| drop(memory.holdings.insert(id, holding))))
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
