//! Who may pass packets: a link follows what is known of its container, and goes up by an admission only.

use std::sync::Arc;

use netd_kernel::Kernel;
use tracing::{info, warn};

use super::{Done, Lifecycle};
use crate::attachment::{Attachment, AttachmentKey, Description};
use crate::blocking::blocking;
use crate::owner::OwnerError;
use crate::turns::Turn;

impl<K: Kernel + 'static> Lifecycle<K> {
    /// Gives all attachments of a container what it is, and returns them as they are now. Its quarantine ends with that.
    ///
    /// # Errors
    /// [`OwnerError`]. A link that does not follow is the next resync's.
    pub async fn describe(&self, container: String, description: Description) -> Result<Vec<Attachment>, OwnerError> {
        let this = self.clone();
        let described = tokio::spawn(async move {
            let judged = this.owner.describe(container, description).await?;
            this.fleet.labels_changed();
            for attachment in &judged.attachments {
                let turn = this.turns.take(&attachment.key).await;
                // Whoever puts the first policy in force may have counted it before, as somebody else; he is done by now.
                if this.policies.is_any_in_force() || judged.changed.contains(&attachment.key) {
                    this.follow_in(&turn, attachment.key.clone()).await;
                }
            }
            Ok(judged.attachments)
        });
        described.await.unwrap_or(Err(OwnerError::Stopping))
    }

    /// From now on containers without their labels are held back, or are not; those that are there too.
    ///
    /// # Errors
    /// [`OwnerError`]. A link that does not follow is the next resync's.
    pub async fn quarantine(&self, holds: bool) -> Result<(), OwnerError> {
        let judged = self.owner.quarantine(holds).await?;
        self.let_pass(judged.changed).await;
        Ok(())
    }

    /// The links of these follow their quarantine. What is being wired follows when it is its turn; each by what is recorded
    /// then, and once policies know it.
    pub async fn let_pass(&self, keys: Vec<AttachmentKey>) {
        for key in keys {
            let turn = self.turns.take(&key).await;
            self.follow_in(&turn, key).await;
        }
    }

    async fn follow_in(&self, _: &Turn, key: AttachmentKey) {
        let Ok(Some(attachment)) = self.owner.one(key).await else { return };
        // One that policies do not know stays held back.
        let followed = match self.admit(&attachment).await {
            Ok(()) => self.set_port(&attachment).await,
            Err(error) => Err(error),
        };
        if let Err(error) = followed {
            let error = &error as &dyn std::error::Error;
            warn!(key = %attachment.key, error, "its link does not follow its quarantine; the next resync sees to it");
        }
    }

    pub(super) async fn set_port(&self, attachment: &Attachment) -> Done<()> {
        let (executor, wanted) = (Arc::clone(&self.executor), attachment.clone());
        blocking(move || executor.set_port(&wanted)).await??;
        if attachment.quarantined {
            info!(key = %attachment.key, "in quarantine: passes no packet until its labels are known");
        } else {
            info!(key = %attachment.key, "out of quarantine");
        }
        Ok(())
    }
}
