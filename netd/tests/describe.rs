//! What a door says of a sandbox, on the real kernel: kept, made whole, attached further, and gone with the container.
//! Needs root.

#![expect(clippy::unwrap_used, reason = "helpers of tests stand outside of them")]

mod rig;

use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use netd_api::{Client, Tag, blocking, v1};
use rig::{Node, Space};

const WEB: &str = r#"{"type":"bridge","bridge":"br0","isGateway":true,"ipMasq":true,
    "ipam":{"type":"host-local","dataDir":"/nonexistent","ranges":[[{"subnet":"10.4.0.0/24"}]],
    "routes":[{"dst":"0.0.0.0/0"}]}}"#;
const STORAGE: &str = r#"{"cniVersion":"1.0.0","name":"storage","plugins":[{"type":"bridge","bridge":"br1",
    "ipam":{"type":"host-local","dataDir":"/nonexistent","ranges":[[{"subnet":"10.9.0.0/24"}]]}},
    {"type":"tuning","mtu":1400}]}"#;
const PORT: &str = r#"{"type":"portmap","capabilities":{"portMappings":true},
    "runtimeConfig":{"portMappings":[{"HostPort":8080,"ContainerPort":80,"Protocol":"tcp"}]}}"#;

fn pod(container: &str, networks: &str) -> blocking::DescribeRequest {
    let mut request = blocking::DescribeRequest::new();
    request.container_id = container.to_owned();
    request.name = "web".to_owned();
    request.namespace = "shop".to_owned();
    request.labels.insert("app".to_owned(), "web".to_owned());
    request.annotations.insert("netd.io/networks".to_owned(), networks.to_owned());
    request.source = "nri".to_owned();
    request
}

fn describe(node: &Node, space: Option<&Space>, request: &blocking::DescribeRequest) -> blocking::DescribeResponse {
    let descriptors: Vec<_> = space.iter().map(|space| (Tag::SandboxNetns, space.fd.as_fd())).collect();
    Client::connect(&node.socket(), &descriptors).unwrap().describe(request).unwrap()
}

fn listed(node: &Node) -> Vec<v1::Attachment> {
    let list = Client::connect(&node.socket(), &[]).unwrap().list(&blocking::ListRequest::new()).unwrap();
    list.attachments.into_iter().filter(|one| one.state == "attached").collect()
}

/// A node with the network `storage` in its directory.
fn node() -> Node {
    let node = Node::new();
    std::fs::create_dir(node.conf_dir()).unwrap();
    std::fs::write(node.conf_dir().join("storage.conflist"), STORAGE).unwrap();
    let begin = Instant::now();
    while node.status().networks == 0 {
        assert!(begin.elapsed() < Duration::from_secs(30), "the network is not read");
        std::thread::sleep(Duration::from_millis(10));
    }
    node
}

#[test]
fn a_description_is_kept_and_a_container_without_an_attachment_is_left_alone() {
    let node = node();
    let (ours, foreign) = (Space::new(), Space::new());
    node.attach(&ours, "a", &[WEB]).unwrap();
    let said = describe(&node, Some(&ours), &pod("a", ""));
    assert_eq!((said.attachments, said.repaired, said.networks.len(), said.failure.is_none()), (1, 0, 0, true));
    let one = listed(&node).remove(0);
    assert_eq!((one.name.as_str(), one.namespace.as_str(), one.labels["app"].as_str()), ("web", "shop", "web"));
    let said = describe(&node, Some(&foreign), &pod("b", "storage"));
    assert_eq!((said.attachments, said.networks.len(), said.failure.is_none()), (0, 0, true));
    assert_eq!(foreign.command("ip -o link show type veth"), "");
    // Of another sandbox under the same name nothing is touched either.
    let said = describe(&node, Some(&foreign), &pod("a", "storage"));
    assert_eq!((said.repaired, said.networks.len()), (0, 0));
    assert_eq!(foreign.command("ip -o link show type veth"), "");
}

