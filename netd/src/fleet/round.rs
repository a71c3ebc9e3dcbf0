//! One round: what was heard becomes what this node may give out, what stands in the kernel, and what is wanted. And when
//! there is to be another one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use netd_config::{FleetConfig, LinkName, NetworkName, PoolConfig};
use netd_fleet::{Encapsulation as Unpacked, Peers, Status, without};
use netd_kernel::{Encapsulation, Kernel, Key, Object, Objects, Step};
use thiserror::Error;
use tokio::task::JoinError;
use tokio::time::{sleep, sleep_until};
use tracing::{info, warn};

use super::fabric::{Here, fabric, mtu_of};
use super::settle::{Refused, fleets, rests_on, settle};
use super::source::{self, Ears, Source};
use super::wishes::wishes;
use super::{Fleet, Inner, look, measure};
use crate::executor::ExecutorError;
use crate::lifecycle::Lifecycle;
use crate::networks::Networks;
use crate::node::{BlockUse, Share, SharedPool};
use crate::owner::{OwnerError, Snapshot};

/// What comes within this is one change.
const TOGETHER: Duration = Duration::from_millis(20);
/// How often the ways to other nodes are looked at without being told.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// Others may send by a tunnel that this node no longer wants for so long.
const RETIRE_AFTER: Duration = Duration::from_mins(10);
/// A block that nobody uses is kept for so long.
const KEPT_FOR: Duration = Duration::from_secs(30);
/// A network that no file describes is remembered for so long.
const ASKED_FOR: Duration = Duration::from_mins(10);

/// An address of a bridge.
pub(super) type OfBridge = (LinkName, IpNet);

/// Why a round did not end.
#[derive(Debug, Error)]
pub enum RoundError {
    /// The owner said no.
    #[error("cannot ask the owner")]
    Owner(#[from] OwnerError),
    /// The kernel said no.
    #[error("cannot read or change the kernel")]
    Executor(#[from] ExecutorError),
    /// The kernel does not say which way leads where.
    #[error("cannot look for the ways to other nodes")]
    Kernel(#[from] netd_kernel::KernelError),
    /// The worker died.
    #[error("the worker died")]
    Cut(#[from] JoinError),
}

impl Fleet {
    /// Looks at what is known by now, ahead of all that stands in the kernel: a ruleset that is made meanwhile is made with it.
    ///
    /// # Errors
    /// See [`RoundError`].
    pub async fn look(&self) -> Result<(), RoundError> {
        let Some(inner) = self.0.clone() else { return Ok(()) };
        tokio::task::spawn_blocking(move || {
            inner.look()?;
            // Nothing else is made of it before its time.
            inner.state().is_known = false;
            Ok(())
        })
        .await?
    }

    /// What is known by now holds when this returns: addresses are given from own blocks, and routes stand.
    ///
    /// # Errors
    /// See [`RoundError`].
    pub async fn begin<K: Kernel + 'static>(&self, lifecycle: &Lifecycle<K>) -> Result<(), RoundError> {
        match &self.0 {
            Some(inner) => inner.round(lifecycle).await,
            None => Ok(()),
        }
    }

    /// What the fleet wants of the kernel stands, as far as the kernel lets it.
    ///
    /// # Errors
    /// See [`RoundError`].
    pub async fn mend<K: Kernel + 'static>(&self, lifecycle: &Lifecycle<K>) -> Result<(), RoundError> {
        match &self.0 {
            Some(inner) => inner.write(lifecycle).await,
            None => Ok(()),
        }
    }

    /// The steps that a mending would take, but for what the kernel refused the last time.
    #[must_use]
    pub fn plan(&self, observed: &Objects) -> Vec<Step> {
        let Some(inner) = &self.0 else { return Vec::new() };
        let state = inner.state();
        if !state.is_known {
            return Vec::new();
        }
        let mut steps = netd_kernel::plan(&state.fabric.objects, &fleets(observed));
        steps.retain(|step| {
            let on_none = rests_on(step).iter().any(|below| state.refused.contains_key(below));
            !on_none && !state.refused.contains_key(step.key())
        });
        steps
    }

    /// While this is held, nothing of the fleet's changes in the kernel.
    pub async fn still(&self) -> Option<tokio::sync::MutexGuard<'_, ()>> {
        match &self.0 {
            Some(inner) => Some(inner.writing.lock().await),
            None => None,
        }
    }

    /// Follows peers, blocks and settings for ever.
    pub async fn follow<K: Kernel + 'static>(&self, lifecycle: &Lifecycle<K>, networks: &Networks) {
        if let Some(inner) = &self.0 {
            tokio::join!(inner.follow(lifecycle, networks), inner.measure());
        }
    }
}

