//! Routed sandboxes (`ptp`), with real packets: who reaches whom, what a sandbox cannot do, what is left. Needs root.
#![expect(clippy::unwrap_used, reason = "helpers of tests stand outside of them")]

mod rig;

use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, recv, sendto, setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};
use rig::{Node, Space, assert_heard, portmap, tcp};

const PTP: &str = r#"{"type":"ptp","ipMasq":true,
    "ipam":{"type":"host-local","dataDir":"/nonexistent","ranges":[[{"subnet":"10.6.0.0/24"}],[{"subnet":"fd00:6::/64"}]],
    "routes":[{"dst":"0.0.0.0/0"},{"dst":"::/0"}]}}"#;
const BRIDGE: &str = r#"{"name":"other","type":"bridge","bridge":"br1","isGateway":true,"ipMasq":true,
    "ipam":{"type":"host-local","dataDir":"/nonexistent","ranges":[[{"subnet":"10.5.0.0/24"}],[{"subnet":"fd00:5::/64"}]],
    "routes":[{"dst":"0.0.0.0/0"},{"dst":"::/0"}]}}"#;
const SAME_BRIDGE: &str = r#"{"type":"firewall","ingressPolicy":"same-bridge"}"#;
const ISOLATED: &str = r#"{"type":"firewall","ingressPolicy":"isolated"}"#;

