//! Who is awaited, for how long, and what is kept of what they told.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::{Late, Tickets};
use crate::identity::{InstanceId, NodeName, TicketId};
use crate::peers::{NodeRecord, Peers};
use crate::sandboxes::{Heard, Records, SandboxRecord};

const LEASE: Duration = Duration::from_secs(10);

type ByName = BTreeMap<String, NodeRecord>;

fn number(name: &str) -> InstanceId {
    InstanceId::new(u128::from(name.as_bytes()[0]))
}

fn node(name: &str) -> NodeRecord {
    NodeRecord {
        instance: Some(number(name)),
        name: NodeName::new(name).unwrap(),
        addresses: BTreeSet::new(),
        blocks: BTreeSet::new(),
        encapsulations: BTreeSet::new(),
        accepts: BTreeSet::new(),
        mtu: None,
        labels: BTreeMap::new(),
        version: String::new(),
        needs: None,
        lending: None,
        reads_added_pools: false,
    }
}

fn peers(names: &[&str]) -> Peers {
    names.iter().map(|name| (NodeName::new(*name).unwrap(), node(name))).collect()
}

fn told(names: &[&str]) -> ByName {
    names.iter().map(|name| ((*name).to_owned(), node(name))).collect()
}

fn names(late: &mut Late, told_now: &[&str], now: Instant) -> Vec<String> {
    late.pass(&told(told_now), now);
    late.awaited().map(|peer| peer.name.to_string()).collect()
}

/// Of `a`, by container, each with an address.
fn heard(of: &[(&str, u8)], ticket: u128) -> Heard {
    let record = |last: u8| SandboxRecord {
        addresses: BTreeMap::from([(IpAddr::from([10, 4, 0, last]), None)]),
        ..SandboxRecord::default()
    };
    let records: Records =
        of.iter().map(|(container, last)| ((*container).to_owned(), Ok(Arc::new(record(*last))))).collect();
    let (records, asked) = ((number("a"), Arc::new(records)), (number("a"), TicketId::new(ticket)));
    Heard { is_known: true, records: [records].into(), asked: [asked].into(), ..Heard::default() }
}

fn tickets(ticket: u128) -> Tickets {
    [(number("a"), TicketId::new(ticket))].into()
}

/// The containers of `a`, and whether it is answered.
fn kept(late: &mut Late, heard: &Heard) -> (String, bool) {
    let all = late.with_kept(heard);
    let containers = all.records.get(&number("a")).map(|records| records.keys().cloned().collect::<Vec<_>>().join(" "));
    (containers.unwrap_or_default(), all.asked.contains_key(&number("a")))
}

#[test]
fn who_was_known_is_awaited_until_it_comes_or_the_time_is_over() {
    let (mut late, now) = (Late::default(), Instant::now());
    late.begin((&peers(&["a", "b"]), (&Heard::default(), &Tickets::new())), &told(&[]), (LEASE, now));
    assert_eq!(names(&mut late, &[], now), ["a", "b"]);
    assert_eq!(names(&mut late, &["b", "c"], now), ["a"]);
    // It came and went: that is news of the store.
    assert_eq!(names(&mut late, &["c"], now), ["a"]);
    assert_eq!(names(&mut late, &["c"], now + LEASE), Vec::<String>::new());
}

#[test]
fn sessions_that_come_and_go_extend_nothing_for_ever() {
    let (mut late, mut now) = (Late::default(), Instant::now());
    let mut known = peers(&["a"]);
    let mut session = |lasts: Duration| {
        late.begin((&known, (&Heard::default(), &Tickets::new())), &told(&[]), (LEASE, now));
        now += lasts;
        let is_awaited = names(&mut late, &[], now) == ["a"];
        late.end(LEASE, now);
        known.retain(|_, _| is_awaited);
        // While there is none, nobody can come.
        now += 10 * LEASE;
        is_awaited
    };
    assert!(session(LEASE / 2));
    assert!(session(LEASE / 4));
    assert!(session(Duration::ZERO) && session(Duration::ZERO));
    assert!(!session(LEASE / 10));
    assert!(!session(Duration::ZERO));
}

#[test]
fn what_a_late_peer_told_stays_until_it_is_told_again_or_the_time_is_over() {
    let (mut late, now) = (Late::default(), Instant::now());
    let nothing = Heard { is_known: true, ..Heard::default() };
    late.begin(
        (&peers(&["a"]), (&heard(&[("c1", 1), ("c2", 2), ("c3", 3)], 7), &tickets(7))),
        &told(&[]),
        (LEASE, now),
    );
    late.doubt(&tickets(7));
    assert!(!late.pass(&told(&[]), now));
    assert_eq!(kept(&mut late, &nothing), ("c1 c2 c3".to_owned(), false));
    // It comes, and tells one after the other. It has given an address to somebody else, though nobody answered that.
    assert!(!late.pass(&told(&["a"]), now));
    assert_eq!(kept(&mut late, &heard(&[("c1", 1)], 8)), ("c1 c2 c3".to_owned(), false));
    assert_eq!(kept(&mut late, &heard(&[("d", 3)], 8)), ("c2 d".to_owned(), false));
    // The last one it does not tell again.
    assert!(!late.pass(&told(&["a"]), now + LEASE / 2));
    assert!(late.pass(&told(&["a"]), now + LEASE));
    assert_eq!(kept(&mut late, &heard(&[("c1", 1), ("d", 3)], 8)), ("c1 d".to_owned(), true));
}

#[test]
fn what_a_late_peer_told_is_nothing_once_it_may_have_been_there_meanwhile() {
    let now = Instant::now();
    let nothing = Heard { is_known: true, ..Heard::default() };
    let before = heard(&[("c1", 1)], 7);
    let begun = |late: &mut Late, ticket| {
        late.begin((&peers(&["a"]), (&before, &before.asked)), &told(&[]), (LEASE, now));
        late.doubt(&tickets(ticket));
        late.pass(&told(&[]), now);
        kept(late, &nothing).0
    };
    assert_eq!(begun(&mut Late::default(), 8), "");
    let mut late = Late::default();
    assert_eq!(begun(&mut late, 7), "c1");
    late.end(LEASE, now);
    assert_eq!(begun(&mut late, 8), "");
    late.end(LEASE, now);
    assert_eq!(begun(&mut late, 7), "");
    // Nor one that never said what it asked, as an older netd.
    let mut late = Late::default();
    assert_eq!(begun(&mut late, 7), "c1");
    assert!(late.keeps());
    late.doubt(&BTreeMap::new());
    assert_eq!((kept(&mut late, &nothing).0.as_str(), late.keeps()), ("", false));
    // Nor another node with its name.
    let mut late = Late::default();
    assert_eq!(begun(&mut late, 7), "c1");
    let other = NodeRecord { instance: Some(number("b")), ..node("a") };
    assert!(late.pass(&[("a".to_owned(), other)].into(), now));
    assert_eq!(kept(&mut late, &nothing).0, "");
}
