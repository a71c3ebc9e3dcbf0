//! What nodes tell each other of sandboxes: it goes with its node, and an address that was withdrawn is told to be so when all
//! have forgotten whose it was.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::IpAddr;

use netd_fleet::{Discovery as _, EtcdSettings, Fleet, Heard, InstanceId, Needs, Records, SandboxRecord, Status, Told};
use tokio::time::sleep;

use super::cluster::{Cluster, copy};
use super::{LEASE, STEADY, blocks, joined, name, node, node_at, peers, play, settings, settled, steady, until};

fn address(last: u8) -> IpAddr {
    IpAddr::from([10, 20, 2, last])
}

fn record(app: &str, last: u8) -> SandboxRecord {
    SandboxRecord {
        namespace: "shop".to_owned(),
        name: app.to_owned(),
        addresses: BTreeMap::from([(address(last), None)]),
        labels: BTreeMap::from([("app".to_owned(), Some(app.to_owned()))]),
        ..SandboxRecord::default()
    }
}

fn one(record: SandboxRecord) -> BTreeMap<String, SandboxRecord> {
    BTreeMap::from([("c1".to_owned(), record)])
}

fn me(fleet: &Fleet) -> InstanceId {
    fleet.blocks().memory().borrow().instance
}

async fn heard(fleet: &Fleet, of: InstanceId, is_so: impl Fn(&Records) -> bool) -> Heard {
    let none = Records::new();
    until(fleet.heard(), |heard| heard.is_known && is_so(heard.records.get(&of).map_or(&none, |records| records))).await
}

async fn told(fleet: &Fleet, number: u64, believed: &[u8]) {
    let believed: BTreeSet<IpAddr> = believed.iter().copied().map(address).collect();
    let is_so = |told: &Told| (told.number, &told.believed) == (number, &believed);
    until(fleet.told(), |told| told.as_ref().is_some_and(is_so)).await;
}

fn needs() -> Needs {
    Needs { sandboxes: true, labels: BTreeSet::from(["app".to_owned()]), ..Needs::default() }
}

/// What it has heard so far holds there.
fn apply(fleet: &Fleet) {
    fleet.applied(&fleet.heard().borrow().clone());
}

/// `b` has a kernel of its own, and says what holds there only when it is told to.
async fn comes(a: &Fleet, b: &Fleet) {
    let said = || a.follow().borrow().get(&name("b")).map(|b| b.needs.clone());
    while said().inspect(|said| assert_eq!(*said, Some(needs()), "what it says first of what it needs")).is_none() {
        apply(b);
        sleep(LEASE / 100).await;
    }
}

/// They know each other, and each hears of sandboxes.
async fn two(cluster: &Cluster) -> (Fleet, Fleet) {
    two_by(cluster, settings(cluster)).await
}

async fn two_by(cluster: &Cluster, settings: EtcdSettings) -> (Fleet, Fleet) {
    let (a, b) = (node_at(cluster, settings.clone(), "a", "a", 1), joined(cluster, settings, "b", "b", 1));
    blocks(&a, 1).await;
    blocks(&b, 1).await;
    b.need(needs());
    comes(&a, &b).await;
    peers(&b, |peers| peers.contains_key(&name("a"))).await;
    (a, b)
}

#[test]
fn an_address_that_is_withdrawn_is_believed_until_all_have_forgotten_it() {
    let cluster = Cluster::start(1);
    play(&cluster, async || {
        let (a, b) = two_by(&cluster, steady(&cluster)).await;
        let of = me(&a);
        a.tell(1, one(record("login", 1)), BTreeSet::new());
        told(&a, 1, &[1]).await;
        let is = |records: &Records, app: &str| {
            records.get("c1").is_some_and(|one| one.as_ref().is_ok_and(|one| one.name == app))
        };
        // Nobody is asked about what nobody withdrew.
        assert_eq!(heard(&b, of, |records| is(records, "login")).await.asked, BTreeMap::new());
        // Relabelled: whoever was told of the address is still the same.
        a.tell(2, one(record("guest", 1)), BTreeSet::new());
        heard(&b, of, |records| is(records, "guest")).await;
        told(&a, 2, &[1]).await;
        a.tell(3, BTreeMap::new(), BTreeSet::new());
        let heard_last = heard(&b, of, BTreeMap::is_empty).await;
        told(&a, 3, &[1]).await;
        // An answer to an earlier question says nothing of this one.
        b.applied(&heard_last);
        sleep(LEASE / 4).await;
        assert_eq!(a.told().borrow().as_ref().map(|told| told.believed.len()), Some(1));
        let before = heard_last.asked.get(&of).copied();
        let asked = until(b.heard(), |heard| heard.asked.get(&of).copied() != before).await;
        told(&a, 3, &[1]).await;
        b.applied(&asked);
        told(&a, 3, &[]).await;
        // Who is there and silent is waited for, and told.
        a.tell(4, one(record("login", 2)), BTreeSet::new());
        told(&a, 4, &[2]).await;
        a.tell(5, BTreeMap::new(), BTreeSet::new());
        told(&a, 5, &[2]).await;
        until(a.told(), |told| told.as_ref().is_some_and(|told| told.silent == BTreeSet::from(["b".to_owned()]))).await;
        sleep(2 * STEADY).await;
        told(&a, 5, &[2]).await;
        apply(&b);
        told(&a, 5, &[]).await;
        assert!(a.told().borrow().as_ref().is_some_and(|told| told.silent.is_empty()));
        // Until it is gone.
        a.tell(6, one(record("login", 3)), BTreeSet::new());
        told(&a, 6, &[3]).await;
        a.tell(7, BTreeMap::new(), BTreeSet::new());
        drop(b);
        told(&a, 7, &[]).await;
    });
}

