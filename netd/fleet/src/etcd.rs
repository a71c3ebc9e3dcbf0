//! A fleet on etcd: this node's part in it, kept up while the store is away.
//!
//! ```text
//! Fleet (handle) ── wish ──▶ task: for ever, one endpoint after the other
//!      ▲                       Session: list ─▶ watch ─▶ decide ─▶ save, commit ─▶ wait
//!      └─ peers, usable, status ◀──┘
//! ```

mod client;
mod hearsay;
mod keys;
mod late;
mod mirror;
mod session;
mod settings;
mod talk;
mod twin;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use ipnet::IpNet;
use thiserror::Error;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tracing::{info, warn};

use self::client::Client;
use self::keys::Keys;
use self::late::{Late, Tickets};
use self::mirror::Mirror;
use self::session::Session;
use self::settings::Endpoint;
use self::twin::Twin;
use crate::blocks::Blocks;
use crate::charter::Charter;
use crate::decide::Wish;
use crate::disk::{Disk, DiskError, random};
use crate::identity::InstanceId;
use crate::memory::Memory;
use crate::peers::{Discovery, NodeRecord, Peers, publish};
use crate::record::Table;
use crate::sandboxes::{Applied, Heard, Ledger, Needs, SandboxRecord, Telling, Told};

pub use self::keys::ForeignError;
pub use self::session::SessionError;
pub use self::settings::{EtcdSettings, SettingsError, TlsFiles};
pub use netd_grpc::CallError;

mod api {
    #![allow(
        warnings,
        clippy::all,
        clippy::pedantic,
        unreachable_pub,
        missing_debug_implementations,
        elided_lifetimes_in_paths,
        unused_qualifications,
        clippy::allow_attributes_without_reason,
        clippy::allow_attributes,
        reason = "generated code"
    )]
    include!(concat!(env!("OUT_DIR"), "/etcd.rs"));
}

const SHORTEST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
/// A session that is well tells at once what it knows.
const TO_TELL: Duration = Duration::from_secs(1);

/// Why a node cannot be part of a fleet.
#[derive(Debug, Error)]
pub enum FleetError {
    /// Its settings.
    #[error("cannot use etcd")]
    Settings(#[from] SettingsError),
    /// Its memory.
    #[error(transparent)]
    Disk(#[from] DiskError),
}

/// How this node stands to the store.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Status {
    /// Whether the store answers.
    pub is_connected: bool,
    /// Why it last did not; while it does, why it does not take what this node writes.
    pub error: Option<String>,
    /// What the fleet agrees upon, as the store says.
    pub charter: Option<Charter>,
    /// The store is another fleet's than this node's: it does nothing there.
    pub is_stranger: bool,
    /// Another instance has this node's name.
    pub is_namesake: bool,
    /// Where the member is that answered last.
    pub member: Option<IpAddr>,
    /// The other nodes whose netd has a session with the store, peers or not.
    pub sessions: BTreeSet<InstanceId>,
    /// Another node lives that has this node's memory, and may give the same addresses out: who, as it says. Nothing is usable.
    pub twin: Option<String>,
    /// Nodes whose records this netd cannot read, by name, and why: they are no peers of this one.
    pub unreadable: BTreeMap<String, String>,
    /// Pools in which this node lacks what it wishes, and nothing was free when the store was last heard.
    pub lacks: BTreeSet<String>,
}

/// A node's part in a fleet. It ends with this value; what it holds stays its own.
#[derive(Debug)]
pub struct Fleet {
    blocks: Blocks,
    peers: watch::Receiver<Peers>,
    status: watch::Receiver<Status>,
    about: watch::Sender<NodeRecord>,
    needs: watch::Sender<Option<Needs>>,
    telling: watch::Sender<Telling>,
    applied: watch::Sender<Applied>,
    heard: watch::Receiver<Heard>,
    told: watch::Receiver<Option<Told>>,
    asked: watch::Sender<u64>,
    table: watch::Receiver<(u64, Table)>,
    task: JoinHandle<()>,
}

impl Fleet {
    /// Joins with what the disk remembers. It need not reach the store: what this node holds is usable at once. Certificates and
    /// passwords are read each time it goes to the store.
    ///
    /// # Errors
    /// See [`FleetError`].
    pub fn join(settings: EtcdSettings, memory: &Path, node: NodeRecord, wish: Wish) -> Result<Self, FleetError> {
        let endpoints = settings.endpoints()?;
        let (disk, memory) = Disk::open(memory, &node.name)?;
        let keys = Keys::new(&settings.prefix);
        let memory_now = watch::Sender::new(memory.clone());
        let (wish, wished) = watch::channel(wish);
        let (peers, status) = (watch::Sender::new(Peers::new()), watch::Sender::new(Status::default()));
        let blocks = Blocks::new(memory_now.subscribe(), wish, status.subscribe());
        let (about, node) = watch::channel(node);
        let (followed, status_now) = (peers.subscribe(), status.subscribe());
        let (needs, needed) = watch::channel(None);
        let (telling, to_tell) = watch::channel(Telling::default());
        let (applied, forgotten) = watch::channel(Applied::default());
        let (hearsay, heard) = watch::channel(Heard::default());
        let (now_told, told) = watch::channel(None);
        let (asked, questions) = watch::channel(0);
        let (answer, table) = watch::channel((0, Table::new()));
        let node = Node {
            settings,
            keys,
            disk,
            memory,
            about: node,
            wish: wished,
            memory_now,
            peers,
            status,
            needs: needed,
            telling: to_tell,
            applied: forgotten,
            hearsay,
            told: now_told,
            asked: questions,
            table: answer,
            ledger: Ledger::default(),
            suspected: BTreeSet::new(),
            late: Late::default(),
            twin: Twin::default(),
            last_heard: Heard::default(),
            tickets: Tickets::new(),
        };
        let task = tokio::spawn(node.live(endpoints));
        let (peers, status) = (followed, status_now);
        Ok(Self { blocks, peers, status, about, needs, telling, applied, heard, told, asked, table, task })
    }

