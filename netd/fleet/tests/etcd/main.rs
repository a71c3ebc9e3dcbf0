//! Nodes on a real etcd: claims, leases, members that die, compaction, a store set back, TLS and passwords.

#![expect(clippy::unwrap_used, reason = "helpers of tests stand outside of them")]

mod cluster;
mod compacted;
mod line;
mod pools;
mod sandboxes;
mod secure;
mod strange;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::Duration;

use cluster::{Cluster, copy};
use ipnet::IpNet;
use netd_fleet::{
    Discovery, EtcdSettings, Fleet, Heard, NodeName, NodeRecord, Peers, Plan, Pool, Status, TicketId, Wish,
};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

const PATIENCE: Duration = Duration::from_secs(60);
/// Over soon. Whoever must not lose it has a longer one.
const LEASE: Duration = Duration::from_secs(2);
/// A machine that stands still for a moment does not end it.
const STEADY: Duration = Duration::from_secs(6);

fn plan() -> Plan {
    let pool = Pool {
        name: "main".to_owned(),
        range: "10.20.0.0/22".parse().unwrap(),
        block: 24,
        reserved: BTreeSet::from(["10.20.1.0/24".parse().unwrap(), "10.20.0.0/29".parse().unwrap()]),
        labels: BTreeMap::new(),
    };
    Plan::new(vec![pool]).unwrap()
}

fn settings(cluster: &Cluster) -> EtcdSettings {
    let (tls, user) = (None, None);
    EtcdSettings { endpoints: cluster.endpoints(), prefix: "/netd".to_owned(), tls, user, lease: LEASE }
}

/// The same with a lease that lasts.
fn steady(cluster: &Cluster) -> EtcdSettings {
    EtcdSettings { lease: STEADY, ..settings(cluster) }
}

fn node(cluster: &Cluster, disk: &str, name: &str, blocks: usize) -> Fleet {
    node_at(cluster, settings(cluster), disk, name, blocks)
}

/// It enforces nothing.
fn node_at(cluster: &Cluster, settings: EtcdSettings, disk: &str, name: &str, blocks: usize) -> Fleet {
    let fleet = joined(cluster, settings, disk, name, blocks);
    // Its tasks are where the nodes run.
    fleet.enforces_nothing();
    fleet
}

fn joined(cluster: &Cluster, settings: EtcdSettings, disk: &str, name: &str, blocks: usize) -> Fleet {
    let wish = Wish { plan: Some(plan()), blocks: BTreeMap::from([("main".to_owned(), blocks)]), ..Wish::default() };
    let record = NodeRecord {
        instance: None,
        name: NodeName::new(name).unwrap(),
        addresses: BTreeSet::from(["192.0.2.1".parse().unwrap()]),
        blocks: BTreeSet::new(),
        encapsulations: BTreeSet::new(),
        accepts: BTreeSet::new(),
        mtu: Some(1500),
        labels: BTreeMap::new(),
        version: "test".to_owned(),
        needs: None,
        lending: None,
        reads_added_pools: false,
    };
    Fleet::join(settings, &cluster.folder.path().join(disk), record, wish).unwrap()
}

/// Runs nodes where the cluster is.
fn play<T: Send>(cluster: &Cluster, what: impl AsyncFnOnce() -> T + Send) -> T {
    let run = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(what())
    };
    cluster.place.run(run).unwrap()
}

async fn until<T: Clone + std::fmt::Debug>(mut what: watch::Receiver<T>, is_so: impl Fn(&T) -> bool) -> T {
    let found = timeout(PATIENCE, what.wait_for(|now| is_so(now))).await.map(|found| found.unwrap().clone());
    found.unwrap_or_else(|_| panic!("it does not become so: {:#?}", what.borrow()))
}

async fn blocks(fleet: &Fleet, count: usize) -> BTreeSet<IpNet> {
    let memory = until(fleet.blocks().memory(), |memory| memory.blocks().count() == count).await;
    memory.blocks().collect()
}

async fn peers(fleet: &Fleet, is_so: impl Fn(&Peers) -> bool) -> Peers {
    until(fleet.follow(), is_so).await
}

/// Whether these are the blocks of a peer.
fn has(peers: &Peers, who: &str, blocks: &BTreeSet<IpNet>) -> bool {
    peers.get(&name(who)).is_some_and(|peer| peer.blocks == *blocks)
}

