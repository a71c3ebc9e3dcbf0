//! What should not be in the store: records that nobody can read, and one node that is there twice.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use ipnet::IpNet;
use netd_fleet::{Discovery, Fleet, NodeRecord, SandboxRecord, Status};
use tokio::time::sleep;

use crate::cluster::Cluster;
use crate::{LEASE, blocks, has, name, node, node_at, peers, steady, until};

#[test]
fn what_cannot_be_read_of_one_node_keeps_no_other_off_the_store() {
    let cluster = Cluster::start(1);
    crate::play(&cluster, async || {
        let (a, b) = (node(&cluster, "a", "a", 1), node(&cluster, "b", "b", 1));
        blocks(&a, 1).await;
        peers(&a, |peers| peers.contains_key(&name("b"))).await;
        cluster.put("fleet/peers/x", "{}");
        cluster.put("fleet/later/x", "{}");
        let names = |node: &Fleet| {
            until(node.status(), |status: &Status| status.is_connected && status.unreadable.contains_key("x"))
        };
        names(&a).await;
        // Who comes, and who comes back.
        let c = node(&cluster, "c", "c", 1);
        names(&c).await;
        blocks(&c, 1).await;
        cluster.end_leases();
        sleep(LEASE).await;
        for node in [&a, &b] {
            peers(node, |peers| peers.len() == 2 && peers.contains_key(&name("c"))).await;
            let why = names(node).await.unreadable;
            assert_eq!(why.keys().collect::<Vec<_>>(), ["x"]);
        }
        cluster.remove("fleet/peers/x");
        until(a.status(), |status: &Status| status.is_connected && status.unreadable == BTreeMap::new()).await;
    });
}

/// It goes on with what it has, and so do they.
#[test]
fn nodes_stay_peers_while_the_store_is_full() {
    let mut cluster =
        Cluster::start_with(1, "http", |_| ["--quota-backend-bytes", "8388608"].map(ToOwned::to_owned).into());
    // The nodes outlive the member.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    // Whoever loses it has no other while the store is full.
    let settings = steady(&cluster);
    let begin = async {
        let of = |name| node_at(&cluster, settings.clone(), name, name, 1);
        let (a, b) = (of("a"), of("b"));
        blocks(&a, 1).await;
        blocks(&b, 1).await;
        peers(&a, |peers| peers.contains_key(&name("b"))).await;
        let told = peers(&b, |peers| peers.contains_key(&name("a"))).await[&name("a")].clone();
        cluster.fill();
        a.say(NodeRecord { mtu: Some(1_400), ..told });
        says_full(&a).await;
        (a, b)
    };
    let (a, b) = cluster.place.run(|| runtime.block_on(begin)).unwrap();
    cluster.kill(0);
    cluster.launch(0);
    cluster.wait();
    let check = async {
        says_full(&a).await;
        says_full(&b).await;
        sleep(2 * settings.lease).await;
        assert!(a.follow().borrow().contains_key(&name("b")) && b.follow().borrow().contains_key(&name("a")));
        cluster.make_room();
        peers(&b, |peers| peers.get(&name("a")).is_some_and(|a| a.mtu == Some(1_400))).await;
        let is_well = |status: &Status| status.is_connected && status.error.is_none();
        until(a.status(), is_well).await;
        until(b.status(), is_well).await;
    };
    cluster.place.run(|| runtime.block_on(check)).unwrap();
}

/// It has no lease of its own until there is room, and is not taken for its own copy then.
#[test]
fn a_node_that_starts_while_the_store_is_full_is_whole_again_when_there_is_room() {
    let cluster =
        Cluster::start_with(1, "http", |_| ["--quota-backend-bytes", "8388608"].map(ToOwned::to_owned).into());
    crate::play(&cluster, async || {
        let settings = steady(&cluster);
        let of = |name| node_at(&cluster, settings.clone(), name, name, 1);
        let (a, b) = (of("a"), of("b"));
        blocks(&a, 1).await;
        peers(&b, |peers| peers.contains_key(&name("a"))).await;
        cluster.fill();
        drop(a);
        let a = of("a");
        says_full(&a).await;
        sleep(2 * settings.lease).await;
        assert!(b.follow().borrow().contains_key(&name("a")), "what the earlier one said is kept alive");
        cluster.make_room();
        until(a.status(), |status: &Status| status.is_connected && status.error.is_none()).await;
        sleep(3 * settings.lease).await;
        assert_eq!(a.status().borrow().twin, None);
        assert!(b.follow().borrow().contains_key(&name("a")) && !a.usable().borrow().is_empty());
        b.say(NodeRecord {
            mtu: Some(1_300),
            ..peers(&a, |peers| peers.contains_key(&name("b"))).await[&name("b")].clone()
        });
        peers(&a, |peers| peers.get(&name("b")).is_some_and(|b| b.mtu == Some(1_300))).await;
    });
}

