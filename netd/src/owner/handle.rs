//! The way to the owner: a method a request. What is decided is the owner's.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use netd_config::{ContainerId, LinkName};
use netd_kernel::{Family, Publication};
use tokio::sync::{mpsc, oneshot};

use super::{Answer, Judged, OwnerError, Renewed, Request, Snapshot, Tally};
use crate::attachment::{Attachment, AttachmentKey, Description, Facts};
use crate::lasting::Kept;
use crate::node::{Attached, BlockUse, Extended, Extension, Follower, Share, Wanted};

/// The way to the owner; cheap to clone.
#[derive(Debug, Clone)]
pub struct OwnerHandle {
    pub(super) requests: mpsc::Sender<Request>,
}
impl OwnerHandle {
    /// Reserves what the attachment needs.
    ///
    /// # Errors
    /// See [`OwnerError`]; nothing is reserved then.
    pub async fn attach(&self, wanted: Wanted) -> Result<Attached, OwnerError> {
        self.ask(|answer| Request::Attach(Box::new(wanted), answer)).await
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
        self.ask(|answer| Request::Wired(key, facts, said.map(Box::new), answer)).await
    }

    /// Records that a damaged attachment is made again. `None`: it is gone, or has no link to make.
    ///
    /// # Errors
    /// See [`OwnerError`]; it then stays as it is.
    pub async fn renew(&self, key: AttachmentKey) -> Result<Option<Renewed>, OwnerError> {
        self.ask(|answer| Request::Renew(key, answer)).await
    }

    /// Records what a later stanza of a chain adds.
    ///
    /// # Errors
    /// See [`OwnerError`]; nothing is recorded then.
    pub async fn extend(&self, follower: Follower, extension: Extension) -> Result<Extended, OwnerError> {
        self.ask(|answer| Request::Extend(Box::new(follower), Box::new(extension), answer)).await
    }

    /// Records the attachment as it is given here, whatever it was before; but what was said of its container meanwhile
    /// holds.
    ///
    /// # Errors
    /// See [`OwnerError`].
    pub async fn put(&self, attachment: Attachment) -> Result<(), OwnerError> {
        self.ask(|answer| Request::Put(Box::new(attachment), answer)).await
    }

    /// One attachment, if it stands.
    ///
    /// # Errors
    /// [`OwnerError::Stopping`].
    pub async fn one(&self, key: AttachmentKey) -> Result<Option<Attachment>, OwnerError> {
        self.ask(|answer| Request::One(key, answer)).await
    }

    /// All attachments of a container.
    ///
    /// # Errors
    /// [`OwnerError::Stopping`].
    pub async fn of(&self, container: String) -> Result<Vec<Attachment>, OwnerError> {
        self.ask(|answer| Request::Of(container, answer)).await
    }

    /// The attachment whose host end has this name, if it stands.
    ///
    /// # Errors
    /// [`OwnerError::Stopping`].
    pub async fn at_link(&self, link: String) -> Result<Option<Attachment>, OwnerError> {
        self.ask(|answer| Request::AtLink(link, answer)).await
    }

    /// Whether an attachment is a port of this bridge.
    ///
    /// # Errors
    /// [`OwnerError::Stopping`].
    pub async fn uses_bridge(&self, bridge: String) -> Result<bool, OwnerError> {
        self.ask(|answer| Request::UsesBridge(bridge, answer)).await
    }

    /// See [`Node::uses_gateway`].
    ///
    /// # Errors
    /// [`OwnerError::Stopping`].
    pub async fn uses_gateway(&self, link: LinkName) -> Result<bool, OwnerError> {
        self.ask(|answer| Request::UsesGateway(link, answer)).await
    }

    /// See [`Node::left_behind`].
    ///
    /// # Errors
    /// [`OwnerError::Stopping`].
    pub async fn left_behind(&self, container: ContainerId) -> Result<Vec<AttachmentKey>, OwnerError> {
        self.ask(|answer| Request::LeftBehind(container, answer)).await
    }

    /// The ruleset knows nothing of a drained attachment any more: its ports are free.
    ///
    /// # Errors
    /// [`OwnerError::Stopping`].
    pub async fn closed(&self, attachment: Attachment) -> Result<(), OwnerError> {
        self.ask(|answer| Request::Closed(Box::new(attachment), answer)).await
    }

    /// Records that netd switches a family's forwarding on.
    ///
    /// # Errors
    /// See [`OwnerError`].
    pub async fn guard(&self, family: Family) -> Result<(), OwnerError> {
        self.ask(|answer| Request::Guard(family, answer)).await
    }

    /// What was under this key and has a link that is still to be deleted.
    ///
    /// # Errors
    /// [`OwnerError::Stopping`].
    pub async fn draining(&self, key: AttachmentKey) -> Result<Vec<Attachment>, OwnerError> {
        self.ask(|answer| Request::Draining(key, answer)).await
    }

