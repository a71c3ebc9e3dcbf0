//! What people are told of the fleet: its nodes, how they are reached, and whose every block is. Pure but for its reading.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use netd_api::v1::{FleetBlock, FleetNode, FleetResponse, FleetRoute};
use netd_fleet::{Encapsulation as Unpacked, Hold, InstanceId, Memory, NodeRecord, Peers, Status};
use netd_kernel::{Encapsulation, Hop, Key, NextHop, Object};

use super::remove::Known;
use super::source::Source;
use super::{Fleet, Inner, State, remove};
use crate::node::BlockUse;

impl Fleet {
    /// The fleet, as this node knows it; `usage`: of its own blocks.
    #[must_use]
    pub async fn told(&self, usage: &[BlockUse]) -> FleetResponse {
        let Some(inner) = &self.0 else { return FleetResponse::new() };
        let memory = inner.source.current_memory().await;
        inner.told(usage, memory.as_ref())
    }
}

impl Inner {
    fn told(&self, usage: &[BlockUse], memory: Option<&Memory>) -> FleetResponse {
        let mut response = FleetResponse::new();
        let status = self.source.status();
        response.connected = status.as_ref().is_none_or(|status| status.is_connected);
        match &self.source {
            Source::List(_) => "list".clone_into(&mut response.source),
            Source::Store { endpoints, .. } => {
                "etcd".clone_into(&mut response.source);
                response.store.clone_from(endpoints);
            }
        }
        response.warnings = self.warnings();
        let state = self.state();
        response.nodes.push(self.this(&state));
        response.nodes.extend(state.peers.values().map(|peer| told_of(peer, &state)));
        let peers = &state.peers;
        let all = memory.zip(status.as_ref()).map(|(memory, status)| all(memory, status, peers)).unwrap_or_default();
        response.nodes.extend(unheard(&all, peers, memory));
        response.blocks = self.blocks(&state, memory, usage);
        if let Some(memory) = memory {
            response.nodes[0].instance = memory.instance.to_string();
            own(&mut response.blocks, &all, memory.instance);
            let charter = status.as_ref().and_then(|status| status.charter.as_ref()).or(memory.charter.as_ref());
            let witnesses: BTreeSet<String> =
                charter.iter().flat_map(|charter| &charter.witnesses).map(ToString::to_string).collect();
            response.nodes.iter_mut().for_each(|node| node.witness = witnesses.contains(&node.instance));
        }
        response
    }

    fn this(&self, state: &State) -> FleetNode {
        let mut node = FleetNode::new();
        node.name = self.name.to_string();
        "here".clone_into(&mut node.state);
        node.addresses = state.here.addresses.iter().map(ToString::to_string).collect();
        node.encapsulations =
            state.about.iter().flat_map(|about| &about.encapsulations).map(|able| unpacked(*able).to_owned()).collect();
        node.mtu = state.here.mtu.unwrap_or_default();
        node.labels = self.config.borrow().labels.clone().into_iter().collect();
        env!("CARGO_PKG_VERSION").clone_into(&mut node.version);
        let own = state.fabric.troubles.iter().filter(|trouble| trouble.peer.is_none());
        node.troubles = own.map(|trouble| trouble.text.clone()).collect();
        let of_all = state.refused.iter().filter(|(key, _)| !matches!(key, Key::Route(_)));
        node.troubles.extend(of_all.map(|(_, why)| why.clone()));
        node
    }

    fn blocks(&self, state: &State, memory: Option<&Memory>, usage: &[BlockUse]) -> Vec<FleetBlock> {
        let config = self.config.borrow();
        let block = |block: IpNet, node: &str, state: &str| {
            let pool = config.pools.iter().find(|pool| pool.range.contains(&block));
            FleetBlock {
                block: block.to_string(),
                pool: pool.map(|pool| pool.name.clone()).unwrap_or_default(),
                node: node.to_owned(),
                state: state.to_owned(),
                ..FleetBlock::new()
            }
        };
        let mut blocks: BTreeMap<IpNet, FleetBlock> = BTreeMap::new();
        for (of, record) in memory.into_iter().flat_map(|memory| &memory.table) {
            for (id, claim) in &record.claims {
                let (part, is_disputed) = (claim.part.unwrap_or(*of), record.is_disputed(*id));
                // Of its own blocks a node knows better; what it remembers of one that it gave back may be old.
                if !is_disputed && memory.is_some_and(|memory| memory.instance == claim.owner) {
                    continue;
                }
                let rivals = record.claims.values().filter(|other| other.meets(claim)).map(|other| other.name.as_str());
                let names = rivals.collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>().join(", ");
                blocks.insert(part, block(part, &names, if is_disputed { "disputed" } else { "absent" }));
            }
        }
        // What this node remembers of others may be over.
        let now =
            state.peers.values().flat_map(|peer| peer.blocks.iter().copied()).chain(usage.iter().map(|one| one.part));
        let now: BTreeSet<IpNet> = now.collect();
        blocks.retain(|of, _| now.contains(of) || !now.iter().any(|other| other.contains(of) || of.contains(other)));
        for peer in state.peers.values() {
            blocks.extend(peer.blocks.iter().map(|of| (*of, block(*of, peer.name.as_str(), "present"))));
        }
        for holding in memory.into_iter().flat_map(|memory| memory.holdings.values()) {
            if holding.state == Hold::Pending {
                blocks.insert(holding.range(), block(holding.range(), self.name.as_str(), "asked"));
            }
        }
        for one in usage {
            let mut told = block(one.part, self.name.as_str(), if one.is_leaving { "leaving" } else { "here" });
            told.network = one.network.as_ref().map(ToString::to_string).unwrap_or_default();
            told.size = u64::try_from(one.size).unwrap_or(u64::MAX);
            told.held = u64::try_from(one.held).unwrap_or(u64::MAX);
            blocks.insert(one.part, told);
        }
        blocks.into_values().collect()
    }
}

