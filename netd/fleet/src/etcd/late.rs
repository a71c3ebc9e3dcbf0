//! Peers that the store did not tell of when this node came back to it. Where all were away for longer than their leases, the
//! first one to come back finds nobody: the others come, each in its turn. What leads to them stays meanwhile, and so does what
//! they told of their sandboxes, as long as none of its addresses can be another's.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::identity::{InstanceId, NodeName, TicketId};
use crate::peers::{NodeRecord, Peers};
use crate::sandboxes::{Heard, Records};

/// A session counts for this part of a lease at least: those that come and go extend no waiting without end.
const SHORTEST: u32 = 10;

/// The last of each node.
pub(super) type Tickets = BTreeMap<InstanceId, TicketId>;

#[derive(Debug, Default)]
pub(super) struct Late {
    peers: BTreeMap<NodeName, Missed>,
    /// When the session began.
    since: Option<Instant>,
}

#[derive(Debug)]
struct Missed {
    peer: NodeRecord,
    /// It is waited for so long, while there is a session.
    left: Duration,
    has_come: bool,
    /// What it told, and has not told again.
    records: Records,
    /// Its question that was heard last: while it has asked nothing else as a peer, no address of those records is another's.
    ticket: Option<TicketId>,
}

impl Missed {
    fn new(peer: &NodeRecord, (heard, tickets): (&Heard, &Tickets), left: Duration) -> Self {
        let records = peer.instance.and_then(|instance| heard.records.get(&instance));
        let mut records = records.map(|records| Records::clone(records)).unwrap_or_default();
        records.retain(|_, record| record.is_ok());
        let ticket = peer.instance.and_then(|instance| tickets.get(&instance).copied());
        Self { peer: peer.clone(), left, has_come: false, records, ticket }
    }

    /// It has told these instead.
    fn forget(&mut self, told: &Records) {
        let spoken: BTreeSet<IpAddr> = addresses(told).collect();
        let is_told = |container: &String| told.contains_key(container);
        self.records.retain(|container, record| {
            let is_anothers =
                record.as_ref().is_ok_and(|record| record.addresses.keys().any(|address| spoken.contains(address)));
            !is_told(container) && !is_anothers
        });
    }
}

impl Late {
    /// A session begins, to which the store tells of `told` by their names. `known` and `last`, what was heard of their
    /// sandboxes and their tickets: before this node came back.
    pub(super) fn begin(
        &mut self,
        (known, last): (&Peers, (&Heard, &Tickets)),
        told: &BTreeMap<String, NodeRecord>,
        (lease, now): (Duration, Instant),
    ) {
        self.since = Some(now);
        let is_away = |name: &NodeName| known.contains_key(name) && !told.contains_key(name.as_str());
        self.peers.retain(|name, missed| !missed.has_come && is_away(name));
        for (name, peer) in known.iter().filter(|(name, _)| is_away(name)) {
            self.peers.entry(name.clone()).or_insert_with(|| Missed::new(peer, last, lease));
        }
    }

    /// The session ended: what there was of it counts.
    pub(super) fn end(&mut self, lease: Duration, now: Instant) {
        let Some(since) = self.since.take() else { return };
        let spent = now.duration_since(since).max(lease / SHORTEST);
        self.peers.values_mut().for_each(|missed| missed.left = missed.left.saturating_sub(spent));
    }

    /// Whether anything is kept of what they told.
    pub(super) fn keeps(&self) -> bool {
        self.peers.values().any(|missed| !missed.records.is_empty())
    }

    /// These are the last questions that nodes asked as peers. Who asked one that was not heard may have given an address to
    /// somebody else since; those that ask from now on wait for this node.
    pub(super) fn doubt(&mut self, tickets: &Tickets) {
        for missed in self.peers.values_mut() {
            let ticket = missed.peer.instance.and_then(|instance| tickets.get(&instance).copied());
            if ticket.is_none() || ticket != missed.ticket {
                missed.records.clear();
            }
        }
    }

    /// The store tells of these by now. Says whether what somebody told is given up.
    pub(super) fn pass(&mut self, told: &BTreeMap<String, NodeRecord>, now: Instant) -> bool {
        let spent = self.since.map(|since| now.duration_since(since)).unwrap_or_default();
        let mut is_given_up = false;
        self.peers.retain(|name, missed| {
            let come = told.get(name.as_str());
            missed.has_come |= come.is_some();
            let is_over = missed.left <= spent || come.is_some_and(|come| come.instance != missed.peer.instance);
            is_given_up |= is_over && !missed.records.is_empty();
            let is_whole = missed.has_come && missed.records.is_empty();
            !is_over && !is_whole
        });
        is_given_up
    }

    /// Those that may still come. Whoever came is known from the store alone.
    pub(super) fn awaited(&self) -> impl Iterator<Item = &NodeRecord> {
        self.peers.values().filter(|missed| !missed.has_come).map(|missed| &missed.peer)
    }

    /// What is heard, and what is not given up yet. Whoever told that is not answered before it is.
    pub(super) fn with_kept(&mut self, heard: &Heard) -> Heard {
        let mut all = heard.clone();
        for missed in self.peers.values_mut() {
            let Some(instance) = missed.peer.instance else { continue };
            if let Some(told) = heard.records.get(&instance) {
                missed.forget(told);
            }
            if !missed.records.is_empty() {
                let records: &mut Records = Arc::make_mut(all.records.entry(instance).or_default());
                records.extend(missed.records.iter().map(|(container, record)| (container.clone(), record.clone())));
                all.asked.remove(&instance);
            }
        }
        all
    }
}

fn addresses(records: &Records) -> impl Iterator<Item = IpAddr> {
    records.values().flatten().flat_map(|record| record.addresses.keys().copied())
}

#[cfg(test)]
mod tests;