impl Inner {
    async fn follow<K: Kernel + 'static>(self: &Arc<Self>, lifecycle: &Lifecycle<K>, networks: &Networks) {
        let inner = self;
        let _watching = inner.watch_settings();
        let mut ears = inner.source.ears();
        let (mut catalogue, mut config) = (networks.subscribe(), inner.config.subscribe());
        loop {
            ears.heard();
            config.mark_unchanged();
            if let Err(error) = inner.round(lifecycle).await {
                warn!(error = &error as &dyn std::error::Error, "the fleet is not as it should be; netd tries again");
            }
            let next = Instant::now() + LOOK_EVERY;
            loop {
                catalogue.mark_unchanged();
                if let Err(error) = inner.wish(lifecycle, networks).await {
                    let error = &error as &dyn std::error::Error;
                    warn!(error, "the fleet is not told what this node wants; netd tries again");
                }
                let is_fill = tokio::select! {
                    () = inner.stirred.notified() => true,
                    Ok(()) = catalogue.changed() => true,
                    () = ears.change() => false,
                    () = inner.shaken.notified() => false,
                    Ok(()) = config.changed() => false,
                    () = sleep_until(next.into()) => false,
                };
                sleep(TOGETHER).await;
                if !is_fill {
                    break;
                }
            }
        }
    }
}

impl Ears {
    fn heard(&mut self) {
        self.peers.mark_unchanged();
        self.usable.mark_unchanged();
        self.status.iter_mut().for_each(tokio::sync::watch::Receiver::mark_unchanged);
    }

    async fn change(&mut self) {
        let status = async {
            match &mut self.status {
                Some(status) => status.changed().await,
                None => std::future::pending().await,
            }
        };
        let ended = tokio::select! {
            done = self.peers.changed() => done.is_err(),
            done = self.usable.changed() => done.is_err(),
            done = status => done.is_err(),
        };
        if ended {
            // The source goes with its handle, and that with this task.
            std::future::pending::<()>().await;
        }
    }
}

