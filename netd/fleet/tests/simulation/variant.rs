//! The protocol as it is, and with one rule broken. A simulation that finds nothing wrong with these shows nothing.

use ipnet::IpNet;
use netd_fleet::{Ack, Action, InstanceId, Memory, Value, View};

use crate::machine::Machine;
use crate::store::Store;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Variant {
    /// As it is.
    Sound,
    /// A claim ends with its node's lease, and its node trusts its own clock.
    EndsWithTheLease,
    /// Nobody notices that a store was set back.
    NoIncarnation,
    /// A claim holds as soon as the store took it: nobody witnesses.
    NoWitnesses,
    /// A block is used as soon as it was asked for.
    UsedUnconfirmed,
    /// A node is its name.
    ByName,
}

impl Variant {
    pub(crate) fn decide(self, machine: &Machine, fresh: u128) -> Option<Action> {
        let view = machine.running.as_ref()?.view.as_ref()?;
        match self {
            Self::NoIncarnation => netd_fleet::decide(&credulous(machine, view), view, &machine.wish, fresh),
            Self::NoWitnesses => netd_fleet::decide(&machine.disk, &all_witnessed(view), &machine.wish, fresh),
            Self::Sound | Self::EndsWithTheLease | Self::UsedUnconfirmed | Self::ByName => machine.decide(fresh),
        }
    }

    pub(crate) fn identity(self, old: &Machine, new: &Machine) -> InstanceId {
        if self == Self::ByName { old.disk.instance } else { new.disk.instance }
    }

    pub(crate) fn used(self, machine: &Machine, now: i64, lease: i64) -> Vec<IpNet> {
        match self {
            Self::UsedUnconfirmed => machine.used_in_haste(),
            Self::EndsWithTheLease if now + machine.offset - machine.renewed >= lease => Vec::new(),
            Self::Sound | Self::EndsWithTheLease | Self::NoIncarnation | Self::NoWitnesses | Self::ByName => {
                machine.used()
            }
        }
    }

    pub(crate) fn expire(self, store: &mut Store, instance: InstanceId) {
        if self != Self::EndsWithTheLease {
            return;
        }
        let ended = store.content().into_iter().filter_map(|(key, value)| match value {
            Value::Record(mut record) if record.claims.values().any(|claim| claim.owner == instance) => {
                record.claims.retain(|_, claim| claim.owner != instance);
                (record.epoch, record.sealed) = (record.epoch + 1, true);
                Some((key, Some(Value::Record(record))))
            }
            Value::Record(_) | Value::Charter(_) | Value::Ack => None,
        });
        store.write(ended.collect());
    }
}

/// Believes whatever the store says.
fn credulous(machine: &Machine, view: &View) -> Memory {
    let charter = view.charter.clone();
    let table_of = charter.as_ref().map(|charter| charter.id);
    Memory { charter, table_of, table: view.blocks.clone(), ..machine.disk.clone() }
}

fn all_witnessed(view: &View) -> View {
    let witnesses: Vec<InstanceId> =
        view.charter.iter().flat_map(|charter| charter.witnesses.iter().copied()).collect();
    let mut view = view.clone();
    for record in view.blocks.values() {
        let (author, record) = (record.author, record.id);
        view.acks.extend(witnesses.iter().map(|witness| Ack { author, record, witness: *witness }));
    }
    view
}
