//! Which kernel objects the record means. Pure; `netd_kernel::plan` compares them with what is there.

use ipnet::IpNet;
use netd_kernel::{Bridge, Family, Interface, Key, Object, Objects, Port, Veth};

use crate::attachment::{Attachment, Wiring};
use crate::node::Node;

/// Objects that several attachments share: forwarding and bridges.
#[must_use]
pub fn shared(attachment: &Attachment) -> Objects {
    let mut objects = Objects::new();
    let Some(wiring) = &attachment.wiring else { return objects };
    for gateway in &wiring.gateways {
        let family = if gateway.addr().is_ipv4() { Family::V4 } else { Family::V6 };
        objects.insert(Key::Forwarding(family), Object::Forwarding);
    }
    objects.insert(Key::Bridge(wiring.bridge.clone()), Object::Bridge(bridge(wiring)));
    objects
}

/// Objects of this attachment alone.
#[must_use]
pub fn own(attachment: &Attachment) -> Objects {
    let mut objects = Objects::new();
    let Some(wiring) = &attachment.wiring else { return objects };
    let interface = Interface {
        addresses: attachment.leases.iter().map(|lease| lease.address).collect(),
        routes: wiring.routes.clone(),
        sysctls: wiring.sysctls.clone(),
    };
    objects.insert(Key::Veth(wiring.host_link.clone()), Object::Veth(veth(attachment, wiring, Port::Open)));
    let name = attachment.key.interface.clone();
    objects.insert(Key::Interface(attachment.netns, name), Object::Interface(interface));
    objects
}

/// The veth of a draining attachment: still there, and shut.
#[must_use]
pub fn drained(attachment: &Attachment) -> Objects {
    let Some(wiring) = &attachment.wiring else { return Objects::new() };
    let veth = Object::Veth(veth(attachment, wiring, Port::Closed));
    Objects::from([(Key::Veth(wiring.host_link.clone()), veth)])
}

/// Everything in the node's own namespace.
#[must_use]
pub fn node(node: &Node) -> Objects {
    let mut objects = Objects::new();
    for attachment in node.attachments() {
        merge(&mut objects, shared(attachment));
        objects.extend(own(attachment).into_iter().filter(|(key, _)| matches!(key, Key::Veth(_))));
    }
    objects
}

/// Adds `more`: a bridge named twice gets the addresses of both. The order does not matter.
pub fn merge(objects: &mut Objects, more: Objects) {
    for (key, object) in more {
        match (objects.get_mut(&key), object) {
            (Some(Object::Bridge(known)), Object::Bridge(new)) => unite(known, new),
            (_, object) => {
                objects.insert(key, object);
            }
        }
    }
}

fn unite(known: &mut Bridge, new: Bridge) {
    let missing: Vec<IpNet> = new.addresses.into_iter().filter(|address| !known.addresses.contains(address)).collect();
    known.addresses.extend(missing);
    known.addresses.sort();
    known.mtu = known.mtu.max(new.mtu);
    known.promisc |= new.promisc;
}

fn bridge(wiring: &Wiring) -> Bridge {
    let mut addresses = wiring.gateways.clone();
    addresses.sort();
    Bridge { addresses, mtu: wiring.mtu, promisc: wiring.promisc }
}

fn veth(attachment: &Attachment, wiring: &Wiring, port: Port) -> Veth {
    Veth {
        bridge: Some(wiring.bridge.clone()),
        peer: (attachment.netns, attachment.key.interface.clone()),
        peer_mac: wiring.mac,
        mtu: wiring.mtu,
        hairpin: wiring.hairpin,
        isolated: wiring.isolated,
        port,
    }
}