    /// What this node's policies ask of others' sandboxes from now on. Before the first call this node is no peer, but where the
    /// store tells of it still.
    pub fn need(&self, needs: Needs) {
        publish(&self.needs, Some(needs));
    }

    /// These are all sandboxes of this node that others are told of, by container, until this is called again. The number is
    /// the one that [`Told`] has when the store has them, from 1; before the first call nothing that the store has is changed.
    /// `suspects`: addresses that an earlier netd of this node may have told of, and that others may still know.
    pub fn tell(&self, number: u64, records: BTreeMap<String, SandboxRecord>, suspects: BTreeSet<IpAddr>) {
        self.telling.send_if_modified(|known| {
            let is_news = known.records != records || known.number != number;
            // Whoever reads it later reads them, too.
            known.suspects.extend(suspects);
            (known.number, known.records) = (number, records);
            is_news
        });
    }

    /// Others' sandboxes, and every change of them. The last are kept while nothing is heard.
    #[must_use]
    pub fn heard(&self) -> watch::Receiver<Heard> {
        self.heard.clone()
    }

    /// How far others know what this node tells, and every change of that. `None`: the store has not been asked yet.
    #[must_use]
    pub fn told(&self) -> watch::Receiver<Option<Told>> {
        self.told.clone()
    }

    /// What was heard holds on this node, and nothing older. A node that comes to the store, or back to it, is a peer when what it
    /// heard there holds.
    pub fn applied(&self, heard: &Heard) {
        publish(&self.applied, Applied { number: heard.number, asked: heard.asked.clone() });
    }

    /// For a member without policies: nobody is taken for anybody there, and whatever is heard holds at once.
    pub fn enforces_nothing(&self) {
        self.need(Needs::default());
        let (mut heard, applied) = (self.heard.clone(), self.applied.clone());
        tokio::spawn(async move {
            while heard.changed().await.is_ok() {
                let heard = heard.borrow_and_update();
                publish(&applied, Applied { number: heard.number, asked: heard.asked.clone() });
            }
        });
    }

    /// What this node says of itself from now on. Its name stays, and its blocks are known without it.
    pub fn say(&self, about: NodeRecord) {
        let name = self.about.borrow().name.clone();
        publish(&self.about, NodeRecord { name, ..about });
    }

    /// What this node holds, and how it gets more.
    #[must_use]
    pub fn blocks(&self) -> Blocks {
        self.blocks.clone()
    }

    /// All blocks as the store says now. `None`: it does not answer; what this node remembers may be old.
    pub async fn table(&self) -> Option<Table> {
        self.asked.send_modify(|number| *number += 1);
        let (number, mut table) = (*self.asked.borrow(), self.table.clone());
        let answer = tokio::time::timeout(TO_TELL, table.wait_for(|(answered, _)| *answered >= number)).await;
        Some(answer.ok()?.ok()?.1.clone())
    }

