//! While the store is told again what it may have forgotten. No block changes hands meanwhile.

use std::collections::BTreeSet;

use super::{Action, Scene, commit};
use crate::charter::{Phase, Settling};
use crate::record::{Record, Table, ahead, told};
use crate::view::{Key, Value};

/// Records written at once, with the charter: etcd takes 128 operations.
const AT_ONCE: usize = 100;

pub(super) fn step(scene: &Scene<'_>, settling: &Settling) -> Option<Action> {
    let Scene { memory, view, .. } = scene;
    let settling = &settling.of(&view.blocks);
    let missing = ahead(&view.blocks, &memory.table);
    if !missing.is_empty() {
        return Some(tell(scene, settling, missing));
    }
    if settling.asks(scene.me()) && !settling.merged.contains(&scene.me()) {
        return Some(amend(scene, Settling { merged: joined(&settling.merged, scene), ..settling.clone() }));
    }
    settling.is_told().then(|| adopt(scene, settling)).flatten()
}

/// New witnesses remember all that was told; with a majority of them the incarnation opens.
fn adopt(scene: &Scene<'_>, settling: &Settling) -> Option<Action> {
    let Scene { memory, view, charter, .. } = scene;
    if charter.is_majority(&settling.adopted) {
        let open = charter.with(Phase::Open);
        return Some(commit([Key::Charter], [(Key::Charter, Value::Charter(open))]));
    }
    if !charter.witnesses.contains(&scene.me()) || settling.adopted.contains(&scene.me()) {
        return None;
    }
    if memory.table != view.blocks {
        return Some(scene.take());
    }
    Some(amend(scene, Settling { adopted: joined(&settling.adopted, scene), ..settling.clone() }))
}

fn tell(scene: &Scene<'_>, settling: &Settling, missing: Table) -> Action {
    let before = scene.charter.number.saturating_sub(1);
    let some = missing.into_iter().take(AT_ONCE).map(|(block, record)| {
        // This incarnation may have been open in another copy of the store. Whoever is there is to seal it.
        let incarnation = record.incarnation.min(before);
        (block, Record { incarnation, ..record })
    });
    let some: Table = some.collect();
    let all = scene.view.blocks.clone().into_iter().chain(some.clone()).collect();
    let charter = scene.charter.with(Phase::Settling(settling.told_more(told(&all))));
    // The blocks as well: the same incarnation may have begun on another copy of the store, by a request that came late.
    let unchanged: Vec<Key> = some.keys().map(|block| Key::Block(*block)).chain([Key::Charter]).collect();
    let records = some.into_iter().map(|(block, record)| (Key::Block(block), Value::Record(record)));
    commit(unchanged, records.chain([(Key::Charter, Value::Charter(charter))]))
}

fn amend(scene: &Scene<'_>, settling: Settling) -> Action {
    let charter = scene.charter.with(Phase::Settling(settling));
    commit([Key::Charter], [(Key::Charter, Value::Charter(charter))])
}

fn joined(some: &BTreeSet<crate::identity::InstanceId>, scene: &Scene<'_>) -> BTreeSet<crate::identity::InstanceId> {
    some.iter().copied().chain([scene.me()]).collect()
}
