//! Addresses that were withdrawn, and may be somebody else's only when nobody believes the old any more. Pure.
//!
//! ```text
//! withdrawn in the store ─▶ waiting ─ ticket ─▶ asked ─ all who are present have answered it ─▶ free
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::identity::{InstanceId, TicketId};

/// Tickets are written no more often.
const PERIOD: Duration = Duration::from_millis(500);
/// A node that was present so lately is waited for: this node's routes to it may stand still.
const LINGER: Duration = Duration::from_secs(1);
/// Who has not answered for so long is silent.
const SILENT: Duration = Duration::from_secs(3);

#[derive(Debug, Default)]
pub(crate) struct Ledger {
    /// What others are asked to answer, and since when.
    ticket: Option<(TicketId, Instant)>,
    asked: BTreeSet<IpAddr>,
    waiting: BTreeSet<IpAddr>,
    /// What others may believe: of the store, also if it did not confirm it, and of what was withdrawn.
    known: BTreeSet<IpAddr>,
    /// When other nodes were present last.
    seen: BTreeMap<InstanceId, Instant>,
}

impl Ledger {
    /// The store may say from now on whose these are.
    pub(crate) fn say(&mut self, addresses: impl IntoIterator<Item = IpAddr>) {
        self.known.extend(addresses);
    }

    /// Of this node's addresses the store says `own`. What it lost otherwise, with a lease or by a write whose answer was not
    /// heard, is withdrawn.
    pub(crate) fn miss(&mut self, own: &BTreeSet<IpAddr>) {
        let is_lost = |address: &IpAddr| {
            !own.contains(address) && !self.asked.contains(address) && !self.waiting.contains(address)
        };
        let lost: Vec<IpAddr> = self.known.iter().copied().filter(is_lost).collect();
        self.withdraw(lost);
    }

    /// The store no longer says whose these are.
    pub(crate) fn withdraw(&mut self, addresses: impl IntoIterator<Item = IpAddr>) {
        for address in addresses {
            self.asked.remove(&address);
            self.waiting.insert(address);
        }
    }

    /// The store asks everybody: whoever answers has heard of all that was withdrawn before.
    pub(crate) fn ask(&mut self, ticket: TicketId, now: Instant) {
        self.ticket = Some((ticket, now));
        self.asked.append(&mut self.waiting);
    }

    /// The store was away: nobody could answer. What was asked is asked again.
    pub(crate) fn resume(&mut self) {
        self.waiting.append(&mut self.asked);
    }

    /// The ticket that the store has.
    pub(crate) fn ticket(&self) -> Option<TicketId> {
        self.ticket.map(|(ticket, _)| ticket)
    }

    /// Whether a ticket now would have anything to be answered.
    pub(crate) fn is_asking(&self) -> bool {
        !self.waiting.is_empty() || !self.asked.is_empty()
    }

    /// Whether to ask now. What is asked is answered first: who is slow would never answer the last of many.
    pub(crate) fn wants_to_ask(&self, now: Instant) -> bool {
        let is_time = self.ticket.is_none_or(|(_, since)| now.duration_since(since) >= PERIOD);
        is_time && !self.waiting.is_empty() && self.asked.is_empty()
    }

    /// Takes what `present` nodes have answered. Whoever is present is waited for: his lease ends where he does.
    pub(crate) fn settle(
        &mut self,
        answers: &BTreeMap<InstanceId, TicketId>,
        present: &BTreeSet<InstanceId>,
        now: Instant,
    ) {
        self.seen.extend(present.iter().map(|node| (*node, now)));
        self.seen.retain(|_, seen| now.duration_since(*seen) < LINGER);
        let answered = |ticket| self.seen.keys().all(|node| answers.get(node) == Some(&ticket));
        if self.ticket().is_some_and(answered) {
            self.asked.clear();
        }
    }

    /// Who has not answered for long, where an address waits for that.
    pub(crate) fn silent(&self, answers: &BTreeMap<InstanceId, TicketId>, now: Instant) -> Vec<InstanceId> {
        let is_old = |(_, since): &(TicketId, Instant)| now.duration_since(*since) >= SILENT;
        let Some((ticket, _)) = self.ticket.filter(is_old).filter(|_| !self.asked.is_empty()) else {
            return Vec::new();
        };
        self.seen.keys().copied().filter(|node| answers.get(node) != Some(&ticket)).collect()
    }

    /// What others may still believe, where the store says `own`.
    pub(crate) fn believed(&mut self, own: BTreeSet<IpAddr>) -> BTreeSet<IpAddr> {
        self.known = own;
        self.known.extend(self.asked.union(&self.waiting));
        self.known.clone()
    }

