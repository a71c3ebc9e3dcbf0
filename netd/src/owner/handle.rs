//! The way to the owner: a method a question, one at a time. What is decided is the owner's.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex};

use ipnet::IpNet;
use netd_config::{ContainerId, LinkName};
use netd_kernel::{Family, Publication};

use super::{Judged, Owner, OwnerError, Renewed, Snapshot, Tally};
use crate::attachment::{Attachment, AttachmentKey, Description, Facts};
use crate::journal::Record;
use crate::lease_history::Kept;
use crate::node::{Attached, BlockUse, Extended, Extension, Follower, Share, Wanted};

/// The way to the owner; cheap to clone.
#[derive(Debug, Clone)]
pub struct OwnerHandle(Arc<Mutex<Owner>>);

impl OwnerHandle {
    pub(super) fn new(owner: Owner) -> Self {
        Self(Arc::new(Mutex::new(owner)))
    }

    /// Reserves what the attachment needs.
    ///
    /// # Errors
    /// See [`OwnerError`]; nothing is reserved then.
    pub async fn attach(&self, wanted: Wanted) -> Result<Attached, OwnerError> {
        self.decide(|owner| owner.attach(wanted))
    }

    /// Records that the attachment stands, and what its container is, where somebody has said it.
    ///
    /// # Errors
    /// See [`OwnerError`].
    pub async fn wired(
        &self,
        key: AttachmentKey,
        facts: Facts,
        said: Option<Description>,
    ) -> Result<Attachment, OwnerError> {
        self.decide(|owner| owner.wired(&key, facts, said.as_ref()))
    }

    /// Records that a damaged attachment is made again. `None`: it is gone, or has no link to make.
    ///
    /// # Errors
    /// See [`OwnerError`]; it then stays as it is.
    pub async fn renew(&self, key: AttachmentKey) -> Result<Option<Renewed>, OwnerError> {
        self.decide(|owner| owner.renew(&key))
    }

    /// Records what a later stanza of a chain adds.
    ///
    /// # Errors
    /// See [`OwnerError`]; nothing is recorded then.
    pub async fn extend(&self, follower: Follower, extension: Extension) -> Result<Extended, OwnerError> {
        self.decide(|owner| owner.extend(follower, &extension))
    }

    /// Records the attachment as it is given here, whatever it was before; but what was said of its container meanwhile
    /// holds.
    ///
    /// # Errors
    /// See [`OwnerError`].
    pub async fn put(&self, attachment: Attachment) -> Result<(), OwnerError> {
        self.decide(|owner| owner.put(attachment))
    }

    /// One attachment, if it stands.
    ///
    /// # Errors
    /// [`OwnerError::Stopping`].
    pub async fn one(&self, key: AttachmentKey) -> Result<Option<Attachment>, OwnerError> {
        self.decide(|owner| Ok(owner.node.attachment(&key).cloned()))
    }

    /// All attachments of a container.
    ///
    /// # Errors
    /// [`OwnerError::Stopping`].
    pub async fn of(&self, container: String) -> Result<Vec<Attachment>, OwnerError> {
        self.decide(|owner| Ok(owner.of(&container)))
    }

    /// The attachment whose host end has this name, if it stands.
    ///
    /// # Errors
    /// [`OwnerError::Stopping`].
    pub async fn at_link(&self, link: String) -> Result<Option<Attachment>, OwnerError> {
        self.decide(|owner| Ok(owner.node.at_link(&link).cloned()))
    }

    /// Whether an attachment is a port of this bridge.
    ///
    /// # Errors
    /// [`OwnerError::Stopping`].
    pub async fn uses_bridge(&self, bridge: String) -> Result<bool, OwnerError> {
        self.decide(|owner| Ok(owner.node.uses_bridge(&bridge)))
    }

    /// See [`Node::uses_gateway`].
    ///
    /// # Errors
    /// [`OwnerError::Stopping`].
    pub async fn uses_gateway(&self, link: LinkName) -> Result<bool, OwnerError> {
        self.decide(|owner| Ok(owner.node.uses_gateway(&link)))
    }

    /// See [`Node::left_behind`].
    ///
    /// # Errors
    /// [`OwnerError::Stopping`].
    pub async fn left_behind(&self, container: ContainerId) -> Result<Vec<AttachmentKey>, OwnerError> {
        self.decide(|owner| Ok(owner.node.left_behind(&container)))
    }

    /// The ruleset knows nothing of a drained attachment any more: its ports are free.
    ///
    /// # Errors
    /// [`OwnerError::Stopping`].
    pub async fn closed(&self, attachment: Attachment) -> Result<(), OwnerError> {
        self.decide(|owner| {
            owner.node.closed(&attachment);
            Ok(())
        })
    }

    /// Records that netd switches a family's forwarding on.
    ///
    /// # Errors
    /// See [`OwnerError`].
    pub async fn guard(&self, family: Family) -> Result<(), OwnerError> {
        self.decide(|owner| owner.record(Record::Guard(family)))
    }

    /// What was under this key and has a link that is still to be deleted.
    ///
    /// # Errors
    /// [`OwnerError::Stopping`].
    pub async fn draining(&self, key: AttachmentKey) -> Result<Vec<Attachment>, OwnerError> {
        self.decide(|owner| Ok(owner.node.draining_of(&key)))
    }

