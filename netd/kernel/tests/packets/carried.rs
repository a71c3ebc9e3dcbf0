//! Two nodes and their sandboxes, by every way there is between nodes: who reaches whom, under which address, in what.

use std::net::IpAddr;
use std::sync::Arc;

use netd_config::Protocol;
use netd_kernel::{
    Class, Decision, Direction, Encapsulation, Entrance, Family, Kernel, Key, Object, Objects, Profile, Publication,
    Reach, Scope, Step, Tunnel, plan, profile,
};

use crate::fleet::{PORT, Path, Wire, tunnel_addresses, underlay};
use crate::frames::IPIP;
use crate::node::{Node, Sandbox, link};
use crate::policy::{isolated, of_class, pair};
use crate::space::{Heard, Space, hear};

const UDP: u8 = 17;

/// Node 1 and node 2, each other's peers, with a sandbox of the fleet and one of the node's own network; 9 is the outside.
struct Pair {
    nodes: [Node; 2],
    fleet: [Sandbox; 2],
    own: [Sandbox; 2],
    outside: Space,
    _wire: Wire,
}

impl Pair {
    /// `paths`: from 1 to 2, and from 2 to 1. Both have a tunnel of the kind that one of them uses.
    fn new(paths: [Path; 2]) -> Self {
        let wire = Wire::new();
        let outside = wire.neighbour(9);
        let tunnel = paths.into_iter().find(|path| *path != Path::Direct).unwrap_or(Path::Direct);
        let nodes = [1, 2].map(|number| wire.node(number, tunnel));
        for (node, (path, peer)) in nodes.iter().zip(paths.into_iter().zip([2, 1])) {
            let mut objects = path.peer(peer);
            // Where it is sent to when the other end has changed already.
            objects.extend(tunnel.peer(peer).into_iter().filter(|(key, _)| matches!(key, Key::FarEnd(_))));
            node.apply(plan(&objects, &Objects::new()));
        }
        let [fleet, own] = [0, 1].map(|bridge| nodes.each_ref().map(|node| masqueraded(node, bridge)));
        for sandbox in fleet.iter().chain(&own) {
            sandbox.space.serve_tcp(&[80]);
        }
        Self { nodes, fleet, own, outside, _wire: wire }
    }
}

fn masqueraded(node: &Node, bridge: u8) -> Sandbox {
    let sandbox = node.sandbox(bridge, 2);
    let home = link(&format!("br{bridge}"));
    let keys = sandbox.addresses().map(|address| Key::Masquerade(address, home.clone()));
    node.apply(keys.map(|key| Step::Create(key, Object::Set)).into());
    sandbox
}

/// Protocol and, of UDP, port, of the IPv4 or IPv6 packet in which the marker is.
fn carrier(frame: &[u8], marker: &[u8]) -> Option<(u8, u16)> {
    frame.windows(marker.len()).find(|part| *part == marker)?;
    let packet = &frame[14..];
    let (protocol, header) = if packet[0] >> 4 == 4 { (packet[9], 20) } else { (packet[6], 40) };
    let port = u16::from_be_bytes([packet[header + 2], packet[header + 3]]);
    Some((protocol, if protocol == UDP { port } else { 0 }))
}

/// How `path` looks on the wire.
fn expected_carrier(path: Path) -> (u8, u16) {
    match path {
        Path::Direct => (UDP, 9),
        Path::Ipip => (IPIP, 0),
        Path::Vxlan(_) => (UDP, PORT),
    }
}

/// Counts what leaves `node` in a tunnel, and which of that is not tracked.
fn count_wrapped(node: &Node) {
    node.space.output("nft add table inet probe");
    node.space.output("nft add chain inet probe leaving { type filter hook output priority 10 ; }");
    for wrapped in [&format!("udp dport {PORT}"), "meta l4proto ipencap"] {
        for state in ["", "ct state untracked"] {
            node.space.output(&format!("nft add rule inet probe leaving {wrapped} {state} counter"));
        }
    }
}

/// Packets that have left in a tunnel, and those of them that were not tracked.
fn wrapped(node: &Node) -> [u32; 2] {
    let text = node.space.output("nft list chain inet probe leaving");
    let counters = text.split("packets ").skip(1);
    let counts: Vec<u32> = counters.map(|rest| rest.split_once(' ').unwrap().0.parse().unwrap()).collect();
    [counts[0] + counts[2], counts[1] + counts[3]]
}

