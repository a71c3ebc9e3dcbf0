//! A witness remembers every new record, then says so; and sees to it that there are enough of its kind.

use std::collections::BTreeSet;

use super::{Action, Scene, commit};
use crate::charter::{Charter, WITNESSES};
use crate::identity::InstanceId;
use crate::record::Record;
use crate::view::{Ack, Key, Txn, Value};

const AT_ONCE: usize = 100;

pub(super) fn step(scene: &Scene<'_>) -> Option<Action> {
    let is_witness = scene.charter.witnesses.contains(&scene.me());
    let duty = || acknowledge(scene).or_else(|| grow(scene));
    is_witness.then(duty).flatten().or_else(|| sweep(scene))
}

fn acknowledge(scene: &Scene<'_>) -> Option<Action> {
    let open = scene.view.blocks.iter().filter(|(_, record)| !scene.is_firm(record));
    let new: Vec<_> = open.filter(|(_, record)| !scene.view.acks.contains(&ack(scene, record))).collect();
    if new.is_empty() {
        return None;
    }
    if new.iter().any(|(block, record)| scene.memory.table.get(block) != Some(record)) {
        return Some(scene.take());
    }
    Some(commit([], new.iter().take(AT_ONCE).map(|(_, record)| (Key::Ack(ack(scene, record)), Value::Ack))))
}

fn ack(scene: &Scene<'_>, record: &Record) -> Ack {
    Ack { author: record.author, record: record.id, witness: scene.me() }
}

/// More witnesses, an odd number of them: an even one bears no more losses than the odd one before.
fn grow(scene: &Scene<'_>) -> Option<Action> {
    let witnesses = &scene.charter.witnesses;
    let free = scene.wish.present.difference(witnesses).filter(|node| !scene.charter.removed.contains(node));
    let more = if witnesses.len().is_multiple_of(2) { 1 } else { 2 };
    let new: BTreeSet<InstanceId> = free.copied().take(more).collect();
    let fits = new.len() == more && witnesses.len() + more <= WITNESSES;
    fits.then(|| appoint(scene, witnesses.union(&new).copied().collect()))
}

/// Gives the office to these. The old ones are asked what they remember.
pub(super) fn appoint(scene: &Scene<'_>, witnesses: BTreeSet<InstanceId>) -> Action {
    let next = scene.charter.next(scene.memory.charter.as_ref(), scene.fresh);
    commit([Key::Charter], [(Key::Charter, Value::Charter(Charter { witnesses, ..next }))])
}

/// Goes on without witnesses that will never tell again. One that is removed as well is so at once: it may live, and would be
/// appointed again as soon as blocks can change hands.
pub(super) fn abandon(scene: &Scene<'_>) -> Option<Action> {
    let gone = &scene.wish.abandon;
    let next = scene.charter.next(scene.memory.charter.as_ref(), scene.fresh);
    scene.charter.asks_any(gone).then(|| {
        let mut next = next.without(gone, scene.me());
        next.removed.extend(gone.intersection(&scene.wish.remove));
        commit([Key::Charter], [(Key::Charter, Value::Charter(next))])
    })
}

/// Takes its acknowledgements away once nobody waits for them.
fn sweep(scene: &Scene<'_>) -> Option<Action> {
    let awaited: BTreeSet<_> =
        scene.view.blocks.values().filter(|record| !scene.is_firm(record)).map(|record| record.id).collect();
    let mine = scene.view.acks.iter().filter(|ack| ack.witness == scene.me() && !awaited.contains(&ack.record));
    let delete: Vec<Key> = mine.take(AT_ONCE).map(|ack| Key::Ack(*ack)).collect();
    (!delete.is_empty()).then(|| Action::Commit(Txn { delete, ..Txn::default() }))
}
