//! The messages of an attach and a detach (rtnetlink(7); linux/netfilter/nf_tables.h). As few as the kernel allows.

use std::net::Ipv4Addr;
use std::os::fd::RawFd;

use crate::wire::{Batch, CREATE, EXCL};

const NEW_LINK: u16 = 16;
const DELETE_LINK: u16 = 17;
const SET_LINK: u16 = 19;
const NEW_ADDRESS: u16 = 20;
const NEW_ROUTE: u16 = 24;
const DELETE_ROUTE: u16 = 25;

const ADDRESS: u16 = 1;
const IFNAME: u16 = 3;
const MASTER: u16 = 10;
const PROTINFO: u16 = 12;
const LINKINFO: u16 = 18;
const ALIAS: u16 = 20;
const AF_SPEC: u16 = 26;
const NETNS_FD: u16 = 28;
const TX_QUEUES: u16 = 31;
const RX_QUEUES: u16 = 32;

const INET: u8 = 2;
const INET6: u8 = 10;
const BRIDGE: u8 = 7;
const UP: u32 = 1;
/// The index of a sandbox's interface: the next one free in a new namespace.
const INSIDE: u32 = 2;
const LOOPBACK: u32 = 1;

/// `struct ifinfomsg`
fn link(family: u8, index: u32, flags: u32) -> [u8; 16] {
    let mut body = [0; 16];
    body[0] = family;
    body[4..8].copy_from_slice(&index.to_ne_bytes());
    body[8..12].copy_from_slice(&flags.to_ne_bytes());
    body[12..].copy_from_slice(&flags.to_ne_bytes());
    body
}

/// The MAC that belongs to an address.
fn mac_of(address: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = address.octets();
    [0x02, 0x6e, a, b, c, d]
}

/// `IFLA_INET6_ADDR_GEN_MODE`: whether the kernel makes a link-local address when the link goes up.
fn link_local_generation(message: &mut Batch, is_on: bool) {
    message.nest(AF_SPEC, |families| {
        families.nest(u16::from(INET6), |inet6| inet6.attribute(8, &[u8::from(!is_on)]));
    });
}

/// The kernel waits for its readers to go from one queue a CPU, its default, to one.
fn one_queue(message: &mut Batch) {
    message.attribute(TX_QUEUES, &1_u32.to_ne_bytes());
    message.attribute(RX_QUEUES, &1_u32.to_ne_bytes());
}

/// The pair, its host end a port of the bridge if there is one, its other end in the sandbox; then what creation passes over:
/// alias, hairpin (without a bridge, `route_localnet`) and a host end without an address of its own, in one message; then the
/// host end up. Both indices are chosen, so that nobody has to ask for them.
pub(crate) fn pair(
    batch: &mut Batch,
    (name, index): (&str, u32),
    bridge: Option<u32>,
    interface: &str,
    netns: RawFd,
    address: Ipv4Addr,
) {
    batch.message(NEW_LINK, CREATE | EXCL, &link(0, index, 0));
    batch.text(IFNAME, name);
    if let Some(bridge) = bridge {
        batch.attribute(MASTER, &bridge.to_ne_bytes());
    }
    batch.nest(LINKINFO, |info| {
        info.attribute(1, b"veth");
        info.nest(2, |data| {
            data.nest(1, |peer| {
                peer.fixed(&link(0, INSIDE, 0));
                peer.text(IFNAME, interface);
                peer.attribute(ADDRESS, &mac_of(address));
                peer.attribute(NETNS_FD, &netns.to_ne_bytes());
                one_queue(peer);
            });
        });
    });
    one_queue(batch);
    batch.message(NEW_LINK, 0, &link(0, index, 0));
    batch.attribute(ALIAS, format!("netd:{index:x}:{interface}").as_bytes());
    if bridge.is_some() {
        batch.nest(LINKINFO, |info| {
            info.attribute(4, b"bridge");
            info.nest(5, |port| port.attribute(4, &[1]));
        });
        link_local_generation(batch, false);
    } else {
        batch.nest(AF_SPEC, |families| {
            families
                .nest(u16::from(INET), |inet| inet.nest(1, |switches| switches.attribute(26, &1_u32.to_ne_bytes())));
            families.nest(u16::from(INET6), |inet6| inet6.attribute(8, &[1]));
        });
    }
    batch.message(SET_LINK, 0, &link(0, index, UP));
    batch.acknowledged();
}

/// netd's protocol number of its routes.
const OURS: u8 = 0x6e;

