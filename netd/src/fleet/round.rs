//! One round: what was heard becomes what this node may give out, what stands in the kernel, and what is wanted. And when
//! there is to be another one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use netd_config::{FleetConfig, NetworkName, PoolConfig};
use netd_fleet::{Encapsulation as Unpacked, Peers, Pool, Status, without};
use netd_kernel::{Encapsulation, Kernel, Key, Objects, Step};
use thiserror::Error;
use tokio::sync::watch;
use tokio::task::JoinError;
use tokio::time::{sleep, sleep_until};
use tracing::{info, warn};

use super::apply::{fleets, rests_on};
use super::fabric::{Here, fabric, mtu_of};
use super::source::{self, Ears, Source};
use super::wishes::wishes;
use super::{Fleet, Inner, agree, look, measure};
use crate::executor::ExecutorError;
use crate::lifecycle::Lifecycle;
use crate::networks::Networks;
use crate::node::{Share, SharedPool};
use crate::owner::OwnerError;
use crate::reply::CUT;

/// What comes within this is one change.
const TOGETHER: Duration = Duration::from_millis(20);
/// How often the ways to other nodes are looked at without being told.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// A block that nobody uses is kept for so long.
pub(super) const KEPT_FOR: Duration = Duration::from_secs(30);
/// A network that no file describes is remembered for so long.
const ASKED_FOR: Duration = Duration::from_mins(10);

/// How closely a round looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Care {
    /// At what was heard of peers. The ways to others, and what stands, are taken to be as they were left: what changes them
    /// is told by notices, or found by the next whole look. So a peer costs what it is, however many there are.
    News,
    /// At everything, as the kernel has it.
    Whole,
}

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
    #[error("{CUT}")]
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
            inner.look(Care::Whole)?;
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
            Some(inner) => inner.round(lifecycle, Care::Whole).await,
            None => Ok(()),
        }
    }

    /// What the fleet wants of the kernel stands, as far as the kernel lets it.
    ///
    /// # Errors
    /// See [`RoundError`].
    pub async fn mend<K: Kernel + 'static>(&self, lifecycle: &Lifecycle<K>) -> Result<(), RoundError> {
        match &self.0 {
            Some(inner) => inner.write(lifecycle, Care::Whole).await,
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
        let (mut care, mut next) = (Care::Whole, Instant::now());
        loop {
            ears.heard();
            care = heed(&mut config, care);
            if let Err(error) = inner.round(lifecycle, care).await {
                warn!(error = &error as &dyn std::error::Error, "the fleet is not as it should be; netd tries again");
            }
            if care == Care::Whole {
                next = Instant::now() + LOOK_EVERY;
            }
            loop {
                catalogue.mark_unchanged();
                if let Err(error) = inner.wish(lifecycle, networks).await {
                    let error = &error as &dyn std::error::Error;
                    warn!(error, "the fleet is not told what this node wants; netd tries again");
                }
                // Once: a wish that failed ahead of looking at it is tried again when there is news.
                let again = inner.state().lending.next.take();
                let look = tokio::select! {
                    () = sleep_until(again.unwrap_or(next).into()), if again.is_some() => None,
                    () = inner.usage_changed.notified() => None,
                    Ok(()) = catalogue.changed() => None,
                    () = ears.change() => Some(Care::News),
                    () = inner.kernel_changed.notified() => Some(Care::Whole),
                    Ok(()) = config.changed() => Some(Care::Whole),
                    () = sleep_until(next.into()) => Some(Care::Whole),
                };
                sleep(TOGETHER).await;
                if let Some(look) = look {
                    care = look;
                    break;
                }
            }
        }
    }
}

/// How closely to look, where the settings may have changed while news were gathered: what counts as seen here is in the look
/// that follows, and a later change wakes the wait after it.
fn heed<T>(settings: &mut watch::Receiver<T>, care: Care) -> Care {
    if settings.has_changed().unwrap_or(false) {
        settings.mark_unchanged();
        Care::Whole
    } else {
        care
    }
}