#[test]
fn what_is_damaged_is_made_whole_with_its_address_mac_and_port() {
    let node = node();
    let space = Space::new();
    let before = node.attach(&space, "a", &[WEB, PORT]).unwrap();
    space.serve(80);
    node.space.command("ip link set lo up");
    let works =
        |what: &str| assert_eq!(node.space.hears_in_the_end("127.0.0.1:8080").as_deref(), Ok("10.4.0.1"), "{what}");
    works("as attached");
    let damages: [(&str, &dyn Fn()); 5] = [
        ("address", &|| drop(space.command("ip addr flush dev eth0"))),
        ("sandbox end", &|| drop(space.command("ip link del eth0"))),
        ("name", &|| {
            drop(space.command("ip link set eth0 down"));
            drop(space.command("ip link set eth0 name other"));
        }),
        ("port", &|| drop(node.space.command(&format!("ip link set {} nomaster", listed(&node)[0].host_interface)))),
        ("bridge", &|| drop(node.space.command("ip link del br0"))),
    ];
    for (what, damage) in damages {
        damage();
        if what == "bridge" {
            // A resync makes the bridge again; who was on it is no port of it.
            Client::connect(&node.socket(), &[]).unwrap().resync(&blocking::ResyncRequest::new()).unwrap();
        }
        let said = describe(&node, Some(&space), &pod("a", ""));
        assert_eq!((said.attachments, said.repaired), (1, 1), "{what}: {said:?}");
        works(what);
        assert_eq!(describe(&node, Some(&space), &pod("a", "")).repaired, 0, "{what}");
    }
    let shown = space.command("ip -o link show eth0");
    assert!(shown.contains(before["interfaces"][2]["mac"].as_str().unwrap()), "{shown}");
    assert_eq!(node.status().leases, 1);
}

#[test]
fn what_the_sandbox_has_changed_itself_is_no_damage() {
    let node = node();
    let space = Space::new();
    node.attach(&space, "a", &[WEB]).unwrap();
    for change in ["ip addr add 10.4.0.77/32 dev eth0", "ip link set eth0 mtu 1300"] {
        space.command(change);
        assert_eq!(describe(&node, Some(&space), &pod("a", "")).repaired, 0, "{change}");
    }
}

#[test]
fn rules_are_said_again_and_not_doubled() {
    let node = node();
    let space = Space::new();
    node.attach(&space, "a", &[WEB, PORT]).unwrap();
    let rules = || node.space.command("nft list ruleset").matches("10.4.0.2").count();
    let before = rules();
    assert!(before > 0);
    assert_eq!(describe(&node, Some(&space), &pod("a", "")).repaired, 0);
    assert_eq!(rules(), before);
}

#[test]
fn extra_networks_come_by_annotation_and_go_with_the_container() {
    let node = node();
    let (space, other) = (Space::new(), Space::new());
    node.attach(&space, "a", &[WEB]).unwrap();
    node.attach(&other, "b", &[WEB]).unwrap();
    for _ in 0..2 {
        let said = describe(&node, Some(&space), &pod("a", " storage , storage"));
        assert!(said.failure.is_none(), "{said:?}");
        assert_eq!((said.attachments, said.repaired, said.networks.join(" ")), (3, 0, "storage storage".to_owned()));
    }
    let inside = space.command("ip -o -4 addr");
    assert!(inside.contains("net1    inet 10.9.0.2/24") && inside.contains("net2    inet 10.9.0.3/24"), "{inside}");
    assert!(space.command("ip -o link show net1").contains("mtu 1400"), "the whole chain runs");
    assert!(listed(&node).iter().filter(|one| one.container_id == "a").all(|one| one.labels["app"] == "web"));
    // Nobody's list has extra networks in it.
    let mut gc = blocking::GcRequest::new();
    gc.network = "storage".to_owned();
    assert_eq!(Client::connect(&node.socket(), &[]).unwrap().gc(&gc).unwrap().removed, 0);
    node.detach("a", WEB);
    let left: Vec<String> = listed(&node).into_iter().map(|one| one.container_id).collect();
    assert_eq!(left, ["b"]);
}

