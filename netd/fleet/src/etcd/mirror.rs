//! The store as it was last heard of: the protocol's view of it, the peers, and the octets that a transaction compares with.
//! What was heard costs what it is about, and not all that is known: in a large fleet somebody always comes or goes.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;

use super::api::event::EventType;
use super::api::{KeyValue, WatchResponse};
use super::client::{Listing, Seen, Words, Write};
use super::keys::{ForeignError, Keys, Place, Unreadable, decode, encode, peer};
use crate::identity::{InstanceId, NodeName};
use crate::peers::{NodeRecord, Peers};
use crate::record::Claim;
use crate::span::holds;
use crate::view::{Key, Txn, Value, View};

/// Keys that one transaction takes away beside the protocol's: etcd takes 128 operations.
const TOGETHER: usize = 100;

pub(super) struct Mirror {
    keys: Keys,
    pub(super) view: View,
    pub(super) peers: BTreeMap<String, NodeRecord>,
    /// Of their records.
    leases: BTreeMap<String, i64>,
    /// Of these names nobody is known.
    unreadable: BTreeMap<String, Unreadable>,
    raw: BTreeMap<Vec<u8>, Vec<u8>>,
    pub(super) revision: i64,
    /// Who is there, and under which names.
    names: BTreeSet<(InstanceId, String)>,
    /// Names of which something was heard that nobody was told yet.
    stirred: BTreeSet<String>,
    /// The view has changed, or who is there, since this was cleared.
    pub(super) is_news: bool,
}

impl Mirror {
    pub(super) fn of(keys: Keys, fleet: Listing, acks: Listing) -> Result<Self, ForeignError> {
        let revision = fleet.revision;
        let (view, peers, raw) = (View::default(), BTreeMap::new(), BTreeMap::new());
        let (leases, unreadable) = (BTreeMap::new(), BTreeMap::new());
        let (names, stirred) = (BTreeSet::new(), BTreeSet::new());
        let mut mirror = Self { keys, view, peers, leases, unreadable, raw, revision, names, stirred, is_news: true };
        fleet.pairs.into_iter().chain(acks.pairs).try_for_each(|pair| mirror.put(pair))?;
        Ok(mirror)
    }

    /// Takes the changes that a watch of the fleet tells: all of a revision, so that the view is one that was.
    pub(super) fn hear(&mut self, answer: WatchResponse) -> Result<(), ForeignError> {
        let latest = answer.events.iter().map(|event| event.kv.mod_revision).max();
        self.hear_acks(answer)?;
        self.revision = self.revision.max(latest.unwrap_or(0));
        Ok(())
    }

    /// Takes acknowledgements, which are true in any order.
    pub(super) fn hear_acks(&mut self, answer: WatchResponse) -> Result<(), ForeignError> {
        answer.events.into_iter().try_for_each(|event| {
            let pair = event.kv.unwrap_or_default();
            match event.type_.enum_value_or_default() {
                EventType::PUT => self.put(pair),
                EventType::DELETE => self.delete(&pair.key),
            }
        })
    }

    fn put(&mut self, pair: KeyValue) -> Result<(), ForeignError> {
        match self.keys.place(&pair.key)? {
            Place::Protocol(key) => self.apply(key, Some(decode(&key, &pair.value)?)),
            Place::Peer(name) => {
                let (record, unreadable) = match peer(&pair.value) {
                    Ok(record) => (Some(record), None),
                    Err(unreadable) => (None, Some(unreadable)),
                };
                set(&mut self.unreadable, name.clone(), unreadable);
                self.leases.insert(name.clone(), pair.lease);
                self.set_peer(name, record);
            }
            Place::Unknown => return Ok(()),
        }
        self.raw.insert(pair.key, pair.value);
        Ok(())
    }

    fn delete(&mut self, key: &[u8]) -> Result<(), ForeignError> {
        match self.keys.place(key)? {
            Place::Protocol(key) => self.apply(key, None),
            Place::Peer(name) => {
                self.unreadable.remove(&name);
                self.leases.remove(&name);
                self.set_peer(name, None);
            }
            Place::Unknown => {}
        }
        self.raw.remove(key);
        Ok(())
    }

