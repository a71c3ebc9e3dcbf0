//! Policies on the real kernel, by the API: who reaches whom once they are applied, and again without them. Needs root.

#![expect(clippy::unwrap_used, reason = "helpers of tests stand outside of them")]

mod rig;

use std::io::{ErrorKind, Read};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::TryRecvError;
use std::time::{Duration, Instant};

use netd_api::{Client, blocking};
use rig::shop::{apply, describe, echoes, open};
use rig::{Node, Space, assert_heard, portmap, tcp};

const DUAL: &str = r#"{"type":"bridge","bridge":"br0","isGateway":true,"ipMasq":true,"hairpinMode":true,
    "ipam":{"type":"host-local","dataDir":"/nonexistent","ranges":[[{"subnet":"10.4.0.0/24"}],[{"subnet":"fd00:4::/64"}]],
    "routes":[{"dst":"0.0.0.0/0"},{"dst":"::/0"}]}}"#;
const ROUTED: &str = r#"{"name":"routed","type":"ptp","ipMasq":true,
    "ipam":{"type":"host-local","dataDir":"/nonexistent","ranges":[[{"subnet":"10.6.0.0/24"}]],
    "routes":[{"dst":"0.0.0.0/0"}]}}"#;

/// What comes about at once may take long on a busy machine.
const LONG: Duration = Duration::from_secs(30);

/// Only who is `app=login` reaches `app=web`, at port 80.
const FROM_LOGIN: &str = "apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: from-login, namespace: shop}
spec:
  podSelector: {matchLabels: {app: web}}
  ingress:
  - from:
    - podSelector: {matchLabels: {app: login}}
    ports: [{port: 80}]
";

struct Shop {
    node: Node,
    web: Space,
    login: Space,
    other: Space,
}

fn label(node: &Node, container: &str) {
    label_as(node, container, container);
}

/// Says of a container that it is this one.
fn label_as(node: &Node, container: &str, name: &str) {
    describe(&Client::connect(&node.socket(), &[]).unwrap(), container, name, &[("app", name)]);
}

impl Shop {
    fn new(network: &str) -> Self {
        Self::on(Node::new(), network)
    }

    fn on(node: Node, network: &str) -> Self {
        let shop = Self { node, web: Space::new(), login: Space::new(), other: Space::new() };
        for (space, name) in [(&shop.web, "web"), (&shop.login, "login"), (&shop.other, "other")] {
            shop.node.attach(space, name, &[network]).unwrap();
            label(&shop.node, name);
        }
        shop.web.serve(80);
        shop.web.serve(81);
        shop
    }

    fn client(&self) -> Client {
        Client::connect(&self.node.socket(), &[]).unwrap()
    }

    fn apply(&self, text: &str) -> Vec<String> {
        apply(&self.client(), text)
    }

    fn delete(&self, name: &str) {
        let mut request = blocking::DeletePolicyRequest::new();
        let mut which = blocking::PolicyName::new();
        (which.kind, which.namespace, which.name) = ("NetworkPolicy".to_owned(), "shop".to_owned(), name.to_owned());
        request.name = Some(which).into();
        assert_eq!(self.client().delete_policy(&request).unwrap().failure, None.into());
    }

    fn test(&self, from: &str, to: &str, port: u32) -> blocking::TestPolicyResponse {
        let mut request = blocking::TestPolicyRequest::new();
        (request.from, request.to, request.protocol, request.port) = (from.to_owned(), to.to_owned(), 6, port);
        let answer = self.client().test_policy(&request).unwrap();
        assert_eq!(answer.failure, None.into());
        answer
    }
}

/// Whether a connection is refused by an answer, and not by silence.
fn is_refused(space: &Space, address: &str) -> bool {
    let address: SocketAddr = address.parse().unwrap();
    let error = space.run(move || TcpStream::connect_timeout(&address, LONG).unwrap_err());
    error.kind() == ErrorKind::ConnectionRefused
}

