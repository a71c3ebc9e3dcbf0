//! What a sandbox sends that is not its own does not arrive, and arrives where nobody guards.

use netd_kernel::{Direction, Key, Mac, Object, Objects, Reach};

use crate::frames::{self, IPIP, OPTIONS, behind_options, framed, udp};
use crate::node::{Node, Sandbox, link};
use crate::space::{Heard, Space, hears_frame};

const GATEWAY: [u8; 4] = [10, 4, 0, 1];
const FOREIGN: [u8; 4] = [10, 4, 0, 9];
const FOREIGN_MAC: Mac = [2, 0, 0, 0, 0, 9];
const ALL_NODES: [u8; 16] = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];

struct Frames {
    to: Mac,
    from: Mac,
    v4: ([u8; 4], [u8; 4]),
    v6: ([u8; 16], [u8; 16]),
}

impl Frames {
    fn between(from: &Sandbox, to: &Sandbox) -> Self {
        let v4 = |sandbox: &Sandbox| if let std::net::IpAddr::V4(v4) = sandbox.v4 { v4.octets() } else { [0; 4] };
        let v6 = |sandbox: &Sandbox| if let std::net::IpAddr::V6(v6) = sandbox.v6 { v6.octets() } else { [0; 16] };
        Self { to: to.mac, from: from.mac, v4: (v4(from), v4(to)), v6: (v6(from), v6(to)) }
    }

    fn ethernet(&self, from: Mac, protocol: u16, payload: &[u8]) -> Vec<u8> {
        frames::ethernet(self.to, from, protocol, payload)
    }

    fn ipv4(&self, mac: Mac, from: [u8; 4], protocol: u8, payload: &[u8]) -> Vec<u8> {
        framed(self.to, mac, &frames::ipv4(from, self.v4.1, protocol, payload))
    }

    fn ipv6(&self, mac: Mac, from: [u8; 16], to: [u8; 16], protocol: u8, payload: &[u8]) -> Vec<u8> {
        framed(self.to, mac, &frames::ipv6(from, to, protocol, payload))
    }

    fn arp(&self, mac: Mac, sender: Mac, address: [u8; 4], marker: &[u8]) -> Vec<u8> {
        let head = [0, 1, 8, 0, 6, 4, 0, 2];
        self.ethernet(mac, 0x0806, &[&head[..], &sender, &address, &self.to, &self.v4.1, marker].concat())
    }
}

fn neighbour(kind: u8, target: [u8; 16], option: Mac) -> Vec<u8> {
    let option_kind = if kind == 135 { 1 } else { 2 };
    [&[kind, 0, 0, 0, 0x20, 0, 0, 0][..], &target, &[option_kind, 1], &option].concat()
}

/// The octets that a frame is known by.
fn marker(round: &str, name: &str) -> Vec<u8> {
    format!("<{round}: {name}>").into_bytes()
}

