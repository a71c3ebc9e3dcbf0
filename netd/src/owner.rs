//! The one owner of [`Node`]: requests come by channel, are decided one after another, and are in the journal before
//! they are answered. It never waits for the kernel.
//!
//! ```text
//! server, resync ──Request──▶ owner ──append──▶ journal
//!                ◀──oneshot──
//! ```

mod handle;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use netd_config::{ContainerId, LinkName};
use netd_kernel::{Family, Publication};
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};
use tracing::{debug, error, info};

use crate::attachment::{Attachment, AttachmentKey, Description, Facts, LabelState, State};
use crate::identity;
use crate::journal::{Journal, JournalError, Record};
use crate::lasting::Kept;
use crate::node::{AttachError, Attached, BlockUse, Extended, Extension, Follower, Node, Share, Wanted};

/// Why a request was refused.
#[derive(Debug, Error)]
pub enum OwnerError {
    /// The node said no.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// The decision could not be made durable, so it was not made.
    #[error("cannot record the decision")]
    Journal(#[from] JournalError),
    /// The owner is gone: netd is going down.
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

type Answer<T> = oneshot::Sender<Result<T, OwnerError>>;

#[derive(Debug)]
enum Request {
    Attach(Box<Wanted>, Answer<Attached>),
    Wired(AttachmentKey, Facts, Option<Box<Description>>, Answer<Attachment>),
    Renew(AttachmentKey, Answer<Option<Renewed>>),
    Extend(Box<Follower>, Box<Extension>, Answer<Extended>),
    Put(Box<Attachment>, Answer<()>),
    One(AttachmentKey, Answer<Option<Attachment>>),
    Draining(AttachmentKey, Answer<Vec<Attachment>>),
    NotClosed(Box<Attachment>, Answer<BTreeSet<Publication>>),
    Of(String, Answer<Vec<Attachment>>),
    AtLink(String, Answer<Option<Attachment>>),
    UsesBridge(String, Answer<bool>),
    UsesGateway(LinkName, Answer<bool>),
    LeftBehind(ContainerId, Answer<Vec<AttachmentKey>>),
    Closed(Box<Attachment>, Answer<()>),
    Guard(Family, Answer<()>),
    Drain(AttachmentKey, Answer<Option<Attachment>>),
    DrainExactly(Box<Attachment>, Answer<Option<Attachment>>),
    Reaped(Box<Attachment>, Answer<()>),
    Describe(String, Box<Description>, Answer<Judged>),
    Quarantine(bool, Answer<Judged>),
    Kept(Option<u64>, Answer<(u64, Option<Kept>)>),
    Snapshot(Answer<Snapshot>),
    Tally(Answer<Tally>),
    Share(Box<Share>, Answer<()>),
    Usage(Answer<Vec<BlockUse>>),
    Retire(IpNet, Answer<bool>),
    Unretire(IpNet, Answer<()>),
    SpokenFor(BTreeMap<IpAddr, ContainerId>, Answer<BTreeSet<IpAddr>>),
}

/// Starts the owner of a node as the journal left it.
#[must_use]
pub fn start(node: Node, journal: Journal) -> OwnerHandle {
    let (requests, receiver) = mpsc::channel(1_024);
    tokio::spawn(Owner { node, journal, quarantines: None, recorded: 0 }.run(receiver));
    OwnerHandle { requests }
}

struct Owner {
    node: Node,
    journal: Journal,
    /// Whether containers without their labels pass no packet; `None`: nobody has said so yet.
    quarantines: Option<bool>,
    /// Records since the start.
    recorded: u64,
}

impl Owner {
    async fn run(mut self, mut requests: mpsc::Receiver<Request>) {
        while let Some(request) = requests.recv().await {
            self.serve(request);
            self.compact();
        }
    }

    fn serve(&mut self, request: Request) {
        // A caller that went away does not need its answer; the decision stands and resync finds it.
        match request {
            Request::Attach(wanted, answer) => drop(answer.send(self.attach(*wanted))),
            Request::Wired(key, facts, said, answer) => drop(answer.send(self.wired(&key, facts, said.as_deref()))),
            Request::Renew(key, answer) => drop(answer.send(self.renew(&key))),
            Request::Extend(follower, extension, answer) => {
                drop(answer.send(self.extend(*follower, &extension)));
            }
            Request::Put(attachment, answer) => drop(answer.send(self.put(*attachment))),
            Request::One(key, answer) => drop(answer.send(Ok(self.node.attachment(&key).cloned()))),
            Request::Draining(key, answer) => drop(answer.send(Ok(self.node.draining_of(&key)))),
            Request::NotClosed(gone, answer) => drop(answer.send(Ok(self.node.not_closed(&gone)))),
            Request::Of(container, answer) => drop(answer.send(Ok(self.of(&container)))),
            Request::AtLink(link, answer) => drop(answer.send(Ok(self.node.at_link(&link).cloned()))),
            Request::UsesBridge(bridge, answer) => drop(answer.send(Ok(self.node.uses_bridge(&bridge)))),
            Request::UsesGateway(link, answer) => drop(answer.send(Ok(self.node.uses_gateway(&link)))),
            Request::LeftBehind(container, answer) => drop(answer.send(Ok(self.node.left_behind(&container)))),
            Request::Closed(gone, answer) => {
                self.node.closed(&gone);
                drop(answer.send(Ok(())));
            }
            Request::Guard(family, answer) => drop(answer.send(self.record(Record::Guard(family)))),
            Request::Drain(key, answer) => drop(answer.send(self.drain(&key))),
            Request::DrainExactly(attachment, answer) => drop(answer.send(self.drain_exactly(&attachment))),
            Request::Reaped(gone, answer) => drop(answer.send(self.reaped(&gone))),
            Request::Describe(container, description, answer) => {
                drop(answer.send(self.describe(&container, &description)));
            }
            Request::Quarantine(holds, answer) => drop(answer.send(self.quarantine(holds))),
            Request::Kept(known, answer) => {
                let kept = (known != Some(self.recorded)).then(|| self.node.kept());
                drop(answer.send(Ok((self.recorded, kept))));
            }
            Request::Snapshot(answer) => drop(answer.send(Ok(self.snapshot()))),
            Request::Tally(answer) => drop(answer.send(Ok(self.tally()))),
            Request::Share(share, answer) => drop(answer.send(self.share(*share))),
            Request::Usage(answer) => drop(answer.send(Ok(self.node.usage()))),
            Request::Retire(block, answer) => drop(answer.send(self.retire(block))),
            Request::SpokenFor(addresses, answer) => {
                drop(answer.send(Ok(self.node.spoken_for(addresses))));
            }
            Request::Unretire(block, answer) => {
                self.node.unretire(block);
                drop(answer.send(Ok(())));
            }
        }
    }

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
        if let Extended::Changed { after, .. } = &extended {
            // Of an earlier sandbox under this key, which nobody detached. A resync takes its link away.
            let left = self.node.attachment(&after.key).filter(|left| left.netns != after.netns).cloned();
            let decided = left.map(Box::new).map(Record::Drain).into_iter().chain([Record::Put(after.clone())]);
            self.record_all(decided.collect())?;
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
