//! Nodes as one fleet, with the real binary and the real kernel: addresses of own blocks, routes to the others', and what
//! becomes of them when nodes, lists and stores come and go. Needs root.
#![expect(clippy::unwrap_used, reason = "helpers of tests stand outside of them")]

mod rig;

use std::cell::Cell;
use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;

use rig::Space;
use rig::nodes::{Etcd, Member, NETWORK, Nodes, Sandbox, soon};

fn list(encapsulation: &str, nodes: &[usize]) -> String {
    let node = |number: &usize| {
        format!(
            "n{number} = {{ address = ['192.0.2.{number}', '2001:db8::{number}'], blocks = ['10.4.{number}.0/24', 'fd04:0:0:{number}::/64'] }}\n"
        )
    };
    let nodes: String = nodes.iter().map(node).collect();
    format!("pools = ['10.4.0.0/16', 'fd04::/48']\nencapsulation = '{encapsulation}'\n[fleet.nodes]\n{nodes}")
}

/// Each of them hears every other one, and is seen under its own address.
#[track_caller]
fn all_reach_each_other(sandboxes: &[Sandbox]) {
    for from in sandboxes {
        for to in sandboxes {
            for address in [format!("{}:80", to.v4), format!("[{}]:80", to.v6)] {
                let heard = from.space.hears_in_the_end(&address);
                let own = if address.starts_with('[') { &from.v6 } else { &from.v4 };
                assert_eq!(heard.as_ref(), Ok(own), "{} to {address}", from.v4);
            }
        }
    }
}

fn three(encapsulation: &str) -> (Nodes, Vec<Sandbox>) {
    let mut nodes = Nodes::new(3);
    nodes.start(&list(encapsulation, &[1, 2, 3]));
    let sandboxes: Vec<Sandbox> = nodes.all.iter().map(|node| node.attach("web")).collect();
    sandboxes.iter().for_each(|sandbox| sandbox.space.serve(80));
    (nodes, sandboxes)
}

fn mtu(sandbox: &Sandbox) -> u32 {
    let line = sandbox.space.command("ip -o link show eth0");
    line.split(' ').skip_while(|word| *word != "mtu").nth(1).unwrap().parse().unwrap()
}

#[test]
fn sandboxes_of_three_nodes_reach_each_other_in_vxlan() {
    let (mut nodes, sandboxes) = three("vxlan");
    let addresses: Vec<&str> = sandboxes.iter().map(|sandbox| sandbox.v4.as_str()).collect();
    assert_eq!(addresses, ["10.4.1.2", "10.4.2.2", "10.4.3.2"]);
    assert_eq!(sandboxes[0].v6, "fd04:0:0:1::2");
    assert_eq!(sandboxes[0].result["ips"][0]["gateway"], "10.4.1.1");
    assert_eq!(sandboxes[0].result["ips"][0]["address"], "10.4.1.2/24");
    assert_eq!(mtu(&sandboxes[0]), 1_450);
    all_reach_each_other(&sandboxes);
    for node in &nodes.all {
        assert_eq!(node.warnings(), Vec::<String>::new());
        assert_eq!(node.resync(true), Vec::<String>::new());
    }
    let fleet = nodes.all[0].fleet();
    let told: Vec<String> = fleet.nodes.iter().map(|node| format!("{} {}", node.name, node.state)).collect();
    assert_eq!(told, ["n1 here", "n2 present", "n3 present"]);
    let ways: Vec<String> =
        fleet.nodes[1].routes.iter().map(|one| format!("{} {} {}", one.block, one.by, one.to)).collect();
    assert_eq!(ways, ["10.4.2.0/24 vxlan 192.0.2.2", "fd04:0:0:2::/64 vxlan 192.0.2.2"]);
    let own: Vec<String> =
        fleet.blocks.iter().filter(|one| one.node == "n1").map(|one| format!("{} {}", one.network, one.held)).collect();
    assert_eq!((fleet.blocks.len(), own), (6, vec!["bridge 1".to_owned(); 2]));
    for check in nodes.all[0].check("") {
        assert!(check.routed && check.answered && check.troubles.is_empty(), "{check:?}");
        assert_eq!((check.mtu, check.wanted_mtu, check.encapsulated.as_str()), (1_450, 1_450, "yes"), "{check:?}");
    }
    // What stands goes on without netd, and netd finds it as it was.
    nodes.all[0].kill();
    all_reach_each_other(&sandboxes);
    let before = nodes.all[0].routes();
    nodes.all[0].start();
    assert_eq!(nodes.all[0].routes(), before);
    all_reach_each_other(&sandboxes);
    let again = nodes.all[0].attach("again");
    assert_eq!(again.v4, "10.4.1.3");
}