/// What is sent, and whether it is the sandbox's own.
fn cases(f: &Frames, round: &str) -> Vec<(&'static str, bool, Vec<u8>)> {
    let (mac, v4, v6, peer6) = (f.from, f.v4.0, f.v6.0, f.v6.1);
    let mut foreign6 = v6;
    foreign6[15] = 9;
    let mut local = [0_u8; 16];
    local[..2].copy_from_slice(&[0xfe, 0x80]);
    local[8..].copy_from_slice(&[mac[0] ^ 2, mac[1], mac[2], 0xff, 0xfe, mac[3], mac[4], mac[5]]);
    let mut cases = Vec::new();
    let mut case =
        |name, is_own, make: &dyn Fn(&[u8]) -> Vec<u8>| cases.push((name, is_own, make(&marker(round, name))));
    case("own IPv4", true, &|m| f.ipv4(mac, v4, 17, &udp(9, 9, m)));
    case("foreign IPv4", false, &|m| f.ipv4(mac, FOREIGN, 17, &udp(9, 9, m)));
    case("foreign MAC", false, &|m| f.ipv4(FOREIGN_MAC, v4, 17, &udp(9, 9, m)));
    case("DHCP client", true, &|m| f.ipv4(mac, [0; 4], 17, &udp(68, 67, m)));
    case("no address", false, &|m| f.ipv4(mac, [0; 4], 17, &udp(9, 67, m)));
    case("DHCP server", false, &|m| f.ipv4(mac, v4, 17, &udp(67, 68, m)));
    case("IPv4 in IPv4", false, &|m| f.ipv4(mac, v4, 4, m));
    case("IPv6 in IPv4", false, &|m| f.ipv4(mac, v4, 41, m));
    case("own IPv6", true, &|m| f.ipv6(mac, v6, peer6, 17, &udp(9, 9, m)));
    case("own link-local IPv6", true, &|m| f.ipv6(mac, local, peer6, 17, &udp(9, 9, m)));
    case("own TCP over IPv6", true, &|m| f.ipv6(mac, v6, peer6, 6, &[&[0; 20][..], m].concat()));
    case("foreign TCP over IPv6", false, &|m| f.ipv6(mac, foreign6, peer6, 6, &[&[0; 20][..], m].concat()));
    case("own IPv4, said to be IPv6", false, &|m| {
        f.ethernet(mac, 0x86dd, &frames::ipv4(v4, [10, 4, 0, 3], 17, &udp(9, 9, m)))
    });
    case("own behind a header", true, &|m| f.ipv6(mac, v6, peer6, OPTIONS, &behind_options(17, &udp(9, 9, m))));
    case("IPv4 behind a header", false, &|m| f.ipv6(mac, v6, peer6, OPTIONS, &behind_options(IPIP, m)));
    case("DHCPv6 server behind a header", false, &|m| {
        f.ipv6(mac, v6, peer6, OPTIONS, &behind_options(17, &udp(547, 546, m)))
    });
    case("foreign IPv6", false, &|m| f.ipv6(mac, foreign6, peer6, 17, &udp(9, 9, m)));
    case("IPv6 of a foreign MAC", false, &|m| f.ipv6(FOREIGN_MAC, v6, peer6, 17, &udp(9, 9, m)));
    case("DHCPv6 server", false, &|m| f.ipv6(mac, v6, peer6, 17, &udp(547, 546, m)));
    let router = [134, 0, 0, 0, 64, 0, 0, 90, 0, 0, 0, 0, 0, 0, 0, 0];
    case("router", false, &|m| f.ipv6(mac, local, ALL_NODES, 58, &[&router[..], m].concat()));
    let redirect = [&[137, 0, 0, 0, 0, 0, 0, 0][..], &foreign6, &peer6].concat();
    case("redirect", false, &|m| f.ipv6(mac, local, peer6, 58, &[&redirect[..], m].concat()));
    case("own ARP", true, &|m| f.arp(mac, mac, v4, m));
    case("ARP probe", true, &|m| f.arp(mac, mac, [0; 4], m));
    case("ARP of the gateway", false, &|m| f.arp(mac, mac, GATEWAY, m));
    case("ARP of another MAC", false, &|m| f.arp(mac, FOREIGN_MAC, v4, m));
    case("ARP by another MAC", false, &|m| f.arp(FOREIGN_MAC, mac, v4, m));
    let tagged = |vlan: u8, frame: &[u8]| [&frame[..12], &[0x81, 0, 0, vlan], &frame[12..]].concat();
    case("own IPv4 with a tag", false, &|m| tagged(0, &f.ipv4(mac, v4, 17, &udp(9, 9, m))));
    case("own ARP with a tag", false, &|m| tagged(7, &f.arp(mac, mac, v4, m)));
    case("another protocol", false, &|m| f.ethernet(mac, 0x88b5, m));
    cases
}

/// Neighbour discovery has no room for a marker: it is known by its whole message.
fn discoveries(frames: &Frames) -> Vec<(&'static str, bool, Vec<u8>)> {
    let (mac, v6, peer6) = (frames.from, frames.v6.0, frames.v6.1);
    let mut foreign6 = v6;
    foreign6[15] = 9;
    let hidden = [&neighbour(136, v6, mac)[..24], &[14, 1, 0, 0, 0, 0, 0, 0, 2, 1], &FOREIGN_MAC].concat();
    let message = |name, is_own, body: Vec<u8>| (name, is_own, frames.ipv6(mac, v6, peer6, 58, &body));
    vec![
        message("own advertisement", true, neighbour(136, v6, mac)),
        message("own advertisement without a MAC", true, neighbour(136, v6, mac)[..24].to_vec()),
        message("advertisement of another", false, neighbour(136, foreign6, mac)),
        message("advertisement of another MAC", false, neighbour(136, v6, FOREIGN_MAC)),
        message("advertisement with a hidden MAC", false, hidden),
        message("own solicitation", true, neighbour(135, peer6, mac)),
        message("solicitation of another MAC", false, neighbour(135, peer6, FOREIGN_MAC)),
    ]
}

