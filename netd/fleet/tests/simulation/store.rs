//! A store as etcd is one: transactions one after the other, a log to watch, compaction, and copies that it can be set back to.

use std::collections::BTreeMap;

use netd_fleet::{Charter, Key, Txn, Value, View};

/// A transaction as it travels: what must be unchanged, with what was seen.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) expect: Vec<(Key, Option<Value>)>,
    pub(crate) put: Vec<(Key, Value)>,
    pub(crate) delete: Vec<Key>,
}

impl Request {
    pub(crate) fn of(txn: &Txn, view: &View) -> Self {
        let expect = txn.unchanged.iter().map(|key| (*key, view.value(key))).collect();
        Self { expect, put: txn.put.clone(), delete: txn.delete.clone() }
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
    now: BTreeMap<Key, Value>,
    revision: u64,
    log: Vec<Change>,
    compacted: u64,
    /// Counts how often it was set back: watches of before end.
    pub(crate) reign: u64,
    /// Content and revision.
    copies: Vec<(BTreeMap<Key, Value>, u64)>,
}

impl Store {
    pub(crate) fn revision(&self) -> u64 {
        self.revision
    }

    pub(crate) fn content(&self) -> BTreeMap<Key, Value> {
        self.now.clone()
    }

    pub(crate) fn commit(&mut self, request: &Request) -> bool {
        let holds = |(key, seen): &(Key, Option<Value>)| self.now.get(key) == seen.as_ref();
        if !request.expect.iter().all(holds) {
            return false;
        }
        let puts = request.put.iter().map(|(key, value)| (*key, Some(value.clone())));
        let changes: Vec<_> = puts.chain(request.delete.iter().map(|key| (*key, None))).collect();
        self.write(changes);
        true
    }

    pub(crate) fn write(&mut self, changes: Vec<(Key, Option<Value>)>) {
        if changes.is_empty() {
            return;
        }
        self.revision += 1;
        let revision = self.revision;
        for (key, value) in changes {
            match &value {
                Some(value) => drop(self.now.insert(key, value.clone())),
                None => drop(self.now.remove(&key)),
            }
            self.log.push(Change { revision, key, value });
        }
    }

    /// All changes of the first revision after `seen`; `None`: they were compacted away.
    pub(crate) fn after(&self, seen: u64) -> Option<Vec<Change>> {
        if seen < self.compacted {
            return None;
        }
        let next = self.log.iter().find(|change| change.revision > seen).map(|change| change.revision);
        let is_next = |change: &&Change| Some(change.revision) == next;
        Some(self.log.iter().filter(is_next).cloned().collect())
    }

    pub(crate) fn compact(&mut self) {
        self.compacted = self.revision;
        self.log.clear();
    }

    pub(crate) fn copy(&mut self) {
        self.copies.push((self.now.clone(), self.revision));
    }

    pub(crate) fn copies(&self) -> usize {
        self.copies.len()
    }

    pub(crate) fn charter_of_copy(&self, copy: usize) -> Option<&Charter> {
        match self.copies[copy].0.get(&Key::Charter) {
            Some(Value::Charter(charter)) => Some(charter),
            Some(Value::Record(_) | Value::Ack) | None => None,
        }
    }

    /// Sets it back to a copy.
    pub(crate) fn set_back(&mut self, copy: usize) {
        (self.now, self.revision) = self.copies[copy].clone();
        self.log.clear();
        self.compacted = self.revision;
        self.reign += 1;
    }
}
