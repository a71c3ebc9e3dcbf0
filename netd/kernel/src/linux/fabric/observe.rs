//! What the kernel has of the fabric, in the vocabulary of `object`. Reads only.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use netd_config::LinkName;
use netd_netlink::{NetlinkError, Socket};
use netlink_packet_route::link::{InfoData, InfoIpTunnel, InfoKind, InfoVxlan, LinkAttribute, LinkFlags, LinkMessage};
use netlink_packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState};
use netlink_packet_route::route::{RouteAttribute, RouteHeader, RouteMessage, RouteMetric, RouteType, RouteVia};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage as Message};

use super::messages::{Entry, Led, alias, end_of, entries, far_end};
use super::routes::Found;
use super::{Names, speaks_ipv6};
use crate::linux::messages::{OURS, routes};
use crate::linux::observe::{self as links, data, kind, mtu_of, name};
use crate::object::{Encapsulation, Entrance, Hop, Key, NextHop, Object, Objects, Tunnel};

/// Tunnels that are up, far ends that are whole, and routes.
pub(in crate::linux) fn objects(
    socket: &mut Socket,
    names: &Names,
    links: &[LinkMessage],
    addresses: &BTreeMap<u32, Vec<IpNet>>,
) -> Result<Objects, NetlinkError> {
    let mut objects = Objects::new();
    let mut devices = BTreeMap::new();
    for link in links.iter().filter(|link| is_ours(link)) {
        let index = link.header.index;
        let Some(tunnel) = tunnel(link, addresses.get(&index).map_or(&[], Vec::as_slice)) else { continue };
        let encapsulation = tunnel.entrance.encapsulation();
        if name(link) != Some(names.of(encapsulation).as_str()) {
            continue;
        }
        devices.insert(index, encapsulation);
        if link.header.flags.contains(LinkFlags::Up) {
            objects.insert(Key::Tunnel(encapsulation), Object::Tunnel(tunnel));
        }
    }
    let vxlan = devices.iter().find(|(_, kind)| **kind == Encapsulation::Vxlan).map(|(index, _)| *index);
    let ends = vxlan.map_or(Ok(BTreeSet::new()), |device| far_ends(socket, device, &names.vxlan))?;
    let peers = by_next_hop(&ends);
    for (to, found) in all_led(socket)? {
        let lead = |led| NextHop { hop: hop(to.addr(), led, &devices, &peers), mtu: found.mtu };
        objects.extend(found.taken().map(|led| (Key::Route(to), Object::NextHop(lead(led)))));
    }
    objects.extend(ends.into_iter().map(|end| (Key::FarEnd(end), Object::Set)));
    Ok(objects)
}

pub(super) fn is_ours(link: &LinkMessage) -> bool {
    link.attributes.contains(&LinkAttribute::IfAlias(alias()))
}

/// A device of either kind, whosever it is.
pub(super) fn tunnel(link: &LinkMessage, addresses: &[IpNet]) -> Option<Tunnel> {
    let addresses = addresses.iter().map(IpNet::addr).collect();
    entrance(link).map(|entrance| Tunnel { entrance, mtu: mtu_of(link), addresses })
}

/// Another's may have no address of its own.
pub(super) fn entrance(link: &LinkMessage) -> Option<Entrance> {
    let data = data(link)?;
    if let InfoData::IpTunnel(parts) = data
        && kind(link) == Some(&InfoKind::IpIp)
    {
        let local = |part: &InfoIpTunnel| if let InfoIpTunnel::Local(IpAddr::V4(v4)) = part { Some(*v4) } else { None };
        return Some(Entrance::Ipip(parts.iter().find_map(local).unwrap_or(Ipv4Addr::UNSPECIFIED)));
    }
    let InfoData::Vxlan(parts) = data else { return None };
    let local = parts.iter().find_map(vxlan_local).unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    let port = |part: &InfoVxlan| if let InfoVxlan::Port(port) = part { Some(*port) } else { None };
    parts.iter().find_map(port).map(|port| Entrance::Vxlan(local, port))
}

fn vxlan_local(part: &InfoVxlan) -> Option<IpAddr> {
    if let InfoVxlan::Local(v4) = part {
        Some(IpAddr::V4(*v4))
    } else if let InfoVxlan::Local6(v6) = part {
        Some(IpAddr::V6(*v6))
    } else {
        None
    }
}

/// Peers of whom all entries are there.
fn far_ends(socket: &mut Socket, device: u32, name: &LinkName) -> Result<BTreeSet<IpAddr>, NetlinkError> {
    let mut found = BTreeSet::new();
    for request in entries() {
        found.extend(socket.dump(&request, |object| {
            let Message::NewNeighbour(message) = object else { return None };
            entry(&message).filter(|_| message.header.ifindex == device)
        })?);
    }
    let peers = found.iter().filter_map(|entry| match entry {
        Entry::Forwarding(_, _, peer) => Some(*peer),
        Entry::Neighbour(..) => None,
    });
    let has_ipv6 = speaks_ipv6(name);
    Ok(peers.filter(|peer| far_end(device, *peer, has_ipv6).iter().all(|entry| found.contains(entry))).collect())
}

