//! This node among others: addresses of shared ranges come from its own blocks, and routes lead to the others'.
//!
//! ```text
//! netd.toml ─▶ source: list | etcd ── peers, own blocks ─┬▶ Share ─▶ owner (Node gives addresses of own blocks)
//!                                                        ├▶ fabric (pure) ─▶ objects ─▶ settle ─▶ kernel
//! owner: how full the blocks are ─▶ wishes (pure) ───────┴▶ source: more blocks, or fewer
//! ```
//!
//! Not here: who owns which block (netd-fleet), and which packets pass (the ruleset).

mod agree;
mod announce;
mod apply;
mod check;
mod extend;
mod fabric;
mod give;
mod lend;
mod look;
mod measure;
mod receive;
mod reconcile;
mod reload;
mod remove;
mod report;
mod round;
mod source;
mod verify;
mod wishes;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use netd_config::{FleetConfig, Namespaces, NetworkName, NodeConfig};
use netd_fleet::{NodeName, NodeRecord, Peers, Plan};
use netd_kernel::{Encapsulation, Notice, Objects, Underlay};
use tokio::sync::{Notify, watch};
use tokio::time::timeout_at;

use crate::node::{Share, ShareError};
pub use apply::{guards, is_fleets};
pub use extend::ExtendError;
pub use fabric::{Fabric, Here, Trouble, fabric, mtu_of};
pub use remove::RemoveError;
pub use round::RoundError;
pub use source::FleetStartError;
use source::Source;
pub use wishes::{Wishes, wishes};

/// What there is of others' sandboxes without a store.
const UNHEARD: &str = "policies select sandboxes by labels, and a list of nodes tells no labels: sandboxes of other nodes are \
                       the outside to them, and matched by ipBlock alone. Write ipBlock rules for those, or use fleet.etcd";
/// What an operator's word on another node led to.
const REMOVED: &str = "this node was removed from the fleet (`netdctl node rm` on another node): it has no blocks any more, and gets \
                       none. To join again as another node, stop all containers, remove fleet.json from netd's state_dir, and \
                       restart netd";
/// How long an attach waits for a block.
const PATIENCE: Duration = Duration::from_secs(3);
/// The protocol number of netd's routes.
const OURS: u8 = 0x6e;

/// The way to the fleet; cheap to clone. A node that is part of none has an empty one.
#[derive(Debug, Clone, Default)]
pub struct Fleet(Option<Arc<Inner>>);

#[derive(Debug)]
struct Inner {
    name: NodeName,
    started: Instant,
    /// `netd.toml`.
    file: PathBuf,
    source: Source,
    config: watch::Sender<FleetConfig>,
    share: watch::Sender<Share>,
    underlay: Mutex<Underlay>,
    state: Mutex<State>,
    /// Labels of namespaces.
    namespaces: Namespaces,
    state_dir: PathBuf,
    run_dir: PathBuf,
    /// How full the blocks are may have changed.
    usage_changed: Notify,
    /// What this node's sandboxes are may have changed.
    labels_changed: Notify,
    /// What stands in the kernel may have changed.
    kernel_changed: Notify,
    /// A way to a peer is another, or somebody asks how large it is.
    paths_changed: Notify,
    /// Who writes what is the fleet's.
    writing: tokio::sync::Mutex<()>,
}

/// As the last round left it.
#[derive(Debug, Default)]
struct State {
    fabric: Fabric,
    here: Here,
    peers: Peers,
    /// How large packets get to them.
    measured: measure::Measured,
    /// What this node says of itself.
    about: Option<NodeRecord>,
    /// The peers were heard of since the start: what nobody has may go.
    is_known: bool,
    /// All objects of the fleet, as the kernel was left; `None`: nobody knows.
    stands: Option<Objects>,
    /// What the kernel refused.
    refused: apply::Refused,
    /// What `netd.toml` says and this netd does not follow.
    unfollowed: Vec<String>,
    /// When tunnels that are no longer wanted go.
    retiring: BTreeMap<Encapsulation, Instant>,
    /// Networks that were asked for, beside those of files.
    asked: BTreeMap<(NetworkName, String), Instant>,
    /// Gateways on bridges that were used since the start.
    gateways: BTreeSet<reconcile::OfBridge>,
    /// What is not believed of what others tell.
    disbelieved: Vec<String>,
    /// Why what others tell of their sandboxes does not hold here.
    unmet: Option<String>,
    /// Nodes that do not say that they have forgotten what was withdrawn here.
    silent: BTreeSet<String>,
    /// Policies ask of other nodes' sandboxes what nobody tells.
    is_unheard: bool,
    /// Since when blocks could go.
    spare_since: BTreeMap<IpNet, Instant>,
    /// What this node could give up for others.
    lending: lend::Lending,
}

