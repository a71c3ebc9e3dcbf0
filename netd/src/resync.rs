//! Makes kernel and record agree: at start, on request and from time to time. Deletes only what is ours and unreferenced.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use netd_kernel::{Kernel, Key, Objects, Step};
use serde::Deserialize;
use thiserror::Error;
use tracing::{info, warn};

use crate::attachment::{Attachment, AttachmentKey, State};
use crate::desired;
use crate::executor::{Executor, ExecutorError};
use crate::owner::{OwnerError, OwnerHandle, Snapshot};

/// Why a resync ended early. What was done before it stays done; the next one goes on.
#[derive(Debug, Error)]
pub enum ResyncError {
    /// The owner said no.
    #[error("resync cannot ask the owner")]
    Owner(#[from] OwnerError),
    /// The kernel said no.
    #[error("resync cannot read or change the kernel")]
    Executor(#[from] ExecutorError),
    /// The worker died.
    #[error("resync was cut off")]
    Cut(#[from] tokio::task::JoinError),
}

/// What a resync would do, or did.
#[derive(Debug, Default)]
pub struct Resync {
    /// Attachments whose sandbox died without a detach.
    pub dead: Vec<Attachment>,
    /// Drained links that are still there, or already gone.
    pub drained: Vec<Attachment>,
    /// Changes in the node's namespace.
    pub steps: Vec<Step>,
}

/// Compares record and kernel. Pure.
///
/// `before` was taken before the kernel was observed, `snapshot` after it: an attachment is dead only if both have it and
/// its link was not seen, a link is stale only if it was seen and `snapshot` does not have it (an attach is recorded before
/// its first step). An attachment being wired is left alone, unless `starting`: then nobody waits for it any more.
#[must_use]
pub fn compare(before: &Snapshot, snapshot: &Snapshot, observed: &Objects, starting: bool) -> Resync {
    let mut resync = Resync { drained: snapshot.draining.clone(), ..Resync::default() };
    let old = |attachment: &Attachment| before.attachments.iter().any(|old| old == attachment);
    let mut wanted = Objects::new();
    for attachment in &snapshot.attachments {
        let veth = attachment.wiring.as_ref().map(|wiring| Key::Veth(wiring.host_link.clone()));
        let stands = veth.as_ref().is_none_or(|key| observed.contains_key(key));
        let alive = match attachment.state {
            State::Attached => stands || !old(attachment),
            State::Wiring => !starting,
        };
        if alive {
            desired::merge(&mut wanted, desired::shared(attachment));
            wanted.extend(veth.and_then(|key| observed.get(&key).map(|object| (key, object.clone()))));
        } else {
            resync.dead.push(attachment.clone());
        }
    }
    let kept = |key: &Key| match key {
        Key::Veth(link) => {
            let is =
                |attachment: &Attachment| attachment.wiring.as_ref().is_some_and(|wiring| wiring.host_link == *link);
            snapshot.draining.iter().any(is) || snapshot.attachments.iter().any(is)
        }
        // The reference plugins leave bridges and forwarding, and people count on it.
        Key::Bridge(_) | Key::Forwarding(_) => true,
        Key::Interface(..) => false,
    };
    let mut target = wanted;
    for (key, object) in observed.iter().filter(|(key, _)| kept(key)) {
        // What somebody else added to a bridge stays: the two are united, never cut down.
        desired::merge(&mut target, Objects::from([(key.clone(), object.clone())]));
    }
    resync.steps = netd_kernel::plan(&target, observed);
    resync
}

/// Runs one resync and says what it did; with `dry_run`, what it would do.
///
/// # Errors
/// See [`ResyncError`].
pub async fn run<K: Kernel + 'static>(
    owner: &OwnerHandle,
    executor: &Arc<Executor<K>>,
    starting: bool,
    dry_run: bool,
) -> Result<Vec<String>, ResyncError> {
    let worker = Arc::clone(executor);
    let before = owner.snapshot().await?;
    let observed = tokio::task::spawn_blocking(move || worker.observe()).await??;
    let snapshot = owner.snapshot().await?;
    let resync = compare(&before, &snapshot, &observed, starting);
    let told = tell(&resync);
    if dry_run {
        return Ok(told);
    }
    for line in &told {
        info!(step = line, "resync");
    }
    let mut gone = resync.drained;
    for attachment in resync.dead {
        gone.extend(owner.drain_exactly(attachment).await?);
    }
    for attachment in gone {
        reap(owner, executor, attachment).await?;
    }
    if !resync.steps.is_empty() {
        let worker = Arc::clone(executor);
        tokio::task::spawn_blocking(move || worker.repair(&resync.steps)).await??;
    }
    Ok(told)
}

/// Deletes a drained attachment's link, then frees its addresses.
///
/// # Errors
/// See [`ResyncError`].
pub async fn reap<K: Kernel + 'static>(
    owner: &OwnerHandle,
    executor: &Arc<Executor<K>>,
    attachment: Attachment,
) -> Result<(), ResyncError> {
    let worker = Arc::clone(executor);
    let gone = attachment.clone();
    tokio::task::spawn_blocking(move || worker.unlink(&gone)).await??;
    Ok(owner.reaped(attachment).await?)
}

fn tell(resync: &Resync) -> Vec<String> {
    let dead = resync.dead.iter().map(|gone| format!("release {}: its sandbox is gone", gone.key));
    let drained = resync.drained.iter().map(|gone| format!("delete the link of {}: it was detached", gone.key));
    let steps = resync.steps.iter().map(|step| format!("{step:?}"));
    dead.chain(drained).chain(steps).collect()
}

#[derive(Debug, Deserialize)]
struct Tombstone {
    network: netd_config::NetworkName,
    container_id: netd_config::ContainerId,
    interface: netd_config::LinkName,
}

/// Carries out the detaches that `netd-cni` was asked for while netd was away. An unreadable tombstone is left for
/// people to see, with a warning.
///
/// # Errors
/// See [`ResyncError`].
pub async fn bury<K: Kernel + 'static>(
    owner: &OwnerHandle,
    executor: &Arc<Executor<K>>,
    directory: &Path,
) -> Result<(), ResyncError> {
    for path in tombstones(directory) {
        match read_tombstone(&path) {
            Ok(key) => {
                if let Some(attachment) = owner.drain(key).await? {
                    info!(key = %attachment.key, "detached by tombstone");
                    reap(owner, executor, attachment).await?;
                }
                if let Err(error) = fs::remove_file(&path) {
                    warn!(path = %path.display(), %error, "cannot remove a tombstone; its detach is done again next time");
                }
            }
            Err(error) => {
                warn!(path = %path.display(), %error, "cannot read a tombstone; remove it when its container is gone")
            }
        }
    }
    Ok(())
}

fn tombstones(directory: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> =
        fs::read_dir(directory).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
    paths.sort();
    paths
}

fn read_tombstone(path: &Path) -> io::Result<AttachmentKey> {
    let tombstone: Tombstone = serde_json::from_slice(&fs::read(path)?)?;
    Ok(AttachmentKey { network: tombstone.network, container: tombstone.container_id, interface: tombstone.interface })
}

#[cfg(test)]
mod tests;
