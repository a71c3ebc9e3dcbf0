//! Which kernel objects the record means. Pure; `netd_kernel::plan` compares them with what is there.

use std::collections::BTreeSet;

use ipnet::IpNet;
use netd_kernel::{Bridge, Family, GatewayLink, Interface, Key, Object, Objects, Part, Port, Veth, fixed_ruleset};

use crate::attachment::{Attachment, Lease, Wiring};

/// Objects that several attachments share: ruleset, forwarding, bridges and the links of their VLANs' gateways. `guarded`: families whose forwarding netd
/// switched on.
#[must_use]
pub fn shared(attachment: &Attachment, guarded: &BTreeSet<Family>) -> Objects {
    let mut objects = Objects::from([fixed_ruleset()]);
    let Some(wiring) = &attachment.wiring else { return objects };
    for family in families(attachment) {
        objects.insert(Key::Forwarding(family), Object::Forwarding { guarded: guarded.contains(&family) });
    }
    if let Some(name) = &wiring.bridge {
        objects.insert(Key::Bridge(name.clone()), Object::Bridge(bridge(wiring)));
        objects.insert(Key::Admitted(name.clone()), Object::Set);
        if let Some(gateway) = &wiring.gateway_link {
            let (bridge, mut addresses) = (Some(name.clone()), wiring.gateways.clone());
            addresses.sort();
            let link = GatewayLink { bridge, vlan: gateway.vlan, addresses, mtu: wiring.mtu };
            objects.insert(Key::GatewayLink(gateway.link.clone()), Object::GatewayLink(link));
            objects.insert(Key::Admitted(gateway.link.clone()), Object::Set);
        }
        if wiring.fenced {
            objects.insert(Key::Fenced(wiring.home().clone()), Object::Set);
        }
    }
    objects
}

/// Whether several attachments share this object.
#[must_use]
pub fn is_shared(key: &Key) -> bool {
    key.part() == Part::Skeleton
        || matches!(key, Key::Bridge(_) | Key::GatewayLink(_) | Key::Admitted(_) | Key::Fenced(_))
}

/// Families that are to be forwarded for this attachment.
#[must_use]
pub fn families(attachment: &Attachment) -> BTreeSet<Family> {
    let gateways = attachment.wiring.iter().flat_map(|wiring| &wiring.gateways);
    gateways.map(|gateway| if gateway.addr().is_ipv4() { Family::V4 } else { Family::V6 }).collect()
}

/// Objects of this attachment alone.
#[must_use]
pub fn own(attachment: &Attachment) -> Objects {
    let mut objects = ruled(attachment);
    objects.extend(routed(attachment));
    let Some(wiring) = &attachment.wiring else { return objects };
    let interface = Interface {
        addresses: attachment.leases.iter().map(|lease| lease.address).collect(),
        routes: wiring.routes.clone(),
        sysctls: wiring.sysctls.clone(),
        settings: wiring.tuned.clone(),
        quick_link_local: wiring.quick_link_local,
    };
    objects.insert(Key::Veth(wiring.host_link.clone()), Object::Veth(veth(attachment, wiring, port(attachment))));
    let name = attachment.key.interface.clone();
    objects.insert(Key::Interface(attachment.netns, name), Object::Interface(interface));
    objects
}

/// Whether the attachment's link passes packets. In quarantine the sandbox has all it needs, and its interface has no
/// carrier: to open it takes one message of the node's, and nothing inside. A routed one is held back by its ways.
#[must_use]
pub fn port(attachment: &Attachment) -> Port {
    let is_port = attachment.wiring.as_ref().is_some_and(|wiring| wiring.bridge.is_some());
    if attachment.quarantined && is_port { Port::Down } else { Port::Open }
}

/// What the ruleset holds of this attachment alone.
#[must_use]
pub fn ruled(attachment: &Attachment) -> Objects {
    let mut objects = Objects::new();
    for (publication, target) in attachment.publications() {
        objects.insert(Key::Published(publication), Object::Target(target));
    }
    let Some(wiring) = &attachment.wiring else { return objects };
    let home = wiring.home();
    if wiring.ip_masq {
        // Where what is bridged meets the rules, a sandbox of a VLAN reaches its neighbours by the bridge itself.
        for at in [Some(home), wiring.bridge.as_ref()].into_iter().flatten() {
            let masquerade = |lease: &Lease| (Key::Masquerade(lease.address.addr(), at.clone()), Object::Set);
            objects.extend(attachment.leases.iter().map(masquerade));
        }
    }
    if wiring.fenced && wiring.bridge.is_none() {
        objects.insert(Key::Fenced(home.clone()), Object::Set);
    }
    objects.extend(guard(attachment));
    objects
}

