//! The rtnetlink messages of the fabric. Pure; sending is the socket's.

use std::net::IpAddr;

use ipnet::IpNet;
use netd_config::LinkName;
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoData, InfoIpTunnel, InfoKind, InfoVxlan, LinkAttribute, LinkInfo,
    LinkMessage, VxlanDf,
};
use netlink_packet_route::neighbour::{NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState};
use netlink_packet_route::route::{
    RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteMetric, RouteScope, RouteType, RouteVia,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage as Message};

use crate::linux::messages::{MARK, OURS, target};
use crate::object::{Encapsulation, Entrance, Hop, Mac, Tunnel, link_local_of, mac_of_end};

/// VXLAN's number of our network: one cluster is one.
pub(in crate::linux) const NETWORK: u32 = 0x6e64;
/// Of routes that lead nowhere: any other to the same range comes first.
pub(super) const LAST: u32 = u32::MAX;

/// The alias of every tunnel device that is ours.
pub(super) fn alias() -> String {
    format!("{MARK}tunnel")
}

/// The device alone. What it carries may be fragmented on the way where its sender allows that, and only there: so a path
/// that has become narrower is told to senders, and never swallows a packet.
pub(super) fn device(name: &LinkName, tunnel: &Tunnel) -> Message {
    let mut message = named(name);
    message.attributes.push(LinkAttribute::Mtu(tunnel.mtu));
    let (kind, data) = match tunnel.entrance {
        Entrance::Ipip(_) => (InfoKind::IpIp, ends(tunnel.entrance)),
        Entrance::Vxlan(local, port) => {
            message.attributes.push(LinkAttribute::Address(mac_of_end(local).to_vec()));
            let mut data = vec![InfoVxlan::Id(NETWORK), InfoVxlan::Port(port), InfoVxlan::Learning(false)];
            data.extend([near(local), InfoVxlan::Df(VxlanDf::Inherit)]);
            (InfoKind::Vxlan, InfoData::Vxlan(data))
        }
    };
    message.attributes.push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind), LinkInfo::Data(data)]));
    Message::NewLink(message)
}

/// A device of this kind that no kernel makes.
pub(super) fn impossible(encapsulation: Encapsulation) -> Message {
    let info = match encapsulation {
        Encapsulation::Ipip => {
            let nobody_s = InfoData::IpTunnel(vec![InfoIpTunnel::Protocol(u8::MAX.into())]);
            vec![LinkInfo::Kind(InfoKind::IpIp), LinkInfo::Data(nobody_s)]
        }
        // Without a network.
        Encapsulation::Vxlan => vec![LinkInfo::Kind(InfoKind::Vxlan)],
    };
    let mut message = LinkMessage::default();
    message.attributes = vec![LinkAttribute::LinkInfo(info)];
    Message::NewLink(message)
}

/// What can change of a device that stands: its address, and the size of what it carries. A VXLAN device takes them apart
/// only (`vxlan_nl2conf`, drivers/net/vxlan).
pub(super) fn changed(name: &LinkName, tunnel: &Tunnel) -> [Message; 2] {
    let (kind, mac) = match tunnel.entrance {
        Entrance::Ipip(_) => (InfoKind::IpIp, None),
        Entrance::Vxlan(local, _) => (InfoKind::Vxlan, Some(mac_of_end(local))),
    };
    let (mut link, mut ends_of_it) = (named(name), named(name));
    link.attributes.push(LinkAttribute::Mtu(tunnel.mtu));
    link.attributes.extend(mac.map(|mac| LinkAttribute::Address(mac.to_vec())));
    let info = vec![LinkInfo::Kind(kind), LinkInfo::Data(ends(tunnel.entrance))];
    ends_of_it.attributes.push(LinkAttribute::LinkInfo(info));
    [Message::SetLink(link), Message::NewLink(ends_of_it)]
}

/// An IP tunnel to nobody in particular goes to the route's next hop. With a lifetime of its own a packet could not be
/// fragmented (`ipip_netlink_parms`, net/ipv4/ipip.c): it has that of what it carries.
fn ends(entrance: Entrance) -> InfoData {
    match entrance {
        Entrance::Ipip(local) => {
            InfoData::IpTunnel(vec![InfoIpTunnel::Local(local.into()), InfoIpTunnel::PMtuDisc(false)])
        }
        Entrance::Vxlan(local, _) => InfoData::Vxlan(vec![near(local)]),
    }
}

fn near(local: IpAddr) -> InfoVxlan {
    match local {
        IpAddr::V4(v4) => InfoVxlan::Local(v4),
        IpAddr::V6(v6) => InfoVxlan::Local6(v6),
    }
}

/// Our mark, in a message of its own (`rtnl_create_link` passes over it). Nobody speaks to a link-local address there.
pub(super) fn mark(name: &LinkName, has_ipv6: bool) -> Message {
    let mut message = named(name);
    message.attributes.push(LinkAttribute::IfAlias(alias()));
    if has_ipv6 {
        let generation = AfSpecInet6::AddrGenMode(In6AddrGenMode::None);
        message.attributes.push(LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![generation])]));
    }
    Message::NewLink(message)
}

fn named(name: &LinkName) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.attributes = vec![LinkAttribute::IfName(name.to_string())];
    message
}

