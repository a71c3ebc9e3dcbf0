//! VLANs of one bridge, with real packets: each is a network of its own, with its gateway; nothing passes between them but over
//! the node. Where the kernel cannot keep VLANs apart, attaching says so and leaves nothing. Needs root.
#![expect(clippy::unwrap_used, reason = "helpers of tests stand outside of them")]

mod rig;

use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, socket};
use rig::{Node, Space, assert_heard, can_filter, filters, portmap, tcp};

const TEN: &str = r#"{"type":"bridge","bridge":"br0","isGateway":true,"ipMasq":true,"vlan":10,"macspoofchk":true,
    "ipam":{"type":"host-local","dataDir":"/nonexistent","ranges":[[{"subnet":"10.4.0.0/24"}],[{"subnet":"fd00:4::/64"}]],
    "routes":[{"dst":"0.0.0.0/0"},{"dst":"::/0"}]}}"#;
const TWENTY: &str = r#"{"name":"twenty","type":"bridge","bridge":"br0","isGateway":true,"ipMasq":true,"vlan":20,
    "ipam":{"type":"host-local","dataDir":"/nonexistent","ranges":[[{"subnet":"10.5.0.0/24"}]],
    "routes":[{"dst":"0.0.0.0/0"}]}}"#;
const PLAIN: &str = r#"{"name":"plain","type":"bridge","bridge":"br0","isGateway":true,"ipMasq":true,
    "ipam":{"type":"host-local","dataDir":"/nonexistent","ranges":[[{"subnet":"10.6.0.0/24"}]],
    "routes":[{"dst":"0.0.0.0/0"}]}}"#;

/// What comes to the sandbox, of all protocols.
fn listen(space: &Space) -> OwnedFd {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    space.run(move || socket(AddressFamily::Packet, SockType::Raw, flags, SockProtocol::EthAll).unwrap())
}

/// Frames that came from this MAC.
fn heard_from(socket: &OwnedFd, mac: &str) -> usize {
    let (mut count, mut bytes) = (0, [0; 2_048]);
    while let Ok(length) = recv(socket.as_raw_fd(), &mut bytes, MsgFlags::empty()) {
        let sender = bytes[..length][6..12].iter().map(|octet| format!("{octet:02x}")).collect::<Vec<_>>().join(":");
        count += usize::from(sender == mac);
    }
    count
}

/// The VLANs of a port, as `bridge` tells them.
fn vlans_of(node: &Node, result: &serde_json::Value) -> String {
    let port = result["interfaces"][1]["name"].as_str().unwrap();
    let told = node.space.command(&format!("bridge vlan show dev {port}"));
    told.lines().skip(1).map(|line| line.trim_start_matches(port).trim()).collect::<Vec<_>>().join(", ")
}

fn has_link(node: &Node, name: &str) -> bool {
    node.space.command("ip -o link show").contains(&format!(" {name}@"))
}

#[test]
fn a_kernel_that_cannot_keep_vlans_apart_is_told_and_nothing_is_left() {
    if filters() {
        let told = b"SKIPPED VLANs (a node without them): this kernel has CONFIG_BRIDGE_VLAN_FILTERING\n";
        std::io::stderr().write_all(told).unwrap();
        return;
    }
    let node = Node::new();
    let web = Space::new();
    let links = node.space.command("ip -o link show");
    let error = node.attach(&web, "web", &[TEN]).unwrap_err();
    for part in ["bridge br0", "keys vlan and vlanTrunk", "CONFIG_BRIDGE_VLAN_FILTERING", "remove the keys"] {
        assert!(error.contains(part), "{error}");
    }
    assert_eq!((node.status().attachments, node.status().leases), (0, 0));
    assert_eq!(node.space.command("ip -o link show"), links);
    let elements = node.space.command("nft list ruleset");
    assert!(!elements.contains("10.4.0.") && !elements.contains("\"br0"), "{elements}");
    node.attach(&web, "web", &[PLAIN]).unwrap();
}

