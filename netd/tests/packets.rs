//! Who reaches whom, with real packets: masquerade, published ports from everywhere, fences, the forwarding guard. Needs root.

mod rig;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rig::{Node, Space, assert_heard, portmap, tcp};

const DUAL: &str = r#"{"type":"bridge","bridge":"br0","isGateway":true,"ipMasq":true,"hairpinMode":true,
    "ipam":{"type":"host-local","dataDir":"/nonexistent","ranges":[[{"subnet":"10.4.0.0/24"}],[{"subnet":"fd00:4::/64"}]],
    "routes":[{"dst":"0.0.0.0/0"},{"dst":"::/0"}]}}"#;
const OTHER: &str = r#"{"name":"other","type":"bridge","bridge":"br1","isGateway":true,"ipMasq":true,
    "ipam":{"type":"host-local","dataDir":"/nonexistent","ranges":[[{"subnet":"10.5.0.0/24"}]],
    "routes":[{"dst":"0.0.0.0/0"}]}}"#;
const SAME_BRIDGE: &str = r#"{"type":"firewall","ingressPolicy":"same-bridge"}"#;
const ISOLATED: &str = r#"{"type":"firewall","ingressPolicy":"isolated"}"#;

#[test]
fn the_outside_sees_the_node_and_sandboxes_see_each_other() {
    let node = Node::new();
    let outside = node.outside();
    let (one, two) = (Space::new(), Space::new());
    node.attach(&one, "one", &[DUAL]).unwrap();
    node.attach(&two, "two", &[DUAL]).unwrap();
    outside.serve(7000);
    two.serve(7000);
    assert_heard(&[
        ("one", &one, "192.0.2.9:7000", Ok("192.0.2.1")),
        ("one", &one, "[2001:db8::9]:7000", Ok("2001:db8::1")),
        ("one", &one, "10.4.0.3:7000", Ok("10.4.0.2")),
        ("one", &one, "[fd00:4::3]:7000", Ok("fd00:4::2")),
    ]);
}

#[test]
fn a_published_port_is_reached_from_everywhere_until_it_is_detached() {
    let node = Node::new();
    let outside = node.outside();
    let (web, other) = (Space::new(), Space::new());
    let ports = portmap(&tcp(8080, 80));
    node.attach(&web, "web", &[DUAL, &ports]).unwrap();
    node.attach(&other, "other", &[DUAL]).unwrap();
    web.serve(80);
    assert_heard(&[
        ("outside", &outside, "192.0.2.1:8080", Ok("192.0.2.9")),
        ("outside", &outside, "[2001:db8::1]:8080", Ok("2001:db8::9")),
        ("node", &node.space, "127.0.0.1:8080", Ok("10.4.0.1")),
        ("node", &node.space, "192.0.2.1:8080", Ok("192.0.2.1")),
        ("node", &node.space, "[2001:db8::1]:8080", Ok("2001:db8::1")),
        ("node", &node.space, "[::1]:8080", Ok("fd00:4::1")),
        ("other", &other, "192.0.2.1:8080", Ok("10.4.0.1")),
        ("other", &other, "10.4.0.1:8080", Ok("10.4.0.1")),
        ("other", &other, "[2001:db8::1]:8080", Ok("fd00:4::1")),
        ("itself", &web, "192.0.2.1:8080", Ok("10.4.0.1")),
        ("outside", &outside, "192.0.2.1:8081", Err(())),
    ]);
    let taken = node.space.run(|| std::net::TcpListener::bind("0.0.0.0:8080").is_err());
    assert!(taken, "nobody listens on the published port");
    node.detach("web", DUAL);
    assert_heard(&[
        ("outside", &outside, "192.0.2.1:8080", Err(())),
        ("node", &node.space, "127.0.0.1:8080", Err(())),
        ("node", &node.space, "[::1]:8080", Err(())),
    ]);
    // At once for another container.
    let next = Space::new();
    node.attach(&next, "next", &[DUAL, &ports]).unwrap();
    next.serve(80);
    assert_heard(&[("outside", &outside, "192.0.2.1:8080", Ok("192.0.2.9"))]);
}