impl Fleet {
    /// This node's part in the fleet that its settings name; `host_name` where they do not name the node. What it holds is
    /// usable at once, with or without the store.
    ///
    /// # Errors
    /// See [`FleetStartError`].
    pub fn start(config: &NodeConfig, file: &Path, host_name: &str) -> Result<Self, FleetStartError> {
        let fleet = &config.fleet;
        if !fleet.is_on() {
            return Ok(Self::default());
        }
        let name = if fleet.name.is_empty() { host_name } else { &fleet.name };
        let name = NodeName::new(name)?;
        let mut underlay = Underlay::open(&config.link_prefix)?;
        // The kernel is asked again in each round.
        let here =
            look::here(&mut underlay, fleet, &name, (&Peers::new(), None), (BTreeSet::new(), None)).unwrap_or_default();
        let about = look::about(fleet, &name, &here, look::able(&mut underlay));
        let source = Source::open(fleet, Path::new(&config.state_dir), about)?;
        Ok(Self(Some(Arc::new(Inner::new(config, (name, file), source, underlay)))))
    }

    /// Whether this node is part of a fleet.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// What of the ruleset is the fleet's; `None` where there is no fleet, and nothing of one is to stand.
    #[must_use]
    pub fn objects(&self) -> Option<Objects> {
        self.0.as_ref().map(|inner| inner.state().fabric.objects.clone())
    }

    /// How full the blocks are has changed.
    pub fn stir(&self) {
        if let Some(inner) = &self.0 {
            inner.usage_changed.notify_one();
        }
    }

    /// Looks at the notice, and after what it tells of.
    pub fn mind(&self, notice: &Notice) {
        let Some(inner) = &self.0 else { return };
        let is_ours = match notice {
            Notice::Gone(link) => {
                let underlay = inner.underlay();
                [Encapsulation::Ipip, Encapsulation::Vxlan].iter().any(|kind| underlay.device(*kind).as_str() == link)
            }
            Notice::Unrouted { to, protocol } => {
                *protocol == OURS && inner.state().fabric.objects.contains_key(&netd_kernel::Key::Route(*to))
            }
            Notice::Lost => true,
        };
        if is_ours {
            inner.kernel_changed.notify_one();
        }
    }

    /// What this node may give addresses from, and every change of it.
    #[must_use]
    pub fn share(&self) -> Option<watch::Receiver<Share>> {
        self.0.as_ref().map(|inner| inner.share.subscribe())
    }

    /// A network lacks a block, and asks for one since `since`: waits until this node has others than those seen. False: that
    /// is not to be expected soon.
    pub async fn more(
        &self,
        network: &NetworkName,
        error: &ShareError,
        (seen, since): (Option<watch::Receiver<Share>>, Instant),
    ) -> bool {
        let (Some(inner), Some(mut share)) = (&self.0, seen) else { return false };
        let (ShareError::NoBlock { pool, is_transient: true, .. } | ShareError::Full { pool, is_transient: true, .. }) =
            error
        else {
            return false;
        };
        inner.state().asked.insert((network.clone(), pool.clone()), Instant::now());
        inner.usage_changed.notify_one();
        let is_new = inner.started.elapsed() < PATIENCE;
        if !is_new && !inner.source.status().is_some_and(|status| status.is_connected) {
            return false;
        }
        timeout_at((since + PATIENCE).into(), share.changed()).await.is_ok_and(|changed| changed.is_ok())
    }

    /// What is not as the settings want it, each with what to do.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        self.0.as_ref().map(|inner| inner.warnings()).unwrap_or_default()
    }
}

fn unmet(why: &str) -> String {
    format!(
        "what other nodes tell of their sandboxes does not hold here ({why}): policies take them for what they were, other nodes give no \
         address of theirs to somebody else meanwhile, and after an absence this node is nobody's peer until it does. netd tries again \
         every second"
    )
}

fn unreadable(node: &str, why: &str) -> String {
    format!(
        "what node {node} says of itself in the store cannot be read ({why}): it is no peer of this one, and no route leads to it. If \
         its netd is a later one, bring this one up to it; if no such node is there, remove the key fleet/peers/{node} below \
         fleet.etcd.prefix"
    )
}

fn silent(node: &str) -> String {
    format!(
        "node {node} does not say that it has forgotten the containers that are gone here: while it is there, their addresses are \
         given to no other. See `netdctl status` there, and restart netd if it says nothing of it; a node whose netd is stopped is \
         waited for until its lease is over"
    )
}