/// For how long this thread has had a processor (`/proc/<pid>/schedstat`, the first number, in nanoseconds).
fn worked() -> Duration {
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(text.split(' ').next().unwrap().parse().unwrap())
}

async fn away(fleet: &Fleet) {
    until(fleet.status(), |status: &Status| !status.is_connected).await;
}

async fn settled(fleet: &Fleet, number: u64) -> u64 {
    let is_open = |status: &Status| {
        status.is_connected
            && status.charter.as_ref().is_some_and(|charter| charter.is_open() && charter.number >= number)
    };
    until(fleet.status(), is_open).await.charter.unwrap().number
}

fn name(name: &str) -> NodeName {
    NodeName::new(name).unwrap()
}

#[test]
fn blocks_are_claimed_told_to_the_peers_and_given_back() {
    let cluster = Cluster::start(1);
    play(&cluster, async || {
        let (a, b) = (node(&cluster, "a", "a", 1), node(&cluster, "b", "b", 1));
        let (mine, theirs) = (blocks(&a, 1).await, blocks(&b, 1).await);
        assert!(mine.is_disjoint(&theirs), "{mine:?} {theirs:?}");
        peers(&a, |peers| has(peers, "b", &theirs)).await;
        peers(&b, |peers| peers.get(&name("a")).is_some_and(|a| a.blocks == mine && a.mtu == Some(1500))).await;

        let claim = *a.blocks().memory().borrow().holdings.keys().next().unwrap();
        a.blocks().give_up(claim);
        blocks(&a, 0).await;
        peers(&b, |peers| has(peers, "a", &BTreeSet::new())).await;
        // Three blocks are not reserved.
        b.blocks().want("main", 3);
        assert!(blocks(&b, 3).await.is_superset(&mine));
        assert_eq!(b.usable().borrow().iter().filter(|range| range.prefix_len() == 24).count(), 2);
    });
}

#[test]
fn a_silent_node_is_no_peer_and_comes_back_with_its_blocks() {
    let cluster = Cluster::start(1);
    play(&cluster, async || {
        // The founder is the witness, without whom no block changes hands.
        let a = node(&cluster, "a", "a", 1);
        blocks(&a, 1).await;
        let b = node_at(&cluster, steady(&cluster), "b", "b", 1);
        let held = blocks(&b, 1).await;
        peers(&a, |peers| !peers.is_empty()).await;
        // It outlives several leases.
        sleep(2 * STEADY).await;
        assert_eq!(a.follow().borrow().len(), 1);
        drop(b);
        peers(&a, Peers::is_empty).await;
        a.blocks().want("main", 3);
        blocks(&a, 2).await;
        let b = node(&cluster, "b", "b", 1);
        assert_eq!(blocks(&b, 1).await, held);
        peers(&a, |peers| has(peers, "b", &held)).await;
    });
}

/// What it remembers of others' blocks is as old as the last change of its own.
#[test]
fn a_node_that_is_no_witness_knows_all_blocks_and_who_is_there_where_it_asks() {
    let mut cluster = Cluster::start(1);
    play(&cluster, async || {
        let a = node(&cluster, "a", "a", 1);
        blocks(&a, 1).await;
        let b = node(&cluster, "b", "b", 1);
        blocks(&b, 1).await;
        let of = |fleet: &Fleet| fleet.blocks().memory().borrow().instance;
        until(b.status(), |status: &Status| status.sessions == BTreeSet::from([of(&a)])).await;
        a.blocks().want("main", 2);
        let held = blocks(&a, 2).await;
        let owned = async || {
            // A store that is slow has not answered yet.
            let table = b.table().await.unwrap_or_default();
            let is_its = |record: &netd_fleet::Record| record.claims.values().any(|claim| claim.owner == of(&a));
            table.into_iter().filter(|(_, record)| is_its(record)).map(|(block, _)| block).collect::<BTreeSet<_>>()
        };
        timeout(PATIENCE, async { while owned().await != held {} }).await.unwrap();
        drop(a);
        until(b.status(), |status: &Status| status.sessions.is_empty()).await;
    });
    cluster.kill(0);
    play(&cluster, async || assert_eq!(node(&cluster, "b", "b", 1).table().await, None));
}

