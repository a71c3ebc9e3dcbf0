//! What the fleet wants is made to stand in the kernel, and what nobody wants any more goes. What is wanted is `round`'s.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use netd_config::LinkName;
use netd_fleet::{Encapsulation as Unpacked, Lending};
use netd_kernel::{Encapsulation, Kernel, Key, Object, Objects};
use tracing::{info, warn};

use super::Inner;
use super::apply::{Refused, fleets, settle};
use super::round::{Care, RoundError};
use super::source::Source;
use crate::executor::ExecutorError;
use crate::lifecycle::Lifecycle;
use crate::node::{BlockUse, Share};
use crate::owner::Snapshot;

/// Others may send by a tunnel that this node no longer wants for so long.
const RETIRE_AFTER: Duration = Duration::from_mins(10);

/// An address of a bridge.
pub(super) type OfBridge = (LinkName, IpNet);

impl Inner {
    pub(super) async fn write<K: Kernel + 'static>(
        self: &Arc<Self>,
        lifecycle: &Lifecycle<K>,
        care: Care,
    ) -> Result<(), RoundError> {
        let _writing = self.writing.lock().await;
        if care == Care::News && self.add(lifecycle).await? {
            return Ok(());
        }
        let (objects, is_known) = self.desired();
        let executor = Arc::clone(&lifecycle.executor);
        let observed = tokio::task::spawn_blocking(move || executor.observe()).await??;
        // The last known stay; and who is asked for by an old route may still be there.
        if !is_known || self.retire(&objects, &observed) {
            return Ok(());
        }
        let mut refused = self.settle(lifecycle, objects, fleets(&observed)).await?;
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

    fn desired(&self) -> (Objects, bool) {
        let state = self.state();
        (state.fabric.objects.clone(), state.is_known)
    }

    /// Writes what is wanted and did not stand when the kernel was left last. False: it has to be looked at.
    async fn add<K: Kernel + 'static>(self: &Arc<Self>, lifecycle: &Lifecycle<K>) -> Result<bool, RoundError> {
        let (objects, is_known) = self.desired();
        let Some(stands) = self.state().stands.take() else { return Ok(false) };
        if !is_known {
            return Ok(false);
        }
        if self.retire(&objects, &stands) {
            // What is to stand is said anew, with the tunnel.
            self.state().stands = Some(stands);
            return Ok(true);
        }
        if !self.settle(lifecycle, objects, stands).await?.is_empty() {
            return Ok(false);
        }
        self.say();
        Ok(true)
    }

    /// What was not refused stands.
    async fn settle<K: Kernel + 'static>(
        &self,
        lifecycle: &Lifecycle<K>,
        objects: Objects,
        stands: Objects,
    ) -> Result<Refused, RoundError> {
        self.state().stands = None;
        let executor = Arc::clone(&lifecycle.executor);
        let settled = tokio::task::spawn_blocking(move || {
            let refused = settle(&executor, &objects, &stands)?;
            Ok::<_, ExecutorError>((refused, objects))
        });
        let (refused, objects) = settled.await??;
        if refused.is_empty() {
            self.state().stands = Some(objects);
        }
        Ok(refused)
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

    /// Tells the others what this node unpacks, once it stands, and what it could give up.
    pub(super) fn say(&self) {
        let Source::Store { fleet, .. } = &self.source else { return };
        let state = self.state();
        let Some(mut about) = state.about.clone() else { return };
        let stands = |key: &Key| state.fabric.objects.contains_key(key) && !state.refused.contains_key(key);
        let kinds = [(Encapsulation::Ipip, Unpacked::Ipip), (Encapsulation::Vxlan, Unpacked::Vxlan)];
        let stand = kinds.into_iter().filter(|(kind, _)| stands(&Key::Tunnel(*kind))).map(|(_, said)| said);
        about.accepts = stand.chain([Unpacked::Direct]).collect();
        about.lending = Some(Lending { offers: state.lending.offers.clone(), ..Lending::default() });
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
            self.kernel_changed.notify_one();
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
                self.kernel_changed.notify_one();
            }
        }
        Ok(())
    }
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
