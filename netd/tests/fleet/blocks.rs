//! Whose blocks addresses come from: blocks found, kept, asked for, given back, parted; and whose nobody may say.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::fs;

use crate::rig::nodes::{Etcd, Member, NETWORK, Nodes, Sandbox, soon};
use crate::{all_have_routes, all_reach_each_other, mtu, stored};

/// A node whose labels change keeps what its containers have, gives nothing more of it, and gives it back behind them.
#[test]
fn a_pool_is_for_nodes_with_its_labels() {
    let mut nodes = Nodes::new(2);
    let _etcd = nodes.etcd();
    let in_zone = |zone: &str| {
        let pool = |name: &str, range: &str| {
            format!("{{ name = '{name}', range = '{range}', nodes = {{ zone = '{name}' }} }}")
        };
        let pools = format!("[{}, {}]", pool("a", "10.4.0.0/17"), pool("b", "10.4.128.0/17"));
        stored(&pools) + &format!("labels = {{ zone = '{zone}' }}\n")
    };
    for (node, zone) in nodes.all.iter_mut().zip(["a", "b"]) {
        node.write(&in_zone(zone));
        node.start();
    }
    let of_b = NETWORK
        .replace("\"bridge\",\"type\"", "\"other\",\"type\"")
        .replace("br0", "br1")
        .replace("10.4.0.0/24", "10.4.128.0/24")
        .replace("fd04::/64", "fd05::/64");
    let refused = |node: &Member, network: &str, container: &str| {
        node.attach_to(network, container, "").map(|sandbox| sandbox.v4).unwrap_err()
    };
    // What was given back is `absent` where a node that is no witness has not heard yet that it is free.
    let own = |node: &Member| {
        let blocks = node.fleet().blocks.into_iter().filter(|one| ["here", "leaving"].contains(&one.state.as_str()));
        blocks.map(|one| format!("{} {}", one.pool, one.held)).collect::<Vec<_>>()
    };
    let one = nodes.all[0].attach("one");
    let two = nodes.all[1].attach_in_time(&of_b, "two");
    [&one, &two].iter().for_each(|sandbox| sandbox.space.serve(80));
    let reach_each_other = |one: &Sandbox, two: &Sandbox| {
        for (from, to) in [(one, two), (two, one)] {
            assert_eq!(from.space.hears_in_the_end(&format!("{}:80", to.v4)).as_ref(), Ok(&from.v4));
        }
    };
    reach_each_other(&one, &two);
    assert_eq!([own(&nodes.all[0]), own(&nodes.all[1])], [["a 1"], ["b 1"]]);
    let failure = refused(&nodes.all[0], &of_b, "astray");
    assert!(failure.message.contains("the pool is for nodes with zone=b; set fleet.labels"), "{failure:?}");
    assert_ne!(code(&failure), TRY_AGAIN);
    nodes.all[0].kill();
    nodes.all[0].write(&in_zone("b"));
    nodes.all[0].start();
    soon("it has a block of its new pool", || own(&nodes.all[0]) == ["a 1", "b 0"]);
    let failure = refused(&nodes.all[0], NETWORK, "late");
    assert!(failure.message.contains("the pool is for nodes with zone=a; set fleet.labels"), "{failure:?}");
    let asked = nodes.all[0].attach_to(NETWORK, "asked", &format!("IP={}", one.v4.replace(".2", ".9")));
    assert!(asked.is_err(), "an address of it that was asked for");
    let new = nodes.all[0].attach_in_time(&of_b, "new");
    new.space.serve(80);
    reach_each_other(&one, &two);
    reach_each_other(&new, &two);
    soon("all is well", || nodes.all[0].warnings().is_empty());
    nodes.all[0].detach("one");
    let begin = std::time::Instant::now();
    while own(&nodes.all[0]) != ["b 1"] {
        assert!(begin.elapsed() < std::time::Duration::from_secs(90), "{:?}", own(&nodes.all[0]));
        std::thread::sleep(std::time::Duration::from_millis(200));
    }
    soon("nothing leads there", || !nodes.all[1].routes().contains(&one.v4[..one.v4.len() - 2]));
}