impl Inner {
    async fn round<K: Kernel + 'static>(self: &Arc<Self>, lifecycle: &Lifecycle<K>) -> Result<(), RoundError> {
        let inner = Arc::clone(self);
        let (here, changed) = tokio::task::spawn_blocking(move || inner.look()).await??;
        let share = self.share_of(&here);
        if changed || *self.share.borrow() != share {
            lifecycle.owner.share(share.clone()).await?;
            self.share.send_if_modified(|now| {
                let is_news = *now != share;
                now.clone_from(&share);
                is_news
            });
        }
        self.write(lifecycle).await
    }

    /// Looks at the node, and says what should stand.
    fn look(&self) -> Result<(Here, bool), RoundError> {
        let is_connected = self.source.status().is_none_or(|status| status.is_connected);
        let (peers, blocks, config) = (self.source.peers(), self.source.blocks(), self.config.borrow().clone());
        let before = self.state().here.clone();
        let mut here = {
            let mut underlay = self.underlay();
            let mut here = look::here(&mut underlay, &config, &self.name, &peers, blocks)?.or_as(&before);
            measure::narrow(&mut here.paths, &self.state().measured);
            let about = look::about(&mut underlay, &config, &self.name, &here);
            self.state().about = Some(about);
            here
        };
        let mut state = self.state();
        let wanted = fabric(&config, &here, &peers).objects;
        state.retiring.retain(|kind, _| !wanted.contains_key(&Key::Tunnel(*kind)));
        // Who does not accept what is wanted here has not changed yet.
        let is_late = late(&peers, &wanted);
        let now = Instant::now();
        let stay = state.retiring.iter().filter(|(_, end)| is_late || **end > now);
        here.retiring = stay.map(|(kind, _)| *kind).collect();
        let fabric = fabric(&config, &here, &peers);
        for trouble in fabric.troubles.difference(&state.fabric.troubles) {
            warn!(trouble = trouble.text, "fleet");
        }
        let changed = state.here.blocks != here.blocks;
        if !here.paths.iter().all(|(to, path)| state.here.paths.get(to).is_some_and(|known| known.mtu == path.mtu)) {
            self.moved.notify_one();
        }
        state.is_known |= is_connected;
        (state.fabric, state.here, state.peers) = (fabric, here.clone(), peers);
        Ok((here, changed))
    }

    fn share_of(&self, here: &Here) -> Share {
        let config = self.config.borrow();
        let status = self.source.status();
        let pools = config.pools.iter().map(|pool| {
            let mtu = Some(mtu_of(config.encapsulation_of(pool), here));
            let (remedy, grows) = self.remedy(&config, pool, status.as_ref());
            SharedPool { name: pool.name.clone(), range: pool.range, mtu, remedy, grows }
        });
        let pieces = |block: IpNet| {
            let pool = config.pools.iter().find(|pool| pool.range.contains(&block));
            without(block, pool.map_or(&BTreeSet::new(), |pool| &pool.reserved))
        };
        Share { pools: pools.collect(), blocks: here.blocks.iter().map(|block| (*block, pieces(*block))).collect() }
    }

    /// How this node gets more blocks, and whether they come by themselves.
    fn remedy(&self, config: &FleetConfig, pool: &PoolConfig, status: Option<&Status>) -> (String, bool) {
        let (Source::Store { endpoints, .. }, Some(status)) = (&self.source, status) else {
            let text = format!("add one to fleet.nodes.{}.blocks in netd.toml, on every node", self.name);
            return (text, false);
        };
        if !source::may_use(config, pool) {
            let labels: Vec<String> = pool.nodes.iter().map(|(key, value)| format!("{key}={value}")).collect();
            let text = format!(
                "the pool is for nodes with {}; set fleet.labels in netd.toml, or give the network another range",
                labels.join(", ")
            );
            return (text, false);
        }
        let text = match self.ill(status) {
            Some(ill) => format!("{ill}; then try again"),
            None => {
                format!("the store at {endpoints} is asked for one; try again (`netdctl block ls` shows who has which)")
            }
        };
        (text, true)
    }

    async fn write<K: Kernel + 'static>(self: &Arc<Self>, lifecycle: &Lifecycle<K>) -> Result<(), RoundError> {
        let _writing = self.writing.lock().await;
        let (objects, is_known) = {
            let state = self.state();
            (state.fabric.objects.clone(), state.is_known)
        };
        let executor = Arc::clone(&lifecycle.executor);
        let observed = tokio::task::spawn_blocking(move || executor.observe()).await??;
        // The last known stay; and who is asked for by an old route may still be there.
        if !is_known || self.retire(&objects, &observed) {
            return Ok(());
        }
        let executor = Arc::clone(&lifecycle.executor);
        let now = fleets(&observed);
        let mut refused = tokio::task::spawn_blocking(move || settle(&executor, &objects, &now)).await??;
        for (key, why) in &mut refused {
            if let Some(better) = in_the_way(key, &observed) {
                *why = better;
            }
        }
        self.tell(refused);
        self.say();
        let (snapshot, usage) = (lifecycle.owner.snapshot().await?, lifecycle.owner.usage().await?);
        let gateways = gateways(&observed, &self.share.borrow(), &snapshot, &usage);
        self.tidy(lifecycle, self.stale(gateways)).await
    }

    fn tell(&self, refused: Refused) {
        let mut state = self.state();
        for (key, why) in refused.iter().filter(|(key, why)| state.refused.get(*key) != Some(*why)) {
            warn!(?key, why, "the kernel refused a part of the fleet");
        }
        for key in state.refused.keys().filter(|key| !refused.contains_key(*key)) {
            info!(?key, "stands now");
        }
        state.refused = refused;
    }

    /// Tells the others what this node unpacks, once it stands.
    fn say(&self) {
        let Source::Store { fleet, .. } = &self.source else { return };
        let state = self.state();
        let Some(mut about) = state.about.clone() else { return };
        let stands = |key: &Key| state.fabric.objects.contains_key(key) && !state.refused.contains_key(key);
        let kinds = [(Encapsulation::Ipip, Unpacked::Ipip), (Encapsulation::Vxlan, Unpacked::Vxlan)];
        let stand = kinds.into_iter().filter(|(kind, _)| stands(&Key::Tunnel(*kind))).map(|(_, said)| said);
        about.accepts = stand.chain([Unpacked::Direct]).collect();
        fleet.say(about);
    }

    /// A tunnel that stands and is not wanted any more goes later. Says whether there is one that nobody knew of: then what is
    /// to stand has to be said anew.
    fn retire(&self, objects: &Objects, observed: &Objects) -> bool {
        let mut state = self.state();
        let mut is_news = false;
        for kind in [Encapsulation::Ipip, Encapsulation::Vxlan] {
            let key = Key::Tunnel(kind);
            if !observed.contains_key(&key) {
                state.retiring.remove(&kind);
            } else if !objects.contains_key(&key) && !state.retiring.contains_key(&kind) {
                let minutes = RETIRE_AFTER.as_secs() / 60;
                info!(?kind, minutes, "no pool wants this tunnel any more; it is kept for those that still send by it");
                state.retiring.insert(kind, Instant::now() + RETIRE_AFTER);
                is_news = true;
            }
        }
        if is_news {
            self.shaken.notify_one();
        }
        is_news
    }

    /// Those that nobody uses, and whether they were used before.
    fn stale(&self, gateways: BTreeMap<OfBridge, bool>) -> Vec<(OfBridge, bool)> {
        let mut state = self.state();
        let used = gateways.iter().filter(|(_, is_used)| **is_used).map(|(one, _)| one.clone());
        state.gateways.extend(used);
        state.gateways.retain(|one| gateways.contains_key(one));
        let unused = gateways.into_iter().filter(|(_, is_used)| !is_used);
        unused.map(|(one, _)| (one.clone(), state.gateways.contains(&one))).collect()
    }

    /// Takes gateways of ours away that nobody sends to.
    async fn tidy<K: Kernel + 'static>(
        self: &Arc<Self>,
        lifecycle: &Lifecycle<K>,
        stale: Vec<(OfBridge, bool)>,
    ) -> Result<(), RoundError> {
        for ((bridge, address), was_used) in stale {
            let (inner, executor) = (Arc::clone(self), Arc::clone(&lifecycle.executor));
            let is_gone = tokio::task::spawn_blocking(move || {
                let is_gone = inner.underlay().withdraw(&bridge, address, was_used)?;
                if is_gone {
                    info!(%bridge, %address, "nobody uses this gateway any more");
                    executor.lost(&bridge, address);
                }
                Ok::<_, netd_kernel::KernelError>(is_gone)
            });
            if is_gone.await?? {
                // What it was in the way of can be made now.
                self.shaken.notify_one();
            }
        }
        Ok(())
    }

    /// Asks for more blocks, or gives some back.
    async fn wish<K: Kernel + 'static>(
        self: &Arc<Self>,
        lifecycle: &Lifecycle<K>,
        networks: &Networks,
    ) -> Result<(), RoundError> {
        let config = self.config.borrow().clone();
        let usage = lifecycle.owner.usage().await?;
        let pools: Vec<String> =
            config.pools.iter().filter(|pool| source::may_use(&config, pool)).map(|pool| pool.name.clone()).collect();
        let wishes = wishes(&pools, &self.networks(&config, networks), &usage);
        self.source.want(&wishes.blocks);
        let is_list = matches!(self.source, Source::List(_));
        let mut unused = wishes.free.clone();
        if !is_list {
            unused.extend(&wishes.spare);
        }
        let ripe = ripe(&mut self.state().spare_since, unused, Instant::now());
        for block in ripe {
            if !lifecycle.owner.retire(block).await? {
                continue;
            }
            self.write(lifecycle).await?;
            if wishes.spare.contains(&block) && self.source.give_up(block) {
                info!(%block, "given back");
            } else {
                lifecycle.owner.unretire(block).await?;
            }
        }
        Ok(())
    }

    /// Networks of files, and those that were asked for lately.
    fn networks(&self, config: &FleetConfig, networks: &Networks) -> BTreeSet<(NetworkName, String)> {
        let mut state = self.state();
        state.asked.retain(|_, when| when.elapsed() < ASKED_FOR);
        let mut all: BTreeSet<(NetworkName, String)> = state.asked.keys().cloned().collect();
        for network in networks.snapshot().networks() {
            let subnets = network.subnets();
            let of = config.pools.iter().filter(|pool| subnets.iter().any(|subnet| pool.range.contains(subnet)));
            all.extend(of.map(|pool| (network.name.clone(), pool.name.clone())));
        }
        all
    }
}

