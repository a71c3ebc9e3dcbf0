//! One connection's life: list, watch, and do one thing after the other as `decide` says. It ends with the first error, and
//! the next begins with a list: a watch that was resumed would not tell that the store was set back.

use std::convert::Infallible;
use std::time::Duration;

use netd_grpc::CallError;
use thiserror::Error;
use tokio::task::JoinError;
use tokio::time::{Instant, sleep_until, timeout};

use super::Node;
use super::client::{Client, Watch, Words, Write};
use super::keys::ForeignError;
use super::late::Late;
use super::mirror::Mirror;
use crate::decide::{Action, decide};
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

/// Why a session ended.
#[derive(Debug, Error)]
pub enum SessionError {
    /// etcd does not answer as it should.
    #[error("cannot ask etcd")]
    Call(#[from] CallError),
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
    #[error("this system lacks what is needed")]
    System(#[from] std::io::Error),
    /// A thread died.
    #[error("a write to disk did not end")]
    Thread(#[from] JoinError),
    /// The watch ended, by compaction or with its member.
    #[error("the watch ended")]
    Unwatched,
}

pub(super) struct Session<'a> {
    node: &'a mut Node,
    client: Client,
    mirror: Mirror,
    fleet: Watch,
    acks: Watch,
    late: Late,
    lease: i64,
    renew: Instant,
    pulse: Instant,
    /// What it last said of itself, and that the store took it.
    said: Option<NodeRecord>,
}

impl<'a> Session<'a> {
    pub(super) async fn begin(node: &'a mut Node, client: Client) -> Result<Self, SessionError> {
        let keys = node.keys.clone();
        let fleet = client.list(keys.fleet()).await?;
        let acks = client.list(keys.acks()).await?;
        let (after_fleet, after_acks) = (fleet.revision + 1, acks.revision + 1);
        let mirror = Mirror::of(keys.clone(), fleet, acks)?;
        let fleet = client.watch(keys.fleet(), after_fleet).await?;
        let acks = client.watch(keys.acks_to(node.memory.instance), after_acks).await?;
        let now = Instant::now();
        let late = Late::new(&node.peers.borrow(), now + node.settings.lease);
        let (renew, pulse, lease, said) = (now, now + PULSE, 0, None);
        let mut session = Self { node, client, mirror, fleet, acks, late, lease, renew, pulse, said };
        session.keep_alive().await?;
        Ok(session)
    }

    /// Works until something fails.
    pub(super) async fn run(mut self) -> Result<Infallible, SessionError> {
        // Whoever hears that the store answers knows the peers.
        self.heard();
        self.node.connected();
        loop {
            self.heard();
            self.register().await?;
            match self.next()? {
                Some(Action::Save(memory)) => self.save(*memory).await?,
                Some(Action::Commit(txn)) => self.commit(&txn).await?,
                None => self.wait().await?,
            }
        }
    }

    fn heard(&mut self) {
        let late = self.late.awaited(&self.mirror.peers, Instant::now());
        self.node.heard(&self.mirror, late);
    }

    fn next(&mut self) -> Result<Option<Action>, SessionError> {
        let mut wish = self.node.wish.borrow_and_update().clone();
        wish.present = self.mirror.present();
        Ok(decide(&self.node.memory, &self.mirror.view, &wish, random()?))
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
        if self.mirror.note_acks(txn) { Ok(()) } else { self.echo(outcome.revision).await }
    }

    /// Waits for the watch to tell what was written: before that the view is older than what it led to.
    async fn echo(&mut self, revision: i64) -> Result<(), SessionError> {
        let deadline = Instant::now() + ECHO;
        while self.mirror.revision < revision {
            let heard = tokio::time::timeout_at(deadline, self.hear()).await;
            heard.unwrap_or(Err(SessionError::Unwatched))?;
        }
        Ok(())
    }

    async fn pause(&mut self) -> Result<(), SessionError> {
        timeout(PAUSE, self.hear()).await.unwrap_or(Ok(()))
    }

    async fn hear(&mut self) -> Result<(), SessionError> {
        tokio::select! {
            answer = self.fleet.next() => {
                self.mirror.hear(answer?.ok_or(SessionError::Unwatched)?)?;
            }
            answer = self.acks.next() => {
                self.mirror.hear_acks(answer?.ok_or(SessionError::Unwatched)?)?;
            }
        }
        self.pulse = Instant::now() + PULSE;
        Ok(())
    }

    async fn wait(&mut self) -> Result<(), SessionError> {
        let (renew, pulse) = (self.renew, self.pulse);
        let (mut wish, mut about) = (self.node.wish.clone(), self.node.about.clone());
        tokio::select! {
            heard = self.hear() => heard,
            // Nobody wishes any more where the sender is gone; the session ends with its task then.
            Ok(()) = wish.changed() => Ok(()),
            Ok(()) = about.changed() => Ok(()),
            () = sleep_until(renew) => self.keep_alive().await,
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
            self.lease = self.client.grant(self.node.lease_seconds()).await?;
            self.said = None;
        }
        self.renew = Instant::now() + self.node.settings.lease / 3;
        Ok(())
    }

    /// Says who this node is, where that is news. The name may be another instance's still: then it waits.
    async fn register(&mut self) -> Result<(), SessionError> {
        if Instant::now() >= self.renew {
            self.keep_alive().await?;
        }
        self.node.about.mark_unchanged();
        let record = self.node.record();
        if self.said.as_ref() == Some(&record) {
            return Ok(());
        }
        let known = self.mirror.peers.get(record.name.as_str());
        if known.is_some_and(|known| known.instance != record.instance) {
            self.node.namesake(true);
            return Ok(());
        }
        let key = self.node.keys.peer(record.name.as_str());
        let seen = vec![self.mirror.seen(key.clone())];
        let put = Write::Put { key, value: serde_json::to_vec(&record)?, lease: self.lease };
        let outcome = self.client.txn(Words { seen, writes: vec![put] }).await?;
        if !outcome.is_done {
            return self.pause().await;
        }
        self.said = Some(record);
        self.node.namesake(false);
        self.echo(outcome.revision).await
    }
}
