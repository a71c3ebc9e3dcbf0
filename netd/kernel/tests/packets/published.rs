//! Published ports that policies deny: who is refused hears so, and not from an address that he did not ask.

use std::collections::BTreeSet;
use std::net::IpAddr;

use netd_config::Protocol;
use netd_kernel::{
    Class, Decision, Direction, Family, Flow, Kernel, Key, Object, Objects, Profile, Publication, Reach, Scope, Step,
    Veth, profile,
};

use crate::node::{Node, Sandbox, ip, link};
use crate::policy::{filtered, isolated, of_class, pair, serve};
use crate::space::{Heard, ask, goes_on};

/// The node's addresses on the two bridges.
pub(crate) const GATEWAYS: [&str; 2] = ["10.4.0.1", "fd00:0::1"];

/// TCP 8080 and 8096 and UDP 8053 of the node lead to the sandbox, which its port lets come back to it.
pub(crate) fn publish(node: &Node, server: &Sandbox) {
    let ports = [(Protocol::Tcp, 8080, 80), (Protocol::Tcp, 8096, 96), (Protocol::Udp, 8053, 53)];
    let published = |(address, target): (&str, IpAddr)| {
        let address = ip(address);
        ports.map(|(protocol, port, inside)| {
            let publication = Publication { address, protocol, port };
            Step::Create(Key::Published(publication), Object::Target((target, inside).into()))
        })
    };
    let mut steps: Vec<Step> = ["0.0.0.0", "::"].into_iter().zip(server.addresses()).flat_map(published).collect();
    let port = Key::Veth(server.port.clone());
    let Some(Object::Veth(veth)) = node.kernel.observe(Scope::Node).unwrap().remove(&port) else { panic!("{port:?}") };
    steps.push(Step::Replace(port, Object::Veth(Veth { hairpin: true, ..veth })));
    node.apply(steps);
}

/// Whom the node knows at home on its bridge hears the answers of a published port there.
pub(crate) fn at_home(sandbox: &Sandbox) -> Objects {
    sandbox.addresses().map(|address| (Key::Masquerade(address, link("br0")), Object::Set)).into()
}

fn everybody_is_refused_in_words(filters_all: bool) {
    let node = Node::new(filters_all);
    let (server, near, far) = (node.sandbox(0, 2), node.sandbox(0, 3), node.sandbox(1, 2));
    serve(&server);
    publish(&node, &server);
    let mut policy = filtered();
    policy.extend(at_home(&server).into_iter().chain(at_home(&near)));
    let heard = |when: &str, wanted: [Heard; 2]| {
        for (who, from) in [("near", &near), ("far", &far), ("itself", &server)] {
            for (address, wanted) in GATEWAYS.map(ip).into_iter().zip(wanted) {
                let heard = [from.space.tcp(address, 8080), from.space.udp(address, 8053)];
                assert_eq!(heard, [wanted; 2], "{when}: TCP and UDP from {who} by {address}");
            }
        }
    };
    node.enforce(&policy);
    heard("no policy", [Heard::Answer; 2]);
    policy.extend(isolated(Direction::Ingress, Reach::Others, &server));
    node.enforce(&policy);
    heard("isolated", [Heard::Refusal; 2]);
    policy.insert(Key::DropSilently(Family::V4), Object::Set);
    node.enforce(&policy);
    heard("without a word by IPv4", [Heard::Nothing, Heard::Refusal]);
}

#[test]
fn who_is_denied_a_published_port_is_told_so() {
    everybody_is_refused_in_words(false);
}

#[test]
fn who_is_denied_a_published_port_is_told_so_where_the_node_filters_all_bridges() {
    everybody_is_refused_in_words(true);
}

/// A rule that names nodes stands between a sandbox and its own node, by a published port too.
#[test]
fn the_node_itself_is_told_so_by_whatever_address_it_asks() {
    let node = Node::new(false);
    let server = node.sandbox(0, 2);
    serve(&server);
    publish(&node, &server);
    let mut policy = filtered();
    let heard = || ["10.4.0.1", "127.0.0.1", "fd00:0::1"].map(|address| node.space.tcp(ip(address), 8080));
    node.enforce(&policy);
    assert_eq!(heard(), [Heard::Answer; 3]);
    policy.extend(isolated(Direction::Ingress, Reach::Node, &server).into_iter().chain(of_class(&server, 1)));
    policy.extend(profile(Profile(9), &[], Decision::Deny));
    policy.extend([pair(Direction::Ingress, 1, Some(Class::NODE.0), 9)]);
    node.enforce(&policy);
    assert_eq!(heard(), [Heard::Refusal; 3]);
}

#[test]
fn what_lost_its_permission_by_a_published_port_is_cut_at_once() {
    let node = Node::new(false);
    let (server, near, far) = (node.sandbox(0, 2), node.sandbox(0, 3), node.sandbox(1, 2));
    serve(&server);
    publish(&node, &server);
    let mut policy = filtered();
    policy.extend(at_home(&server).into_iter().chain(at_home(&near)));
    for (who, from) in [("near", &near), ("far", &far)] {
        for address in GATEWAYS.map(ip) {
            node.enforce(&policy);
            let mut stream = from.space.connect(address, 8096);
            let datagrams = from.space.open_udp(address, 8053);
            assert_eq!((goes_on(&mut stream), ask(&datagrams)), (Heard::Answer, Heard::Answer));
            let mut then = policy.clone();
            then.extend(isolated(Direction::Ingress, Reach::Others, &server));
            node.enforce(&then);
            let mut flows: Vec<Flow> = node.kernel.flows(&BTreeSet::from(server.addresses())).unwrap();
            flows.retain(|flow| from.addresses().contains(&flow.opener.0) && flow.asked.0 == address);
            assert_eq!(flows.len(), 2, "{flows:?}");
            node.kernel.cut(&flows).unwrap();
            let heard = (goes_on(&mut stream), ask(&datagrams));
            assert_eq!(heard, (Heard::Refusal, Heard::Refusal), "{who} by {address}");
        }
    }
}
