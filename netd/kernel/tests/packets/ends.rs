//! Ends that are no peers like others: the sandbox itself, by a published port, and its own node.

use netd_kernel::{Class, Decision, Direction, Key, Object, Objects, Profile, Reach, profile};

use crate::node::{Node, Sandbox, ip};
use crate::policy::{filtered, isolated, of_class, pair, serve, some_ports};
use crate::published::{GATEWAYS, at_home, publish};
use crate::space::Heard;

#[test]
fn a_sandbox_reaches_itself_by_a_published_port_whatever_it_is_denied() {
    for directions in [&[Direction::Ingress][..], &[Direction::Egress], &[Direction::Ingress, Direction::Egress]] {
        let node = Node::new(false);
        let (server, other) = (node.sandbox(0, 2), node.sandbox(1, 2));
        serve(&server);
        publish(&node, &server);
        let mut policy = filtered();
        policy.extend(at_home(&server));
        node.enforce(&policy);
        let is_heard = |from: &Sandbox| GATEWAYS.map(|address| from.space.tcp(ip(address), 8080) == Heard::Answer);
        assert_eq!((is_heard(&server), is_heard(&other)), ([true; 2], [true; 2]), "no policy");
        policy.extend(directions.iter().flat_map(|direction| isolated(*direction, Reach::Others, &server)));
        node.enforce(&policy);
        assert_eq!(is_heard(&server), [false; 2], "{directions:?}");
        policy.extend(server.addresses().map(|address| (Key::Hairpin(address, address), Object::Set)));
        node.enforce(&policy);
        let may_others = !directions.contains(&Direction::Ingress);
        assert_eq!((is_heard(&server), is_heard(&other)), ([true; 2], [may_others; 2]), "{directions:?}");
    }
}

const NODE: Option<u32> = Some(Class::NODE.0);

#[test]
fn the_own_node_is_a_peer_of_its_own_only_where_that_is_said() {
    let node = Node::new(false);
    let server = node.sandbox(0, 2);
    serve(&server);
    node.space.serve_tcp(&[80, 96]);
    let asked = || {
        let from_node = [80, 96].map(|port| server.addresses().map(|address| node.space.tcp(address, port)));
        let to_node = [80, 96].map(|port| GATEWAYS.map(|address| server.space.tcp(ip(address), port)));
        [from_node, to_node].map(|ports| ports.map(|[v4, v6]| if v4 == v6 { Ok(v4) } else { Err((v4, v6)) }))
    };
    let assert_heard = |policy: &Objects, when: &str, from_node: [Heard; 2], to_node: [Heard; 2]| {
        node.enforce(policy);
        assert_eq!(asked(), [from_node, to_node].map(|ports| ports.map(Ok)), "{when}: TCP 80 and 96");
    };
    let (all, some, none) = ([Heard::Answer; 2], [Heard::Answer, Heard::Refusal], [Heard::Refusal; 2]);
    let both = [Direction::Ingress, Direction::Egress];
    let mut policy = filtered();
    policy.extend(both.iter().flat_map(|direction| isolated(*direction, Reach::Others, &server)));
    assert_heard(&policy, "isolated from others", all, all);
    policy.extend(both.iter().flat_map(|direction| isolated(*direction, Reach::Node, &server)));
    assert_heard(&policy, "nobody in particular", all, all);
    policy.extend(of_class(&server, 1));
    policy.extend(some_ports(7));
    policy.extend(profile(Profile(9), &[], Decision::Deny));
    // What holds for any peer, for the world, and for the node's address as that of a peer.
    policy.extend(GATEWAYS.map(|address| (Key::Block(ip(address), ip(address)), Object::Class(Class(3)))));
    policy.extend(both.iter().flat_map(|way| [None, Some(0), Some(3)].map(|peer| pair(*way, 1, peer, 9))));
    assert_heard(&policy, "other peers", all, all);
    policy.extend([pair(Direction::Ingress, 1, NODE, 9)]);
    assert_heard(&policy, "nothing from the node", none, all);
    policy.extend([pair(Direction::Egress, 1, NODE, 7)]);
    assert_heard(&policy, "some to the node", none, some);
    policy.extend([pair(Direction::Ingress, 1, NODE, 7), pair(Direction::Egress, 1, NODE, 9)]);
    assert_heard(&policy, "some from the node", some, none);
}

#[test]
fn pings_between_a_sandbox_and_its_node_are_decided_too() {
    let node = Node::new(false);
    let server = node.sandbox(0, 2);
    let pings = || {
        let from_node = server.addresses().map(|address| node.space.ping(address));
        [from_node, GATEWAYS.map(|address| server.space.ping(ip(address)))].concat()
    };
    let both = [Direction::Ingress, Direction::Egress];
    let mut policy: Objects = of_class(&server, 1).into_iter().collect();
    policy.extend(both.iter().flat_map(|direction| isolated(*direction, Reach::Node, &server)));
    policy.extend(some_ports(7));
    policy.extend(profile(Profile(9), &[], Decision::Deny));
    for (number, heard) in [(7, Heard::Answer), (9, Heard::Refusal)] {
        policy.extend(both.map(|direction| pair(direction, 1, NODE, number)));
        node.enforce(&policy);
        assert_eq!(pings(), [heard; 4], "{number}");
    }
}
