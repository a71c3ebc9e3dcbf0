//! Deletes the links of drained attachments behind their answers, some at a time, then frees their addresses.
//!
//! A deletion takes the kernel's lock on links for some milliseconds, one link or many: whoever attaches meanwhile waits. Many
//! links are gone by then, with their sandboxes. What cannot be deleted stays drained, and resync tries again.

use std::sync::Arc;
use std::time::Duration;

use netd_kernel::Kernel;
use thiserror::Error;
use tokio::sync::mpsc;
use tokio::task::JoinError;
use tracing::warn;

use crate::attachment::{Attachment, GatewayOf};
use crate::executor::{Executor, ExecutorError};
use crate::owner::OwnerHandle;

/// How long the first of a batch waits for others.
const WINDOW: Duration = Duration::from_millis(50);
/// Links of one batch: the more, the longer an attach waits at the worst.
const BATCH: usize = 16;

/// Where drained attachments go.
#[derive(Debug, Clone)]
pub struct Reaper(mpsc::UnboundedSender<Attachment>);

impl Reaper {
    /// Starts one; it ends when nobody can send to it any more.
    #[must_use]
    pub fn start<K: Kernel + 'static>(owner: OwnerHandle, executor: Arc<Executor<K>>) -> Self {
        let (sender, inbox) = mpsc::unbounded_channel();
        tokio::spawn(run(inbox, owner, executor));
        Self(sender)
    }

    /// Takes an attachment whose port is shut and whose rules are gone.
    pub fn take(&self, gone: Attachment) {
        // It ends only after the last sender.
        drop(self.0.send(gone));
    }
}

async fn run<K: Kernel + 'static>(
    mut inbox: mpsc::UnboundedReceiver<Attachment>,
    owner: OwnerHandle,
    executor: Arc<Executor<K>>,
) {
    while let Some(first) = inbox.recv().await {
        let mut batch = vec![first];
        tokio::time::sleep(WINDOW).await;
        while batch.len() < BATCH
            && let Ok(next) = inbox.try_recv()
        {
            batch.push(next);
        }
        match delete(&executor, &batch).await {
            Ok(()) => free_all(&owner, &executor, batch).await,
            // The others are not kept waiting for the one.
            Err(_) if batch.len() > 1 => {
                for gone in batch {
                    match delete(&executor, std::slice::from_ref(&gone)).await {
                        Ok(()) => free_all(&owner, &executor, vec![gone]).await,
                        Err(error) => not_deleted(&gone, &error),
                    }
                }
            }
            Err(error) => batch.iter().for_each(|gone| not_deleted(gone, &error)),
        }
    }
}

/// Why something was not done behind an answer.
#[derive(Debug, Error)]
pub(crate) enum ReaperError {
    #[error(transparent)]
    Executor(#[from] ExecutorError),
    #[error("the worker that deletes links died")]
    Cut(#[from] JoinError),
}

fn not_deleted(gone: &Attachment, error: &ReaperError) {
    let error = error as &dyn std::error::Error;
    warn!(key = %gone.key, error, "cannot delete its link; resync tries again");
}

async fn delete<K: Kernel + 'static>(executor: &Arc<Executor<K>>, links: &[Attachment]) -> Result<(), ReaperError> {
    let (worker, links) = (Arc::clone(executor), links.to_vec());
    let done = tokio::task::spawn_blocking(move || {
        worker.unlink(&links)?;
        links.iter().try_for_each(|gone| worker.forget(gone))
    });
    Ok(done.await??)
}

async fn free_all<K: Kernel + 'static>(owner: &OwnerHandle, executor: &Arc<Executor<K>>, batch: Vec<Attachment>) {
    for gone in batch {
        if let Err(error) = owner.reaped(gone.clone()).await {
            warn!(%error, "cannot record that a link is gone; resync tries again");
        }
        if let Err(error) = retire(owner, executor, &gone).await {
            let error = &error as &dyn std::error::Error;
            warn!(error, "cannot take the link of a VLAN's gateway away; resync tries again");
        }
    }
}

/// The link of a VLAN's gateway goes with the VLAN's last attachment. The owner is asked while nobody waits for anything of the
/// executor's: twice, since whoever is recorded after the first answer may have found the link standing.
pub(crate) async fn retire<K: Kernel + 'static>(
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
    let _alone = executor.retiring().await;
    let (worker, doubted) = (Arc::clone(executor), link.clone());
    tokio::task::spawn_blocking(move || worker.doubt(&doubted)).await??;
    if is_used().await {
        return Ok(());
    }
    let worker = Arc::clone(executor);
    Ok(tokio::task::spawn_blocking(move || worker.retire(&link)).await??)
}
