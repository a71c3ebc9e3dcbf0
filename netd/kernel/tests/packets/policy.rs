//! Who passes a policy, by the bridge and across bridges, in IPv4 and IPv6, whatever the node's switch for bridges says.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use netd_kernel::{
    Class, Decision, Direction, Family, Flow, Kernel, Key, Object, Objects, Profile, Reach, Scope, Service, Step,
    profile,
};

use crate::node::{Node, Sandbox, link};
use crate::space::{Heard, ask, goes_on};

const TCP: u8 = 6;
const UDP: u8 = 17;

/// Both bridges' packets pass the rules.
pub(crate) fn filtered() -> Objects {
    ["br0", "br1"].map(|bridge| (Key::Filtered(link(bridge)), Object::Set)).into()
}

fn services(protocol: u8, first: u16, last: u16) -> (Service, Service, Decision) {
    (Service { protocol, port: first }, Service { protocol, port: last }, Decision::Allow)
}

/// TCP 80 and 90 to 95, UDP 53, echo requests.
pub(crate) fn some_ports(number: u32) -> Objects {
    let echo = [services(1, 0x0800, 0x08ff), services(58, 0x8000, 0x80ff)];
    let list = [services(TCP, 80, 80), services(TCP, 90, 95), services(UDP, 53, 53)];
    profile(Profile(number), &[&list[..], &echo[..]].concat(), Decision::Deny)
}

pub(crate) fn of_class(sandbox: &Sandbox, class: u32) -> Vec<(Key, Object)> {
    sandbox.addresses().map(|address| (Key::Class(address), Object::Class(Class(class)))).into()
}

pub(crate) fn isolated(direction: Direction, reach: Reach, sandbox: &Sandbox) -> Vec<(Key, Object)> {
    sandbox.addresses().map(|address| (Key::Isolated(direction, reach, address), Object::Set)).into()
}

pub(crate) fn pair(direction: Direction, subject: u32, peer: Option<u32>, number: u32) -> (Key, Object) {
    (Key::Pair(direction, Class(subject), peer.map(Class)), Object::Profile(Profile(number)))
}

