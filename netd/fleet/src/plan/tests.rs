//! Carving: every block once, none that is reserved, in an order that a node chooses.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;

use super::{Plan, PlanError, Pool};

fn pool(name: &str, range: &str, block: u8, reserved: &[&str]) -> Pool {
    let reserved = reserved.iter().map(|one| one.parse().unwrap()).collect();
    Pool { name: name.to_owned(), range: range.parse().unwrap(), block, reserved, labels: BTreeMap::new() }
}

fn all(pool: &Pool, start: u128) -> Vec<String> {
    let mut taken: BTreeSet<IpNet> = BTreeSet::new();
    let mut order = Vec::new();
    while let Some(block) = pool.block_from(start, |block| taken.contains(&block)) {
        taken.insert(block);
        order.push(block.to_string());
    }
    order
}

#[test]
fn every_block_comes_once_from_the_start_on() {
    let blocks = ["10.1.0.0/26", "10.1.0.64/26", "10.1.0.128/26", "10.1.0.192/26"];
    assert_eq!(all(&pool("a", "10.1.0.0/24", 26, &[]), 0), blocks);
    assert_eq!(all(&pool("a", "10.1.0.0/24", 26, &[]), 6), [blocks[2], blocks[3], blocks[0], blocks[1]]);
    assert_eq!(all(&pool("a", "10.1.0.0/24", 24, &[]), u128::MAX), ["10.1.0.0/24"]);
    assert_eq!(all(&pool("a", "fd00:1::/62", 64, &[]), 3).len(), 4);
}

#[test]
fn what_is_reserved_as_a_whole_is_no_block() {
    let reserved = pool("a", "10.1.0.0/24", 26, &["10.1.0.0/25", "10.1.0.192/28"]);
    assert_eq!(all(&reserved, 0), ["10.1.0.128/26", "10.1.0.192/26"]);
    assert!(all(&pool("a", "10.1.0.0/24", 26, &["10.1.0.0/24"]), 3).is_empty());
}

#[test]
fn wide_pools_are_not_walked() {
    let wide = pool("a", "fd00::/8", 122, &["fd00::/9"]);
    assert_eq!(wide.block_from(0, |_| false).unwrap().to_string(), "fd80::/122");
    assert!(wide.block_from(u128::MAX, |_| false).is_some());
    assert!(pool("a", "::/0", 128, &[]).block_from(u128::MAX, |_| false).is_some());
}

#[test]
fn plans_that_do_not_fit_together_are_refused() {
    let error = |pools: Vec<Pool>| Plan::new(pools).unwrap_err();
    let one = pool("a", "10.0.0.0/16", 24, &[]);
    assert!(matches!(error(vec![one.clone(), pool("b", "10.0.9.0/24", 26, &[])]), PlanError::Overlap { .. }));
    assert_eq!(error(vec![one, pool("a", "10.2.0.0/16", 24, &[])]), PlanError::Twice("a".to_owned()));
    assert!(matches!(error(vec![pool("a", "10.0.0.0/16", 15, &[])]), PlanError::Block { .. }));
    assert!(matches!(error(vec![pool("a", "10.0.0.0/16", 33, &[])]), PlanError::Block { .. }));
    assert!(matches!(error(vec![pool("a", "10.0.0.1/16", 24, &[])]), PlanError::HostBits { .. }));
    assert!(matches!(error(vec![pool("a", "10.0.0.0/16", 24, &["10.1.0.0/24"])]), PlanError::Reserved { .. }));
    assert!(matches!(error(vec![pool("a", "10.0.0.0/16", 24, &["fd00::/64"])]), PlanError::Reserved { .. }));
}

#[test]
fn labels_choose_pools() {
    let rack = |rack: &str| BTreeMap::from([("rack".to_owned(), rack.to_owned()), ("x".to_owned(), "y".to_owned())]);
    let labels = BTreeMap::from([("rack".to_owned(), "1".to_owned())]);
    let plan =
        Plan::new(vec![pool("all", "10.0.0.0/16", 24, &[]), Pool { labels, ..pool("rack1", "10.1.0.0/16", 24, &[]) }]);
    let plan = plan.unwrap();
    let names = |labels| plan.pools_for(&labels).map(|pool| pool.name.clone()).collect::<Vec<_>>();
    assert_eq!(names(rack("1")), ["all", "rack1"]);
    assert_eq!(names(rack("2")), ["all"]);
    assert_eq!(plan.pool_of("10.1.7.0/24".parse().unwrap()).unwrap().name, "rack1");
    assert!(plan.pool_of("10.1.7.0/25".parse().unwrap()).is_none());
    let again: Plan = serde_json::from_str(&serde_json::to_string(&plan).unwrap()).unwrap();
    assert_eq!(again, plan);
}