/// While netd was away. A ruleset without the fleet's would let in whoever sends, and masquerade what goes to a peer.
#[test]
fn a_ruleset_that_was_lost_is_made_again_with_the_fleets() {
    let mut nodes = Nodes::new(2);
    nodes.start(&list("vxlan", &[1, 2]));
    let node = &mut nodes.all[0];
    node.kill();
    let read = |node: &Member| fs::read_to_string(node.log()).unwrap();
    let before = read(node).len();
    node.space.command("nft delete table inet netd");
    node.start();
    let log = read(node).split_off(before);
    let resynced: Vec<&str> = log.lines().filter(|line| line.contains("resync") && line.contains("step=")).collect();
    let made = |what: &str| resynced.iter().any(|line| line.contains(&format!("Create({what}")));
    for what in ["Connected", "Peer(192.0.2.2)", "PeersOnly(Vxlan(", "Inside(10.4.0.0/16)"] {
        assert!(made(what), "{what}: {log}");
    }
    assert!(!made("Route") && !made("Tunnel"), "{log}");
}

#[test]
fn sandboxes_reach_each_other_directly_and_a_list_that_changes_is_followed() {
    let (mut nodes, sandboxes) = three("direct");
    assert_eq!(mtu(&sandboxes[0]), 1_500);
    all_reach_each_other(&sandboxes);
    assert!(!nodes.all[0].space.command("ip -o link").contains("nd-"), "no pool wants a tunnel");
    for check in nodes.all[0].check("n2") {
        assert!(check.answered && check.troubles.is_empty(), "{check:?}");
        assert_eq!((check.mtu, check.encapsulated.as_str(), check.by.as_str()), (1_500, "no", "direct"), "{check:?}");
    }
    let routes = |nodes: &Nodes| nodes.all.iter().map(Member::routes).collect::<Vec<_>>();
    let before = routes(&nodes);
    let whole = before[0].clone();
    for route in
        ["10.4.2.0/24 via 192.0.2.2 dev up0", "unreachable 10.4.0.0/16", "fd04:0:0:3::/64 via 2001:db8::3 dev up0"]
    {
        assert!(whole.contains(route), "{route}: {whole}");
    }
    // The third is taken off the list, and comes back.
    nodes.write(&list("direct", &[1, 2]));
    soon("its routes are gone", || !nodes.all[0].routes().contains("via 192.0.2.3"));
    assert!(sandboxes[0].space.hears(&format!("{}:80", sandboxes[2].v4)).is_err());
    assert!(sandboxes[0].space.hears_in_the_end(&format!("{}:80", sandboxes[1].v4)).is_ok());
    nodes.write(&list("direct", &[1, 2, 3]));
    soon("its routes are there", || routes(&nodes) == before);
    soon("its own settings are whole", || nodes.all[2].warnings().is_empty());
    all_reach_each_other(&sandboxes);
    // What somebody deletes comes back at once: four times within less than the half minute that three looks, 10 s apart, take behind a
    // first one.
    let begin = std::time::Instant::now();
    for route in ["10.4.2.0/24", "unreachable 10.4.0.0/16 metric 4294967295", "10.4.3.0/24"] {
        nodes.all[0].space.command(&format!("ip route del {route}"));
        soon("the route", || nodes.all[0].routes() == whole);
    }
    nodes.all[0].space.command("ip -6 route del fd04:0:0:2::/64");
    soon("the route", || nodes.all[0].routes() == whole);
    assert!(begin.elapsed() < std::time::Duration::from_secs(25), "{:?}", begin.elapsed());
    // A file that cannot be read changes nothing, and is told.
    nodes.all[0].write("pools = [");
    soon("it is told", || nodes.all[0].warnings().iter().any(|text| text.contains("goes on as it last stood")));
    assert_eq!(nodes.all[0].routes(), whole);
    // Nor does one without a fleet, while netd runs.
    nodes.all[0].write("");
    soon("it is told", || nodes.all[0].warnings().iter().any(|text| text.contains("no [fleet] any more")));
    assert_eq!(nodes.all[0].routes(), whole);
    assert!(!nodes.all[0].space.command("ip -o link").contains("nd-"), "a tunnel that nobody asked for");
    // So does what is lost while nobody owns the rules.
    let asked = |nodes: &Nodes| nodes.all[0].space.command("nft list set inet netd tunnel_ports").contains("udp");
    assert!(asked(&nodes));
    nodes.all[0].kill();
    nodes.all[0].write(&list("direct", &[1, 2, 3]));
    nodes.all[0].space.command("nft delete element inet netd tunnel_ports { udp . 4789 }");
    nodes.all[0].start();
    assert!(asked(&nodes), "each packet of UDP is asked about tunnels");
    // Without a fleet nothing of it is left.
    nodes.all[0].kill();
    nodes.all[0].write("");
    nodes.all[0].start();
    assert_eq!(nodes.all[0].routes(), "");
    assert!(!asked(&nodes));
}