type Question = (&'static str, fn(&Sandbox, IpAddr) -> Heard);

const QUESTIONS: [Question; 6] = [
    ("tcp 80", |from, to| from.space.tcp(to, 80)),
    ("tcp 95", |from, to| from.space.tcp(to, 95)),
    ("tcp 96", |from, to| from.space.tcp(to, 96)),
    ("udp 53", |from, to| from.space.udp(to, 53)),
    ("udp 54", |from, to| from.space.udp(to, 54)),
    ("echo", |from, to| from.space.ping(to)),
];

const ALL: [Heard; 6] = [Heard::Answer; 6];
const NONE: [Heard; 6] = [Heard::Refusal; 6];
const SOME: [Heard; 6] = [Heard::Answer, Heard::Answer, Heard::Refusal, Heard::Answer, Heard::Refusal, Heard::Answer];

pub(crate) fn serve(server: &Sandbox) {
    server.space.serve_tcp(&[80, 95, 96]);
    server.space.serve_udp(&[53, 54]);
}

/// Asks all questions in both versions; all that was heard amiss is told at once.
fn assert_heard(when: &str, table: &[(&str, &Sandbox, &Sandbox, [Heard; 6])]) {
    let mut amiss = Vec::new();
    for (name, from, to, wanted) in table {
        for address in to.addresses() {
            for ((question, ask), wanted) in QUESTIONS.iter().zip(wanted) {
                let heard = ask(from, address);
                if heard != *wanted {
                    amiss.push(format!("{name} to {address} {question}: {heard:?}, not {wanted:?}"));
                }
            }
        }
    }
    assert!(amiss.is_empty(), "{when}: {amiss:#?}");
}

fn ingress(filters_all: bool) {
    let node = Node::new(filters_all);
    let (server, friend, stranger) = (node.sandbox(0, 2), node.sandbox(0, 3), node.sandbox(0, 4));
    let (far_friend, far_stranger, blocked) = (node.sandbox(1, 2), node.sandbox(1, 3), node.sandbox(1, 4));
    serve(&server);
    let table = |known, any, block| {
        [
            ("friend", &friend, &server, known),
            ("stranger", &stranger, &server, any),
            ("far friend", &far_friend, &server, known),
            ("far stranger", &far_stranger, &server, any),
            ("blocked", &blocked, &server, block),
        ]
    };
    assert_heard("no policy", &table(ALL, ALL, ALL));
    let mut policy = filtered();
    policy.extend(isolated(Direction::Ingress, Reach::Others, &server));
    assert_heard_of(&node, &policy, "isolated", &table(NONE, NONE, NONE));
    policy.extend(of_class(&server, 1).into_iter().chain(of_class(&friend, 2)).chain(of_class(&far_friend, 2)));
    policy.extend(some_ports(7));
    policy.insert(pair(Direction::Ingress, 1, Some(2), 7).0, Object::Profile(Profile(7)));
    assert_heard_of(&node, &policy, "a friend", &table(SOME, NONE, NONE));
    // Addresses that are nobody by themselves.
    let block = |address: IpAddr| (Key::Block(address, address), Object::Class(Class(3)));
    policy.extend(blocked.addresses().map(block));
    policy.extend(profile(Profile(8), &[], Decision::Allow));
    policy.extend([pair(Direction::Ingress, 1, Some(3), 8)]);
    assert_heard_of(&node, &policy, "a block", &table(SOME, NONE, ALL));
    policy.extend([pair(Direction::Ingress, 1, None, 7)]);
    assert_heard_of(&node, &policy, "anybody", &table(SOME, SOME, ALL));
    policy.extend([pair(Direction::Ingress, 1, Some(0), 8)]);
    assert_heard_of(&node, &policy, "the world", &table(SOME, ALL, ALL));
    assert_heard_of(&node, &Objects::new(), "no policy any more", &table(ALL, ALL, ALL));
}

fn assert_heard_of(node: &Node, policy: &Objects, when: &str, table: &[(&str, &Sandbox, &Sandbox, [Heard; 6])]) {
    node.enforce(policy);
    assert_heard(when, table);
}

#[test]
fn an_isolated_sandbox_hears_whom_it_may() {
    ingress(false);
}

#[test]
fn an_isolated_sandbox_hears_whom_it_may_where_the_node_filters_all_bridges() {
    ingress(true);
}

#[test]
fn an_isolated_sandbox_asks_whom_it_may() {
    let node = Node::new(false);
    let (asker, other, near, far) = (node.sandbox(0, 2), node.sandbox(0, 3), node.sandbox(0, 4), node.sandbox(1, 2));
    serve(&near);
    serve(&far);
    let table = |one, two, others| {
        [("asker", &asker, &near, one), ("asker", &asker, &far, two), ("other", &other, &near, others)]
    };
    let mut policy = filtered();
    policy.extend(isolated(Direction::Egress, Reach::Others, &asker));
    assert_heard_of(&node, &policy, "isolated", &table(NONE, NONE, ALL));
    policy.extend(of_class(&asker, 1).into_iter().chain(of_class(&near, 2)));
    policy.extend(some_ports(7));
    policy.extend([pair(Direction::Egress, 1, Some(2), 7)]);
    assert_heard_of(&node, &policy, "to one", &table(SOME, NONE, ALL));
    policy.extend([pair(Direction::Egress, 1, Some(0), 7)]);
    assert_heard_of(&node, &policy, "to the world", &table(SOME, SOME, ALL));
    // Both ends have their say.
    policy.extend(isolated(Direction::Ingress, Reach::Others, &near));
    assert_heard_of(&node, &policy, "a deaf ear", &table(NONE, SOME, NONE));
}

#[test]
fn a_bridge_is_filtered_in_place_and_not_by_itself() {
    let node = Node::new(false);
    let (server, client) = (node.sandbox(0, 2), node.sandbox(0, 3));
    serve(&server);
    let ask = || server.addresses().map(|address| client.space.tcp(address, 80));
    let mut policy: Objects = isolated(Direction::Ingress, Reach::Others, &server).into_iter().collect();
    node.enforce(&policy);
    assert_eq!(ask(), [Heard::Answer; 2], "past the rules");
    policy.extend(filtered());
    node.enforce(&policy);
    assert_eq!(ask(), [Heard::Refusal; 2]);
    policy.insert(Key::DropSilently(Family::V4), Object::Set);
    node.enforce(&policy);
    assert_eq!(ask(), [Heard::Nothing, Heard::Refusal]);
}

/// The switch is one of the whole node, and anybody's.
#[test]
fn a_bridge_that_lets_tags_past_the_rules_is_not_filtered() {
    let node = Node::new(false);
    node.enforce(&filtered());
    let observed = || {
        let kernel = Arc::clone(&node.kernel);
        node.space.run(move || kernel.observe(Scope::Node).unwrap().contains_key(&Key::Filtered(link("br0"))))
    };
    assert!(observed());
    node.space.run(|| std::fs::write("/proc/sys/net/bridge/bridge-nf-filter-vlan-tagged", "0").unwrap());
    assert!(!observed());
    node.apply(vec![Step::Create(Key::Filtered(link("br0")), Object::Set)]);
    assert!(observed());
}

#[test]
fn an_audit_lets_pass_and_counts() {
    let node = Node::new(false);
    let (server, client) = (node.sandbox(0, 2), node.sandbox(0, 3));
    serve(&server);
    let mut policy = filtered();
    policy.extend(isolated(Direction::Ingress, Reach::Others, &server));
    policy.extend(of_class(&server, 1));
    policy.extend(profile(Profile(7), &[services(TCP, 80, 80)], Decision::Audit));
    policy.extend([pair(Direction::Ingress, 1, None, 7)]);
    node.enforce(&policy);
    for port in [80, 80, 96] {
        assert_eq!(client.space.tcp(server.v4, port), Heard::Answer);
    }
    let counts = node.kernel.counts().unwrap();
    assert_eq!(counts.len(), 4, "{counts:?}");
    assert_eq!(counts[&Key::Pair(Direction::Ingress, Class(1), None)], 3);
    let spans: Vec<u64> =
        counts.iter().filter(|(key, _)| matches!(key, Key::Span(_))).map(|(_, count)| *count).collect();
    assert_eq!(spans, [0, 2, 1], "below port 80, 80, and above");
}

#[test]
fn what_lost_its_permission_is_cut() {
    let node = Node::new(false);
    let (server, client) = (node.sandbox(0, 2), node.sandbox(0, 3));
    serve(&server);
    let addresses = BTreeSet::from(server.addresses());
    for address in server.addresses() {
        node.enforce(&filtered());
        let mut stream = client.space.connect(address, 96);
        let mut other = client.space.connect(address, 80);
        let socket = client.space.open_udp(address, 54);
        assert_eq!((goes_on(&mut stream), ask(&socket)), (Heard::Answer, Heard::Answer));
        let mut policy = filtered();
        policy.extend(isolated(Direction::Ingress, Reach::Others, &server));
        node.enforce(&policy);
        assert_eq!((goes_on(&mut stream), ask(&socket)), (Heard::Answer, Heard::Answer), "known flows go on");
        let mut flows = node.kernel.flows(&addresses).unwrap();
        flows.retain(|flow| [96, 54].contains(&flow.answerer.1) && flow.answerer.0 == address);
        assert_eq!(flows.len(), 2, "{flows:?}");
        assert!(flows.iter().all(|flow| flow.opener.0 == if address.is_ipv4() { client.v4 } else { client.v6 }));
        node.kernel.cut(&flows).unwrap();
        assert_eq!((goes_on(&mut stream), ask(&socket)), (Heard::Refusal, Heard::Refusal));
        assert_eq!(goes_on(&mut other), Heard::Answer, "that one was not cut");
        node.enforce(&filtered());
        assert_eq!(client.space.tcp(address, 96), Heard::Answer);
        // Where there is none any more.
        node.kernel.cut(&flows).unwrap();
    }
}

/// Without the cut, the server's next word would open the flow anew, in a direction that is allowed.
#[test]
fn what_was_cut_does_not_come_back_from_the_other_end() {
    let node = Node::new(false);
    let (server, client) = (node.sandbox(0, 2), node.sandbox(0, 3));
    node.enforce(&filtered());
    let listener = server.space.run(|| std::net::TcpListener::bind("[::]:80").unwrap());
    let address = server.v4;
    let stream = client.space.run(move || std::net::TcpStream::connect((address, 80)).unwrap());
    let mut accepted = listener.accept().unwrap().0;
    let mut policy = filtered();
    policy.extend(isolated(Direction::Ingress, Reach::Others, &server));
    node.enforce(&policy);
    let flows: Vec<Flow> = node.kernel.flows(&BTreeSet::from([server.v4])).unwrap();
    node.kernel.cut(&flows).unwrap();
    assert_eq!(goes_on(&mut accepted), Heard::Refusal);
    drop(stream);
}

/// Conntrack did not see it begin: whose answer it is nobody can tell.
#[test]
fn what_began_before_its_bridge_was_filtered_is_refused_to_an_isolated_sandbox() {
    let node = Node::new(false);
    let (server, client, other) = (node.sandbox(0, 2), node.sandbox(0, 3), node.sandbox(0, 4));
    serve(&server);
    serve(&other);
    for address in server.addresses() {
        let mut stream = client.space.connect(address, 80);
        let mut between_others = client.space.connect(other.v4, 80);
        let mut policy = filtered();
        policy.extend(isolated(Direction::Ingress, Reach::Others, &server));
        node.enforce(&policy);
        assert_eq!(goes_on(&mut stream), Heard::Refusal, "{address}");
        assert_eq!(goes_on(&mut between_others), Heard::Answer);
        node.enforce(&Objects::new());
    }
}

/// The kernel changes all sets at one moment, but a packet that is being looked at then may have its class from before and
/// its pair from after. Where no number gets another meaning, such a packet finds nothing, and is refused.
#[test]
fn no_packet_passes_by_half_a_policy() {
    let node = Node::new(false);
    let (server, client) = (node.sandbox(0, 2), node.sandbox(0, 3));
    serve(&server);
    let policy = |class: u32, number: u32| {
        let mut policy = filtered();
        policy.extend(isolated(Direction::Ingress, Reach::Others, &server));
        policy.extend(of_class(&server, class));
        policy.extend(some_ports(number));
        policy.extend([pair(Direction::Ingress, class, None, number)]);
        policy
    };
    let (one, two) = (policy(1, 7), policy(2, 8));
    node.enforce(&one);
    let (ends, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
    let (done, questions, address) = (Arc::clone(&ends), Arc::clone(&asked), server.v4);
    let asking = std::thread::spawn(move || {
        let mut refused = 0;
        while !done.load(Ordering::Relaxed) {
            let asked = questions.fetch_add(1, Ordering::Relaxed) + 1;
            refused += u32::from(client.space.tcp(address, 80) == Heard::Refusal);
            assert_eq!(client.space.tcp(address, 96), Heard::Refusal, "after {asked}");
        }
        refused
    });
    let mut changes = 0;
    while changes < 300 || (asked.load(Ordering::Relaxed) < 51 && !asking.is_finished()) {
        node.enforce(&two);
        node.enforce(&one);
        changes += 1;
    }
    ends.store(true, Ordering::Relaxed);
    let refused = asking.join().unwrap();
    let asked = asked.load(Ordering::Relaxed);
    assert!(refused * 50 < asked, "{refused} of {asked} refused by half a policy");
}

/// A helper of somebody's sees in a packet that another connection is to come, and conntrack calls that one related.
#[test]
fn of_what_is_related_to_a_known_flow_errors_pass_unasked_and_nothing_else() {
    const READ: &[u8] = b"\x00\x01file\x00octet\x00";
    let node = Node::new(false);
    let (server, client) = (node.sandbox(0, 2), node.sandbox(0, 3));
    for line in [
        "add table inet helping",
        "add ct helper inet helping tftp { type \"tftp\" protocol udp ; }",
        "add chain inet helping seen { type filter hook prerouting priority -150 ; }",
        "add rule inet helping seen udp dport 69 ct helper set \"tftp\"",
    ] {
        node.space.output(&format!("nft {line}"));
    }
    for is_isolated in [false, true] {
        let mut policy = filtered();
        if is_isolated {
            policy.extend(isolated(Direction::Ingress, Reach::Others, &client));
        }
        node.enforce(&policy);
        let [asks, answers] = [(&client, 0), (&server, 69)].map(|(of, port)| {
            let address = (of.v4, port);
            of.space.run(move || std::net::UdpSocket::bind(address).unwrap())
        });
        asks.set_read_timeout(Some(std::time::Duration::from_secs(1))).unwrap();
        asks.send_to(READ, (server.v4, 69)).unwrap();
        let (_, asker) = answers.recv_from(&mut [0; 64]).unwrap();
        let address = server.v4;
        let other = server.space.run(move || std::net::UdpSocket::bind((address, 0)).unwrap());
        other.send_to(b"data", asker).unwrap();
        assert_eq!(asks.recv_from(&mut [0; 64]).is_ok(), !is_isolated);
        // Nobody is there; who says so is the server's kernel.
        for address in server.addresses() {
            assert_eq!(client.space.udp(address, 9), Heard::Refusal, "{address}");
        }
    }
}
