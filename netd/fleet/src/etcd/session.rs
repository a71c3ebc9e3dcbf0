//! One connection's life: list, watch, and do one thing after the other as `decide` says. It ends with the first error, and
//! the next begins with a list: a watch that was resumed would not tell that the store was set back.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::time::Duration;

use netd_grpc::CallError;
use thiserror::Error;
use tokio::task::JoinError;
use tokio::time::{Instant, sleep_until, timeout};

use super::Node;
use super::client::{Client, Watch, Words, Write};
use super::hearsay::Hearsay;
use super::keys::ForeignError;
use super::mirror::Mirror;
use super::settings::SettingsError;
use super::talk::Talk;
use crate::decide::{Action, decide, lacks};
use crate::disk::{DiskError, random};
use crate::memory::Memory;
use crate::peers::NodeRecord;
use crate::view::{Key, Txn};

/// What was written must be told by the watch within this.
const ECHO: Duration = Duration::from_secs(5);
/// What failed is tried again when something was heard, or after this.
const PAUSE: Duration = Duration::from_millis(100);

/// How often a member that has nothing to tell is asked whether it is there. What it had to tell while its link was broken, TCP
/// sends again only after as long as that lasted: a broken link must be found out before that is long.
const PULSE: Duration = Duration::from_secs(1);
/// Answers of watches that are heard before something is decided.
const AT_ONCE: usize = 256;

/// gRPC's status of a store that is full. It goes on with what it has, and keeps leases alive.
const FULL: u32 = 8;
/// What it refuses is tried again when something was heard, or after this.
const UNTIL_ROOM: Duration = Duration::from_secs(1);