/// What others send meanwhile is no evidence about this one.
#[test]
fn whether_a_peer_is_reached_by_the_tunnel_is_asked_of_that_peer_alone() {
    let (nodes, sandboxes) = three("vxlan");
    all_reach_each_other(&sandboxes);
    let [from, to] = [&sandboxes[0], &sandboxes[2]];
    let busy = format!("{}:80", to.v4);
    let check = |name: &str| {
        let is_over = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(std::sync::atomic::Ordering::Relaxed) {
                    drop(from.space.hears(&busy));
                }
            });
            let checks = nodes.all[0].check(name);
            is_over.store(true, std::sync::atomic::Ordering::Relaxed);
            let told = checks.into_iter().filter(|one| one.name == "n2");
            told.map(|one| (one.answered, one.encapsulated, one.troubles)).collect::<Vec<_>>()
        })
    };
    let well = (true, "yes".to_owned(), Vec::new());
    assert_eq!(check("n2"), [well.clone(), well.clone()]);
    nodes.all[0].space.command("ip route add 10.4.2.0/25 via 192.0.2.2 dev up0");
    for name in ["n2", ""] {
        let found = check(name);
        let (answered, encapsulated, troubles) = &found[0];
        assert_eq!((*answered, encapsulated.as_str()), (true, "no"), "{found:?}");
        assert!(troubles.iter().any(|text| text.contains("past the vxlan tunnel")), "{found:?}");
        assert_eq!(found[1], well);
    }
}

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
    let two = nodes.all[1].attach_to(&of_b, "two", "").unwrap_or_else(|failure| panic!("{failure:?}"));
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
    let new = nodes.all[0].attach_to(&of_b, "new", "").unwrap_or_else(|failure| panic!("{failure:?}"));
    new.space.serve(80);
    reach_each_other(&one, &two);
    reach_each_other(&new, &two);
    assert_eq!(nodes.all[0].warnings(), Vec::<String>::new());
    nodes.all[0].detach("one");
    let begin = std::time::Instant::now();
    while own(&nodes.all[0]) != ["b 1"] {
        assert!(begin.elapsed() < std::time::Duration::from_secs(90), "{:?}", own(&nodes.all[0]));
        std::thread::sleep(std::time::Duration::from_millis(200));
    }
    soon("nothing leads there", || !nodes.all[1].routes().contains(&one.v4[..one.v4.len() - 2]));
}