#[test]
fn a_port_on_one_address_and_a_udp_port_and_one_that_is_taken() {
    let node = Node::new();
    let outside = node.outside();
    node.space.command("ip addr add 192.0.2.2/24 dev up0");
    let web = Space::new();
    let only = r#"{"hostPort":53,"containerPort":53,"protocol":"udp"},
        {"hostPort":8080,"containerPort":80,"protocol":"tcp","hostIP":"192.0.2.2"}"#;
    // A sender that was there before the port must meet it too.
    assert_eq!(outside.hears_udp("192.0.2.1:53"), None);
    node.attach(&web, "web", &[DUAL, &portmap(only)]).unwrap();
    web.serve(80);
    web.serve_udp(53);
    assert_eq!(outside.hears_udp_in_the_end("192.0.2.1:53").as_deref(), Some("192.0.2.9"));
    assert_eq!(node.space.hears_udp_in_the_end("127.0.0.1:53").as_deref(), Some("10.4.0.1"));
    assert_heard(&[
        ("outside", &outside, "192.0.2.2:8080", Ok("192.0.2.9")),
        ("outside", &outside, "192.0.2.1:8080", Err(())),
    ]);
    let second = Space::new();
    let error = node.attach(&second, "second", &[DUAL, &portmap(only)]).unwrap_err();
    assert!(
        error.starts_with("cannot publish 0.0.0.0:53/udp for second/eth0 on network web: it leads to web/eth0"),
        "{error}"
    );
    let holder = node.space.run(|| std::net::TcpListener::bind("0.0.0.0:9090").unwrap());
    let error = node.attach(&second, "second", &[DUAL, &portmap(&tcp(9090, 80))]).unwrap_err();
    assert!(error.contains("another process of this node uses the port"), "{error}");
    drop(holder);
    // A program that another test starts just now has the socket too, until it runs.
    while node.space.run(|| std::net::TcpListener::bind("0.0.0.0:9090").is_err()) {
        std::thread::sleep(Duration::from_millis(5));
    }
    node.attach(&second, "second", &[DUAL, &portmap(&tcp(9090, 80))]).unwrap();
}

#[test]
fn a_sandbox_without_ipv6_is_reached_by_the_nodes_ipv6_address() {
    let node = Node::new();
    let outside = node.outside();
    let web = Space::new();
    let only_v4 = OTHER.replace("other", "web");
    node.attach(&web, "web", &[&only_v4, &portmap(&tcp(8080, 80))]).unwrap();
    web.serve(80);
    assert_heard(&[
        ("outside", &outside, "[2001:db8::1]:8080", Ok("10.5.0.1")),
        ("node", &node.space, "[::1]:8080", Ok("10.5.0.1")),
    ]);
}

