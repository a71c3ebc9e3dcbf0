//! What a node does of itself, on a kernel in memory.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use netd_config::{Encapsulation, FleetConfig, NodeConfig};
use netd_fleet::NodeName;
use netd_kernel::{FakeKernel, Underlay};

use super::fabric::Here;
use super::round::KEPT_FOR;
use super::source::Source;
use super::{Inner, look};
use crate::executor::Executor;
use crate::journal::Journal;
use crate::lifecycle::Lifecycle;
use crate::networks::Networks;
use crate::node::tests::{WEB, wanted};
use crate::node::{Attached, Node};
use crate::owner;

const LISTED: &str = "[fleet]\npools = ['10.4.0.0/16']\nencapsulation = 'direct'\n[fleet.nodes]\n\
                      n1 = { address = '192.0.2.1', blocks = ['10.4.1.0/24'] }\n";

fn settings(text: &str) -> NodeConfig {
    NodeConfig::parse("netd.toml", text).unwrap()
}

fn node(text: &str) -> Arc<Inner> {
    let (config, name) = (settings(text), NodeName::new("n1").unwrap());
    let about = look::about(&config.fleet, &name, &Here::default(), BTreeSet::new());
    let source = Source::open(&config.fleet, Path::new(""), about).unwrap();
    Arc::new(Inner::new(&config, (name, Path::new("netd.toml")), source, Underlay::open("nd").unwrap()))
}

/// A look at the kernel that fails once must not take the block from the node for good.
#[tokio::test]
async fn a_block_whose_leaving_fails_is_as_it_was() {
    let (inner, folder, kernel) = (node(LISTED), tempfile::tempdir().unwrap(), Arc::new(FakeKernel::new()));
    let (journal, records) = Journal::open(&folder.path().join("journal"), "boot").unwrap();
    let node = Node::replay("nd", records);
    let executor = Arc::new(Executor::new(Arc::clone(&kernel), node.guarded().clone()));
    let lifecycle = Lifecycle::new(owner::start(node, journal), executor);
    let here = Here { blocks: inner.source.blocks(), ..Here::default() };
    lifecycle.owner.share(inner.share_of(&here)).await.unwrap();
    // Its network is gone, and so is who had an address of it.
    let asked = wanted(WEB, "gone", 1);
    let key = asked.key.clone();
    let Attached::New { .. } = lifecycle.owner.attach(asked).await.unwrap() else { panic!("already there") };
    let gone = lifecycle.owner.drain(key).await.unwrap().unwrap();
    lifecycle.owner.reaped(gone).await.unwrap();
    let block = inner.source.blocks().into_iter().next().unwrap();
    let long_ago = Instant::now().checked_sub(KEPT_FOR + Duration::from_secs(1)).unwrap();
    inner.state().spare_since.insert(block, long_ago);
    kernel.blind();
    assert!(inner.wish(&lifecycle, &Networks::default()).await.is_err());
    let usage = lifecycle.owner.usage().await.unwrap();
    assert!(usage.iter().all(|one| !one.is_leaving), "{usage:?}");
    assert!(matches!(lifecycle.owner.attach(wanted(WEB, "next", 2)).await, Ok(Attached::New { .. })));
}

/// A tunnel that nobody asked for any other way would be made, and the other nodes would not know of it.
#[test]
fn settings_without_a_fleet_change_nothing_of_one_that_runs() {
    let inner = node(LISTED);
    let before = inner.config.borrow().clone();
    let told = inner.take(FleetConfig::default());
    assert_eq!(*inner.config.borrow(), before);
    assert!(told.len() == 1 && told[0].contains("no [fleet] any more"), "{told:?}");
    let changed = settings(&LISTED.replace("direct", "cross-subnet")).fleet;
    assert_eq!((inner.take(changed), inner.config.borrow().encapsulation), (Vec::new(), Encapsulation::CrossSubnet));
}

#[test]
fn a_pool_more_is_taken_while_netd_runs_and_no_other_change_of_pools() {
    let inner = node(LISTED);
    let with = |pools: &str| settings(&LISTED.replace("pools = ['10.4.0.0/16']", pools)).fleet;
    let more = with("pools = ['10.4.0.0/16', '10.5.0.0/16']");
    assert_eq!((inner.take(more.clone()), inner.config.borrow().pools.len()), (Vec::new(), 2));
    for other in [
        "pools = ['10.4.0.0/16']",
        "pools = ['10.4.0.0/16', { range = '10.5.0.0/16', block = 24 }]",
        "pools = ['10.4.0.0/16', '10.6.0.0/16']",
    ] {
        let told = inner.take(with(other));
        assert!(told.len() == 1 && told[0].contains("hold from the next start on"), "{other}: {told:?}");
        assert_eq!(inner.config.borrow().pools, more.pools, "{other}");
    }
}
