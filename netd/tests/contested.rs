//! Sandboxes of two bridges that have the same addresses: rules ask by address, and neither gets the other's leave. Needs root.

mod rig;

use netd_api::{Client, blocking};
use rig::shop::{apply, describe};
use rig::{Node, Space, assert_heard};

/// The same subnet on each, by which the first of each has the same address, the same MAC and the same link-local address.
fn network(bridge: &str) -> String {
    format!(
        r#"{{"name":"{bridge}","type":"bridge","bridge":"{bridge}",
        "ipam":{{"type":"host-local","dataDir":"/nonexistent/{bridge}","ranges":[[{{"subnet":"10.4.0.0/24"}}]]}}}}"#
    )
}

const FROM_LOGIN: &str = "apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: from-login, namespace: shop}
spec:
  podSelector: {matchLabels: {app: web}}
  ingress: [{from: [{podSelector: {matchLabels: {app: login}}}]}]
";

#[test]
fn nobody_has_the_leave_of_one_whose_address_he_has_on_another_bridge() {
    let node = Node::new();
    let client = Client::connect(&node.socket(), &[]).unwrap();
    let [login, twin, web, friend] = [(); 4].map(|()| Space::new());
    let attach = |space: &Space, name: &str, bridge: &str| {
        node.attach(space, name, &[&network(bridge)]).unwrap();
        describe(&client, name, name, &[("app", if name == "friend" { "login" } else { name })]);
    };
    attach(&twin, "twin", "br1");
    attach(&web, "web", "br1");
    attach(&friend, "friend", "br1");
    web.serve(80);
    twin.serve(80);
    apply(&client, FROM_LOGIN);
    let index = |space: &Space| space.command("ip -o link show eth0").split(':').next().unwrap().to_owned();
    let nearby = |space: &Space| format!("[fe80::6e:aff:fe04:3%{}]:80", index(space));
    let (by_twin, by_friend) = (nearby(&twin), nearby(&friend));
    let friends = [
        ("friend", &friend, "10.4.0.3:80", Ok("10.4.0.4")),
        ("friend", &friend, by_friend.as_str(), Ok("fe80::6e:aff:fe04:4")),
    ];
    let all_hear = |twin_heard| {
        let mut all = friends.to_vec();
        all.push(("twin", &twin, "10.4.0.3:80", Err(())));
        all.push(("twin", &twin, by_twin.as_str(), Err(())));
        all.push(("friend", &friend, "10.4.0.2:80", twin_heard));
        assert_heard(&all);
    };
    all_hear(Ok("10.4.0.4"));
    attach(&login, "login", "br0");
    // Who has the address of one that may is still not he, and nobody reaches either by it.
    all_hear(Err(()));
    let warnings = || client.status(&blocking::StatusRequest::new()).unwrap().warnings;
    let is_told = |warning: &String| warning.contains("10.4.0.2 is an address of shop/login and of shop/twin");
    assert!(warnings().iter().any(is_told), "{:?}", warnings());
    node.detach("login", &network("br0"));
    all_hear(Ok("10.4.0.4"));
    assert_eq!(warnings(), Vec::<String>::new());
}