#[test]
fn only_who_is_allowed_reaches_a_sandbox_on_its_own_bridge() {
    let shop = Shop::new(DUAL);
    let outside = shop.node.outside();
    assert_eq!(shop.apply(FROM_LOGIN), ["from-login"]);
    for (web, login) in [("10.4.0.2", "10.4.0.3"), ("[fd00:4::2]", "fd00:4::3")] {
        let (port, closed) = (format!("{web}:80"), format!("{web}:81"));
        assert_heard(&[
            ("login", &shop.login, &port, Ok(login)),
            ("login", &shop.login, &closed, Err(())),
            ("other", &shop.other, &port, Err(())),
        ]);
        assert!(is_refused(&shop.other, &port), "refused by an answer, not by silence");
    }
    assert_heard(&[("node", &shop.node.space, "10.4.0.2:80", Ok("10.4.0.1"))]);
    drop(outside);
    let (allowed, denied) = (shop.test("login", "web", 80), shop.test("other", "shop/web", 80));
    assert!(allowed.allowed && !denied.allowed, "{allowed:?} {denied:?}");
    assert!(denied.remedy.contains("ingress rule") && denied.reasons[1].place.ends_with(".yaml:1"), "{denied:?}");
    let policies = shop.client().policies(&blocking::PoliciesRequest::new()).unwrap().policies;
    assert_eq!((policies.len(), policies[0].sandboxes, policies[0].text.as_str()), (1, 1, FROM_LOGIN));
    assert!(policies[0].allowed >= 2 && policies[0].denied >= 4, "{policies:?}");
    // Who comes later is judged by the same rules; who is somebody else is judged anew.
    let late = Space::new();
    shop.node.attach(&late, "late", &[DUAL]).unwrap();
    assert_heard(&[("late", &late, "10.4.0.2:80", Err(()))]);
    label(&shop.node, "late");
    describe(&shop.client(), "late", "late", &[("app", "login")]);
    assert_heard(&[("late", &late, "10.4.0.2:80", Ok("10.4.0.5"))]);
    let is_filtered = || shop.node.space.command("ip -d link show br0").contains("nf_call_iptables 1 ");
    assert!(is_filtered());
    shop.delete("from-login");
    assert_heard(&[("other", &shop.other, "10.4.0.2:81", Ok("10.4.0.4"))]);
    assert!(!is_filtered(), "a bridge is filtered that no policy needs");
}

const V4: &str = r#"{"type":"bridge","bridge":"br0","isGateway":true,
    "ipam":{"type":"host-local","dataDir":"/nonexistent","ranges":[[{"subnet":"10.4.0.0/24"}]]}}"#;

/// `[address%link]:port` of a neighbour by this link.
fn nearby(space: &Space, link: &str, address: &str, port: u16) -> String {
    let index = space.command(&format!("ip -o link show {link}"));
    format!("[{address}%{}]:{port}", index.split(':').next().unwrap())
}

/// Nobody was given it, and each has it: also on a network of IPv4 alone.
#[test]
fn a_link_local_address_is_its_sandbox_to_policies() {
    const WEB: &str = "fe80::6e:aff:fe04:2";
    const LOGIN: &str = "fe80::6e:aff:fe04:3";
    for network in [V4, DUAL] {
        let shop = Shop::new(network);
        shop.login.serve(90);
        shop.apply(FROM_LOGIN);
        let at = |space: &Space, address: &str, port| nearby(space, "eth0", address, port);
        assert_heard(&[
            ("login", &shop.login, &at(&shop.login, WEB, 80), Ok(LOGIN)),
            ("login", &shop.login, &at(&shop.login, WEB, 81), Err(())),
            ("other", &shop.other, &at(&shop.other, WEB, 80), Err(())),
            ("web", &shop.web, &at(&shop.web, LOGIN, 90), Ok(WEB)),
        ]);
        let egress =
            FROM_LOGIN.replace("from-login", "to-nobody").replace("ingress:", "policyTypes: [Egress]\n  egress:");
        shop.apply(&egress.replace("from:", "to:"));
        assert_heard(&[("web", &shop.web, &at(&shop.web, LOGIN, 90), Err(()))]);
        let node = shop.node.space.command("ip -6 -o addr show dev br0 scope link");
        let node = node.split_whitespace().nth(3).unwrap().trim_end_matches("/64").to_owned();
        shop.node.space.serve(23);
        assert_heard(&[("web", &shop.web, &at(&shop.web, &node, 23), Ok(WEB))]);
        shop.apply(NODE);
        assert_heard(&[
            ("web", &shop.web, &at(&shop.web, &node, 23), Err(())),
            ("login", &shop.login, &at(&shop.login, &node, 23), Ok(LOGIN)),
            ("node", &shop.node.space, &nearby(&shop.node.space, "br0", WEB, 81), Err(())),
        ]);
    }
}

