//! Members that are no daemons: netd's own part in the fleet (`netd-fleet`), each with its own connection, lease, watches, mirror
//! and memory on disk, many in this process. They have no kernel of their own: nobody routes there, and they route nowhere.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;
use ipnet::IpNet;
use netd_fleet::{
    Discovery as _, Encapsulation, EtcdSettings, Fleet, Needs, NodeName, NodeRecord, Peers, Plan, Pool, Status, Wish,
};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::sync::watch;

use super::ground::Ground;
use crate::space::Space;

/// Who saw whom, and when.
type Sightings = Arc<Mutex<BTreeMap<String, Vec<Instant>>>>;
/// Why members lost the store, and how often.
type Losses = Arc<Mutex<BTreeMap<String, usize>>>;

/// They share processors that as many hosts do not share: a lease that ends because its node had no turn would say nothing of
/// nodes, and what follows from it takes all others' turns.
const LEASE: Duration = Duration::from_mins(1);
/// What comes within this netd answers at once.
const TOGETHER: Duration = Duration::from_millis(20);

/// Simulated members.
#[derive(Debug)]
pub(super) struct Crowd {
    // In the order in which they end.
    members: Vec<Arc<Fleet>>,
    sightings: Sightings,
    losses: Losses,
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
        let (members, sightings, losses) = (Vec::new(), Sightings::default(), Losses::default());
        let (awaited, pool) = (watch::Sender::default(), pool.parse()?);
        Ok(Self { members, sightings, losses, awaited, runtime, pool, folder, _place: place })
    }

    pub(super) fn count(&self) -> usize {
        self.members.len()
    }

    /// One more; what it is called. It waits for nothing.
    pub(super) fn join(&mut self, address: Ipv4Addr, endpoints: Vec<String>) -> Result<String> {
        let name = format!("simulated-{:04}", self.members.len() + 1);
        let (tls, user, prefix) = (None, None, "/netd".to_owned());
        let settings = EtcdSettings { endpoints, prefix, tls, user, lease: LEASE };
        let wish = Wish {
            plan: Some(Plan::new(vec![self.pool()])?),
            blocks: BTreeMap::from([(self.pool.to_string(), 1)]),
            ..Wish::default()
        };
        let disk = self.folder.path().join(format!("{name}.json"));
        let _inside = self.runtime.enter();
        let fleet = Arc::new(Fleet::join(settings, &disk, record(&name, address)?, wish)?);
        fleet.need(Needs::default());
        self.runtime.spawn(look(fleet.follow(), self.awaited.subscribe(), Arc::clone(&self.sightings)));
        self.runtime.spawn(lose(fleet.status(), Arc::clone(&self.losses)));
        self.runtime.spawn(answer(Arc::clone(&fleet)));
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

    /// How often members lost the store, in all.
    pub(super) fn lost(&self) -> usize {
        self.losses.lock().unwrap_or_else(PoisonError::into_inner).values().sum()
    }

    /// How they stand to the store, for people.
    pub(super) fn standing(&self) -> String {
        let connected = self.members.iter().filter(|member| member.status().borrow().is_connected).count();
        let losses = self.losses.lock().unwrap_or_else(PoisonError::into_inner);
        let losses: Vec<String> = losses.iter().map(|(why, times)| format!("{times} times ({why})")).collect();
        let why = if losses.is_empty() { "never".to_owned() } else { losses.join(", ") };
        format!("{connected} of {} have the store, which was lost {why}", self.members.len())
    }

    /// Members that have a block of their own.
    pub(super) fn settled(&self) -> usize {
        self.members.iter().filter(|member| !member.usable().borrow().is_empty()).count()
    }

    /// Whether each knows so many peers with a block.
    pub(super) fn know(&self, count: usize) -> bool {
        self.members.iter().all(|member| known(member) >= count)
    }

    /// Peers that the member with the fewest knows with a block.
    pub(super) fn fewest_peers(&self) -> Option<usize> {
        self.members.iter().map(|member| known(member)).min()
    }
}

fn known(member: &Fleet) -> usize {
    member.follow().borrow().values().filter(|peer| !peer.blocks.is_empty()).count()
}

/// Answers what others ask, as netd does where no policy selects sandboxes.
async fn answer(fleet: Arc<Fleet>) {
    let mut heard = fleet.heard();
    while heard.changed().await.is_ok() {
        tokio::time::sleep(TOGETHER).await;
        fleet.applied(&heard.borrow_and_update());
    }
}

async fn lose(mut status: watch::Receiver<Status>, losses: Losses) {
    let mut was_connected = false;
    while status.changed().await.is_ok() {
        let now = status.borrow_and_update();
        if was_connected && !now.is_connected {
            let error = now.error.as_deref().unwrap_or_default();
            let why = error.split_once(": ").map_or(error, |(_, why)| why);
            *losses.lock().unwrap_or_else(PoisonError::into_inner).entry(why.to_owned()).or_default() += 1;
        }
        was_connected = now.is_connected;
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
        lending: None,
        reads_added_pools: false,
    })
}
