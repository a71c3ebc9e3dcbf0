//! Parts of blocks: what an owner gives up of one, and who takes it. A claim becomes narrower, and never wider.

use std::cmp::Reverse;

use ipnet::IpNet;

use super::{Action, Scene};
use crate::identity::ClaimId;
use crate::memory::Holding;
use crate::plan::Pool;
use crate::record::{Record, is_within};
use crate::span::{holds, without};

/// First the rest is no longer used, then the store hears of it.
pub(super) fn narrow(scene: &Scene<'_>) -> Option<Action> {
    let mut wished = scene.wish.keep.iter();
    let (id, keep) = wished.find(|(id, keep)| is_narrower(scene, **id, **keep))?;
    Some(scene.save(|memory| {
        if let Some(holding) = memory.holdings.get_mut(id) {
            holding.part = Some(*keep);
        }
    }))
}

fn is_narrower(scene: &Scene<'_>, id: ClaimId, keep: IpNet) -> bool {
    let Some(holding) = scene.memory.holdings.get(&id) else { return false };
    let pool = scene.charter.plan.pool_of(holding.block);
    let fits = pool.is_some_and(|pool| keep.prefix_len() <= pool.smallest());
    fits && keep != holding.range() && holds(holding.range(), keep)
}

/// What this node's disk no longer claims of its block, it returns.
pub(super) fn release(scene: &Scene<'_>, id: ClaimId, holding: &Holding, record: &Record) -> Option<Action> {
    let claim = record.claims.get(&id)?;
    let is_wide = claim.part != holding.part && is_within(holding.part, claim.part);
    (is_wide && scene.is_firm(record)).then(|| {
        scene.change(holding.block, record, |claims| {
            claims.entry(id).and_modify(|claim| claim.part = holding.part);
        })
    })
}

/// The largest part that is free of a block that others claim the rest of. Not everybody begins with the same.
pub(super) fn choose(scene: &Scene<'_>, pool: &Pool) -> Option<(IpNet, Option<IpNet>)> {
    let of_pool = |block: &IpNet| block.prefix_len() == pool.block && holds(pool.range, *block);
    let blocks = scene.view.blocks.iter().filter(|(block, record)| of_pool(block) && scene.is_firm(record));
    let parts = blocks.flat_map(|(block, record)| record.free(*block).into_iter().map(|part| (*block, part)));
    let usable = parts.filter(|(block, part)| part != block && !without(*part, &pool.reserved).is_empty());
    let order = |part: IpNet| crate::span::bits(part.addr()) ^ scene.me().number();
    usable.max_by_key(|(_, part)| (Reverse(part.prefix_len()), order(*part))).map(|(block, part)| (block, Some(part)))
}
