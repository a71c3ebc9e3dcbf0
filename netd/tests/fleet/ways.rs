//! How packets get from node to node: in tunnels, directly, after a change, and how large they may be.

use std::fs;

use netd_api::blocking;

use crate::rig::nodes::{Member, Nodes, Sandbox, soon};
use crate::{all_have_routes, all_reach_each_other, list, mtu, stored, three};

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
    for check in nodes.all[0].check_until("", |all| all.iter().all(|one| one.answered && one.troubles.is_empty())) {
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
    for check in nodes.all[0].check_until("n2", |all| all.iter().all(|one| one.answered && one.troubles.is_empty())) {
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
            let is_answered = |one: &blocking::PeerCheck| one.name != "n2" || one.answered;
            let checks = nodes.all[0].check_until(name, |all| all.iter().all(is_answered));
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

/// Links of different sizes, and one on the way that is narrower than both ends know.
#[test]
fn the_largest_packet_that_can_pass_is_found() {
    let mut nodes = Nodes::new(2);
    nodes.all[0].space.command("ip link set up0 mtu 1400");
    nodes.underlay.command("ip link set m1 mtu 1400");
    nodes.start(&list("vxlan", &[1, 2]));
    let sandboxes: Vec<Sandbox> = nodes.all.iter().map(|node| node.attach("web")).collect();
    assert_eq!(sandboxes.iter().map(mtu).collect::<Vec<_>>(), [1_350, 1_450]);
    let check = nodes.all[0].check_until("n2", |all| all.iter().all(|one| one.mtu == 1_350));
    assert!(
        check.iter().all(|one| (one.mtu, one.wanted_mtu) == (1_350, 1_350) && one.troubles.is_empty()),
        "{check:?}"
    );
    nodes.underlay.command("ip link set m2 mtu 1300");
    let check = nodes.all[0].check_until("n2", |all| all[0].mtu >= 1_250);
    let v4 = &check[0];
    // A bridge leaves room for a VLAN's tag (`is_skb_forwardable`), so four octets more may pass.
    assert!((1_250..=1_254).contains(&v4.mtu) && v4.wanted_mtu == 1_350, "{check:?}");
    assert!(check[1].troubles.iter().any(|text| text.contains("nor do those of 1280")), "{check:?}");
    assert!(v4.troubles.iter().any(|text| text.contains("narrower than both ends say")), "{check:?}");
    // Found once, it is heeded.
    soon("the route says what passes", || {
        nodes.all[0].routes().contains("10.4.2.0/24 via 192.0.2.2 dev nd-vxlan onlink mtu 1250")
    });
    let check = nodes.all[0].check_until("n2", |all| all[0].mtu == 1_250);
    assert_eq!((check[0].mtu, check[0].wanted_mtu), (1_250, 1_250), "{check:?}");
    nodes.all[1].space.command("ip link set up0 down");
    let check = nodes.all[0].check("n2");
    assert!(
        check.iter().all(|one| !one.answered && one.troubles.iter().any(|text| text.contains("UDP port 4789"))),
        "{check:?}"
    );
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