fn carries(paths: [Path; 2]) {
    if !paths.into_iter().all(Path::is_there) {
        return;
    }
    let pair = Pair::new(paths);
    pair.nodes.iter().for_each(count_wrapped);
    for (here, there) in [(0, 1), (1, 0)] {
        let (sandbox, other, path) = (&pair.fleet[here], &pair.fleet[there], paths[here]);
        let number = u8::try_from(here).unwrap() + 1;
        let ends = sandbox.addresses().into_iter().zip(other.addresses());
        for (from, to) in ends.filter(|(_, to)| paths.iter().all(|path| path.carries(*to))) {
            let family = Family::of(to);
            let at = format!("{from} to {to}, {paths:?}");
            assert_eq!(sandbox.space.tcp(to, 80), Heard::Answer, "{at}");
            assert_eq!(sandbox.space.ping(to), Heard::Answer, "{at}");
            assert_eq!(other.space.source_seen(&sandbox.space, to), Some(from), "{at}");
            // In what it crossed the wire.
            let ears = pair.nodes[there].space.listen();
            let marker = format!("<{at}>").into_bytes();
            sandbox.space.say((to, 9), &marker);
            let on_the_wire = hear(&ears, |frame| carrier(frame, &marker));
            assert_eq!(on_the_wire, Some(expected_carrier(path)), "{at}");
            // Who is not of the fleet is his node, there and outside.
            let tunnel = tunnel_addresses(number)[usize::from(to.is_ipv6())];
            let node = if path == Path::Direct { underlay(family, number) } else { tunnel };
            let own = &pair.own[here];
            assert_eq!(other.space.source_seen(&own.space, to), Some(node), "{at}: another network");
            assert_eq!(other.space.source_seen(&pair.nodes[here].space, to), Some(node), "{at}: the node");
            let outside = underlay(family, 9);
            for sender in [sandbox, own] {
                let seen = pair.outside.source_seen(&sender.space, outside);
                assert_eq!(seen, Some(underlay(family, number)), "{at}: outside");
            }
        }
        let [all, untracked] = wrapped(&pair.nodes[here]);
        assert_eq!((all > 0, untracked), (path != Path::Direct, all), "{path:?}");
    }
}

#[test]
fn vxlan_over_ipv4_carries_sandboxes_addresses() {
    carries([Path::Vxlan(Family::V4); 2]);
}

#[test]
fn vxlan_over_ipv6_carries_sandboxes_addresses() {
    carries([Path::Vxlan(Family::V6); 2]);
}

#[test]
fn ipip_carries_sandboxes_addresses() {
    carries([Path::Ipip; 2]);
}

#[test]
fn direct_routes_carry_sandboxes_addresses() {
    carries([Path::Direct; 2]);
}

#[test]
fn one_end_may_still_use_vxlan_when_the_other_goes_directly() {
    carries([Path::Vxlan(Family::V4), Path::Direct]);
}

#[test]
fn one_end_may_still_use_ipip_when_the_other_goes_directly() {
    carries([Path::Direct, Path::Ipip]);
}

/// A port of node 2 that leads to its sandbox, asked for at the tunnel's address and at the node's.
#[test]
fn published_ports_are_reached_by_tunnel() {
    let pair = Pair::new([Path::Vxlan(Family::V4); 2]);
    let published = |address: IpAddr| {
        let any = if address.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
        let publication = Publication { address: any, protocol: Protocol::Tcp, port: 8080 };
        Step::Create(Key::Published(publication), Object::Target((address, 80).into()))
    };
    pair.nodes[1].apply(pair.fleet[1].addresses().map(published).into());
    for version in [0, 1] {
        let at = [tunnel_addresses(2)[version], underlay([Family::V4, Family::V6][version], 2)];
        for (address, sender) in at.into_iter().flat_map(|at| [(at, &pair.fleet[0]), (at, &pair.own[0])]) {
            assert_eq!(sender.space.tcp(address, 8080), Heard::Answer, "{} to {address}", sender.v4);
        }
    }
}