    /// The ports of a drained attachment that are not free for others yet.
    ///
    /// # Errors
    /// [`OwnerError::Stopping`].
    pub async fn not_closed(&self, gone: Attachment) -> Result<BTreeSet<Publication>, OwnerError> {
        self.ask(|answer| Request::NotClosed(Box::new(gone), answer)).await
    }

    /// Takes the attachment away; what is returned has a link to close and to delete. `None`: there is no such one.
    ///
    /// # Errors
    /// See [`OwnerError`].
    pub async fn drain(&self, key: AttachmentKey) -> Result<Option<Attachment>, OwnerError> {
        self.ask(|answer| Request::Drain(key, answer)).await
    }

    /// As [`OwnerHandle::drain`], but only if the attachment still has this very link, not one made since.
    ///
    /// # Errors
    /// See [`OwnerError`].
    pub async fn drain_exactly(&self, attachment: Attachment) -> Result<Option<Attachment>, OwnerError> {
        self.ask(|answer| Request::DrainExactly(Box::new(attachment), answer)).await
    }

    /// Records that a drained attachment's link is gone; its addresses are free now.
    ///
    /// # Errors
    /// See [`OwnerError`].
    pub async fn reaped(&self, attachment: Attachment) -> Result<(), OwnerError> {
        self.ask(|answer| Request::Reaped(Box::new(attachment), answer)).await
    }

    /// Gives all attachments of a container what it is, and returns them as they are now.
    ///
    /// # Errors
    /// See [`OwnerError`].
    pub async fn describe(&self, container: String, description: Description) -> Result<Judged, OwnerError> {
        self.ask(|answer| Request::Describe(container, Box::new(description), answer)).await
    }

    /// From now on containers without their labels pass no packet, or pass them; those that are there too. Until this is
    /// said, those that the journal has in quarantine stay there, and no others come.
    ///
    /// # Errors
    /// See [`OwnerError`]; some are then judged and others not, and it has to be said again.
    pub async fn quarantine(&self, holds: bool) -> Result<Judged, OwnerError> {
        self.ask(|answer| Request::Quarantine(holds, answer)).await
    }

    /// Who holds, and who held last, which addresses; `None` where nothing was recorded since the answer that came with
    /// `known`.
    ///
    /// # Errors
    /// [`OwnerError::Stopping`].
    pub async fn kept(&self, known: Option<u64>) -> Result<(u64, Option<Kept>), OwnerError> {
        self.ask(|answer| Request::Kept(known, answer)).await
    }

    /// A copy of everything.
    ///
    /// # Errors
    /// [`OwnerError::Stopping`].
    pub async fn snapshot(&self) -> Result<Snapshot, OwnerError> {
        self.ask(Request::Snapshot).await
    }

    /// What this node may give addresses from, from now on.
    ///
    /// # Errors
    /// See [`OwnerError`].
    pub async fn share(&self, share: Share) -> Result<(), OwnerError> {
        self.ask(|answer| Request::Share(Box::new(share), answer)).await
    }

    /// How much of each block of this node is used.
    ///
    /// # Errors
    /// [`OwnerError::Stopping`].
    pub async fn usage(&self) -> Result<Vec<BlockUse>, OwnerError> {
        self.ask(Request::Usage).await
    }

    /// Gives nothing out of a block any more, if nobody holds an address of it; says whether that is so.
    ///
    /// # Errors
    /// See [`OwnerError`].
    pub async fn retire(&self, block: IpNet) -> Result<bool, OwnerError> {
        self.ask(|answer| Request::Retire(block, answer)).await
    }

    /// A block that was retired may be any network's.
    ///
    /// # Errors
    /// [`OwnerError::Stopping`].
    pub async fn unretire(&self, block: IpNet) -> Result<(), OwnerError> {
        self.ask(|answer| Request::Unretire(block, answer)).await
    }

    /// Other nodes may take these addresses for these containers', from now on and until this is said again: nobody else gets
    /// them. What is returned another container holds or drains already: nobody may be told that it is theirs.
    ///
    /// # Errors
    /// [`OwnerError::Stopping`].
    pub async fn spoken_for(&self, addresses: BTreeMap<IpAddr, ContainerId>) -> Result<BTreeSet<IpAddr>, OwnerError> {
        self.ask(|answer| Request::SpokenFor(addresses, answer)).await
    }

    /// What there is, in numbers.
    ///
    /// # Errors
    /// [`OwnerError::Stopping`].
    pub async fn tally(&self) -> Result<Tally, OwnerError> {
        self.ask(Request::Tally).await
    }

    async fn ask<T>(&self, request: impl FnOnce(Answer<T>) -> Request) -> Result<T, OwnerError> {
        let (answer, answered) = oneshot::channel();
        self.requests.send(request(answer)).await.map_err(|_| OwnerError::Stopping)?;
        answered.await.map_err(|_| OwnerError::Stopping)?
    }
}
