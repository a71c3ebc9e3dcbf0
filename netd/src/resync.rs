//! Makes kernel and record agree: at start, on request and from time to time. Deletes only what is ours and unreferenced.
//!
//! A look costs nobody anything. Only where it finds a difference that is no attachment's own affair are all attachments'
//! requests made to wait, and the look repeated.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::SystemTime;

use netd_config::LinkName;
use netd_kernel::{Kernel, Key, Object, Objects, Part, Port, Step, Veth, fixed_ruleset};
use thiserror::Error;
use tracing::{info, warn};

use crate::attachment::{Attachment, AttachmentKey, State};
use crate::desired;
use crate::executor::ExecutorError;
use crate::fleet::{RoundError, guards, is_fleets};
use crate::lifecycle::{Lifecycle, LifecycleError};
use crate::owner::{OwnerError, Snapshot};
use crate::policies::PolicyError;
use crate::reply::CUT;

/// Why a resync has not done all. What it could do is done; the next one tries the rest again.
#[derive(Debug, Error)]
pub enum ResyncError {
    /// The owner said no.
    #[error("resync cannot ask the owner")]
    Owner(#[from] OwnerError),
    /// The kernel said no.
    #[error("resync cannot read or change the kernel")]
    Executor(#[from] ExecutorError),
    /// Policies could not be written again.
    #[error("resync cannot make the policies hold")]
    Policy(#[from] PolicyError),
    /// An attachment could not be taken away.
    #[error("resync cannot take an attachment away")]
    Lifecycle(#[from] LifecycleError),
    /// The fleet is not as it should be.
    #[error("resync cannot put the fleet right")]
    Fleet(#[from] RoundError),
    /// The worker died.
    #[error("{CUT}")]
    Cut(#[from] tokio::task::JoinError),
}

impl ResyncError {
    /// Whether the rules hold all the same: what failed is some attachment's or some link's, and the next resync tries again.
    #[must_use]
    pub fn spares_the_rules(&self) -> bool {
        match self {
            Self::Lifecycle(_) | Self::Fleet(_) => true,
            Self::Executor(error) => error.is_of_links(),
            Self::Policy(PolicyError::Kernel(error)) => error.is_of_links(),
            Self::Owner(_) | Self::Policy(PolicyError::Stopped) | Self::Cut(_) => false,
        }
    }
}

/// What failed of many: the first, or the first that the rules depend on.
#[derive(Debug, Default)]
struct Failures(Option<ResyncError>);

impl Failures {
    fn note<T, E: Into<ResyncError>>(&mut self, done: Result<T, E>) -> Option<T> {
        let error = match done {
            Ok(done) => return Some(done),
            Err(error) => error.into(),
        };
        warn!(error = &error as &dyn std::error::Error, "not done; the next resync tries again");
        if self.0.as_ref().is_none_or(|first| first.spares_the_rules() && !error.spares_the_rules()) {
            self.0 = Some(error);
        }
        None
    }

    fn told<T>(self, done: T) -> Result<T, ResyncError> {
        self.0.map_or(Ok(done), Err)
    }
}

/// Whether requests go on while kernel and record are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exclusivity {
    /// Attachments come and go: what is seen may be about to be recorded, or just have been.
    Shared,
    /// Nobody else works: what is not recorded is nobody's, and what is being wired was given up.
    Exclusive,
}

/// What a resync would do, or did.
#[derive(Debug, Default)]
pub struct Resync {
    /// Attachments that nobody will detach: given up while they were wired, or left behind by their container's others.
    pub dead: Vec<Attachment>,
    /// Attachments whose link is gone without a detach, with their sandbox as a rule.
    pub lost: Vec<Attachment>,
    /// Attachments whose link is there and not where it belongs: at its bridge, or at none.
    pub loose: Vec<Attachment>,
    /// Attachments that pass packets by the record and not in the kernel. They are let go one by one, when policies know each.
    pub held: Vec<AttachmentKey>,
    /// Drained links that are still there, or already gone.
    pub drained: Vec<Attachment>,
    /// Changes in the node's namespace.
    pub steps: Vec<Step>,
    /// Changes that the fleet wants there.
    pub fabric: Vec<Step>,
}

/// Compares record and kernel. Pure.
///
/// `before` was taken before the kernel was observed, `snapshot` after it: an attachment is dead only if both have it and
/// its link was not seen, a link is stale only if it was seen and `snapshot` does not have it (an attach is recorded before
/// its first step).
///
/// `fleet`: what a fleet wants, if there is one. Of that, only what stands in the ruleset is made here, so that a ruleset is
/// made with it, and with the guards of tunnels that stand, known to the fleet or not; nothing is taken away but what stands in the
/// way of it. Without a fleet all of it goes.
#[must_use]
pub fn compare(
    before: &Snapshot,
    snapshot: &Snapshot,
    observed: &Objects,
    exclusivity: Exclusivity,
    fleet: Option<&Objects>,
) -> Resync {
    let mut resync = Resync { drained: snapshot.draining.clone(), ..Resync::default() };
    let old = |attachment: &Attachment| before.attachments.iter().any(|old| old == attachment);
    let mut target = Objects::from([fixed_ruleset()]);
    for attachment in &snapshot.attachments {
        let veth = attachment.wiring.as_ref().map(|wiring| Key::Veth(wiring.host_link.clone()));
        let stands = veth.as_ref().is_none_or(|key| observed.contains_key(key));
        let is_dead = match attachment.state {
            State::Attached => is_left_behind(attachment, snapshot) && old(attachment),
            State::Wiring => exclusivity == Exclusivity::Exclusive,
        };
        if is_dead {
            resync.dead.push(attachment.clone());
        } else if attachment.state == State::Attached && !stands && old(attachment) {
            resync.lost.push(attachment.clone());
        } else if attachment.state == State::Attached && (exclusivity == Exclusivity::Exclusive || old(attachment)) {
            desired::merge(&mut target, desired::shared(attachment, &snapshot.guarded));
            target.extend(desired::ruled(attachment));
            target.extend(veth.and_then(|key| kept_back(attachment, key, observed)));
            target.extend(desired::routed(attachment).into_iter().filter(|(key, _)| raises_nothing(key, observed)));
            resync.held.extend(Some(&attachment.key).filter(|_| is_held(attachment, observed)).cloned());
            resync.loose.extend(Some(attachment).filter(|one| is_loose(one, observed)).cloned());
        }
    }
    let wanted = fleet.into_iter().flatten().filter(|(key, _)| key.part() == Part::Fleet);
    target.extend(wanted.map(|(key, object)| (key.clone(), object.clone())));
    let (ruleset, made) = fixed_ruleset();
    if fleet.is_some() && observed.get(&ruleset) != Some(&made) {
        target.extend(guards(observed));
    }
    let is_fleets = |key: &Key| fleet.is_some() && is_fleets(key) && !gives_way(key, &target);
    let stays: BTreeSet<&Key> =
        observed.keys().filter(|key| stays(key, snapshot, observed, exclusivity) || is_fleets(key)).collect();
    for (key, object) in observed.iter().filter(|(key, _)| stays.contains(key)) {
        // What somebody else added to a bridge stays: the two are united, never cut down. A guard stays too.
        let is_guard = *object == Object::Forwarding { guarded: true };
        if matches!(key, Key::Bridge(_) | Key::GatewayLink(_)) || is_guard || !target.contains_key(key) {
            desired::merge(&mut target, Objects::from([(key.clone(), object.clone())]));
        }
    }
    resync.steps = netd_kernel::plan(&target, observed);
    resync
}

fn is_loose(attachment: &Attachment, observed: &Objects) -> bool {
    let Some(wiring) = &attachment.wiring else { return false };
    let link = observed.get(&Key::Veth(wiring.host_link.clone()));
    matches!(link, Some(Object::Veth(veth)) if veth.bridge != wiring.bridge)
}

fn has_gateway(attachment: &Attachment, link: &LinkName) -> bool {
    let gateway = attachment.wiring.as_ref().and_then(|wiring| wiring.gateway_link.as_ref());
    gateway.is_some_and(|gateway| gateway.link == *link)
}

/// Whether the link of an attachment, or a way to it, waits to be let go. A link that is gone is lost instead.
fn is_held(attachment: &Attachment, observed: &Objects) -> bool {
    let Some(wiring) = attachment.wiring.as_ref().filter(|_| !attachment.quarantined) else { return false };
    let link = observed.get(&Key::Veth(wiring.host_link.clone()));
    let Some(Object::Veth(link)) = link else { return false };
    (link.port == Port::Down && link.bridge.is_some())
        || desired::ways(attachment).keys().any(|way| !observed.contains_key(way))
}

fn raises_nothing(key: &Key, observed: &Objects) -> bool {
    !matches!(key, Key::SandboxRoute(..)) || observed.contains_key(key)
}

/// The link of an attachment whose quarantine or whose VLANs it does not follow. A shut port is none of this: the kernel is late in opening
/// it, or it is about to be deleted.
fn kept_back(attachment: &Attachment, key: Key, observed: &Objects) -> Option<(Key, Object)> {
    let Some(Object::Veth(found)) = observed.get(&key) else { return None };
    // No port is raised here: it goes up only when policies know its sandbox. A routed link's door is its ways.
    let stays_down = found.port == Port::Down && found.bridge.is_some();
    let wanted = if stays_down { Port::Down } else { desired::port(attachment) };
    let vlans = attachment.wiring.as_ref().and_then(|wiring| wiring.vlans.clone());
    let is_elsewhere = vlans.is_some() && found.bridge.is_some() && found.vlans != vlans;
    let differs = (wanted == Port::Down) != (found.port == Port::Down) || is_elsewhere;
    differs.then(|| (key, Object::Veth(Veth { port: wanted, vlans, ..found.clone() })))
}

/// An extra network is attached while the container has others; a detach that was cut off may have left it.
fn is_left_behind(attachment: &Attachment, snapshot: &Snapshot) -> bool {
    let is_sibling = |other: &&Attachment| other.key.container == attachment.key.container && !other.extra;
    attachment.extra && !snapshot.attachments.iter().any(|other| is_sibling(&other))
}

/// Whether a pool that became wider or narrower is wanted where it was: the two cannot stand at once.
fn gives_way(key: &Key, target: &Objects) -> bool {
    let Key::Inside(net) = key else { return false };
    let overlaps = |other: &Key| matches!(other, Key::Inside(other) if other.contains(net) || net.contains(other));
    !target.contains_key(key) && target.keys().any(overlaps)
}

/// Whether what was observed stays though no attachment asks for it.
fn stays(key: &Key, snapshot: &Snapshot, observed: &Objects, exclusivity: Exclusivity) -> bool {
    match key {
        Key::Veth(link) => {
            let is =
                |attachment: &Attachment| attachment.wiring.as_ref().is_some_and(|wiring| wiring.host_link == *link);
            snapshot.draining.iter().any(is) || snapshot.attachments.iter().any(is)
        }
        // It goes with the last attachment of its VLAN, and one that is being wired may be the first.
        Key::GatewayLink(link) => snapshot.attachments.iter().any(|one| has_gateway(one, link)),
        // The reference plugins leave bridges and forwarding, and people count on it.
        Key::Bridge(_) | Key::Forwarding(_) => true,
        // It goes with its link, which others may have given it to.
        Key::Gateway(..) => true,
        Key::Admitted(link) => {
            let gateway = Key::GatewayLink(link.clone());
            let is_gateway = observed.contains_key(&gateway) && stays(&gateway, snapshot, observed, exclusivity);
            observed.contains_key(&Key::Bridge(link.clone())) || is_gateway
        }
        // A detach takes its own away, and an attach adds some before it is recorded as whole.
        Key::Fenced(_)
        | Key::Guarded(_)
        | Key::Trunk(_)
        | Key::PortMac(..)
        | Key::PortAddress(..)
        | Key::Masquerade(..)
        | Key::Published(_)
        | Key::SandboxRoute(..) => exclusivity == Exclusivity::Shared,
        // Policy is compared by whoever knows the policies.
        Key::Filtered(_)
        | Key::DropSilently(_)
        | Key::Isolated(..)
        | Key::Hairpin(..)
        | Key::NoFlood(_)
        | Key::Class(_)
        | Key::Block(..)
        | Key::Span(_)
        | Key::Pair(..) => true,
        // The fleet's is compared by whoever knows the peers; without a fleet it is left over from one.
        Key::Connected
        | Key::Peer(_)
        | Key::PeersOnly(_)
        | Key::Inside(_)
        | Key::Tunnel(_)
        | Key::FarEnd(_)
        | Key::Route(_) => false,
        Key::Ruleset | Key::Interface(..) => false,
    }
}

/// Runs one resync and says what it did; with `dry_run`, what it would do.
///
/// # Errors
/// See [`ResyncError`].
pub async fn run<K: Kernel + 'static>(
    lifecycle: &Lifecycle<K>,
    exclusivity: Exclusivity,
    dry_run: bool,
) -> Result<Vec<String>, ResyncError> {
    let mut resync = look(lifecycle, exclusivity).await?;
    let living = living(lifecycle, resync.lost.iter().chain(&resync.loose)).await;
    // Without its sandbox's namespace nothing can be made again; a link that stands is not taken away either.
    resync.loose.retain(|one| living.contains(&one.key));
    let told = tell(&resync, &living);
    let unclosed = lifecycle.left_open();
    if dry_run || (told.is_empty() && unclosed.is_empty()) {
        return Ok(told);
    }
    told.iter().for_each(|line| info!(step = line, "resync"));
    let mut failures = Failures::default();
    for gone in resync.drained.into_iter().chain(unclosed) {
        failures.note(lifecycle.finish(gone).await);
    }
    let (mut dead, mut lost, mut held) = (resync.dead, resync.lost, resync.held);
    if !resync.steps.is_empty()
        && let Some(found) = repair(lifecycle, &mut failures).await
    {
        dead.extend(found.dead);
        lost.extend(found.lost);
        held.extend(found.held);
    }
    held.sort();
    held.dedup();
    lifecycle.let_pass(held).await;
    if !resync.fabric.is_empty() {
        failures.note(lifecycle.fleet.mend(lifecycle).await);
    }
    for attachment in dead {
        failures.note(lifecycle.bury(attachment).await);
    }
    for attachment in lost.into_iter().chain(resync.loose) {
        // One sandbox that takes no link does not keep the others from theirs.
        if let Err(error) = lifecycle.settle(attachment).await {
            warn!(error = &error as &dyn std::error::Error, "not settled; the next resync tries again");
        }
    }
    failures.told(told)
}

/// Of these, the attachments whose sandbox lives.
async fn living<K: Kernel + 'static>(
    lifecycle: &Lifecycle<K>,
    attachments: impl Iterator<Item = &Attachment> + Send,
) -> BTreeSet<AttachmentKey> {
    let mut living = BTreeSet::new();
    for attachment in attachments {
        if lifecycle.sandbox_of(attachment).await.is_some() {
            living.insert(attachment.key.clone());
        }
    }
    living
}

/// Looks again while nobody works on any attachment, and changes what still differs. Returns what it saw.
async fn repair<K: Kernel + 'static>(lifecycle: &Lifecycle<K>, failures: &mut Failures) -> Option<Resync> {
    let _alone = lifecycle.turns.whole_node().await;
    let _still = lifecycle.fleet.still().await;
    let mut resync = failures.note(look(lifecycle, Exclusivity::Exclusive).await)?;
    if !resync.steps.is_empty() {
        let steps = std::mem::take(&mut resync.steps);
        failures.note(change(lifecycle, steps).await);
    }
    Some(resync)
}

async fn change<K: Kernel + 'static>(lifecycle: &Lifecycle<K>, steps: Vec<Step>) -> Result<(), ResyncError> {
    if lifecycle.policies.is_any_in_force() {
        return Ok(lifecycle.policies.repair(steps).await?);
    }
    let worker = Arc::clone(&lifecycle.executor);
    Ok(tokio::task::spawn_blocking(move || worker.repair(&steps)).await??)
}

async fn look<K: Kernel + 'static>(lifecycle: &Lifecycle<K>, exclusivity: Exclusivity) -> Result<Resync, ResyncError> {
    let worker = Arc::clone(&lifecycle.executor);
    let before = lifecycle.owner.snapshot().await?;
    let observed = tokio::task::spawn_blocking(move || worker.observe()).await??;
    let snapshot = lifecycle.owner.snapshot().await?;
    let wanted = lifecycle.fleet.objects();
    let mut resync = compare(&before, &snapshot, &observed, exclusivity, wanted.as_ref());
    resync.fabric = lifecycle.fleet.plan(&observed);
    Ok(resync)
}