/// What another test starts meanwhile has the socket of before until it runs its program.
fn bound(address: &str) -> UdpSocket {
    let begin = Instant::now();
    loop {
        match UdpSocket::bind(address) {
            Err(error) if error.kind() == ErrorKind::AddrInUse && begin.elapsed() < LONG => {
                std::thread::sleep(Duration::from_millis(10));
            }
            bound => return bound.unwrap(),
        }
    }
}

/// Whether each of these spaces hears what is sent to all by broadcast, and to all by multicast.
fn heard_by_all(sender: &Space, spaces: [&Space; 2]) -> [[bool; 2]; 2] {
    let index = sender.command("ip -o link show eth0").split(':').next().unwrap().to_owned();
    ["10.4.0.255:5353".to_owned(), format!("[ff02::1%{index}]:5353")].map(|all| {
        let all: SocketAddr = all.parse().unwrap();
        let ears = spaces.map(|space| {
            space.run(move || {
                let any = if all.is_ipv4() { "0.0.0.0:5353" } else { "[::]:5353" };
                let socket = bound(any);
                socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
                socket
            })
        });
        sender.run(move || {
            let socket = UdpSocket::bind(if all.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }).unwrap();
            socket.set_broadcast(true).unwrap();
            socket.send_to(b"all", all).unwrap();
        });
        ears.map(|socket| socket.recv(&mut [0; 8]).is_ok())
    })
}

/// A bridge is made without the filter.
#[test]
fn a_bridge_that_somebody_deleted_is_filtered_when_it_is_made_again() {
    let shop = Shop::new(DUAL);
    let is_filtered = || {
        let bridge = shop.node.space.command("ip -d link show br0");
        bridge.contains("nf_call_iptables 1 nf_call_ip6tables 1")
    };
    shop.apply(FROM_LOGIN);
    assert!(is_filtered());
    shop.node.space.command("ip link del br0");
    shop.node.resync();
    assert!(is_filtered());
}

/// What goes to all has no address that a rule could ask about.
#[test]
fn who_may_not_hear_everybody_hears_nothing_that_is_sent_to_all() {
    let shop = Shop::new(DUAL);
    let heard = || heard_by_all(&shop.other, [&shop.web, &shop.login]);
    let deaf = [[false, true]; 2];
    // What is sent while a port opens is sent once only.
    let all_hear = |why: &str| {
        let begin = Instant::now();
        while heard() != [[true; 2]; 2] {
            assert!(begin.elapsed() < LONG, "{why}");
        }
    };
    all_hear("no policy");
    shop.apply(FROM_LOGIN);
    assert_eq!(heard(), deaf);
    // An audit denies nothing.
    shop.apply(&FROM_LOGIN.replace("namespace: shop", "namespace: shop, annotations: {netd/audit: \"true\"}"));
    all_hear("an audit");
    shop.apply(FROM_LOGIN);
    assert_eq!(heard(), deaf);
    shop.delete("from-login");
    all_hear("no policy any more");
    shop.apply(
        &NODE.replace("- {action: Deny, from: [{netd/nodes: {}}]}", "- {action: Deny, from: [{namespaces: {}}]}"),
    );
    assert_eq!(heard(), deaf, "everybody of a namespace is denied");
}