/// The gateway's address on the host end, and the way to the sandbox's.
pub(crate) fn way(batch: &mut Batch, index: u32, address: Ipv4Addr, gateway: Ipv4Addr) {
    let [a, b, c, d] = index.to_ne_bytes();
    batch.message(NEW_ADDRESS, CREATE | EXCL, &[INET, 32, 0, 0, a, b, c, d]);
    batch.attribute(2, &gateway.octets());
    batch.attribute(1, &gateway.octets());
    batch.attribute(4, &gateway.octets());
    // Table main, scope link, unicast.
    batch.message(NEW_ROUTE, CREATE | EXCL, &[INET, 32, 0, 0, 254, OURS, 253, 1, 0, 0, 0, 0]);
    batch.attribute(4, &index.to_ne_bytes());
    batch.attribute(1, &address.octets());
    batch.acknowledged();
}

/// Lets no packet pass the link any more.
pub(crate) fn close(batch: &mut Batch, address: Ipv4Addr) {
    // Of whatever scope.
    batch.message(DELETE_ROUTE, 0, &[INET, 32, 0, 0, 254, OURS, 255, 0, 0, 0, 0, 0]);
    batch.attribute(1, &address.octets());
    batch.acknowledged();
}

/// A sandbox's address, and how it reaches others.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Inside {
    pub(crate) address: Ipv4Addr,
    pub(crate) prefix: u8,
    pub(crate) gateway: Ipv4Addr,
    /// All goes by the gateway, also to the same network.
    pub(crate) routed: bool,
}

/// Address, links up, routes; and the link-local address that the kernel would make, which works at once so.
pub(crate) fn interface(batch: &mut Batch, inside: Inside) {
    let Inside { address, prefix, gateway, routed } = inside;
    let [a, b, c, d] = INSIDE.to_ne_bytes();
    batch.message(SET_LINK, 0, &link(0, INSIDE, 0));
    link_local_generation(batch, false);
    batch.message(NEW_ADDRESS, CREATE | EXCL, &[INET, prefix, 0, 0, a, b, c, d]);
    let broadcast = u32::from(address) | u32::MAX.checked_shr(u32::from(prefix)).unwrap_or_default();
    batch.attribute(2, &address.octets());
    batch.attribute(1, &address.octets());
    batch.attribute(4, &broadcast.to_be_bytes());
    if routed {
        // IFA_F_NOPREFIXROUTE
        batch.attribute(8, &0x200_u32.to_ne_bytes());
    }
    batch.message(SET_LINK, 0, &link(0, LOOPBACK, UP));
    batch.message(SET_LINK, 0, &link(0, INSIDE, UP));
    if routed {
        by_gateway(batch, inside);
    }
    // Table main, protocol boot, scope universe, unicast.
    batch.message(NEW_ROUTE, CREATE | EXCL, &[INET, 0, 0, 0, 254, 3, 0, 1, 0, 0, 0, 0]);
    batch.attribute(4, &INSIDE.to_ne_bytes());
    batch.attribute(5, &gateway.octets());
    let [m0, m1, m2, m3, m4, m5] = mac_of(address);
    let local = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, m0 ^ 2, m1, m2, 0xff, 0xfe, m3, m4, m5];
    // Scope link; IFA_F_NODAD.
    batch.message(NEW_ADDRESS, CREATE | EXCL, &[INET6, 64, 0, 253, a, b, c, d]);
    batch.attribute(2, &local);
    batch.attribute(1, &local);
    batch.attribute(8, &2_u32.to_ne_bytes());
    batch.message(SET_LINK, 0, &link(0, INSIDE, 0));
    link_local_generation(batch, true);
    batch.acknowledged();
}

/// The gateway by the link itself, and the network by the gateway.
fn by_gateway(batch: &mut Batch, inside: Inside) {
    let Inside { address, prefix, gateway, .. } = inside;
    let network = u32::from(address) & u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or_default();
    for (length, destination, scope) in [(32, gateway.octets(), 253), (prefix, network.to_be_bytes(), 0)] {
        batch.message(NEW_ROUTE, CREATE | EXCL, &[INET, length, 0, 0, 254, 3, scope, 1, 0, 0, 0, 0]);
        batch.attribute(4, &INSIDE.to_ne_bytes());
        batch.attribute(1, &destination);
        if scope == 0 {
            batch.attribute(5, &gateway.octets());
        }
        // RTA_PREFSRC
        batch.attribute(7, &address.octets());
    }
}

/// Lets no packet pass the port any more.
pub(crate) fn shut(batch: &mut Batch, index: u32) {
    batch.message(SET_LINK, 0, &link(BRIDGE, index, 0));
    batch.nest(PROTINFO, |port| port.attribute(1, &[0]));
    batch.acknowledged();
}