    /// Which blocks are told to be a peer's depends on who claims them, and on the incarnation.
    fn apply(&mut self, key: Key, value: Option<Value>) {
        let incarnation = self.incarnation();
        self.stir_claimants(&key);
        self.view.apply(key, value);
        self.stir_claimants(&key);
        if self.incarnation() != incarnation {
            self.stirred.extend(self.peers.keys().cloned());
        }
        self.is_news = true;
    }

    fn incarnation(&self) -> u64 {
        self.view.charter.as_ref().map_or(0, |charter| charter.number)
    }

    fn stir_claimants(&mut self, key: &Key) {
        let Key::Block(block) = key else { return };
        for claim in self.view.blocks.get(block).into_iter().flat_map(|record| record.claims.values()) {
            self.stirred.extend(names_of(&self.names, claim.owner).cloned());
        }
    }

    fn set_peer(&mut self, name: String, record: Option<NodeRecord>) {
        self.stirred.insert(name.clone());
        let instance = record.as_ref().and_then(|record| record.instance);
        let before = match record {
            Some(record) => self.peers.insert(name.clone(), record),
            None => self.peers.remove(&name),
        };
        let before = before.and_then(|record| record.instance);
        if before != instance {
            before.map(|before| self.names.remove(&(before, name.clone())));
            self.names.extend(instance.map(|instance| (instance, name)));
            self.is_news = true;
        }
    }

    /// The records of an instance, each with its lease.
    pub(super) fn records_of(&self, instance: InstanceId) -> impl Iterator<Item = (&NodeRecord, i64)> {
        let names = names_of(&self.names, instance);
        names.filter_map(|name| Some((self.peers.get(name)?, *self.leases.get(name)?)))
    }

    /// Nodes whose records cannot be read, by name, and why.
    pub(super) fn unreadable(&self) -> BTreeMap<String, String> {
        self.unreadable.iter().map(|(name, one)| (name.clone(), one.why.clone())).collect()
    }

    /// Whether another instance has this name, as far as that can be read.
    pub(super) fn is_anothers(&self, name: &str, me: InstanceId) -> bool {
        let unreadable = self.unreadable.get(name).and_then(|one| one.instance);
        self.peers.get(name).map_or_else(|| unreadable.is_some_and(|one| one != me), |known| known.instance != Some(me))
    }

    pub(super) fn seen(&self, key: Vec<u8>) -> (Vec<u8>, Seen) {
        let seen = self.raw.get(&key).map_or(Seen::Absent, |value| Seen::Value(value.clone()));
        (key, seen)
    }

    /// A transaction in etcd's words.
    pub(super) fn words(&self, txn: &Txn) -> Result<Words, serde_json::Error> {
        let seen = txn.unchanged.iter().map(|key| self.seen(self.keys.of(key))).collect();
        let puts = txn
            .put
            .iter()
            .map(|(key, value)| Ok(Write::Put { key: self.keys.of(key), value: encode(value)?, lease: 0 }));
        let deletes = txn.delete.iter().map(|key| self.keys.of(key)).chain(self.tickets_of_removed(txn));
        let deletes = deletes.map(|key| Ok(Write::Delete(key)));
        Ok(Words { seen, writes: puts.chain(deletes).collect::<Result<_, _>>()? })
    }

    /// Whoever is removed by a new charter asks nobody any more. Without its last ticket nothing is kept of what it told.
    fn tickets_of_removed(&self, txn: &Txn) -> impl Iterator<Item = Vec<u8>> {
        let known = self.view.charter.as_ref().map(|charter| &charter.removed);
        let charter = txn.put.iter().find_map(|(_, value)| match value {
            Value::Charter(charter) => Some(charter),
            Value::Record(_) | Value::Ack => None,
        });
        let removed = charter.into_iter().flat_map(|charter| &charter.removed);
        let new = removed.filter(move |node| known.is_none_or(|known| !known.contains(node)));
        new.take(TOGETHER).map(|node| self.keys.ticket(*node))
    }