#[test]
fn fenced_bridges_do_not_reach_each_other_but_by_published_ports() {
    let node = Node::new();
    let outside = node.outside();
    let (a, b, c) = (Space::new(), Space::new(), Space::new());
    node.attach(&a, "a", &[DUAL, &portmap(&tcp(8080, 80)), SAME_BRIDGE]).unwrap();
    node.attach(&b, "b", &[DUAL, SAME_BRIDGE]).unwrap();
    node.attach(&c, "c", &[OTHER, &SAME_BRIDGE.replace("{", r#"{"name":"other","#)]).unwrap();
    outside.serve(7000);
    a.serve(80);
    c.serve(80);
    assert_heard(&[
        ("b", &b, "10.4.0.2:80", Ok("10.4.0.3")),
        ("c", &c, "10.4.0.2:80", Err(())),
        ("b", &b, "10.5.0.2:80", Err(())),
        ("c", &c, "192.0.2.1:8080", Ok("10.4.0.1")),
        ("c", &c, "192.0.2.9:7000", Ok("192.0.2.1")),
        ("outside", &outside, "192.0.2.1:8080", Ok("192.0.2.9")),
    ]);
}

#[test]
fn isolated_sandboxes_reach_the_outside_and_not_each_other() {
    let node = Node::new();
    let outside = node.outside();
    let (a, b) = (Space::new(), Space::new());
    node.attach(&a, "a", &[DUAL, ISOLATED]).unwrap();
    node.attach(&b, "b", &[DUAL, ISOLATED]).unwrap();
    outside.serve(7000);
    a.serve(80);
    assert_heard(&[
        ("b", &b, "10.4.0.2:80", Err(())),
        ("b", &b, "[fd00:4::2]:80", Err(())),
        ("b", &b, "192.0.2.9:7000", Ok("192.0.2.1")),
        ("node", &node.space, "10.4.0.2:80", Ok("10.4.0.1")),
    ]);
}

#[test]
fn the_node_does_not_become_a_router_for_others() {
    let node = Node::new();
    let outside = node.outside();
    let neighbour = node.neighbour();
    outside.command("ip route add 198.51.100.0/24 via 192.0.2.1");
    outside.command("ip route add 10.4.0.0/24 via 192.0.2.1");
    outside.serve(7000);
    let web = Space::new();
    node.attach(&web, "web", &[DUAL]).unwrap();
    web.serve(80);
    assert_eq!(node.space.command("cat /proc/sys/net/ipv4/ip_forward").trim(), "1");
    assert_heard(&[
        ("neighbour", &neighbour, "192.0.2.9:7000", Err(())),
        ("web", &web, "192.0.2.9:7000", Ok("192.0.2.1")),
        ("outside", &outside, "10.4.0.2:80", Ok("192.0.2.9")),
    ]);
}

#[test]
fn a_sandbox_does_not_reach_the_nodes_loopback() {
    let node = Node::new();
    node.space.command("ip link set lo up");
    let web = Space::new();
    node.attach(&web, "web", &[DUAL]).unwrap();
    node.space.run(|| {
        let listener = std::net::TcpListener::bind("127.0.0.1:6000").unwrap();
        std::thread::spawn(move || listener.incoming().count());
    });
    web.command("ip route add 127.0.0.1/32 via 10.4.0.1 dev eth0 table 7");
    web.command("ip rule del pref 0");
    web.command("ip rule add pref 10 lookup 7");
    web.command("ip rule add pref 20 lookup local");
    web.run(|| std::fs::write("/proc/sys/net/ipv4/conf/all/route_localnet", "1").unwrap());
    let capture = node.space.capture();
    assert!(web.hears("127.0.0.1:6000").is_err());
    assert!(capture.has_opening("127.0.0.1:6000".parse().unwrap()), "it did not try");
}

#[test]
fn tuning_sets_what_it_says_and_the_result_shows_the_mac() {
    let node = Node::new();
    let web = Space::new();
    let tuning = r#"{"type":"tuning","mac":"02:11:22:33:44:55","mtu":1300,"promisc":true,
        "sysctl":{"net.ipv4.conf.IFNAME.forwarding":"1","net.core.somaxconn":"512"}}"#;
    let result = node.attach(&web, "web", &[DUAL, tuning]).unwrap();
    assert_eq!(result["interfaces"][2]["mac"], "02:11:22:33:44:55");
    let shown = web.command("ip -d link show eth0");
    assert!(shown.contains("mtu 1300") && shown.contains("PROMISC") && shown.contains("02:11:22:33:44:55"), "{shown}");
    assert_eq!(web.command("cat /proc/sys/net/ipv4/conf/eth0/forwarding").trim(), "1");
    assert_eq!(web.command("cat /proc/sys/net/core/somaxconn").trim(), "512");
}

/// Whoever has a querier on a bridge wants it to know who listens.
#[test]
fn a_new_bridge_follows_no_listeners_and_one_that_stands_does_as_its_owner_says() {
    let mut node = Node::new();
    let (web, mail) = (Space::new(), Space::new());
    node.attach(&web, "web", &[DUAL]).unwrap();
    let bridge = node.space.command("ip -d link show br0");
    assert!(bridge.contains("mcast_snooping 0 "), "{bridge}");
    node.space.command("ip link set br0 type bridge mcast_snooping 1");
    node.stop();
    node.start();
    node.attach(&mail, "mail", &[DUAL]).unwrap();
    let bridge = node.space.command("ip -d link show br0");
    assert!(bridge.contains("mcast_snooping 1 "), "{bridge}");
}

#[test]
fn a_restart_changes_nothing_for_who_is_attached() {
    let mut node = Node::new();
    let outside = node.outside();
    let web = Space::new();
    node.attach(&web, "web", &[DUAL, &portmap(&tcp(8080, 80)), SAME_BRIDGE]).unwrap();
    web.serve(80);
    let before = node.space.command("nft list ruleset");
    node.stop();
    assert_heard(&[("outside", &outside, "192.0.2.1:8080", Ok("192.0.2.9"))]);
    assert!(!node.space.command("nft flush ruleset").contains("rror"));
    node.start();
    assert_eq!(node.space.command("nft list ruleset"), before);
    assert_heard(&[
        ("outside", &outside, "192.0.2.1:8080", Ok("192.0.2.9")),
        ("node", &node.space, "[::1]:8080", Ok("fd00:4::1")),
        ("web", &web, "192.0.2.9:1", Err(())),
    ]);
    let again = node.attach(&web, "web", &[DUAL, &portmap(&tcp(8080, 80)), SAME_BRIDGE]).unwrap();
    assert_eq!(again["ips"][0]["address"], "10.4.0.2/24");
    assert_eq!((node.status().attachments, node.status().published_ports), (1, 1));
    // The first new attach after a restart leaves the others alone.
    let next = Space::new();
    node.attach(&next, "next", &[DUAL, &portmap(&tcp(8081, 80)), SAME_BRIDGE]).unwrap();
    next.serve(80);
    assert_heard(&[
        ("outside", &outside, "192.0.2.1:8080", Ok("192.0.2.9")),
        ("outside", &outside, "192.0.2.1:8081", Ok("192.0.2.9")),
    ]);
}

#[test]
fn an_address_in_another_sandbox_is_reached_at_once() {
    let node = Node::new();
    for round in 0..4 {
        let space = Space::new();
        let result = node.attach(&space, "moves", &[DUAL]).unwrap();
        assert_eq!(result["ips"][1]["address"], "fd00:4::2/64", "round {round}");
        space.serve(80);
        assert_heard(&[
            ("node", &node.space, "10.4.0.2:80", Ok("10.4.0.1")),
            ("node", &node.space, "[fd00:4::2]:80", Ok("fd00:4::1")),
        ]);
    }
}

#[test]
fn a_link_local_address_works_at_once_and_is_the_kernels_own() {
    let node = Node::new();
    let (one, two) = (Space::new(), Space::new());
    let only_v4 = OTHER.replace("other", "web");
    node.attach(&one, "one", &[&only_v4]).unwrap();
    node.attach(&two, "two", &[&only_v4]).unwrap();
    let shown = one.command("ip -6 -o addr show dev eth0");
    // 02:6e and the address 10.5.0.2 make the MAC, the MAC makes this.
    assert!(shown.contains("fe80::6e:aff:fe05:2/64") && !shown.contains("tentative"), "{shown}");
    one.serve(80);
    let link = two.command("ip -o link show eth0");
    let index = link.split(':').next().unwrap_or_default();
    assert_eq!(
        two.hears_in_the_end(&format!("[fe80::6e:aff:fe05:2%{index}]:80")).as_deref(),
        Ok("fe80::6e:aff:fe05:3")
    );
    // A MAC that is set later moves it along, as ever.
    one.command("ip link set eth0 down");
    one.command("ip link set eth0 address 02:00:00:00:00:09");
    one.command("ip link set eth0 up");
    let shown = one.command("ip -6 -o addr show dev eth0");
    assert!(shown.contains("fe80::ff:fe00:9/64"), "{shown}");
}

/// What goes out by masquerade, and what comes in by a published port, while the program is killed, in the midst of a start too.
#[test]
fn a_restart_loses_no_packet() {
    let mut node = Node::of_the_program();
    let outside = node.outside();
    let web = Space::new();
    let published = portmap(r#"{"hostPort":7000,"containerPort":7002,"protocol":"udp"}"#);
    node.attach(&web, "web", &[DUAL, &published, SAME_BRIDGE]).unwrap();
    outside.serve_udp(7001);
    web.serve_udp(7002);
    assert_eq!(web.hears_udp_in_the_end("192.0.2.9:7001").as_deref(), Some("192.0.2.1"));
    assert_eq!(outside.hears_udp_in_the_end("192.0.2.1:7000").as_deref(), Some("192.0.2.9"));
    let over = Arc::new(AtomicBool::new(false));
    let (out, inwards) = std::thread::scope(|scope| {
        let out = scope.spawn(|| web.exchange_udp("192.0.2.9:7001", 200, &over));
        let inwards = scope.spawn(|| outside.exchange_udp("192.0.2.1:7000", 200, &over));
        node.die_again_and_again();
        over.store(true, Ordering::Relaxed);
        (out.join().unwrap(), inwards.join().unwrap())
    });
    for (sent, heard) in [out, inwards] {
        assert!(sent >= 200, "{sent}");
        assert_eq!(heard, sent);
    }
}
