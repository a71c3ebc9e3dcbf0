//! The store as it was last heard of: the protocol's view of it, the peers, and the octets that a transaction compares with.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;

use super::api::event::EventType;
use super::api::{KeyValue, WatchResponse};
use super::client::{Listing, Seen, Words, Write};
use super::keys::{ForeignError, Keys, Place, decode, encode, peer};
use crate::identity::InstanceId;
use crate::peers::{NodeRecord, Peers};
use crate::record::Record;
use crate::view::{Key, Txn, View};

pub(super) struct Mirror {
    keys: Keys,
    pub(super) view: View,
    pub(super) peers: BTreeMap<String, NodeRecord>,
    raw: BTreeMap<Vec<u8>, Vec<u8>>,
    pub(super) revision: i64,
}

impl Mirror {
    pub(super) fn of(keys: Keys, fleet: Listing, acks: Listing) -> Result<Self, ForeignError> {
        let revision = fleet.revision;
        let (view, peers, raw) = (View::default(), BTreeMap::new(), BTreeMap::new());
        let mut mirror = Self { keys, view, peers, raw, revision };
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
            Place::Protocol(key) => self.view.apply(key, Some(decode(&key, &pair.value)?)),
            Place::Peer(name) => {
                let record = peer(&name, &pair.value)?;
                self.peers.insert(name, record);
            }
        }
        self.raw.insert(pair.key, pair.value);
        Ok(())
    }

    fn delete(&mut self, key: &[u8]) -> Result<(), ForeignError> {
        match self.keys.place(key)? {
            Place::Protocol(key) => self.view.apply(key, None),
            Place::Peer(name) => drop(self.peers.remove(&name)),
        }
        self.raw.remove(key);
        Ok(())
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
        let deletes = txn.delete.iter().map(|key| Ok(Write::Delete(self.keys.of(key))));
        Ok(Words { seen, writes: puts.chain(deletes).collect::<Result<_, _>>()? })
    }

    /// Our own acknowledgements, which no watch of ours tells us. Whether that was all of the transaction.
    pub(super) fn note_acks(&mut self, txn: &Txn) -> bool {
        let is_ack = |key: &Key| matches!(key, Key::Ack(_));
        let all = txn.put.iter().map(|(key, _)| key).chain(&txn.delete).all(is_ack);
        if all {
            txn.put.iter().for_each(|(key, value)| self.view.apply(*key, Some(value.clone())));
            txn.delete.iter().for_each(|key| self.view.apply(*key, None));
        }
        all
    }

    pub(super) fn present(&self) -> BTreeSet<InstanceId> {
        self.peers.values().filter_map(|record| record.instance).collect()
    }

    /// The other nodes and those that are `late`, each with those of its blocks that the store knows to be its own.
    pub(super) fn others<'a>(&'a self, me: InstanceId, late: impl Iterator<Item = &'a NodeRecord>) -> Peers {
        let granted = self.granted();
        let others = self.peers.values().chain(late).filter(|record| record.instance != Some(me));
        let is_granted = |record: &NodeRecord, block: &IpNet| {
            record.instance.and_then(|instance| granted.get(&instance)).is_some_and(|granted| granted.contains(block))
        };
        let with_blocks = |record: &NodeRecord| {
            let blocks = record.blocks.iter().copied().filter(|block| is_granted(record, block)).collect();
            NodeRecord { blocks, ..record.clone() }
        };
        others.map(|record| (record.name.clone(), with_blocks(record))).collect()
    }

    fn granted(&self) -> BTreeMap<InstanceId, BTreeSet<IpNet>> {
        let number = self.view.charter.as_ref().map_or(0, |charter| charter.number);
        let mut granted: BTreeMap<InstanceId, BTreeSet<IpNet>> = BTreeMap::new();
        let is_firm = |record: &Record| record.sealed || record.incarnation < number;
        for (block, record) in self.view.blocks.iter().filter(|(_, record)| is_firm(record) && !record.is_disputed()) {
            for claim in record.claims.values() {
                granted.entry(claim.owner).or_default().insert(*block);
            }
        }
        granted
    }
}
