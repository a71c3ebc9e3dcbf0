//! Pools of `netd.toml` that are not those of the fleet, on etcd. Needs root.

mod rig;

use rig::nodes::{Etcd, Member, NETWORK, Nodes, soon};

fn stored(pools: &str) -> String {
    format!("pools = [{pools}]\netcd = ['{}']\n", Etcd::ENDPOINT)
}

fn warns(node: &Member, words: &[&str]) -> bool {
    words.iter().all(|word| node.warnings().iter().any(|text| text.contains(word)))
}

#[test]
fn a_pool_that_the_store_does_not_have_is_told_and_a_change_of_pools_too() {
    const FIRST: &str = "'10.4.0.0/16', 'fd04::/48'";
    const OTHER: &str = "{ range = '10.4.0.0/16', block = 24 }, 'fd04::/48', '10.5.0.0/16'";
    const MISSING: &str = "pool 10.5.0.0/16 is not in the store, which has 10.4.0.0/16, fd04::/48";
    let mut nodes = Nodes::new(2);
    let _etcd = nodes.etcd();
    for (node, pools) in nodes.all.iter_mut().zip([FIRST, OTHER]) {
        node.write(&stored(pools));
        node.start();
        node.attach("web");
    }
    let (first, second) = (&nodes.all[0], &nodes.all[1]);
    soon("both are told", || {
        warns(second, &[MISSING, "pool 10.4.0.0/16 has blocks of /24 in netd.toml and of /26 in the store"])
    });
    assert_eq!(first.warnings(), Vec::<String>::new());
    // What will never come is not waited for.
    let network = NETWORK.replace("\"bridge\",\"type\"", "\"other\",\"type\"").replace("br0", "br1");
    let network = network.replace("10.4.0.0/24", "10.5.0.0/24");
    let failure = second.attach_to(&network, "x", "").map(|sandbox| sandbox.v4).unwrap_err();
    assert!(failure.message.contains(MISSING) && !failure.message.contains("try again"), "{failure:?}");
    assert_ne!(netd_api::cni_code(failure.code.enum_value().unwrap()), 11, "{failure:?}");
    // Nor does a start bring it.
    first.write(&stored(OTHER));
    let next = "hold from the next start on, pools only as the store has them";
    soon("the change is told, and what will not hold", || warns(first, &[next, MISSING]));
    first.write(&stored(FIRST));
    soon("it is taken back", || first.warnings().is_empty());
}
