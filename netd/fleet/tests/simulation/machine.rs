//! A node: its disk, which outlives a crash, and what runs on it, which does not.

use std::collections::{BTreeMap, BTreeSet};

use crate::protocol::{Action, ClaimId, Hold, InstanceId, Key, Memory, Pool, Txn, View, Wish, decide};
use ipnet::IpNet;

use crate::driver::Driver;
use crate::store::{Change, Content, Request, Seen};

#[derive(Debug, Clone)]
pub(crate) struct Machine {
    /// What the node remembers; after a crash, what is on its disk.
    pub(crate) memory: Memory,
    /// What is on its disk, where a broken driver lets that lag behind.
    pub(crate) durable: Option<Memory>,
    pub(crate) is_destroyed: bool,
    pub(crate) is_cut_off: bool,
    pub(crate) running: Option<Running>,
    pub(crate) wish: Wish,
    /// Most blocks of each pool that it ever wished.
    pub(crate) most: BTreeMap<String, usize>,
    /// All that it ever wished to keep of its claims.
    pub(crate) kept: BTreeSet<(ClaimId, IpNet)>,
    /// The latest epoch in which it remembered each of its claims.
    pub(crate) claimed_at: BTreeMap<ClaimId, u64>,
    /// Its clock beside the world's.
    pub(crate) offset: i64,
    /// When it last heard that its lease lives, by its own clock.
    pub(crate) renewed: i64,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Running {
    pub(crate) view: Option<View>,
    /// In which revision each key of the view was written.
    written: BTreeMap<Key, u64>,
    /// The watch of the fleet's keys, and that of acknowledgements.
    pub(crate) seen: u64,
    pub(crate) seen_acks: u64,
    pub(crate) reign: u64,
    pub(crate) work: Work,
}

#[derive(Debug, Clone, Default)]
pub(crate) enum Work {
    #[default]
    Idle,
    Saving(Box<Memory>),
    Awaiting(u64),
}

impl Machine {
    pub(crate) fn new(memory: Memory, wish: Wish) -> Self {
        Self {
            memory,
            durable: None,
            is_destroyed: false,
            is_cut_off: false,
            running: Some(Running::default()),
            most: wish.blocks.clone(),
            wish,
            kept: BTreeSet::new(),
            claimed_at: BTreeMap::new(),
            offset: 0,
            renewed: 0,
        }
    }

    pub(crate) fn instance(&self) -> InstanceId {
        self.memory.instance
    }

    pub(crate) fn disk(&self) -> &Memory {
        self.durable.as_ref().unwrap_or(&self.memory)
    }

    /// What its sandboxes have addresses from. They live on while netd does not run.
    pub(crate) fn used(&self) -> Vec<IpNet> {
        if self.is_destroyed { Vec::new() } else { self.memory.usable() }
    }

    /// The same for one that does not wait to be confirmed.
    pub(crate) fn used_in_haste(&self) -> Vec<IpNet> {
        let mut hasty = self.memory.clone();
        hasty.holdings.values_mut().for_each(|holding| holding.state = Hold::Confirmed);
        if self.is_destroyed { Vec::new() } else { hasty.usable() }
    }

    pub(crate) fn confirmed(&self) -> BTreeSet<ClaimId> {
        let confirmed = self.memory.holdings.iter().filter(|(_, holding)| holding.state == Hold::Confirmed);
        confirmed.map(|(id, _)| *id).collect()
    }

    /// How many of them are of a pool.
    pub(crate) fn confirmed_in(&self, pool: &Pool) -> usize {
        let confirmed = self.memory.holdings.values().filter(|holding| holding.state == Hold::Confirmed);
        confirmed.filter(|holding| pool.range.contains(&holding.block)).count()
    }

    /// The same, with what is held.
    pub(crate) fn held(&self) -> BTreeMap<ClaimId, IpNet> {
        let confirmed = self.memory.holdings.iter().filter(|(_, holding)| holding.state == Hold::Confirmed);
        confirmed.map(|(id, holding)| (*id, holding.range())).collect()
    }

    pub(crate) fn note_claims(&mut self) {
        for (id, holding) in &self.memory.holdings {
            let known = self.memory.table.get(&holding.block).filter(|record| record.claims.contains_key(id));
            let then = self.claimed_at.entry(*id).or_default();
            *then = known.map_or(*then, |record| record.epoch.max(*then));
        }
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.running.as_ref().is_some_and(|running| matches!(running.work, Work::Idle))
    }

    pub(crate) fn is_saving(&self) -> bool {
        self.durable.is_some() || self.running.as_ref().is_some_and(|running| matches!(running.work, Work::Saving(_)))
    }

    /// It ends in the middle of whatever it does; a write to its disk was done, or not: half of one is none, since the file is
    /// replaced as a whole.
    pub(crate) fn crash(&mut self, is_written: bool) {
        if is_written {
            self.written();
        }
        if let Some(durable) = self.durable.take() {
            self.memory = durable;
        }
        self.running = None;
        // An operator's word is not on its disk.
        self.wish.add.clear();
    }

    /// What is being written to disk is there.
    pub(crate) fn written(&mut self) {
        self.durable = None;
        let Some(running) = &mut self.running else { return };
        match std::mem::take(&mut running.work) {
            Work::Saving(memory) => self.memory = *memory,
            other @ (Work::Idle | Work::Awaiting(_)) => running.work = other,
        }
    }

    pub(crate) fn decide(&self, fresh: u128) -> Option<Action> {
        let view = self.running.as_ref()?.view.as_ref()?;
        decide(&self.memory, view, &self.wish, fresh)
    }
}

impl Running {
    pub(crate) fn listed(&mut self, content: Content, revision: u64, reign: u64) {
        let mut view = View::default();
        self.written.clear();
        for (key, (value, written)) in content {
            view.apply(key, Some(value));
            self.written.insert(key, written);
        }
        (self.view, self.seen, self.seen_acks, self.reign) = (Some(view), revision, revision, reign);
    }

    /// Takes what the watch of the fleet told: whole revisions.
    pub(crate) fn heard(&mut self, changes: Vec<Change>) {
        for change in changes {
            self.seen = change.revision;
            if !matches!(change.key, Key::Ack(_)) {
                self.take(change);
            }
        }
    }

    /// Takes what the watch of acknowledgements told: those to this node, and, when their answer came, its own.
    pub(crate) fn heard_acks(&mut self, changes: Vec<Change>, me: InstanceId) {
        for change in changes {
            self.seen_acks = change.revision;
            if matches!(change.key, Key::Ack(ack) if ack.author == me || ack.witness == me) {
                self.take(change);
            }
        }
    }

    fn take(&mut self, Change { revision, key, value }: Change) {
        let Some(view) = &mut self.view else { return };
        match &value {
            Some(_) => drop(self.written.insert(key, revision)),
            None => drop(self.written.remove(&key)),
        }
        view.apply(key, value);
    }

    pub(crate) fn request(&self, from: usize, txn: Txn, driver: Driver) -> Option<Request> {
        let view = self.view.as_ref()?;
        let see = |key: &Key| Seen {
            key: *key,
            value: view.value(key),
            revision: self.written.get(key).copied().unwrap_or_default(),
        };
        let seen = txn.unchanged.iter().map(see).collect();
        Some(Request { from, seen, by_revision: driver == Driver::ByRevision, txn })
    }
}