/// An entry of the neighbour table, or of the device's forwarding table.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Entry {
    /// An address of a next hop, and whose MAC it leads to.
    Neighbour(u32, IpAddr, Mac),
    /// A MAC, and the peer that frames to it are sent to.
    Forwarding(u32, Mac, IpAddr),
}

impl Entry {
    pub(super) fn added(&self) -> Message {
        Message::NewNeighbour(self.message())
    }

    pub(super) fn removed(&self) -> Message {
        Message::DelNeighbour(self.message())
    }

    fn message(&self) -> NeighbourMessage {
        let mut message = NeighbourMessage::default();
        message.header.state = NeighbourState::Permanent;
        let (Self::Neighbour(device, address, mac) | Self::Forwarding(device, mac, address)) = self;
        message.header.ifindex = *device;
        message.attributes = vec![
            NeighbourAttribute::Destination((*address).into()),
            NeighbourAttribute::LinkLayerAddress(mac.to_vec()),
        ];
        match self {
            Self::Neighbour(..) => message.header.family = family(*address),
            Self::Forwarding(..) => {
                message.header.family = AddressFamily::Bridge;
                message.header.flags = NeighbourFlags::Own;
            }
        }
        message
    }
}

/// What leads frames to a peer. IPv6 finds it by the link-local address that its MAC would have.
pub(super) fn far_end(device: u32, peer: IpAddr, has_ipv6: bool) -> Vec<Entry> {
    let mac = mac_of_end(peer);
    let by_ipv4 = peer.is_ipv4().then_some(peer);
    let by_ipv6 = has_ipv6.then(|| link_local_of(mac));
    let hops = by_ipv4.into_iter().chain(by_ipv6);
    let neighbours = hops.map(|hop| Entry::Neighbour(device, hop, mac));
    std::iter::once(Entry::Forwarding(device, mac, peer)).chain(neighbours).collect()
}

/// The next hop of a route by the VXLAN tunnel, as [`far_end`] leads on from it.
pub(super) fn end_of(peer: IpAddr, to: IpAddr) -> IpAddr {
    if to.is_ipv4() && peer.is_ipv4() { peer } else { link_local_of(mac_of_end(peer)) }
}

/// A route as the kernel has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Led {
    /// By a neighbour: on the tunnel device of this index, or on whatever link has it.
    By(IpAddr, Option<u32>),
    Nowhere,
}

impl Led {
    /// `device`: that of the hop's tunnel.
    pub(super) fn of(hop: Hop, to: IpAddr, device: Option<u32>) -> Self {
        match hop {
            Hop::Direct(gateway) => Self::By(gateway, None),
            Hop::Ipip(peer) => Self::By(peer.into(), device),
            Hop::Vxlan(peer) => Self::By(end_of(peer, to), device),
            Hop::Nowhere => Self::Nowhere,
        }
    }
}

/// `mtu`: of the route alone.
pub(super) fn route(to: IpNet, led: Led, mtu: Option<u32>) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family(to.addr());
    message.header.destination_prefix_length = to.prefix_len();
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = OURS;
    message.header.scope = RouteScope::Universe;
    message.attributes = vec![RouteAttribute::Destination(target(to.network()))];
    match led {
        Led::By(gateway, device) => {
            message.header.kind = RouteType::Unicast;
            message.attributes.push(by(to.addr(), gateway));
            message.attributes.extend(device.map(RouteAttribute::Oif));
            message.attributes.extend(mtu.map(|mtu| RouteAttribute::Metrics(vec![RouteMetric::Mtu(mtu)])));
            if device.is_some() {
                message.header.flags = RouteFlags::Onlink;
            }
        }
        Led::Nowhere => {
            message.header.kind = RouteType::Unreachable;
            message.attributes.push(RouteAttribute::Priority(LAST));
        }
    }
    message
}

fn by(to: IpAddr, gateway: IpAddr) -> RouteAttribute {
    if to.is_ipv4() == gateway.is_ipv4() {
        RouteAttribute::Gateway(target(gateway))
    } else {
        RouteAttribute::Via(RouteVia::from(gateway))
    }
}

fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

/// All entries of the neighbour tables, then those of forwarding tables.
pub(super) fn entries() -> [Message; 2] {
    [AddressFamily::Unspec, AddressFamily::Bridge].map(|family| {
        let mut message = NeighbourMessage::default();
        message.header.family = family;
        Message::GetNeighbour(message)
    })
}

#[cfg(test)]
mod tests {
    use super::{Entry, end_of, far_end};

    /// Whatever a route leads to has a neighbour entry, and that a forwarding entry.
    #[test]
    fn every_next_hop_has_its_entries() {
        for peer in ["192.0.2.2", "2001:db8::2"].map(|peer| peer.parse().unwrap()) {
            let entries = far_end(7, peer, true);
            for to in ["10.4.0.0", "fd04::"].map(|to| to.parse().unwrap()) {
                let hop = end_of(peer, to);
                let mac = entries.iter().find_map(|entry| match entry {
                    Entry::Neighbour(7, address, mac) if *address == hop => Some(*mac),
                    Entry::Neighbour(..) | Entry::Forwarding(..) => None,
                });
                assert!(entries.contains(&Entry::Forwarding(7, mac.unwrap(), peer)), "{entries:?}");
            }
        }
    }
}