#[test]
fn two_vlans_of_a_bridge_are_two_networks() {
    if !can_filter("VLANs of a bridge") {
        return;
    }
    let node = Node::new();
    let outside = node.outside();
    let [one, two, three, plain] = std::array::from_fn(|_| Space::new());
    let result = node.attach(&one, "one", &[TEN]).unwrap();
    let names: Vec<&str> = (0..4).map(|at| result["interfaces"][at]["name"].as_str().unwrap()).collect();
    assert_eq!((names[0], names[2], names[3]), ("br0", "eth0", "br0.10"));
    let shown = node.space.command("ip link show br0.10");
    assert!(shown.contains(result["interfaces"][3]["mac"].as_str().unwrap()), "{shown}");
    assert_eq!((result["interfaces"].as_array().unwrap().len(), &result["ips"][0]["interface"]), (4, &2.into()));
    let second = node.attach(&two, "two", &[TEN, &portmap(&tcp(8080, 80))]).unwrap();
    let third = node.attach(&three, "three", &[TWENTY, &portmap(&tcp(8081, 80))]).unwrap();
    node.attach(&plain, "plain", &[PLAIN]).unwrap();
    assert_eq!(vlans_of(&node, &second), "10 PVID Egress Untagged");
    assert_eq!(vlans_of(&node, &third), "20 PVID Egress Untagged");
    outside.serve(7000);
    [&two, &three, &plain].into_iter().for_each(|space| space.serve(80));
    assert_heard(&[
        ("one", &one, "10.4.0.3:80", Ok("10.4.0.2")),
        ("one", &one, "[fd00:4::3]:80", Ok("fd00:4::2")),
        ("one", &one, "192.0.2.9:7000", Ok("192.0.2.1")),
        ("one", &one, "[2001:db8::9]:7000", Ok("2001:db8::1")),
        ("three", &three, "192.0.2.9:7000", Ok("192.0.2.1")),
        ("plain", &plain, "192.0.2.9:7000", Ok("192.0.2.1")),
        ("outside", &outside, "192.0.2.1:8080", Ok("192.0.2.9")),
        ("outside", &outside, "[2001:db8::1]:8080", Ok("2001:db8::9")),
        ("outside", &outside, "192.0.2.1:8081", Ok("192.0.2.9")),
        ("node", &node.space, "127.0.0.1:8080", Ok("10.4.0.1")),
        ("node", &node.space, "10.4.0.3:80", Ok("10.4.0.1")),
        ("one", &one, "192.0.2.1:8080", Ok("10.4.0.1")),
        ("itself", &two, "192.0.2.1:8080", Ok("10.4.0.1")),
        // Over the node, as from one network to another.
        ("one", &one, "10.5.0.2:80", Ok("10.5.0.1")),
        ("three", &three, "10.4.0.3:80", Ok("10.4.0.1")),
        ("plain", &plain, "10.4.0.3:80", Ok("10.4.0.1")),
        // Not masqueraded: it is the same bridge.
        ("one", &one, "10.6.0.2:80", Ok("10.4.0.2")),
        ("three", &three, "192.0.2.1:8080", Ok("10.4.0.1")),
    ]);
    let ears = [&two, &three, &plain].map(listen);
    // Nobody has it: it is asked for in all of the VLAN.
    one.hears("10.4.0.200:80").unwrap_err();
    let mac = result["interfaces"][2]["mac"].as_str().unwrap();
    let heard = ears.map(|ear| heard_from(&ear, mac));
    assert!(heard[0] > 0 && heard[1..] == [0, 0], "{heard:?}");
}

#[test]
fn a_vlans_gateway_goes_with_its_last_attachment() {
    if !can_filter("a VLAN's gateway") {
        return;
    }
    let mut node = Node::new();
    let outside = node.outside();
    outside.serve(7000);
    let [one, two, three] = std::array::from_fn(|_| Space::new());
    for (space, name, network) in [(&one, "one", TEN), (&two, "two", TEN), (&three, "three", TWENTY)] {
        node.attach(space, name, &[network]).unwrap();
    }
    node.detach("one", TEN);
    node.until(|node| node.status().draining == 0);
    assert!(has_link(&node, "br0.10") && has_link(&node, "br0.20"));
    assert_heard(&[("two", &two, "192.0.2.9:7000", Ok("192.0.2.1"))]);
    node.stop();
    node.start();
    assert_heard(&[("two", &two, "192.0.2.9:7000", Ok("192.0.2.1"))]);
    node.detach("two", TEN);
    node.until(|node| !has_link(node, "br0.10"));
    assert!(has_link(&node, "br0.20"));
    let rules = || node.space.command("nft list ruleset");
    assert!(!rules().contains("\"br0.10\"") && rules().contains("\"br0.20\""), "{}", rules());
    // And comes with the next.
    let next = Space::new();
    node.attach(&next, "next", &[TEN]).unwrap();
    assert_heard(&[("next", &next, "192.0.2.9:7000", Ok("192.0.2.1"))]);
    for (name, network) in [("next", TEN), ("three", TWENTY)] {
        node.detach(name, network);
    }
    // Where IP in IP is loaded, the kernel puts `tunl0` into every namespace.
    let links =
        |node: &Node| node.space.command("ip -o link show").lines().filter(|line| !line.contains("tunl0")).count();
    node.until(|node| links(node) == 3);
    assert_eq!(node.resync(), [""; 0]);
}