fn told_of(peer: &NodeRecord, state: &State) -> FleetNode {
    let mut node = FleetNode::new();
    node.name = peer.name.to_string();
    "present".clone_into(&mut node.state);
    node.addresses = peer.addresses.iter().map(ToString::to_string).collect();
    node.encapsulations = peer.encapsulations.iter().map(|one| unpacked(*one).to_owned()).collect();
    node.mtu = peer.mtu.unwrap_or_default();
    node.labels = peer.labels.clone().into_iter().collect();
    node.version.clone_from(&peer.version);
    node.instance = peer.instance.map(|instance| instance.to_string()).unwrap_or_default();
    node.routes = peer.blocks.iter().map(|block| route(*block, state)).collect();
    let of_it = state.fabric.troubles.iter().filter(|trouble| trouble.peer.as_ref() == Some(&peer.name));
    node.troubles = of_it.map(|trouble| trouble.text.clone()).collect();
    let refused = peer.blocks.iter().filter_map(|block| state.refused.get(&Key::Route(*block)));
    node.troubles.extend(refused.cloned());
    node
}

fn route(block: IpNet, state: &State) -> FleetRoute {
    let mut route = FleetRoute::new();
    route.block = block.to_string();
    if let Some((by, to)) = state.way(block).map(|lead| named(lead.hop)) {
        by.clone_into(&mut route.by);
        route.to = to;
    }
    route
}

impl State {
    /// How a peer's block is reached, if the kernel has let it be so.
    pub(super) fn way(&self, block: IpNet) -> Option<NextHop> {
        let key = Key::Route(block);
        let Some(Object::NextHop(lead)) = self.fabric.objects.get(&key) else { return None };
        let stands = lead.hop.encapsulation().is_none_or(|kind| !self.refused.contains_key(&Key::Tunnel(kind)));
        Some(*lead).filter(|_| stands && !self.refused.contains_key(&key))
    }
}

/// What a hop is called, and where it leads.
pub(super) fn named(hop: Hop) -> (&'static str, String) {
    match hop {
        Hop::Direct(gateway) => ("direct", gateway.to_string()),
        Hop::Ipip(peer) => (kind(Encapsulation::Ipip), peer.to_string()),
        Hop::Vxlan(peer) => (kind(Encapsulation::Vxlan), peer.to_string()),
        Hop::Nowhere => ("", String::new()),
    }
}

fn kind(kind: Encapsulation) -> &'static str {
    match kind {
        Encapsulation::Ipip => "ipip",
        Encapsulation::Vxlan => "vxlan",
    }
}

fn unpacked(kind: Unpacked) -> &'static str {
    match kind {
        Unpacked::Direct => "direct",
        Unpacked::Ipip => "ipip",
        Unpacked::Vxlan => "vxlan",
        Unpacked::Unknown => "unknown",
    }
}

/// All nodes that this one knows of. A charter that it has only read before tells of the witnesses of then.
fn all(memory: &Memory, status: &Status, peers: &Peers) -> Vec<Known> {
    let charter = status.charter.as_ref().or(memory.charter.as_ref());
    let present = remove::present(memory.instance, peers, status);
    charter.map(|charter| remove::known(charter, &memory.table, (peers, &present))).unwrap_or_default()
}

/// Nodes that have blocks, or witness, and are no peers.
fn unheard(all: &[Known], peers: &Peers, memory: Option<&Memory>) -> Vec<FleetNode> {
    let me = memory.map(|memory| memory.instance);
    let heard: BTreeSet<InstanceId> = peers.values().filter_map(|peer| peer.instance).chain(me).collect();
    let node = |known: &Known| FleetNode {
        name: known.name.clone(),
        instance: known.instance.to_string(),
        state: if known.is_present { "joining" } else { "absent" }.to_owned(),
        ..FleetNode::new()
    };
    all.iter().filter(|known| !heard.contains(&known.instance)).map(node).collect()
}

/// Says whose every block is.
fn own(blocks: &mut [FleetBlock], all: &[Known], me: InstanceId) {
    let mut owners: BTreeMap<String, BTreeSet<InstanceId>> = BTreeMap::new();
    for (block, owner) in all.iter().flat_map(|one| one.blocks.iter().map(|block| (*block, one.instance))) {
        owners.entry(block.to_string()).or_default().insert(owner);
    }
    for block in blocks {
        if matches!(block.state.as_str(), "here" | "leaving" | "asked") {
            block.instances = vec![me.to_string()];
        } else {
            block.instances = owners.get(&block.block).into_iter().flatten().map(ToString::to_string).collect();
        }
    }
}
