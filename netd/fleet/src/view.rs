//! What a node sees of the store, and what it asks of it. The store may have moved on: every request names what must not
//! have changed, by content and not by revision, since revisions are used again after the store was set back.

use std::collections::BTreeSet;

use ipnet::IpNet;

use crate::charter::Charter;
use crate::identity::{InstanceId, RecordId};
use crate::record::{Record, Table};

/// A part of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// What the fleet agrees upon.
    Charter,
    /// A block.
    Block(IpNet),
    /// A witness remembers a record.
    Ack(Ack),
}

/// That a witness remembers a record. It is true for ever, in whatever store it turns up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ack {
    /// Who waits for it.
    pub author: InstanceId,
    /// What is remembered.
    pub record: RecordId,
    /// Who remembers it.
    pub witness: InstanceId,
}

/// What a part of the store says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// See [`Key::Charter`].
    Charter(Charter),
    /// See [`Key::Block`].
    Record(Record),
    /// See [`Key::Ack`].
    Ack,
}

/// One change of the store, whole or not at all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Txn {
    /// What must be as it was seen, or absent if it was not there.
    pub unchanged: BTreeSet<Key>,
    /// What is written.
    pub put: Vec<(Key, Value)>,
    /// What is deleted.
    pub delete: Vec<Key>,
}

/// The store as a node saw it last.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct View {
    /// What the fleet agrees upon.
    pub charter: Option<Charter>,
    /// All blocks.
    pub blocks: Table,
    /// What was acknowledged to this node or by it.
    pub acks: BTreeSet<Ack>,
}

impl View {
    /// Takes a change of the store.
    pub fn apply(&mut self, key: Key, value: Option<Value>) {
        match (key, value) {
            (Key::Charter, Some(Value::Charter(charter))) => self.charter = Some(charter),
            (Key::Block(block), Some(Value::Record(record))) => drop(self.blocks.insert(block, record)),
            (Key::Ack(ack), Some(Value::Ack)) => drop(self.acks.insert(ack)),
            // A value under a key of another kind is as good as none.
            (Key::Charter, Some(Value::Record(_) | Value::Ack) | None) => self.charter = None,
            (Key::Block(block), Some(Value::Charter(_) | Value::Ack) | None) => drop(self.blocks.remove(&block)),
            (Key::Ack(ack), Some(Value::Charter(_) | Value::Record(_)) | None) => drop(self.acks.remove(&ack)),
        }
    }

    /// What it says.
    #[must_use]
    pub fn value(&self, key: &Key) -> Option<Value> {
        match key {
            Key::Charter => self.charter.clone().map(Value::Charter),
            Key::Block(block) => self.blocks.get(block).cloned().map(Value::Record),
            Key::Ack(ack) => self.acks.contains(ack).then_some(Value::Ack),
        }
    }

    /// Who remembers a record.
    pub(crate) fn witnesses_of(&self, record: &Record) -> BTreeSet<InstanceId> {
        let acks = self.acks.iter().filter(|ack| ack.record == record.id);
        acks.map(|ack| ack.witness).collect()
    }
}