/// By the bridge or by a tunnel: the same rules ask who it is.
#[test]
fn a_policy_knows_a_peers_sandbox_by_its_address() {
    let pair_of_nodes = Pair::new([Path::Vxlan(Family::V4); 2]);
    let ([asker, server], [far, node]) = (&pair_of_nodes.fleet, &pair_of_nodes.nodes);
    let heard = || server.addresses().map(|address| asker.space.tcp(address, 80));
    let both = |heard| [heard; 2];
    assert_eq!(heard(), both(Heard::Answer), "no policy");
    let mut policy: Objects = isolated(Direction::Ingress, Reach::Others, server).into_iter().collect();
    node.enforce(&policy);
    assert_eq!(heard(), both(Heard::Refusal), "isolated");
    policy.extend(of_class(server, 1).into_iter().chain(of_class(asker, 2)));
    policy.extend(profile(Profile(7), &[], Decision::Allow));
    policy.extend([pair(Direction::Ingress, 1, Some(2), 7)]);
    node.enforce(&policy);
    assert_eq!(heard(), both(Heard::Answer), "a class of peers");
    // What leaves by a tunnel is asked about where it begins.
    let mut policy: Objects = isolated(Direction::Egress, Reach::Others, asker).into_iter().collect();
    far.enforce(&policy);
    assert_eq!(heard(), both(Heard::Refusal), "isolated where it begins");
    policy.extend(of_class(asker, 1));
    policy.extend(server.addresses().map(|address| (Key::Block(address, address), Object::Class(Class(3)))));
    policy.extend(profile(Profile(7), &[], Decision::Allow));
    policy.extend([pair(Direction::Egress, 1, Some(3), 7)]);
    far.enforce(&policy);
    assert_eq!(heard(), both(Heard::Answer), "a block");
}

/// A fence stands between networks of one node.
#[test]
fn a_fence_keeps_no_peers_sandbox_out() {
    let pair = Pair::new([Path::Vxlan(Family::V4); 2]);
    let fence = Objects::from(["br0", "br1"].map(|bridge| (Key::Fenced(link(bridge)), Object::Set)));
    pair.nodes.iter().for_each(|node| node.enforce(&fence));
    let [to, near] = [&pair.fleet[1], &pair.own[0]].map(Sandbox::addresses);
    for address in to {
        assert_eq!(pair.fleet[0].space.tcp(address, 80), Heard::Answer, "{address}");
    }
    for address in near {
        assert_eq!(pair.fleet[0].space.tcp(address, 80), Heard::Nothing, "{address}");
    }
}

/// Made, seen, changed, taken away: as the contract says of VXLAN.
#[test]
fn an_ipip_tunnel_is_seen_as_it_was_made_and_changes_in_place() {
    if !Path::Ipip.is_there() {
        return;
    }
    let pair = Pair::new([Path::Ipip; 2]);
    let (node, to) = (&pair.nodes[0], pair.fleet[1].v4);
    let observed = || {
        let kernel = Arc::clone(&node.kernel);
        node.space.run(move || kernel.observe(Scope::Node).unwrap())
    };
    let before = observed();
    let key = Key::Tunnel(Encapsulation::Ipip);
    let Some(Object::Tunnel(tunnel)) = before.get(&key).cloned() else { panic!("{before:?}") };
    assert!(before.keys().any(|key| matches!(key, Key::Route(net) if net.contains(&to))), "{before:?}");
    let narrow = Object::Tunnel(Tunnel { mtu: 1_300, ..tunnel.clone() });
    let moved = Entrance::Ipip([192, 0, 2, 11].into());
    let elsewhere = Object::Tunnel(Tunnel { entrance: moved, ..tunnel.clone() });
    for other in [narrow, elsewhere, Object::Tunnel(tunnel)] {
        node.apply(vec![Step::Replace(key.clone(), other.clone())]);
        let expected: Objects = before.clone().into_iter().chain([(key.clone(), other)]).collect();
        assert_eq!(observed(), expected);
    }
    assert_eq!(pair.fleet[0].space.tcp(to, 80), Heard::Answer);
    node.apply(vec![Step::Delete(key.clone())]);
    assert!(!observed().contains_key(&key));
}