#[test]
fn beyond_a_router_packets_are_wrapped_and_on_the_link_they_are_not() {
    let mut nodes = Nodes::new(2);
    nodes.add(3, 1);
    let beyond = list("cross-subnet", &[1, 2])
        + "n3 = { address = ['198.51.100.3', '2001:db8:1::3'], blocks = ['10.4.3.0/24', 'fd04:0:0:3::/64'] }\n";
    nodes.start(&beyond);
    let sandboxes: Vec<Sandbox> = nodes.all.iter().map(|node| node.attach("web")).collect();
    sandboxes.iter().for_each(|sandbox| sandbox.space.serve(80));
    all_reach_each_other(&sandboxes);
    let routes = nodes.all[0].routes();
    assert!(routes.contains("10.4.2.0/24 via 192.0.2.2 dev up0"), "{routes}");
    assert!(routes.contains("10.4.3.0/24 via 198.51.100.3 dev nd-vxlan onlink"), "{routes}");
    assert_eq!(mtu(&sandboxes[0]), 1_450);
    // The router knows no way to the pools: nothing but the tunnel brings packets there.
    assert!(!nodes.underlay.command("ip route").contains("10.4."));
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
    assert_eq!(nodes.all[1].warnings(), Vec::<String>::new());
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

/// By the tunnel before, during and after; whoever is late still reaches the others.
#[test]
fn a_change_of_encapsulation_loses_nobody() {
    let (nodes, sandboxes) = three("vxlan");
    for node in &nodes.all {
        node.write(&list("direct", &[1, 2, 3]));
        soon("it goes directly", || node.routes().contains("dev up0") && !node.routes().contains("nd-vxlan"));
        all_reach_each_other(&sandboxes);
    }
    assert!(nodes.all[0].space.command("ip -o link").contains("nd-vxlan"), "others may still send by it");
    for node in &nodes.all {
        node.write(&list("vxlan", &[1, 2, 3]));
        soon("it goes by the tunnel", || node.routes().contains("nd-vxlan") && !node.routes().contains("dev up0"));
        all_reach_each_other(&sandboxes);
    }
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

fn stored(pools: &str) -> String {
    format!("pools = {pools}\netcd = {{ endpoints = ['{}'], lease_seconds = 2 }}\n", Etcd::ENDPOINT)
}

/// To blocks of others.
#[track_caller]
fn all_have_routes(nodes: &Nodes, count: usize) {
    soon("the routes", || nodes.all.iter().all(|node| node.routes().matches(" via ").count() == count));
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
            let made = nodes.all[node].attach_to(network, &format!("c{number}"), "");
            sandboxes.push(made.unwrap_or_else(|failure| panic!("{failure:?}")));
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

/// Links of different sizes, and one on the way that is narrower than both ends know.
#[test]
fn the_largest_packet_that_can_pass_is_found() {
    let mut nodes = Nodes::new(2);
    nodes.all[0].space.command("ip link set up0 mtu 1400");
    nodes.underlay.command("ip link set m1 mtu 1400");
    nodes.start(&list("vxlan", &[1, 2]));
    let sandboxes: Vec<Sandbox> = nodes.all.iter().map(|node| node.attach("web")).collect();
    assert_eq!(sandboxes.iter().map(mtu).collect::<Vec<_>>(), [1_350, 1_450]);
    let check = nodes.all[0].check("n2");
    assert!(
        check.iter().all(|one| (one.mtu, one.wanted_mtu) == (1_350, 1_350) && one.troubles.is_empty()),
        "{check:?}"
    );
    nodes.underlay.command("ip link set m2 mtu 1300");
    let check = nodes.all[0].check("n2");
    let v4 = &check[0];
    // A bridge leaves room for a VLAN's tag (`is_skb_forwardable`), so four octets more may pass.
    assert!((1_250..=1_254).contains(&v4.mtu) && v4.wanted_mtu == 1_350, "{check:?}");
    assert!(check[1].troubles.iter().any(|text| text.contains("nor do those of 1280")), "{check:?}");
    assert!(v4.troubles.iter().any(|text| text.contains("narrower than both ends say")), "{check:?}");
    // Found once, it is heeded.
    soon("the route says what passes", || {
        nodes.all[0].routes().contains("10.4.2.0/24 via 192.0.2.2 dev nd-vxlan onlink mtu 1250")
    });
    let check = nodes.all[0].check("n2");
    assert_eq!((check[0].mtu, check[0].wanted_mtu), (1_250, 1_250), "{check:?}");
    nodes.all[1].space.command("ip link set up0 down");
    let check = nodes.all[0].check("n2");
    assert!(
        check.iter().all(|one| !one.answered && one.troubles.iter().any(|text| text.contains("UDP port 4789"))),
        "{check:?}"
    );
}

/// Two nodes with one pool by IP in IP, and one that does without.
fn by_both() -> (Nodes, Vec<Sandbox>) {
    let mut nodes = Nodes::new(2);
    let both = list("vxlan", &[1, 2]).replace("'10.4.0.0/16'", "{ range = '10.4.0.0/16', encapsulation = 'ipip' }");
    nodes.start(&both);
    let sandboxes: Vec<Sandbox> = nodes.all.iter().map(|node| node.attach("web")).collect();
    sandboxes.iter().for_each(|sandbox| sandbox.space.serve(80));
    (nodes, sandboxes)
}

fn has_ipip() -> bool {
    let add = ["link", "add", "probe", "type", "ipip", "local", "192.0.2.99", "remote", "192.0.2.98"];
    Space::new().run(move || std::process::Command::new("ip").args(add).output().unwrap().status.success())
}

/// Past the test harness.
fn skipped(what: &str) {
    std::io::stderr().write_all(format!("SKIPPED ipip {what}\n").as_bytes()).unwrap();
}

#[test]
fn a_pool_of_its_own_goes_by_ipip() {
    if !has_ipip() {
        return skipped("(a pool of its own): this kernel has none");
    }
    let (nodes, sandboxes) = by_both();
    all_reach_each_other(&sandboxes);
    let check = nodes.all[0].check("n2");
    assert_eq!((check[0].by.as_str(), check[0].encapsulated.as_str(), check[0].mtu), ("ipip", "yes", 1_480));
}

#[test]
fn beyond_a_router_packets_go_by_ipip_and_on_the_link_as_they_are() {
    if !has_ipip() {
        return skipped("(beyond a router): this kernel has none");
    }
    let mut nodes = Nodes::new(2);
    nodes.add(3, 1);
    let node = |number: usize, address: &str| {
        format!("n{number} = {{ address = '{address}.{number}', blocks = ['10.4.{number}.0/24'] }}\n")
    };
    let listed = [node(1, "192.0.2"), node(2, "192.0.2"), node(3, "198.51.100")].concat();
    nodes.start(&format!("pools = ['10.4.0.0/16']\nencapsulation = 'cross-subnet-ipip'\n[fleet.nodes]\n{listed}"));
    let sandboxes: Vec<Sandbox> = nodes.all.iter().map(|node| node.attach("web")).collect();
    sandboxes.iter().for_each(|sandbox| sandbox.space.serve(80));
    for (from, to) in
        [(0, 1), (1, 0), (0, 2), (2, 0), (1, 2), (2, 1)].map(|(from, to)| (&sandboxes[from], &sandboxes[to]))
    {
        assert_eq!(from.space.hears_in_the_end(&format!("{}:80", to.v4)).as_ref(), Ok(&from.v4));
    }
    let routes = nodes.all[0].routes();
    assert!(routes.contains("10.4.2.0/24 via 192.0.2.2 dev up0"), "{routes}");
    assert!(routes.contains("10.4.3.0/24 via 198.51.100.3 dev nd-ipip onlink"), "{routes}");
    assert_eq!(mtu(&sandboxes[0]), 1_480);
    let told: Vec<_> = nodes.all[0].check("").into_iter().map(|one| (one.by, one.encapsulated, one.troubles)).collect();
    let way = |by: &str, encapsulated: &str| (by.to_owned(), encapsulated.to_owned(), Vec::<String>::new());
    assert_eq!(told, [way("direct", "no"), way("ipip", "yes")]);
}

#[test]
fn a_kernel_without_ipip_says_so_and_carries_the_rest() {
    if has_ipip() {
        return skipped("(a kernel without): this one has it");
    }
    let (nodes, sandboxes) = by_both();
    let v6 = format!("[{}]:80", sandboxes[1].v6);
    assert!(sandboxes[0].space.hears_in_the_end(&v6).is_ok());
    assert!(sandboxes[0].space.hears(&format!("{}:80", sandboxes[1].v4)).is_err());
    let is_told =
        |texts: &[String]| texts.iter().any(|text| text.contains("modprobe ipip") && text.contains("choose vxlan"));
    assert!(is_told(&nodes.all[0].warnings()), "{:?}", nodes.all[0].warnings());
    let fleet = nodes.all[0].fleet();
    assert!(is_told(&fleet.nodes[0].troubles), "{fleet:?}");
    assert_eq!(fleet.nodes[1].routes.iter().map(|one| one.by.as_str()).collect::<Vec<_>>(), ["", "vxlan"]);
    let steps = nodes.all[0].resync(true);
    assert!(steps.is_empty(), "what cannot be is not tried for ever: {steps:?}");
    assert!(!nodes.all[0].space.command("ip -o link").contains("nd-ipip"), "half a tunnel");
}

/// On etcd each knows what the other takes: whoever is first goes on as before.
#[test]
fn from_direct_to_a_tunnel_nobody_is_lost_on_etcd() {
    let mut nodes = Nodes::new(2);
    let _etcd = nodes.etcd();
    let by =
        |encapsulation: &str| stored("['10.4.0.0/16', 'fd04::/48']") + &format!("encapsulation = '{encapsulation}'\n");
    nodes.start(&by("direct"));
    let sandboxes: Vec<Sandbox> = nodes.all.iter().map(|node| node.attach("web")).collect();
    sandboxes.iter().for_each(|sandbox| sandbox.space.serve(80));
    all_have_routes(&nodes, 2);
    all_reach_each_other(&sandboxes);
    let has_tunnel = |node: &Member| node.space.command("ip -o link").contains("nd-vxlan");
    nodes.all[0].write(&by("vxlan"));
    soon("it takes the tunnel", || has_tunnel(&nodes.all[0]));
    soon("it says why it goes on", || {
        nodes.all[0].warnings().iter().any(|text| text.contains("n2 does not take vxlan yet"))
    });
    assert!(!nodes.all[0].routes().contains("nd-vxlan"), "{}", nodes.all[0].routes());
    all_reach_each_other(&sandboxes);
    nodes.all[1].write(&by("vxlan"));
    for node in &nodes.all {
        soon("it goes by the tunnel", || node.routes().contains("nd-vxlan") && !node.routes().contains("dev up0"));
        all_reach_each_other(&sandboxes);
        soon("all is well", || node.warnings().is_empty());
    }
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
    let in_time = |node: &Member, container: &str| {
        let begin = std::time::Instant::now();
        loop {
            match node.attach_to(NETWORK, container, "") {
                Ok(sandbox) => break sandbox,
                Err(failure) => assert_eq!(code(&failure), TRY_AGAIN, "{failure:?}"),
            }
            assert!(begin.elapsed() < std::time::Duration::from_secs(90), "{:?}", node.fleet());
            std::thread::sleep(std::time::Duration::from_millis(500));
        }
    };
    let mut sandboxes = Vec::new();
    for node in &mut nodes.all[..2] {
        node.start();
        sandboxes.push(in_time(node, "first"));
    }
    nodes.all[2].start();
    sandboxes.push(in_time(&nodes.all[2], "first"));
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
        let more = in_time(&nodes.all[2], &format!("more{number}"));
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
    sandboxes.push(in_time(&nodes.all[3], "first"));
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
        let again = in_time(node, "again");
        again.space.serve(80);
        sandboxes.push(again);
    }
    all_reach_each_other(&sandboxes);
}

/// Whoever takes the cable out and puts it in again finds all as it was.
#[test]
fn a_link_that_comes_back_leads_to_the_peers_again() {
    let (nodes, sandboxes) = three("direct");
    all_reach_each_other(&sandboxes);
    let before = nodes.all[0].routes();
    nodes.all[0].space.command("ip link set up0 down");
    soon("nothing leads there", || !nodes.all[0].routes().contains("via"));
    nodes.all[0].space.command("ip link set up0 up");
    // With the link, its IPv6 address has gone.
    nodes.all[0].space.command("ip addr replace 2001:db8::1/64 dev up0 nodad");
    soon("the routes are there", || nodes.all[0].routes() == before);
    all_reach_each_other(&sandboxes);
}