fn entry(message: &NeighbourMessage) -> Option<Entry> {
    if message.header.state != NeighbourState::Permanent {
        return None;
    }
    let address = message.attributes.iter().find_map(destination)?;
    let mac = |one: &NeighbourAttribute| {
        if let NeighbourAttribute::LinkLayerAddress(mac) = one { mac.first_chunk().copied() } else { None }
    };
    let (device, mac) = (message.header.ifindex, message.attributes.iter().find_map(mac)?);
    let is_forwarding = message.header.family == AddressFamily::Bridge;
    Some(if is_forwarding { Entry::Forwarding(device, mac, address) } else { Entry::Neighbour(device, address, mac) })
}

/// A forwarding entry's is not of its table's family, by which it is read.
fn destination(one: &NeighbourAttribute) -> Option<IpAddr> {
    let NeighbourAttribute::Destination(destination) = one else { return None };
    if let NeighbourAddress::Inet(v4) = destination {
        Some(IpAddr::V4(*v4))
    } else if let NeighbourAddress::Inet6(v6) = destination {
        Some(IpAddr::V6(*v6))
    } else if let NeighbourAddress::Other(octets) = destination {
        read(octets)
    } else {
        None
    }
}

fn read(octets: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(octets).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(octets).map(IpAddr::from)).ok()
}

/// Our routes that are no ways.
pub(super) fn all_led(socket: &mut Socket) -> Result<BTreeMap<IpNet, Found>, NetlinkError> {
    let mut all: BTreeMap<IpNet, Found> = BTreeMap::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let ours = |object| {
            let Message::NewRoute(route) = object else { return None };
            led(&route).map(|(to, led)| (to, led, mtu(&route)))
        };
        for (to, led, mtu) in socket.dump(&routes(family), ours)? {
            let found = all.entry(to).or_default();
            if led == Led::Nowhere {
                found.nowhere = true;
            } else {
                (found.by, found.mtu) = (Some(led), mtu);
            }
        }
    }
    Ok(all)
}

fn led(route: &RouteMessage) -> Option<(IpNet, Led)> {
    let is_ours = route.header.protocol == OURS && route.header.table == RouteHeader::RT_TABLE_MAIN;
    // The default route has none.
    let any = || if route.header.address_family == AddressFamily::Inet { [0; 4].into() } else { [0; 16].into() };
    let to = route.attributes.iter().find_map(links::destination).unwrap_or_else(any);
    let to = IpNet::new(to, route.header.destination_prefix_length).ok().filter(|_| is_ours)?;
    if route.header.kind == RouteType::Unreachable {
        return Some((to, Led::Nowhere));
    }
    let device = |one: &RouteAttribute| if let RouteAttribute::Oif(index) = one { Some(*index) } else { None };
    gateway(route).map(|gateway| (to, Led::By(gateway, route.attributes.iter().find_map(device))))
}

/// Of the route itself, or of a router that was heard of it.
pub(in crate::linux) fn mtu(route: &RouteMessage) -> Option<u32> {
    let of = |one: &RouteMetric| if let RouteMetric::Mtu(mtu) = one { Some(*mtu) } else { None };
    route
        .attributes
        .iter()
        .find_map(|one| if let RouteAttribute::Metrics(metrics) = one { metrics.iter().find_map(of) } else { None })
}

/// A way has none.
pub(in crate::linux) fn is_led(route: &RouteMessage) -> bool {
    gateway(route).is_some()
}

/// The next hop, where it is not the destination itself.
pub(in crate::linux) fn gateway(route: &RouteMessage) -> Option<IpAddr> {
    route.attributes.iter().find_map(|one| {
        if let RouteAttribute::Gateway(address) = one {
            links::address(address)
        } else if let RouteAttribute::Via(RouteVia::Inet6(v6)) = one {
            Some(IpAddr::V6(*v6))
        } else {
            None
        }
    })
}

/// The peers by the next hops that lead to them: of each family of ranges, its own.
fn by_next_hop(ends: &BTreeSet<IpAddr>) -> BTreeMap<(bool, IpAddr), IpAddr> {
    let any = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
    let hops = |peer: &IpAddr| any.map(|to| ((to.is_ipv4(), end_of(*peer, to)), *peer));
    // Of two with one MAC the first.
    ends.iter().rev().flat_map(hops).collect()
}

/// A route by a tunnel to where no peer is known is seen as one past it, which nobody wants.
fn hop(to: IpAddr, led: Led, devices: &BTreeMap<u32, Encapsulation>, peers: &BTreeMap<(bool, IpAddr), IpAddr>) -> Hop {
    let Led::By(gateway, device) = led else { return Hop::Nowhere };
    let by = device.and_then(|device| devices.get(&device));
    match (by, gateway) {
        (Some(Encapsulation::Ipip), IpAddr::V4(peer)) => Hop::Ipip(peer),
        (Some(Encapsulation::Vxlan), _) => {
            peers.get(&(to.is_ipv4(), gateway)).map_or(Hop::Direct(gateway), |peer| Hop::Vxlan(*peer))
        }
        (Some(Encapsulation::Ipip) | None, _) => Hop::Direct(gateway),
    }
}
