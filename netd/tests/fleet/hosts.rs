//! Hosts whose own networks, links and addresses stand in the way of the fleet's.

use crate::rig::nodes::{Member, Nodes, Sandbox, soon};
use crate::{all_have_routes, all_reach_each_other, list, stored};

/// Of a link that has the same address on every host, as a virtual machine's to its own host does.
#[test]
fn nothing_is_sent_to_a_peer_whose_address_is_another_nodes_too() {
    let mut nodes = Nodes::new(3);
    let _etcd = nodes.etcd();
    for node in &nodes.all[..2] {
        for line in ["ip link add nat0 type bridge", "ip addr add 10.0.2.15/24 dev nat0", "ip link set nat0 up"] {
            node.space.command(line);
        }
    }
    let well = stored("['10.4.0.0/16', 'fd04::/48']");
    for node in &mut nodes.all {
        node.write(&(well.clone() + if node.number == 3 { "" } else { "address = '10.0.2.15'\n" }));
        node.start();
    }
    let sandboxes: Vec<Sandbox> = nodes.all.iter().map(|node| node.attach("web")).collect();
    sandboxes.iter().for_each(|sandbox| sandbox.space.serve(80));
    let is_told = |number: usize, words: &str| {
        let node = &nodes.all[number];
        node.warnings().iter().any(|text| text.contains(words) && text.contains("Set fleet.address"))
    };
    soon("each of two is told", || is_told(0, "n2 says that it is reached at 10.0.2.15, and that is this node's own"));
    soon("so is the other", || is_told(1, "n1 says that it is reached at 10.0.2.15, and that is this node's own"));
    soon("and the third", || is_told(2, "n1 says that it is reached at 10.0.2.15, and so does n2"));
    soon("and the third, of both", || is_told(2, "n2 says that it is reached at 10.0.2.15, and so does n1"));
    soon("the third has its address", || nodes.all[0].routes().contains("192.0.2.3"));
    for node in &nodes.all {
        assert!(!node.routes().contains("10.0.2.15"), "{}", node.routes());
    }
    let told = nodes.all[2].check("n1");
    assert!(told.iter().all(|one| one.troubles.iter().any(|text| text.contains("so does n2"))), "{told:?}");
    for node in &mut nodes.all[..2] {
        node.kill();
        node.write(&well);
        node.start();
    }
    all_have_routes(&nodes, 4);
    all_reach_each_other(&sandboxes);
    soon("all is well", || nodes.all.iter().all(|node| node.warnings().is_empty()));
}

/// etcd's address is none as it is written: resolvers read the last part as two octets (inet_aton(3)).
fn named(pools: &str) -> String {
    stored(pools).replace("192.0.2.254", "192.0.766")
}

#[test]
fn a_pool_that_holds_etcd_cuts_no_host_off_from_it() {
    let mut nodes = Nodes::new(1);
    let _etcd = nodes.etcd();
    nodes.start(&named("['192.0.2.128/25', 'fd04::/48']"));
    let node = &nodes.all[0];
    soon("it has a block of each", || node.fleet().blocks.iter().filter(|one| one.state == "here").count() == 2);
    soon("the routes", || node.routes().contains("unreachable fd04::/48"));
    assert!(!node.routes().contains("unreachable 192.0.2.128/25"), "{}", node.routes());
    let told = node.warnings();
    assert!(told.len() == 1 && told[0].contains("192.0.2.254 (etcd)"), "{told:?}");
}

