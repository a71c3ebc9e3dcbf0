//! What the store says of a block: who claims it, and how two memories of one block are joined. What follows for a node is
//! `decide`'s.

use std::collections::BTreeMap;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::identity::{ClaimId, InstanceId, NodeName, RecordId, TellingId};
use crate::span::{holds, meet, without};

/// Blocks by their range. A block that is not there was never claimed.
pub type Table = BTreeMap<IpNet, Record>;

/// One state of a block.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "written::Record", into = "written::Record")]
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
    /// It was joined of two states that forgot each other: what is not confirmed yet is not confirmed by it.
    pub joined: bool,
    /// None: the block is free. Where two of them meet, it is in dispute there, and nobody new may use that.
    pub claims: BTreeMap<ClaimId, Claim>,
}

/// Who claims a block, or a part of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// The node.
    pub owner: InstanceId,
    /// Its name, for people.
    pub name: NodeName,
    /// What of the block; none: all of it. It becomes narrower, and never wider.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part: Option<IpNet>,
    /// It stood in a firm state before this one, which was not joined.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub kept: bool,
}

impl Claim {
    /// Whether they share an address, both being of one block.
    #[must_use]
    pub fn meets(&self, other: &Self) -> bool {
        self.meets_part(other.part)
    }

    pub(crate) fn meets_part(&self, part: Option<IpNet>) -> bool {
        self.part.zip(part).is_none_or(|(one, other)| meet(one, other))
    }

    /// Whether it claims nothing that `other` does not.
    fn is_within(&self, other: &Self) -> bool {
        is_within(self.part, other.part)
    }
}

/// Whether one part of a block lies in another; none is all of it.
pub(crate) fn is_within(inner: Option<IpNet>, outer: Option<IpNet>) -> bool {
    outer.is_none_or(|outer| inner.is_some_and(|inner| holds(outer, inner)))
}

impl Record {
    /// The state after this one.
    pub(crate) fn after(&self, writer: Writer, claims: BTreeMap<ClaimId, Claim>) -> Self {
        let Writer { author, incarnation, id } = writer;
        let mut after = Self { epoch: self.epoch + 1, id, author, incarnation, sealed: false, joined: false, claims };
        after.claims.iter_mut().for_each(|(id, claim)| claim.kept = !self.joined && self.claims.contains_key(id));
        after
    }

    /// The first state of a block.
    pub(crate) fn first(writer: Writer, claims: BTreeMap<ClaimId, Claim>) -> Self {
        let Writer { author, incarnation, id } = writer;
        Self { epoch: 1, id, author, incarnation, sealed: false, joined: false, claims }
    }

    /// Whether a store that says this was set back for somebody who remembers `remembered`.
    fn is_behind(&self, remembered: &Self) -> bool {
        self.epoch < remembered.epoch || (self.epoch == remembered.epoch && self.id != remembered.id)
    }

    fn has_claims_of(&self, other: &Self) -> bool {
        other.claims.iter().all(|(id, claim)| self.claims.get(id).is_some_and(|own| own.is_within(claim)))
    }

    /// Another claims what this claim does, or some of it: nobody new may use that.
    #[must_use]
    pub fn is_disputed(&self, id: ClaimId) -> bool {
        let others = |claim: &Claim| self.claims.iter().any(|(other, rival)| *other != id && rival.meets(claim));
        self.claims.get(&id).is_some_and(others)
    }

