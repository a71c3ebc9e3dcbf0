//! Objects that laws speak of, as both kernels read them back: with their MTU, without a MAC that was asked for.

use std::collections::BTreeMap;
use std::net::IpAddr;

use netd_config::{LinkName, Protocol};
use netd_kernel::{
    Bridge, Family, Interface, Key, LinkSettings, NetnsId, Object, Objects, Port, Publication, Veth, fixed_ruleset,
};

pub(crate) fn link(name: &str) -> LinkName {
    LinkName::new(name).unwrap()
}

pub(crate) fn bridge_of(addresses: &[&str]) -> (Key, Object) {
    let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
    (Key::Bridge(link("br0")), Object::Bridge(Bridge { addresses, mtu: Some(1_400), promisc: false }))
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

/// The ruleset with elements of every kind.
pub(crate) fn rules() -> Objects {
    Objects::from([
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
    ])
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
    (Key::Way(link(&format!("nd{number}")), address.parse().unwrap()), Object::Set)
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
    objects
}