/// Which of those that nobody uses now have been so for long enough. One that was used in between begins anew.
fn ripe(since: &mut BTreeMap<IpNet, Instant>, unused: BTreeSet<IpNet>, now: Instant) -> Vec<IpNet> {
    since.retain(|block, _| unused.contains(block));
    for block in unused {
        since.entry(block).or_insert(now);
    }
    since.iter().filter(|(_, since)| now.duration_since(**since) >= KEPT_FOR).map(|(block, _)| *block).collect()
}

/// Whether a peer does not accept yet what is wanted here.
fn late(peers: &Peers, wanted: &Objects) -> bool {
    let kinds = [(Encapsulation::Ipip, Unpacked::Ipip), (Encapsulation::Vxlan, Unpacked::Vxlan)];
    let mut wanted = kinds.into_iter().filter(|(kind, _)| wanted.contains_key(&Key::Tunnel(*kind)));
    wanted.any(|(_, said)| peers.values().any(|peer| !peer.accepts.is_empty() && !peer.accepts.contains(&said)))
}

/// A block that was given to a peer, while a bridge here has it still.
fn in_the_way(key: &Key, observed: &Objects) -> Option<String> {
    let Key::Route(to) = key else { return None };
    let bridge = observed.iter().find_map(|(key, object)| match (key, object) {
        (Key::Bridge(bridge), Object::Bridge(found)) if found.addresses.iter().any(|one| one.trunc() == *to) => {
            Some(bridge)
        }
        _ => None,
    })?;
    Some(format!(
        "{to} is a peer's now, and not reached from here while bridge {bridge} has it: restart the containers that have addresses of it"
    ))
}

