//! Maps that remember what changed in them. What they hold is `compiled.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Deref;

/// A map, and what its keys held before the last [`Table::take_change`].
#[derive(Debug, Clone)]
pub struct Table<K, V> {
    now: BTreeMap<K, V>,
    before: BTreeMap<K, Option<V>>,
}

/// What to do to a map's copy elsewhere: first remove, then set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change<K, V> {
    /// Keys that are no more.
    pub removed: BTreeSet<K>,
    /// Keys that are new or have another value.
    pub set: BTreeMap<K, V>,
    /// Those of them that are not new.
    pub changed: BTreeSet<K>,
}

impl<K, V> Default for Table<K, V> {
    fn default() -> Self {
        Self { now: BTreeMap::new(), before: BTreeMap::new() }
    }
}

impl<K: Ord, V> Default for Change<K, V> {
    fn default() -> Self {
        Self { removed: BTreeSet::new(), set: BTreeMap::new(), changed: BTreeSet::new() }
    }
}

impl<K, V> Deref for Table<K, V> {
    type Target = BTreeMap<K, V>;

    fn deref(&self) -> &Self::Target {
        &self.now
    }
}

/// As it was read: nothing has changed in it yet.
impl<K: Ord, V> FromIterator<(K, V)> for Table<K, V> {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(all: I) -> Self {
        Self { now: all.into_iter().collect(), before: BTreeMap::new() }
    }
}

impl<K: Ord + Clone, V: Clone + PartialEq> Table<K, V> {
    pub(super) fn insert(&mut self, key: K, value: V) {
        if self.now.get(&key) == Some(&value) {
            return;
        }
        let old = self.now.insert(key.clone(), value);
        self.before.entry(key).or_insert(old);
    }

    pub(super) fn remove(&mut self, key: &K) -> Option<V> {
        let old = self.now.remove(key)?;
        self.before.entry(key.clone()).or_insert_with(|| Some(old.clone()));
        Some(old)
    }

    /// What changed since this was last called.
    pub(super) fn take_change(&mut self) -> Change<K, V> {
        let mut change = Change::default();
        for (key, old) in std::mem::take(&mut self.before) {
            match self.now.get(&key) {
                None if old.is_some() => {
                    change.removed.insert(key);
                }
                Some(value) if Some(value) != old.as_ref() => {
                    change.changed.extend(old.map(|_| key.clone()));
                    change.set.insert(key, value.clone());
                }
                None | Some(_) => {}
            }
        }
        change
    }

    /// What makes `old` this table, which starts to remember from here.
    pub(super) fn change_from(&mut self, old: &Self) -> Change<K, V> {
        self.before.clear();
        let removed = old.now.keys().filter(|key| !self.now.contains_key(key)).cloned().collect();
        let differs = |(key, value): &(&K, &V)| old.now.get(key) != Some(value);
        let set: BTreeMap<K, V> =
            self.now.iter().filter(differs).map(|(key, value)| (key.clone(), value.clone())).collect();
        let changed = set.keys().filter(|key| old.now.contains_key(key)).cloned().collect();
        Change { removed, set, changed }
    }
}

impl<K, V> Change<K, V> {
    /// How many elements it touches.
    #[must_use]
    pub fn len(&self) -> usize {
        self.removed.len() + self.set.len()
    }

    /// Whether it changes nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
