//! What the official plugins do with a stanza, netd does: their arguments, their results, what they refuse and check. Needs root.
#![expect(clippy::unwrap_used, clippy::unwrap_in_result, reason = "helpers of tests stand outside of them")]

mod rig;

use std::os::fd::AsFd;

use netd_api::{Client, Tag, blocking};
use rig::{Node, Space};

const PLAIN: &str = r#"{"type":"bridge","bridge":"br0","isGateway":true,
    "ipam":{"type":"host-local","dataDir":"/nonexistent","ranges":[[{"subnet":"10.4.0.0/24"}]]}}"#;

#[test]
fn a_sysctl_that_the_nodes_list_does_not_have_is_not_set() {
    let node = Node::new();
    let web = Space::new();
    let list = node.folder.path().join("allowlist.conf");
    std::fs::write(&list, "^net.core.somaxconn$\n").unwrap();
    let tuning = |name: &str| format!(r#"{{"type":"tuning","sysctl":{{"{name}":"300"}}}}"#);
    node.attach(&web, "web", &[PLAIN, &tuning("net.core.somaxconn")]).unwrap();
    assert_eq!(web.command("cat /proc/sys/net/core/somaxconn").trim(), "300");
    let denied = node.attach(&web, "web", &[PLAIN, &tuning("net.ipv4.tcp_max_syn_backlog")]).unwrap_err();
    let expected = "cannot tune web/eth0 on network web: sysctl net.ipv4.tcp_max_syn_backlog is not allowed";
    assert!(denied.starts_with(expected), "{denied}");
    assert_ne!(web.command("cat /proc/sys/net/ipv4/tcp_max_syn_backlog").trim(), "300");
    std::fs::remove_file(list).unwrap();
    node.attach(&web, "web", &[PLAIN, &tuning("net.ipv4.tcp_max_syn_backlog")]).unwrap();
}

#[test]
fn a_gateway_bridge_has_the_first_address_where_static_ipam_names_none() {
    let node = Node::new();
    let web = Space::new();
    let stanza = r#"{"cniVersion":"1.0.0","name":"web","type":"bridge","bridge":"br0","isGateway":true,"ipam":{"type":"static",
        "addresses":[{"address":"10.4.0.5/24"},{"address":"fd00:4::5/64"}],"routes":[{"dst":"0.0.0.0/0"}],
        "dns":{"nameservers":["192.0.2.53"]}}}"#;
    let result = node.attach(&web, "web", &[stanza]).unwrap();
    let gateways = [0, 1].map(|at| result["ips"][at]["gateway"].as_str().unwrap_or_default().to_owned());
    assert_eq!(gateways, ["10.4.0.1", "fd00:4::1"]);
    assert_eq!(result["dns"]["nameservers"][0], "192.0.2.53");
    let carried = node.space.command("ip -o addr show dev br0");
    assert!(carried.contains("10.4.0.1/24") && carried.contains("fd00:4::1/64"), "{carried}");
    assert!(web.command("ip route").contains("default via 10.4.0.1 dev eth0"));
    let other = Space::new();
    let mut call = rig::call(stanza, "other", "/run/netns/other");
    call.cni_args = "IP=10.4.0.6/24;GATEWAY=10.4.0.9".to_owned();
    let config = stanza
        .replace(r#"{"address":"10.4.0.5/24"},{"address":"fd00:4::5/64"}"#, "")
        .replace(r#""isGateway":true,"#, "");
    call.config = config.into_bytes();
    let result = node.call(&other, call).unwrap();
    assert_eq!(
        (&result["ips"][0]["address"], &result["ips"][0]["gateway"]),
        (&"10.4.0.6/24".into(), &"10.4.0.9".into())
    );
}

/// As flannel writes its files.
#[test]
fn the_result_tells_the_default_routes_of_a_default_gateway() {
    let node = Node::new();
    let web = Space::new();
    let stanza = r#"{"name":"cbr0","type":"bridge","hairpinMode":true,"isDefaultGateway":true,"ipMasq":false,"isGateway":true,
        "ipam":{"type":"host-local","dataDir":"/nonexistent","ranges":[[{"subnet":"10.244.1.0/24"}]],
        "routes":[{"dst":"10.244.0.0/16"}]}}"#;
    let result = node.attach(&web, "web", &[stanza]).unwrap();
    let routes = serde_json::json!([{"dst":"10.244.0.0/16"},{"dst":"0.0.0.0/0","gw":"10.244.1.1"}]);
    assert_eq!(result["routes"], routes);
}

