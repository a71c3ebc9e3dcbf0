//! Objects that laws speak of, as both kernels read them back: with their MTU, without a MAC that was asked for.

use std::collections::BTreeMap;
use std::net::IpAddr;

use netd_config::{LinkName, Protocol};
use netd_kernel::{
    Bridge, Class, Decision, Direction, Encapsulation, Entrance, Family, Hop, Interface, Key, LinkSettings, Mac,
    NetnsId, Object, Objects, Port, Profile, Publication, Reach, Service, Tunnel, Veth, fixed_ruleset, profile,
};

pub(crate) fn link(name: &str) -> LinkName {
    LinkName::new(name).unwrap()
}

pub(crate) fn bridge_of(addresses: &[&str]) -> (Key, Object) {
    let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
    (
        Key::Bridge(link("br0")),
        Object::Bridge(Bridge { addresses, mtu: Some(1_400), promisc: false, vlan_filtering: false }),
    )
}

pub(crate) fn bridge() -> (Key, Object) {
    bridge_of(&["10.4.0.1/24", "fd00::1/64"])
}

pub(crate) fn veth_of(id: NetnsId) -> Veth {
    Veth {
        bridge: Some(link("br0")),
        peer: (id, link("eth0")),
        peer_mac: None,
        mtu: Some(1_400),
        hairpin: true,
        isolated: false,
        vlans: None,
        port: Port::Open,
    }
}

pub(crate) fn veth_key(number: u16) -> Key {
    Key::Veth(link(&format!("nd{number}")))
}

pub(crate) fn veth(id: NetnsId, number: u16) -> (Key, Object) {
    (veth_key(number), Object::Veth(veth_of(id)))
}

pub(crate) fn interface_key(id: NetnsId) -> Key {
    Key::Interface(id, link("eth0"))
}

pub(crate) fn interface_of(addresses: &[&str]) -> Object {
    let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
    let (routes, sysctls, settings) = (Vec::new(), BTreeMap::new(), LinkSettings::default());
    Object::Interface(Interface { addresses, routes, sysctls, settings, quick_link_local: false })
}

pub(crate) fn interface(id: NetnsId, number: u16) -> (Key, Object) {
    (interface_key(id), interface_of(&[&format!("10.4.0.{number}/24"), &format!("fd00::{number}/64")]))
}

pub(crate) fn published(address: &str, port: u16) -> Key {
    Key::Published(Publication { address: address.parse().unwrap(), protocol: Protocol::Tcp, port })
}

pub(crate) fn target(text: &str) -> Object {
    Object::Target(text.parse().unwrap())
}

pub(crate) fn masquerade(address: &str) -> Key {
    Key::Masquerade(address.parse::<IpAddr>().unwrap(), link("br0"))
}

pub(crate) fn guarded(family: Family) -> (Key, Object) {
    (Key::Forwarding(family), Object::Forwarding { guarded: true })
}

pub(crate) fn isolated(direction: Direction, reach: Reach, address: &str) -> Key {
    Key::Isolated(direction, reach, address.parse().unwrap())
}

pub(crate) fn class(address: &str, number: u32) -> (Key, Object) {
    (Key::Class(address.parse().unwrap()), Object::Class(Class(number)))
}

pub(crate) fn block(first: &str, last: &str, number: u32) -> (Key, Object) {
    (Key::Block(first.parse().unwrap(), last.parse().unwrap()), Object::Class(Class(number)))
}

pub(crate) fn pair(direction: Direction, peer: Option<u32>, number: u32) -> (Key, Object) {
    (Key::Pair(direction, Class(1), peer.map(Class)), Object::Profile(Profile(number)))
}

/// A profile that allows TCP's port 80.
pub(crate) fn profile_of_web(number: u32, rest: Decision) -> Objects {
    let web = Service { protocol: 6, port: 80 };
    profile(Profile(number), &[(web, web, Decision::Allow)], rest)
}

const MAC: Mac = [2, 0x6e, 10, 4, 0, 2];

/// Elements of policy and of the spoof guard, of every kind.
fn policy() -> Objects {
    let set = |key| (key, Object::Set);
    let leased = |address: &str| set(Key::PortAddress(link("nd2"), MAC, address.parse().unwrap()));
    let mut objects = profile_of_web(7, Decision::Deny);
    objects.extend(profile_of_web(8, Decision::Audit));
    objects.extend([
        set(Key::DropSilently(Family::V4)),
        set(isolated(Direction::Ingress, Reach::Others, "10.4.0.2")),
        set(isolated(Direction::Ingress, Reach::Node, "fd00::2")),
        set(isolated(Direction::Egress, Reach::Others, "fd00::2")),
        set(isolated(Direction::Egress, Reach::Node, "10.4.0.2")),
        set(Key::Hairpin("10.4.0.2".parse().unwrap(), "10.5.0.2".parse().unwrap())),
        set(Key::Hairpin("fd00::2".parse().unwrap(), "fd00::2".parse().unwrap())),
        class("10.4.0.2", 1),
        class("fd00::2", 1),
        block("0.0.0.0", "9.255.255.255", 3),
        block("10.0.0.0", "10.255.255.255", 4),
        block("192.168.0.0", "255.255.255.255", 5),
        block("fd00::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", 6),
        pair(Direction::Ingress, Some(0), 7),
        pair(Direction::Egress, Some(4), 7),
        pair(Direction::Ingress, Some(Class::NODE.0), 8),
        pair(Direction::Egress, Some(Class::NODE.0), 7),
        pair(Direction::Ingress, None, 7),
        pair(Direction::Egress, None, 8),
        set(Key::NoFlood(link("nd2"))),
        set(Key::Guarded(link("nd2"))),
        set(Key::Trunk(link("nd2"))),
        set(Key::PortMac(link("nd2"), MAC)),
        leased("10.4.0.2"),
        leased("fd00::2"),
    ]);
    objects
}

