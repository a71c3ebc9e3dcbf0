//! What is on the node against what the clients were told: netd's list, links, nftables as `nft` shows it, listening
//! sockets, descriptors of namespaces, packets. Looks only from outside, but for netd's own list.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use serde_json::Value;

use crate::client::{Slot, Told};
use crate::daemon::Node;

/// A node's whole state, as texts that say what they are of.
pub(crate) type Facts = BTreeSet<String>;

/// What there should be for these sandboxes, and nothing else.
pub(crate) fn expected(slots: &[&Slot]) -> Facts {
    let mut facts = Facts::new();
    for slot in slots {
        let Some(told) = &slot.told else { continue };
        facts.insert(format!("listed {} {} attached", slot.container, joined(&told.addresses)));
        for address in &told.addresses {
            facts.insert(format!("masquerade {address}"));
            if slot.routed {
                facts.insert(format!("way to {address}"));
            } else {
                facts.insert(format!("sent from {address}"));
            }
            if let Some(port) = told.port {
                facts.insert(format!("published {port} to {address}"));
            }
        }
        if let Some(port) = told.port {
            facts.extend(["tcp", "tcp6"].map(|table| format!("{table} socket on {port}")));
        }
    }
    let attached: Vec<&Told> = slots.iter().filter_map(|slot| slot.told.as_ref()).collect();
    facts.insert(format!("{} leases, 0 draining", attached.len() * 2));
    facts.insert(format!("{} links", attached.len()));
    let fenced = |slot: &&&Slot| slot.routed && slot.told.as_ref().is_some_and(|told| told.fenced);
    facts.insert(format!("{} fenced links", slots.iter().filter(fenced).count()));
    let guarded = slots.iter().filter(|slot| !slot.routed && slot.told.is_some());
    facts.insert(format!("{} guarded ports", guarded.count()));
    facts
}

/// What there is.
pub(crate) fn found(node: &Node) -> Facts {
    let status = node.door().status().unwrap();
    let mut facts = Facts::from([format!("{} leases, {} draining", status.leases, status.draining)]);
    for attachment in node.door().list().attachments {
        let address = |text: &String| text.split('/').next().unwrap().parse().unwrap();
        let addresses: Vec<IpAddr> = attachment.addresses.iter().map(address).collect();
        facts.insert(format!("listed {} {} {}", attachment.container_id, joined(&addresses), attachment.state));
    }
    facts.insert(links(node));
    facts.extend(elements(node));
    facts.extend(ways(node));
    facts.extend(guards(node));
    for table in ["tcp", "tcp6", "udp", "udp6"] {
        facts.extend(sockets(node.process(), table));
    }
    facts.extend(held_namespaces(node.process()));
    facts
}

/// How many ends of sandboxes' links there are.
pub(crate) fn links(node: &Node) -> String {
    let links = node.namespace.command("ip -o link show type veth");
    format!("{} links", links.lines().count())
}

/// What does not pass, each with what its sandbox has.
pub(crate) fn dead_ways(node: &Node, slots: &[&Slot]) -> Vec<String> {
    let mut dead = Vec::new();
    let inside = |told: &Told| {
        let look = ["ip -o addr", "ip -o link", "ip route", "ip neigh"];
        look.map(|line| told.sandbox.namespace.command(line)).concat()
    };
    for slot in slots {
        let Some(told) = &slot.told else { continue };
        for address in &told.addresses {
            if !node.namespace.echoes(&told.sandbox, *address) {
                dead.push(format!("no packet reaches {} at {address}:\n{}", slot.container, inside(told)));
            }
        }
        let published = told.port.map(|port| SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port));
        if published.is_some_and(|address| !node.namespace.connects(&told.sandbox, address)) {
            dead.push(format!("port {:?} does not lead to {}", told.port, slot.container));
        }
    }
    dead
}

fn joined(addresses: &[IpAddr]) -> String {
    addresses.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(",")
}

/// Host routes by netd's protocol number.
fn ways(node: &Node) -> Facts {
    let shown = ["ip -4 route show proto 110", "ip -6 route show proto 110"].map(|line| node.namespace.command(line));
    let way = |line: &str| format!("way to {}", line.split(' ').next().unwrap_or_default());
    shown.iter().flat_map(|text| text.lines().map(way)).collect()
}