#[test]
fn a_node_is_a_peer_when_what_it_heard_holds_and_it_knows_what_it_needs() {
    let cluster = Cluster::start(1);
    play(&cluster, async || {
        let a = node(&cluster, "a", "a", 1);
        blocks(&a, 1).await;
        a.tell(1, one(record("login", 1)), BTreeSet::new());
        told(&a, 1, &[1]).await;
        let is_there = || a.follow().borrow().contains_key(&name("b"));
        let mut last = 1;
        for _ in 0..2 {
            let b = joined(&cluster, steady(&cluster), "b", "b", 1);
            heard(&b, me(&a), |records| records.len() == 1).await;
            apply(&b);
            // Others wait for it already: it might know of what they withdraw.
            let before = b.heard().borrow().number;
            a.tell(last + 1, BTreeMap::new(), BTreeSet::new());
            until(b.heard(), |heard| heard.number > before).await;
            sleep(LEASE / 4).await;
            assert_eq!(a.told().borrow().as_ref().map(|told| told.believed.len()), Some(1));
            apply(&b);
            sleep(LEASE / 4).await;
            assert!(!is_there(), "a peer that does not know what it needs");
            b.need(needs());
            comes(&a, &b).await;
            told(&a, last + 1, &[]).await;
            // Another netd of a node that the store tells of goes on with what was needed.
            drop(b);
            let b = joined(&cluster, steady(&cluster), "b", "b", 1);
            sleep(2 * STEADY).await;
            assert_eq!(a.follow().borrow().get(&name("b")).map(|b| b.needs.clone()), Some(Some(needs())));
            drop(b);
            peers(&a, |peers| !peers.contains_key(&name("b"))).await;
            last += 2;
            a.tell(last, one(record("login", 1)), BTreeSet::new());
            told(&a, last, &[1]).await;
        }
    });
}

/// What holds in its kernel may be old by then. Where nothing was to be heard since, it is not.
#[test]
fn a_node_whose_lease_ended_is_a_peer_when_what_it_heard_holds() {
    let cluster = Cluster::start(1);
    play(&cluster, async || {
        let (a, b) = two(&cluster).await;
        // It hears of this, and does not say that it holds.
        a.tell(1, one(record("login", 1)), BTreeSet::new());
        heard(&b, me(&a), |records| records.len() == 1).await;
        let ticket = || cluster.value(&format!("sandboxes/asked/{}", me(&b)));
        let before = ticket();
        cluster.end_leases();
        peers(&a, |peers| !peers.contains_key(&name("b"))).await;
        // Others wait for it from then on.
        while ticket().is_none() || ticket() == before {
            sleep(LEASE / 20).await;
        }
        sleep(LEASE / 2).await;
        assert!(!a.follow().borrow().contains_key(&name("b")), "a peer that holds what it heard before");
        comes(&a, &b).await;
    });
}

#[test]
fn who_comes_later_hears_all_that_many_are() {
    let cluster = Cluster::start(1);
    play(&cluster, async || {
        let (a, b) = two(&cluster).await;
        let all: BTreeMap<String, SandboxRecord> =
            (0..1_201).map(|at| (format!("c{at}"), record("login", 1))).collect();
        a.tell(1, all.clone(), BTreeSet::new());
        heard(&b, me(&a), |records| records.len() == all.len()).await;
        let c = node(&cluster, "c", "c", 0);
        let heard = until(c.heard(), |heard| heard.is_known).await;
        assert!(heard.records[&me(&a)].keys().eq(all.keys()), "{}", heard.records[&me(&a)].len());
    });
}

