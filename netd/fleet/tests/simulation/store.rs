//! A store as etcd is one: transactions one after the other, a log to watch, compaction, and copies that it can be set back to.

use std::collections::BTreeMap;

use crate::protocol::{Charter, Key, Record, Txn, Value};

/// What a store says, each key with the revision of its last change.
pub(crate) type Content = BTreeMap<Key, (Value, u64)>;

/// What must be unchanged: a key, what was seen of it, and in which revision that was written (0: it was not there).
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) key: Key,
    pub(crate) value: Option<Value>,
    pub(crate) revision: u64,
}

/// A transaction as it travels.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    /// Whose.
    pub(crate) from: usize,
    pub(crate) seen: Vec<Seen>,
    /// By revision instead of by content.
    pub(crate) by_revision: bool,
    pub(crate) txn: Txn,
}

impl Request {
    /// Acknowledgements, there or gone: true in any order, and however often.
    pub(crate) fn is_ack(&self) -> bool {
        let mut keys = self.txn.put.iter().map(|(key, _)| key).chain(&self.txn.delete);
        keys.all(|key| matches!(key, Key::Ack(_)))
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Change {
    pub(crate) revision: u64,
    pub(crate) key: Key,
    pub(crate) value: Option<Value>,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Store {
    now: Content,
    revision: u64,
    log: Vec<Change>,
    compacted: u64,
    /// Counts how often it was set back: watches of before end.
    pub(crate) reign: u64,
    /// Content and revision.
    copies: Vec<(Content, u64)>,
}

impl Store {
    pub(crate) fn revision(&self) -> u64 {
        self.revision
    }

    pub(crate) fn content(&self) -> &Content {
        &self.now
    }

    pub(crate) fn charter(&self) -> Option<&Charter> {
        charter(&self.now)
    }

    /// All blocks that were ever claimed.
    pub(crate) fn records(&self) -> impl Iterator<Item = (&Key, &Record)> {
        self.now.iter().filter_map(|(key, (value, _))| match value {
            Value::Record(record) => Some((key, record)),
            Value::Charter(_) | Value::Ack => None,
        })
    }

    pub(crate) fn record(&self, key: &Key) -> Option<&Record> {
        match self.now.get(key) {
            Some((Value::Record(record), _)) => Some(record),
            Some((Value::Charter(_) | Value::Ack, _)) | None => None,
        }
    }

    pub(crate) fn would_do(&self, request: &Request) -> bool {
        request.seen.iter().all(|seen| match self.now.get(&seen.key) {
            Some((_, revision)) if request.by_revision => *revision == seen.revision,
            None if request.by_revision => seen.revision == 0,
            Some((value, _)) => Some(value) == seen.value.as_ref(),
            None => seen.value.is_none(),
        })
    }

    pub(crate) fn commit(&mut self, txn: &Txn) {
        let puts = txn.put.iter().map(|(key, value)| (*key, Some(value.clone())));
        let changes: Vec<_> = puts.chain(txn.delete.iter().map(|key| (*key, None))).collect();
        self.write(changes);
    }

    pub(crate) fn write(&mut self, changes: Vec<(Key, Option<Value>)>) {
        if changes.is_empty() {
            return;
        }
        self.revision += 1;
        let revision = self.revision;
        for (key, value) in changes {
            match &value {
                Some(value) => drop(self.now.insert(key, (value.clone(), revision))),
                None => drop(self.now.remove(&key)),
            }
            self.log.push(Change { revision, key, value });
        }
    }

    /// Whether everything after `seen` can still be told.
    pub(crate) fn tells(&self, seen: u64) -> bool {
        seen >= self.compacted
    }

    /// All changes after `seen`.
    pub(crate) fn after(&self, seen: u64) -> impl Iterator<Item = &Change> {
        let start = self.log.partition_point(|change| change.revision <= seen);
        self.log[start..].iter()
    }

    pub(crate) fn compact(&mut self) {
        self.compacted = self.revision;
        self.log.clear();
    }

    pub(crate) fn copy(&mut self) -> usize {
        self.copies.push((self.now.clone(), self.revision));
        self.copies.len() - 1
    }

    pub(crate) fn copies(&self) -> usize {
        self.copies.len()
    }

    pub(crate) fn charter_of_copy(&self, copy: usize) -> Option<&Charter> {
        charter(&self.copies[copy].0)
    }

    /// Sets it back to a copy.
    pub(crate) fn set_back(&mut self, copy: usize) {
        let (content, revision) = self.copies[copy].clone();
        self.replace(content, revision);
    }

    /// All is lost.
    pub(crate) fn empty(&mut self) {
        self.replace(Content::new(), 0);
    }

    fn replace(&mut self, content: Content, revision: u64) {
        (self.now, self.revision) = (content, revision);
        self.log.clear();
        self.compacted = self.revision;
        self.reign += 1;
    }
}

fn charter(content: &Content) -> Option<&Charter> {
    match content.get(&Key::Charter) {
        Some((Value::Charter(charter), _)) => Some(charter),
        Some((Value::Record(_) | Value::Ack, _)) | None => None,
    }
}
