//! What becomes of the claims of this node: confirmed, contested, lost, given up.

use ipnet::IpNet;

use super::{Action, Scene, part};
use crate::identity::ClaimId;
use crate::memory::{Hold, Holding};
use crate::record::{Claim, Record};

/// A claim is not in a store that settled without this node. PROTOCOL.md, "What it cannot do".
pub(super) fn is_missed(scene: &Scene<'_>) -> bool {
    scene.memory.holdings.iter().any(|(id, holding)| {
        let has = |record: &&Record| record.claims.contains_key(id);
        let then = scene.memory.table.get(&holding.block).filter(has);
        let now = scene.view.blocks.get(&holding.block);
        then.is_some_and(|then| now.is_none_or(|now| now.epoch <= then.epoch && !has(&now)))
    })
}

pub(super) fn step(scene: &Scene<'_>) -> Option<Action> {
    let mut holdings = scene.memory.holdings.iter();
    holdings.find_map(|(id, holding)| mine(scene, *id, holding)).or_else(|| blocks(scene))
}

fn mine(scene: &Scene<'_>, id: ClaimId, holding: &Holding) -> Option<Action> {
    let record = scene.view.blocks.get(&holding.block);
    let claimed = record.filter(|record| record.claims.contains_key(&id));
    match (holding.state, claimed) {
        (Hold::Pending, Some(record)) => pending(scene, id, record),
        (Hold::Pending, None) => unclaimed(scene, id, holding, record),
        (Hold::Confirmed, Some(record)) => confirmed(scene, id, holding, record),
        // A later record without it: an operator declared this node gone, or another had the better claim.
        (Hold::Confirmed, None) => Some(forget(scene, id)),
    }
}

fn pending(scene: &Scene<'_>, id: ClaimId, record: &Record) -> Option<Action> {
    if record.joined || record.is_disputed(id) {
        return Some(forget(scene, id));
    }
    // What stood in a firm state was witnessed, whoever builds upon that now and does not live to seal it.
    let is_kept = record.claims.get(&id).is_some_and(|claim| claim.kept);
    (is_kept || scene.is_firm(record)).then(|| {
        scene.save(|memory| {
            if let Some(holding) = memory.holdings.get_mut(&id) {
                holding.state = Hold::Confirmed;
            }
        })
    })
}

/// Asks for it, or asks again: nobody knows whether the last request arrived.
fn unclaimed(scene: &Scene<'_>, id: ClaimId, holding: &Holding, record: Option<&Record>) -> Option<Action> {
    let claim = Claim { owner: scene.me(), name: scene.memory.name.clone(), part: holding.part, kept: false };
    match record {
        None => Some(scene.write(holding.block, Record::first(scene.writer(), [(id, claim)].into()))),
        Some(record) if !record.claims.values().any(|other| other.meets(&claim)) && scene.is_firm(record) => {
            Some(scene.change(holding.block, record, |claims| drop(claims.insert(id, claim))))
        }
        Some(_) => Some(forget(scene, id)),
    }
}

fn confirmed(scene: &Scene<'_>, id: ClaimId, holding: &Holding, record: &Record) -> Option<Action> {
    // Ours is witnessed, so theirs cannot be.
    let is_rival = |other: &ClaimId, claim: &Claim| *other != id && claim.meets_part(holding.part);
    let any = record.claims.iter().any(|(other, claim)| is_rival(other, claim));
    if any && scene.is_firm(record) {
        return Some(scene.change(holding.block, record, |claims| claims.retain(|id, claim| !is_rival(id, claim))));
    }
    part::release(scene, id, holding, record)
}

fn forget(scene: &Scene<'_>, id: ClaimId) -> Action {
    scene.save(|memory| {
        memory.holdings.remove(&id);
    })
}

/// Seals what this node wrote, and gives back what it claims in the store and not in its memory.
fn blocks(scene: &Scene<'_>) -> Option<Action> {
    scene.view.blocks.iter().find_map(|(block, record)| {
        if record.author == scene.me() && scene.is_witnessed(record) {
            return Some(scene.seal(*block, record));
        }
        stray(scene, *block, record)
    })
}

fn stray(scene: &Scene<'_>, block: IpNet, record: &Record) -> Option<Action> {
    let is_stray = |id: &ClaimId, claim: &Claim| claim.owner == scene.me() && !scene.memory.holdings.contains_key(id);
    let any = record.claims.iter().any(|(id, claim)| is_stray(id, claim));
    (any && scene.is_firm(record))
        .then(|| scene.change(block, record, |claims| claims.retain(|id, claim| !is_stray(id, claim))))
}