    /// What nobody claims of it, as few ranges as there can be.
    #[must_use]
    pub fn free(&self, block: IpNet) -> Vec<IpNet> {
        without(block, &self.claims.values().map(|claim| claim.part.unwrap_or(block)).collect())
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

/// Which states these are. All their numbers are random, so no two tables have the same.
pub(crate) fn told(blocks: &Table) -> TellingId {
    TellingId::new(blocks.values().fold(0, |all, record| all ^ record.id.number()))
}

/// The later state; of two of one epoch that differ, all claims of both, none of which is confirmed by that. Who is right in a
/// dispute its owner knows. Of one claim the narrower part counts: its owner's disk says so, or it would stand nowhere.
fn join(store: Option<&Record>, remembered: &Record) -> Record {
    let Some(store) = store else { return remembered.clone() };
    if store.epoch != remembered.epoch {
        return if store.epoch > remembered.epoch { store.clone() } else { remembered.clone() };
    }
    if store.id == remembered.id || store.joined && store.has_claims_of(remembered) {
        return store.clone();
    }
    let mut claims = store.claims.clone();
    for (id, claim) in &remembered.claims {
        let known = claims.entry(*id).or_insert_with(|| claim.clone());
        if claim.is_within(known) {
            known.part = claim.part;
        }
    }
    // Whoever joins the same two gets the same state, which is neither of them.
    let id = RecordId::new(store.id.number() ^ remembered.id.number().rotate_left(1));
    Record { id, sealed: false, joined: true, claims, ..store.clone() }
}

/// As it is written. An earlier netd takes whatever claims a block for its owner: what it would misread, it is not to read.
mod written {
    use std::collections::BTreeMap;

    use serde::{Deserialize, Serialize};

    use super::Claim;
    use crate::identity::{ClaimId, InstanceId, RecordId};

    type Claims = BTreeMap<ClaimId, Claim>;

    #[derive(Serialize, Deserialize)]
    pub(super) struct Record {
        epoch: u64,
        id: RecordId,
        author: InstanceId,
        incarnation: u64,
        sealed: bool,
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        joined: bool,
        /// Of all of the block.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        claims: Option<Claims>,
        /// Some of a part of it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        parts: Option<Claims>,
    }

    impl From<super::Record> for Record {
        fn from(record: super::Record) -> Self {
            let super::Record { epoch, id, author, incarnation, sealed, joined, claims } = record;
            let is_parted = claims.values().any(|claim| claim.part.is_some());
            let (claims, parts) = if is_parted { (None, Some(claims)) } else { (Some(claims), None) };
            Self { epoch, id, author, incarnation, sealed, joined, claims, parts }
        }
    }

    impl TryFrom<Record> for super::Record {
        type Error = &'static str;

        fn try_from(record: Record) -> Result<Self, Self::Error> {
            let Record { epoch, id, author, incarnation, sealed, joined, claims, parts } = record;
            let claims = claims.or(parts).ok_or("missing field `claims`")?;
            Ok(Self { epoch, id, author, incarnation, sealed, joined, claims })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Record;

    const WHOLE: &str = r#"{"epoch":3,"id":"00000000000000000000000000000001","author":"00000000000000000000000000000002","incarnation":1,"sealed":true,"claims":{"00000000000000000000000000000003":{"owner":"00000000000000000000000000000002","name":"a"}}}"#;

    #[test]
    fn parts_that_share_an_address_meet() {
        let whole: Record = serde_json::from_str(WHOLE).unwrap();
        let claim = |part: Option<&str>| {
            let mut claim = whole.claims.values().next().unwrap().clone();
            claim.part = part.map(|part| part.parse().unwrap());
            claim
        };
        let [all, half, quarter, rest] =
            [None, Some("10.0.0.0/25"), Some("10.0.0.64/26"), Some("10.0.0.128/25")].map(claim);
        let pairs = [(&all, &half), (&all, &rest), (&half, &quarter), (&half, &half)];
        assert!(pairs.iter().all(|(one, other)| one.meets(other) && other.meets(one)));
        assert!(!half.meets(&rest) && !rest.meets(&quarter));
    }

    /// An earlier netd needs `claims`, and would take a part for the whole.
    #[test]
    fn a_block_in_parts_is_written_so_that_an_earlier_netd_does_not_read_it() {
        let whole: Record = serde_json::from_str(WHOLE).unwrap();
        assert_eq!(serde_json::to_string(&whole).unwrap(), WHOLE);
        let mut parted = whole.clone();
        parted.claims.values_mut().for_each(|claim| claim.part = Some("10.0.0.0/25".parse().unwrap()));
        let text = serde_json::to_string(&parted).unwrap();
        assert!(text.contains("\"parts\":{") && !text.contains("\"claims\""), "{text}");
        assert_eq!(serde_json::from_str::<Record>(&text).unwrap(), parted);
        assert_ne!(parted, whole);
        assert!(serde_json::from_str::<Record>(&text.replace("parts", "later")).is_err());
    }
}