#[test]
fn addresses_come_from_own_blocks_or_not_at_all() {
    let mut nodes = Nodes::new(1);
    let own = "pools = ['10.4.0.0/16']\n[fleet.nodes]\nn1 = { address = '192.0.2.1', blocks = ['10.4.7.0/29', '10.4.9.0/30'] }\nn2 = { address = '192.0.2.2', blocks = ['10.4.8.0/29'] }\n";
    nodes.start(own);
    let node = &nodes.all[0];
    let network = |name: &str, bridge: &str, subnet: &str| {
        format!(
            r#"{{"cniVersion":"1.0.0","name":"{name}","type":"bridge","bridge":"{bridge}","isDefaultGateway":true,
            "ipam":{{"type":"host-local","dataDir":"/nonexistent","ranges":[[{{"subnet":"{subnet}"}}]]}}}}"#
        )
    };
    let refused = |network: &str, container: &str, arguments: &str| {
        node.attach_to(network, container, arguments).map(|sandbox| sandbox.v4).unwrap_err()
    };
    let web = network("web", "br0", "10.4.0.0/24");
    let asked = node.attach_to(&web, "asked", "IP=10.4.7.6").unwrap();
    assert_eq!(asked.v4, "10.4.7.6");
    let failure = refused(&web, "beyond", "IP=10.4.0.9");
    assert!(failure.message.contains("this node gives addresses from 10.4.7.0/29, 10.4.9.0/30 only"), "{failure:?}");
    let failure = refused(&network("wide", "br1", "10.0.0.0/8"), "wide", "");
    assert!(failure.message.contains("addresses of pool 10.4.0.0/16 and others"), "{failure:?}");
    // Another network has a block of its own, and one that is not the fleet's is left alone.
    let other = network("other", "br2", "10.4.0.0/24");
    let second = node.attach_to(&other, "second", "").unwrap();
    assert_eq!((second.v4.as_str(), second.result["ips"][0]["gateway"].as_str()), ("10.4.9.2", Some("10.4.9.1")));
    let failure = refused(&other, "third", "");
    assert!(failure.message.contains("have none left (10.4.9.0/30"), "{failure:?}");
    assert!(failure.message.contains("fleet.nodes.n1.blocks"), "{failure:?}");
    let failure = refused(&network("late", "br3", "10.4.0.0/24"), "late", "");
    assert!(failure.message.contains("has no block of pool 10.4.0.0/16"), "{failure:?}");
    let apart = node.attach_to(&network("apart", "br4", "10.5.0.0/24"), "apart", "").unwrap();
    assert_eq!((apart.v4.as_str(), mtu(&apart)), ("10.5.0.2", 1_500));
    assert_eq!(mtu(&second), 1_450);
    let jumbo = web.replace("\"type\":\"bridge\",", "\"type\":\"bridge\",\"mtu\":1280,");
    let small = node.attach_to(&jumbo, "small", "").unwrap();
    assert_eq!((small.v4.as_str(), mtu(&small)), ("10.4.7.2", 1_280));
    // The rest of the pool is nobody's.
    assert!(asked.space.hears("10.4.0.9:80").is_err());
}