/// The bridge meets the rules, and the VLAN's gateway is beyond it: what goes there passes them twice.
#[test]
fn policies_hold_in_a_vlan_and_what_leaves_it_is_translated_once() {
    if !rig::can_filter("policies in a VLAN") {
        return;
    }
    let vlan = DUAL.replace("\"br0\"", "\"br0\",\"vlan\":10");
    let shop = Shop::new(&vlan);
    let outside = shop.node.outside();
    outside.command("ip route add 10.4.0.0/24 via 192.0.2.1");
    outside.serve(7000);
    let front = Space::new();
    shop.node.attach(&front, "front", &[&vlan, &portmap(&tcp(8080, 80))]).unwrap();
    label(&shop.node, "front");
    front.serve(80);
    assert_eq!(shop.apply(FROM_LOGIN), ["from-login"]);
    assert!(shop.node.space.command("ip -d link show br0").contains("nf_call_iptables 1"));
    for (web, login) in [("10.4.0.2", "10.4.0.3"), ("[fd00:4::2]", "fd00:4::3")] {
        let (port, closed) = (format!("{web}:80"), format!("{web}:81"));
        assert_heard(&[
            ("login", &shop.login, &port, Ok(login)),
            ("login", &shop.login, &closed, Err(())),
            ("other", &shop.other, &port, Err(())),
        ]);
    }
    assert_heard(&[
        ("node", &shop.node.space, "10.4.0.2:80", Ok("10.4.0.1")),
        ("outside", &outside, "10.4.0.2:80", Err(())),
        ("web", &shop.web, "192.0.2.9:7000", Ok("192.0.2.1")),
        ("other", &shop.other, "192.0.2.9:7000", Ok("192.0.2.1")),
        ("other", &shop.other, "[2001:db8::9]:7000", Ok("2001:db8::1")),
        ("outside", &outside, "192.0.2.1:8080", Ok("192.0.2.9")),
        ("other", &shop.other, "192.0.2.1:8080", Ok("10.4.0.1")),
        ("itself", &front, "192.0.2.1:8080", Ok("10.4.0.1")),
        ("other", &shop.other, "10.4.0.5:80", Ok("10.4.0.4")),
    ]);
}

#[test]
fn the_matrix_says_who_reaches_whom_and_what_a_change_would_open() {
    let shop = Shop::new(DUAL);
    shop.apply(FROM_LOGIN);
    let ask = |text: &str| {
        let mut request = blocking::ReachRequest::new();
        (request.file, request.text) = ("then.yaml".to_owned(), text.as_bytes().to_vec());
        let answer = shop.client().reach(&request).unwrap();
        assert_eq!(answer.failure, None.into());
        let name = |at: u32| answer.ends[usize::try_from(at).unwrap()].clone();
        let way =
            |pair: &blocking::Reachable| (name(pair.from), name(pair.to), pair.ports.clone(), pair.ports_after.clone());
        answer.pairs.iter().map(way).filter(|way| way.1 == "shop/web").collect::<Vec<_>>()
    };
    let way =
        |from: &str, now: &str, then: &str| (from.to_owned(), "shop/web".to_owned(), now.to_owned(), then.to_owned());
    let now = [
        way("shop/login", "tcp/80", "tcp/80"),
        way("shop/other", "none", "none"),
        way("node", "all", "all"),
        way("outside", "none", "none"),
    ];
    assert_eq!(ask(""), now);
    let then = [
        way("shop/login", "tcp/80", "none"),
        way("shop/other", "none", "tcp/80-90"),
        way("node", "all", "all"),
        way("outside", "none", "none"),
    ];
    let changed = FROM_LOGIN.replace("app: login", "app: other").replace("port: 80", "port: 80, endPort: 90");
    assert_eq!(ask(&changed), then);
}

/// A shop whose web alone is attached, with a port of the node that leads to its own; and somebody outside.
fn published(network: &str, port: u16, own: u16) -> (Shop, Space) {
    let node = Node::new();
    let outside = node.outside();
    let web = Space::new();
    node.attach(&web, "web", &[network, &portmap(&tcp(port, own))]).unwrap();
    label(&node, "web");
    (Shop { node, web, login: Space::new(), other: Space::new() }, outside)
}

