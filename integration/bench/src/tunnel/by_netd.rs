//! A node as netd makes it, by kernel objects: with the whole ruleset, its guards, and what it knows of the fleet.

use std::collections::BTreeMap;
use std::net::IpAddr;

use anyhow::Result;
use ipnet::IpNet;
use netd_config::LinkName;
use netd_kernel::{
    Bridge, Encapsulation, Entrance, Family, Hop, Interface, Kernel as _, Key, LinkSettings, LinuxKernel, Mac, Object,
    Objects, Port, Route, Tunnel, Veth, fixed_ruleset, plan,
};

use super::course::{Site, Way, inside, underlay};

/// It holds the tables.
pub(super) type Kernel = LinuxKernel;

pub(super) fn make(site: &Site, way: Way) -> Result<Kernel> {
    let fd = site.sandbox.fd().try_clone_to_owned()?;
    site.node.run(|| {
        let kernel = LinuxKernel::new("netd", "nd")?;
        let sandbox = kernel.identify(fd)?;
        let mut objects = node(site.number)?;
        objects.extend(fleet(site, way)?);
        objects.extend(attachment(site.number, way, sandbox.id)?);
        kernel.apply(&plan(&objects, &Objects::new()), Some(&sandbox))?;
        Ok(kernel)
    })
}

fn node(number: u8) -> Result<Objects> {
    let (name, addresses) = (LinkName::new("br0")?, vec![net(inside(number, 1).into(), 24)?]);
    Ok(Objects::from([
        fixed_ruleset(),
        (Key::Forwarding(Family::V4), Object::Forwarding { guarded: true }),
        (
            Key::Bridge(name.clone()),
            Object::Bridge(Bridge { addresses, mtu: None, promisc: false, vlan_filtering: false }),
        ),
        (Key::Admitted(name.clone()), Object::Set),
        (Key::Fenced(name), Object::Set),
    ]))
}

fn fleet(site: &Site, way: Way) -> Result<Objects> {
    let peer = underlay(site.peer());
    let mut objects = Objects::from([
        (Key::Connected, Object::Set),
        (Key::Inside(net([10, 4, 0, 0].into(), 16)?), Object::Set),
        (Key::Peer(peer.into()), Object::Set),
        (Key::Route(net(inside(site.peer(), 0).into(), 24)?), Object::from(hop(way, peer))),
    ]);
    let entrance = match way {
        Way::Direct => return Ok(objects),
        Way::Vxlan => Entrance::Vxlan(underlay(site.number).into(), super::by_hand::PORT),
        Way::Ipip => Entrance::Ipip(underlay(site.number)),
    };
    let addresses = vec![inside(site.number, 0).into()];
    let tunnel = Tunnel { entrance, mtu: way.mtu(), addresses };
    objects.insert(Key::PeersOnly(entrance), Object::Set);
    objects.insert(Key::Tunnel(entrance.encapsulation()), Object::Tunnel(tunnel));
    if entrance.encapsulation() == Encapsulation::Vxlan {
        objects.insert(Key::FarEnd(peer.into()), Object::Set);
    }
    Ok(objects)
}

const fn hop(way: Way, peer: std::net::Ipv4Addr) -> Hop {
    match way {
        Way::Direct => Hop::Direct(IpAddr::V4(peer)),
        Way::Vxlan => Hop::Vxlan(IpAddr::V4(peer)),
        Way::Ipip => Hop::Ipip(peer),
    }
}

fn attachment(number: u8, way: Way, id: netd_kernel::NetnsId) -> Result<Objects> {
    let (port, bridge, eth0) = (LinkName::new("nd1")?, LinkName::new("br0")?, LinkName::new("eth0")?);
    let (address, mac): (IpAddr, Mac) = (inside(number, 2).into(), [2, 0x6e, 10, 4, number, 2]);
    let veth = Veth {
        bridge: Some(bridge.clone()),
        peer: (id, eth0.clone()),
        peer_mac: Some(mac),
        mtu: Some(way.mtu()),
        hairpin: false,
        isolated: false,
        vlans: None,
        port: Port::Open,
    };
    let gateway = Some(inside(number, 1).into());
    let interface = Interface {
        addresses: vec![net(address, 24)?],
        routes: vec![Route { destination: net([0; 4].into(), 0)?, gateway, source: None }],
        sysctls: BTreeMap::new(),
        settings: LinkSettings::default(),
        quick_link_local: true,
    };
    Ok(Objects::from([
        (Key::Masquerade(address, bridge), Object::Set),
        (Key::Guarded(port.clone()), Object::Set),
        (Key::PortMac(port.clone(), mac), Object::Set),
        (Key::PortAddress(port.clone(), mac, address), Object::Set),
        (Key::Veth(port), Object::Veth(veth)),
        (Key::Interface(id, eth0), Object::Interface(interface)),
    ]))
}

fn net(address: IpAddr, length: u8) -> Result<IpNet> {
    Ok(IpNet::new(address, length)?)
}