/// Whoever had an address before keeps it, and is told where that is of no use; who comes has one of the node's blocks.
#[test]
fn a_node_that_joins_goes_on_with_what_it_has() {
    let mut nodes = Nodes::new(2);
    nodes.start("");
    let before: Vec<Sandbox> = nodes.all.iter().map(|node| node.attach("before")).collect();
    assert_eq!([before[0].v4.as_str(), before[1].v4.as_str()], ["10.4.0.2", "10.4.0.2"]);
    // Somebody's own, of the pool to be.
    nodes.all[1].space.command("ip addr add 10.4.77.1/32 dev br0");
    let fleet = "pools = ['10.4.0.0/16']\n[fleet.nodes]\nn1 = { address = '192.0.2.1', blocks = ['10.4.0.0/24'] }\nn2 = { address = '192.0.2.2', blocks = ['10.4.2.0/24'] }\n";
    for node in &mut nodes.all {
        node.kill();
        node.write(fleet);
        node.start();
    }
    assert!(nodes.all[0].warnings().is_empty(), "{:?}", nodes.all[0].warnings());
    let told = nodes.all[1].warnings();
    assert!(told.iter().any(|text| text.contains("before/eth0") && text.contains("Restart its container")), "{told:?}");
    let after: Vec<Sandbox> = nodes.all.iter().map(|node| node.attach("after")).collect();
    assert_eq!([after[0].v4.as_str(), after[1].v4.as_str()], ["10.4.0.3", "10.4.2.2"]);
    for sandbox in before.iter().chain(&after) {
        sandbox.space.serve(80);
    }
    let reaches = |from: &Sandbox, to: &Sandbox| from.space.hears_in_the_end(&format!("{}:80", to.v4)).is_ok();
    assert!(
        told.iter().any(|text| text.contains("10.4.0.0/24 is a peer's now") && text.contains("bridge br0")),
        "{told:?}"
    );
    // Restarted, it is of the fleet too; and its old gateway goes.
    nodes.all[1].detach("before");
    let again = nodes.all[1].attach("before");
    assert_eq!(again.v4, "10.4.2.3");
    soon("nobody is told", || nodes.all[1].warnings().is_empty());
    soon("the old gateway is gone", || !nodes.all[1].space.command("ip -4 addr show br0").contains("10.4.0.1/24"));
    again.space.serve(80);
    soon("the route stands", || nodes.all[1].routes().contains("10.4.0.0/24 via 192.0.2.1"));
    for (from, to) in [(&before[0], &again), (&again, &before[0]), (&after[0], &after[1]), (&after[1], &after[0])] {
        assert!(reaches(from, to), "{} to {}", from.v4, to.v4);
    }
    assert!(
        nodes.all[1].space.command("ip -4 addr show br0").contains("10.4.77.1/32"),
        "it was not netd's to take away"
    );
}

const TRY_AGAIN: u32 = 11;

fn code(failure: &netd_api::blocking::Failure) -> u32 {
    netd_api::cni_code(failure.code.enum_value().unwrap())
}

/// They know nothing but where the store is.
#[test]
fn three_nodes_find_each_other_and_their_blocks_on_etcd_and_go_on_without_it() {
    let mut nodes = Nodes::new(3);
    let mut etcd = nodes.etcd();
    nodes.start(&format!("pools = ['10.4.0.0/16', 'fd04::/48']\netcd = ['{}']\n", Etcd::ENDPOINT));
    let mut sandboxes: Vec<Sandbox> = nodes.all.iter().map(|node| node.attach("web")).collect();
    let block = |sandbox: &Sandbox| {
        let net: ipnet::IpNet = sandbox.result["ips"][0]["address"].as_str().unwrap().parse().unwrap();
        assert_eq!(net.prefix_len(), 26);
        net.trunc()
    };
    assert_eq!(sandboxes.iter().map(block).collect::<BTreeSet<_>>().len(), 3, "two nodes share a block");
    sandboxes.iter().for_each(|sandbox| sandbox.space.serve(80));
    all_have_routes(&nodes, 4);
    all_reach_each_other(&sandboxes);
    for node in &nodes.all {
        soon("all is well", || node.warnings().is_empty());
        assert_eq!(node.resync(true), Vec::<String>::new());
    }
    // Without the store, and then without what netd has heard of it.
    etcd.kill();
    let routes: Vec<String> = nodes.all.iter().map(Member::routes).collect();
    soon("it is told", || nodes.all[0].warnings().iter().any(|text| text.contains("the store does not answer")));
    nodes.all[0].kill();
    nodes.all[0].start();
    sandboxes.push(nodes.all[0].attach("later"));
    sandboxes.push(nodes.all[1].attach("later"));
    sandboxes[3..].iter().for_each(|sandbox| sandbox.space.serve(80));
    assert_eq!([block(&sandboxes[3]), block(&sandboxes[4])], [block(&sandboxes[0]), block(&sandboxes[1])]);
    all_reach_each_other(&sandboxes);
    assert_eq!(nodes.all.iter().map(Member::routes).collect::<Vec<_>>(), routes);
    // A network that has no block yet has to wait for the store.
    let failure = nodes.all[1].attach_to(
        &NETWORK.replace("\"bridge\",\"type\"", "\"other\",\"type\"").replace("br0", "br1"),
        "x",
        "",
    );
    let failure = failure.map(|sandbox| sandbox.v4).unwrap_err();
    for words in ["10.4.0.0/16", Etcd::ENDPOINT, "try again"] {
        assert!(failure.message.contains(words), "{words}: {failure:?}");
    }
    assert_eq!(code(&failure), TRY_AGAIN);
    etcd.start(&nodes.underlay);
    soon("all is well again", || nodes.all.iter().all(|node| node.warnings().is_empty()));
    all_reach_each_other(&sandboxes);
}

