//! The protocol: from what a node remembers, what it sees and what is wished, the next thing to do. Pure; PROTOCOL.md has the
//! reasons. Doing it, one thing after the other, is `driver`'s.
//!
//! ```text
//! decide(memory, view, wish, fresh) ─▶ Save(memory): on disk before anything else is done
//!                                    ─▶ Commit(txn): told by the view whether it was, not by its answer
//!                                    ─▶ nothing: wait for the view or the wish to change
//! ```

mod hold;
mod part;
mod settle;
mod wish;
mod witness;

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;

use crate::charter::{Charter, Phase, Relation};
use crate::identity::{ClaimId, InstanceId, RecordId};
use crate::memory::Memory;
use crate::plan::{Plan, Pool};
use crate::record::{Claim, Record, Writer, has_forgotten};
use crate::view::{Key, Txn, Value, View};

/// The next thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Make this the node's memory, on disk.
    Save(Box<Memory>),
    /// Ask the store for this.
    Commit(Txn),
}

/// What is wanted of the fleet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wish {
    /// Pools and blocks, for a fleet that has none yet; and for a comparison where it has.
    pub plan: Option<Plan>,
    /// How many blocks of each pool this node should have.
    pub blocks: BTreeMap<String, usize>,
    /// Claims to give up; no address of theirs may be in use.
    pub give_up: BTreeSet<ClaimId>,
    /// Of these claims this part is to be kept; no address of the rest may be in use.
    pub keep: BTreeMap<ClaimId, IpNet>,
    /// Pools that an operator adds to those of the fleet, for good.
    pub add: Vec<Pool>,
    /// Nodes that an operator declares gone for good.
    pub remove: BTreeSet<InstanceId>,
    /// Witnesses that an operator declares gone with what they remember: a majority of the rest must do, or nobody.
    pub abandon: BTreeSet<InstanceId>,
    /// Nodes that are there and could witness.
    pub present: BTreeSet<InstanceId>,
}

impl Wish {
    /// Nodes that are there are neither removed nor abandoned. Whether any of them was to be.
    pub(crate) fn forget_removals(&mut self, there: &BTreeSet<InstanceId>) -> bool {
        let before = self.remove.len() + self.abandon.len();
        self.remove.retain(|node| !there.contains(node));
        self.abandon.retain(|node| !there.contains(node));
        self.remove.len() + self.abandon.len() != before
    }
}

/// The next thing to do; `fresh` is a random number that was never used.
#[must_use]
pub fn decide(memory: &Memory, view: &View, wish: &Wish, fresh: u128) -> Option<Action> {
    let Some(charter) = &view.charter else { return found(memory, wish, fresh) };
    match charter.relation(memory.charter.as_ref()) {
        Relation::Stranger | Relation::Split => None,
        Relation::SetBack => Some(begin_again(memory, charter, fresh)),
        Relation::News => Some(save(memory, |memory| memory.charter = Some(charter.clone()))),
        Relation::Same => {
            let scene = Scene { memory, view, wish, charter, fresh };
            let step = || match &charter.phase {
                Phase::Settling(settling) => settle::step(&scene, settling),
                Phase::Open => open(&scene),
            };
            witness::abandon(&scene).or_else(step)
        }
    }
}

/// The pools in which this node lacks what it wishes, and nothing is free.
#[must_use]
pub fn lacks(memory: &Memory, view: &View, wish: &Wish) -> BTreeSet<String> {
    let Some(charter) = view.charter.as_ref().filter(|charter| charter.is_open()) else { return BTreeSet::new() };
    if charter.relation(memory.charter.as_ref()) != Relation::Same {
        return BTreeSet::new();
    }
    let scene = Scene { memory, view, wish, charter, fresh: 0 };
    wish.blocks
        .iter()
        .filter(|(pool, count)| wish::is_lacking(&scene, pool, **count))
        .map(|(pool, _)| pool.clone())
        .collect()
}