impl Ears {
    fn heard(&mut self) {
        self.peers.mark_unchanged();
        self.usable.mark_unchanged();
        self.status.iter_mut().for_each(watch::Receiver::mark_unchanged);
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
    async fn round<K: Kernel + 'static>(
        self: &Arc<Self>,
        lifecycle: &Lifecycle<K>,
        mut care: Care,
    ) -> Result<(), RoundError> {
        let inner = Arc::clone(self);
        let (here, changed) = tokio::task::spawn_blocking(move || inner.look(care)).await??;
        let share = self.shut(self.allowed(self.share_of(&here)));
        let before = self.share.borrow().clone();
        // What is to be done about the store is said to whoever asks for an address, and changes nothing else.
        let is_news = !before.says_but_for_words(&share);
        if changed || before != share {
            lifecycle.owner.share(share.clone()).await?;
            self.share.send_if_modified(|now| {
                *now = share;
                is_news
            });
        }
        if changed || is_news {
            care = Care::Whole;
        }
        self.write(lifecycle, care).await
    }

    /// Looks at the node, and says what should stand.
    fn look(&self, care: Care) -> Result<(Here, bool), RoundError> {
        let status = self.source.status();
        let is_connected = status.as_ref().is_none_or(|status| status.is_connected);
        let member = status.and_then(|status| status.member);
        let (peers, blocks, config) = (self.source.peers(), self.source.blocks(), self.config.borrow().clone());
        let before = self.state().here.clone();
        let (known, able) = match care {
            Care::News => (Some(&before), self.state().about.as_ref().map(|about| about.encapsulations.clone())),
            Care::Whole => (None, None),
        };
        let mut here = {
            let mut underlay = self.underlay();
            let mut here =
                look::here(&mut underlay, &config, &self.name, (&peers, known), (blocks, member))?.or_as(&before);
            measure::narrow(&mut here.paths, &self.state().measured);
            let able = able.unwrap_or_else(|| look::able(&mut underlay));
            let about = look::about(&config, &self.name, &here, able);
            self.state().about = Some(about);
            here
        };
        let mut state = self.state();
        let mut wanted = fabric(&config, &here, &peers);
        state.retiring.retain(|kind, _| !wanted.objects.contains_key(&Key::Tunnel(*kind)));
        // Who does not accept what is wanted here has not changed yet.
        let is_late = late(&peers, &wanted.objects);
        let now = Instant::now();
        let stay = state.retiring.iter().filter(|(_, end)| is_late || **end > now);
        here.retiring = stay.map(|(kind, _)| *kind).collect();
        if !here.retiring.is_empty() {
            wanted = fabric(&config, &here, &peers);
        }
        let fabric = wanted;
        for trouble in fabric.troubles.difference(&state.fabric.troubles) {
            warn!(trouble = trouble.text, "fleet");
        }
        let changed = state.here.blocks != here.blocks;
        if !here.paths.iter().all(|(to, path)| state.here.paths.get(to).is_some_and(|known| known.mtu == path.mtu)) {
            self.paths_changed.notify_one();
        }
        state.is_known |= is_connected;
        (state.fabric, state.here, state.peers) = (fabric, here.clone(), peers);
        Ok((here, changed))
    }

    pub(super) fn share_of(&self, here: &Here) -> Share {
        let config = self.config.borrow();
        let (status, agreed) = (self.source.status(), self.agreed());
        let pools = config.pools.iter().map(|pool| {
            let mtu = Some(mtu_of(config.encapsulation_of(pool), here));
            let (remedy, grows) = self.remedy(&config, pool, status.as_ref());
            let smallest = agreed
                .as_ref()
                .and_then(|plan| plan.pool(&pool.name))
                .map_or_else(|| source::smallest(pool), Pool::smallest);
            let is_spent = !grows || status.as_ref().is_some_and(|status| has_none(status, &pool.name));
            let continues = config.before(pool).map(|before| before.name.clone());
            SharedPool { name: pool.name.clone(), range: pool.range, mtu, remedy, grows, is_spent, continues, smallest }
        });
        let pieces = |part: IpNet| {
            let pool = config.pools.iter().find(|pool| pool.range.contains(&part));
            without(part, pool.map_or(&BTreeSet::new(), |pool| &pool.reserved))
        };
        let held = self.source.held();
        Share {
            pools: pools.collect(),
            blocks: held.iter().map(|(block, part)| (*block, pieces(*part))).collect(),
            parts: held.into_iter().filter(|(block, part)| block != part).collect(),
        }
    }

