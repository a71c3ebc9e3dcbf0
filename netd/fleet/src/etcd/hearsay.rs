//! What the store says of sandboxes, as it was last heard: everybody's, and how far others know this node's.
//!
//! A record that cannot be read is one node's trouble, and no reason to hear of nothing else.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::api::event::EventType;
use super::api::{KeyValue, WatchResponse};
use super::client::Listing;
use super::keys::{Keys, Word};
use crate::identity::{InstanceId, TicketId};
use crate::sandboxes::{Heard, Records};

/// Behind a ticket by which nothing is asked.
pub(super) const ASKS_NOTHING: &str = " asks nothing";

pub(super) struct Hearsay {
    keys: Keys,
    me: InstanceId,
    pub(super) heard: Heard,
    /// The ticket of each other node that has a session, whether it asks anything or not.
    pub(super) tickets: BTreeMap<InstanceId, TicketId>,
    /// They have changed since this was cleared.
    pub(super) are_tickets_news: bool,
    /// This node's own records, as they are written, each with its lease.
    pub(super) own: BTreeMap<String, (Vec<u8>, i64)>,
    /// What others answered this node.
    pub(super) answers: BTreeMap<InstanceId, TicketId>,
    pub(super) revision: i64,
    /// Something of others has changed since this was cleared.
    pub(super) is_news: bool,
    /// Something of this node's own has.
    pub(super) is_own_news: bool,
}

impl Hearsay {
    pub(super) fn of(keys: Keys, me: InstanceId, sandboxes: Listing, answers: Listing) -> Self {
        let heard = Heard { is_known: true, ..Heard::default() };
        let mut hearsay = Self {
            keys,
            me,
            heard,
            tickets: BTreeMap::new(),
            are_tickets_news: true,
            own: BTreeMap::new(),
            answers: BTreeMap::new(),
            revision: sandboxes.revision,
            is_news: true,
            is_own_news: true,
        };
        sandboxes.pairs.into_iter().chain(answers.pairs).for_each(|pair| hearsay.take(pair, true));
        hearsay
    }

    pub(super) fn hear(&mut self, answer: WatchResponse) {
        for event in answer.events {
            let pair = event.kv.unwrap_or_default();
            self.revision = self.revision.max(pair.mod_revision);
            self.take(pair, event.type_.enum_value_or_default() == EventType::PUT);
        }
    }

    /// Answers come by a watch of their own, which says nothing of how far this one is.
    pub(super) fn hear_answers(&mut self, answer: WatchResponse) {
        for event in answer.events {
            self.take(event.kv.unwrap_or_default(), event.type_.enum_value_or_default() == EventType::PUT);
        }
    }

    fn take(&mut self, pair: KeyValue, is_there: bool) {
        match self.keys.word(&pair.key) {
            Some(Word::Record(of, container)) => self.record(of, container, (pair.value, pair.lease), is_there),
            Some(Word::Asked(of)) if of == self.me => {}
            Some(Word::Asked(of)) => {
                let question = question(&pair.value).filter(|_| is_there);
                let asked = question.filter(|(_, is_asking)| *is_asking).map(|(ticket, _)| ticket);
                self.is_news |= self.heard.asked.get(&of) != asked.as_ref();
                self.are_tickets_news = true;
                set(&mut self.heard.asked, of, asked);
                set(&mut self.tickets, of, question.map(|(ticket, _)| ticket));
            }
            Some(Word::Answer(by)) => set(&mut self.answers, by, ticket(&pair.value).filter(|_| is_there)),
            // The first is read where a session begins; the second is of a later netd.
            Some(Word::Ticket(_)) | None => {}
        }
    }

    fn record(&mut self, of: InstanceId, container: String, written: (Vec<u8>, i64), is_there: bool) {
        if of == self.me {
            self.is_own_news = true;
            set(&mut self.own, container, Some(written).filter(|_| is_there));
            return;
        }
        self.is_news = true;
        let records: &mut Records = Arc::make_mut(self.heard.records.entry(of).or_default());
        let record = serde_json::from_slice(&written.0).map(Arc::new).map_err(|error| error.to_string());
        set(records, container, Some(record).filter(|_| is_there));
        if records.is_empty() {
            self.heard.records.remove(&of);
        }
    }
}

/// The last question of each node that ever asked as a peer.
pub(super) fn tickets_in(keys: &Keys, listing: &Listing) -> BTreeMap<InstanceId, TicketId> {
    let of = |pair: &KeyValue| match keys.word(&pair.key) {
        Some(Word::Ticket(of)) => Some((of, ticket(&pair.value)?)),
        _ => None,
    };
    listing.pairs.iter().filter_map(of).collect()
}

fn set<K: Ord, V>(map: &mut BTreeMap<K, V>, key: K, value: Option<V>) {
    match value {
        Some(value) => drop(map.insert(key, value)),
        None => drop(map.remove(&key)),
    }
}

/// A ticket, and whether it is to be answered.
fn question(value: &[u8]) -> Option<(TicketId, bool)> {
    match value.strip_suffix(ASKS_NOTHING.as_bytes()) {
        Some(ticket) => Some((self::ticket(ticket)?, false)),
        None => Some((ticket(value)?, true)),
    }
}

fn ticket(value: &[u8]) -> Option<TicketId> {
    std::str::from_utf8(value).ok()?.parse().ok()
}
