//! What the store says of a block: who claims it, and how two memories of one block are joined. What follows for a node is
//! `decide`'s.

use std::collections::BTreeMap;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::identity::{ClaimId, InstanceId, NodeName, RecordId};

/// Blocks by their range. A block that is not there was never claimed.
pub type Table = BTreeMap<IpNet, Record>;

/// One state of a block.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Grows with every change of the claims.
    pub epoch: u64,
    /// This state, and no other of the same epoch.
    pub id: RecordId,
    /// Who wrote it; he seals it.
    pub author: InstanceId,
    /// The incarnation it was written in.
    pub incarnation: u64,
    /// A majority of the witnesses remembers it.
    pub sealed: bool,
    /// None: the block is free. More than one: it is in dispute, and nobody new may use it.
    pub claims: BTreeMap<ClaimId, Claim>,
}

/// Who claims a block.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// The node.
    pub owner: InstanceId,
    /// Its name, for people.
    pub name: NodeName,
}

impl Record {
    /// The state after this one.
    pub(crate) fn after(&self, writer: Writer, claims: BTreeMap<ClaimId, Claim>) -> Self {
        let Writer { author, incarnation, id } = writer;
        Self { epoch: self.epoch + 1, id, author, incarnation, sealed: false, claims }
    }

    /// The first state of a block.
    pub(crate) fn first(writer: Writer, claims: BTreeMap<ClaimId, Claim>) -> Self {
        let Writer { author, incarnation, id } = writer;
        Self { epoch: 1, id, author, incarnation, sealed: false, claims }
    }

    /// Whether a store that says this was set back for somebody who remembers `remembered`.
    fn is_behind(&self, remembered: &Self) -> bool {
        self.epoch < remembered.epoch || (self.epoch == remembered.epoch && self.id != remembered.id)
    }

    fn has_claims_of(&self, other: &Self) -> bool {
        other.claims.keys().all(|claim| self.claims.contains_key(claim))
    }

    /// More than one claims it: nobody new may use it.
    pub(crate) fn is_disputed(&self) -> bool {
        self.claims.len() > 1
    }
}

/// Who writes a record, and when.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Writer {
    pub(crate) author: InstanceId,
    pub(crate) incarnation: u64,
    pub(crate) id: RecordId,
}

/// Whether the store forgot something that `remembered` has.
pub(crate) fn has_forgotten(store: &Table, remembered: &Table) -> bool {
    remembered.iter().any(|(block, record)| store.get(block).is_none_or(|now| now.is_behind(record)))
}

/// What the store must say so that nothing of `remembered` is lost. Only differences.
pub(crate) fn ahead(store: &Table, remembered: &Table) -> Table {
    let joined = remembered.iter().map(|(block, record)| (*block, join(store.get(block), record)));
    joined.filter(|(block, record)| store.get(block) != Some(record)).collect()
}

/// The later state; of two of one epoch, all claims of both. Who is right in a dispute its owner knows.
fn join(store: Option<&Record>, remembered: &Record) -> Record {
    let Some(store) = store else { return remembered.clone() };
    if store.epoch != remembered.epoch {
        return if store.epoch > remembered.epoch { store.clone() } else { remembered.clone() };
    }
    if store.has_claims_of(remembered) {
        return store.clone();
    }
    let claims = store.claims.iter().chain(&remembered.claims).map(|(id, claim)| (*id, claim.clone())).collect();
    // Whoever joins the same two gets the same state, which is neither of them.
    let id = RecordId::new(store.id.number() ^ remembered.id.number().rotate_left(1));
    Record { id, claims, ..store.clone() }
}