    /// When to look again without being told.
    pub(crate) fn next(&self, now: Instant) -> Option<Instant> {
        let must_ask = !self.waiting.is_empty() && self.asked.is_empty();
        let ask = self.ticket.filter(|_| must_ask).map(|(_, since)| since + PERIOD);
        // Who is silent, and who is gone, tells nothing of it.
        let settle = (!self.asked.is_empty() || !self.waiting.is_empty()).then(|| now + PERIOD);
        ask.into_iter().chain(settle).min()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::net::IpAddr;
    use std::time::Instant;

    use super::{LINGER, Ledger, PERIOD, SILENT};
    use crate::identity::{InstanceId, TicketId};

    fn address(last: u8) -> IpAddr {
        IpAddr::from([10, 4, 0, last])
    }

    fn nodes(numbers: &[u128]) -> BTreeSet<InstanceId> {
        numbers.iter().copied().map(InstanceId::new).collect()
    }

    fn believed(ledger: &mut Ledger) -> Vec<IpAddr> {
        ledger.believed(BTreeSet::new()).into_iter().collect()
    }

    #[test]
    fn an_address_is_free_when_all_who_are_present_have_heard_of_its_withdrawal() {
        let (mut ledger, now) = (Ledger::default(), Instant::now());
        let [first, second] = [1, 2].map(TicketId::new);
        assert!(!ledger.is_asking());
        ledger.ask(first, now);
        assert!(!ledger.is_asking());
        ledger.withdraw([address(1)]);
        assert!(ledger.is_asking());
        let mut answers: BTreeMap<InstanceId, TicketId> =
            nodes(&[1, 2]).into_iter().map(|node| (node, first)).collect();
        let settle = |ledger: &mut Ledger, answers: &BTreeMap<_, _>, present: &[u128]| {
            ledger.settle(answers, &nodes(present), now + PERIOD);
            // Who left just now is still reached from here.
            ledger.settle(answers, &nodes(&present[..1]), now + LINGER);
        };
        settle(&mut ledger, &answers, &[1, 2]);
        assert_eq!(believed(&mut ledger), [address(1)], "an answer to what was asked before says nothing of it");
        assert!(!ledger.wants_to_ask(now) && ledger.wants_to_ask(now + PERIOD));
        assert_eq!(ledger.next(now + PERIOD / 2), Some(now + PERIOD));
        ledger.ask(second, now + PERIOD);
        // What goes later waits for the next ticket, and that for answers to this one.
        ledger.withdraw([address(2)]);
        assert!(ledger.is_asking(), "what was asked and is not settled is asked again with the next");
        answers.insert(InstanceId::new(1), second);
        settle(&mut ledger, &answers, &[1, 2]);
        assert_eq!(believed(&mut ledger), [address(1), address(2)], "one has not answered");
        assert!(!ledger.wants_to_ask(now + 9 * PERIOD));
        ledger.settle(&answers, &nodes(&[1]), now + PERIOD + LINGER);
        assert_eq!(believed(&mut ledger), [address(2)], "who is gone is not waited for");
        assert!(ledger.wants_to_ask(now + 9 * PERIOD));
    }

    #[test]
    fn who_is_present_is_waited_for_however_long_and_named() {
        let (mut ledger, now, first) = (Ledger::default(), Instant::now(), TicketId::new(1));
        ledger.withdraw([address(1)]);
        ledger.ask(first, now);
        let answers = BTreeMap::from([(InstanceId::new(1), first)]);
        let mut after = |time| {
            ledger.settle(&answers, &nodes(&[1, 2]), now + time);
            (believed(&mut ledger), ledger.silent(&answers, now + time))
        };
        assert_eq!(after(SILENT / 2), (vec![address(1)], Vec::new()));
        for times in [1, 100, 10_000] {
            assert_eq!(after(SILENT * times), (vec![address(1)], vec![InstanceId::new(2)]));
        }
        let answers = nodes(&[1, 2]).into_iter().map(|node| (node, first)).collect();
        ledger.settle(&answers, &nodes(&[1, 2]), now + SILENT * 10_000);
        assert_eq!(believed(&mut ledger), Vec::<IpAddr>::new());
        assert_eq!(ledger.silent(&BTreeMap::new(), now + SILENT * 10_000), Vec::new(), "nothing waits for them");
    }

    #[test]
    fn what_was_asked_before_the_store_was_away_is_asked_again() {
        let (mut ledger, now, first) = (Ledger::default(), Instant::now(), TicketId::new(1));
        ledger.withdraw([address(1)]);
        ledger.ask(first, now);
        ledger.withdraw([address(2)]);
        let back = now + 9 * PERIOD;
        ledger.resume();
        assert!(ledger.wants_to_ask(back));
        // An answer from before says nothing: what was not asked again is not settled by it.
        let answers = BTreeMap::from([(InstanceId::new(1), first)]);
        ledger.settle(&answers, &nodes(&[1]), back);
        assert_eq!(believed(&mut ledger), [address(1), address(2)]);
    }

    #[test]
    fn what_the_store_lost_is_withdrawn() {
        let (mut ledger, now) = (Ledger::default(), Instant::now());
        let own = |numbers: &[u8]| numbers.iter().copied().map(address).collect::<BTreeSet<_>>();
        ledger.say([address(1), address(2)]);
        ledger.miss(&own(&[1, 2]));
        assert_eq!(ledger.believed(own(&[1, 2])), own(&[1, 2]));
        assert!(!ledger.wants_to_ask(now));
        // One was put, and nobody heard whether it was; of one the lease ended.
        ledger.say([address(3)]);
        ledger.miss(&own(&[1]));
        assert!(ledger.wants_to_ask(now));
        assert_eq!(ledger.believed(own(&[1])), own(&[1, 2, 3]));
        let silent = nodes(&[1]);
        ledger.ask(TicketId::new(1), now);
        ledger.settle(&BTreeMap::new(), &silent, now);
        ledger.miss(&own(&[1]));
        assert!(!ledger.wants_to_ask(now + PERIOD), "it is asked about once");
        let answers = BTreeMap::from([(InstanceId::new(1), TicketId::new(1))]);
        ledger.settle(&answers, &silent, now);
        assert_eq!(ledger.believed(own(&[1])), own(&[1]));
        ledger.miss(&own(&[1]));
        assert!(!ledger.wants_to_ask(now + PERIOD));
    }
}