    /// Out of blocks of pools that are for other nodes nothing more is given.
    fn allowed(&self, mut share: Share) -> Share {
        let config = self.config.borrow();
        let is_forbidden = |block: &IpNet| {
            let pool = config.pools.iter().find(|pool| pool.range.contains(block));
            pool.is_some_and(|pool| !source::may_use(&config, pool))
        };
        share.blocks.iter_mut().filter(|(block, _)| is_forbidden(block)).for_each(|(_, pieces)| pieces.clear());
        share
    }

    /// Nothing is given out of what another node may give out as well.
    fn shut(&self, mut share: Share) -> Share {
        if self.source.status().is_some_and(|status| status.twin.is_some()) {
            share.blocks.values_mut().for_each(Vec::clear);
            share.pools.iter_mut().for_each(|pool| pool.grows = false);
        }
        share
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
        if let Some(unlike) = self.agreed().and_then(|plan| agree::hinders(pool, &plan)) {
            return (unlike.to_string(), false);
        }
        let text = match self.ill(status) {
            Some(ill) => format!("{ill}; then try again"),
            None => {
                format!("the store at {endpoints} is asked for one; try again (`netdctl block ls` shows who has which)")
            }
        };
        (text, true)
    }

    /// Asks for more blocks, or gives some back.
    pub(super) async fn wish<K: Kernel + 'static>(
        self: &Arc<Self>,
        lifecycle: &Lifecycle<K>,
        networks: &Networks,
    ) -> Result<(), RoundError> {
        let config = self.config.borrow().clone();
        let usage = lifecycle.owner.usage().await?;
        let names = |pools: Vec<&PoolConfig>| pools.into_iter().map(|pool| pool.name.clone()).collect();
        let own = config.pools.iter().filter(|pool| source::may_use(&config, pool));
        let pools = own.map(|pool| (pool.name.clone(), names(config.all_before(pool)))).collect();
        let wishes = wishes(&pools, &self.networks(&config, networks), &usage);
        self.source.want(&wishes.blocks);
        self.forget_removals();
        let status = self.source.status();
        let mut unused = wishes.free.clone();
        if status.is_some() {
            unused.extend(&wishes.spare);
        }
        let ripe = ripe(&mut self.state().spare_since, unused, Instant::now());
        if status.is_some_and(|status| !is_well(&status)) {
            return Ok(());
        }
        for block in ripe {
            if !lifecycle.owner.retire(block).await? {
                continue;
            }
            let written = self.write(lifecycle, Care::Whole).await;
            if written.is_ok() && wishes.spare.contains(&block) && self.source.give_up(block) {
                info!(%block, "given back");
            } else {
                lifecycle.owner.unretire(block).await?;
            }
            written?;
        }
        self.lend(lifecycle, &usage).await
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

/// Whether the store gives no block of the pool now.
fn has_none(status: &Status, pool: &str) -> bool {
    !status.is_connected || status.lacks.contains(pool)
}

/// Whether another node could take now what this one gives up. What nobody can take is this node's to use.
fn is_well(status: &Status) -> bool {
    status.is_connected && status.error.is_none() && status.twin.is_none()
}

/// Which of those that nobody uses now have been so for long enough. One that was used in between begins anew.
pub(super) fn ripe(since: &mut BTreeMap<IpNet, Instant>, unused: BTreeSet<IpNet>, now: Instant) -> Vec<IpNet> {
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

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::time::Instant;

    use ipnet::IpNet;
    use tokio::sync::watch;

    use netd_fleet::Status;

    use super::{Care, KEPT_FOR, heed, is_well, ripe};

    #[test]
    fn nothing_is_given_up_that_nobody_could_take() {
        let well = Status { is_connected: true, ..Status::default() };
        assert!(is_well(&well) && !is_well(&Status::default()));
        assert!(!is_well(&Status { error: Some("etcd is full".to_owned()), ..well.clone() }));
        assert!(!is_well(&Status { twin: Some("n2".to_owned()), ..well }));
    }

    #[test]
    fn settings_that_change_while_news_are_gathered_are_looked_at_with_them() {
        let (settings, mut seen) = watch::channel("vxlan");
        assert_eq!(heed(&mut seen, Care::News), Care::News);
        settings.send_replace("ipip");
        assert_eq!(heed(&mut seen, Care::News), Care::Whole);
        assert_eq!(heed(&mut seen, Care::News), Care::News, "once");
        settings.send_replace("direct");
        assert!(seen.has_changed().unwrap(), "what comes later wakes the wait");
    }

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