#[test]
fn what_is_told_outlives_the_stores_absence_and_goes_with_its_node() {
    let mut cluster = Cluster::start(1);
    play(&cluster, async || {
        let (a, b) = two(&cluster).await;
        a.tell(1, one(record("login", 1)), BTreeSet::new());
        heard(&b, me(&a), |records| records.len() == 1).await;
    });
    cluster.kill(0);
    cluster.launch(0);
    cluster.wait();
    play(&cluster, async || {
        let (a, b) = two_by(&cluster, steady(&cluster)).await;
        let of = me(&a);
        // Nothing is withdrawn before netd has said what there is; then it is under the new lease.
        a.tell(1, one(record("login", 1)), BTreeSet::new());
        heard(&b, of, |records| records.len() == 1).await;
        sleep(2 * STEADY).await;
        assert_eq!(b.heard().borrow().records.get(&of).map(|records| records.len()), Some(1));
        drop(a);
        heard(&b, of, BTreeMap::is_empty).await;
    });
}

/// A restart may take longer than a lease: what was told stays until netd has said what there is.
#[test]
fn what_an_earlier_netd_told_stays_until_this_one_has_said_something() {
    let cluster = Cluster::start(1);
    play(&cluster, async || {
        let (a, b) = two_by(&cluster, steady(&cluster)).await;
        let of = me(&a);
        a.tell(1, one(record("login", 1)), BTreeSet::new());
        heard(&b, of, |records| records.len() == 1).await;
        drop(a);
        let a = node_at(&cluster, steady(&cluster), "a", "a", 1);
        sleep(2 * STEADY).await;
        assert_eq!(b.heard().borrow().records.get(&of).map(|records| records.len()), Some(1));
        a.tell(1, one(record("guest", 2)), BTreeSet::new());
        let is =
            |records: &Records| records.get("c1").is_some_and(|one| one.as_ref().is_ok_and(|one| one.name == "guest"));
        heard(&b, of, is).await;
        drop(a);
        heard(&b, of, BTreeMap::is_empty).await;
    });
}

#[test]
fn the_last_ticket_of_a_removed_node_goes_with_it_whether_it_lives_or_not() {
    let cluster = Cluster::start(1);
    play(&cluster, async || {
        let (a, b) = two(&cluster).await;
        let c = node(&cluster, "c", "c", 0);
        peers(&a, |peers| peers.contains_key(&name("c"))).await;
        // All three witness: two of them can do without the third.
        settled(&a, 2).await;
        let (dead, living) = (me(&b), me(&c));
        let ticket = |of: InstanceId| cluster.value(&format!("tickets/{of}"));
        for of in [me(&a), dead, living] {
            while ticket(of).is_none() {
                sleep(LEASE / 20).await;
            }
        }
        for (gone, called, of) in [(b, "b", dead), (c, "c", living)] {
            drop(gone);
            peers(&a, |peers| !peers.contains_key(&name(called))).await;
            if of == living {
                // One of two witnesses.
                a.blocks().abandon(of);
            }
            a.blocks().remove(of);
            let is_removed = |status: &Status| status.charter.as_ref().is_some_and(|it| it.removed.contains(&of));
            until(a.status(), is_removed).await;
            assert_eq!(ticket(of), None);
        }
        assert!(ticket(me(&a)).is_some());
        // It asks where it comes back all the same, and again for as long as it lives.
        let _c = node(&cluster, "c", "c", 0);
        peers(&a, |peers| peers.contains_key(&name("c"))).await;
        let asked = || cluster.value(&format!("sandboxes/asked/{living}"));
        let before = asked();
        cluster.end_leases();
        while asked().is_none() || asked() == before {
            sleep(LEASE / 20).await;
        }
        peers(&a, |peers| peers.contains_key(&name("c"))).await;
        sleep(LEASE).await;
        assert_eq!(ticket(living), None);
    });
}

#[test]
fn what_a_store_forgot_is_believed_while_one_who_heard_it_may_come_back() {
    let mut cluster = Cluster::start(1);
    let (data, copied) = (cluster.data(0), cluster.folder.path().join("copy"));
    play(&cluster, async || {
        settled(&node(&cluster, "a", "a", 0), 1).await;
    });
    cluster.kill(0);
    copy(&data, &copied);
    cluster.launch(0);
    cluster.wait();
    // The nodes outlive the store.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let prepare = async {
        let (a, b) = two(&cluster).await;
        a.tell(1, one(record("login", 1)), BTreeSet::new());
        heard(&b, me(&a), |records| records.len() == 1).await;
        told(&a, 1, &[1]).await;
        a
    };
    let a = cluster.place.run(|| runtime.block_on(prepare)).unwrap();
    cluster.kill(0);
    // Longer than who left just now is waited for.
    std::thread::sleep(LEASE);
    fs::remove_dir_all(&data).unwrap();
    copy(&copied, &data);
    cluster.launch(0);
    cluster.wait();
    let check = async {
        a.tell(2, BTreeMap::new(), BTreeSet::new());
        told(&a, 2, &[1]).await;
        told(&a, 2, &[]).await;
    };
    cluster.place.run(|| runtime.block_on(check)).unwrap();
}
