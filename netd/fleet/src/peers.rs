//! Who the other nodes are, however they are known. Routes to them are somebody else's.

mod fixed;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::identity::{InstanceId, NodeName};
use crate::sandboxes::Needs;

pub(crate) use self::fixed::publish;
pub use self::fixed::{Fixed, FixedError, FixedNode};

/// Carries packets between nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Encapsulation {
    /// None: the link carries them.
    Direct,
    /// IP in IP, protocol 4.
    Ipip,
    /// VXLAN.
    Vxlan,
    /// One of a later netd: nothing is sent so, and nothing else is taken for it.
    #[serde(other)]
    Unknown,
}

/// What a node says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRecord {
    /// Which node; none on a fixed list.
    #[serde(default)]
    pub instance: Option<InstanceId>,
    /// Its name.
    pub name: NodeName,
    /// Where it is reached.
    pub addresses: BTreeSet<IpAddr>,
    /// Its blocks.
    #[serde(default)]
    pub blocks: BTreeSet<IpNet>,
    /// What it can unpack.
    #[serde(default)]
    pub encapsulations: BTreeSet<Encapsulation>,
    /// What it unpacks now; empty: all that it can.
    #[serde(default)]
    pub accepts: BTreeSet<Encapsulation>,
    /// Of its link to the others.
    #[serde(default)]
    pub mtu: Option<u32>,
    /// Its labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Of its netd.
    #[serde(default)]
    pub version: String,
    /// What its policies ask of others' sandboxes; none: it hears of no sandboxes of others.
    #[serde(default)]
    pub needs: Option<Needs>,
    /// What it lacks of pools, and what it can do without; none: an earlier netd, which cannot read of parts of blocks.
    #[serde(default)]
    pub lending: Option<Lending>,
    /// It can read a charter with pools that were added.
    #[serde(default)]
    pub reads_added_pools: bool,
}

/// Where no block is free, a node that lacks one says so; those that have more than they use say what they could give up,
/// and whoever could give most does. Nothing is promised by it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lending {
    /// Pools of which this node wishes a block, and nothing is free.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub lacks: BTreeSet<String>,
    /// By pool, the prefix length of a part of a block that this node could give up.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub offers: BTreeMap<String, u8>,
}

/// All other nodes that are there, by name.
pub type Peers = BTreeMap<NodeName, NodeRecord>;

/// A way to know them. A gossip mesh would be another.
pub trait Discovery: Send + Sync {
    /// The peers, and every change of them. The last are kept while nothing is heard.
    fn follow(&self) -> watch::Receiver<Peers>;

    /// The ranges that this node may give addresses from, and every change of them.
    fn usable(&self) -> watch::Receiver<Vec<IpNet>>;
}