#[test]
fn a_sandbox_reaches_itself_and_a_published_port_leads_only_who_is_allowed() {
    let (shop, outside) = published(DUAL, 8080, 80);
    shop.web.serve(80);
    shop.node.attach(&shop.other, "other", &[DUAL]).unwrap();
    shop.apply(FROM_LOGIN);
    assert_heard(&[
        ("itself", &shop.web, "192.0.2.1:8080", Ok("10.4.0.1")),
        ("node", &shop.node.space, "192.0.2.1:8080", Ok("192.0.2.1")),
        ("outside", &outside, "192.0.2.1:8080", Err(())),
        ("outside", &outside, "[2001:db8::1]:8080", Err(())),
        ("other", &shop.other, "192.0.2.1:8080", Err(())),
        ("other", &shop.other, "[2001:db8::1]:8080", Err(())),
    ]);
    for space in [&outside, &shop.other] {
        for address in ["192.0.2.1:8080", "[2001:db8::1]:8080"] {
            assert!(is_refused(space, address), "{address}: refused by silence");
        }
    }
    // netd says of each what became of it.
    let said = |from: &str, to: &str| {
        let answer = shop.test(from, to, 8080);
        let led = answer.ways.iter().all(|way| way.published.ends_with(":8080 is published, leads to shop/web:80"));
        assert!(led && !answer.ways.is_empty(), "{answer:?}");
        answer.ways.iter().map(|way| way.allowed).collect::<Vec<_>>()
    };
    assert_eq!(
        ["web", "node", "192.0.2.9", "2001:db8::9", "other"].map(|from| said(from, "node")),
        [vec![true], vec![true], vec![false], vec![false], vec![false]]
    );
    let outsiders = "podSelector: {matchLabels: {app: login}}";
    shop.apply(&FROM_LOGIN.replace(outsiders, "ipBlock: {cidr: 192.0.2.0/24, except: [192.0.2.64/26]}"));
    assert_heard(&[
        ("outside", &outside, "192.0.2.1:8080", Ok("192.0.2.9")),
        ("outside", &outside, "[2001:db8::1]:8080", Err(())),
    ]);
    assert_eq!((said("192.0.2.9", "192.0.2.1"), said("2001:db8::9", "2001:db8::1")), (vec![true], vec![false]));
    // The rules see the sandbox's own address, though the server sees the node's.
    shop.apply(&FROM_LOGIN.replace(outsiders, "ipBlock: {cidr: 10.4.0.3/32}"));
    assert_heard(&[
        ("other", &shop.other, "192.0.2.1:8080", Ok("10.4.0.1")),
        ("other", &shop.other, "[2001:db8::1]:8080", Err(())),
    ]);
    assert_eq!(said("other", "node"), [true, false], "by IPv4, and by IPv6");
    assert!(!shop.test("other", "node", 8080).allowed, "not by all addresses");
    let ways: Vec<_> = shop.test("other", "web", 80).ways.into_iter().map(|way| (way.families, way.allowed)).collect();
    let each = |families: &[&str], allowed| (families.iter().map(|one| (*one).to_owned()).collect::<Vec<_>>(), allowed);
    assert_eq!(ways, [each(&["IPv4"], true), each(&["IPv6"], false)]);
}

/// netd itself brings IPv6 to a sandbox that has only IPv4; the rules see the node come.
#[test]
fn whoever_comes_by_netds_own_proxy_is_judged_by_his_own_address() {
    let (shop, outside) = published(ROUTED, 8080, 80);
    shop.web.serve(80);
    let asked = |outsider: Result<&'static str, ()>| {
        assert_heard(&[
            ("outside", &outside, "[2001:db8::1]:8080", outsider),
            ("node", &shop.node.space, "[::1]:8080", Ok("10.6.0.1")),
        ]);
    };
    let said = || shop.test("2001:db8::9", "2001:db8::1", 8080).allowed;
    asked(Ok("10.6.0.1"));
    assert!(said(), "no policy is in force, and nobody is counted");
    shop.apply(FROM_LOGIN);
    asked(Err(()));
    assert!(!said());
    let outsiders = "podSelector: {matchLabels: {app: login}}";
    shop.apply(&FROM_LOGIN.replace(outsiders, "ipBlock: {cidr: '2001:db8::/64'}"));
    asked(Ok("10.6.0.1"));
    assert!(said());
}

