//! Ends that are no peers like others: the sandbox itself, by a published port, and its own node.

use std::net::IpAddr;

use netd_config::Protocol;
use netd_kernel::{Direction, Kernel, Key, Object, Objects, Publication, Reach, Scope, Step, Veth};

use crate::node::{Node, Sandbox, ip, link};
use crate::policy::{filtered, isolated, of_class, pair, serve, some_ports};
use crate::space::Heard;

const GATEWAYS: [&str; 2] = ["10.4.0.1", "fd00:0::1"];

/// TCP 8080 of the node leads to the sandbox, which its port lets come back to it.
fn publish(node: &Node, server: &Sandbox) {
    let published = |(address, target): (&str, IpAddr)| {
        let publication = Publication { address: ip(address), protocol: Protocol::Tcp, port: 8080 };
        Step::Create(Key::Published(publication), Object::Target((target, 80).into()))
    };
    let mut steps: Vec<Step> = ["0.0.0.0", "::"].into_iter().zip(server.addresses()).map(published).collect();
    let port = Key::Veth(server.port.clone());
    let Some(Object::Veth(veth)) = node.kernel.observe(Scope::Node).unwrap().remove(&port) else { panic!("{port:?}") };
    steps.push(Step::Replace(port, Object::Veth(Veth { hairpin: true, ..veth })));
    node.apply(steps);
}

/// Whom the node knows at home on its bridge hears the answers of a published port there.
fn at_home(sandbox: &Sandbox) -> Objects {
    sandbox.addresses().map(|address| (Key::Masquerade(address, link("br0")), Object::Set)).into()
}

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
        // How a refusal is told behind a translated address is not looked at.
        let is_heard = |from: &Sandbox| GATEWAYS.map(|address| from.space.tcp(ip(address), 8080) == Heard::Answer);
        assert_eq!((is_heard(&server), is_heard(&other)), ([true; 2], [true; 2]), "no policy");
        policy.extend(directions.iter().flat_map(|direction| isolated(*direction, Reach::Others, &server)));
        node.enforce(&policy);
        assert_eq!(is_heard(&server), [false; 2], "{directions:?}");
        policy.extend(server.addresses().map(|address| (Key::Itself(address, address), Object::Set)));
        node.enforce(&policy);
        let may_others = !directions.contains(&Direction::Ingress);
        assert_eq!((is_heard(&server), is_heard(&other)), ([true; 2], [may_others; 2]), "{directions:?}");
    }
}

#[test]
fn the_own_node_is_asked_about_only_where_that_is_said() {
    let node = Node::new(false);
    let server = node.sandbox(0, 2);
    serve(&server);
    node.space.serve_tcp(&[80]);
    let from_node = || server.addresses().map(|address| node.space.tcp(address, 80));
    let to_node = || GATEWAYS.map(|address| server.space.tcp(ip(address), 80));
    let mut policy = filtered();
    for direction in [Direction::Ingress, Direction::Egress] {
        policy.extend(isolated(direction, Reach::Others, &server));
    }
    node.enforce(&policy);
    assert_eq!((from_node(), to_node()), ([Heard::Answer; 2], [Heard::Answer; 2]));
    for direction in [Direction::Ingress, Direction::Egress] {
        policy.extend(isolated(direction, Reach::Node, &server));
    }
    node.enforce(&policy);
    assert_eq!((from_node(), to_node()), ([Heard::Refusal; 2], [Heard::Refusal; 2]));
    policy.extend(of_class(&server, 1));
    policy.extend(some_ports(7));
    policy.extend([pair(Direction::Ingress, 1, None, 7), pair(Direction::Egress, 1, None, 7)]);
    node.enforce(&policy);
    assert_eq!((from_node(), to_node()), ([Heard::Answer; 2], [Heard::Answer; 2]));
}
