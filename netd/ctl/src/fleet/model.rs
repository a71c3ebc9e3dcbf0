//! What netd answered about other nodes, as values for people and programs. Their JSON form is a promise: keys are added,
//! never renamed.

use std::collections::BTreeMap;

use netd_api::blocking as api;
use serde::Serialize;

/// The nodes that share ranges of addresses.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Fleet {
    /// "list" or "etcd"; empty: this node is part of no fleet.
    pub(crate) source: String,
    /// Where etcd is.
    pub(crate) store: String,
    /// Whether it answers.
    pub(crate) connected: bool,
    pub(crate) nodes: Vec<Node>,
    /// `netdctl block ls` shows them.
    #[serde(skip)]
    pub(crate) blocks: Vec<Block>,
    pub(crate) warnings: Vec<String>,
}

/// A node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Node {
    pub(crate) name: String,
    /// Which node it is, whatever it is called; empty on a list.
    pub(crate) instance: String,
    /// "here", "present", "joining" or "absent".
    pub(crate) state: String,
    /// Its disk remembers who owns which block.
    pub(crate) witness: bool,
    pub(crate) addresses: Vec<String>,
    pub(crate) blocks: Vec<String>,
    /// What it can unpack; empty where nobody says it.
    pub(crate) encapsulations: Vec<String>,
    /// Octets; 0: nobody says it.
    pub(crate) mtu: u32,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) version: String,
    /// How its blocks are reached from here.
    pub(crate) routes: Vec<Route>,
    pub(crate) troubles: Vec<String>,
}

/// How a block is reached.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Route {
    pub(crate) block: String,
    /// "direct", "vxlan" or "ipip"; empty: not at all.
    pub(crate) by: String,
    pub(crate) to: String,
}

/// A part of a pool.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Block {
    pub(crate) block: String,
    pub(crate) pool: String,
    pub(crate) node: String,
    /// Of this node's alone.
    pub(crate) network: String,
    pub(crate) size: u64,
    pub(crate) held: u64,
    pub(crate) state: String,
    /// Whose it is, by instance; empty on a list.
    pub(crate) instances: Vec<String>,
}

/// What was declared gone.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Removed {
    pub(crate) name: String,
    pub(crate) instance: String,
    /// What was its own.
    pub(crate) blocks: Vec<String>,
    /// The fleet has noted it.
    pub(crate) done: bool,
    /// What is waited for; empty: nothing.
    pub(crate) waits: String,
}

/// A pool that was added.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Added {
    pub(crate) name: String,
    pub(crate) range: String,
    /// Nodes may take blocks of it.
    pub(crate) done: bool,
    /// What is waited for; empty: nothing.
    pub(crate) waits: String,
}

/// Whether a peer is reached.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Check {
    pub(crate) name: String,
    pub(crate) block: String,
    pub(crate) address: String,
    pub(crate) by: String,
    pub(crate) to: String,
    /// The kernel has the route.
    pub(crate) routed: bool,
    pub(crate) answered: bool,
    pub(crate) round_trip_us: u64,
    /// The largest packet that came back whole, and the largest that should; octets.
    pub(crate) mtu: u32,
    pub(crate) wanted_mtu: u32,
    /// "yes", "no", or empty: whether the tunnel carried the packets.
    pub(crate) encapsulated: String,
    pub(crate) troubles: Vec<String>,
}

impl From<api::FleetResponse> for Fleet {
    fn from(answer: api::FleetResponse) -> Self {
        let blocks: Vec<Block> = answer.blocks.into_iter().map(Block::from).collect();
        let mut nodes: Vec<Node> = answer.nodes.into_iter().map(Node::from).collect();
        for node in &mut nodes {
            let of_it = blocks.iter().filter(|block| is_of(block, node));
            node.blocks = of_it.map(|block| block.block.clone()).collect();
        }
        let (source, store, connected) = (answer.source, answer.store, answer.connected);
        Self { source, store, connected, nodes, blocks, warnings: answer.warnings }
    }
}

/// Two nodes may have one name, one after the other. A list, and an older netd, tell names alone.
fn is_of(block: &Block, node: &Node) -> bool {
    if block.instances.is_empty() { block.node == node.name } else { block.instances.contains(&node.instance) }
}

impl From<api::RemoveNodeResponse> for Removed {
    fn from(answer: api::RemoveNodeResponse) -> Self {
        let (name, instance, blocks) = (answer.name, answer.instance, answer.blocks);
        Self { name, instance, blocks, done: answer.done, waits: answer.waits }
    }
}

impl From<api::AddPoolResponse> for Added {
    fn from(answer: api::AddPoolResponse) -> Self {
        Self { name: answer.name, range: answer.range, done: answer.done, waits: answer.waits }
    }
}

impl From<api::FleetNode> for Node {
    fn from(answer: api::FleetNode) -> Self {
        Self {
            name: answer.name,
            instance: answer.instance,
            state: answer.state,
            witness: answer.witness,
            addresses: answer.addresses,
            blocks: Vec::new(),
            encapsulations: answer.encapsulations,
            mtu: answer.mtu,
            labels: answer.labels.into_iter().collect(),
            version: answer.version,
            routes: answer.routes.into_iter().map(Route::from).collect(),
            troubles: answer.troubles,
        }
    }
}

impl From<api::FleetRoute> for Route {
    fn from(answer: api::FleetRoute) -> Self {
        Self { block: answer.block, by: answer.by, to: answer.to }
    }
}

impl From<api::FleetBlock> for Block {
    fn from(answer: api::FleetBlock) -> Self {
        Self {
            block: answer.block,
            pool: answer.pool,
            node: answer.node,
            network: answer.network,
            size: answer.size,
            held: answer.held,
            state: answer.state,
            instances: answer.instances,
        }
    }
}

impl From<api::PeerCheck> for Check {
    fn from(answer: api::PeerCheck) -> Self {
        Self {
            name: answer.name,
            block: answer.block,
            address: answer.address,
            by: answer.by,
            to: answer.to,
            routed: answer.routed,
            answered: answer.answered,
            round_trip_us: answer.round_trip_us,
            mtu: answer.mtu,
            wanted_mtu: answer.wanted_mtu,
            encapsulated: answer.encapsulated,
            troubles: answer.troubles,
        }
    }
}