#[test]
fn the_result_tells_the_name_servers_of_host_locals_file_and_what_routes_say() {
    let node = Node::new();
    let web = Space::new();
    let file = node.folder.path().join("resolv.conf");
    std::fs::write(&file, "nameserver 192.0.2.53\nsearch web.example\n").unwrap();
    let stanza = PLAIN.replace(
        r#""type":"host-local""#,
        &format!(
            r#""type":"host-local","resolvConf":"{}","routes":[{{"dst":"0.0.0.0/0","mtu":1400}}]"#,
            file.display()
        ),
    );
    let result = node.attach(&web, "web", &[&stanza, &rig::portmap("")]).unwrap();
    assert_eq!(result["dns"], serde_json::json!({"nameservers":["192.0.2.53"],"search":["web.example"]}));
    assert_eq!(result["routes"], serde_json::json!([{"dst":"0.0.0.0/0","mtu":1400}]));
    std::fs::remove_file(&file).unwrap();
    let error = node.attach(&Space::new(), "other", &[&stanza]).unwrap_err();
    assert!(error.contains("(resolvConf)") && node.status().leases == 1, "{error}");
}

/// GC of network `web`, with this after its name; who is attached afterwards, and what went wrong.
fn collect(node: &Node, more: &str) -> (Vec<String>, Option<(i32, String)>) {
    let client = || Client::connect(&node.socket(), &[]).unwrap();
    let mut request = blocking::GcRequest::new();
    request.config =
        format!(r#"{{"cniVersion":"1.1.0","name":"web","type":"portmap","snat":false{more}}}"#).into_bytes();
    let answer = client().gc(&request).unwrap();
    let failure = answer.failure.into_option().map(|failure| (failure.code.value(), failure.message));
    let left = client().list(&blocking::ListRequest::new()).unwrap().attachments;
    let left = left.iter().filter(|one| one.state != "draining");
    (left.map(|one| format!("{}/{}", one.network, one.container_id)).collect(), failure)
}

#[test]
fn a_collection_takes_what_is_not_valid_and_leaves_what_is() {
    let node = Node::new();
    let other =
        PLAIN.replace("br0", "br1").replace("10.4.", "10.5.").replacen(r#"{"type""#, r#"{"name":"other","type""#, 1);
    let spaces: Vec<Space> = (0..3).map(|_| Space::new()).collect();
    for (space, container, stanza) in [(&spaces[0], "a", PLAIN), (&spaces[1], "b", PLAIN), (&spaces[2], "c", &other)] {
        node.attach(space, container, &[stanza]).unwrap();
    }
    let all = ["other/c", "web/a", "web/b"];
    // Nobody says who lives: nobody goes.
    let (left, failure) = collect(&node, "");
    let (code, message) = failure.unwrap();
    assert!(code == 7 && message.contains("cni.dev/valid-attachments: missing"), "{code} {message}");
    assert_eq!(left, all);
    let (left, failure) = collect(&node, r#","cni.dev/valid-attachments":[{"containerID":"a"}]"#);
    assert!(failure.is_some_and(|(code, _)| code == 7));
    assert_eq!(left, all);
    let listed =
        r#","cni.dev/valid-attachments":[{"containerID":"a","ifname":"eth0"},{"containerID":"b","ifname":"eth1"}]"#;
    assert_eq!(collect(&node, listed), (vec!["other/c".to_owned(), "web/a".to_owned()], None));
    node.until(|node| node.status().leases == 2);
    assert!(spaces[0].command("ip addr show dev eth0").contains("10.4.0.2/24"));
    assert_eq!(collect(&node, r#","cni.dev/attachments":[]"#), (vec!["other/c".to_owned()], None));
}

/// What a runtime sends when it takes away a container whose file was edited since, or that it never understood.
#[test]
fn a_detach_needs_a_name_and_a_type_only() {
    let node = Node::new();
    let stanzas = [
        r#"{"cniVersion":"9.0.0","name":"web","type":"bridge","bridge":"no such/bridge","ipam":{"type":"dhcp"}}"#,
        r#"{"cniVersion":"1.0.0","name":"web","type":"bridge","runtimeConfig":{"portMappings":[{"hostPort":0}]},"prevResult":"odd"}"#,
        r#"{"cniVersion":"1.0.0","name":"web","type":"ptp"}"#,
    ];
    for stanza in stanzas {
        let space = Space::new();
        node.attach(&space, "web", &[PLAIN]).unwrap();
        let mut request = blocking::DetachRequest::new();
        let mut call = rig::call(stanza, "web", "");
        call.cni_args = "K8S_POD=x;nonsense".to_owned();
        request.call = Some(call).into();
        let response = Client::connect(&node.socket(), &[]).unwrap().detach(&request).unwrap();
        assert!(response.failure.is_none() && node.status().attachments == 0, "{stanza}: {response:?}");
    }
}

/// CHECK of one stanza after an attach that answered `result`; what it says, where something is wrong.
fn check(node: &Node, space: &Space, stanza: &str, result: Option<&serde_json::Value>) -> Result<(), String> {
    let mut config: serde_json::Value = serde_json::from_str(stanza).unwrap();
    (config["cniVersion"], config["name"]) = ("1.0.0".into(), "web".into());
    if let Some(result) = result {
        config["prevResult"] = result.clone();
    }
    let mut request = blocking::CheckRequest::new();
    request.call = Some(rig::call(&config.to_string(), "web", "/run/netns/web")).into();
    let client = Client::connect(&node.socket(), &[(Tag::SandboxNetns, space.fd.as_fd())]).unwrap();
    client.check(&request).unwrap().failure.into_option().map_or(Ok(()), |failure| Err(failure.message))
}

const WHOLE: &str = r#"{"type":"bridge","bridge":"br0","isDefaultGateway":true,"ipMasq":true,
    "ipam":{"type":"host-local","dataDir":"/nonexistent","ranges":[[{"subnet":"10.4.0.0/24"}],[{"subnet":"fd00:4::/64"}]]}}"#;
const ROUTED: &str = r#"{"type":"ptp","ipMasq":true,
    "ipam":{"type":"host-local","dataDir":"/nonexistent","ranges":[[{"subnet":"10.6.0.0/24"}]],"routes":[{"dst":"0.0.0.0/0"}]}}"#;
const TUNING: &str = r#"{"type":"tuning","mtu":1300,"promisc":true,"txQLen":500,"allmulti":true,
    "sysctl":{"net.core.somaxconn":"512","net.ipv4.conf.IFNAME.arp_ignore":"1","net.ipv4.ip_local_port_range":"20000 30000"}}"#;
const FENCED: &str = r#"{"type":"firewall","ingressPolicy":"same-bridge"}"#;

/// Attaches by `main` and three followers, does a harm on the node or in the sandbox, and looks who tells it.
fn told(main: &str, (place, harm): (&str, &str)) -> Vec<(&'static str, String)> {
    let (node, web) = (Node::new(), Space::new());
    let ports = rig::portmap(&rig::tcp(8080, 80));
    let result = node.attach(&web, "web", &[main, &ports, FENCED, TUNING]).unwrap();
    let stanzas = [("main", main), ("portmap", &ports), ("firewall", FENCED), ("tuning", TUNING)];
    for (name, stanza) in stanzas {
        assert_eq!(check(&node, &web, stanza, Some(&result)), Ok(()), "{name} before {harm}");
        let missing = check(&node, &web, stanza, None).unwrap_err();
        assert!(missing.starts_with("Required prevResult missing"), "{name}: {missing}");
    }
    let place = if place == "node" { &node.space } else { &web };
    place.command(harm);
    let one = |(name, stanza)| Some((name, check(&node, &web, stanza, Some(&result)).err()?));
    stanzas.into_iter().filter_map(one).collect()
}

/// Which stanzas tell a harm, and that they name it.
fn assert_told(main: &str, harm: (&str, &str), expected: &[&str], words: &str) {
    let found = told(main, harm);
    let names: Vec<&str> = found.iter().map(|(name, _)| *name).collect();
    assert!(names == expected && found.iter().all(|(_, text)| text.contains(words)), "{harm:?}: {found:?}");
}

#[test]
fn a_check_tells_a_default_route_that_is_gone() {
    assert_told(WHOLE, ("web", "ip route del default"), &["main"], "eth0 lacks route to 0.0.0.0/0 by 10.4.0.1");
    assert_told(WHOLE, ("web", "ip -6 route del default"), &["main"], "eth0 lacks route to ::/0 by fd00:4::1");
    assert_told(ROUTED, ("web", "ip route del default"), &["main"], "eth0 lacks route to 0.0.0.0/0 by 10.6.0.1");
}

#[test]
fn a_check_tells_addresses_that_are_gone_and_bears_more() {
    assert_told(WHOLE, ("web", "ip addr del 10.4.0.2/24 dev eth0"), &["main"], "eth0 lacks address 10.4.0.2/24");
    let (node, web) = (Node::new(), Space::new());
    let result = node.attach(&web, "web", &[WHOLE]).unwrap();
    web.command("ip addr add 10.4.0.77/24 dev eth0");
    check(&node, &web, WHOLE, Some(&result)).unwrap();
}

#[test]
fn a_check_tells_a_way_that_is_gone() {
    assert_told(ROUTED, ("node", "ip route del 10.6.0.2"), &["main"], "the node lacks the route to 10.6.0.2 by nd");
}

#[test]
fn a_check_tells_what_is_tuned_otherwise() {
    let sysctl = ("web", "sysctl -qw net.core.somaxconn=77");
    assert_told(WHOLE, sysctl, &["main", "tuning"], "sysctl net.core.somaxconn 512: it is 77");
    assert_told(WHOLE, ("web", "ip link set eth0 promisc off"), &["main", "tuning"], "eth0 lacks promiscuous mode");
    assert_told(WHOLE, ("web", "ip link set eth0 txqueuelen 9"), &["main", "tuning"], "queue of 500 packets: it has 9");
    let multicast = ("web", "ip link set eth0 allmulticast off");
    assert_told(WHOLE, multicast, &["main", "tuning"], "eth0 lacks reception of all multicast");
}

#[test]
fn a_check_tells_what_is_not_attached() {
    let (node, web) = (Node::new(), Space::new());
    let result = node.attach(&web, "web", &[WHOLE]).unwrap();
    node.detach("web", WHOLE);
    let told = check(&node, &web, WHOLE, Some(&result)).unwrap_err();
    assert!(told.contains("is not attached to this sandbox"), "{told}");
}

#[test]
fn a_host_address_of_zeros_is_all_addresses_and_whose_it_is_is_told() {
    let node = Node::new();
    let outside = node.outside();
    let (web, old, new) = (Space::new(), Space::new(), Space::new());
    let at = |host: u16, address: &str| {
        format!(r#"{{"hostPort":{host},"containerPort":80,"protocol":"tcp","hostIP":"{address}"}}"#)
    };
    let twice = [at(8080, "0.0.0.0"), at(8080, "::"), at(8080, "0.0.0.0"), at(8080, "127.0.0.1")].join(",");
    node.attach(&web, "web", &[WHOLE, &rig::portmap(&twice)]).unwrap();
    node.attach(&old, "old", &[WHOLE, &rig::portmap(&at(9090, "0.0.0.0"))]).unwrap();
    for space in [&web, &old] {
        space.serve(80);
    }
    rig::assert_heard(&[
        ("outside", &outside, "192.0.2.1:8080", Ok("192.0.2.9")),
        ("outside", &outside, "[2001:db8::1]:8080", Ok("2001:db8::9")),
        ("outside", &outside, "192.0.2.1:9090", Ok("192.0.2.9")),
        ("outside", &outside, "[2001:db8::1]:9090", Ok("2001:db8::9")),
    ]);
    for address in ["192.0.2.1", "::"] {
        let error = node.attach(&new, "new", &[WHOLE, &rig::portmap(&at(9090, address))]).unwrap_err();
        assert!(error.contains("it leads to old/eth0 on network web"), "{error}");
    }
    node.attach(&new, "new", &[WHOLE, &rig::portmap(&at(7070, "::"))]).unwrap();
    new.serve(80);
    rig::assert_heard(&[
        ("outside", &outside, "[2001:db8::1]:7070", Ok("2001:db8::9")),
        ("outside", &outside, "192.0.2.1:7070", Err(())),
    ]);
}

/// As after the move from the official plugins: their reservations are still there.
#[test]
fn a_container_gets_the_address_that_host_local_reserves_for_itself_and_not_anothers() {
    let node = Node::new();
    let folder = node.folder.path().join("networks/web");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("10.1.0.9"), "web\r\neth0").unwrap();
    std::fs::write(folder.join("10.1.0.8"), "other\r\neth0").unwrap();
    let data_dir = node.folder.path().join("networks");
    let stanza = |address: &str| {
        format!(
            r#"{{"type":"bridge","bridge":"br0","ipam":{{"type":"host-local","dataDir":{data_dir:?},
                "ranges":[[{{"subnet":"10.1.0.0/24"}}]]}},"runtimeConfig":{{"ips":["{address}"]}}}}"#
        )
    };
    let web = Space::new();
    let refused = node.attach(&web, "web", &[&stanza("10.1.0.8")]).unwrap_err();
    let file = folder.join("10.1.0.8").display().to_string();
    assert!(refused.contains(&file) && refused.contains("of container \"other\""), "{refused}");
    let result = node.attach(&web, "web", &[&stanza("10.1.0.9")]).unwrap();
    assert_eq!(result["ips"][0]["address"], "10.1.0.9/24");
    // Nobody handed its data directory over: nothing is taken away there.
    node.detach("web", &stanza("10.1.0.9"));
    assert!(folder.join("10.1.0.9").exists());
    let handed = std::fs::File::open(&data_dir).unwrap();
    let client = Client::connect(&node.socket(), &[(Tag::IpamDirectory, handed.as_fd())]).unwrap();
    let mut request = blocking::DetachRequest::new();
    let config = stanza("10.1.0.9").replacen('{', r#"{"cniVersion":"1.0.0","name":"web","#, 1);
    request.call = Some(rig::call(&config, "web", "")).into();
    assert!(client.detach(&request).unwrap().failure.is_none());
    assert!(!folder.join("10.1.0.9").exists() && folder.join("10.1.0.8").exists());
}