/// Founds a fleet; or tells an empty store which fleet it belongs to.
fn found(memory: &Memory, wish: &Wish, fresh: u128) -> Option<Action> {
    let charter = match &memory.charter {
        Some(remembered) => remembered.next(None, fresh),
        None => Charter::found(memory.instance, wish.plan.clone()?, fresh),
    };
    Some(commit([Key::Charter], [(Key::Charter, Value::Charter(charter))]))
}

/// The store was set back: the fleet tells it anew.
fn begin_again(memory: &Memory, charter: &Charter, fresh: u128) -> Action {
    let next = charter.next(memory.charter.as_ref(), fresh);
    commit([Key::Charter], [(Key::Charter, Value::Charter(next))])
}

fn open(scene: &Scene<'_>) -> Option<Action> {
    let Scene { memory, view, charter, .. } = scene;
    if memory.table_of != Some(charter.id) {
        return Some(if hold::is_missed(scene) { begin_again(memory, charter, scene.fresh) } else { scene.take() });
    }
    if has_forgotten(&view.blocks, &memory.table) {
        return Some(begin_again(memory, charter, scene.fresh));
    }
    hold::step(scene).or_else(|| witness::step(scene)).or_else(|| wish::step(scene))
}

/// All that a decision rests on.
struct Scene<'a> {
    memory: &'a Memory,
    view: &'a View,
    wish: &'a Wish,
    charter: &'a Charter,
    fresh: u128,
}

impl Scene<'_> {
    fn me(&self) -> InstanceId {
        self.memory.instance
    }

    /// An operator declared this node gone.
    fn is_removed(&self) -> bool {
        self.charter.removed.contains(&self.me())
    }

    /// Remembers what the store says of all blocks.
    fn take(&self) -> Action {
        save(self.memory, |memory| self.note(memory))
    }

    fn note(&self, memory: &mut Memory) {
        memory.charter = Some(self.charter.clone());
        memory.table_of = Some(self.charter.id);
        memory.table = self.view.blocks.clone();
    }

    /// Remembers it together with a change of what this node holds.
    fn save(&self, change: impl FnOnce(&mut Memory)) -> Action {
        save(self.memory, |memory| {
            self.note(memory);
            change(memory);
        })
    }

    fn writer(&self) -> Writer {
        Writer { author: self.me(), incarnation: self.charter.number, id: RecordId::new(self.fresh) }
    }

    /// Whether a record may be built upon: no store that was set back can go another way from it unnoticed.
    fn is_firm(&self, record: &Record) -> bool {
        record.sealed
    }

    /// The witnesses remember it, and this can be written down.
    fn is_witnessed(&self, record: &Record) -> bool {
        !self.is_firm(record) && self.charter.is_majority(&self.view.witnesses_of(record))
    }

    /// Writes a block's record, if neither it nor the incarnation has changed.
    fn write(&self, block: IpNet, record: Record) -> Action {
        commit([Key::Charter, Key::Block(block)], [(Key::Block(block), Value::Record(record))])
    }

    /// Writes the same record with other claims.
    fn change(&self, block: IpNet, record: &Record, change: impl FnOnce(&mut BTreeMap<ClaimId, Claim>)) -> Action {
        let mut claims = record.claims.clone();
        change(&mut claims);
        self.write(block, record.after(self.writer(), claims))
    }

    fn seal(&self, block: IpNet, record: &Record) -> Action {
        self.write(block, Record { sealed: true, ..record.clone() })
    }
}

fn save(memory: &Memory, change: impl FnOnce(&mut Memory)) -> Action {
    let mut memory = memory.clone();
    change(&mut memory);
    Action::Save(Box::new(memory))
}

fn commit(unchanged: impl IntoIterator<Item = Key>, put: impl IntoIterator<Item = (Key, Value)>) -> Action {
    let (unchanged, put) = (unchanged.into_iter().collect(), put.into_iter().collect());
    Action::Commit(Txn { unchanged, put, delete: Vec::new() })
}

#[cfg(test)]
mod tests;