#[test]
fn only_its_own_leaves_a_guarded_port() {
    let node = Node::new(false);
    let (sender, receiver) = (node.sandbox(0, 2), node.sandbox(0, 3));
    let ears = receiver.space.listen();
    let arrived = |frame: &[u8], marker: &[u8]| {
        sender.space.send_frame(frame);
        hears_frame(&ears, marker)
    };
    let frames = Frames::between(&sender, &receiver);
    for is_guarded in [false, true] {
        if is_guarded {
            node.enforce(&sender.guard());
        }
        let round = if is_guarded { "guarded" } else { "not guarded" };
        let (mut heard, mut expected) = (String::new(), String::new());
        for (name, is_own, frame) in cases(&frames, round) {
            heard.push_str(&format!("{name}: {}\n", arrived(&frame, &marker(round, name))));
            expected.push_str(&format!("{name}: {}\n", is_own || !is_guarded));
        }
        for (name, is_own, frame) in discoveries(&frames) {
            heard.push_str(&format!("{name}: {}\n", arrived(&frame, &frame)));
            expected.push_str(&format!("{name}: {}\n", is_own || !is_guarded));
        }
        assert_eq!(heard, expected, "{round}");
    }
}

/// The tag of VLAN 0 is none to its receiver. Nobody guards the sender here: the bridge's filter alone has to stand.
#[test]
fn a_tag_leads_past_no_policy() {
    let node = Node::new(false);
    let (sender, receiver) = (node.sandbox(0, 2), node.sandbox(0, 3));
    let (ears, frames) = (receiver.space.listen(), Frames::between(&sender, &receiver));
    let arrives = |marker: &[u8]| {
        let frame = frames.ipv4(sender.mac, frames.v4.0, 17, &udp(9, 9, marker));
        sender.space.send_frame(&[&frame[..12], &[0x81, 0, 0, 0], &frame[12..]].concat());
        hears_frame(&ears, marker)
    };
    assert!(arrives(b"<before>"));
    let mut policy = crate::policy::filtered();
    policy.extend(crate::policy::isolated(Direction::Ingress, Reach::Others, &receiver));
    node.enforce(&policy);
    assert!(!arrives(b"<isolated>"));
}

/// What goes to a VLAN's gateway passes the bridge untracked, and is judged where it comes out. A frame to such a MAC that no
/// gateway has would be flooded, and come out at sandboxes that listen to all.
#[test]
fn the_mac_of_a_gateway_leads_past_no_policy() {
    let node = Node::new(false);
    let (sender, receiver) = (node.sandbox(0, 2), node.sandbox(0, 3));
    let (ears, frames) = (receiver.space.listen(), Frames::between(&sender, &receiver));
    let arrives = |to: Mac, marker: &[u8]| {
        let frame = frames.ipv4(sender.mac, frames.v4.0, 17, &udp(9, 9, marker));
        sender.space.send_frame(&[&to[..], &frame[6..]].concat());
        hears_frame(&ears, marker)
    };
    assert!(arrives(FOREIGN_MAC, b"<flooded>"));
    let mut policy = crate::policy::filtered();
    policy.extend(crate::policy::isolated(Direction::Ingress, Reach::Others, &receiver));
    node.enforce(&policy);
    assert!(!arrives(FOREIGN_MAC, b"<isolated>"));
    assert!(!arrives([0x06, 0x6e, 0x67, 1, 2, 3], b"<to a gateway>"));
}