fn tell(resync: &Resync, living: &BTreeSet<AttachmentKey>) -> Vec<String> {
    let dead = resync.dead.iter().map(|gone| format!("release {}: nobody will detach it", gone.key));
    let lost = resync.lost.iter().map(|lost| {
        if living.contains(&lost.key) {
            format!("make {} again: its link is gone, its sandbox is not", lost.key)
        } else {
            format!("release {}: its sandbox is gone", lost.key)
        }
    });
    let loose = resync.loose.iter().map(|loose| {
        let is_port = loose.wiring.as_ref().is_some_and(|wiring| wiring.bridge.is_some());
        let why = if is_port { "no port of its bridge" } else { "a port of somebody's bridge" };
        format!("make {} again: its link is {why}", loose.key)
    });
    let drained = resync.drained.iter().map(|gone| format!("delete the link of {}: it was detached", gone.key));
    let held = resync.held.iter().map(|key| format!("let {key} pass packets: it is in no quarantine"));
    let steps = resync.steps.iter().chain(&resync.fabric).map(|step| format!("{step:?}"));
    dead.chain(lost).chain(loose).chain(drained).chain(held).chain(steps).collect()
}

/// Carries out the detaches that `netd-cni` was asked for while netd was away. An unreadable tombstone is left for
/// people to see, with a warning; one that cannot be carried out keeps no other from it.
///
/// # Errors
/// See [`ResyncError`].
pub async fn bury<K: Kernel + 'static>(lifecycle: &Lifecycle<K>) -> Result<(), ResyncError> {
    let mut failures = Failures::default();
    lifecycle.tombstones.sweep(SystemTime::now());
    for tombstone in lifecycle.tombstones.all() {
        match tombstone.key() {
            Ok(key) => {
                if failures.note(lifecycle.carry_out(key.clone(), tombstone).await) == Some(true) {
                    info!(%key, "detached by tombstone");
                }
            }
            // Carried out meanwhile by an attach of its key.
            Err(_) if !tombstone.stands() => {}
            Err(error) => {
                let path = tombstone.path().display();
                warn!(%path, %error, "cannot read a tombstone; remove it when its container is gone");
            }
        }
    }
    failures.told(())
}

#[cfg(test)]
mod tests;