/// Why a session ended.
#[derive(Debug, Error)]
pub enum SessionError {
    /// etcd does not answer as it should.
    #[error("cannot ask etcd")]
    Call(#[from] CallError),
    /// It cannot be asked as the settings say.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// Something under our prefix is not ours.
    #[error("cannot read the fleet")]
    Foreign(#[from] ForeignError),
    /// The node cannot remember.
    #[error("cannot remember the fleet")]
    Disk(#[from] DiskError),
    /// A value cannot be written.
    #[error("cannot encode a value")]
    Encode(#[from] serde_json::Error),
    /// No random numbers, or no thread.
    #[error("cannot start a thread or get random numbers for the fleet")]
    System(#[from] std::io::Error),
    /// A thread died.
    #[error("a thread that wrote to disk ended unexpectedly; `journalctl -u netd -e` has its last words")]
    Thread(#[from] JoinError),
    /// The watch ended, by compaction or with its member.
    #[error("the watch ended")]
    Unwatched,
    /// Something else has written for this node.
    #[error("an earlier write of this node came late")]
    Overtaken,
}

impl SessionError {
    fn is_full(&self) -> bool {
        matches!(self, Self::Call(error) if is_full(error))
    }
}

fn is_full(error: &CallError) -> bool {
    matches!(error, CallError::Status { code: FULL, .. })
}

pub(super) struct Session<'a> {
    pub(super) node: &'a mut Node,
    pub(super) client: Client,
    pub(super) mirror: Mirror,
    pub(super) hearsay: Hearsay,
    pub(super) talk: Talk,
    watches: Watches,
    pub(super) lease: i64,
    /// It is an earlier netd's of this node, or its copy's: the store has no room for another one.
    is_borrowed: bool,
    renew: Instant,
    pulse: Instant,
    /// What it last said of itself, and that the store took it.
    pub(super) said: Option<NodeRecord>,
    /// Peers were late the last time, or nobody was told of any yet.
    was_late: bool,
    /// Nothing was to be done, and only what is heard, wished or remembered can change that.
    is_done: bool,
}

struct Watches {
    fleet: Watch,
    acks: Watch,
    sandboxes: Watch,
    answers: Watch,
}

impl<'a> Session<'a> {
    pub(super) async fn begin(node: &'a mut Node, client: Client) -> Result<Self, SessionError> {
        let keys = node.keys.clone();
        let fleet = client.list(keys.fleet()).await?;
        let acks = client.list(keys.acks()).await?;
        let (after_fleet, after_acks) = (fleet.revision + 1, acks.revision + 1);
        let mirror = Mirror::of(keys.clone(), fleet, acks)?;
        let me = node.memory.instance;
        let sandboxes = client.list(keys.sandboxes()).await?;
        let answers = client.list(keys.answers_to(me)).await?;
        let (after_sandboxes, after_answers) = (sandboxes.revision + 1, answers.revision + 1);
        let hearsay = Hearsay::of(keys.clone(), me, sandboxes, answers);
        let watches = Watches {
            fleet: client.watch(keys.fleet(), after_fleet).await?,
            acks: client.watch(keys.acks_to(me), after_acks).await?,
            sandboxes: client.watch(keys.sandboxes(), after_sandboxes).await?,
            answers: client.watch(keys.answers_to(me), after_answers).await?,
        };
        let now = Instant::now();
        let known = node.peers.borrow().clone();
        node.late.begin((&known, (&node.last_heard, &node.tickets)), &mirror.peers, (node.settings.lease, now));
        let (talk, renew, pulse, lease, said) = (Talk::default(), now, now + PULSE, 0, None);
        let (is_borrowed, was_late, is_done) = (false, true, false);
        let mut session = Self {
            node,
            client,
            mirror,
            hearsay,
            talk,
            watches,
            lease,
            is_borrowed,
            renew,
            pulse,
            said,
            was_late,
            is_done,
        };
        session.keep_alive().await?;
        session.node.ledger.resume();
        Ok(session)
    }

    /// Works until something fails.
    pub(super) async fn run(mut self) -> Result<Infallible, SessionError> {
        self.look_for_twin();
        // Whoever hears that the store answers knows the peers.
        self.tell_node();
        self.node.connected();
        loop {
            match self.step().await {
                Ok(()) => self.node.refused(None),
                // Without its session this node would be nobody's peer when its lease is over.
                Err(error) if error.is_full() => {
                    self.node.refused(Some(&error));
                    timeout(UNTIL_ROOM, self.hear()).await.unwrap_or(Ok(()))?;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Does one thing, or waits.
    async fn step(&mut self) -> Result<(), SessionError> {
        self.look_for_twin();
        self.tell_node();
        self.register().await?;
        match self.next()? {
            Some(Action::Save(memory)) => self.save(*memory).await,
            Some(Action::Commit(txn)) => self.commit(&txn).await,
            // What is said while it talks may be all that it waits for to be a peer.
            None if self.talk().await? || self.register().await? => Ok(()),
            None => self.wait().await,
        }
    }

    /// Who the others are comes before what they tell.
    fn tell_node(&mut self) {
        self.hearsay.is_news |= self.node.late.pass(&self.mirror.peers, Instant::now());
        self.was_late = self.node.heard(&mut self.mirror, self.was_late);
        if std::mem::take(&mut self.hearsay.are_tickets_news) {
            self.node.heard_of_sessions(&self.hearsay.tickets);
        }
        if std::mem::take(&mut self.hearsay.is_news) {
            self.node.heard_of_sandboxes(&self.hearsay.heard);
        }
        if self.talk.is_open && self.talk.since.is_none() {
            self.talk.since = Some(self.node.last_heard.number);
        }
        self.node.answer(&self.mirror.view.blocks);
    }

    /// Somebody else writes as this node.
    fn look_for_twin(&mut self) {
        let now = Instant::now();
        let twin = self.records_of_twin().next().map(|record| {
            let at: Vec<String> = record.addresses.iter().map(ToString::to_string).collect();
            format!(
                "{} ({})",
                record.name,
                if at.is_empty() { "it does not say where".to_owned() } else { at.join(", ") }
            )
        });
        self.node.twin.see(twin.is_some(), now);
        self.node.beside(twin.filter(|_| self.node.twin.is_certain(self.node.settings.lease, now)));
    }

    fn records_of_twin(&self) -> impl Iterator<Item = &NodeRecord> {
        // What this node keeps alive itself is no sign of life.
        let has_told = self.node.telling.borrow().number != 0;
        let (memory, kept) = (&self.node.memory, if has_told { BTreeSet::new() } else { self.former() });
        let records = self.mirror.records_of(memory.instance);
        let is_twins = move |(record, lease): &(&NodeRecord, i64)| {
            !kept.contains(lease) && self.node.twin.wrote(record.name == memory.name, *lease)
        };
        records.filter(is_twins).map(|(record, _)| record)
    }

    /// A twin that is known: what is told of this node's sandboxes and in its name is told by one of them at most.
    pub(super) fn has_twin(&self) -> bool {
        self.node.status.borrow().twin.is_some()
    }

    fn next(&mut self) -> Result<Option<Action>, SessionError> {
        if self.node.twin.is_suspected() {
            self.node.wish.mark_unchanged();
            self.is_done = false;
            return Ok(None);
        }
        let is_wished = self.node.wish.has_changed().unwrap_or(false);
        let is_heard = std::mem::take(&mut self.mirror.is_news);
        if self.is_done && !is_wished && !is_heard {
            return Ok(None);
        }
        let mut wish = self.node.wish.borrow_and_update().clone();
        wish.present = self.mirror.present();
        let there = wish.present.iter().chain(self.hearsay.tickets.keys()).copied().collect();
        wish.forget_removals(&there);
        let action = decide(&self.node.memory, &self.mirror.view, &wish, random()?);
        self.is_done = action.is_none();
        Ok(action)
    }

    async fn save(&mut self, memory: Memory) -> Result<(), SessionError> {
        let disk = self.node.disk.clone();
        let saved = tokio::task::spawn_blocking(move || disk.save(&memory).map(|()| memory));
        let memory = saved.await??;
        self.node.remember(memory);
        Ok(())
    }

    async fn commit(&mut self, txn: &Txn) -> Result<(), SessionError> {
        let outcome = self.client.txn(self.mirror.words(txn)?).await?;
        if !outcome.is_done {
            return self.pause().await;
        }
        if self.mirror.note_acks(txn) {
            Ok(())
        } else {
            self.echo(outcome.revision, |session| session.mirror.revision).await
        }
    }

    /// Waits for the watch to tell what was written: before that the view is older than what it led to.
    pub(super) async fn echo(&mut self, revision: i64, heard: impl Fn(&Self) -> i64) -> Result<(), SessionError> {
        let deadline = Instant::now() + ECHO;
        while heard(self) < revision {
            let heard = tokio::time::timeout_at(deadline, self.hear()).await;
            heard.unwrap_or(Err(SessionError::Unwatched))?;
        }
        Ok(())
    }

    async fn pause(&mut self) -> Result<(), SessionError> {
        timeout(PAUSE, self.hear()).await.unwrap_or(Ok(()))
    }

    /// Hears something, and what else has come by then: what follows is decided once, for all of it.
    async fn hear(&mut self) -> Result<(), SessionError> {
        self.hear_one().await?;
        for _ in 1..AT_ONCE {
            tokio::select! {
                biased;
                heard = self.hear_one() => heard?,
                () = std::future::ready(()) => break,
            }
        }
        self.pulse = Instant::now() + PULSE;
        Ok(())
    }

    async fn hear_one(&mut self) -> Result<(), SessionError> {
        tokio::select! {
            answer = self.watches.fleet.next() => {
                self.mirror.hear(answer?.ok_or(SessionError::Unwatched)?)?;
            }
            answer = self.watches.acks.next() => {
                self.mirror.hear_acks(answer?.ok_or(SessionError::Unwatched)?)?;
            }
            answer = self.watches.sandboxes.next() => {
                self.hearsay.hear(answer?.ok_or(SessionError::Unwatched)?);
            }
            answer = self.watches.answers.next() => {
                self.hearsay.hear_answers(answer?.ok_or(SessionError::Unwatched)?);
            }
        }
        Ok(())
    }

    async fn wait(&mut self) -> Result<(), SessionError> {
        let (renew, look_again) = (self.renew, self.look_again().map_or(self.renew, |at| at.min(self.renew)));
        let pulse = self.pulse;
        let (mut wish, mut about) = (self.node.wish.clone(), self.node.about.clone());
        let (mut needs, mut telling) = (self.node.needs.clone(), self.node.telling.clone());
        let (mut applied, mut asked) = (self.node.applied.clone(), self.node.asked.clone());
        tokio::select! {
            heard = self.hear() => heard,
            // Nobody wishes any more where the sender is gone; the session ends with its task then.
            Ok(()) = wish.changed() => Ok(()),
            Ok(()) = about.changed() => Ok(()),
            Ok(()) = needs.changed() => Ok(()),
            Ok(()) = telling.changed() => Ok(()),
            Ok(()) = applied.changed() => Ok(()),
            Ok(()) = asked.changed() => Ok(()),
            () = sleep_until(look_again) => if look_again == renew { self.keep_alive().await } else { Ok(()) },
            () = sleep_until(pulse) => self.be_there().await,
        }
    }

    async fn be_there(&mut self) -> Result<(), SessionError> {
        self.client.pulse(self.node.keys.of(&Key::Charter)).await?;
        self.pulse = Instant::now() + PULSE;
        Ok(())
    }

    /// A dead member looks like a silent one: this is how it is found out.
    async fn keep_alive(&mut self) -> Result<(), SessionError> {
        let lives = self.lease != 0 && self.client.keep_alive(self.lease).await?;
        if !lives {
            match self.grant().await {
                Err(error) if error.is_full() => self.borrow(error).await?,
                granted => granted?,
            }
        }
        self.renew = Instant::now() + self.node.settings.lease / 3;
        self.keep_former().await
    }

    async fn grant(&mut self) -> Result<(), SessionError> {
        let lease = self.client.grant(self.node.lease_seconds()).await?;
        self.node.twin.granted(lease);
        self.begin_under(lease, false);
        Ok(())
    }

    /// Keeps this node's record alive, which an earlier netd wrote. Nothing is written under its lease: a copy of this node may
    /// keep it alive as well, and each would take the other for itself.
    async fn borrow(&mut self, full: SessionError) -> Result<(), SessionError> {
        let memory = &self.node.memory;
        let own = self.mirror.records_of(memory.instance).find(|(record, _)| record.name == memory.name);
        let lease = own.map_or(0, |(_, lease)| lease);
        if lease == 0 || !self.client.keep_alive(lease).await? {
            return Err(full);
        }
        self.begin_under(lease, true);
        Ok(())
    }

    /// What was under the old one is gone with it.
    fn begin_under(&mut self, lease: i64, is_borrowed: bool) {
        (self.lease, self.is_borrowed, self.said, self.talk) = (lease, is_borrowed, None, Talk::default());
    }

    /// What an earlier netd of this node told stays under that one's lease until this one has said what there is: that may take
    /// longer than a lease.
    async fn keep_former(&self) -> Result<(), SessionError> {
        for lease in self.former() {
            self.client.keep_alive(lease).await?;
        }
        Ok(())
    }

    /// The leases that are kept alive so.
    fn former(&self) -> BTreeSet<i64> {
        if self.talk.number != 0 || !self.has_name() {
            return BTreeSet::new();
        }
        let leases = self.hearsay.own.values().map(|(_, lease)| *lease);
        leases.filter(|lease| ![0, self.lease].contains(lease)).collect()
    }

    /// Whether no other instance has this node's name.
    pub(super) fn has_name(&self) -> bool {
        let memory = &self.node.memory;
        !self.mirror.is_anothers(memory.name.as_str(), memory.instance)
    }

    /// Says who this node is, where that is news and its time has come; whether it did. The name may be another instance's still:
    /// then it waits. One that the store does not tell of waits until what it heard holds.
    async fn register(&mut self) -> Result<bool, SessionError> {
        if Instant::now() >= self.renew {
            self.keep_alive().await?;
        }
        if self.is_borrowed {
            self.grant().await?;
        }
        self.node.about.mark_unchanged();
        self.node.needs.mark_unchanged();
        if !self.has_name() {
            self.node.namesake(true);
            return Ok(false);
        }
        let is_taken = self.records_of_twin().any(|record| record.name == self.node.memory.name);
        if self.has_twin() || is_taken {
            return Ok(false);
        }
        let before = self.mirror.peers.get(self.node.memory.name.as_str());
        let Some(mut record) = self.node.record(before) else { return Ok(false) };
        let lacks = lacks(&self.node.memory, &self.mirror.view, &self.node.wish.borrow());
        self.node.lacks(&lacks);
        record.lending.iter_mut().for_each(|lending| lending.lacks.clone_from(&lacks));
        if (self.said.as_ref() == Some(&record) && before.is_some()) || (before.is_none() && !self.is_up_to_date()) {
            return Ok(false);
        }
        let key = self.node.keys.peer(record.name.as_str());
        let seen = vec![self.mirror.seen(key.clone())];
        let is_new = before.is_none();
        let mut writes = vec![Write::Put { key, value: serde_json::to_vec(&record)?, lease: self.lease }];
        // A session that is heard for the first time may have asked before it was a peer.
        writes.extend(self.asked_as_peer().filter(|_| is_new || (self.said.is_none() && self.talk.is_open)));
        let outcome = self.client.txn(Words { seen, writes }).await?;
        if !outcome.is_done {
            self.pause().await?;
            return Ok(true);
        }
        if is_new {
            // Who came meanwhile may not be known here when what was asked before is answered.
            self.node.ledger.resume();
        }
        self.said = Some(record);
        self.node.twin.registered();
        self.node.namesake(false);
        self.echo(outcome.revision, |session| session.mirror.revision).await?;
        Ok(true)
    }
}