/// Elements of attachments. Those of the bridge and of the node itself stay with the bridge.
fn elements(node: &Node) -> Facts {
    let text = node.namespace.command("nft -j list table inet netd");
    let listed: Value = serde_json::from_str(&text).unwrap();
    let mut facts = Facts::new();
    let mut fenced = 0;
    for object in listed["nftables"].as_array().unwrap() {
        let set = if object["set"].is_null() { &object["map"] } else { &object["set"] };
        let name = set["name"].as_str().unwrap_or_default();
        for element in set["elem"].as_array().into_iter().flatten() {
            match name {
                "masq4" | "masq6" => drop(facts.insert(format!("masquerade {}", element.as_str().unwrap()))),
                "home4" | "home6" => assert!(element["concat"][1] == "br0" || is_host_link(&element["concat"][1])),
                "fenced" => fenced += usize::from(is_host_link(element)),
                "ports4" | "ports6" => drop(facts.insert(format!(
                    "published {} to {}",
                    element[0]["concat"][1],
                    element[1]["concat"][0].as_str().unwrap()
                ))),
                "bridges" | "same_bridge" | "guarded" | "with_ports" | "tunnels" | "decisions" => {}
                // What has no element of its own.
                "block4" | "block6" | "class4" | "class6" | "profiles" if element.to_string().contains("\"*\"") => {}
                _ => drop(facts.insert(format!("element {element} of {name}"))),
            }
        }
        if matches!(name, "home4" | "home6") {
            let homes = set["elem"].as_array().into_iter().flatten();
            facts.extend(homes.map(|home| format!("masquerade {}", home["concat"][0].as_str().unwrap())));
        }
    }
    facts.insert(format!("{fenced} fenced links"));
    facts
}

fn is_host_link(name: &Value) -> bool {
    name.as_str().is_some_and(|name| name.starts_with("nd"))
}

/// Elements of the spoof guard.
fn guards(node: &Node) -> Facts {
    let text = node.namespace.command("nft -j list table bridge netd");
    let listed: Value = serde_json::from_str(&text).unwrap();
    let mut facts = Facts::new();
    for object in listed["nftables"].as_array().unwrap() {
        let elements = || object["set"]["elem"].as_array().into_iter().flatten();
        match object["set"]["name"].as_str().unwrap_or_default() {
            "leased4" | "leased6" => facts.extend(elements().filter_map(|element| {
                let address = element["concat"][2].as_str().unwrap();
                // Link-local ones come with a MAC.
                (!address.starts_with("fe80:")).then(|| format!("sent from {address}"))
            })),
            "guarded_ports" => drop(facts.insert(format!("{} guarded ports", elements().count()))),
            "port_macs" => assert!(elements().all(|element| element["concat"][1].is_string())),
            "tunnels" => {}
            name => assert_eq!(elements().count(), 0, "{name}"),
        }
    }
    facts
}

/// Sockets of the node that wait for others: TCP ones that listen, all UDP ones.
fn sockets(process: u32, table: &str) -> Facts {
    let text = fs::read_to_string(format!("/proc/{process}/net/{table}")).unwrap();
    let socket = |line: &str| {
        let mut words = line.split_whitespace();
        let local = words.nth(1)?;
        let (_, state) = (words.next()?, words.next()?);
        let waits = state == "0A" || table.starts_with("udp");
        let port = u16::from_str_radix(local.rsplit(':').next()?, 16).ok()?;
        waits.then(|| format!("{table} socket on {port}"))
    };
    text.lines().skip(1).filter_map(socket).collect()
}

/// Descriptors of network namespaces that netd holds, but its own: each would keep its namespace alive.
fn held_namespaces(process: u32) -> Facts {
    let Ok(descriptors) = fs::read_dir(format!("/proc/{process}/fd")) else { return Facts::new() };
    let targets = descriptors.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    let own = fs::read_link(format!("/proc/{process}/ns/net")).unwrap_or_default();
    let held = targets.filter(|target| *target != own && target.to_string_lossy().starts_with("net:"));
    held.map(|target| format!("netd holds {}", target.display())).collect()
}
