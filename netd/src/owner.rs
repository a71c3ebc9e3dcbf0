//! The one owner of [`Node`]: what it is asked is decided one after another, and is in the journal before it is answered.
//! It never waits for the kernel, so whoever asks waits for microseconds: nobody else has to be woken for it.
//!
//! ```text
//! server, resync ──▶ handle: one at a time ──▶ owner ──append──▶ journal
//! ```

mod handle;

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use netd_kernel::Family;
use thiserror::Error;
use tracing::{debug, error, info};

use crate::attachment::{Attachment, AttachmentKey, Description, Facts, LabelState, State};
use crate::identity;
use crate::journal::{Journal, JournalError, Record};
use crate::lease_history::Kept;
use crate::node::{AttachError, Attached, Extended, Extension, Follower, Node, Share, Wanted};

/// Why a request was refused.
#[derive(Debug, Error)]
pub enum OwnerError {
    /// The node said no.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// The decision could not be made durable, so it was not made.
    #[error("cannot record the decision")]
    Journal(#[from] JournalError),
    /// It died over a decision, and takes no other.
    #[error("netd is stopping; try again")]
    Stopping,
}

/// A copy of the node's state, for those who list and compare.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// All attachments.
    pub attachments: Vec<Attachment>,
    /// Links still to be deleted.
    pub draining: Vec<Attachment>,
    /// Families whose forwarding netd switched on.
    pub guarded: BTreeSet<Family>,
    /// Addresses held.
    pub leases: usize,
    /// Octets.
    pub journal_bytes: u64,
}

/// The node in numbers; it costs no copy of what it counts.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    /// Attachments.
    pub attachments: usize,
    /// Links still to be deleted.
    pub draining: usize,
    /// Addresses held.
    pub leases: usize,
    /// Ports published.
    pub published_ports: usize,
    /// Octets.
    pub journal_bytes: u64,
    /// Attachments whose labels somebody is still to say.
    pub unlabelled: Vec<Attachment>,
    /// What is wrong with labels that should name ports.
    pub misnamed_ports: Vec<String>,
    /// Addresses of the fleet's pools that are not of this node's blocks.
    pub strays: Vec<(AttachmentKey, IpAddr)>,
}

/// A damaged attachment, and how it is made again.
#[derive(Debug)]
pub struct Renewed {
    /// To be closed and unlinked.
    pub before: Box<Attachment>,
    /// To be wired.
    pub after: Box<Attachment>,
}

/// Attachments as they are now, and those of them that just went into quarantine or left it: their links are to follow.
#[derive(Debug, Default)]
pub struct Judged {
    /// All that were looked at.
    pub attachments: Vec<Attachment>,
    /// Those whose quarantine began or ended.
    pub changed: Vec<AttachmentKey>,
}

pub use handle::OwnerHandle;

/// The owner of a node as the journal left it.
#[must_use]
pub fn start(node: Node, journal: Journal) -> OwnerHandle {
    OwnerHandle::new(Owner { node, journal, quarantines: None, recorded: 0 })
}

#[derive(Debug)]
struct Owner {
    node: Node,
    journal: Journal,
    /// Whether containers without their labels pass no packet; `None`: nobody has said so yet.
    quarantines: Option<bool>,
    /// Records since the start.
    recorded: u64,
}

impl Owner {
    fn attach(&mut self, wanted: Wanted) -> Result<Attached, OwnerError> {
        let key = wanted.key.clone();
        let mut attached = self.node.attach(wanted)?;
        if let Attached::New { attachment, replaces, taken, .. } = &mut attached {
            self.judge(attachment);
            debug!(%key, leases = ?attachment.leases, "reserved");
            let blocks = taken.iter().map(|block| Record::Assigned(*block, key.network.clone()));
            let replaced = replaces.iter().cloned().map(Record::Drain);
            let decided = blocks.chain(replaced).chain([Record::Put(attachment.clone())]).collect();
            self.record_all(decided).inspect_err(|_| self.node.undo(attachment))?;
            taken.iter().for_each(|block| info!(%block, network = %key.network, "a block is the network's"));
        }
        Ok(attached)
    }

    fn wired(
        &mut self,
        key: &AttachmentKey,
        facts: Facts,
        said: Option<&Description>,
    ) -> Result<Attachment, OwnerError> {
        // Detached while it was being wired: the detach has won, and its reaper takes the link away.
        let mut attachment = self
            .node
            .attachment(key)
            .cloned()
            .ok_or_else(|| OwnerError::Attach(AttachError::Gone(Box::new(key.clone()))))?;
        attachment.state = State::Attached;
        attachment.facts = facts;
        if let Some(said) = said {
            attachment.describe(said);
        }
        self.judge(&mut attachment);
        self.record(Record::Put(Box::new(attachment.clone())))?;
        Ok(attachment)
    }

    fn put(&mut self, mut attachment: Attachment) -> Result<(), OwnerError> {
        if let Some(now) = self.node.attachment(&attachment.key) {
            attachment.keep_word_of(now);
        }
        self.record(Record::Put(Box::new(attachment)))
    }

