//! What is wanted of the fleet: more blocks or fewer, and nodes removed.

use std::collections::BTreeSet;

use ipnet::IpNet;

use super::{Action, Scene, commit, part, witness};
use crate::charter::Charter;
use crate::identity::{ClaimId, InstanceId};
use crate::memory::Holding;
use crate::plan::Pool;
use crate::record::Record;
use crate::view::{Key, Value};

pub(super) fn step(scene: &Scene<'_>) -> Option<Action> {
    give_up(scene)
        .or_else(|| part::narrow(scene))
        .or_else(|| remove(scene))
        .or_else(|| extend(scene))
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
    if scene.is_removed() || scene.memory.blocks_in(pool).count() >= count {
        return None;
    }
    let pool = &usable(scene, pool);
    let (block, part) = choose(scene, pool).map(|block| (block, None)).or_else(|| part::choose(scene, pool))?;
    Some(scene.save(|memory| {
        memory.holdings.insert(ClaimId::new(scene.fresh), Holding::pending(block, part));
    }))
}

/// Whether it would claim more, and finds nothing.
pub(super) fn is_lacking(scene: &Scene<'_>, pool: &str, count: usize) -> bool {
    let Some(pool) = scene.charter.plan.pool(pool) else { return false };
    if scene.is_removed() || scene.memory.blocks_in(pool).count() >= count {
        return false;
    }
    let pool = &usable(scene, pool);
    choose(scene, pool).is_none() && part::choose(scene, pool).is_none()
}

/// What this node gives nothing out of, it has no use for: that is its own to say, beside what the fleet reserves.
fn usable(scene: &Scene<'_>, pool: &Pool) -> Pool {
    let own = scene.wish.plan.as_ref().and_then(|plan| plan.pool(&pool.name));
    let mut pool = pool.clone();
    pool.reserved.extend(own.iter().flat_map(|own| &own.reserved));
    pool
}

fn choose(scene: &Scene<'_>, pool: &Pool) -> Option<IpNet> {
    pool.block_from(scene.me().number(), |block| {
        let record = scene.view.blocks.get(&block);
        record.is_some_and(|record| !record.claims.is_empty() || !scene.is_firm(record))
    })
}

/// An operator's word that nodes are gone: the fleet remembers it, and they neither witness nor claim anything any more.
fn remove(scene: &Scene<'_>) -> Option<Action> {
    let Scene { charter, wish, .. } = scene;
    let removed: BTreeSet<InstanceId> = charter.removed.union(&wish.remove).copied().collect();
    if removed != charter.removed {
        let charter = Charter { removed, ..(*charter).clone() };
        return Some(commit([Key::Charter], [(Key::Charter, Value::Charter(charter))]));
    }
    let stay: BTreeSet<InstanceId> = charter.witnesses.difference(&charter.removed).copied().collect();
    // Not everybody at once.
    let is_mine = stay.is_empty() || stay.contains(&scene.me()) || !wish.remove.is_empty();
    (is_mine && !scene.is_removed()).then(|| dismiss(scene, stay).or_else(|| evict(scene))).flatten()
}

/// An operator's word that the fleet has one pool more. It is in use when a majority of the witnesses remembers it.
fn extend(scene: &Scene<'_>) -> Option<Action> {
    let Scene { memory, charter, wish, fresh, .. } = scene;
    let mut new = wish.add.iter().filter(|pool| !charter.plan.has(pool));
    let extended = |pool| charter.extended(memory.charter.as_ref(), pool, *fresh);
    let next = new.find_map(extended).filter(|_| !scene.is_removed())?;
    Some(commit([Key::Charter], [(Key::Charter, Value::Charter(next))]))
}

fn dismiss(scene: &Scene<'_>, stay: BTreeSet<InstanceId>) -> Option<Action> {
    (!stay.is_empty() && stay != scene.charter.witnesses).then(|| witness::appoint(scene, stay))
}

fn evict(scene: &Scene<'_>) -> Option<Action> {
    let is_removed = |node: &InstanceId| scene.charter.removed.contains(node);
    scene.view.blocks.iter().find_map(|(block, record)| {
        if (is_removed(&record.author) || is_left(scene, record)) && !scene.is_firm(record) {
            // Witnesses tell nobody but the author.
            return Some(scene.write(*block, Record { author: scene.me(), ..record.clone() }));
        }
        let any = record.claims.values().any(|claim| is_removed(&claim.owner));
        (any && scene.is_firm(record))
            .then(|| scene.change(*block, record, |claims| claims.retain(|_, claim| !is_removed(&claim.owner))))
    })
}

/// Its author began to write it down in an earlier incarnation, and is not there.
fn is_left(scene: &Scene<'_>, record: &Record) -> bool {
    let is_there = |node: InstanceId| scene.wish.present.contains(&node);
    record.incarnation < scene.charter.number && !is_there(record.author) && is_there(scene.me())
}
