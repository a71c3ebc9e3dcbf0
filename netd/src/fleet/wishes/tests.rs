//! When one more block is wanted, and when one can go.

use std::collections::BTreeSet;

use netd_config::NetworkName;

use super::{Wishes, wishes};
use crate::node::BlockUse;

fn block(block: &str, network: &str, held: u128) -> BlockUse {
    let network = (!network.is_empty()).then(|| NetworkName::new(network).unwrap());
    let (block, pool): (ipnet::IpNet, _) = (block.parse().unwrap(), "a".to_owned());
    BlockUse { block, part: block, keep: None, pool, network, is_leaving: false, size: 61, held }
}

fn wished(networks: &[&str], usage: &[BlockUse]) -> (usize, Vec<String>, Vec<String>) {
    let networks: BTreeSet<_> =
        networks.iter().map(|name| (NetworkName::new(*name).unwrap(), "a".to_owned())).collect();
    let Wishes { blocks, spare, free } = wishes(&["a".to_owned()], &networks, usage);
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
    let Wishes { blocks, spare, free } = wishes(&["b".to_owned()], &web, &[block(ONE, "web", 1), idle, leaving]);
    assert_eq!(blocks, [("a".to_owned(), 0), ("b".to_owned(), 1)].into());
    assert_eq!((spare, free), ([TWO.parse().unwrap()].into(), BTreeSet::new()));
}
