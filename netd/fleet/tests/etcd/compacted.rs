//! What a watch cannot tell, since etcd has forgotten it: it is listed anew, and nothing of it is missed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ipnet::IpNet;
use netd_fleet::{Discovery as _, EtcdSettings, Fleet, Records, SandboxRecord};

use super::cluster::Cluster;
use super::line::Line;
use super::{away, blocks, has, name, node, node_at, peers, play, settings, until};

/// A node whose connections are counted does not take a store that is busy for a moment for one that is away.
const PATIENT: Duration = Duration::from_secs(30);

fn tell(fleet: &Fleet, number: u64, container: &str) {
    let addresses = BTreeMap::from([("10.20.2.9".parse().unwrap(), None)]);
    let record = SandboxRecord { name: container.to_owned(), addresses, ..SandboxRecord::default() };
    fleet.tell(number, BTreeMap::from([(container.to_owned(), record)]), BTreeSet::new());
}

/// That `of` has this container, and no other.
async fn hears_of(fleet: &Fleet, of: &Fleet, container: &str) {
    let instance = of.blocks().memory().borrow().instance;
    let is_it = |records: &Records| records.keys().eq([container]);
    until(fleet.heard(), |heard| heard.is_known && heard.records.get(&instance).is_some_and(|records| is_it(records)))
        .await;
}

/// Returns one of its blocks; those that it has left.
async fn gives_one_up(fleet: &Fleet, left: usize) -> BTreeSet<IpNet> {
    let claim = *fleet.blocks().memory().borrow().holdings.keys().next().unwrap();
    fleet.blocks().give_up(claim);
    blocks(fleet, left).await
}

#[test]
fn what_changed_between_a_list_and_its_watch_is_not_missed_though_it_is_compacted() {
    let cluster = Cluster::start(1);
    play(&cluster, async || {
        let b = node(&cluster, "b", "b", 2);
        blocks(&b, 2).await;
        tell(&b, 1, "login");
        until(b.told(), |told| told.as_ref().is_some_and(|told| told.number == 1)).await;
        let patient = EtcdSettings { lease: PATIENT, ..settings(&cluster) };
        let line = Line::to(&patient).await;
        line.shut(true);
        let a = node_at(&cluster, line.settings(patient), "a", "a", 0);
        line.is_asked().await;
        let left = gives_one_up(&b, 1).await;
        tell(&b, 2, "cart");
        let c = node(&cluster, "c", "c", 1);
        let taken = blocks(&c, 1).await;
        until(b.told(), |told| told.as_ref().is_some_and(|told| told.number == 2)).await;
        cluster.compact();
        assert_eq!(line.connections(), 1);
        line.shut(false);
        peers(&a, |peers| has(peers, "b", &left) && has(peers, "c", &taken)).await;
        hears_of(&a, &b, "cart").await;
        assert_eq!(line.connections(), 2, "it lists anew, once");
        // What comes then, its watches tell.
        tell(&b, 3, "ui");
        hears_of(&a, &b, "ui").await;
        assert_eq!(line.connections(), 2);
    });
}

#[test]
fn what_changed_while_a_node_was_away_is_not_missed_though_it_is_compacted() {
    let cluster = Cluster::start(1);
    play(&cluster, async || {
        let line = Line::to(&settings(&cluster)).await;
        let (b, c) = (node(&cluster, "b", "b", 2), node(&cluster, "c", "c", 1));
        let (held, taken) = (blocks(&b, 2).await, blocks(&c, 1).await);
        let a = node_at(&cluster, line.settings(settings(&cluster)), "a", "a", 0);
        tell(&b, 1, "login");
        peers(&a, |peers| has(peers, "b", &held) && has(peers, "c", &taken)).await;
        hears_of(&a, &b, "login").await;
        line.cut(true);
        away(&a).await;
        let left = gives_one_up(&b, 1).await;
        tell(&b, 2, "cart");
        until(b.told(), |told| told.as_ref().is_some_and(|told| told.number == 2)).await;
        drop(c);
        peers(&b, |peers| !peers.contains_key(&name("c"))).await;
        let d = node(&cluster, "d", "d", 0);
        peers(&b, |peers| peers.contains_key(&name("d"))).await;
        cluster.compact();
        assert!(has(&a.follow().borrow(), "b", &held), "it goes on with what it knows");
        line.cut(false);
        peers(&a, |peers| has(peers, "b", &left) && peers.keys().eq([&name("b"), &name("d")])).await;
        hears_of(&a, &b, "cart").await;
        drop(d);
        peers(&a, |peers| !peers.contains_key(&name("d"))).await;
    });
}
