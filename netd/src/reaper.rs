//! Deletes the links of drained attachments behind their answers, some at a time, then frees their addresses.
//!
//! A deletion takes the kernel's lock on links for some milliseconds, one link or many: whoever attaches meanwhile waits. Many
//! links are gone by then, with their sandboxes. What cannot be deleted stays drained, and resync tries again.

use std::sync::Arc;
use std::time::Duration;

use netd_kernel::Kernel;
use thiserror::Error;
use tokio::sync::{Mutex, OwnedMutexGuard, mpsc};
use tokio::task::JoinError;
use tracing::warn;

use crate::attachment::{Attachment, GatewayOf};
use crate::blocking::blocking;
use crate::executor::{Executor, ExecutorError};
use crate::owner::{OwnerError, OwnerHandle};

/// How long the first of a batch waits for others.
const WINDOW: Duration = Duration::from_millis(50);
/// Links of one batch: the more, the longer an attach waits at the worst.
const BATCH: usize = 16;

/// Where drained attachments go.
#[derive(Debug, Clone)]
pub struct Reaper {
    inbox: mpsc::UnboundedSender<Attachment>,
    /// Held while connections are forgotten, from the look at who has their addresses on.
    forgetting: Arc<Mutex<()>>,
}

impl Reaper {
    /// Starts one; it ends when nobody can send to it any more.
    #[must_use]
    pub fn start<K: Kernel + 'static>(owner: OwnerHandle, executor: Arc<Executor<K>>) -> Self {
        let (inbox, received) = mpsc::unbounded_channel();
        let forgetting = Arc::default();
        tokio::spawn(Worker { owner, executor, forgetting: Arc::clone(&forgetting) }.run(received));
        Self { inbox, forgetting }
    }

    /// While this is held, nobody's connections are forgotten behind an answer.
    pub(crate) async fn rest(&self) -> OwnedMutexGuard<()> {
        Arc::clone(&self.forgetting).lock_owned().await
    }

    /// Takes an attachment whose port is shut and whose rules are gone.
    pub fn take(&self, gone: Attachment) {
        // It ends only after the last sender.
        drop(self.inbox.send(gone));
    }
}

struct Worker<K> {
    owner: OwnerHandle,
    executor: Arc<Executor<K>>,
    forgetting: Arc<Mutex<()>>,
}

impl<K: Kernel + 'static> Worker<K> {
    async fn run(self, mut inbox: mpsc::UnboundedReceiver<Attachment>) {
        while let Some(first) = inbox.recv().await {
            let mut batch = vec![first];
            tokio::time::sleep(WINDOW).await;
            while batch.len() < BATCH
                && let Ok(next) = inbox.try_recv()
            {
                batch.push(next);
            }
            // The others are not kept waiting for one that cannot be deleted.
            let are_gone = self.delete(batch.clone()).await.is_ok();
            for gone in batch {
                if let Err(error) = self.reap(&gone, are_gone).await {
                    let error = &error as &dyn std::error::Error;
                    warn!(key = %gone.key, error, "not wholly taken away; resync tries again");
                }
            }
        }
    }

    async fn delete(&self, links: Vec<Attachment>) -> Result<(), ReaperError> {
        let worker = Arc::clone(&self.executor);
        Ok(blocking(move || worker.unlink(&links)).await??)
    }

    async fn reap(&self, gone: &Attachment, is_gone: bool) -> Result<(), ReaperError> {
        if !is_gone {
            self.delete(vec![gone.clone()]).await?;
        }
        let alone = self.forgetting.lock().await;
        forget_flows(&self.owner, &self.executor, gone).await?;
        drop(alone);
        self.owner.reaped(gone.clone()).await?;
        remove_gateway(&self.owner, &self.executor, gone).await
    }
}

/// Why something was not done behind an answer.
#[derive(Debug, Error)]
pub(crate) enum ReaperError {
    #[error(transparent)]
    Owner(#[from] OwnerError),
    #[error(transparent)]
    Executor(#[from] ExecutorError),
    #[error("the worker that deletes links died")]
    Cut(#[from] JoinError),
}

/// Drops what the node remembers of a gone attachment's addresses, but of those that its container has again: whoever attached
/// it anew has done that.
pub(crate) async fn forget_flows<K: Kernel + 'static>(
    owner: &OwnerHandle,
    executor: &Arc<Executor<K>>,
    gone: &Attachment,
) -> Result<(), ReaperError> {
    if !owner.draining(gone.key.clone()).await?.contains(gone) {
        // Somebody else was faster, and others may have its addresses.
        return Ok(());
    }
    let now = owner.one(gone.key.clone()).await?.map(|now| now.leases).unwrap_or_default();
    let (worker, gone) = (Arc::clone(executor), gone.clone());
    Ok(blocking(move || worker.forget_flows(&gone, &now)).await??)
}

/// The link of a VLAN's gateway goes with the VLAN's last attachment. The owner is asked while nobody waits for anything of the
/// executor's: twice, since whoever is recorded after the first answer may have found the link standing.
pub(crate) async fn remove_gateway<K: Kernel + 'static>(
    owner: &OwnerHandle,
    executor: &Arc<Executor<K>>,
    gone: &Attachment,
) -> Result<(), ReaperError> {
    let gateway = gone.wiring.as_ref().and_then(|wiring| wiring.gateway_link.clone());
    let Some(GatewayOf { link, .. }) = gateway else { return Ok(()) };
    // Who cannot be asked may use it.
    let is_used = async || owner.uses_gateway(link.clone()).await.unwrap_or(true);
    if is_used().await {
        return Ok(());
    }
    let _alone = executor.removing_gateway().await;
    let (worker, doubted) = (Arc::clone(executor), link.clone());
    blocking(move || worker.doubt_gateway(&doubted)).await??;
    if is_used().await {
        return Ok(());
    }
    let worker = Arc::clone(executor);
    Ok(blocking(move || worker.remove_gateway(&link)).await??)
}
