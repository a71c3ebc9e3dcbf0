//! A session's part in what nodes tell each other of sandboxes: its own records are made what they should be, withdrawn
//! addresses are asked about, and others' questions are answered. Every write is under the node's lease.
//!
//! A write of an earlier session may still arrive; it names a ticket that the store does not have any more, and is not done.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Instant;

use super::client::{Seen, Words, Write};
use super::hearsay::{ASKS_NOTHING, tickets_in};
use super::session::{Session, SessionError};
use crate::disk::random;
use crate::identity::{InstanceId, TicketId};
use crate::sandboxes::{SandboxRecord, Told};

/// etcd takes 128 operations a transaction.
const TOGETHER: usize = 100;

/// What a session knows of its own telling.
#[derive(Default)]
pub(super) struct Talk {
    /// The store has a ticket of this session.
    pub(super) is_open: bool,
    /// As it is written.
    ticket: Vec<u8>,
    /// The hearing from which on others wait for this node.
    pub(super) since: Option<u64>,
    /// What the store should have, as it is written, and which telling that is.
    wanted: BTreeMap<String, Vec<u8>>,
    /// 0: netd has not said anything yet.
    pub(super) number: u64,
    is_read: bool,
    answered: BTreeMap<InstanceId, TicketId>,
}

impl Session<'_> {
    /// Does one thing, if there is one to do.
    pub(super) async fn talk(&mut self) -> Result<bool, SessionError> {
        if self.hearsay.is_own_news {
            // Before it asks: the first question of a session is about what was lost before, too.
            self.node.ledger.miss(&self.own());
        }
        if self.has_twin() {
            // It is read whole when there is none any more.
            self.talk.is_read = false;
            self.node.telling.mark_unchanged();
            self.node.applied.mark_unchanged();
            return Ok(false);
        }
        if !self.talk.is_open {
            if self.has_name() {
                // Ahead of all else: others wait from then on until this node has forgotten what they withdraw.
                return self.ask().await;
            }
            // What netd says meanwhile is read whole then, and no reason to look again.
            self.node.telling.mark_unchanged();
            self.node.applied.mark_unchanged();
            return Ok(false);
        }
        self.read()?;
        if self.answer().await? {
            return Ok(true);
        }
        if self.talk.number == 0 {
            // netd has not said anything yet: what the store has may be what it will say.
            return Ok(false);
        }
        if self.tell().await? {
            return Ok(true);
        }
        // What is given away as long as it is no peer, nobody would know of who comes later.
        if self.said.is_none() {
            return Ok(false);
        }
        if self.node.ledger.wants_to_ask(Instant::now()) {
            return self.ask().await;
        }
        self.settle();
        Ok(false)
    }

    pub(super) fn look_again(&self) -> Option<tokio::time::Instant> {
        let is_heeded = self.talk.is_open && self.talk.number != 0 && self.said.is_some() && !self.has_twin();
        self.node.ledger.next(Instant::now()).filter(|_| is_heeded).map(Into::into)
    }

    /// What was heard since others wait for this node holds, and they are told all that it has to tell.
    pub(super) fn is_up_to_date(&self) -> bool {
        let is_told = self.talk.number == 0 || !self.hearsay.is_own_news;
        is_told && self.talk.since.is_some_and(|since| self.node.applied.borrow().number >= since)
    }

    async fn ask(&mut self) -> Result<bool, SessionError> {
        let ticket = TicketId::new(random()?);
        let key = self.node.keys.asked(self.node.memory.instance);
        let value = asking(ticket, self.node.ledger.is_asking());
        let asked = Write::Put { key, value: value.clone(), lease: self.lease };
        let lasting = self.said.is_some().then(|| self.lasting(ticket));
        let seen = if self.talk.is_open { vec![self.ticket()] } else { Vec::new() };
        self.write(seen, std::iter::once(asked).chain(lasting).collect()).await?;
        if !self.talk.is_open && self.node.late.keeps() {
            let tickets = self.client.list(self.node.keys.tickets()).await?;
            self.node.late.doubt(&tickets_in(&self.node.keys, &tickets));
            self.hearsay.is_news = true;
        }
        (self.talk.is_open, self.talk.ticket) = (true, value);
        self.node.ledger.ask(ticket, Instant::now());
        Ok(true)
    }

    /// What this node asked as a peer outlives its lease; of one that was removed, and lives, nothing does.
    fn lasting(&self, ticket: TicketId) -> Write {
        let me = self.node.memory.instance;
        let key = self.node.keys.ticket(me);
        let is_removed = self.mirror.view.charter.as_ref().is_some_and(|charter| charter.removed.contains(&me));
        if is_removed {
            return Write::Delete(key);
        }
        Write::Put { key, value: ticket.to_string().into(), lease: 0 }
    }

    pub(super) fn asked_as_peer(&self) -> Option<Write> {
        self.node.ledger.ticket().map(|ticket| self.lasting(ticket))
    }

    /// Says what this node has forgotten.
    async fn answer(&mut self) -> Result<bool, SessionError> {
        let me = self.node.memory.instance;
        let applied = self.node.applied.borrow_and_update().asked.clone();
        let is_due = |(of, ticket): &(InstanceId, TicketId)| {
            *of != me && self.hearsay.heard.asked.get(of) == Some(ticket) && self.talk.answered.get(of) != Some(ticket)
        };
        let due: Vec<(InstanceId, TicketId)> = applied.into_iter().filter(is_due).take(TOGETHER).collect();
        if due.is_empty() {
            return Ok(false);
        }
        let put = |(of, ticket): &(InstanceId, TicketId)| {
            let key = self.node.keys.answer(*of, me);
            Write::Put { key, value: ticket.to_string().into(), lease: self.lease }
        };
        self.client.txn(Words { seen: Vec::new(), writes: due.iter().map(put).collect() }).await?;
        self.talk.answered.extend(due);
        Ok(true)
    }

    async fn tell(&mut self) -> Result<bool, SessionError> {
        if !self.hearsay.is_own_news {
            return Ok(false);
        }
        let own = &self.hearsay.own;
        let gone = own.keys().filter(|container| !self.talk.wanted.contains_key(*container));
        let is_told = |container: &String, value: &Vec<u8>| {
            own.get(container).is_some_and(|(told, lease)| told == value && *lease == self.lease)
        };
        let news = self.talk.wanted.iter().filter(|(container, value)| !is_told(container, value));
        let changed: Vec<String> = gone.chain(news.map(|(container, _)| container)).take(TOGETHER).cloned().collect();
        if changed.is_empty() {
            self.hearsay.is_own_news = false;
            return Ok(false);
        }
        let withdrawn: BTreeSet<IpAddr> = changed.iter().flat_map(|container| self.withdrawn(container)).collect();
        let writes = changed.iter().map(|container| self.change(container)).collect();
        let seen = vec![self.ticket()];
        // It may be done without its answer being heard.
        self.node.ledger.withdraw(withdrawn.iter().copied());
        let put = changed.iter().filter_map(|container| self.talk.wanted.get(container));
        self.node.ledger.say(put.flat_map(|value| addresses(value)));
        self.write(seen, writes).await?;
        self.node.ledger.withdraw(withdrawn);
        Ok(true)
    }

    /// Takes what netd wants to be told by now.
    fn read(&mut self) -> Result<(), SessionError> {
        let is_news = self.node.telling.has_changed().unwrap_or(false);
        if self.talk.is_read && !is_news {
            return Ok(());
        }
        let telling = self.node.telling.borrow_and_update();
        let encoded =
            telling.records.iter().map(|(container, record)| Ok((container.clone(), serde_json::to_vec(record)?)));
        self.talk.wanted = encoded.collect::<Result<_, serde_json::Error>>()?;
        (self.talk.number, self.talk.is_read, self.hearsay.is_own_news) = (telling.number, true, true);
        let suspects = telling.suspects.difference(&self.node.suspected).copied().collect::<BTreeSet<_>>();
        drop(telling);
        self.node.ledger.withdraw(suspects.iter().copied());
        self.node.suspected.extend(suspects);
        Ok(())
    }

    /// Addresses that the store no longer says to be this container's.
    fn withdrawn(&self, container: &str) -> BTreeSet<IpAddr> {
        let kept: BTreeSet<IpAddr> =
            self.talk.wanted.get(container).into_iter().flat_map(|value| addresses(value)).collect();
        let told = self.hearsay.own.get(container).into_iter().flat_map(|(value, _)| addresses(value));
        told.filter(|address| !kept.contains(address)).collect()
    }

    /// Of what the store says of this node's sandboxes.
    fn own(&self) -> BTreeSet<IpAddr> {
        self.hearsay.own.values().flat_map(|(value, _)| addresses(value)).collect()
    }

    fn change(&self, container: &str) -> Write {
        let key = self.node.keys.record(self.node.memory.instance, container);
        match self.talk.wanted.get(container) {
            Some(value) => Write::Put { key, value: value.clone(), lease: self.lease },
            None => Write::Delete(key),
        }
    }

    /// That the store was last written by this session.
    fn ticket(&self) -> (Vec<u8>, Seen) {
        (self.node.keys.asked(self.node.memory.instance), Seen::Value(self.talk.ticket.clone()))
    }

    async fn write(&mut self, seen: Vec<(Vec<u8>, Seen)>, writes: Vec<Write>) -> Result<(), SessionError> {
        let outcome = self.client.txn(Words { seen, writes }).await?;
        if !outcome.is_done {
            return Err(SessionError::Overtaken);
        }
        self.echo(outcome.revision, |session| session.hearsay.revision).await
    }

    fn settle(&mut self) {
        let (present, now) = (self.waited_for(), Instant::now());
        self.node.ledger.settle(&self.hearsay.answers, &present, now);
        let silent = self.node.ledger.silent(&self.hearsay.answers, now).into_iter().map(|node| self.called(node));
        let silent = silent.collect();
        let believed = self.node.ledger.believed(self.own());
        let told = Told { number: self.talk.number, believed, silent };
        self.node.told.send_if_modified(|known| {
            let is_news = known.as_ref() != Some(&told);
            *known = Some(told);
            is_news
        });
    }

    /// Who may believe what was told once: peers that hear, those that come late, and who is about to be a peer.
    fn waited_for(&self) -> BTreeSet<InstanceId> {
        let peers = self.mirror.peers.values().chain(self.node.late.awaited());
        let hear = peers.filter(|record| record.needs.is_some()).filter_map(|record| record.instance);
        // These come by the watch that tells that a ticket is written: who is not among them by then hears of it ahead of being a
        // peer.
        let asking = self.hearsay.tickets.keys().copied();
        hear.chain(asking).filter(|instance| *instance != self.node.memory.instance).collect()
    }

    /// For people. Who is no peer yet is known by its blocks, if by anything.
    fn called(&self, node: InstanceId) -> String {
        let mut peers = self.mirror.peers.values().chain(self.node.late.awaited());
        let peer = peers.find(|peer| peer.instance == Some(node)).map(|peer| &peer.name);
        let mut claims = self.mirror.view.blocks.values().flat_map(|record| record.claims.values());
        let name = peer.or_else(|| claims.find(|claim| claim.owner == node).map(|claim| &claim.name));
        name.map_or_else(|| node.to_string(), ToString::to_string)
    }
}

/// A session's first ticket is there for its writes to name, and for others to wait for it. Where nothing was withdrawn, nobody
/// is to answer it: all would answer each time that a node comes.
fn asking(ticket: TicketId, is_asking: bool) -> Vec<u8> {
    if is_asking { ticket.to_string().into() } else { format!("{ticket}{ASKS_NOTHING}").into() }
}

/// None where it cannot be read.
fn addresses(value: &[u8]) -> impl Iterator<Item = IpAddr> + use<> {
    let record = serde_json::from_slice::<SandboxRecord>(value).ok();
    record.into_iter().flat_map(|record| record.addresses.into_keys())
}
