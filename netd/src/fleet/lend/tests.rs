//! Who gives up what, and when.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use netd_fleet::{NodeName, NodeRecord, Peers};

use super::{HEARD_WITHIN, Lending, Offer, TAKEN_WITHIN, offers, unused};
use crate::node::BlockUse;

fn block(block: &str, keep: &str, held: u128) -> BlockUse {
    let keep = (!keep.is_empty()).then(|| keep.parse().unwrap());
    let block: ipnet::IpNet = block.parse().unwrap();
    BlockUse { block, part: block, keep, pool: "a".to_owned(), network: None, is_leaving: false, size: 61, held }
}

fn peer(name: &str, lacks: &[&str], offers: &[(&str, u8)]) -> NodeRecord {
    let offers: BTreeMap<&str, u8> = offers.iter().copied().collect();
    let said = serde_json::json!({"name": name, "addresses": [], "lending": {"lacks": lacks, "offers": offers}});
    serde_json::from_value(said).unwrap()
}

fn peers(all: Vec<NodeRecord>) -> Peers {
    all.into_iter().map(|peer| (peer.name.clone(), peer)).collect()
}

fn name(name: &str) -> NodeName {
    NodeName::new(name).unwrap()
}

const FIRST: (&str, &str) = ("10.4.0.0/26", "10.4.0.0/27");
const SECOND: (&str, &str) = ("10.4.0.64/27", "10.4.0.64/28");

#[test]
fn the_largest_idle_half_is_offered_where_a_peer_lacks_one() {
    let usage = [block(SECOND.0, SECOND.1, 0), block(FIRST.0, FIRST.1, 15), block("10.4.0.128/26", "", 0)];
    let halves: BTreeSet<_> = ["10.4.0.32/27", "10.4.0.80/28"].iter().map(|half| half.parse().unwrap()).collect();
    assert_eq!(unused(&usage), halves);
    let lacking = peers(vec![peer("b", &["a"], &[])]);
    let offered = |idle: &[&str], peers: &Peers| {
        let idle: Vec<_> = idle.iter().map(|half| half.parse().unwrap()).collect();
        offers(&usage, &idle, peers).remove("a").map(|offer| offer.keep.to_string())
    };
    assert_eq!(offered(&["10.4.0.32/27", "10.4.0.80/28"], &lacking).as_deref(), Some(FIRST.1));
    assert_eq!(offered(&["10.4.0.80/28"], &lacking).as_deref(), Some(SECOND.1));
    assert_eq!(offered(&[], &lacking), None);
    let old = NodeRecord { lending: None, ..peer("old", &[], &[]) };
    let mixed = peers(vec![peer("b", &["a"], &[]), old]);
    assert_eq!(offered(&["10.4.0.32/27", "10.4.0.80/28"], &mixed), None);
    assert_eq!(offered(&["10.4.0.32/27"], &peers(vec![peer("b", &["other"], &[])])), None);
    // Too little would stay free; or it goes as a whole.
    assert!(unused(&[block(FIRST.0, FIRST.1, 16)]).is_empty());
    assert!(unused(&[BlockUse { is_leaving: true, ..block(FIRST.0, FIRST.1, 0) }]).is_empty());
}

#[test]
fn whoever_offers_most_gives_up_once_all_have_spoken_and_not_at_once_again() {
    let offer = Offer { block: FIRST.0.parse().unwrap(), keep: FIRST.1.parse().unwrap() };
    let own = || BTreeMap::from([("a".to_owned(), offer)]);
    let (mut lending, begin) = (Lending::default(), Instant::now());
    let alone = peers(vec![peer("z", &["a"], &[])]);
    assert!(lending.gifts(&name("m"), own(), &alone, begin).is_empty());
    assert_eq!(lending.next, Some(begin + HEARD_WITHIN));
    // Another speaks: all wait anew.
    let two = peers(vec![peer("z", &["a"], &[]), peer("n", &[], &[("a", 27)])]);
    let later = begin + HEARD_WITHIN;
    assert!(lending.gifts(&name("m"), own(), &two, later).is_empty());
    assert_eq!(lending.gifts(&name("m"), own(), &two, later + HEARD_WITHIN), [offer]);
    // It is still lacking, and nobody takes what was given up.
    let again = later + HEARD_WITHIN * 2;
    assert!(lending.gifts(&name("m"), own(), &two, again).is_empty());
    assert_eq!(lending.gifts(&name("m"), own(), &two, again + TAKEN_WITHIN), [offer]);
    // More is offered by another, or as much by one that comes first.
    for better in [peer("n", &["a"], &[("a", 26)]), peer("b", &["a"], &[("a", 27)])] {
        let mut lending = Lending::default();
        let better = peers(vec![better]);
        lending.gifts(&name("m"), own(), &better, begin);
        assert!(lending.gifts(&name("m"), own(), &better, later).is_empty());
        assert_eq!(lending.next, None);
    }
}