/// What the sandbox may send by: its MAC, and the addresses that it holds. Whoever has no address of ours is not guarded:
/// nobody knows what it will have. A routed link is guarded by its ways.
fn guard(attachment: &Attachment) -> Objects {
    let is_guarded = |wiring: &&Wiring| wiring.spoof_guarded && wiring.bridge.is_some();
    let Some(wiring) = attachment.wiring.as_ref().filter(is_guarded) else { return Objects::new() };
    let Some(mac) = wiring.known_mac().filter(|_| !attachment.leases.is_empty()) else {
        return Objects::new();
    };
    let port = || wiring.host_link.clone();
    let leased = attachment.leases.iter().map(|lease| Key::PortAddress(port(), mac, lease.address.addr()));
    let trunk = wiring.vlans.as_ref().filter(|vlans| vlans.is_trunk()).map(|_| Key::Trunk(port()));
    let keys = [Key::Guarded(port()), Key::PortMac(port(), mac)].into_iter().chain(leased).chain(trunk);
    keys.map(|key| (key, Object::Set)).collect()
}

/// What stands on the node for a routed attachment: the gateways and, but in quarantine, the ways to its addresses.
#[must_use]
pub fn routed(attachment: &Attachment) -> Objects {
    let Some(wiring) = attachment.wiring.as_ref().filter(|wiring| wiring.bridge.is_none()) else {
        return Objects::new();
    };
    let gateway = |gateway: &IpNet| (Key::Gateway(wiring.host_link.clone(), gateway.addr()), Object::Set);
    let mut objects: Objects = wiring.gateways.iter().map(gateway).collect();
    if !attachment.quarantined {
        objects.extend(ways(attachment));
    }
    objects
}

/// What is taken away for a routed attachment to let no packet pass any more; the rest goes with its link.
#[must_use]
pub fn ways(attachment: &Attachment) -> Objects {
    let Some(wiring) = attachment.wiring.as_ref().filter(|wiring| wiring.bridge.is_none()) else {
        return Objects::new();
    };
    let way = |lease: &Lease| (Key::SandboxRoute(wiring.host_link.clone(), lease.address.addr()), Object::Set);
    attachment.leases.iter().map(way).collect()
}

/// The veth of a draining attachment: still there, and shut. A routed one's way is its door.
#[must_use]
pub fn drained(attachment: &Attachment) -> Objects {
    let Some(wiring) = &attachment.wiring else { return Objects::new() };
    let veth = Object::Veth(veth(attachment, wiring, Port::Closed));
    Objects::from([(Key::Veth(wiring.host_link.clone()), veth)])
}

/// Adds `more`: a bridge, or a gateway's link, named twice gets the addresses of both. The order does not matter.
pub fn merge(objects: &mut Objects, more: Objects) {
    for (key, object) in more {
        match (objects.get_mut(&key), object) {
            (Some(Object::Bridge(known)), Object::Bridge(new)) => unite(known, new),
            (Some(Object::GatewayLink(known)), Object::GatewayLink(new)) => {
                add(&mut known.addresses, new.addresses);
                known.mtu = known.mtu.max(new.mtu);
            }
            (_, object) => {
                objects.insert(key, object);
            }
        }
    }
}

fn unite(known: &mut Bridge, new: Bridge) {
    add(&mut known.addresses, new.addresses);
    known.mtu = known.mtu.max(new.mtu);
    known.promisc |= new.promisc;
    known.vlan_filtering |= new.vlan_filtering;
}

fn add(known: &mut Vec<IpNet>, new: Vec<IpNet>) {
    let missing: Vec<IpNet> = new.into_iter().filter(|address| !known.contains(address)).collect();
    known.extend(missing);
    known.sort();
}

fn bridge(wiring: &Wiring) -> Bridge {
    let mut addresses = if wiring.gateway_link.is_some() { Vec::new() } else { wiring.gateways.clone() };
    addresses.sort();
    Bridge { addresses, mtu: wiring.mtu, promisc: wiring.promisc, vlan_filtering: wiring.filters_vlans }
}

fn veth(attachment: &Attachment, wiring: &Wiring, port: Port) -> Veth {
    Veth {
        bridge: wiring.bridge.clone(),
        peer: (attachment.netns, attachment.key.interface.clone()),
        peer_mac: wiring.mac,
        mtu: wiring.mtu,
        hairpin: wiring.hairpin,
        isolated: wiring.isolated,
        vlans: wiring.vlans.clone(),
        port,
    }
}