#[test]
fn a_node_that_dies_takes_its_routes_along_and_has_its_blocks_again() {
    let mut nodes = Nodes::new(3);
    let _etcd = nodes.etcd();
    nodes.start(&stored("['10.4.0.0/16', 'fd04::/48']"));
    let sandboxes: Vec<Sandbox> = nodes.all.iter().map(|node| node.attach("web")).collect();
    sandboxes.iter().for_each(|sandbox| sandbox.space.serve(80));
    all_have_routes(&nodes, 4);
    all_reach_each_other(&sandboxes);
    let before: Vec<String> = nodes.all.iter().map(Member::routes).collect();
    nodes.all[2].kill();
    soon("its routes are gone", || nodes.all[..2].iter().all(|node| !node.routes().contains("via 192.0.2.3")));
    assert!(sandboxes[0].space.hears(&format!("{}:80", sandboxes[2].v4)).is_err());
    nodes.all[2].start();
    soon("its routes are there", || nodes.all.iter().map(Member::routes).collect::<Vec<_>>() == before);
    all_reach_each_other(&sandboxes);
    assert_eq!(nodes.all[2].attach("again").result["ips"][0]["gateway"], sandboxes[2].result["ips"][0]["gateway"]);
}

/// An address of the same block.
fn other_of(address: &str) -> String {
    let address: std::net::Ipv4Addr = address.parse().unwrap();
    std::net::Ipv4Addr::from_bits(address.to_bits() + 7).to_string()
}

/// As with the image of a machine on which netd ran once.
#[test]
fn two_nodes_with_one_identity_say_so_and_give_no_address_out() {
    let mut nodes = Nodes::new(2);
    let _etcd = nodes.etcd();
    nodes.write(&stored("['10.4.0.0/16', 'fd04::/48']"));
    nodes.all[0].start();
    let before = nodes.all[0].attach("before");
    let [one, other] = [0, 1].map(|at| nodes.all[at].folder.path().join("state"));
    fs::create_dir_all(&other).unwrap();
    fs::copy(one.join("fleet.json"), other.join("fleet.json")).unwrap();
    nodes.all[1].start();
    let says = |at: usize, words: [&str; 2]| {
        nodes.all[at].warnings().iter().any(|text| words.iter().all(|word| text.contains(word)))
    };
    soon("the first says so", || says(0, ["n2 (192.0.2.2", "has this node's identity"]));
    soon("the second says so", || says(1, ["n1 (192.0.2.1", "has this node's identity"]));
    let tries = Cell::new(0);
    for node in &nodes.all {
        let attach = |asked: &str| {
            tries.set(tries.get() + 1);
            node.attach_to(NETWORK, &format!("more-{}", tries.get()), asked).map(|sandbox| sandbox.v4)
        };
        soon("nothing is given out", || attach("").is_err());
        for asked in [String::new(), format!("IP={}", other_of(&before.v4))] {
            let failure = attach(&asked).unwrap_err();
            assert!(failure.message.contains("remove fleet.json"), "{failure:?}");
        }
    }
    // Who was there goes on.
    before.space.serve(80);
    assert!(nodes.all[0].space.hears(&format!("{}:80", before.v4)).is_ok());
    // As it is told to do.
    nodes.all[1].kill();
    fs::remove_file(other.join("fleet.json")).unwrap();
    nodes.all[1].start();
    for (at, node) in nodes.all.iter().enumerate() {
        soon("all is well", || node.warnings().is_empty());
        // It is told a moment before the blocks are open again.
        soon("addresses are given out", || node.attach_to(NETWORK, "after", "").is_ok());
        let sandbox = node.attach("later");
        let gateway_of_first = sandbox.result["ips"][0]["gateway"] == before.result["ips"][0]["gateway"];
        assert_eq!(gateway_of_first, at == 0, "{}", sandbox.result);
    }
}