/// Addresses of the pools on bridges that netd uses, and whether they are an attachment's gateway, or that of a block that is
/// kept.
fn gateways(observed: &Objects, share: &Share, snapshot: &Snapshot, usage: &[BlockUse]) -> BTreeMap<OfBridge, bool> {
    let kept = |address: &IpNet| {
        usage.iter().filter(|one| !one.is_leaving).any(|one| {
            one.block == address.trunc()
                && share.ranges(one.block).first().is_some_and(|range| range.gateway == address.addr())
        })
    };
    let used = |bridge: &LinkName, address: &IpNet| {
        let all = snapshot.attachments.iter().chain(&snapshot.draining).filter_map(|one| one.wiring.as_ref());
        all.into_iter().any(|wiring| wiring.bridge.as_ref() == Some(bridge) && wiring.gateways.contains(address))
    };
    let mut gateways = BTreeMap::new();
    for (key, object) in observed {
        let (Key::Bridge(bridge), Object::Bridge(found)) = (key, object) else { continue };
        if !observed.contains_key(&Key::Admitted(bridge.clone())) {
            continue;
        }
        let of_pools = found.addresses.iter().filter(|address| share.pool_at(address.addr()).is_some());
        gateways.extend(of_pools.map(|one| ((bridge.clone(), *one), kept(one) || used(bridge, one))));
    }
    gateways
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::time::Instant;

    use ipnet::IpNet;

    use super::{KEPT_FOR, ripe};

    #[test]
    fn a_block_is_ripe_when_nobody_has_used_it_for_long_enough_without_a_break() {
        let [one, two] = ["10.4.0.0/26", "10.4.0.64/26"].map(|text| text.parse::<IpNet>().unwrap());
        let (mut since, begin) = (BTreeMap::new(), Instant::now());
        let mut after = |halves: u32, unused: &[IpNet]| {
            ripe(&mut since, unused.iter().copied().collect::<BTreeSet<_>>(), begin + KEPT_FOR / 2 * halves)
        };
        assert_eq!(after(0, &[one, two]), []);
        assert_eq!(after(1, &[two]), []);
        assert_eq!(after(2, &[one, two]), [two]);
        assert_eq!(after(3, &[one]), []);
        assert_eq!(after(4, &[one]), [one]);
    }
}
