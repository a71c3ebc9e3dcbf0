//! Protocols that a policy does not name, with ports and without: they pass neither way, and what was there is cut.

use std::collections::BTreeSet;

use netd_kernel::{Decision, Direction, Flow, Kernel, Objects, Profile, Reach, Service, profile};

use crate::node::{Node, Sandbox};
use crate::policy::{filtered, isolated, of_class, pair, serve, some_ports};
use crate::raw::{GRE, SCTP, TRIAL};
use crate::space::Heard;

const ALL: [u8; 3] = [GRE, SCTP, TRIAL];
/// What is heard where it is denied.
const DENIED: [Heard; 3] = [Heard::Refusal, Heard::Refusal, Heard::Nothing];

/// What is heard of each protocol, of one who was never heard before: by IPv4, by IPv6.
fn heard(node: &Node, from: &Sandbox, to: &Sandbox) -> Vec<(u8, [Heard; 2])> {
    for address in to.addresses() {
        node.kernel.forget(address, None).unwrap();
    }
    let open = |protocol: u8| to.addresses().map(|address| from.space.talk(protocol, address, 80).open());
    ALL.map(|protocol| (protocol, open(protocol))).into()
}

fn each(heard: [Heard; 3]) -> Vec<(u8, [Heard; 2])> {
    ALL.into_iter().zip(heard).map(|(protocol, heard)| (protocol, [heard; 2])).collect()
}

/// Only TCP, and what else is said.
fn named(number: u32, more: &[(Service, Service, Decision)]) -> Objects {
    let any_tcp = [0, u16::MAX].map(|port| Service { protocol: 6, port });
    profile(Profile(number), &[&[(any_tcp[0], any_tcp[1], Decision::Allow)], more].concat(), Decision::Deny)
}

#[test]
fn what_a_policy_does_not_name_passes_neither_way() {
    let node = Node::new(false);
    let (subject, near, far) = (node.sandbox(0, 2), node.sandbox(0, 3), node.sandbox(1, 2));
    for one in [&subject, &near, &far] {
        one.space.answer(&ALL);
        serve(one);
    }
    let (all, none) = (each([Heard::Answer; 3]), each(DENIED));
    for (direction, to_subject) in [(Direction::Ingress, true), (Direction::Egress, false)] {
        let ends = |other| if to_subject { (other, &subject) } else { (&subject, other) };
        let mut policy = filtered();
        for (who, other) in [("near", &near), ("far", &far)] {
            let (from, to) = ends(other);
            node.enforce(&policy);
            assert_eq!(heard(&node, from, to), all, "{direction:?} {who}: no policy");
        }
        policy.extend(isolated(direction, Reach::Others, &subject).into_iter().chain(of_class(&subject, 1)));
        policy.extend([pair(direction, 1, None, 7)]);
        policy.extend(named(7, &[]));
        node.enforce(&policy);
        for (who, other) in [("near", &near), ("far", &far)] {
            let (from, to) = ends(other);
            assert_eq!(heard(&node, from, to), none, "{direction:?} {who}: TCP alone");
            assert_eq!(to.addresses().map(|address| from.space.tcp(address, 80)), [Heard::Answer; 2]);
        }
        let sctp = Service { protocol: SCTP, port: 80 };
        policy.extend([pair(direction, 1, None, 8)]);
        policy.extend(named(8, &[(sctp, sctp, Decision::Allow)]));
        node.enforce(&policy);
        let (from, to) = ends(&near);
        assert_eq!(heard(&node, from, to), each([DENIED[0], Heard::Answer, DENIED[2]]));
        let beside = to.addresses().map(|address| from.space.talk(SCTP, address, 81).open());
        assert_eq!(beside, [Heard::Refusal; 2], "SCTP at another port");
        let gre = Service { protocol: GRE, port: 0 };
        policy.extend([pair(direction, 1, None, 9)]);
        policy.extend(named(9, &[(gre, gre, Decision::Allow)]));
        node.enforce(&policy);
        assert_eq!(heard(&node, from, to), each([Heard::Answer, DENIED[1], DENIED[2]]));
    }
}

/// Such a flow has no beginning that could be told from the rest: from either end it would open anew.
#[test]
fn flows_without_ports_are_cut_from_both_ends_and_come_back_when_they_may() {
    let node = Node::new(false);
    let (server, client) = (node.sandbox(0, 2), node.sandbox(0, 3));
    server.space.answer(&ALL);
    client.space.answer(&ALL);
    let open = filtered();
    let mut closed = filtered();
    closed.extend(isolated(Direction::Ingress, Reach::Others, &server).into_iter().chain(of_class(&server, 1)));
    closed.extend([pair(Direction::Ingress, 1, None, 7)]);
    closed.extend(some_ports(7));
    let protocols = ALL.into_iter().zip(DENIED);
    for ((protocol, denied), version) in protocols.flat_map(|one| [(one, 0), (one, 1)]) {
        let (to, back) = (server.addresses()[version], client.addresses()[version]);
        node.enforce(&open);
        let talk = client.space.talk(protocol, to, 80);
        assert_eq!((talk.open(), talk.go_on()), (Heard::Answer, Heard::Answer), "{protocol} to {to}");
        node.enforce(&closed);
        assert_eq!(talk.go_on(), Heard::Answer, "{protocol} to {to}: a known flow goes on");
        let mut flows: Vec<Flow> = node.kernel.flows(&BTreeSet::from([to])).unwrap();
        flows.retain(|flow| flow.protocol == protocol);
        assert_eq!(flows.len(), 1, "{flows:?}");
        node.kernel.cut(&flows).unwrap();
        assert_eq!(talk.go_on(), denied, "{protocol} to {to}");
        if protocol != SCTP {
            assert_eq!(server.space.talk(protocol, back, 80).open(), denied, "{protocol} from {to}");
        }
        node.enforce(&open);
        assert_eq!(talk.open(), Heard::Answer, "{protocol} to {to}: allowed again");
        node.kernel.forget(to, None).unwrap();
    }
}

#[test]
fn a_flow_of_pings_is_one_by_the_type_that_was_asked() {
    let node = Node::new(false);
    let (server, client) = (node.sandbox(0, 2), node.sandbox(0, 3));
    node.enforce(&filtered());
    for (address, protocol, echo) in [(server.v4, 1, 0x0800), (server.v6, 58, 0x8000)] {
        assert_eq!(client.space.ping(address), Heard::Answer);
        let flows = || node.kernel.flows(&BTreeSet::from([address])).unwrap();
        let mut pings = flows();
        pings.retain(|flow| flow.protocol == protocol && flow.answerer == (address, echo));
        assert_eq!(pings.len(), 1, "{:?}", flows());
        node.kernel.cut(&pings).unwrap();
        assert!(!flows().contains(&pings[0]));
        // No other way is shut by it.
        let back = if address.is_ipv4() { client.v4 } else { client.v6 };
        assert_eq!((client.space.ping(address), server.space.ping(back)), (Heard::Answer, Heard::Answer));
    }
}
