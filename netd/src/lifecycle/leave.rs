//! How attachments go: by a detach, a tombstone, or the death of their sandbox. The record goes first, then the rules, then the
//! link, then the addresses.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, MutexGuard, PoisonError};

use netd_config::ContainerId;
use netd_kernel::Kernel;
use tracing::info;

use super::{Done, Lifecycle, LifecycleError};
use crate::attachment::{Attachment, AttachmentKey};
use crate::blocking::{blocking, to_its_end};
use crate::reaper;
use crate::tombstones::Tombstone;

impl<K: Kernel + 'static> Lifecycle<K> {
    /// Detaches. With `wait`, the link is gone before the answer, as the specification wants where a namespace lives;
    /// without, its port is shut and its rules are gone (0.3 ms), and the deletion of the link (20 ms) goes on behind the
    /// answer. What an earlier detach could not finish is finished. Nothing to detach is success; says whether there was something.
    ///
    /// # Errors
    /// See [`LifecycleError`].
    pub async fn detach(&self, key: AttachmentKey, wait: bool) -> Done<bool> {
        let this = self.clone();
        to_its_end(async move {
            let turn = this.turns.take(&key).await;
            let container = key.container.clone();
            let all = this.drain(key).await?;
            if all.is_empty() {
                return Ok(false);
            }
            for gone in all {
                this.close(&gone).await?;
                this.fleet.stir();
                info!(key = %gone.key, "detached");
                if wait {
                    this.reap(gone).await?;
                } else {
                    this.reaper.take(gone);
                }
            }
            drop(turn);
            this.detach_left_behind(container).await?;
            Ok(true)
        })
        .await?
    }

    /// Takes what is attached from the record; where nothing is, what an earlier detach of the key has left to do is returned.
    async fn drain(&self, key: AttachmentKey) -> Done<Vec<Attachment>> {
        if let Some(gone) = self.owner.drain(key.clone()).await? {
            return Ok(vec![gone]);
        }
        let unclosed = self.unclosed().get(&key).cloned();
        let mut all = self.owner.draining(key).await?;
        all.extend(unclosed);
        Ok(all)
    }

    /// What no record speaks of and the ruleset still holds.
    #[must_use]
    pub fn left_open(&self) -> Vec<Attachment> {
        self.unclosed().values().cloned().collect()
    }

    /// Whether that is so of what was under this key.
    #[must_use]
    pub fn is_left_open(&self, key: &AttachmentKey) -> bool {
        self.unclosed().contains_key(key)
    }

    fn unclosed(&self) -> MutexGuard<'_, BTreeMap<AttachmentKey, Attachment>> {
        self.unclosed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Extra networks go with the last of the container's others.
    async fn detach_left_behind(&self, container: ContainerId) -> Done<()> {
        for key in self.owner.left_behind(container).await? {
            let _turn = self.turns.take(&key).await;
            let Some(gone) = self.owner.drain(key).await? else { continue };
            self.close(&gone).await?;
            info!(key = %gone.key, "detached, with the container's other networks");
            self.reaper.take(gone);
        }
        Ok(())
    }

    /// The new link needs the interface's name.
    pub(super) async fn clear(&self, gone: &Attachment) -> Done<()> {
        self.close(gone).await?;
        self.unlink(gone).await
    }

    /// The same; `current`: the attachment that has the key now.
    pub(super) async fn clear_beside(&self, gone: &Attachment, current: Option<Attachment>) -> Done<()> {
        self.close_beside(gone, current).await?;
        self.unlink(gone).await
    }

    async fn unlink(&self, gone: &Attachment) -> Done<()> {
        let (executor, unlinked) = (Arc::clone(&self.executor), gone.clone());
        Ok(blocking(move || executor.unlink(std::slice::from_ref(&unlinked))).await??)
    }

    /// Carries out a tombstone, unless an attach of its key has done so; says whether there was something to detach.
    ///
    /// # Errors
    /// See [`LifecycleError`].
    pub async fn carry_out(&self, key: AttachmentKey, tombstone: Tombstone) -> Done<bool> {
        let _turn = self.turns.take(&key).await;
        if !tombstone.stands() {
            return Ok(false);
        }
        let all = self.bury_under(key, &tombstone).await?;
        let was_there = !all.is_empty();
        for gone in all {
            self.reap(gone).await?;
        }
        Ok(was_there)
    }

    pub(super) async fn bury_own(&self, key: &AttachmentKey) -> Done<Vec<Attachment>> {
        match self.tombstones.of(key) {
            Some(tombstone) => self.bury_under(key.clone(), &tombstone).await,
            None => Ok(Vec::new()),
        }
    }

    /// What is returned has no link any more and is still to be reaped. The tombstone goes last: what is cut off in
    /// between is done again.
    async fn bury_under(&self, key: AttachmentKey, tombstone: &Tombstone) -> Done<Vec<Attachment>> {
        let all = self.drain(key).await?;
        for gone in &all {
            self.clear(gone).await?;
        }
        let failed = |source| LifecycleError::Tombstone { path: tombstone.path().to_owned(), source };
        tombstone.remove().map_err(failed)?;
        Ok(all)
    }

    /// Detaches an attachment whose sandbox is gone, unless it has been attached anew since.
    ///
    /// # Errors
    /// See [`LifecycleError`].
    pub async fn bury(&self, dead: Attachment) -> Done<()> {
        let turn = self.turns.take(&dead.key).await;
        let container = dead.key.container.clone();
        if let Some(gone) = self.owner.drain_exactly(dead).await? {
            self.close(&gone).await?;
            self.reap(gone).await?;
        }
        drop(turn);
        self.detach_left_behind(container).await
    }

    /// Detaches what a list was made by, and nothing that has taken its place since; its link goes behind the answer. Says
    /// whether it was still there.
    ///
    /// # Errors
    /// See [`LifecycleError`].
    pub async fn detach_exactly(&self, seen: Attachment) -> Done<bool> {
        let this = self.clone();
        tokio::spawn(async move {
            let turn = this.turns.take(&seen.key).await;
            let container = seen.key.container.clone();
            let Some(gone) = this.owner.drain_exactly(seen).await? else { return Ok(false) };
            this.close(&gone).await?;
            this.fleet.stir();
            info!(key = %gone.key, "detached: no list names it");
            this.reaper.take(gone);
            drop(turn);
            this.detach_left_behind(container).await?;
            Ok(true)
        })
        .await?
    }

    /// What another sandbox has the key of now: no packet passes when this returns, and its link goes behind the answer.
    pub(super) async fn displace(&self, replaced: Option<Box<Attachment>>) -> Done<()> {
        let Some(replaced) = replaced else { return Ok(()) };
        self.close(&replaced).await?;
        self.reaper.take(*replaced);
        Ok(())
    }

    /// Does again what is left to do for a drained attachment, if anything still is.
    ///
    /// # Errors
    /// See [`LifecycleError`].
    pub async fn finish(&self, gone: Attachment) -> Done<()> {
        let _turn = self.turns.take(&gone.key).await;
        if gone.wiring.is_none() {
            return self.close(&gone).await;
        }
        // The reaper may have been there since the look, and its addresses and ports be somebody else's.
        if !self.owner.draining(gone.key.clone()).await?.contains(&gone) {
            return Ok(());
        }
        self.close(&gone).await?;
        self.reap(gone).await
    }

    /// No packet passes any more, and the ports are free. What fails of one that has no link to drain is remembered.
    pub(super) async fn close(&self, gone: &Attachment) -> Done<()> {
        let current = self.owner.one(gone.key.clone()).await?;
        let closed = self.close_beside(gone, current).await;
        if gone.wiring.is_none() {
            let mut unclosed = self.unclosed();
            if closed.is_err() {
                unclosed.insert(gone.key.clone(), gone.clone());
            } else if unclosed.get(&gone.key) == Some(gone) {
                unclosed.remove(&gone.key);
            }
        }
        closed
    }

    /// `current`: the attachment that has the key now.
    async fn close_beside(&self, gone: &Attachment, current: Option<Attachment>) -> Done<()> {
        let is_replaced = current.is_some();
        let ports = if gone.ports.is_empty() { BTreeSet::new() } else { self.owner.not_closed(gone.clone()).await? };
        let (executor, closing) = (Arc::clone(&self.executor), gone.clone());
        blocking(move || executor.close(&closing, current.as_ref(), &ports)).await??;
        if !is_replaced {
            self.policies.forget(gone.key.clone());
        }
        self.fleet.labels_changed();
        if !gone.ports.is_empty() {
            if !is_replaced {
                self.ports.release(&gone.key).await;
            }
            self.owner.closed(gone.clone()).await?;
        }
        Ok(())
    }

    /// Deletes a drained attachment's link, then frees its addresses, and its VLAN's gateway where it was the last.
    pub(super) async fn reap(&self, gone: Attachment) -> Done<()> {
        self.unlink(&gone).await?;
        reaper::forget_flows(&self.owner, &self.executor, &gone).await?;
        self.owner.reaped(gone.clone()).await?;
        Ok(reaper::remove_gateway(&self.owner, &self.executor, &gone).await?)
    }
}