/// A veth into another namespace, whose end there has the name and MAC; this end is a port of `br0`.
fn plugged(node: &Node, port: &str, end: &str, mac: &str) -> Space {
    let far = Space::new();
    node.space.output(&format!("ip link add {port} type veth peer name {end} address {mac} netns {}", far.path()));
    node.space.output(&format!("ip link set {port} master br0 up"));
    far.output(&format!("ip link set {end} up"));
    far
}

/// The one exception is what the bridge itself does not track: what is between a sandbox and the gateway of its VLAN.
#[test]
fn what_somebody_does_not_track_is_asked_about_all_the_same() {
    let node = Node::new(false);
    let (sender, near, far) = (node.sandbox(0, 3), node.sandbox(0, 2), node.sandbox(1, 2));
    for receiver in [&near, &far] {
        receiver.space.serve_udp(&[53]);
    }
    let gateway_mac = [0x06, 0x6e, 0x67, 1, 2, 3];
    let gateway = plugged(&node, "ndg0000001", "eth0", "06:6e:67:01:02:03");
    let mut policy = crate::policy::filtered();
    for receiver in [&near, &far] {
        policy.extend(crate::policy::isolated(Direction::Ingress, Reach::Others, receiver));
    }
    node.enforce(&policy);
    for line in [
        "add table inet others",
        "add chain inet others first { type filter hook prerouting priority -300 ; }",
        "add rule inet others first notrack",
    ] {
        node.space.output(&format!("nft {line}"));
    }
    let addresses = near.addresses().into_iter().chain(far.addresses());
    let heard: Vec<_> = addresses.filter(|address| sender.space.udp(*address, 53) == Heard::Answer).collect();
    assert!(heard.is_empty(), "{heard:?}");
    node.space.output("nft delete table inet others");
    let (frames, ears) = (Frames::between(&sender, &near), gateway.listen());
    let v6 = |marker: &[u8]| frames::ipv6(frames.v6.0, frames.v6.1, 17, &udp(9, 9, marker));
    let v4 = |marker: &[u8]| frames::ipv4(frames.v4.0, frames.v4.1, 17, &udp(9, 9, marker));
    for (marker, packet) in [(b"<4>", v4(b"<4>")), (b"<6>", v6(b"<6>"))] {
        sender.space.send_frame(&framed(gateway_mac, sender.mac, &packet));
        assert!(hears_frame(&ears, marker), "what goes to a gateway is judged behind it");
        let ears = near.space.listen();
        gateway.send_frame(&framed(near.mac, gateway_mac, &packet));
        assert!(hears_frame(&ears, marker), "what comes from a gateway is judged before it");
    }
}

/// The kernel takes two tags of VLAN 0 off a frame, one after the other (`__netif_receive_skb_core`, net/core/dev.c), and the
/// bridge's filter sees a frame of neither IPv4 nor IPv6.
#[test]
fn a_tag_inside_a_trunks_tag_leads_past_no_policy() {
    let node = Node::new(false);
    let (sender, receiver) = (node.sandbox(0, 2), node.sandbox(0, 3));
    let (ears, frames) = (receiver.space.listen(), Frames::between(&sender, &receiver));
    let arrives = |inner: [u8; 2], marker: &[u8]| {
        let frame = frames.ipv4(sender.mac, frames.v4.0, 17, &udp(9, 9, marker));
        let tags = [&[0x81, 0, 0, 0][..], &inner, &[0, 0]].concat();
        sender.space.send_frame(&[&frame[..12], &tags, &frame[12..]].concat());
        hears_frame(&ears, marker)
    };
    let socket = receiver.space.run(|| std::net::UdpSocket::bind("0.0.0.0:9").unwrap());
    socket.set_read_timeout(Some(std::time::Duration::from_secs(1))).unwrap();
    assert!(arrives([0x81, 0], b"<nobody guards>"));
    assert!(socket.recv(&mut [0; 64]).is_ok());
    let mut objects = sender.guard();
    objects.insert(Key::Trunk(sender.port.clone()), Object::Set);
    objects.extend(crate::policy::filtered());
    objects.extend(crate::policy::isolated(Direction::Ingress, Reach::Others, &receiver));
    node.enforce(&objects);
    assert!(!arrives([0x81, 0], b"<customer's>"));
    assert!(!arrives([0x88, 0xa8], b"<provider's>"));
}

