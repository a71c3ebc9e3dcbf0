//! Members that are no daemons: netd's own part in the fleet (`netd-fleet`), each with its own connection, lease, watches, mirror
//! and memory on disk, many in this process. They have no kernel of their own: nobody routes there, and they route nowhere.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use ipnet::IpNet;
use netd_fleet::{Discovery as _, Encapsulation, EtcdSettings, Fleet, NodeName, NodeRecord, Peers, Plan, Pool, Wish};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::sync::watch;

use super::ground::Ground;
use crate::space::Space;

/// Who saw whom, and when.
type Sightings = Arc<Mutex<BTreeMap<String, Vec<Instant>>>>;

/// Simulated members.
#[derive(Debug)]
pub(super) struct Crowd {
    // In the order in which they end.
    members: Vec<Fleet>,
    sightings: Sightings,
    awaited: watch::Sender<BTreeSet<NodeName>>,
    runtime: Runtime,
    pool: IpNet,
    folder: TempDir,
    _place: Space,
}

impl Crowd {
    /// Nobody yet; their connections come from one namespace.
    pub(super) fn new(ground: &Ground, pool: &str) -> Result<Self> {
        let (place, _) = ground.place()?;
        // The threads of the runtime are where it is made.
        let runtime = place.run(|| {
            let builder = &mut tokio::runtime::Builder::new_multi_thread();
            Ok(builder.worker_threads(2).enable_all().build()?)
        })?;
        let folder = tempfile::tempdir()?;
        let (members, sightings, awaited) = (Vec::new(), Sightings::default(), watch::Sender::default());
        Ok(Self { members, sightings, awaited, runtime, pool: pool.parse()?, folder, _place: place })
    }

    pub(super) fn count(&self) -> usize {
        self.members.len()
    }

    /// One more; what it is called. It waits for nothing.
    pub(super) fn join(&mut self, address: Ipv4Addr, endpoints: Vec<String>) -> Result<String> {
        let name = format!("simulated-{:04}", self.members.len() + 1);
        let (tls, user, prefix) = (None, None, "/netd".to_owned());
        let settings = EtcdSettings { endpoints, prefix, tls, user, lease: Duration::from_secs(10) };
        let wish = Wish {
            plan: Some(Plan::new(vec![self.pool()])?),
            blocks: BTreeMap::from([(self.pool.to_string(), 1)]),
            ..Wish::default()
        };
        let disk = self.folder.path().join(format!("{name}.json"));
        let _inside = self.runtime.enter();
        let fleet = Fleet::join(settings, &disk, record(&name, address)?, wish)?;
        fleet.enforces_nothing();
        self.runtime.spawn(look(fleet.follow(), self.awaited.subscribe(), Arc::clone(&self.sightings)));
        self.members.push(fleet);
        Ok(name)
    }

    /// As the daemons carve it.
    fn pool(&self) -> Pool {
        let (reserved, labels) = (BTreeSet::new(), BTreeMap::new());
        Pool { name: self.pool.to_string(), range: self.pool, block: 26, reserved, labels }
    }

    /// Whoever sees this node with a block from now on, is noted.
    pub(super) fn expect(&self, name: &str) -> Result<()> {
        let name = NodeName::new(name)?;
        self.awaited.send_replace(BTreeSet::from([name]));
        Ok(())
    }

    /// When members saw it with a block.
    pub(super) fn sightings(&self, name: &str) -> Vec<Instant> {
        self.sightings.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned().unwrap_or_default()
    }

    /// Members that have a block of their own.
    pub(super) fn settled(&self) -> usize {
        self.members.iter().filter(|member| !member.usable().borrow().is_empty()).count()
    }

    /// Peers that the member with the fewest knows with a block.
    pub(super) fn fewest_peers(&self) -> Result<usize> {
        let known = |member: &Fleet| member.follow().borrow().values().filter(|peer| !peer.blocks.is_empty()).count();
        self.members.iter().map(known).min().context("nobody is there")
    }
}

async fn look(mut peers: watch::Receiver<Peers>, awaited: watch::Receiver<BTreeSet<NodeName>>, sightings: Sightings) {
    let mut seen = BTreeSet::new();
    while peers.changed().await.is_ok() {
        let now = Instant::now();
        let new: Vec<NodeName> = {
            let (peers, awaited) = (peers.borrow_and_update(), awaited.borrow());
            let is_there = |name: &&NodeName| peers.get(*name).is_some_and(|peer| !peer.blocks.is_empty());
            awaited.iter().filter(|name| !seen.contains(*name)).filter(is_there).cloned().collect()
        };
        for name in new {
            let mut sightings = sightings.lock().unwrap_or_else(PoisonError::into_inner);
            sightings.entry(name.to_string()).or_default().push(now);
            seen.insert(name);
        }
    }
}

fn record(name: &str, address: Ipv4Addr) -> Result<NodeRecord> {
    Ok(NodeRecord {
        instance: None,
        name: NodeName::new(name)?,
        addresses: BTreeSet::from([IpAddr::V4(address)]),
        blocks: BTreeSet::new(),
        encapsulations: BTreeSet::from([Encapsulation::Direct, Encapsulation::Vxlan]),
        accepts: BTreeSet::from([Encapsulation::Direct, Encapsulation::Vxlan]),
        mtu: Some(1_500),
        labels: BTreeMap::new(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        needs: None,
    })
}