#[test]
fn what_somebody_changed_of_vlans_is_mended() {
    if !can_filter("mending of VLANs") {
        return;
    }
    let node = Node::new();
    let outside = node.outside();
    outside.serve(7000);
    let [one, three] = std::array::from_fn(|_| Space::new());
    let result = node.attach(&one, "one", &[TEN]).unwrap();
    node.attach(&three, "three", &[TWENTY]).unwrap();
    let port = result["interfaces"][1]["name"].as_str().unwrap();
    for harm in [
        "ip link del br0.10".to_owned(),
        format!("bridge vlan add dev {port} vid 20 pvid untagged"),
        format!("bridge vlan del dev {port} vid 10"),
        "ip link set br0 type bridge vlan_filtering 0".to_owned(),
        "ip addr flush dev br0.10".to_owned(),
        "ip link set PORT nomaster".to_owned(),
    ] {
        let gateway = node.space.command("ip -o link show br0.10");
        let end = gateway.split(['@', ':']).nth(2).unwrap();
        node.space.command(&harm.replace("PORT", end));
        assert_ne!(node.resync(), [""; 0], "{harm}");
        assert_eq!(vlans_of(&node, &result), "10 PVID Egress Untagged", "{harm}");
        assert_eq!(one.hears_in_the_end("192.0.2.9:7000").as_deref(), Ok("192.0.2.1"), "{harm}");
        assert_eq!(node.resync(), [""; 0], "{harm}");
    }
}

#[test]
fn a_link_of_another_with_the_gateways_name_is_left_alone() {
    if !can_filter("a foreign link in a gateway's place") {
        return;
    }
    let node = Node::new();
    node.space.command("ip link add br0.10 type veth peer name theirs");
    let error = node.attach(&Space::new(), "one", &[TEN]).unwrap_err();
    assert!(error.contains("br0.10 exists and is not netd's"), "{error}");
    assert_eq!((node.status().attachments, node.status().leases), (0, 0));
    assert!(has_link(&node, "br0.10"));
    node.space.command("ip link del br0.10");
    node.attach(&Space::new(), "one", &[TEN]).unwrap();
}

#[test]
fn a_trunk_carries_vlans_with_their_tags() {
    if !can_filter("trunks") {
        return;
    }
    let node = Node::new();
    let trunk = r#"{"name":"trunk","type":"bridge","bridge":"br0","isGateway":true,"vlan":5,"preserveDefaultVlan":true,
        "vlanTrunk":[{"id":20},{"minID":9,"maxID":10}],
        "ipam":{"type":"host-local","dataDir":"/nonexistent","ranges":[[{"subnet":"10.7.0.0/24"}]]}}"#;
    let [router, one] = std::array::from_fn(|_| Space::new());
    let result = node.attach(&router, "router", &[trunk]).unwrap();
    assert_eq!(vlans_of(&node, &result), "1 Egress Untagged, 5 PVID Egress Untagged, 9, 10, 20");
    node.attach(&one, "one", &[TEN]).unwrap();
    one.serve(80);
    router.command("ip link add link eth0 name v10 type vlan id 10");
    router.command("ip addr add 10.4.0.99/24 dev v10");
    router.command("ip link set v10 up");
    assert_heard(&[("router", &router, "10.4.0.2:80", Ok("10.4.0.99"))]);
}

#[test]
fn a_container_interface_that_is_to_stay_down_does() {
    let node = Node::new();
    let space = Space::new();
    let stanza = r#"{"type":"bridge","bridge":"br0","disableContainerInterface":true}"#;
    let tuning = r#"{"type":"tuning","mac":"02:11:22:33:44:55"}"#;
    node.attach(&space, "one", &[stanza, tuning]).unwrap();
    let shown = space.command("ip link show eth0");
    assert!(shown.contains("02:11:22:33:44:55") && shown.contains("state DOWN"), "{shown}");
    assert!(!shown.contains(",UP"), "{shown}");
}