    /// The ports of a drained attachment that are not free for others yet.
    ///
    /// # Errors
    /// [`OwnerError::Stopping`].
    pub async fn not_closed(&self, gone: Attachment) -> Result<BTreeSet<Publication>, OwnerError> {
        self.decide(|owner| Ok(owner.node.not_closed(&gone)))
    }

    /// Takes the attachment away; what is returned has a link to close and to delete. `None`: there is no such one.
    ///
    /// # Errors
    /// See [`OwnerError`].
    pub async fn drain(&self, key: AttachmentKey) -> Result<Option<Attachment>, OwnerError> {
        self.decide(|owner| owner.drain(&key))
    }

    /// As [`OwnerHandle::drain`], but only if the attachment still has this very link, not one made since.
    ///
    /// # Errors
    /// See [`OwnerError`].
    pub async fn drain_exactly(&self, attachment: Attachment) -> Result<Option<Attachment>, OwnerError> {
        self.decide(|owner| owner.drain_exactly(&attachment))
    }

    /// Records that a drained attachment's link is gone; its addresses are free now.
    ///
    /// # Errors
    /// See [`OwnerError`].
    pub async fn reaped(&self, attachment: Attachment) -> Result<(), OwnerError> {
        self.decide(|owner| owner.reaped(&attachment))
    }

    /// Gives all attachments of a container what it is, and returns them as they are now.
    ///
    /// # Errors
    /// See [`OwnerError`].
    pub async fn describe(&self, container: String, description: Description) -> Result<Judged, OwnerError> {
        self.decide(|owner| owner.describe(&container, &description))
    }

    /// From now on containers without their labels pass no packet, or pass them; those that are there too. Until this is
    /// said, those that the journal has in quarantine stay there, and no others come.
    ///
    /// # Errors
    /// See [`OwnerError`]; some are then judged and others not, and it has to be said again.
    pub async fn quarantine(&self, holds: bool) -> Result<Judged, OwnerError> {
        self.decide(|owner| owner.quarantine(holds))
    }

    /// Who holds, and who held last, which addresses; `None` where nothing was recorded since the answer that came with
    /// `known`.
    ///
    /// # Errors
    /// [`OwnerError::Stopping`].
    pub async fn kept(&self, known: Option<u64>) -> Result<(u64, Option<Kept>), OwnerError> {
        self.decide(|owner| Ok(owner.kept(known)))
    }

    /// A copy of everything.
    ///
    /// # Errors
    /// [`OwnerError::Stopping`].
    pub async fn snapshot(&self) -> Result<Snapshot, OwnerError> {
        self.decide(|owner| Ok(owner.snapshot()))
    }

    /// What this node may give addresses from, from now on.
    ///
    /// # Errors
    /// See [`OwnerError`].
    pub async fn share(&self, share: Share) -> Result<(), OwnerError> {
        self.decide(|owner| owner.share(share))
    }

    /// How much of each block of this node is used.
    ///
    /// # Errors
    /// [`OwnerError::Stopping`].
    pub async fn usage(&self) -> Result<Vec<BlockUse>, OwnerError> {
        self.decide(|owner| Ok(owner.node.usage()))
    }

    /// Gives nothing out of a block any more, if nobody holds an address of it; says whether that is so.
    ///
    /// # Errors
    /// See [`OwnerError`].
    pub async fn retire(&self, block: IpNet) -> Result<bool, OwnerError> {
        self.decide(|owner| owner.retire(block))
    }

    /// A block that was retired may be any network's.
    ///
    /// # Errors
    /// [`OwnerError::Stopping`].
    pub async fn unretire(&self, block: IpNet) -> Result<(), OwnerError> {
        self.decide(|owner| {
            owner.node.unretire(block);
            Ok(())
        })
    }

    /// Gives nothing out of a block any more but this half, if nobody holds an address of the other; says whether that is so.
    ///
    /// # Errors
    /// [`OwnerError::Stopping`].
    pub async fn narrow(&self, block: IpNet, keep: IpNet) -> Result<bool, OwnerError> {
        self.decide(|owner| Ok(owner.node.narrow(block, keep)))
    }

    /// Other nodes may take these addresses for these containers', from now on and until this is said again: nobody else gets
    /// them. What is returned another container holds or drains already: nobody may be told that it is theirs.
    ///
    /// # Errors
    /// [`OwnerError::Stopping`].
    pub async fn spoken_for(&self, addresses: BTreeMap<IpAddr, ContainerId>) -> Result<BTreeSet<IpAddr>, OwnerError> {
        self.decide(|owner| Ok(owner.node.spoken_for(addresses)))
    }

    /// What there is, in numbers.
    ///
    /// # Errors
    /// [`OwnerError::Stopping`].
    pub async fn tally(&self) -> Result<Tally, OwnerError> {
        self.decide(|owner| Ok(owner.tally()))
    }

    fn decide<T>(&self, decide: impl FnOnce(&mut Owner) -> Result<T, OwnerError>) -> Result<T, OwnerError> {
        // One that died may have left half of a decision.
        let mut owner = self.0.lock().map_err(|_| OwnerError::Stopping)?;
        let decided = decide(&mut owner);
        owner.compact();
        decided
    }
}
