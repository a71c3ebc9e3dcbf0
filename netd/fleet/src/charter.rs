//! The one key that every change of a block compares: the incarnation of the store, the plan, and who witnesses. The reasons
//! are in PROTOCOL.md.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::identity::{FleetId, IncarnationId, InstanceId, TellingId};
use crate::plan::{Plan, Pool};
use crate::record::{Table, told};

/// With so many a fleet bears the loss of two of them.
pub const WITNESSES: usize = 5;

/// What a fleet agrees upon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "written::Charter", into = "written::Charter")]
pub struct Charter {
    /// Which fleet it is.
    pub fleet: FleetId,
    /// Counts the incarnations. One ends when the store was set back, and when the witnesses or the plan change.
    pub number: u64,
    /// Two incarnations of one number are two.
    pub id: IncarnationId,
    /// Pools and their blocks. It becomes larger, and never smaller.
    pub plan: Plan,
    /// Pools were added since the fleet was founded.
    pub is_grown: bool,
    /// The nodes whose disks remember what the store might forget.
    pub witnesses: BTreeSet<InstanceId>,
    /// Nodes that an operator declared gone for good. One that lives has no part in the fleet any more.
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
    /// A later one, with all pools that were there before.
    News,
    /// An earlier one, another of the same number, or one without a pool that was there before: the store was set back.
    SetBack,
    /// It has a pool that cannot be beside one that the node remembers: both were added, in stores that forgot each other.
    Split,
    /// The store of another fleet.
    Stranger,
}

impl Charter {
    /// The charter of a new fleet, with its founder as the only witness.
    pub(crate) fn found(founder: InstanceId, plan: Plan, fresh: u128) -> Self {
        let (fleet, id) = (FleetId::new(fresh), IncarnationId::new(fresh));
        let (witnesses, removed) = (BTreeSet::from([founder]), BTreeSet::new());
        Self { fleet, number: 1, id, plan, is_grown: false, witnesses, removed, phase: Phase::Open }
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
            plan: self.united(remembered).unwrap_or_else(|| self.plan.clone()),
            is_grown: known().any(|charter| charter.is_grown),
            removed: known().flat_map(|charter| charter.removed.iter().copied()).collect(),
            phase: Phase::Settling(settling),
            ..remembered.unwrap_or(self).clone()
        }
    }

    /// The pools that either of them knows; none: they do not fit together.
    fn united(&self, remembered: Option<&Self>) -> Option<Plan> {
        remembered.map_or_else(|| Some(self.plan.clone()), |known| self.plan.united(&known.plan).ok())
    }

    /// The next incarnation, with one pool more, if it fits.
    pub(crate) fn extended(&self, remembered: Option<&Self>, pool: &Pool, fresh: u128) -> Option<Self> {
        let next = self.next(remembered, fresh);
        let plan = next.plan.united(&Plan::new(vec![pool.clone()]).ok()?).ok()?;
        Some(Self { plan, is_grown: true, ..next })
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
        if self.united(Some(remembered)).is_none() {
            return Relation::Split;
        }
        match self.number.cmp(&remembered.number) {
            std::cmp::Ordering::Greater if self.plan.has_all_of(&remembered.plan) => Relation::News,
            std::cmp::Ordering::Equal if self.id == remembered.id => Relation::Same,
            std::cmp::Ordering::Greater | std::cmp::Ordering::Equal | std::cmp::Ordering::Less => Relation::SetBack,
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

/// As it is written. An earlier netd knows of no pool that was added: in a store that was set back it would forget it. So it is
/// not to read such a charter.
mod written {
    use std::collections::BTreeSet;

    use serde::{Deserialize, Serialize};

    use super::Phase;
    use crate::identity::{FleetId, IncarnationId, InstanceId};
    use crate::plan::Plan;

    #[derive(Serialize, Deserialize)]
    pub(super) struct Charter {
        fleet: FleetId,
        number: u64,
        id: IncarnationId,
        /// Of the founder.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        plan: Option<Plan>,
        /// With pools that were added.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pools: Option<Plan>,
        witnesses: BTreeSet<InstanceId>,
        #[serde(default)]
        removed: BTreeSet<InstanceId>,
        phase: Phase,
    }

    impl From<super::Charter> for Charter {
        fn from(charter: super::Charter) -> Self {
            let super::Charter { fleet, number, id, plan, is_grown, witnesses, removed, phase } = charter;
            let (plan, pools) = if is_grown { (None, Some(plan)) } else { (Some(plan), None) };
            Self { fleet, number, id, plan, pools, witnesses, removed, phase }
        }
    }

    impl TryFrom<Charter> for super::Charter {
        type Error = &'static str;

        fn try_from(charter: Charter) -> Result<Self, Self::Error> {
            let Charter { fleet, number, id, plan, pools, witnesses, removed, phase } = charter;
            let is_grown = pools.is_some();
            let plan = pools.or(plan).ok_or("missing field `plan`")?;
            Ok(Self { fleet, number, id, plan, is_grown, witnesses, removed, phase })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Charter;
    use crate::identity::InstanceId;
    use crate::plan::{Plan, Pool};

    fn pool(range: &str) -> Pool {
        let (reserved, labels) = Default::default();
        Pool { name: range.to_owned(), range: range.parse().unwrap(), block: 26, reserved, labels }
    }

    #[test]
    fn a_charter_with_an_added_pool_is_written_so_that_an_earlier_netd_does_not_read_it() {
        let founded = Charter::found(InstanceId::new(1), Plan::new(vec![pool("10.4.0.0/16")]).unwrap(), 7);
        let text = serde_json::to_string(&founded).unwrap();
        assert!(text.contains("\"plan\":[") && !text.contains("\"pools\""), "{text}");
        assert_eq!(serde_json::from_str::<Charter>(&text).unwrap(), founded);
        let grown = founded.extended(Some(&founded), &pool("10.5.0.0/16"), 8).unwrap();
        let text = serde_json::to_string(&grown).unwrap();
        assert!(text.contains("\"pools\":[") && !text.contains("\"plan\""), "{text}");
        assert_eq!(serde_json::from_str::<Charter>(&text).unwrap(), grown);
        assert!(serde_json::from_str::<Charter>(&text.replace("\"pools\"", "\"later\"")).is_err());
        assert_eq!(founded.extended(None, &pool("10.4.8.0/24"), 9), None);
    }
}