#[test]
fn another_instance_of_a_name_waits_and_gets_other_blocks() {
    let cluster = Cluster::start(1);
    play(&cluster, async || {
        let old = node(&cluster, "old", "a", 1);
        let held = blocks(&old, 1).await;
        let new = node(&cluster, "new", "a", 1);
        until(new.status(), |status: &Status| status.is_namesake).await;
        assert!(blocks(&new, 1).await.is_disjoint(&held));
        // It rests, also where its netd has something to say.
        new.tell(1, BTreeMap::new(), BTreeSet::new());
        let asked = BTreeMap::from([(old.blocks().memory().borrow().instance, TicketId::new(1))]);
        new.applied(&Heard { number: 100, asked, ..Heard::default() });
        // All nodes are on this thread.
        let before = worked();
        sleep(LEASE / 2).await;
        let busy = worked() - before;
        assert!(busy < LEASE / 4, "busy for {busy:?}");
        drop(old);
        until(new.status(), |status: &Status| !status.is_namesake).await;
    });
}

#[test]
fn a_node_goes_on_without_its_store_and_with_it_after_a_compaction() {
    let mut cluster = Cluster::start(1);
    let held = play(&cluster, async || blocks(&node(&cluster, "a", "a", 1), 1).await);
    cluster.kill(0);
    play(&cluster, async || {
        let a = node(&cluster, "a", "a", 2);
        assert_eq!(a.blocks().memory().borrow().blocks().collect::<BTreeSet<_>>(), held);
        assert!(!a.usable().borrow().is_empty());
    });
    cluster.launch(0);
    cluster.wait();
    play(&cluster, async || {
        let (a, b) = (node(&cluster, "a", "a", 2), node(&cluster, "b", "b", 1));
        assert!(blocks(&a, 2).await.is_superset(&held));
        blocks(&b, 1).await;
        cluster.compact();
        let claim = *b.blocks().memory().borrow().holdings.keys().next().unwrap();
        b.blocks().give_up(claim);
        blocks(&b, 0).await;
        a.blocks().want("main", 3);
        blocks(&a, 3).await;
    });
}

#[test]
fn members_die_and_come_back() {
    let mut cluster = Cluster::start(3);
    let all = |cluster: &Cluster, a: usize, b: usize| {
        play(cluster, async || {
            let (one, two) = (node(cluster, "a", "a", a), node(cluster, "b", "b", b));
            let (mine, theirs) = (blocks(&one, a).await, blocks(&two, b).await);
            assert!(mine.is_disjoint(&theirs), "{mine:?} {theirs:?}");
            peers(&one, |peers| has(peers, "b", &theirs)).await;
            mine
        })
    };
    let first = all(&cluster, 1, 1);
    cluster.kill(0);
    let second = all(&cluster, 2, 1);
    assert!(second.is_superset(&first));
    cluster.kill(1);
    cluster.kill(2);
    play(&cluster, async || {
        let one = node(&cluster, "a", "a", 2);
        away(&one).await;
        assert_eq!(blocks(&one, 2).await, second);
    });
    (0..3).for_each(|at| cluster.launch(at));
    cluster.wait();
    assert_eq!(all(&cluster, 2, 1), second);
}

/// With a long lease nothing is asked of it that it would have to ask the others: it would say nothing for long, and go on
/// answering that it is there.
#[test]
fn a_member_without_a_leader_is_left_though_it_answers() {
    let mut cluster = Cluster::start(3);
    let lease = Duration::from_secs(300);
    let settings = EtcdSettings { lease, endpoints: cluster.endpoints()[..1].to_vec(), ..settings(&cluster) };
    let later = settings.clone();
    // The node outlives the members.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let begin = async {
        let a = node_at(&cluster, settings, "a", "a", 1);
        blocks(&a, 1).await;
        // By then it has nothing to say.
        sleep(2 * LEASE).await;
        a
    };
    let a = cluster.place.run(|| runtime.block_on(begin)).unwrap();
    cluster.kill(1);
    cluster.kill(2);
    let check = async { until(a.status(), |status: &Status| !status.is_connected).await.error.unwrap() };
    let error = cluster.place.run(|| runtime.block_on(check)).unwrap();
    assert!(error.contains("no leader"), "{error}");
    // Who begins there is told so, and waits for no answer.
    let check = async {
        let b = node_at(&cluster, later, "b", "b", 1);
        // A busy member may say nothing in time first.
        let is_told = |error: &String| error.contains("no leader");
        until(b.status(), |status: &Status| status.error.as_ref().is_some_and(is_told)).await;
    };
    cluster.place.run(|| runtime.block_on(check)).unwrap();
}