pub(crate) fn unlink(batch: &mut Batch, index: u32) {
    batch.message(DELETE_LINK, 0, &link(0, index, 0));
    batch.acknowledged();
}

const NF_TABLES: u16 = 10;
const NEW_TABLE: u16 = NF_TABLES << 8;
/// Adds elements.
pub(crate) const NEW_ELEMENTS: u16 = NF_TABLES << 8 | 12;
/// Takes them away.
pub(crate) const DELETE_ELEMENTS: u16 = NF_TABLES << 8 | 14;
/// Families of the two tables of netd's ruleset.
pub(crate) const TABLES: [u8; 2] = [INET_FAMILY, BRIDGE];
const INET_FAMILY: u8 = 1;

/// What stands between is one transaction.
fn transaction(batch: &mut Batch, inner: impl FnOnce(&mut Batch)) {
    let [high, low] = NF_TABLES.to_be_bytes();
    batch.message(0x10, 0, &[0, 0, high, low]);
    inner(batch);
    batch.acknowledged();
    batch.message(0x11, 0, &[0, 0, high, low]);
}

/// Takes over a table whose owner is gone (`NFT_TABLE_F_OWNER`, `NFT_TABLE_F_PERSIST`).
pub(crate) fn adopt(batch: &mut Batch, family: u8, table: &str, flags: u32) {
    transaction(batch, |batch| {
        batch.message(NEW_TABLE, CREATE, &[family, 0, 0, 0]);
        batch.text(1, table);
        batch.attribute(2, &flags.to_be_bytes());
    });
}

/// Where an attachment is at home: its bridge, or its own link, which has a fence of its own too.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Home<'a> {
    pub(crate) link: &'a str,
    pub(crate) routed: bool,
    /// The host end.
    pub(crate) own: &'a str,
}

/// An element: the family of its table, its set, key and value.
type Element = (u8, &'static str, Vec<u8>, Vec<u8>);

/// An attachment's elements: its address is masqueraded unless it stays at home, and a port of the node leads to it. The port
/// of a bridge sends by its own MAC and addresses only.
pub(crate) fn elements(batch: &mut Batch, kind: u16, table: &str, home: Home<'_>, address: Ipv4Addr, port: u16) {
    const TCP: u8 = 6;
    const INSIDE_PORT: [u8; 4] = [0, 80, 0, 0];
    let (name, octets) = (filled(home.link), address.octets());
    let [high, low] = port.to_be_bytes();
    let inet = |set, key: Vec<u8>, data: Vec<u8>| (INET_FAMILY, set, key, data);
    let mut all = if home.routed {
        vec![inet("same_bridge", [name, name].concat(), Vec::new()), inet("fenced", name.to_vec(), Vec::new())]
    } else {
        guard(home.own, address)
    };
    all.extend([
        inet("home4", [octets.as_slice(), &name].concat(), Vec::new()),
        inet("masq4", octets.to_vec(), Vec::new()),
        inet("ports4", vec![TCP, 0, 0, 0, high, low, 0, 0], [octets, INSIDE_PORT].concat()),
    ]);
    transaction(batch, |batch| {
        for (family, set, key, data) in all {
            let flags = if kind == NEW_ELEMENTS { CREATE } else { 0 };
            batch.message(kind, flags, &[family, 0, 0, 0]);
            batch.text(1, table);
            batch.text(2, set);
            batch.nest(3, |list| {
                list.nest(1, |element| {
                    element.nest(1, |value| value.attribute(1, &key));
                    // A map's element is deleted by its key.
                    if !data.is_empty() && kind == NEW_ELEMENTS {
                        element.nest(2, |value| value.attribute(1, &data));
                    }
                });
            });
        }
    });
}

/// What frames of IPv4 and IPv6 say that they bear.
const BORNE: [[u8; 2]; 2] = [[0x08, 0x00], [0x86, 0xdd]];

fn guard(own: &str, address: Ipv4Addr) -> Vec<Element> {
    let (name, mac) = (filled(own), mac_of(address));
    let station = [name.as_slice(), &mac, &[0, 0]].concat();
    let [a, b, c, d, e, f] = mac;
    let link_local = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f];
    let bridge = |set, key| (BRIDGE, set, key, Vec::new());
    vec![
        bridge("guarded_ports", name.to_vec()),
        bridge("port_macs", station),
        bridge("leased6", [name.as_slice(), &mac, &BORNE[1], &link_local].concat()),
        bridge("leased4", [name.as_slice(), &mac, &BORNE[0], &address.octets()].concat()),
    ]
}

fn filled(name: &str) -> [u8; 16] {
    let mut octets = [0; 16];
    octets[..name.len()].copy_from_slice(name.as_bytes());
    octets
}
