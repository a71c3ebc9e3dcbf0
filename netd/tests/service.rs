//! A whole request: client, descriptors, API, owner, journal, real kernel. In namespaces of its own; needs root.

#![expect(clippy::unwrap_used, reason = "helpers of tests stand outside of them")]

mod rig;

use std::os::fd::AsFd;

use netd_api::{Client, Tag, blocking};
use rig::{Node, Space, call};

const WEB: &str = r#"{"type":"bridge","bridge":"br0","isGateway":true,
    "ipam":{"type":"host-local","dataDir":"/nonexistent","ranges":[[{"subnet":"10.4.0.0/24"}]],
    "routes":[{"dst":"0.0.0.0/0"}]}}"#;

#[test]
fn an_attach_is_answered_twice_alike_and_a_detach_frees_the_address_for_its_own() {
    let node = Node::new();
    let sandbox = Space::new();
    let first = node.attach(&sandbox, "a", &[WEB]).unwrap();
    assert_eq!(first["ips"][0]["address"], "10.4.0.2/24");
    assert_eq!(first["ips"][0]["interface"], 2);
    assert_eq!(first["interfaces"][0]["name"], "br0");
    assert_eq!(first["interfaces"][2]["sandbox"], "/run/netns/a");
    assert_eq!(node.attach(&sandbox, "a", &[WEB]).unwrap(), first);
    // As nerdctl does it: a detach without a namespace, then the same container anew.
    node.detach("a", WEB);
    node.detach("a", WEB);
    let anew = node.attach(&Space::new(), "a", &[WEB]).unwrap();
    assert_eq!(anew["ips"][0]["address"], "10.4.0.2/24");
}

#[test]
fn a_release_detaches_whatever_the_container_has_left_and_nobody_elses() {
    let node = Node::new();
    node.attach(&Space::new(), "a", &[WEB]).unwrap();
    node.attach(&Space::new(), "b", &[WEB]).unwrap();
    let mut request = blocking::ReleaseRequest::new();
    "a".clone_into(&mut request.container_id);
    let release = || Client::connect(&node.socket(), &[]).unwrap().release(&request).unwrap();
    assert_eq!((release().removed, release().removed), (1, 0));
    assert_eq!(node.status().attachments, 1);
}

#[test]
fn what_is_not_executed_is_refused_and_leaves_nothing() {
    let node = Node::new();
    let refused = node.attach(&Space::new(), "a", &[r#"{"type":"macvlan"}"#]).unwrap_err();
    assert!(refused.contains("netd does not run plugin type \"macvlan\" yet"), "{refused}");
    assert_eq!((node.status().attachments, node.status().leases), (0, 0));
}

#[test]
fn a_file_that_is_no_namespace_is_refused_by_name() {
    let node = Node::new();
    let file = tempfile::tempfile().unwrap();
    let client = Client::connect(&node.socket(), &[(Tag::SandboxNetns, file.as_fd())]).unwrap();
    let mut request = blocking::AttachRequest::new();
    let config = WEB.replacen('{', r#"{"cniVersion":"1.0.0","name":"web","#, 1);
    request.call = Some(call(&config, "a", "/run/netns/a")).into();
    let refused = client.attach(&request).unwrap();
    assert!(refused.failure.message.starts_with("cannot use network namespace \"/run/netns/a\""), "{refused:?}");
}

#[test]
fn networks_of_the_watched_directory_are_listed_with_their_attachments_and_mistakes() {
    let node = Node::new();
    let folder = node.conf_dir();
    std::fs::create_dir(&folder).unwrap();
    let list = format!(r#"{{"cniVersion":"1.0.0","name":"web","plugins":[{WEB}],"colour":1}}"#);
    std::fs::write(folder.join("10-web.conflist"), &list).unwrap();
    std::fs::write(folder.join("20-bad.conflist"), "{").unwrap();
    let sandbox = Space::new();
    node.attach(&sandbox, "a", &[WEB]).unwrap();
    let networks = listed(&node, 2).networks;
    let web = &networks[0];
    assert_eq!((web.name.as_str(), web.cni_version.as_str(), web.bridge.as_str()), ("web", "1.0.0", "br0"));
    assert_eq!(
        (web.types.join(" "), web.subnets.join(" "), web.attachments),
        ("bridge".into(), "10.4.0.0/24".into(), 1)
    );
    assert_eq!(
        (web.unknown_keys.join(" "), web.config.as_slice(), web.error.as_str()),
        ("colour".into(), list.as_bytes(), "")
    );
    let bad = &networks[1];
    assert!(bad.error.contains("20-bad.conflist: not JSON: ") && bad.name.is_empty(), "{bad:?}");
    assert_eq!(node.status().networks, 1);
}

/// The networks once there are `count` files.
fn listed(node: &Node, count: usize) -> blocking::NetworksResponse {
    let client = Client::connect(&node.socket(), &[]).unwrap();
    let start = std::time::Instant::now();
    loop {
        let response = client.networks(&blocking::NetworksRequest::new()).unwrap();
        if response.networks.len() == count {
            return response;
        }
        assert!(start.elapsed() < std::time::Duration::from_secs(30), "{response:?}");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

#[test]
fn many_detaches_at_once_free_their_addresses_and_delete_their_links() {
    let node = Node::new();
    let spaces: Vec<Space> = (0..20).map(|_| Space::new()).collect();
    for (number, space) in spaces.iter().enumerate() {
        node.attach(space, &format!("c{number}"), &[WEB]).unwrap();
    }
    (0..20).for_each(|number| node.detach(&format!("c{number}"), WEB));
    let start = std::time::Instant::now();
    while node.status().leases > 0 {
        assert!(start.elapsed() < std::time::Duration::from_secs(30), "{:?}", node.status());
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let links = node.space.command("ip -br link");
    assert!(!links.contains("nd0") && links.contains("br0"), "{links}");
}
