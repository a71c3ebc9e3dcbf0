//! A whole request: client, descriptors, API, owner, journal, real kernel. In namespaces of its own; needs root.

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
