//! What should not be in the store: records that nobody can read, and one node that is there twice.

use std::collections::BTreeMap;

use netd_fleet::{Fleet, Status};
use tokio::time::sleep;

use crate::cluster::Cluster;
use crate::{LEASE, blocks, name, node, peers, until};

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
