//! When one more block is wanted, and when one can go.

use std::collections::{BTreeMap, BTreeSet};

use netd_config::NetworkName;

use super::{Wishes, wishes};
use crate::node::BlockUse;

fn block(block: &str, network: &str, held: u128) -> BlockUse {
    let network = (!network.is_empty()).then(|| NetworkName::new(network).unwrap());
    let (block, pool): (ipnet::IpNet, _) = (block.parse().unwrap(), "a".to_owned());
    BlockUse { block, part: block, keep: None, pool, network, is_leaving: false, size: 61, held }
}

/// A pool that continues none.
fn alone(pool: &str) -> BTreeMap<String, BTreeSet<String>> {
    [(pool.to_owned(), BTreeSet::new())].into()
}

fn wished(networks: &[&str], usage: &[BlockUse]) -> (usize, Vec<String>, Vec<String>) {
    let networks: BTreeSet<_> =
        networks.iter().map(|name| (NetworkName::new(*name).unwrap(), "a".to_owned())).collect();
    let Wishes { blocks, spare, free } = wishes(&alone("a"), &networks, usage);
    let text = |blocks: BTreeSet<ipnet::IpNet>| blocks.iter().map(ToString::to_string).collect();
    (blocks["a"], text(spare), text(free))
}

fn some(count: usize, spare: &[&str], free: &[&str]) -> (usize, Vec<String>, Vec<String>) {
    let text = |blocks: &[&str]| blocks.iter().map(|block| (*block).to_owned()).collect();
    (count, text(spare), text(free))
}

const ONE: &str = "10.4.0.0/26";
const TWO: &str = "10.4.0.64/26";
const THREE: &str = "10.4.0.128/26";

#[test]
fn every_network_wants_a_block_and_one_more_in_time() {
    assert_eq!(wished(&[], &[]), some(1, &[], &[]));
    assert_eq!(wished(&["web", "db"], &[]), some(2, &[], &[]));
    assert_eq!(wished(&["web"], &[block(ONE, "web", 53)]), some(1, &[], &[]));
    assert_eq!(wished(&["web"], &[block(ONE, "web", 54)]), some(2, &[], &[]));
    assert_eq!(wished(&["web"], &[block(ONE, "web", 54), block(TWO, "", 0)]), some(2, &[], &[]));
    assert_eq!(wished(&["web", "db"], &[block(ONE, "web", 61), block(TWO, "db", 1)]), some(3, &[], &[]));
}

#[test]
fn what_nobody_needs_goes_but_for_the_last() {
    assert_eq!(wished(&["web"], &[block(ONE, "web", 0)]), some(1, &[], &[]));
    assert_eq!(wished(&["web"], &[block(ONE, "web", 20), block(TWO, "web", 0)]), some(1, &[TWO], &[]));
    // Enough must remain.
    assert_eq!(wished(&["web"], &[block(ONE, "web", 40), block(TWO, "web", 0)]), some(2, &[], &[]));
    assert_eq!(
        wished(&["web"], &[block(ONE, "web", 1), block(TWO, "", 0), block(THREE, "", 0)]),
        some(1, &[TWO, THREE], &[])
    );
    assert_eq!(wished(&[], &[block(ONE, "", 0), block(TWO, "", 0)]), some(1, &[TWO], &[]));
    let leaving = BlockUse { is_leaving: true, ..block(TWO, "", 0) };
    assert_eq!(wished(&["web"], &[block(ONE, "web", 1), leaving]), some(1, &[], &[]));
}

#[test]
fn what_goes_of_one_pool_keeps_nothing_of_another() {
    let pools = ["a", "b"].into_iter().flat_map(alone).collect();
    let web = BTreeSet::from([(NetworkName::new("web").unwrap(), "a".to_owned())]);
    let of_b = |one: &str| BlockUse { pool: "b".to_owned(), ..block(one, "", 0) };
    let usage = [block(ONE, "web", 20), block(TWO, "web", 0), of_b("10.5.0.0/26"), of_b("10.5.0.64/26")];
    let spare = wishes(&pools, &web, &usage).spare;
    assert_eq!(spare, [TWO, "10.5.0.64/26"].map(|one| one.parse().unwrap()).into());
}

#[test]
fn a_network_that_is_gone_leaves_its_blocks_to_others() {
    assert_eq!(wished(&["web"], &[block(ONE, "web", 1), block(TWO, "gone", 0)]), some(1, &[], &[TWO]));
    assert_eq!(wished(&["web"], &[block(ONE, "web", 1), block(TWO, "gone", 1)]), some(2, &[], &[]));
}

/// As where the node's labels have changed.
#[test]
fn of_a_pool_that_is_for_others_nothing_is_wanted_and_what_is_idle_goes() {
    let idle = block(TWO, "web", 0);
    let leaving = BlockUse { is_leaving: true, ..block(THREE, "", 0) };
    let web = BTreeSet::from([(NetworkName::new("web").unwrap(), "a".to_owned())]);
    let Wishes { blocks, spare, free } = wishes(&alone("b"), &web, &[block(ONE, "web", 1), idle, leaving]);
    assert_eq!(blocks, [("a".to_owned(), 0), ("b".to_owned(), 1)].into());
    assert_eq!((spare, free), ([TWO.parse().unwrap()].into(), BTreeSet::new()));
}

/// What is used of the first pool, and of one that continues it.
#[test]
fn a_pool_that_continues_another_is_wanted_as_far_as_that_one_is_full() {
    const OVER: [&str; 2] = ["10.5.0.0/26", "10.5.0.64/26"];
    let over = |at: usize, network: &str, held| BlockUse { pool: "b".to_owned(), ..block(OVER[at], network, held) };
    let wished = |usage: &[BlockUse]| {
        let pools = [alone("a"), [("b".to_owned(), ["a".to_owned()].into())].into()].into_iter().flatten().collect();
        let networks = BTreeSet::from([(NetworkName::new("web").unwrap(), "a".to_owned())]);
        let Wishes { blocks, spare, free } = wishes(&pools, &networks, usage);
        let text = |blocks: BTreeSet<ipnet::IpNet>| blocks.iter().map(ToString::to_string).collect::<Vec<_>>();
        ((blocks["a"], blocks["b"]), text(spare), text(free))
    };
    let none = Vec::<String>::new;
    // One is kept for whoever comes.
    assert_eq!(wished(&[block(ONE, "web", 61), over(0, "", 0)]), ((2, 1), none(), none()));
    assert_eq!(wished(&[block(ONE, "web", 61), over(0, "web", 60)]), ((2, 2), none(), none()));
    assert_eq!(wished(&[block(ONE, "web", 40), over(0, "web", 60)]), ((1, 1), none(), none()));
    // The last one goes, too, and the first pool's stay.
    assert_eq!(wished(&[block(ONE, "web", 54), over(0, "web", 0)]), ((2, 1), none(), none()));
    assert_eq!(wished(&[block(ONE, "web", 20), over(0, "web", 0)]), ((1, 1), none(), vec![OVER[0].to_owned()]));
    let both = [block(ONE, "web", 20), over(0, "", 0), over(1, "", 0)];
    assert_eq!(wished(&both), ((1, 1), vec![OVER[1].to_owned()], none()));
    let leaving = BlockUse { is_leaving: true, ..block(TWO, "web", 0) };
    assert_eq!(wished(&[leaving, over(0, "web", 0)]), ((1, 1), none(), none()));
}