/// More are asked for before the last one is full; a second network has blocks of its own.
#[test]
fn a_node_that_grows_has_more_blocks() {
    let mut nodes = Nodes::new(2);
    let _etcd = nodes.etcd();
    nodes.start(&stored("[{ range = '10.4.0.0/20', block = 29 }, { range = 'fd04::/48', block = 125 }]"));
    let other = NETWORK.replace("\"bridge\",\"type\"", "\"other\",\"type\"").replace("br0", "br1");
    let mut sandboxes = Vec::new();
    for number in 0..12 {
        for (node, network) in [(0, NETWORK), (0, &other), (1, NETWORK)] {
            sandboxes.push(nodes.all[node].attach_in_time(network, &format!("c{number}")));
        }
    }
    let distinct: BTreeSet<&str> = sandboxes.iter().map(|sandbox| sandbox.v4.as_str()).collect();
    assert_eq!(distinct.len(), sandboxes.len());
    // The first and the last of each network, in blocks of their own.
    let ends: Vec<Sandbox> = {
        let all = sandboxes.len();
        sandboxes.into_iter().enumerate().filter(|(at, _)| *at < 3 || *at >= all - 3).map(|(_, one)| one).collect()
    };
    ends.iter().for_each(|sandbox| sandbox.space.serve(80));
    // 12 addresses, 5 or 6 to a block: three blocks and two to the second node; twice as many to the first.
    soon("the routes", || {
        nodes.all[0].routes().matches(" via ").count() >= 5 && nodes.all[1].routes().matches(" via ").count() >= 10
    });
    all_reach_each_other(&ends);
}

/// With its containers a block goes too, but for the last; the bridge forgets its gateway, and others may have it.
#[test]
fn a_node_that_shrinks_gives_blocks_back() {
    let mut nodes = Nodes::new(2);
    let _etcd = nodes.etcd();
    nodes.start(&stored("[{ range = '10.4.0.0/24', block = 29, reserved = ['10.4.0.32/27', '10.4.0.64/26', '10.4.0.128/25'] }, 'fd04::/48']"));
    let node = &nodes.all[0];
    let own = |node: &Member| {
        let blocks = node.fleet().blocks.into_iter().filter(|one| one.state == "here" && one.pool == "10.4.0.0/24");
        blocks.map(|one| format!("{} {}", one.network, one.held)).collect::<Vec<_>>()
    };
    let mut sandboxes: Vec<Sandbox> = (0..7).map(|number| node.attach(&format!("c{number}"))).collect();
    assert_eq!(own(node).iter().filter(|one| one.starts_with("bridge")).count(), 2);
    let gateways = || node.space.command("ip -4 -o addr show br0").lines().count();
    assert_eq!(gateways(), 2);
    let first = sandboxes[0].result["ips"][0]["gateway"].clone();
    // All but one that has an address of the first block.
    let kept = sandboxes.remove(0);
    for (number, gone) in (1..).zip(sandboxes) {
        node.detach(&format!("c{number}"));
        drop(gone);
    }
    let begin = std::time::Instant::now();
    while own(node) != ["bridge 1"] || gateways() != 1 {
        assert!(begin.elapsed() < std::time::Duration::from_secs(90), "{:?} {}", own(node), gateways());
        std::thread::sleep(std::time::Duration::from_millis(200));
    }
    assert_eq!(kept.result["ips"][0]["gateway"], first);
    soon("nobody has it", || nodes.all[1].routes().matches("10.4.0.").count() == 2);
    // The pool is small: the other node gets what was given back.
    let others: Vec<Sandbox> = (0..15).map(|number| nodes.all[1].attach(&format!("o{number}"))).collect();
    kept.space.serve(80);
    soon("the routes", || nodes.all[0].routes().matches("10.4.0.").count() == 4);
    let heard = others[14].space.hears_in_the_end(&format!("{}:80", kept.v4));
    assert_eq!(heard.as_ref(), Ok(&others[14].v4));
}