#[test]
fn an_unknown_extra_network_is_named_with_its_remedy() {
    let node = node();
    let space = Space::new();
    node.attach(&space, "a", &[WEB]).unwrap();
    let said = describe(&node, Some(&space), &pod("a", "storage,stroage"));
    let told = "cannot attach a to network \"stroage\", which its annotation netd.io/networks names: ";
    assert!(said.failure.message.starts_with(told), "{said:?}");
    let told_of = |node: &Node| {
        let warnings = node.status().warnings;
        let unmet: Vec<_> = listed(node).into_iter().filter(|one| !one.unmet.is_empty()).collect();
        (
            warnings.iter().any(|warning| warning.starts_with(told)),
            unmet.len(),
            unmet.iter().all(|one| one.unmet.starts_with(told)),
        )
    };
    assert_eq!(told_of(&node), (true, 1, true), "its first attachment alone tells of it");
    assert!(describe(&node, Some(&space), &pod("a", "storage")).failure.is_none());
    assert_eq!(told_of(&node), (false, 0, true));
    describe(&node, Some(&space), &pod("a", "storage,stroage"));
    node.detach("a", WEB);
    assert_eq!(told_of(&node), (false, 0, true), "it is gone");
    assert!(listed(&node).is_empty(), "what was attached before it goes too");
}

#[test]
fn an_extra_network_that_a_crash_left_behind_goes_at_the_next_resync() {
    let mut node = node();
    let space = Space::new();
    node.attach(&space, "a", &[WEB]).unwrap();
    describe(&node, Some(&space), &pod("a", "storage"));
    // The record says nothing of eth0 any more, as after a crash between the two detaches.
    node.stop();
    let journal = node.folder.path().join("journal");
    let (mut open, records) = netd::journal::Journal::open(&journal, "boot").unwrap();
    let record = netd::node::Node::replay("nd", records);
    let main = record.attachments().find(|one| !one.extra).unwrap().clone();
    open.append(&netd::journal::Record::Drain(Box::new(main))).unwrap();
    drop(open);
    node.start();
    assert!(listed(&node).is_empty());
    // The links go behind the start.
    node.until(|node| node.status().leases == 0);
}

#[test]
fn a_link_that_somebody_took_from_a_living_sandbox_comes_back_by_a_resync() {
    let node = node();
    let (lives, unseen) = (Space::new(), Space::new());
    let web = WEB.replacen('{', r#"{"cniVersion":"1.0.0","name":"web","#, 1);
    let path = format!("/proc/{}/fd/{}", std::process::id(), lives.fd.as_raw_fd());
    node.call(&lives, rig::call(&web, "lives", &path)).unwrap();
    // A path that netd cannot see: what is there is taken for dead, as its link is.
    node.call(&unseen, rig::call(&web, "unseen", "/nonexistent")).unwrap();
    for space in [&lives, &unseen] {
        space.command("ip link del eth0");
    }
    Client::connect(&node.socket(), &[]).unwrap().resync(&blocking::ResyncRequest::new()).unwrap();
    let left: Vec<String> = listed(&node).into_iter().map(|one| one.container_id).collect();
    assert_eq!(left, ["lives"]);
    let inside = lives.command("ip -o -4 addr show eth0");
    assert!(inside.contains("10.4.0.2/24"), "{inside}");
}

#[test]
fn a_bridge_that_somebody_deleted_comes_back_with_its_ports_by_a_resync() {
    let node = node();
    let spaces = [Space::new(), Space::new()];
    let web = WEB.replacen('{', r#"{"cniVersion":"1.0.0","name":"web","#, 1);
    for (space, name) in spaces.iter().zip(["a", "b"]) {
        let path = format!("/proc/{}/fd/{}", std::process::id(), space.fd.as_raw_fd());
        node.call(space, rig::call(&web, name, &path)).unwrap();
    }
    spaces[1].serve(80);
    assert_eq!(spaces[0].hears_in_the_end("10.4.0.3:80").as_deref(), Ok("10.4.0.2"));
    node.space.command("ip link del br0");
    assert!(spaces[0].hears("10.4.0.3:80").is_err());
    let resync = || Client::connect(&node.socket(), &[]).unwrap().resync(&blocking::ResyncRequest::new()).unwrap();
    let steps = resync().steps;
    assert!(steps.iter().any(|step| step.contains("is no port of its bridge")), "{steps:?}");
    assert_eq!(spaces[0].hears_in_the_end("10.4.0.3:80").as_deref(), Ok("10.4.0.2"));
    // The links that were made anew leave their old ones to be deleted behind the answer.
    while node.status().draining > 0 {
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(resync().steps, Vec::<String>::new());
    assert_eq!(listed(&node).len(), 2);
}
