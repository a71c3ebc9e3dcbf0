//! Deletes the links of drained attachments behind their answers, some at a time, then frees their addresses.
//!
//! A deletion takes the kernel's lock on links for some milliseconds, one link or many: whoever attaches meanwhile waits. Many
//! links are gone by then, with their sandboxes. What cannot be deleted stays drained, and resync tries again.

use std::sync::Arc;
use std::time::Duration;

use netd_kernel::Kernel;
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
        let (worker, links) = (Arc::clone(&executor), batch.clone());
        match tokio::task::spawn_blocking(move || delete(&worker, &links)).await {
            Ok(Ok(())) => free(&owner, &executor, batch).await,
            Ok(Err(error)) => warn!(%error, links = batch.len(), "cannot delete links; resync tries again"),
            Err(error) => warn!(%error, "the worker that deletes links died; resync tries again"),
        }
    }
}

fn delete<K: Kernel>(executor: &Executor<K>, links: &[Attachment]) -> Result<(), ExecutorError> {
    executor.unlink(links)?;
    links.iter().try_for_each(|gone| executor.forget(gone))
}

async fn free<K: Kernel + 'static>(owner: &OwnerHandle, executor: &Arc<Executor<K>>, batch: Vec<Attachment>) {
    for gone in batch {
        if let Err(error) = owner.reaped(gone.clone()).await {
            warn!(%error, "cannot record that a link is gone; resync tries again");
        }
        match retire(owner, executor, &gone).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => warn!(%error, "cannot take the link of a VLAN's gateway away; resync tries again"),
            Err(error) => warn!(%error, "the worker that deletes links died; resync tries again"),
        }
    }
}

/// The link of a VLAN's gateway goes with the VLAN's last attachment. The owner is asked while nobody waits for anything of the
/// executor's: twice, since whoever is recorded after the first answer may have found the link standing.
pub(crate) async fn retire<K: Kernel + 'static>(
    owner: &OwnerHandle,
    executor: &Arc<Executor<K>>,
    gone: &Attachment,
) -> Result<Result<(), ExecutorError>, JoinError> {
    let gateway = gone.wiring.as_ref().and_then(|wiring| wiring.gateway_link.clone());
    let Some(GatewayOf { link, .. }) = gateway else { return Ok(Ok(())) };
    // Who cannot be asked may use it.
    let is_used = async || owner.uses_gateway(link.clone()).await.unwrap_or(true);
    if is_used().await {
        return Ok(Ok(()));
    }
    let _alone = executor.retiring().await;
    let (worker, doubted) = (Arc::clone(executor), link.clone());
    let done = tokio::task::spawn_blocking(move || worker.doubt(&doubted)).await?;
    if done.is_err() || is_used().await {
        return Ok(done);
    }
    let worker = Arc::clone(executor);
    tokio::task::spawn_blocking(move || worker.retire(&link)).await
}
