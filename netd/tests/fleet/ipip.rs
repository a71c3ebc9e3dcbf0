//! IP in IP, where the kernel has it; what is said where it has not.

use std::io::Write as _;

use crate::rig::Space;
use crate::rig::nodes::{Nodes, Sandbox};
use crate::{all_reach_each_other, list, mtu};

/// Two nodes with one pool by IP in IP, and one that does without.
fn by_both() -> (Nodes, Vec<Sandbox>) {
    let mut nodes = Nodes::new(2);
    let both = list("vxlan", &[1, 2]).replace("'10.4.0.0/16'", "{ range = '10.4.0.0/16', encapsulation = 'ipip' }");
    nodes.start(&both);
    let sandboxes: Vec<Sandbox> = nodes.all.iter().map(|node| node.attach("web")).collect();
    sandboxes.iter().for_each(|sandbox| sandbox.space.serve(80));
    (nodes, sandboxes)
}

fn has_ipip() -> bool {
    let add = ["link", "add", "probe", "type", "ipip", "local", "192.0.2.99", "remote", "192.0.2.98"];
    Space::new().run(move || std::process::Command::new("ip").args(add).output().unwrap().status.success())
}

/// Past the test harness.
fn skipped(what: &str) {
    std::io::stderr().write_all(format!("SKIPPED ipip {what}\n").as_bytes()).unwrap();
}

#[test]
fn a_pool_of_its_own_goes_by_ipip() {
    if !has_ipip() {
        return skipped("(a pool of its own): this kernel has none");
    }
    let (nodes, sandboxes) = by_both();
    all_reach_each_other(&sandboxes);
    let check = nodes.all[0].check_until("n2", |all| all[0].answered);
    assert_eq!((check[0].by.as_str(), check[0].encapsulated.as_str(), check[0].mtu), ("ipip", "yes", 1_480));
}

#[test]
fn beyond_a_router_packets_go_by_ipip_and_on_the_link_as_they_are() {
    if !has_ipip() {
        return skipped("(beyond a router): this kernel has none");
    }
    let mut nodes = Nodes::new(2);
    nodes.add(3, 1);
    let node = |number: usize, address: &str| {
        format!("n{number} = {{ address = '{address}.{number}', blocks = ['10.4.{number}.0/24'] }}\n")
    };
    let listed = [node(1, "192.0.2"), node(2, "192.0.2"), node(3, "198.51.100")].concat();
    nodes.start(&format!("pools = ['10.4.0.0/16']\nencapsulation = 'cross-subnet-ipip'\n[fleet.nodes]\n{listed}"));
    let sandboxes: Vec<Sandbox> = nodes.all.iter().map(|node| node.attach("web")).collect();
    sandboxes.iter().for_each(|sandbox| sandbox.space.serve(80));
    for (from, to) in
        [(0, 1), (1, 0), (0, 2), (2, 0), (1, 2), (2, 1)].map(|(from, to)| (&sandboxes[from], &sandboxes[to]))
    {
        assert_eq!(from.space.hears_in_the_end(&format!("{}:80", to.v4)).as_ref(), Ok(&from.v4));
    }
    let routes = nodes.all[0].routes();
    assert!(routes.contains("10.4.2.0/24 via 192.0.2.2 dev up0"), "{routes}");
    assert!(routes.contains("10.4.3.0/24 via 198.51.100.3 dev nd-ipip onlink"), "{routes}");
    assert_eq!(mtu(&sandboxes[0]), 1_480);
    let told: Vec<_> = nodes.all[0]
        .check_until("", |all| all.iter().all(|one| one.answered))
        .into_iter()
        .map(|one| (one.by, one.encapsulated, one.troubles))
        .collect();
    let way = |by: &str, encapsulated: &str| (by.to_owned(), encapsulated.to_owned(), Vec::<String>::new());
    assert_eq!(told, [way("direct", "no"), way("ipip", "yes")]);
}

#[test]
fn a_kernel_without_ipip_says_so_and_carries_the_rest() {
    if has_ipip() {
        return skipped("(a kernel without): this one has it");
    }
    let (nodes, sandboxes) = by_both();
    let v6 = format!("[{}]:80", sandboxes[1].v6);
    assert!(sandboxes[0].space.hears_in_the_end(&v6).is_ok());
    assert!(sandboxes[0].space.hears(&format!("{}:80", sandboxes[1].v4)).is_err());
    let is_told =
        |texts: &[String]| texts.iter().any(|text| text.contains("modprobe ipip") && text.contains("choose vxlan"));
    assert!(is_told(&nodes.all[0].warnings()), "{:?}", nodes.all[0].warnings());
    let fleet = nodes.all[0].fleet();
    assert!(is_told(&fleet.nodes[0].troubles), "{fleet:?}");
    assert_eq!(fleet.nodes[1].routes.iter().map(|one| one.by.as_str()).collect::<Vec<_>>(), ["", "vxlan"]);
    let steps = nodes.all[0].resync(true);
    assert!(steps.is_empty(), "what cannot be is not tried for ever: {steps:?}");
    assert!(!nodes.all[0].space.command("ip -o link").contains("nd-ipip"), "half a tunnel");
}
