//! The one key that every change of a block compares: the incarnation of the store, the plan, and who witnesses. The reasons
//! are in PROTOCOL.md.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::identity::{FleetId, IncarnationId, InstanceId, TellingId};
use crate::plan::Plan;
use crate::record::{Table, told};

/// With so many a fleet bears the loss of two of them.
pub const WITNESSES: usize = 5;

/// What a fleet agrees upon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Charter {
    /// Which fleet it is.
    pub fleet: FleetId,
    /// Counts the incarnations. One ends when the store was set back, and when the witnesses or the plan change.
    pub number: u64,
    /// Two incarnations of one number are two.
    pub id: IncarnationId,
    /// Pools and their blocks.
    pub plan: Plan,
    /// The nodes whose disks remember what the store might forget.
    pub witnesses: BTreeSet<InstanceId>,
    /// Nodes that an operator declared gone for good. One that lives has no part in the fleet any more.
    #[serde(default)]
    pub removed: BTreeSet<InstanceId>,
    /// Whether blocks can be claimed.
    pub phase: Phase,
}

/// What an incarnation is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// Blocks can be claimed.
    Open,
    /// The store is told again what it may have forgotten.
    Settling(Settling),
}

/// How far a store is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settling {
    /// Sets of earlier witnesses; a majority of each must have told what it remembers.
    pub need: BTreeSet<BTreeSet<InstanceId>>,
    /// Who has told.
    pub merged: BTreeSet<InstanceId>,
    /// New witnesses that remember all that was told.
    pub adopted: BTreeSet<InstanceId>,
    /// Which blocks they speak of: another copy of the store may have the same charter, and others.
    pub told: TellingId,
}

/// How a charter stands to the one that a node remembers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Relation {
    /// The same incarnation.
    Same,
    /// A later one.
    News,
    /// An earlier one, or another of the same number: the store was set back.
    SetBack,
    /// The store of another fleet.
    Stranger,
}

impl Charter {
    /// The charter of a new fleet, with its founder as the only witness.
    pub(crate) fn found(founder: InstanceId, plan: Plan, fresh: u128) -> Self {
        let (fleet, id) = (FleetId::new(fresh), IncarnationId::new(fresh));
        let (witnesses, removed) = (BTreeSet::from([founder]), BTreeSet::new());
        Self { fleet, number: 1, id, plan, witnesses, removed, phase: Phase::Open }
    }

    /// The next incarnation, when the store says `self` and a node remembers `remembered`, which is no earlier.
    ///
    /// Whoever may have witnessed a claim is asked: the witnesses that either of them knows, those not yet in office too.
    pub(crate) fn next(&self, remembered: Option<&Self>, fresh: u128) -> Self {
        let known = || [Some(self), remembered].into_iter().flatten();
        let settling = Settling {
            need: known().flat_map(Self::asked).collect(),
            merged: BTreeSet::new(),
            adopted: BTreeSet::new(),
            told: TellingId::new(fresh),
        };
        Self {
            number: known().map(|charter| charter.number).fold(0, u64::max) + 1,
            id: IncarnationId::new(fresh),
            removed: known().flat_map(|charter| charter.removed.iter().copied()).collect(),
            phase: Phase::Settling(settling),
            ..remembered.unwrap_or(self).clone()
        }
    }

    fn asked(&self) -> BTreeSet<BTreeSet<InstanceId>> {
        let mut asked = BTreeSet::from([self.witnesses.clone()]);
        if let Phase::Settling(settling) = &self.phase {
            asked.extend(settling.need.iter().cloned());
        }
        asked
    }

    /// Whether it waits, or will have to wait, for any of these.
    pub(crate) fn asks_any(&self, nodes: &BTreeSet<InstanceId>) -> bool {
        self.asked().iter().any(|set| !set.is_disjoint(nodes))
    }

    /// Whether it waits, or will have to wait, for this node.
    #[must_use]
    pub fn asks(&self, node: InstanceId) -> bool {
        self.asks_any(&BTreeSet::from([node]))
    }

    /// Whether blocks can change hands when these are there and no other witnesses are.
    #[must_use]
    pub fn goes_on_with(&self, present: &BTreeSet<InstanceId>) -> bool {
        let is_told = |settling: &Settling| {
            let told = settling.merged.union(present).copied().collect();
            settling.need.iter().all(|set| is_majority(set, &told))
        };
        let settles = match &self.phase {
            Phase::Open => true,
            Phase::Settling(settling) => is_told(settling),
        };
        settles && self.is_majority(present)
    }

    /// The same without these; if nobody is left, `heir` witnesses.
    pub(crate) fn without(self, gone: &BTreeSet<InstanceId>, heir: InstanceId) -> Self {
        let rest = |set: &BTreeSet<InstanceId>| -> BTreeSet<_> { set.difference(gone).copied().collect() };
        let left = rest(&self.witnesses);
        let witnesses = if left.is_empty() { BTreeSet::from([heir]) } else { left };
        let phase = match self.phase {
            Phase::Open => Phase::Open,
            Phase::Settling(settling) => {
                let need = settling.need.iter().map(rest).filter(|set| !set.is_empty()).collect();
                Phase::Settling(Settling { need, ..settling })
            }
        };
        Self { witnesses, phase, ..self }
    }

    pub(crate) fn relation(&self, remembered: Option<&Self>) -> Relation {
        let Some(remembered) = remembered else { return Relation::News };
        if self.fleet != remembered.fleet {
            return Relation::Stranger;
        }
        match self.number.cmp(&remembered.number) {
            std::cmp::Ordering::Greater => Relation::News,
            std::cmp::Ordering::Equal if self.id == remembered.id => Relation::Same,
            std::cmp::Ordering::Equal | std::cmp::Ordering::Less => Relation::SetBack,
        }
    }

    /// Whether blocks can be claimed.
    #[must_use]
    pub fn is_open(&self) -> bool {
        match self.phase {
            Phase::Open => true,
            Phase::Settling(_) => false,
        }
    }

    pub(crate) fn is_majority(&self, some: &BTreeSet<InstanceId>) -> bool {
        is_majority(&self.witnesses, some)
    }

    pub(crate) fn with(&self, phase: Phase) -> Self {
        Self { phase, ..self.clone() }
    }
}

impl Settling {
    pub(crate) fn asks(&self, node: InstanceId) -> bool {
        self.need.iter().any(|set| set.contains(&node))
    }

    /// Whether all is told that may have been forgotten.
    pub(crate) fn is_told(&self) -> bool {
        self.need.iter().all(|set| is_majority(set, &self.merged))
    }

    /// What of it counts in a store with these blocks.
    pub(crate) fn of(&self, blocks: &Table) -> Self {
        let told = told(blocks);
        if told == self.told { self.clone() } else { Self { merged: BTreeSet::new(), ..self.told_more(told) } }
    }

    /// One more told something: nobody has adopted that yet.
    pub(crate) fn told_more(&self, told: TellingId) -> Self {
        Self { told, adopted: BTreeSet::new(), ..self.clone() }
    }
}

fn is_majority(of: &BTreeSet<InstanceId>, some: &BTreeSet<InstanceId>) -> bool {
    2 * of.intersection(some).count() > of.len()
}