impl Inner {
    fn new(config: &NodeConfig, (name, file): (NodeName, &Path), source: Source, underlay: Underlay) -> Self {
        let (writing, file) = (tokio::sync::Mutex::new(()), file.to_owned());
        Self {
            name,
            started: Instant::now(),
            file,
            source,
            config: watch::Sender::new(config.fleet.clone()),
            share: watch::Sender::new(Share::default()),
            underlay: Mutex::new(underlay),
            state: Mutex::default(),
            namespaces: config.namespaces.clone(),
            state_dir: PathBuf::from(&config.state_dir),
            run_dir: PathBuf::from(&config.run_dir),
            usage_changed: Notify::new(),
            labels_changed: Notify::new(),
            kernel_changed: Notify::new(),
            paths_changed: Notify::new(),
            writing,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn underlay(&self) -> MutexGuard<'_, Underlay> {
        self.underlay.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn warnings(&self) -> Vec<String> {
        let state = self.state();
        let troubles = state.fabric.troubles.iter().map(|trouble| trouble.text.clone());
        let refused: BTreeSet<String> = state.refused.values().cloned().collect();
        let status = self.source.status();
        let unreadable = status.iter().flat_map(|status| &status.unreadable).map(|(node, why)| unreadable(node, why));
        let ill = status.as_ref().and_then(|status| self.ill(status).or_else(|| self.short(status)));
        let store = ill.into_iter().chain(unreadable);
        let unlike = self.unlike(&self.config.borrow());
        let unfollowed = state.unfollowed.iter().filter(|text| !unlike.contains(text)).cloned().chain(unlike.clone());
        let told = state.disbelieved.iter().cloned().chain(state.is_unheard.then(|| UNHEARD.to_owned()));
        let stuck = state.unmet.iter().map(|why| unmet(why)).chain(state.silent.iter().map(|node| silent(node)));
        let all = store.chain(troubles).chain(refused).chain(unfollowed).chain(told).chain(stuck);
        all.map(|text| format!("fleet: {text}")).collect()
    }

    /// Which pools of such settings are not those of the fleet.
    fn unlike(&self, config: &FleetConfig) -> Vec<String> {
        let unlike = self.agreed().map(|plan| agree::unlike(config, &plan)).unwrap_or_default();
        unlike.iter().map(ToString::to_string).collect()
    }

    /// The fleet's pools, as far as they are known.
    fn agreed(&self) -> Option<Plan> {
        let status = self.source.status().filter(|status| !status.is_stranger)?;
        let charter = status.charter.or_else(|| self.source.memory()?.charter)?;
        Some(charter.plan)
    }

    fn is_removed(&self, status: &netd_fleet::Status) -> bool {
        let charter = status.charter.as_ref();
        charter.zip(self.source.instance()).is_some_and(|(charter, me)| charter.removed.contains(&me))
    }

    /// What is wrong with the store, and what to do.
    fn ill(&self, status: &netd_fleet::Status) -> Option<String> {
        let Source::Store { endpoints, .. } = &self.source else { return None };
        if status.is_stranger {
            return Some(format!(
                "the store at {endpoints} is another fleet's than the one that this node is of: it does nothing there. Correct fleet.etcd in netd.toml; or, to leave the old fleet, stop all containers and remove fleet.json from netd's state_dir"
            ));
        }
        if self.is_removed(status) {
            return Some(REMOVED.to_owned());
        }
        if let Some(why) = self.misfit(status) {
            return Some(extend::split(&why));
        }
        if let Some(twin) = &status.twin {
            return Some(format!(
                "{twin} has this node's identity: fleet.json was copied, as a disk or an image is, and both nodes may have given the same addresses out. This node gives none out of the fleet's pools until the other is gone: on the copy stop netd and all containers, remove fleet.json from netd's state_dir, and start netd again (a node of its own then)"
            ));
        }
        if status.is_namesake {
            return Some(format!(
                "another node is called {}: give this one a fleet.name of its own in netd.toml; if it replaces that node, it takes its place when that one's lease is over",
                self.name
            ));
        }
        if status.is_connected {
            let refused = |why| {
                format!(
                    "the store at {endpoints} takes nothing that this node writes ({why}): who is known stays known, and nothing new is claimed or told"
                )
            };
            return status.error.as_ref().map(refused);
        }
        let why = status.error.as_deref().unwrap_or("no answer yet");
        Some(format!(
            "the store does not answer ({why}): this node goes on with its own blocks, and hears of no changes. See that etcd runs at {endpoints} and is reached from here"
        ))
    }
}

#[cfg(test)]
mod tests;