/// The rules cannot tell whose connection it is; netd can, and ends it.
#[test]
fn whoever_came_by_netds_own_proxy_is_cut_off_when_he_may_not_any_more() {
    let (shop, outside) = published(ROUTED, 8007, 7);
    shop.web.echo(7);
    let reset_in_the_end = |flow: &mut TcpStream| flow.read_exact(&mut [0]).unwrap_err().kind();
    let (mut from_outside, mut from_node) =
        (open(&outside, "[2001:db8::1]:8007"), open(&shop.node.space, "[::1]:8007"));
    let outsiders = "podSelector: {matchLabels: {app: login}}";
    let policy = |block: &str| FROM_LOGIN.replace(outsiders, &format!("ipBlock: {{cidr: '{block}'}}"));
    shop.apply(&policy("2001:db8::/64").replace("port: 80", "port: 7"));
    assert!(echoes(&mut from_outside) && echoes(&mut from_node), "an allowed flow was cut");
    shop.apply(&policy("2001:db8:1::/64").replace("port: 80", "port: 7"));
    assert_eq!(reset_in_the_end(&mut from_outside), ErrorKind::ConnectionReset);
    assert!(echoes(&mut from_node), "no NetworkPolicy stands between a sandbox and its node");
    shop.apply(&NODE.replace("number: 80", "number: 7"));
    assert!(echoes(&mut from_node), "an allowed flow was cut");
    shop.apply(NODE);
    assert!(!echoes(&mut from_node), "a flow of the node goes on that is not allowed any more");
    assert_heard(&[("node", &shop.node.space, "[::1]:8007", Err(()))]);
}

/// Nobody in the shop reaches its node, but for the port 22; the node reaches the web server at port 80 only.
const NODE: &str = "apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: node}
spec:
  tier: Admin
  priority: 10
  subject: {pods: {namespaceSelector: {}, podSelector: {matchLabels: {app: web}}}}
  egress:
  - {action: Accept, to: [{nodes: {}}], protocols: [{tcp: {destinationPort: {number: 22}}}]}
  - {action: Deny, to: [{nodes: {}}]}
  ingress:
  - {action: Accept, from: [{netd/nodes: {}}], protocols: [{tcp: {destinationPort: {number: 80}}}]}
  - {action: Deny, from: [{netd/nodes: {}}]}
";

#[test]
fn a_rule_that_names_nodes_stands_between_a_sandbox_and_its_node() {
    let shop = Shop::new(DUAL);
    shop.apply(NODE);
    shop.node.space.serve(22);
    shop.node.space.serve(23);
    assert_heard(&[
        ("web", &shop.web, "10.4.0.1:22", Ok("10.4.0.2")),
        ("web", &shop.web, "10.4.0.1:23", Err(())),
        ("web", &shop.web, "[fd00:4::1]:23", Err(())),
        ("login", &shop.login, "10.4.0.1:23", Ok("10.4.0.3")),
        ("node", &shop.node.space, "10.4.0.2:80", Ok("10.4.0.1")),
        ("node", &shop.node.space, "10.4.0.2:81", Err(())),
        ("node", &shop.node.space, "[fd00:4::2]:81", Err(())),
        ("login", &shop.login, "10.4.0.2:81", Ok("10.4.0.3")),
    ]);
}

#[test]
fn routed_sandboxes_obey_too_and_policies_outlive_netd() {
    let mut shop = Shop::on(Node::of_the_program(), ROUTED);
    shop.apply(FROM_LOGIN);
    let expected = |shop: &Shop| {
        assert_heard(&[
            ("login", &shop.login, "10.6.0.2:80", Ok("10.6.0.3")),
            ("other", &shop.other, "10.6.0.2:80", Err(())),
            ("node", &shop.node.space, "10.6.0.2:80", Ok("10.6.0.1")),
        ]);
    };
    expected(&shop);
    shop.node.stop();
    shop.node.start();
    expected(&shop);
}