pub(crate) fn inside(net: &str) -> (Key, Object) {
    (Key::Inside(net.parse().unwrap()), Object::Set)
}

fn entrances() -> [Entrance; 2] {
    [Entrance::Ipip([192, 0, 2, 1].into()), Entrance::Vxlan([192, 0, 2, 1].into(), 4_789)]
}

/// Elements of the fabric.
fn peers() -> Objects {
    let peers = ["192.0.2.2", "192.0.2.3", "2001:db8::2"].map(|peer| Key::Peer(peer.parse().unwrap()));
    let only = entrances().map(Key::PeersOnly);
    let set = |key| (key, Object::Set);
    [Key::Connected]
        .into_iter()
        .chain(peers)
        .chain(only)
        .map(set)
        .chain([inside("10.4.0.0/16"), inside("fd04::/48")])
        .collect()
}

pub(crate) fn vxlan_of(local: &str, mtu: u32, addresses: &[&str]) -> (Key, Object) {
    let entrance = Entrance::Vxlan(local.parse().unwrap(), 4_789);
    let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
    (Key::Tunnel(Encapsulation::Vxlan), Object::Tunnel(Tunnel { entrance, mtu, addresses }))
}

pub(crate) fn vxlan() -> (Key, Object) {
    vxlan_of("192.0.2.1", 1_400, &["10.4.0.0", "fd04::"])
}

pub(crate) fn far_end(peer: &str) -> (Key, Object) {
    (Key::FarEnd(peer.parse().unwrap()), Object::Set)
}

pub(crate) fn hop(to: &str, hop: Hop) -> (Key, Object) {
    (Key::Route(to.parse().unwrap()), Object::from(hop))
}

/// By the VXLAN tunnel.
pub(crate) fn route(to: &str) -> (Key, Object) {
    hop(to, Hop::Vxlan([192, 0, 2, 2].into()))
}

/// A tunnel with all that leads by it, and ranges that lead nowhere.
pub(crate) fn fabric() -> Objects {
    let nowhere = ["10.4.0.0/16", "fd04::/48"].map(|to| hop(to, Hop::Nowhere));
    let ends = [vxlan(), far_end("192.0.2.2"), far_end("192.0.2.3")];
    let routes = [route("10.4.1.0/24"), route("10.4.2.7/32"), route("fd04:0:0:1::/64"), route("fd04:1::/64")];
    ends.into_iter().chain(routes).chain(nowhere).collect()
}

/// The ruleset with elements of every kind.
pub(crate) fn rules() -> Objects {
    let mut objects = Objects::from([
        fixed_ruleset(),
        guarded(Family::V4),
        guarded(Family::V6),
        (Key::Admitted(link("br0")), Object::Set),
        (Key::Fenced(link("br0")), Object::Set),
        (masquerade("10.4.0.2"), Object::Set),
        (masquerade("fd00::2"), Object::Set),
        (published("0.0.0.0", 8080), target("10.4.0.2:80")),
        (published("::", 8080), target("[fd00::2]:80")),
        (published("192.0.2.1", 8081), target("10.4.0.2:81")),
        (published("2001:db8::1", 8081), target("[fd00::2]:81")),
    ]);
    objects.extend(policy());
    objects.extend(peers());
    objects
}

/// The host end of a routed pair.
pub(crate) fn routed(id: NetnsId, number: u16) -> (Key, Object) {
    let peer = (id, link(&format!("eth{number}")));
    (veth_key(number), Object::Veth(Veth { bridge: None, peer, hairpin: false, ..veth_of(id) }))
}

pub(crate) fn gateway(number: u16, address: &str) -> (Key, Object) {
    (Key::Gateway(link(&format!("nd{number}")), address.parse().unwrap()), Object::Set)
}

pub(crate) fn way(address: &str, number: u16) -> (Key, Object) {
    (Key::SandboxRoute(link(&format!("nd{number}")), address.parse().unwrap()), Object::Set)
}

/// A routed pair with all that belongs to it on the node.
pub(crate) fn routed_whole(id: NetnsId, number: u16) -> Objects {
    let (v4, v6) = (format!("10.6.0.{number}"), format!("fd06::{number}"));
    let beside = [gateway(number, "10.6.0.1"), gateway(number, "fd06::1"), way(&v4, number), way(&v6, number)];
    [routed(id, number)].into_iter().chain(beside).collect()
}

/// A node with one whole attachment of either kind; the routed sandbox end is `eth9`.
pub(crate) fn everything(id: NetnsId) -> Objects {
    let mut objects = rules();
    objects.extend([bridge(), veth(id, 2), interface(id, 2)]);
    objects.extend(routed_whole(id, 9));
    objects.extend(fabric());
    objects
}
