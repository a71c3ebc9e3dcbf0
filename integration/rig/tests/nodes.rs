//! Three hosts with a UI, a login and a cart: each host by itself would have given its container the same address; a few lines of
//! `netd.toml` make them one network. Real containerd, real etcd, and what passes on the wire between them. Needs root and
//! Debian's packages; over IP-in-IP a kernel that has it: `guests` runs that on Debian's.

#![expect(clippy::unwrap_used, reason = "helpers of tests stand outside of them")]

use std::collections::BTreeSet;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::process::Command;

use netd_rig::{Fleet, Meeting, Place, Programs, Seen, Shop, Wrapping};

fn three_hosts_are_one_network(meeting: Meeting, encapsulation: &str, wrapping: Wrapping) {
    let fleet = Fleet::start(&Programs::of_this_tree().unwrap(), 3, meeting, encapsulation).unwrap();
    let shop = Shop::open(&fleet).unwrap_or_else(|error| panic!("{error:#}"));
    let addresses: BTreeSet<Ipv4Addr> = shop.addresses().into_iter().map(|(_, _, address)| address).collect();
    assert_eq!(addresses.len(), 3, "{addresses:?}");
    assert!(addresses.iter().all(|address| address.octets().starts_with(&[10, 4])), "{addresses:?}");

    // What passed before may have gone another way, while routes were made.
    shop.on_the_wire().unwrap();
    let table = shop.ask().unwrap_or_else(|error| panic!("{error:#}"));
    let passed = shop.on_the_wire().unwrap();
    for from in &addresses {
        for to in addresses.iter().filter(|to| *to != from) {
            let has_passed = passed.iter().any(|one| (one.from, one.to) == (*from, *to));
            assert!(has_passed, "nothing from {from} to {to} was on the wire\n{table}\n{passed:?}");
        }
    }
    let otherwise: Vec<&Seen> = passed.iter().filter(|one| one.wrapping != wrapping).collect();
    assert!(otherwise.is_empty(), "not {wrapping:?}: {otherwise:?}");
    shop.close().unwrap();
}

#[test]
fn three_hosts_are_one_network_over_vxlan_and_etcd() {
    three_hosts_are_one_network(Meeting::Etcd, "vxlan", Wrapping::Vxlan);
}

#[test]
fn three_hosts_are_one_network_directly_and_by_a_list() {
    three_hosts_are_one_network(Meeting::List, "direct", Wrapping::Direct);
}

#[test]
fn three_hosts_are_one_network_over_ipip() {
    let add = ["link", "add", "probe", "type", "ipip", "local", "192.0.2.1"];
    if Place::fresh().unwrap().output(Command::new("ip").args(add), "").is_err() {
        writeln!(std::io::stderr(), "SKIPPED ipip (three hosts): this kernel has none").unwrap();
        return;
    }
    three_hosts_are_one_network(Meeting::List, "ipip", Wrapping::Ipip);
}