/// What stands by numbers of its own, and what has come instead while no netd was there.
#[test]
fn a_netd_that_starts_again_changes_what_is_other_and_nothing_else() {
    let mut shop = Shop::on(Node::of_the_program(), DUAL);
    shop.web.echo(7);
    let heard = shop.web.listen_udp(5_000);
    // Without a policy it arrives.
    shop.other.run(|| UdpSocket::bind("0.0.0.0:0").unwrap().send_to(b"?", "10.4.0.2:5000").unwrap());
    assert_eq!(heard.recv_timeout(LONG).as_deref(), Ok("10.4.0.4"));
    let to_echo = FROM_LOGIN.replace("port: 80", "port: 7");
    for _ in 0..3 {
        shop.apply(&to_echo);
        shop.delete("from-login");
    }
    shop.apply(&to_echo);
    let rules = |shop: &Shop| shop.node.space.command("nft -s list table inet netd");
    let (before, mut flow) = (rules(&shop), open(&shop.login, "10.4.0.2:7"));
    let over = Arc::new(AtomicBool::new(false));
    knock(&shop.other, "10.4.0.2:5000", &over);
    shop.node.die_again_and_again();
    assert_eq!(rules(&shop), before);
    assert!(echoes(&mut flow), "a flow that is allowed before and after was cut");
    shop.node.stop();
    let file = shop.node.policies().join("networkpolicy_shop_from-login.yaml");
    std::fs::write(file, FROM_LOGIN.replace("port: 80", "port: 7, endPort: 80")).unwrap();
    shop.node.start();
    assert_heard(&[
        ("login", &shop.login, "10.4.0.2:80", Ok("10.4.0.3")),
        ("login", &shop.login, "10.4.0.2:81", Err(())),
        ("other", &shop.other, "10.4.0.2:80", Err(())),
    ]);
    assert!(echoes(&mut flow), "a flow that is allowed before and after was cut");
    over.store(true, Ordering::Relaxed);
    assert_eq!(heard.try_recv(), Err(TryRecvError::Empty), "what is denied passed while netd started");
}

/// Sends where nobody lets it, on and on.
fn knock(from: &Space, address: &'static str, over: &Arc<AtomicBool>) {
    let over = Arc::clone(over);
    from.run(move || {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        std::thread::spawn(move || {
            while !over.load(Ordering::Relaxed) {
                // Refused, as a rule.
                drop(socket.send_to(b"?", address));
                std::thread::sleep(Duration::from_micros(200));
            }
        });
    });
}

#[test]
fn a_flow_that_is_not_allowed_any_more_is_cut_and_one_that_is_goes_on() {
    let shop = Shop::new(DUAL);
    shop.web.echo(7);
    // It is there before: the bridge's flows are followed from then on.
    shop.apply(&FROM_LOGIN.replace("web", "nobody"));
    shop.apply(
        &FROM_LOGIN
            .replace("from-login", "all")
            .replace("from:\n    - podSelector: {matchLabels: {app: login}}\n    ports: [{port: 80}]", "{}"),
    );
    let (mut kept, mut lost) = (open(&shop.login, "10.4.0.2:7"), open(&shop.other, "10.4.0.2:7"));
    shop.apply(&FROM_LOGIN.replace("port: 80", "port: 7"));
    shop.delete("all");
    assert!(echoes(&mut kept), "an allowed flow was cut");
    assert!(!echoes(&mut lost), "a flow goes on that is not allowed any more");
}

/// Who has another name from now on is gone and new to policies, and still has the flows that he had.
#[test]
fn the_flows_of_one_who_is_described_as_somebody_else_are_cut() {
    let shop = Shop::new(DUAL);
    shop.web.echo(7);
    shop.apply(&FROM_LOGIN.replace("port: 80", "port: 7"));
    let mut flow = open(&shop.login, "10.4.0.2:7");
    label_as(&shop.node, "login", "guest");
    let begin = Instant::now();
    while echoes(&mut flow) {
        assert!(begin.elapsed() < LONG, "a flow goes on that is not allowed any more");
    }
}
