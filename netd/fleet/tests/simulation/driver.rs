//! What stands around the protocol (the disk, the watch, the lease, the numbers), as it is and with one rule broken.

use crate::protocol::{Action, InstanceId, Value};
use ipnet::IpNet;

use crate::machine::Machine;
use crate::store::Store;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Driver {
    Sound,
    EndsWithTheLease,
    UsedInHaste,
    ByName,
    DiskLater,
    WatchResumed,
    WatchBegunLate,
    WatchCompacted,
    HalfRevisions,
    ByRevision,
    NumbersAgain,
}

/// The rules, and the driver that breaks each.
pub(crate) const BROKEN: [(&str, Driver); 10] = [
    ("ownership does not end with a lease", Driver::EndsWithTheLease),
    ("only what is confirmed is used", Driver::UsedInHaste),
    ("a node is the one with its disk, not the one with its name", Driver::ByName),
    ("what is decided upon is on the disk first", Driver::DiskLater),
    ("a watch of a store that was set back is not resumed", Driver::WatchResumed),
    ("a watch begins where the list ended", Driver::WatchBegunLate),
    ("what was compacted is listed anew", Driver::WatchCompacted),
    ("a view has whole revisions", Driver::HalfRevisions),
    ("contents are compared, not revisions", Driver::ByRevision),
    ("no number is used twice", Driver::NumbersAgain),
];

impl Driver {
    pub(crate) fn decide(self, machine: &Machine, fresh: u128) -> Option<Action> {
        let again = machine.running.as_ref().map_or(0, |running| u128::from(running.seen));
        machine.decide(if self == Self::NumbersAgain { again } else { fresh })
    }

    pub(crate) fn identity(self, old: &Machine, new: &Machine) -> InstanceId {
        if self == Self::ByName { old.instance() } else { new.instance() }
    }

    pub(crate) fn used(self, machine: &Machine, now: i64, lease: i64) -> Vec<IpNet> {
        match self {
            Self::UsedInHaste => machine.used_in_haste(),
            Self::EndsWithTheLease if now + machine.offset - machine.renewed >= lease => Vec::new(),
            Self::Sound
            | Self::EndsWithTheLease
            | Self::ByName
            | Self::DiskLater
            | Self::WatchResumed
            | Self::WatchBegunLate
            | Self::WatchCompacted
            | Self::HalfRevisions
            | Self::ByRevision
            | Self::NumbersAgain => machine.used(),
        }
    }

    pub(crate) fn expire(self, store: &mut Store, instance: InstanceId) {
        if self != Self::EndsWithTheLease {
            return;
        }
        let ended = store.records().filter(|(_, record)| record.claims.values().any(|claim| claim.owner == instance));
        let freed = ended.map(|(key, record)| {
            let mut record = record.clone();
            record.claims.retain(|_, claim| claim.owner != instance);
            (record.epoch, record.sealed) = (record.epoch + 1, true);
            (*key, Some(Value::Record(record)))
        });
        let freed = freed.collect();
        store.write(freed);
    }
}