#[test]
fn a_store_that_was_set_back_gives_no_block_away() {
    let mut cluster = Cluster::start(1);
    let (founder, copied) = (cluster.data(0), cluster.folder.path().join("copy"));
    play(&cluster, async || {
        settled(&node(&cluster, "a", "a", 0), 1).await;
    });
    cluster.kill(0);
    copy(&founder, &copied);
    cluster.launch(0);
    cluster.wait();
    let held = play(&cluster, async || {
        let (a, b) = (node(&cluster, "a", "a", 1), node(&cluster, "b", "b", 1));
        blocks(&a, 1).await;
        blocks(&b, 1).await
    });
    cluster.kill(0);
    fs::remove_dir_all(&founder).unwrap();
    copy(&copied, &founder);
    cluster.launch(0);
    cluster.wait();
    play(&cluster, async || {
        // Of b the store knows nothing, and c knows nothing at all. The witness is away.
        let c = node(&cluster, "c", "c", 3);
        settled(&c, 1).await;
        sleep(Duration::from_millis(500)).await;
        assert_eq!(c.usable().borrow().len(), 0);
        let a = node(&cluster, "a", "a", 1);
        assert_eq!(settled(&c, 2).await, 2);
        let got = blocks(&c, 1).await;
        assert!(got.is_disjoint(&held) && got.is_disjoint(&blocks(&a, 1).await), "{got:?} {held:?}");
        let b = node(&cluster, "b", "b", 1);
        settled(&b, 2).await;
        assert_eq!(blocks(&b, 1).await, held);
    });
}

/// Also not by a store that forgot what was given up, and who took it.
#[test]
fn what_one_gives_up_of_a_block_another_gets_and_returns() {
    let mut cluster = Cluster::start(1);
    let (founder, copied) = (cluster.data(0), cluster.folder.path().join("copy"));
    let lacks = |peers: &Peers, who: &str| {
        peers.get(&name(who)).and_then(|peer| peer.lending.as_ref()).is_some_and(|lending| !lending.lacks.is_empty())
    };
    let whole = play(&cluster, async || {
        let a = node(&cluster, "a", "a", 3);
        blocks(&a, 3).await
    });
    cluster.kill(0);
    copy(&founder, &copied);
    cluster.launch(0);
    cluster.wait();
    let (kept, half) = play(&cluster, async || {
        let (a, b) = (node(&cluster, "a", "a", 3), node(&cluster, "b", "b", 1));
        peers(&a, |peers| lacks(peers, "b")).await;
        let memory = a.blocks().memory().borrow().clone();
        let (claim, holding) = memory.holdings.iter().next_back().unwrap();
        let halves: Vec<IpNet> = holding.range().subnets(25).unwrap().collect();
        a.blocks().keep(*claim, halves[1]);
        assert_eq!(blocks(&b, 1).await, BTreeSet::from([halves[0]]));
        let kept = until(a.blocks().memory(), |memory| memory.blocks().any(|block| block == halves[1])).await;
        let kept: BTreeSet<IpNet> = kept.blocks().collect();
        peers(&b, |peers| has(peers, "a", &kept)).await;
        peers(&a, |peers| has(peers, "b", &BTreeSet::from([halves[0]])) && !lacks(peers, "b")).await;
        (kept, halves[0])
    });
    assert!(kept != whole && kept.len() == 3);
    // The store knows neither b nor that anything was given up.
    cluster.kill(0);
    fs::remove_dir_all(&founder).unwrap();
    copy(&copied, &founder);
    cluster.launch(0);
    cluster.wait();
    play(&cluster, async || {
        let (c, a) = (node(&cluster, "c", "c", 1), node(&cluster, "a", "a", 3));
        settled(&a, 2).await;
        let b = node(&cluster, "b", "b", 1);
        peers(&a, |peers| peers.get(&name("b")).is_some_and(|b| b.blocks.contains(&half)) && lacks(peers, "c")).await;
        assert_eq!((blocks(&a, 3).await, blocks(&b, 1).await), (kept, BTreeSet::from([half])));
        assert!(c.usable().borrow().is_empty());
        // What is returned the next one has.
        let claim = *b.blocks().memory().borrow().holdings.keys().next().unwrap();
        b.blocks().give_up(claim);
        assert_eq!(blocks(&c, 1).await, BTreeSet::from([half]));
        blocks(&b, 0).await;
    });
}