/// What etcd is called need not be its address: a node is reached where it sends from to etcd, not by its default route.
#[test]
fn of_two_links_the_one_that_leads_to_etcd_is_where_a_node_is_reached() {
    let mut nodes = Nodes::new(2);
    let _etcd = nodes.etcd();
    for node in &nodes.all {
        for line in [
            "ip link add nat0 type bridge",
            "ip addr add 10.0.2.15/24 dev nat0",
            "ip link set nat0 up",
            "ip route replace default via 10.0.2.2 dev nat0",
            "ip -6 route del default",
        ] {
            node.space.command(line);
        }
    }
    nodes.start(&named("['10.4.0.0/16', 'fd04::/48']"));
    let sandboxes: Vec<Sandbox> = nodes.all.iter().map(|node| node.attach("web")).collect();
    sandboxes.iter().for_each(|sandbox| sandbox.space.serve(80));
    all_have_routes(&nodes, 2);
    all_reach_each_other(&sandboxes);
    soon("all is well", || nodes.all.iter().all(|node| node.warnings().is_empty()));
    let told: Vec<_> = nodes.all.iter().map(|node| node.fleet().nodes[0].addresses.clone()).collect();
    assert_eq!(told, [["192.0.2.1"], ["192.0.2.2"]]);
}

/// Whoever is there is reached as before, and people are told; a bridge of sandboxes is no such network.
#[test]
fn a_pool_that_holds_a_hosts_own_network_cuts_no_host_off() {
    let mut nodes = Nodes::new(2);
    nodes.underlay.command("ip addr add 10.4.201.9/32 dev u1");
    nodes.underlay.serve(80);
    nodes.all[0].space.command("ip addr add 10.4.200.7/24 dev up0");
    for line in ["ip link add other0 type bridge", "ip addr add 10.4.77.1/24 dev other0", "ip link set other0 up"] {
        nodes.all[1].space.command(line);
    }
    nodes.start(&list("vxlan", &[1, 2]));
    let sandboxes: Vec<Sandbox> = nodes.all.iter().map(|node| node.attach("web")).collect();
    sandboxes.iter().for_each(|sandbox| sandbox.space.serve(80));
    all_reach_each_other(&sandboxes);
    let beyond = |node: &Member| node.space.hears("10.4.201.9:80").ok();
    assert_eq!((beyond(&nodes.all[0]).as_deref(), beyond(&nodes.all[1])), (Some("192.0.2.1"), None));
    let told = nodes.all[0].warnings();
    assert!(told.len() == 1 && told[0].contains("10.4.200.7 (link up0)"), "{told:?}");
    soon("the second is content", || nodes.all[1].warnings().is_empty());
    let is_closed = |node: &Member| node.routes().contains("unreachable 10.4.0.0/16");
    assert!(!is_closed(&nodes.all[0]) && is_closed(&nodes.all[1]));
    assert!(nodes.all[0].routes().contains("unreachable fd04::/48"), "the other pool holds none");
    assert_eq!(nodes.all[0].resync(true), Vec::<String>::new());
    nodes.all[0].space.command("ip addr del 10.4.200.7/24 dev up0");
    soon("the rest of the pool is nobody's", || is_closed(&nodes.all[0]));
    assert_eq!((beyond(&nodes.all[0]), nodes.all[0].warnings()), (None, Vec::new()));
    // While netd runs, too.
    nodes.all[0].space.command("ip addr add 10.4.200.7/24 dev up0");
    soon("the host reaches its others again", || beyond(&nodes.all[0]).is_some());
}

/// Where hosts are on a list, its pools may become others from one start to the next.
#[test]
fn a_pool_that_became_wider_or_narrower_holds_from_the_next_start_on() {
    let mut nodes = Nodes::new(2);
    let list = |pool: &str| list("direct", &[1, 2]).replace("10.4.0.0/16", pool);
    nodes.start(&list("10.4.0.0/16"));
    let sandboxes: Vec<Sandbox> = nodes.all.iter().map(|node| node.attach("web")).collect();
    sandboxes.iter().for_each(|sandbox| sandbox.space.serve(80));
    all_reach_each_other(&sandboxes);
    for pool in ["10.4.0.0/15", "10.4.0.0/16"] {
        nodes.all.iter_mut().for_each(Member::kill);
        nodes.write(&list(pool));
        nodes.all.iter_mut().for_each(Member::start);
        let is_known = |node: &Member| node.routes().contains(&format!("unreachable {pool}"));
        soon("its ways", || nodes.all.iter().all(is_known));
        all_reach_each_other(&sandboxes);
        let rules = nodes.all[0].space.command("nft list ruleset");
        assert!(rules.contains(pool), "{pool}: {rules}");
    }
}