#[test]
fn a_trunk_sends_with_tags_by_its_own_mac() {
    let node = Node::new(false);
    let (sender, receiver) = (node.sandbox(0, 2), node.sandbox(0, 3));
    let mut guard = sender.guard();
    guard.insert(Key::Trunk(sender.port.clone()), Object::Set);
    node.enforce(&guard);
    let (ears, frames) = (receiver.space.listen(), Frames::between(&sender, &receiver));
    let sent = |from: Mac, tag: &[u8], address, marker: &[u8]| {
        let frame = frames.ipv4(from, address, 17, &udp(9, 9, marker));
        sender.space.send_frame(&[&frame[..12], tag, &frame[12..]].concat());
        hears_frame(&ears, marker)
    };
    let tag = [0x81, 0, 0, 7];
    assert!(sent(sender.mac, &tag, FOREIGN, b"<tagged>"));
    assert!(!sent(FOREIGN_MAC, &tag, frames.v4.0, b"<tagged, by a foreign MAC>"));
    assert!(!sent(sender.mac, &[], FOREIGN, b"<foreign, without a tag>"));
    assert!(!sent(sender.mac, &[0x88, 0xa8, 0, 7], frames.v4.0, b"<a provider's tag>"));
}

#[test]
fn guarded_sandboxes_find_each_other_and_the_outside() {
    let node = Node::new(false);
    let (one, two, far) = (node.sandbox(0, 2), node.sandbox(0, 3), node.sandbox(1, 2));
    let mut guard = Objects::new();
    for sandbox in [&one, &two, &far] {
        guard.extend(sandbox.guard());
    }
    node.enforce(&guard);
    two.space.serve_tcp(&[80]);
    far.space.serve_tcp(&[80]);
    for address in two.addresses().into_iter().chain(far.addresses()) {
        assert_eq!(one.space.tcp(address, 80), Heard::Answer, "{address}");
    }
    // What belongs to a port alone goes with it; the port stays shut to what has nobody's leave.
    guard.remove(&Key::PortAddress(one.port.clone(), one.mac, one.v4));
    node.enforce(&guard);
    assert_eq!(one.space.udp(two.v4, 80), Heard::Nothing);
    assert_eq!(one.space.tcp(two.v6, 80), Heard::Answer);
}

#[test]
fn a_deaf_port_gets_no_multicast_and_is_found_all_the_same() {
    let node = Node::new(false);
    let (one, two) = (node.sandbox(0, 2), node.sandbox(0, 3));
    two.space.serve_tcp(&[80]);
    let ears = two.space.listen();
    let frames = Frames::between(&one, &two);
    let multicast = |marker: &[u8]| {
        let mut frame = frames.ipv4(one.mac, frames.v4.0, 17, &udp(5353, 5353, marker));
        frame[..6].copy_from_slice(&[1, 0, 0x5e, 0, 0, 0xfb]);
        let mut wide = frames.ipv6(one.mac, frames.v6.0, ALL_NODES, 17, &udp(5353, 5353, marker));
        wide[..6].copy_from_slice(&[0x33, 0x33, 0, 0, 0, 1]);
        [frame, wide]
    };
    for (marker, is_deaf) in [(&b"marker-before"[..], false), (b"marker-after", true)] {
        if is_deaf {
            node.enforce(&Objects::from([(Key::NoFlood(link(two.port.as_str())), Object::Set)]));
        }
        for frame in multicast(marker) {
            one.space.send_frame(&frame);
            assert_eq!(hears_frame(&ears, marker), !is_deaf);
        }
    }
    let broadcast = |from: u16, marker: &[u8]| {
        let mut frame = frames.ipv4(one.mac, frames.v4.0, 17, &udp(from, 68, marker));
        frame[..6].fill(0xff);
        one.space.send_frame(&frame);
        hears_frame(&ears, marker)
    };
    assert!(broadcast(67, b"<a DHCP server>"));
    assert!(!broadcast(5353, b"<somebody at a DHCP client's port>"));
    // Neither had asked for the other yet.
    for address in two.addresses() {
        assert_eq!(one.space.tcp(address, 80), Heard::Answer, "{address}");
    }
}
