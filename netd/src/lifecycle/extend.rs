//! What later stanzas of a chain add to an attachment, and how that is taken back.

use std::sync::Arc;

use netd_kernel::{Kernel, Sandbox};
use tracing::info;

use super::{Done, Lifecycle, LifecycleError};
use crate::attachment::{Attachment, Facts};
use crate::blocking::{blocking, to_its_end};
use crate::node::{Extended, Extension, Follower};

impl<K: Kernel + 'static> Lifecycle<K> {
    /// Adds what a later stanza of a chain asks for.
    ///
    /// # Errors
    /// See [`LifecycleError`]; the attachment is then as it was.
    pub async fn extend(&self, follower: Follower, extension: Extension, sandbox: Sandbox) -> Done<Attachment> {
        let this = self.clone();
        to_its_end(async move {
            let _turn = this.turns.take(&follower.key).await;
            this.bury_own(&follower.key).await?.into_iter().for_each(|gone| this.reaper.take(gone));
            match this.owner.extend(follower, extension).await? {
                Extended::Already(attachment) => Ok(*attachment),
                Extended::Changed { before, after, replaces } => {
                    if let Err(error) = this.displace(replaces).await {
                        this.go_back(*before, *after).await?;
                        return Err(error);
                    }
                    this.change(*before, *after, sandbox).await
                }
            }
        })
        .await?
    }

    async fn change(&self, before: Attachment, after: Attachment, sandbox: Sandbox) -> Done<Attachment> {
        match self.change_to(&before, after.clone(), sandbox).await {
            Ok(after) => {
                if before.ports != after.ports {
                    // Those that it has no more may be another's.
                    self.owner.closed(before).await?;
                }
                self.fleet.labels_changed();
                info!(key = %after.key, "extended");
                Ok(after)
            }
            Err(error) => {
                self.go_back(before, after).await?;
                Err(error)
            }
        }
    }

    async fn change_to(&self, before: &Attachment, mut after: Attachment, sandbox: Sandbox) -> Done<Attachment> {
        self.ports.hold(&after).await?;
        if before.wiring != after.wiring {
            // Its link is set again, to what the record says of its quarantine.
            self.admit(&after).await?;
        }
        let facts = self.extend_in_kernel(before.clone(), after.clone(), sandbox).await?;
        if facts != after.facts && after.wiring.is_some() {
            after = self.owner.wired(after.key, facts, None).await?;
        }
        self.admit(&after).await?;
        Ok(after)
    }

    async fn extend_in_kernel(&self, before: Attachment, after: Attachment, sandbox: Sandbox) -> Done<Facts> {
        let (executor, key) = (Arc::clone(&self.executor), Box::new(after.key.clone()));
        let made = blocking(move || executor.extend(&before, &after, &sandbox)).await?;
        made.map_err(|source| LifecycleError::Kernel { key, source })
    }

    /// An extension failed. The rules it made go; what it did inside the sandbox stays, and ends with the sandbox.
    async fn go_back(&self, mut before: Attachment, after: Attachment) -> Done<()> {
        let is_new = before.wiring.is_none() && before.leases.is_empty() && before.ports.is_empty();
        let (executor, old, new) = (Arc::clone(&self.executor), before.clone(), after.clone());
        blocking(move || executor.restore(&old, &new)).await??;
        if is_new {
            drop(self.owner.drain(after.key.clone()).await?);
            self.ports.release(&after.key).await;
        } else {
            before.facts = self.owner.one(after.key.clone()).await?.map_or(before.facts, |now| now.facts);
            self.owner.put(before.clone()).await?;
            self.ports.hold(&before).await?;
        }
        self.owner.closed(after).await?;
        Ok(())
    }
}