async fn says_full(node: &Fleet) {
    let is = |error: &String| error.contains("etcdctl alarm disarm");
    until(node.status(), |status: &Status| status.is_connected && status.error.as_ref().is_some_and(is)).await;
}

/// `a` with a block, and a copy of its disk by the name `copy`.
async fn copied(cluster: &Cluster) -> (Fleet, IpNet) {
    let a = node(cluster, "a", "a", 1);
    let held = blocks(&a, 1).await.pop_first().unwrap();
    fs::copy(cluster.folder.path().join("a"), cluster.folder.path().join("copy")).unwrap();
    (a, held)
}

/// What a netd with a container says.
fn tell(node: &Fleet, container: &str) {
    let addresses = BTreeMap::from([("10.20.0.9".parse().unwrap(), None)]);
    let record = SandboxRecord { name: container.to_owned(), addresses, ..SandboxRecord::default() };
    node.tell(1, BTreeMap::from([(container.to_owned(), record)]), BTreeSet::new());
}

async fn is_shut(node: &Fleet, other: &str) {
    let is =
        |status: &Status| status.twin.as_ref().is_some_and(|twin| twin.starts_with(&format!("{other} (192.0.2.1)")));
    until(node.status(), is).await;
    until(node.usable(), Vec::is_empty).await;
}

async fn is_open(node: &Fleet) {
    until(node.status(), |status: &Status| status.is_connected && status.twin.is_none()).await;
    until(node.usable(), |usable: &Vec<IpNet>| !usable.is_empty()).await;
}

#[test]
fn a_copied_disk_under_another_name_gives_nothing_out_on_either_node() {
    let cluster = Cluster::start(1);
    crate::play(&cluster, async || {
        let (a, held) = copied(&cluster).await;
        let other = node(&cluster, "other", "other", 1);
        blocks(&other, 1).await;
        tell(&a, "one");
        let copy = node(&cluster, "copy", "b", 1);
        tell(&copy, "two");
        assert!(!copy.usable().borrow().is_empty(), "nobody can know yet");
        is_shut(&copy, "a").await;
        is_shut(&a, "b").await;
        // What one of them claims the other would return.
        a.blocks().want("main", 2);
        sleep(LEASE).await;
        assert_eq!(blocks(&a, 1).await, BTreeSet::from([held]));
        assert!(other.status().borrow().twin.is_none());
        drop(copy);
        is_open(&a).await;
        assert!(blocks(&a, 2).await.contains(&held));
        peers(&other, |peers| peers.len() == 1 && peers.get(&name("a")).is_some_and(|a| a.blocks.len() == 2)).await;
    });
}

#[test]
fn a_copied_disk_under_the_same_name_gives_nothing_out_on_the_node_that_was_there_before() {
    let cluster = Cluster::start(1);
    crate::play(&cluster, async || {
        let (a, held) = copied(&cluster).await;
        tell(&a, "one");
        let other = node(&cluster, "other", "other", 0);
        peers(&other, |peers| peers.contains_key(&name("a"))).await;
        let copy = node(&cluster, "copy", "a", 1);
        tell(&copy, "two");
        is_shut(&a, "a").await;
        sleep(LEASE * 3).await;
        is_shut(&a, "a").await;
        is_open(&copy).await;
        drop(copy);
        is_open(&a).await;
        peers(&other, |peers| peers.get(&name("a")).is_some_and(|a| a.blocks.contains(&held))).await;
    });
}

#[test]
fn a_node_that_is_renamed_is_no_twin_of_itself() {
    let cluster = Cluster::start(1);
    crate::play(&cluster, async || {
        let (a, held) = copied(&cluster).await;
        tell(&a, "one");
        let other = node(&cluster, "other", "other", 0);
        peers(&other, |peers| peers.contains_key(&name("a"))).await;
        drop(a);
        let b = node(&cluster, "copy", "b", 1);
        peers(&other, |peers| peers.contains_key(&name("b"))).await;
        // Starting may take longer than a lease.
        sleep(LEASE * 3).await;
        tell(&b, "one");
        let mut status = b.status();
        let ever = tokio::time::timeout(LEASE * 3, status.wait_for(|status| status.twin.is_some())).await;
        assert!(ever.is_err(), "{ever:?}");
        peers(&other, |peers| peers.len() == 1 && has(peers, "b", &BTreeSet::from([held]))).await;
    });
}
