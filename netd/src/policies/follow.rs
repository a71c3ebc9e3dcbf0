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

/// How long to wait before policies that could not be put in force are tried again.
const AGAIN: Duration = Duration::from_secs(2);

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
    let policies = &lifecycle.policies;
    let _turn = policies.turn().await;
    let files = spawn_blocking(read).await?;
    policies.live_at(own_addresses());
    let is_any = files.policies().next().is_some();
    lifecycle.quarantine(quarantine.holds(is_any || policies.is_any_in_force())).await?;
    // Those who come and go are told of only while there are policies.
    let alone = if policies.is_any_in_force() { None } else { Some(lifecycle.turns.whole_node().await) };
    let attachments = lifecycle.owner.snapshot().await?.attachments;
    policies.enforce(files, attachments).await?;
    drop(alone);
    Ok(lifecycle.quarantine(quarantine.holds(is_any)).await?)
}

/// Follows the files for ever.
pub async fn follow<K: Kernel + 'static>(lifecycle: &Lifecycle<K>, quarantine: Quarantine, watched: &Watched) {
    let mut files = watched.subscribe();
    while files.changed().await.is_ok() {
        loop {
            let count = files.borrow_and_update().policies().count();
            let watched = watched.clone();
            match put_in_force(lifecycle, quarantine, move || Arc::new(watched.read_now())).await {
                Ok(()) => {
                    info!(policies = count, "in force");
                    break;
                }
                Err(error) => {
                    warn!(error = &error as &dyn std::error::Error, "policies are not in force; netd tries again");
                    sleep(AGAIN).await;
                }
            }
        }
    }
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
