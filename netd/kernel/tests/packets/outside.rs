//! Who is beside the node is nobody of its own, whatever he says.

use std::net::{IpAddr, SocketAddrV6, TcpStream};

use netd_kernel::{Decision, Direction, Mac, Object, Profile, Reach, link_local_of, profile};

use crate::discovery::mac;
use crate::frames::{datagram, framed};
use crate::node::{Node, ip};
use crate::policy::{filtered, isolated, of_class, pair};
use crate::space::{Space, hears_frame};

const OWN: Mac = [2, 0, 0, 0, 0, 9];

/// Somebody on the segment of an uplink where nobody asks for the way back (`rp_filter` 0, and IPv6 has none).
fn beside(node: &Node) -> Space {
    let beside = Space::new();
    node.space
        .output(&format!("ip link add up0 type veth peer name eth0 address 02:00:00:00:00:09 netns {}", beside.path()));
    for (space, link, number) in [(&node.space, "up0", 1), (&beside, "eth0", 9)] {
        space.output(&format!("ip addr add 192.0.2.{number}/24 dev {link}"));
        space.output(&format!("ip addr add 2001:db8::{number}/64 dev {link} nodad"));
        space.output(&format!("ip link set {link} addrgenmode none"));
        let mac = mac(space, link);
        space.output(&format!("ip addr add {}/64 dev {link} nodad", link_local_of(mac)));
        space.output(&format!("ip link set {link} up"));
        for link in ["all".to_owned(), link.to_owned()] {
            space.run(move || std::fs::write(format!("/proc/sys/net/ipv4/conf/{link}/rp_filter"), "0").unwrap());
        }
    }
    beside
}

#[test]
fn who_is_beside_the_node_is_no_sandbox_of_its_by_that_ones_address() {
    let node = Node::new(false);
    let (server, friend, routed) = (node.sandbox(0, 2), node.sandbox(0, 3), node.routed_sandbox(7));
    let beside = beside(&node);
    let uplink = mac(&node.space, "up0");
    let mut policy = filtered();
    policy.extend(isolated(Direction::Ingress, Reach::Others, &server));
    policy.extend(of_class(&server, 1).into_iter().chain(of_class(&friend, 2)).chain(of_class(&routed, 2)));
    policy.extend(profile(Profile(7), &[], Decision::Allow));
    policy.extend([pair(Direction::Ingress, 1, Some(2), 7)]);
    node.enforce(&policy);
    let ears = server.space.listen();
    let arrives = |from: IpAddr, to: IpAddr, marker: &str| {
        let packet = datagram((from, 9), (to, 53), marker.as_bytes());
        beside.send_frame(&framed(uplink, OWN, &packet));
        hears_frame(&ears, marker.as_bytes())
    };
    for of in [&friend, &routed] {
        for (from, to) in of.addresses().into_iter().zip(server.addresses()) {
            assert!(!arrives(from, to, &format!("<as {from}>")), "{from}");
        }
    }
    policy.insert(pair(Direction::Ingress, 1, Some(0), 7).0, Object::Profile(Profile(7)));
    node.enforce(&policy);
    for (from, to) in ["192.0.2.9", "2001:db8::9"].into_iter().zip(server.addresses()) {
        assert!(arrives(ip(from), to, &format!("<as {from}>")), "{from}");
    }
    // The node itself, by an address that may be on any link.
    let IpAddr::V6(near) = link_local_of(uplink) else { panic!("of IPv6") };
    let index = beside.output("ip -o link show eth0").split(':').next().unwrap().parse().unwrap();
    let asked = beside.run(move || TcpStream::connect(SocketAddrV6::new(near, 9, 0, index)).unwrap_err().kind());
    assert_eq!(asked, std::io::ErrorKind::ConnectionRefused);
}