    fn renew(&mut self, key: &AttachmentKey) -> Result<Option<Renewed>, OwnerError> {
        let Some(before) = self.node.attachment(key).cloned().map(Box::new) else { return Ok(None) };
        let Some(after) = self.node.renew(key)? else { return Ok(None) };
        self.record(Record::Drain(before.clone()))?;
        self.record(Record::Put(after.clone()))?;
        Ok(Some(Renewed { before, after }))
    }

    fn of(&self, container: &str) -> Vec<Attachment> {
        let is = |attachment: &&Attachment| attachment.key.container.as_str() == container;
        self.node.attachments().filter(is).cloned().collect()
    }

    /// The record comes before the difference is made; a crash in between leaves it to resync.
    fn extend(&mut self, follower: Follower, extension: &Extension) -> Result<Extended, OwnerError> {
        let extended = self.node.extend(follower, extension)?;
        if let Extended::Changed { after, replaces, .. } = &extended {
            let replaced = replaces.iter().cloned().map(Record::Drain);
            self.record_all(replaced.chain([Record::Put(after.clone())]).collect())?;
        }
        Ok(extended)
    }

    fn drain(&mut self, key: &AttachmentKey) -> Result<Option<Attachment>, OwnerError> {
        let Some(attachment) = self.node.attachment(key).cloned() else { return Ok(None) };
        self.record(Record::Drain(Box::new(attachment.clone())))?;
        Ok(Some(attachment))
    }

    fn drain_exactly(&mut self, attachment: &Attachment) -> Result<Option<Attachment>, OwnerError> {
        let same = self
            .node
            .attachment(&attachment.key)
            .is_some_and(|now| now.wiring == attachment.wiring && now.netns == attachment.netns);
        if same { self.drain(&attachment.key) } else { Ok(None) }
    }

    fn reaped(&mut self, gone: &Attachment) -> Result<(), OwnerError> {
        let Some(wiring) = &gone.wiring else { return Ok(()) };
        self.record(Record::Reaped(gone.key.clone(), wiring.host_link.to_string()))
    }

    fn describe(&mut self, container: &str, description: &Description) -> Result<Judged, OwnerError> {
        let described = self.of(container);
        self.judge_all(described, |attachment| attachment.describe(description))
    }

    fn quarantine(&mut self, holds: bool) -> Result<Judged, OwnerError> {
        self.quarantines = Some(holds);
        let all = self.node.attachments().cloned().collect();
        self.judge_all(all, |_| ())
    }

    /// What is said again costs no record.
    fn judge_all(&mut self, all: Vec<Attachment>, change: impl Fn(&mut Attachment)) -> Result<Judged, OwnerError> {
        let mut judged = Judged { attachments: all, ..Judged::default() };
        for attachment in &mut judged.attachments {
            let before = attachment.clone();
            change(attachment);
            self.judge(attachment);
            if *attachment != before {
                self.record(Record::Put(Box::new(attachment.clone())))?;
            }
            if attachment.quarantined != before.quarantined {
                judged.changed.push(attachment.key.clone());
            }
        }
        Ok(judged)
    }

    fn judge(&self, attachment: &mut Attachment) {
        attachment.quarantine(self.quarantines.unwrap_or(attachment.quarantined));
    }

    fn share(&mut self, share: Share) -> Result<(), OwnerError> {
        let records = self.node.share(share);
        self.record_all(records)
    }

    fn retire(&mut self, block: IpNet) -> Result<bool, OwnerError> {
        let Some(records) = self.node.retire(block) else { return Ok(false) };
        self.record_all(records).map(|()| true)
    }

    /// `None`, beside the number of records, where that is `known`.
    fn kept(&self, known: Option<u64>) -> (u64, Option<Kept>) {
        let is_new = known != Some(self.recorded);
        (self.recorded, is_new.then(|| self.node.kept()))
    }

    fn snapshot(&self) -> Snapshot {
        Snapshot {
            attachments: self.node.attachments().cloned().collect(),
            draining: self.node.draining().cloned().collect(),
            guarded: self.node.guarded().clone(),
            leases: self.node.lease_count(),
            journal_bytes: self.journal.bytes(),
        }
    }

    fn tally(&self) -> Tally {
        let is_pending = |one: &&Attachment| matches!(one.label_state, LabelState::Pending { .. });
        Tally {
            attachments: self.node.attachments().len(),
            draining: self.node.draining().len(),
            leases: self.node.lease_count(),
            published_ports: self.node.attachments().map(|one| one.ports.len()).sum(),
            journal_bytes: self.journal.bytes(),
            unlabelled: self.node.attachments().filter(is_pending).cloned().collect(),
            misnamed_ports: identity::misnamed_ports(self.node.attachments()),
            strays: self.node.strays().map(|(key, address)| (key.clone(), address)).collect(),
        }
    }

    /// Journal first, node second: what is not durable did not happen.
    fn record(&mut self, record: Record) -> Result<(), OwnerError> {
        self.journal.append(&record)?;
        self.recorded += 1;
        self.node.take(record);
        Ok(())
    }

    fn record_all(&mut self, records: Vec<Record>) -> Result<(), OwnerError> {
        records.into_iter().try_for_each(|record| self.record(record))
    }

    fn compact(&mut self) {
        if self.journal.is_bloated()
            && let Err(error) = self.journal.rewrite(&self.node.records())
        {
            error!(%error, "cannot compact the journal; it is tried again when it has grown on");
        }
    }
}
