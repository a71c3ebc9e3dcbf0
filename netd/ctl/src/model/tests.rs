//! Ids, groups and order.

use netd_api::blocking as api;

use super::{leases, own_id, sandboxes, short_id};

fn attachment(container: &str, interface: &str, network: &str, addresses: &[&str]) -> api::Attachment {
    let mut one = api::Attachment::new();
    one.container_id = container.to_owned();
    one.interface = interface.to_owned();
    one.network = network.to_owned();
    one.addresses = addresses.iter().map(|&address| address.to_owned()).collect();
    one
}

#[test]
fn a_hash_is_cut_to_twelve_digits_and_a_name_is_not() {
    let hash = "6f".repeat(32);
    assert_eq!(short_id(&hash), "6f6f6f6f6f6f");
    assert_eq!(short_id(&format!("default-{hash}")), "6f6f6f6f6f6f");
    assert_eq!(short_id(&format!("k8s-blue-{hash}")), "6f6f6f6f6f6f");
    assert_eq!(short_id("default-my-web-server-1"), "default-my-web-server-1");
    assert_eq!(own_id(&format!("default-{hash}")), hash);
    assert_eq!(short_id(""), "");
}

#[test]
fn attachments_of_one_container_are_one_sandbox() {
    let mut named = attachment("b", "eth0", "web", &["10.1.0.2/24"]);
    named.name = "shop".to_owned();
    let found = sandboxes(vec![attachment("b", "eth1", "db", &[]), named, attachment("a", "eth0", "web", &[])]);
    let ids: Vec<&str> = found.iter().map(|sandbox| sandbox.id.as_str()).collect();
    assert_eq!(ids, ["a", "b"]);
    let interfaces: Vec<&str> = found[1].attachments.iter().map(|one| one.interface.as_str()).collect();
    assert_eq!((found[1].name.as_str(), interfaces), ("shop", vec!["eth0", "eth1"]));
}

#[test]
fn leases_are_ordered_by_network_and_number() {
    let found = sandboxes(vec![
        attachment("a", "eth0", "web", &["10.1.0.10/24", "fd00::2/64"]),
        attachment("b", "eth0", "web", &["10.1.0.9/24"]),
        attachment("c", "eth0", "db", &["10.2.0.1/24"]),
    ]);
    let order: Vec<String> = leases(&found).into_iter().map(|lease| lease.address).collect();
    assert_eq!(order, ["10.2.0.1/24", "10.1.0.9/24", "10.1.0.10/24", "fd00::2/64"]);
}