/// As the reference plugin 1.9.1 answered to the same, with its MACs, host link and sandbox path in place of ours.
#[test]
fn the_result_and_the_sandbox_are_the_references() {
    let node = Node::new();
    let web = Space::new();
    let config = |version: &str| {
        let stanza = PTP.replacen(
            '{',
            &format!(r#"{{"cniVersion":"{version}","name":"web","mtu":1400,"dns":{{"nameservers":["10.6.0.53"]}},"#),
            1,
        );
        rig::call(&stanza, "web", "/run/netns/web")
    };
    let masked = |version| {
        let text = node.answer(&web, config(version)).unwrap();
        let read: serde_json::Value = serde_json::from_str(&text).unwrap();
        let links = read["interfaces"].as_array().unwrap();
        let mac = |at: usize| links[at]["mac"].as_str().unwrap().to_owned();
        text.replace(&mac(0), "M0").replace(&mac(1), "M1").replace("nd00000001", "HOST")
    };
    assert_eq!(
        masked("1.1.0"),
        r#"{"cniVersion":"1.1.0","dns":{"nameservers":["10.6.0.53"]},"interfaces":[{"mac":"M0","name":"HOST"},{"mac":"M1","name":"eth0","sandbox":"/run/netns/web"}],"ips":[{"address":"10.6.0.2/24","gateway":"10.6.0.1","interface":1},{"address":"fd00:6::2/64","gateway":"fd00:6::1","interface":1}],"routes":[{"dst":"0.0.0.0/0"},{"dst":"::/0"}]}"#
    );
    assert_eq!(
        masked("0.4.0"),
        r#"{"cniVersion":"0.4.0","interfaces":[{"name":"HOST","mac":"M0"},{"name":"eth0","mac":"M1","sandbox":"/run/netns/web"}],"ips":[{"version":"4","interface":1,"address":"10.6.0.2/24","gateway":"10.6.0.1"},{"version":"6","interface":1,"address":"fd00:6::2/64","gateway":"fd00:6::1"}],"routes":[{"dst":"0.0.0.0/0"},{"dst":"::/0"}],"dns":{"nameservers":["10.6.0.53"]}}"#
    );
    // The kernel takes the mark away behind the link's coming up, in its own time; packets pass by then.
    let unmarked = |line: &str| line.trim().replace("linkdown ", "");
    let routes = |line: &str| {
        let mut lines: Vec<String> = web.command(line).lines().map(unmarked).collect();
        lines.sort();
        lines
    };
    assert_eq!(
        routes("ip -4 route"),
        [
            "10.6.0.0/24 via 10.6.0.1 dev eth0 src 10.6.0.2",
            "10.6.0.1 dev eth0 scope link src 10.6.0.2",
            "default via 10.6.0.1 dev eth0",
        ]
    );
    assert_eq!(
        routes("ip -6 route"),
        [
            "default via fd00:6::1 dev eth0 metric 1024 pref medium",
            "fd00:6::/64 via fd00:6::1 dev eth0 src fd00:6::2 metric 1024 pref medium",
            "fd00:6::1 dev eth0 src fd00:6::2 metric 1024 pref medium",
            "fe80::/64 dev eth0 proto kernel metric 256 pref medium",
        ]
    );
    assert!(
        web.command("ip link show eth0").contains("mtu 1400")
            && node.space.command("ip link show nd00000001").contains("mtu 1400")
    );
}

#[test]
fn sandboxes_the_node_and_the_outside_reach_each_other() {
    let node = Node::new();
    let outside = node.outside();
    let (one, two, bridged) = (Space::new(), Space::new(), Space::new());
    node.attach(&one, "one", &[PTP]).unwrap();
    node.attach(&two, "two", &[PTP]).unwrap();
    node.attach(&bridged, "bridged", &[BRIDGE]).unwrap();
    for space in [&outside, &one, &two, &bridged, &node.space] {
        space.serve(7000);
    }
    assert_heard(&[
        ("one", &one, "192.0.2.9:7000", Ok("192.0.2.1")),
        ("one", &one, "[2001:db8::9]:7000", Ok("2001:db8::1")),
        ("one", &one, "10.6.0.3:7000", Ok("10.6.0.2")),
        ("one", &one, "[fd00:6::3]:7000", Ok("fd00:6::2")),
        ("one", &one, "10.6.0.1:7000", Ok("10.6.0.2")),
        ("one", &one, "[fd00:6::1]:7000", Ok("fd00:6::2")),
        ("one", &one, "10.5.0.2:7000", Ok("10.5.0.1")),
        ("bridged", &bridged, "10.6.0.2:7000", Ok("10.5.0.2")),
        ("bridged", &bridged, "[fd00:6::2]:7000", Ok("fd00:5::2")),
        ("node", &node.space, "10.6.0.3:7000", Ok("10.6.0.1")),
        ("node", &node.space, "[fd00:6::3]:7000", Ok("fd00:6::1")),
    ]);
}

#[test]
fn a_published_port_is_reached_from_everywhere_until_it_is_detached() {
    let node = Node::new();
    let outside = node.outside();
    let (web, other) = (Space::new(), Space::new());
    let ports = portmap(&tcp(8080, 80));
    node.attach(&web, "web", &[PTP, &ports]).unwrap();
    node.attach(&other, "other", &[PTP]).unwrap();
    web.serve(80);
    assert_heard(&[
        ("outside", &outside, "192.0.2.1:8080", Ok("192.0.2.9")),
        ("outside", &outside, "[2001:db8::1]:8080", Ok("2001:db8::9")),
        ("node", &node.space, "127.0.0.1:8080", Ok("10.6.0.1")),
        ("node", &node.space, "192.0.2.1:8080", Ok("192.0.2.1")),
        ("node", &node.space, "[2001:db8::1]:8080", Ok("2001:db8::1")),
        ("node", &node.space, "[::1]:8080", Ok("fd00:6::1")),
        ("other", &other, "192.0.2.1:8080", Ok("10.6.0.3")),
        ("other", &other, "10.6.0.1:8080", Ok("10.6.0.3")),
        ("other", &other, "[2001:db8::1]:8080", Ok("fd00:6::3")),
        ("itself", &web, "192.0.2.1:8080", Ok("10.6.0.1")),
        ("itself", &web, "[2001:db8::1]:8080", Ok("fd00:6::1")),
        ("outside", &outside, "192.0.2.1:8081", Err(())),
    ]);
    node.detach("web", PTP);
    assert_heard(&[
        ("outside", &outside, "192.0.2.1:8080", Err(())),
        ("node", &node.space, "127.0.0.1:8080", Err(())),
        ("node", &node.space, "[::1]:8080", Err(())),
    ]);
    // At once for another container.
    let next = Space::new();
    node.attach(&next, "next", &[PTP, &ports]).unwrap();
    next.serve(80);
    assert_heard(&[("outside", &outside, "192.0.2.1:8080", Ok("192.0.2.9"))]);
}

#[test]
fn fenced_ones_reach_nobody_that_is_fenced_but_by_published_ports() {
    let node = Node::new();
    let outside = node.outside();
    let (a, b, bridged, open) = (Space::new(), Space::new(), Space::new(), Space::new());
    node.attach(&a, "a", &[PTP, &portmap(&tcp(8080, 80)), SAME_BRIDGE]).unwrap();
    node.attach(&b, "b", &[PTP, ISOLATED]).unwrap();
    node.attach(&open, "open", &[PTP]).unwrap();
    node.attach(&bridged, "bridged", &[BRIDGE, &SAME_BRIDGE.replace('{', r#"{"name":"other","#)]).unwrap();
    outside.serve(7000);
    for space in [&a, &b, &bridged, &open] {
        space.serve(80);
    }
    assert_heard(&[
        ("b", &b, "10.6.0.2:80", Err(())),
        ("b", &b, "[fd00:6::2]:80", Err(())),
        ("a", &a, "10.5.0.2:80", Err(())),
        ("bridged", &bridged, "10.6.0.2:80", Err(())),
        ("a", &a, "10.6.0.4:80", Ok("10.6.0.2")),
        ("open", &open, "10.6.0.2:80", Ok("10.6.0.4")),
        ("b", &b, "192.0.2.1:8080", Ok("10.6.0.3")),
        ("b", &b, "192.0.2.9:7000", Ok("192.0.2.1")),
        ("node", &node.space, "10.6.0.3:80", Ok("10.6.0.1")),
    ]);
}

#[test]
fn the_node_does_not_become_a_router_for_others() {
    let node = Node::new();
    let outside = node.outside();
    let neighbour = node.neighbour();
    outside.command("ip route add 198.51.100.0/24 via 192.0.2.1");
    outside.command("ip route add 10.6.0.0/24 via 192.0.2.1");
    outside.serve(7000);
    let web = Space::new();
    node.attach(&web, "web", &[PTP]).unwrap();
    web.serve(80);
    assert_heard(&[
        ("neighbour", &neighbour, "192.0.2.9:7000", Err(())),
        ("web", &web, "192.0.2.9:7000", Ok("192.0.2.1")),
        ("outside", &outside, "10.6.0.2:80", Ok("192.0.2.9")),
    ]);
}

#[test]
fn a_sandbox_sends_under_its_own_addresses_only() {
    let node = Node::new();
    let outside = node.outside();
    let (web, other) = (Space::new(), Space::new());
    node.attach(&web, "web", &[PTP]).unwrap();
    node.attach(&other, "other", &[PTP]).unwrap();
    for space in [&outside, &node.space] {
        space.serve_udp(7001);
    }
    let arrivals = node.space.listen_udp(7002);
    for (own, stolen, to) in [
        ("10.6.0.2", "10.6.0.3", "10.6.0.1:7002"),
        ("10.6.0.2", "192.0.2.77", "10.6.0.1:7002"),
        ("fd00:6::2", "fd00:6::3", "[fd00:6::1]:7002"),
        ("fd00:6::2", "2001:db8::77", "[fd00:6::1]:7002"),
    ] {
        let flag = if stolen.contains(':') { "128 nodad" } else { "32" };
        web.command(&format!("ip addr add {stolen}/{flag} dev eth0"));
        for source in [stolen, own] {
            let (from, to): (SocketAddr, SocketAddr) =
                (SocketAddr::new(source.parse().unwrap(), 0), to.parse().unwrap());
            assert_eq!(web.run(move || UdpSocket::bind(from).unwrap().send_to(b"?", to).unwrap()), 1);
        }
        assert_eq!(arrivals.recv_timeout(Duration::from_secs(30)).unwrap(), own, "{stolen} got through");
        web.command(&format!("ip addr del {stolen}/{} dev eth0", flag.split(' ').next().unwrap()));
    }
}

#[test]
fn a_sandbox_does_not_reach_the_nodes_loopback_and_is_no_router_to_it() {
    let node = Node::new();
    let outside = node.outside();
    node.space.command("ip link set lo up");
    let web = Space::new();
    let only_v4 = PTP.replace(r#",[{"subnet":"fd00:6::/64"}]"#, "").replace(r#",{"dst":"::/0"}"#, "");
    node.attach(&web, "web", &[&only_v4]).unwrap();
    node.space.run(|| {
        let listener = std::net::TcpListener::bind("127.0.0.1:6000").unwrap();
        std::thread::spawn(move || listener.incoming().count());
    });
    web.command("ip route add 127.0.0.1/32 via 10.6.0.1 dev eth0 table 7");
    web.command("ip rule del pref 0");
    web.command("ip rule add pref 10 lookup 7");
    web.command("ip rule add pref 20 lookup local");
    web.run(|| std::fs::write("/proc/sys/net/ipv4/conf/all/route_localnet", "1").unwrap());
    let capture = node.space.capture();
    assert!(web.hears("127.0.0.1:6000").is_err());
    assert!(capture.has_opening("127.0.0.1:6000".parse().unwrap()), "it did not try");
    // The node listens to routers elsewhere: it does not forward IPv6.
    assert_eq!(node.space.command("cat /proc/sys/net/ipv6/conf/all/forwarding").trim(), "0");
    web.run(|| advertise_a_router("eth0"));
    // The one that comes behind it, by another link, is taken.
    outside.run(|| advertise_a_router("out0"));
    let default = || node.space.command("ip -6 route show default");
    node.until(|_| default().contains("dev up0"));
    assert_eq!(default().matches("via ").count(), 1, "{}", default());
}

/// What is in a tunnel nobody looks at: it goes neither to the node nor through it.
#[test]
fn a_sandbox_sends_nothing_in_a_tunnel() {
    let node = Node::new();
    let (web, other) = (Space::new(), Space::new());
    node.attach(&web, "web", &[PTP]).unwrap();
    node.attach(&other, "other", &[PTP]).unwrap();
    for space in [&node.space, &other] {
        space.run(|| std::fs::write("/proc/sys/net/ipv4/icmp_ratelimit", "0").unwrap());
    }
    for to in [[10, 6, 0, 1], [10, 6, 0, 3]] {
        let arrives = |protocol| web.run(move || is_told_that_nobody_speaks(protocol, to));
        // Nobody there speaks that of trials either: who gets it says so.
        node.until(|_| arrives(253));
        assert_eq!([4, 41].map(arrives), [false; 2], "{to:?}");
        node.until(|_| arrives(253));
    }
    // Nor as the answer to a tunnel that somebody else begins.
    node.until(|node| node.space.run(|| is_told_that_nobody_speaks(4, [10, 6, 0, 2])));
    assert!(!web.run(|| is_told_that_nobody_speaks(4, [10, 6, 0, 1])));
}

/// Sends a packet of the protocol, and waits for ICMP's answer: protocol unreachable, or port unreachable where the kernel's `ipip` is
/// loaded, which speaks of ports when it has no such tunnel.
fn is_told_that_nobody_speaks(protocol: u8, to: [u8; 4]) -> bool {
    let open = |protocol| socket(AddressFamily::Inet, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol).unwrap();
    let (sender, ear) = (open(SockProtocol::Raw), open(SockProtocol::Icmp));
    setsockopt(&ear, sockopt::ReceiveTimeout, &TimeVal::milliseconds(300)).unwrap();
    let [a, b, c, d] = to;
    // The kernel fills in length, checksum and source.
    let packet = [&[0x45, 0, 0, 0, 0, 0, 0, 0, 64, protocol, 0, 0, 0, 0, 0, 0, a, b, c, d][..], &[0; 40]].concat();
    let address = SockaddrIn::new(a, b, c, d, 0);
    sendto(sender.as_raw_fd(), &packet, &address, MsgFlags::empty()).unwrap();
    let mut heard = [0; 128];
    let length = recv(ear.as_raw_fd(), &mut heard, MsgFlags::empty()).unwrap_or_default();
    // Behind two headers, it quotes the packet's own: an answer that was late for the packet before is none to this one.
    matches!(heard[..length].get(20..22), Some([3, 2 | 3])) && heard[..length].get(37) == Some(&protocol)
}

/// To all nodes of the link, lifetime half an hour.
#[expect(clippy::disallowed_methods, reason = "it is there")]
fn advertise_a_router(link: &str) {
    let sender = socket(AddressFamily::Inet6, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::IcmpV6).unwrap();
    setsockopt(&sender, sockopt::Ipv6MulticastHops, &255).unwrap();
    let index = nix::net::if_::if_nametoindex(link).unwrap();
    let all = std::net::SocketAddrV6::new("ff02::1".parse().unwrap(), 0, 0, index);
    let mut advertisement = [0; 16];
    (advertisement[0], advertisement[4]) = (134, 64);
    advertisement[6..8].copy_from_slice(&1_800_u16.to_be_bytes());
    UdpSocket::from(sender).send_to(&advertisement, all).unwrap();
}

#[test]
fn its_way_is_its_door() {
    let node = Node::new();
    let outside = node.outside();
    let web = Space::new();
    node.attach(&web, "web", &[PTP]).unwrap();
    for space in [&outside, &web, &node.space] {
        space.serve_udp(7001);
    }
    assert_eq!(web.hears_udp_in_the_end("192.0.2.9:7001").as_deref(), Some("192.0.2.1"));
    assert_eq!(web.hears_udp_in_the_end("[2001:db8::9]:7001").as_deref(), Some("2001:db8::1"));
    for (way, address) in [("10.6.0.2", "10.6.0.2:7001"), ("fd00:6::2", "[fd00:6::2]:7001")] {
        node.space.command(&format!("ip route del {way} dev nd00000001"));
        assert_eq!(node.space.hears_udp(address), None);
    }
    let arrivals = [outside.listen_udp(7002), node.space.listen_udp(7002)];
    for address in ["192.0.2.9:7002", "10.6.0.1:7002", "[2001:db8::9]:7002", "[fd00:6::1]:7002"] {
        assert_eq!(web.hears_udp(address), None, "{address}");
    }
    assert!(arrivals.iter().all(|heard| heard.try_recv().is_err()), "a packet came out");
    // What somebody took away is made again, by an admission.
    assert_eq!(node.resync(), ["let web/eth0 on network web pass packets: it is in no quarantine"]);
    for address in ["192.0.2.9:7001", "10.6.0.1:7001", "[2001:db8::9]:7001", "[fd00:6::1]:7001"] {
        assert!(web.hears_udp_in_the_end(address).is_some(), "{address}");
    }
}

#[test]
fn a_detach_leaves_nothing() {
    let node = Node::new();
    let _outside = node.outside();
    let show = |node: &Node| {
        ["ip -o addr show", "ip -4 route show table all", "ip -6 route show table all"]
            .map(|line| node.space.command(line))
    };
    let web = Space::new();
    // Forwarding changes what the node shows, once.
    node.attach(&web, "first", &[PTP]).unwrap();
    node.detach("first", PTP);
    let drained = |node: &Node| node.status().draining == 0;
    node.until(drained);
    let before = show(&node);
    let chain = [PTP, &portmap(&tcp(8080, 80)), SAME_BRIDGE];
    node.attach(&web, "web", &chain).unwrap();
    let rules = || node.space.command("nft list table inet netd");
    assert!(rules().contains("10.6.0.3") && rules().contains("nd00000002") && rules().contains("fd00:6::3"));
    assert_ne!(show(&node), before);
    node.detach("web", PTP);
    // Before its link is deleted.
    assert!(!rules().contains("10.6.0.3") && !rules().contains("nd00000002") && !rules().contains("fd00:6::3"));
    node.until(drained);
    assert_eq!(show(&node), before);
    // At once for its own container, by the same address.
    for _ in 0..3 {
        let result = node.attach(&Space::new(), "web", &chain).unwrap();
        assert_eq!(result["ips"][0]["address"], "10.6.0.3/24");
        node.detach("web", PTP);
    }
}

#[test]
fn a_restart_loses_no_packet_and_keeps_its_rules() {
    let mut node = Node::of_the_program();
    let outside = node.outside();
    let web = Space::new();
    node.attach(&web, "web", &[PTP, &portmap(&tcp(8080, 80)), SAME_BRIDGE]).unwrap();
    web.serve(80);
    outside.serve_udp(7001);
    assert_eq!(web.hears_udp_in_the_end("192.0.2.9:7001").as_deref(), Some("192.0.2.1"));
    let over = Arc::new(AtomicBool::new(false));
    let (sent, heard) = std::thread::scope(|scope| {
        let traffic = scope.spawn(|| web.exchange_udp("192.0.2.9:7001", 200, &over));
        node.die_again_and_again();
        over.store(true, Ordering::Relaxed);
        traffic.join().unwrap()
    });
    assert!(sent >= 200, "{sent}");
    assert_eq!(heard, sent);
    assert_heard(&[("outside", &outside, "192.0.2.1:8080", Ok("192.0.2.9"))]);
    let next = Space::new();
    node.attach(&next, "next", &[PTP, &portmap(&tcp(8081, 80))]).unwrap();
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
        let result = node.attach(&space, "moves", &[PTP]).unwrap();
        assert_eq!(result["ips"][1]["address"], "fd00:6::2/64", "round {round}");
        space.serve(80);
        assert_heard(&[
            ("node", &node.space, "10.6.0.2:80", Ok("10.6.0.1")),
            ("node", &node.space, "[fd00:6::2]:80", Ok("fd00:6::1")),
        ]);
    }
}

#[test]
fn an_address_without_a_gateway_is_refused() {
    let node = Node::new();
    let fixed = r#"{"type":"ptp","runtimeConfig":{"ips":["10.6.0.9/24"]},"ipam":{"type":"static"}}"#;
    let error = node.attach(&Space::new(), "web", &[fixed]).unwrap_err();
    assert!(error.contains("10.6.0.9/24 has no gateway, and a routed sandbox reaches all by it"), "{error}");
}
