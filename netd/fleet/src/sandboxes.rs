//! What nodes tell each other of their sandboxes, so that the policies of one can select those of another. Plain values; who
//! is told what is netd's, and how it is told `etcd`'s.

mod ledger;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::identity::{InstanceId, TicketId};

pub(crate) use self::ledger::Ledger;

/// What the selectors of a node's policies ask of others' sandboxes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Needs {
    /// Whether any selector is about sandboxes at all.
    pub sandboxes: bool,
    /// Keys of labels.
    pub labels: BTreeSet<String>,
    /// Keys of namespaces' labels.
    pub namespace_labels: BTreeSet<String>,
    /// The names of networks.
    pub networks: bool,
    /// Names of ports.
    pub ports: BTreeSet<String>,
}

impl Needs {
    /// What either needs.
    #[must_use]
    pub fn and(mut self, other: &Self) -> Self {
        self.sandboxes |= other.sandboxes;
        self.networks |= other.networks;
        self.labels.extend(other.labels.iter().cloned());
        self.namespace_labels.extend(other.namespace_labels.iter().cloned());
        self.ports.extend(other.ports.iter().cloned());
        self
    }
}

/// A sandbox as its node tells of it. A key without a value is one that it does not have; a key that is not there may be one
/// that it has.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxRecord {
    /// CRI pod namespace or containerd namespace.
    pub namespace: String,
    /// Unique there on its node.
    pub name: String,
    /// Its addresses, each with its network where anybody asks for those.
    pub addresses: BTreeMap<IpAddr, Option<String>>,
    /// Of its labels, those that anybody asks for.
    #[serde(default)]
    pub labels: BTreeMap<String, Option<String>>,
    /// Of its namespace's labels, those that anybody asks for.
    #[serde(default)]
    pub namespace_labels: BTreeMap<String, Option<String>>,
    /// Of its ports with a name, those that anybody asks for: IP protocol and number.
    #[serde(default)]
    pub ports: BTreeMap<String, BTreeSet<(u8, u16)>>,
}

/// One node's sandboxes by container, as the store has them; the text is why one cannot be read.
pub type Records = BTreeMap<String, Result<Arc<SandboxRecord>, String>>;

/// What is heard of others' sandboxes.
#[derive(Debug, Clone, Default)]
pub struct Heard {
    /// Whether the store has been heard at all.
    pub is_known: bool,
    /// Which hearing this is, from 1: a later one has a higher number.
    pub number: u64,
    /// Each node's.
    pub records: BTreeMap<InstanceId, Arc<Records>>,
    /// Each node's latest question whether what it withdrew is forgotten.
    pub asked: BTreeMap<InstanceId, TicketId>,
}

/// How far others know what this node tells.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Told {
    /// The telling that the store has.
    pub number: u64,
    /// Addresses that somebody may still believe to be those of whom they were told of.
    pub believed: BTreeSet<IpAddr>,
    /// Nodes that are there and have not said for long that they have forgotten what was withdrawn: they are waited for.
    pub silent: BTreeSet<String>,
}

/// What this node's policies hold of what was heard.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Applied {
    /// The hearing.
    pub(crate) number: u64,
    /// The questions in it.
    pub(crate) asked: BTreeMap<InstanceId, TicketId>,
}

/// What this node wants to be told.
#[derive(Debug, Clone, Default)]
pub(crate) struct Telling {
    pub(crate) number: u64,
    /// By container.
    pub(crate) records: BTreeMap<String, SandboxRecord>,
    /// Addresses that an earlier netd of this node may have withdrawn, and nobody was asked about.
    pub(crate) suspects: BTreeSet<IpAddr>,
}