    /// Our own acknowledgements, which no watch of ours tells us. Whether that was all of the transaction.
    pub(super) fn note_acks(&mut self, txn: &Txn) -> bool {
        let is_ack = |key: &Key| matches!(key, Key::Ack(_));
        let all = txn.put.iter().map(|(key, _)| key).chain(&txn.delete).all(is_ack);
        if all {
            txn.put.iter().for_each(|(key, value)| self.apply(*key, Some(value.clone())));
            txn.delete.iter().for_each(|key| self.apply(*key, None));
        }
        all
    }

    pub(super) fn present(&self) -> BTreeSet<InstanceId> {
        self.names.iter().map(|(instance, _)| *instance).collect()
    }

    /// Makes `told` what the store says of the other nodes, each with those of its blocks that it knows to be its own. Whether
    /// that was news. Only who was heard of since the last time is looked at.
    pub(super) fn tell(&mut self, me: InstanceId, told: &mut Peers) -> bool {
        let mut is_news = false;
        for key in std::mem::take(&mut self.stirred) {
            is_news |= self.tell_of(me, &key, told);
        }
        is_news
    }

    /// The same of all, and of those that are `late`.
    pub(super) fn tell_all(&mut self, me: InstanceId, late: &[&NodeRecord], told: &mut Peers) -> bool {
        self.stirred.clear();
        let there = self.peers.iter().filter(|(key, record)| record.instance != Some(me) && is_named(key, record));
        let all = there.map(|(_, record)| record).chain(late.iter().copied());
        let now: Peers = all.map(|record| (record.name.clone(), self.with_own_blocks(record))).collect();
        let is_news = *told != now;
        *told = now;
        is_news
    }

    fn tell_of(&self, me: InstanceId, key: &str, told: &mut Peers) -> bool {
        let record = self.peers.get(key).filter(|record| record.instance != Some(me) && is_named(key, record));
        match record.map(|record| self.with_own_blocks(record)) {
            Some(record) if told.get(&record.name) == Some(&record) => false,
            Some(record) => {
                told.insert(record.name.clone(), record);
                true
            }
            None => NodeName::new(key).is_ok_and(|name| told.remove(&name).is_some()),
        }
    }

    fn with_own_blocks(&self, record: &NodeRecord) -> NodeRecord {
        let own = |owner| record.blocks.iter().flat_map(move |said| self.own_of(*said, owner));
        NodeRecord { blocks: record.instance.into_iter().flat_map(own).collect(), ..record.clone() }
    }

    /// What of this range the store knows to be the owner's.
    fn own_of(&self, said: IpNet, owner: InstanceId) -> Vec<IpNet> {
        let around = self.view.blocks.range(..=said).next_back().filter(|(block, _)| holds(**block, said));
        let Some((block, record)) = around else { return Vec::new() };
        let is_firm = record.sealed || record.incarnation < self.incarnation();
        // Who shares a block keeps its part while another's claim is witnessed.
        let counts = |claim: &Claim| claim.owner == owner && (claim.kept || is_firm);
        let own = record.claims.iter().filter(|(id, claim)| counts(claim) && !record.is_disputed(**id));
        own.filter_map(|(_, claim)| common(said, claim.part.unwrap_or(*block))).collect()
    }
}

/// The narrower of two of which one lies in the other.
fn common(one: IpNet, other: IpNet) -> Option<IpNet> {
    if holds(one, other) { Some(other) } else { Some(one).filter(|one| holds(other, *one)) }
}

/// Nobody speaks for another name than the one that he writes under.
fn is_named(key: &str, record: &NodeRecord) -> bool {
    record.name.as_str() == key
}

fn set<V>(map: &mut BTreeMap<String, V>, key: String, value: Option<V>) {
    match value {
        Some(value) => drop(map.insert(key, value)),
        None => drop(map.remove(&key)),
    }
}

fn names_of(names: &BTreeSet<(InstanceId, String)>, instance: InstanceId) -> impl Iterator<Item = &String> {
    let from = (instance, String::new());
    names.range(from..).take_while(move |(one, _)| *one == instance).map(|(_, name)| name)
}

#[cfg(test)]
mod tests;
