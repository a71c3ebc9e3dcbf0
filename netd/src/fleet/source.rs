//! Where peers and blocks come from: a list in `netd.toml`, or etcd. A gossip mesh would be a third.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use netd_config::{FleetConfig, PoolConfig};
use netd_fleet::{
    ClaimId, Discovery, EtcdSettings, Fixed, FixedError, FleetError, Hold, IdentityError, InstanceId, Memory, NodeName,
    NodeRecord, Peers, Plan, PlanError, Pool, Status, TlsFiles, Wish,
};
use thiserror::Error;
use tokio::sync::watch;

/// Why this node cannot be part of its fleet.
#[derive(Debug, Error)]
pub enum FleetStartError {
    /// Its name.
    #[error("cannot name this node; set fleet.name in netd.toml")]
    Name(#[from] IdentityError),
    /// The list.
    #[error("cannot use the list fleet.nodes in netd.toml")]
    List(#[from] FixedError),
    /// The pools.
    #[error("cannot use the pools in netd.toml")]
    Plan(#[from] PlanError),
    /// etcd, or what this node remembers.
    #[error(transparent)]
    Store(#[from] FleetError),
    /// The kernel.
    #[error("cannot ask the kernel for the ways to other nodes")]
    Kernel(#[from] io::Error),
}

/// One of them.
#[derive(Debug)]
pub(super) enum Source {
    /// A list.
    List(Fixed),
    /// etcd.
    Store {
        /// This node's part in it.
        fleet: Box<netd_fleet::Fleet>,
        /// Where it is, for people.
        endpoints: String,
    },
}

/// What is to be heard of a source; each changes by itself.
#[derive(Debug)]
pub(super) struct Ears {
    pub(super) peers: watch::Receiver<Peers>,
    pub(super) usable: watch::Receiver<Vec<IpNet>>,
    pub(super) status: Option<watch::Receiver<Status>>,
}

impl Source {
    /// `about`: what is known of this node by now.
    pub(super) fn open(config: &FleetConfig, state_dir: &Path, about: NodeRecord) -> Result<Self, FleetStartError> {
        if config.etcd.endpoints.is_empty() {
            return Ok(Self::List(Fixed::new(about.name, listed(config)?)?));
        }
        let plan = Plan::new(config.pools.iter().map(pool).collect())?;
        let blocks = config.pools.iter().filter(|pool| may_use(config, pool)).map(|pool| (pool.name.clone(), 1));
        let wish = Wish { plan: Some(plan), blocks: blocks.collect(), ..Wish::default() };
        let fleet = netd_fleet::Fleet::join(settings(config), &state_dir.join("fleet.json"), about, wish)?;
        Ok(Self::Store { fleet: Box::new(fleet), endpoints: config.etcd.endpoints.join(", ") })
    }

    pub(super) fn ears(&self) -> Ears {
        match self {
            Self::List(list) => Ears { peers: list.follow(), usable: list.usable(), status: None },
            Self::Store { fleet, .. } => {
                Ears { peers: fleet.follow(), usable: fleet.usable(), status: Some(fleet.status()) }
            }
        }
    }

    pub(super) fn peers(&self) -> Peers {
        self.ears().peers.borrow().clone()
    }

    /// This node's blocks, with what is reserved of them.
    pub(super) fn blocks(&self) -> BTreeSet<IpNet> {
        self.held().into_values().collect()
    }

    /// The subnets of this node's blocks, and what it has of each.
    pub(super) fn held(&self) -> BTreeMap<IpNet, IpNet> {
        match self {
            Self::List(list) => list.usable().borrow().iter().map(|block| (*block, *block)).collect(),
            Self::Store { fleet, .. } => {
                let memory = fleet.blocks().memory();
                let memory = memory.borrow();
                memory.confirmed().map(|holding| (holding.subnet(), holding.range())).collect()
            }
        }
    }

    pub(super) fn status(&self) -> Option<Status> {
        match self {
            Self::List(_) => None,
            Self::Store { fleet, .. } => Some(fleet.status().borrow().clone()),
        }
    }

    pub(super) fn memory(&self) -> Option<Memory> {
        match self {
            Self::List(_) => None,
            Self::Store { fleet, .. } => Some(fleet.blocks().memory().borrow().clone()),
        }
    }

    pub(super) fn instance(&self) -> Option<InstanceId> {
        match self {
            Self::List(_) => None,
            Self::Store { fleet, .. } => Some(fleet.blocks().memory().borrow().instance),
        }
    }

    /// With all blocks as the store says now, where it answers; without those of removed nodes, which are about to be free.
    pub(super) async fn current_memory(&self) -> Option<Memory> {
        let Self::Store { fleet, .. } = self else { return None };
        let (mut memory, status) = (self.memory()?, self.status()?);
        if status.is_connected && !status.is_stranger {
            memory.table = fleet.table().await.unwrap_or(memory.table);
        }
        let charter = status.charter.as_ref().or(memory.charter.as_ref());
        let removed = charter.map(|charter| charter.removed.clone()).unwrap_or_default();
        memory.table.values_mut().for_each(|record| record.claims.retain(|_, claim| !removed.contains(&claim.owner)));
        Some(memory)
    }

    pub(super) fn want(&self, blocks: &BTreeMap<String, usize>) {
        if let Self::Store { fleet, .. } = self {
            let handle = fleet.blocks();
            blocks.iter().for_each(|(pool, count)| handle.want(pool, *count));
        }
    }

    /// Nobody uses the block any more. Says whether it goes; on a list it stays this node's.
    pub(super) fn give_up(&self, block: IpNet) -> bool {
        let Self::Store { fleet, .. } = self else { return false };
        self.claim_to(block).map(|claim| fleet.blocks().give_up(claim)).is_some()
    }

    /// Nobody uses anything but this part of the block any more. Says whether the rest goes.
    pub(super) fn keep(&self, block: IpNet, part: IpNet) -> bool {
        let Self::Store { fleet, .. } = self else { return false };
        self.claim_to(block).map(|claim| fleet.blocks().keep(claim, part)).is_some()
    }

    fn claim_to(&self, block: IpNet) -> Option<ClaimId> {
        let memory = self.memory()?;
        let mut confirmed = memory.holdings.iter().filter(|(_, one)| one.state == Hold::Confirmed);
        confirmed.find(|(_, one)| one.subnet() == block).map(|(claim, _)| *claim)
    }
}

/// Prefix length of the smallest part of a block of the pool.
pub(super) fn smallest(config: &PoolConfig) -> u8 {
    pool(config).smallest()
}

/// Whether this node has the labels that the pool wants.
pub(super) fn may_use(config: &FleetConfig, pool: &PoolConfig) -> bool {
    pool.nodes.iter().all(|(key, value)| config.labels.get(key) == Some(value))
}

/// The addresses of etcd that are not this node's own.
pub(super) fn endpoints(config: &FleetConfig) -> impl Iterator<Item = IpAddr> {
    config.etcd.addresses().filter(|address| !address.is_loopback())
}

pub(super) fn listed(config: &FleetConfig) -> Result<Vec<NodeRecord>, FleetStartError> {
    let node = |(name, node): (&String, &netd_config::ListedNode)| {
        Ok(NodeRecord {
            instance: None,
            name: NodeName::new(name.clone())?,
            addresses: node.address.0.clone(),
            blocks: node.blocks.clone(),
            encapsulations: BTreeSet::new(),
            accepts: BTreeSet::new(),
            mtu: None,
            labels: BTreeMap::new(),
            version: String::new(),
            needs: None,
            lending: None,
            reads_added_pools: false,
        })
    };
    config.nodes.iter().map(node).collect()
}

pub(super) fn pool(config: &PoolConfig) -> Pool {
    Pool {
        name: config.name.clone(),
        range: config.range,
        block: config.block,
        reserved: config.reserved.clone(),
        labels: config.nodes.clone(),
    }
}

fn settings(config: &FleetConfig) -> EtcdSettings {
    let etcd = &config.etcd;
    let file = |path: &String| Some(PathBuf::from(path)).filter(|path| !path.as_os_str().is_empty());
    let identity = file(&etcd.certificate).zip(file(&etcd.key));
    let tls = file(&etcd.authority).map(|authority| TlsFiles { authority, identity });
    let user = file(&etcd.password_file).map(|password| (etcd.user.clone(), password));
    let (endpoints, prefix) = (etcd.endpoints.clone(), etcd.prefix.clone());
    EtcdSettings { endpoints, prefix, tls, user, lease: Duration::from_secs(etcd.lease_seconds) }
}
