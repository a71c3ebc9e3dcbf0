//! A pool that is added to a fleet that runs, and a store that forgot it.

use std::collections::BTreeSet;
use std::fs;

use ipnet::IpNet;
use netd_fleet::{Fleet, Pool, Status};

use crate::cluster::{Cluster, copy};
use crate::{away, blocks, node, plan, play, settled, until};

fn more() -> Pool {
    let (name, range) = ("more".to_owned(), "10.21.0.0/23".parse().unwrap());
    Pool { name, range, reserved: BTreeSet::new(), ..plan().pools()[0].clone() }
}

async fn has_more(fleet: &Fleet) {
    let is_there = |status: &Status| {
        let charter = status.charter.as_ref().filter(|charter| charter.is_open());
        charter.is_some_and(|charter| charter.plan.has(&more()))
    };
    until(fleet.status(), is_there).await;
}

fn of_more(blocks: &BTreeSet<IpNet>) -> usize {
    blocks.iter().filter(|block| more().range.contains(*block)).count()
}

#[test]
fn a_store_that_was_set_back_forgets_no_pool() {
    let mut cluster = Cluster::start(1);
    let (data, copied) = (cluster.data(0), cluster.folder.path().join("copy"));
    play(&cluster, async || {
        let a = node(&cluster, "a", "a", 1);
        blocks(&a, 1).await;
    });
    cluster.kill(0);
    copy(&data, &copied);
    cluster.launch(0);
    cluster.wait();
    let held = play(&cluster, async || {
        let (a, b) = (node(&cluster, "a", "a", 1), node(&cluster, "b", "b", 0));
        settled(&b, 1).await;
        b.blocks().add_pool(more());
        has_more(&a).await;
        a.blocks().want("more", 1);
        let held = blocks(&a, 2).await;
        assert_eq!(of_more(&held), 1);
        held
    });
    // Another netd of the node knows it without the store.
    cluster.kill(0);
    play(&cluster, async || {
        let a = node(&cluster, "a", "a", 1);
        assert_eq!(blocks(&a, 2).await, held);
        away(&a).await;
    });
    fs::remove_dir_all(&data).unwrap();
    copy(&copied, &data);
    cluster.launch(0);
    cluster.wait();
    play(&cluster, async || {
        // It knows nothing, and the store nothing of the pool.
        let c = node(&cluster, "c", "c", 0);
        c.blocks().want("more", 1);
        settled(&c, 1).await;
        assert!(!until(c.status(), |status| status.charter.is_some()).await.charter.unwrap().plan.has(&more()));
        let a = node(&cluster, "a", "a", 1);
        has_more(&c).await;
        let got = blocks(&c, 1).await;
        assert_eq!((of_more(&got), blocks(&a, 2).await), (1, held.clone()));
        assert!(got.is_disjoint(&held), "{got:?} {held:?}");
    });
}