    /// How it stands to the store, and every change of that.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }
}

impl Discovery for Fleet {
    fn follow(&self) -> watch::Receiver<Peers> {
        self.peers.clone()
    }

    fn usable(&self) -> watch::Receiver<Vec<IpNet>> {
        self.blocks.usable()
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The task's own.
struct Node {
    settings: EtcdSettings,
    keys: Keys,
    disk: Disk,
    memory: Memory,
    about: watch::Receiver<NodeRecord>,
    wish: watch::Receiver<Wish>,
    memory_now: watch::Sender<Memory>,
    peers: watch::Sender<Peers>,
    status: watch::Sender<Status>,
    needs: watch::Receiver<Option<Needs>>,
    telling: watch::Receiver<Telling>,
    applied: watch::Receiver<Applied>,
    hearsay: watch::Sender<Heard>,
    told: watch::Sender<Option<Told>>,
    /// The number of the last question for all blocks.
    asked: watch::Receiver<u64>,
    table: watch::Sender<(u64, Table)>,
    ledger: Ledger,
    /// Suspects that the ledger has had.
    suspected: BTreeSet<IpAddr>,
    late: Late,
    twin: Twin,
    /// As it was published, but for what late peers told.
    last_heard: Heard,
    /// Of all others that had a session when it was heard.
    tickets: Tickets,
}

impl Node {
    async fn live(mut self, endpoints: Vec<Endpoint>) {
        let mut pause = SHORTEST_PAUSE;
        let first = first(self.memory.instance, endpoints.len());
        for endpoint in endpoints.iter().cycle().skip(first) {
            let error = match self.session(endpoint).await {
                Ok(never) => match never {},
                Err(error) => told(&error),
            };
            let now = tokio::time::Instant::now();
            self.late.end(self.settings.lease, now);
            self.twin.end(now);
            let was_connected = self.status.borrow().is_connected;
            if was_connected {
                pause = SHORTEST_PAUSE;
                warn!(
                    endpoint = endpoint.base(),
                    error, "the fleet's store is away; this node goes on with its own blocks"
                );
            }
            self.status.send_modify(|status| {
                status.is_connected = false;
                status.error = Some(format!("{}: {error}", endpoint.base()));
            });
            tokio::time::sleep(drawn(pause, random().unwrap_or_default())).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn session(&mut self, endpoint: &Endpoint) -> Result<std::convert::Infallible, SessionError> {
        // Files that are not there yet, or not any more, are no other trouble than a store that does not answer.
        let settings = self.settings.clone();
        let access = tokio::task::spawn_blocking(move || settings.access()).await??;
        let client = Client::open(endpoint, access, self.settings.lease).await?;
        let (member, now) = (Some(client.member()), self.status.borrow().clone());
        publish(&self.status, Status { member, ..now });
        Session::begin(self, client).await?.run().await
    }

    fn connected(&self) {
        info!("the fleet's store answers");
        self.status.send_modify(|status| {
            (status.is_connected, status.error, status.is_namesake) = (true, None, false);
        });
    }

    /// Tells what is news in the mirror; all of it as long as somebody is late, or `anew`. Says whether somebody is.
    fn heard(&self, mirror: &mut Mirror, anew: bool) -> bool {
        let me = self.memory.instance;
        let late: Vec<&NodeRecord> = self.late.awaited().collect();
        self.peers.send_if_modified(|peers| {
            if anew || !late.is_empty() { mirror.tell_all(me, &late, peers) } else { mirror.tell(me, peers) }
        });
        let known = self.memory.charter.as_ref().map(|charter| charter.fleet);
        let charter = mirror.view.charter.as_ref();
        let is_stranger = charter.is_some_and(|charter| known.is_some_and(|known| known != charter.fleet));
        let unreadable = mirror.unreadable();
        self.status.send_if_modified(|status| {
            let is_same = status.charter.as_ref() == charter && status.is_stranger == is_stranger;
            let is_news = !is_same || status.unreadable != unreadable;
            if is_news {
                (status.charter, status.is_stranger) = (charter.cloned(), is_stranger);
                status.unreadable = unreadable;
            }
            is_news
        });
        !late.is_empty()
    }

    fn heard_of_sandboxes(&mut self, heard: &Heard) {
        self.last_heard = Heard { number: self.last_heard.number + 1, ..heard.clone() };
        self.hearsay.send_replace(self.late.with_kept(&self.last_heard));
    }

    fn heard_of_sessions(&mut self, tickets: &Tickets) {
        self.tickets.clone_from(tickets);
        self.status.send_if_modified(|status| {
            let is_news = status.sessions.iter().ne(tickets.keys());
            if is_news {
                status.sessions = tickets.keys().copied().collect();
            }
            is_news
        });
    }

    /// The store answers, and does not take what this node writes; or takes it.
    fn refused(&self, why: Option<&SessionError>) {
        let error = why.map(told);
        self.status.send_if_modified(|status| {
            let is_news = status.error != error;
            status.error = error;
            is_news
        });
    }

    fn lacks(&self, pools: &BTreeSet<String>) {
        self.status.send_if_modified(|status| {
            let is_news = status.lacks != *pools;
            status.lacks.clone_from(pools);
            is_news
        });
    }

    fn answer(&mut self, blocks: &Table) {
        if self.asked.has_changed().unwrap_or(false) {
            let number = *self.asked.borrow_and_update();
            self.table.send_replace((number, blocks.clone()));
        }
    }

    fn namesake(&self, is_namesake: bool) {
        let now = self.status.borrow().clone();
        publish(&self.status, Status { is_namesake, ..now });
    }

    fn beside(&self, twin: Option<String>) {
        let is_news = self.status.send_if_modified(|status| {
            let is_news = status.twin != twin;
            status.twin.clone_from(&twin);
            is_news
        });
        if let Some(twin) = twin.filter(|_| is_news) {
            warn!(twin, "another node has this node's memory; this one gives no address out");
        }
    }

    fn remember(&mut self, memory: Memory) {
        publish(&self.memory_now, memory.clone());
        self.memory = memory;
    }

    /// What it needs it may not know yet after a start; `before` is what it said last. `None`: it has nothing to say yet.
    fn record(&self, before: Option<&NodeRecord>) -> Option<NodeRecord> {
        let blocks: BTreeSet<IpNet> = self.memory.blocks().collect();
        let before = before.filter(|record| record.instance == Some(self.memory.instance));
        let needs = self.needs.borrow().clone().or_else(|| before.and_then(|record| record.needs.clone()));
        let needs = Some(needs?);
        let about = self.about.borrow().clone();
        let lending = Some(about.lending.clone().unwrap_or_default());
        let (instance, reads_added_pools) = (Some(self.memory.instance), true);
        Some(NodeRecord { instance, blocks, needs, lending, reads_added_pools, ..about })
    }

    fn lease_seconds(&self) -> i64 {
        i64::try_from(self.settings.lease.as_secs()).unwrap_or(i64::MAX).max(1)
    }
}

/// Where a node begins in the list that all nodes have: each elsewhere, or all would be one member's.
fn first(of: InstanceId, count: usize) -> usize {
    let count = u128::try_from(count).unwrap_or(1).max(1);
    usize::try_from(of.number() % count).unwrap_or(0)
}

/// Between one and two pauses: nodes that lose a member together do not come to the next one together.
fn drawn(pause: Duration, random: u128) -> Duration {
    let part = u32::try_from(random % 1_000).unwrap_or(0);
    pause + pause * part / 1_000
}

/// With what to do, where that is etcd's to say and it does not.
fn told(error: &SessionError) -> String {
    let refused =
        if let SessionError::Call(CallError::Status { code, message }) = error { Some((*code, message)) } else { None };
    let remedy = match refused {
        Some((8, message)) if message.contains("space") => {
            ": etcd is full; compact it, `etcdctl defrag` each member, then `etcdctl alarm disarm`"
        }
        Some((7, _)) => ": give fleet.etcd.user a role that may read and write all below fleet.etcd.prefix",
        Some(_) | None => "",
    };
    chain(error) + remedy
}

fn chain(error: &dyn std::error::Error) -> String {
    std::iter::successors(Some(error), |error| error.source()).map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{drawn, first};
    use crate::identity::InstanceId;

    #[test]
    fn nodes_begin_at_all_members_and_come_back_one_after_the_other() {
        let mut at = [0; 3];
        (0..300).for_each(|node| at[first(InstanceId::new(node * 0x9e37_79b9_7f4a_7c15), 3)] += 1);
        assert!(at.iter().all(|nodes| (80..=120).contains(nodes)), "{at:?}");
        assert_eq!(first(InstanceId::new(u128::MAX), 1), 0);
        let pause = Duration::from_millis(50);
        assert_eq!(drawn(pause, 0), pause);
        assert_eq!([500, 1_999].map(|random| drawn(pause, random)), [75_000, 99_950].map(Duration::from_micros));
    }
}