/// Two blocks for three nodes, and then for four. Whoever gives up a half goes on in the other, and its sandboxes reach what they
/// take for their neighbours.
#[test]
fn where_no_block_is_left_a_node_gets_a_half_of_one_that_is_mostly_empty() {
    let mut nodes = Nodes::new(3);
    let _etcd = nodes.etcd();
    let pools = "[{ range = '10.4.0.0/24', block = 28, reserved = ['10.4.0.32/27', '10.4.0.64/26', '10.4.0.128/25'] }, 'fd04::/48']";
    nodes.all.iter().for_each(|node| node.write(&stored(pools)));
    let prefix =
        |sandbox: &Sandbox| sandbox.result["ips"][0]["address"].as_str().unwrap().split_once('/').unwrap().1.to_owned();
    let mut sandboxes = Vec::new();
    for node in &mut nodes.all[..2] {
        node.start();
        sandboxes.push(node.attach("first"));
    }
    nodes.all[2].start();
    sandboxes.push(nodes.all[2].attach("first"));
    assert_eq!(sandboxes.iter().map(prefix).collect::<Vec<_>>(), ["28", "28", "29"]);
    sandboxes.iter().for_each(|sandbox| sandbox.space.serve(80));
    all_reach_each_other(&sandboxes);
    let told = |node: &Member| {
        let of_pool = node.fleet().blocks.into_iter().filter(|one| one.pool == "10.4.0.0/24");
        of_pool.map(|one| format!("{} {}", one.block.split_once('/').unwrap().1, one.node)).collect::<BTreeSet<_>>()
    };
    for node in &nodes.all {
        soon("all know whose it is", || told(node).iter().map(|one| &one[..2]).eq(["28", "29", "29"]));
        soon("all is well", || node.warnings().is_empty());
        assert_eq!(node.resync(true), Vec::<String>::new());
    }
    // It grows: the other gives up a half, too.
    for number in 0..5 {
        let more = nodes.all[2].attach(&format!("more{number}"));
        more.space.serve(80);
        sandboxes.push(more);
    }
    all_reach_each_other(&sandboxes);
    let distinct: BTreeSet<&str> = sandboxes.iter().map(|sandbox| sandbox.v4.as_str()).collect();
    assert_eq!(distinct.len(), sandboxes.len());
    soon("all have halves", || told(&nodes.all[0]).iter().map(|one| &one[..2]).eq(["29"; 3]));
    // And shrinks: a fourth has what it gave back.
    for (number, gone) in sandboxes.drain(3..).enumerate() {
        nodes.all[2].detach(&format!("more{number}"));
        drop(gone);
    }
    let begin = std::time::Instant::now();
    let held = |node: &Member| {
        node.fleet().blocks.iter().filter(|one| one.pool == "10.4.0.0/24" && one.state == "here").count()
    };
    while held(&nodes.all[2]) > 1 {
        assert!(begin.elapsed() < std::time::Duration::from_secs(90), "{:?}", nodes.all[2].fleet());
        std::thread::sleep(std::time::Duration::from_millis(500));
    }
    nodes.add(4, 0);
    nodes.all[3].write(&stored(pools));
    nodes.all[3].start();
    sandboxes.push(nodes.all[3].attach("first"));
    assert_eq!(prefix(&sandboxes[3]), "29");
    sandboxes[3].space.serve(80);
    all_reach_each_other(&sandboxes);
    // After a restart they are as they were.
    for node in &mut nodes.all {
        let before = told(node);
        node.kill();
        node.start();
        soon("it has what it had", || told(node) == before);
    }
    for node in &nodes.all {
        let again = node.attach("again");
        again.space.serve(80);
        sandboxes.push(again);
    }
    all_reach_each_other(&sandboxes);
}
