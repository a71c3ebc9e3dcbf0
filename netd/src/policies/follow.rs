//! Puts policies in force, in the order in which nothing passes that should not: first whoever has no labels is held back,
//! then the rules stand, and only without any rule is everybody let go.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use netd_config::Quarantine;
use netd_kernel::Kernel;
use thiserror::Error;
use tokio::task::{JoinError, spawn_blocking};
use tokio::time::sleep;
use tracing::{info, warn};

use super::PolicyError;
use super::files::PolicyFiles;
use super::watched::Watched;
use crate::lifecycle::Lifecycle;
use crate::owner::OwnerError;
use crate::reply::chain;

/// How long to wait before policies that could not be put in force are tried again: at first, and at most.
const AGAIN: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(300));

/// Policies are not in force as their files say.
#[derive(Debug, Error)]
pub enum ForceError {
    /// The owner said no.
    #[error("cannot quarantine containers without labels")]
    Owner(#[from] OwnerError),
    /// The kernel said no.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// The reading ended before it was done.
    #[error("the policy files were not read to their end")]
    Reading(#[from] JoinError),
}

/// What `read` reads is in force when this returns. It reads when it is its turn: what was read before somebody else's turn would
/// take back what is in force since.
///
/// # Errors
/// See [`ForceError`]; what was in force before stays.
pub async fn put_in_force<K: Kernel + 'static>(
    lifecycle: &Lifecycle<K>,
    quarantine: Quarantine,
    read: impl FnOnce() -> Arc<PolicyFiles> + Send + 'static,
) -> Result<(), ForceError> {
    let _turn = lifecycle.policies.turn().await;
    in_turn(lifecycle, quarantine, read).await
}

/// The same, for one whose turn it is.
pub(crate) async fn in_turn<K: Kernel + 'static>(
    lifecycle: &Lifecycle<K>,
    quarantine: Quarantine,
    read: impl FnOnce() -> Arc<PolicyFiles> + Send + 'static,
) -> Result<(), ForceError> {
    let policies = &lifecycle.policies;
    let files = spawn_blocking(read).await?;
    policies.live_at(own_addresses());
    let is_any = files.policies().next().is_some();
    lifecycle.quarantine(quarantine.holds(is_any || policies.is_any_in_force())).await?;
    // Those who come and go are told of only while there are policies.
    let alone = if policies.is_any_in_force() { None } else { Some(lifecycle.turns.whole_node().await) };
    let attachments = lifecycle.owner.snapshot().await?.attachments;
    let enforced = policies.enforce(files, attachments).await;
    drop(alone);
    // Those that are refused hold nobody back.
    let is_any = if enforced.is_ok() { is_any } else { policies.is_any_in_force() };
    let held = lifecycle.quarantine(quarantine.holds(is_any)).await;
    enforced?;
    Ok(held?)
}

/// Puts in force what the files say as netd starts, or, where the kernel refuses that, what was in force last.
///
/// # Errors
/// See [`ForceError`]; the kernel holds what it held.
pub async fn begin<K: Kernel + 'static>(
    lifecycle: &Lifecycle<K>,
    quarantine: Quarantine,
    watched: &Watched,
) -> Result<(), ForceError> {
    let files = watched.snapshot();
    match put_in_force(lifecycle, quarantine, move || files).await {
        Err(ForceError::Policy(PolicyError::Kernel(error))) => {
            fall_back(lifecycle, quarantine, watched, &chain(&*error)).await
        }
        done => done,
    }
}

/// Goes back to what was in force when a netd last kept it: the kernel refuses what the files say now.
///
/// # Errors
/// See [`ForceError`].
pub async fn fall_back<K: Kernel + 'static>(
    lifecycle: &Lifecycle<K>,
    quarantine: Quarantine,
    watched: &Watched,
    why: &str,
) -> Result<(), ForceError> {
    warn!(why, "the kernel refuses the policies; those that were in force last stay");
    let files = watched.kept().refusing(&watched.snapshot(), why);
    put_in_force(lifecycle, quarantine, move || Arc::new(files)).await
}

/// Follows the files for ever.
pub async fn follow<K: Kernel + 'static>(lifecycle: &Lifecycle<K>, quarantine: Quarantine, watched: &Watched) {
    let mut files = watched.subscribe();
    let mut pause = if lifecycle.policies.troubles().is_empty() { None } else { Some(AGAIN.0) };
    keep(lifecycle, watched).await;
    loop {
        let is_changed = tokio::select! {
            changed = files.changed() => if changed.is_ok() { true } else { return },
            () = sleep(pause.unwrap_or_default()), if pause.is_some() => false,
        };
        let count = files.borrow_and_update().policies().count();
        let (watched, policies) = (watched.clone(), lifecycle.policies.clone());
        let read = {
            let watched = watched.clone();
            // What is broken or refused stays as it is in force, whatever was read since.
            move || Arc::new(watched.read_now(&policies.files_and_wait().unwrap_or_default()))
        };
        pause = match put_in_force(lifecycle, quarantine, read).await {
            Ok(()) => {
                info!(policies = count, "in force");
                keep(lifecycle, &watched).await;
                None
            }
            Err(error) => {
                let next = pause.filter(|_| !is_changed).map_or(AGAIN.0, |pause| (pause * 2).min(AGAIN.1));
                let again_in_secs = next.as_secs();
                let error = &error as &dyn std::error::Error;
                warn!(error, again_in_secs, "policies are not in force; netd tries again");
                Some(next)
            }
        };
    }
}

async fn keep<K: Kernel + 'static>(lifecycle: &Lifecycle<K>, watched: &Watched) {
    let (watched, policies) = (watched.clone(), lifecycle.policies.clone());
    let keep = move || policies.files_and_wait().iter().for_each(|files| watched.keep(files));
    // A panic there is in the log.
    drop(spawn_blocking(keep).await);
}

/// All addresses of this node.
#[must_use]
pub fn own_addresses() -> BTreeSet<IpAddr> {
    let addresses = nix::ifaddrs::getifaddrs().into_iter().flatten();
    let ip = |address: nix::ifaddrs::InterfaceAddress| {
        let address = address.address?;
        let v4 = address.as_sockaddr_in().map(|v4| IpAddr::from(v4.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::from(v6.ip())))
    };
    addresses.filter_map(ip).collect()
}
