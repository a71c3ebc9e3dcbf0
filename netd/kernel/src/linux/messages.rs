//! The rtnetlink messages that netd sends. Pure; sending is the socket's.

use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd};

use ipnet::IpNet;
use netd_config::LinkName;
use netlink_packet_core::DefaultNla;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope};
use netlink_packet_route::link::{
    AfSpecInet, AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoBridge, InfoBridgePort, InfoData, InfoKind,
    InfoPortData, InfoPortKind, InfoVeth, LinkAttribute, LinkExtentMask, LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::neighbour::{NeighbourAttribute, NeighbourMessage};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage as Message};

use crate::object::{Bridge, LinkSettings, Mac, Route, Veth, link_local_of};

/// First letters of the alias of every veth that is ours.
pub(super) const MARK: &str = "netd:";
/// The alias of every link of a VLAN's gateway that is ours.
pub(super) const GATEWAY_MARK: &str = "netd gateway";

/// The protocol number of our routes (RFC 3549, 3.1.1: from 5 on they are anybody's).
pub(super) const OURS: RouteProtocol = RouteProtocol::Other(0x6e);
const NESTED: u16 = 0x8000;
const ONE_QUEUE: [LinkAttribute; 2] = [LinkAttribute::NumTxQueues(1), LinkAttribute::NumRxQueues(1)];

fn link(attributes: Vec<LinkAttribute>) -> LinkMessage {
    let mut link = LinkMessage::default();
    link.attributes = attributes;
    link
}

pub(super) fn by_name(name: &LinkName) -> Message {
    Message::GetLink(link(vec![LinkAttribute::IfName(name.to_string()), no_statistics()]))
}

pub(super) fn all_links() -> Message {
    Message::GetLink(link(vec![no_statistics()]))
}

fn no_statistics() -> LinkAttribute {
    LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats])
}

pub(super) fn delete(name: &LinkName) -> Message {
    Message::DelLink(link(vec![LinkAttribute::IfName(name.to_string())]))
}

/// The group of links that are being deleted; a number that nobody else is likely to use.
const CONDEMNED: u32 = 0x6e64_0001;

pub(super) fn condemn(name: &LinkName) -> Message {
    Message::SetLink(link(vec![LinkAttribute::IfName(name.to_string()), LinkAttribute::Group(CONDEMNED)]))
}

pub(super) fn delete_condemned() -> Message {
    Message::DelLink(link(vec![LinkAttribute::Group(CONDEMNED)]))
}

/// A new bridge. It does not follow who listens to which multicast: while nobody asks them (the kernel's own querier is off), it
/// sends to all ports either way, and for each port that comes or is shut it would ask all others again, under their locks
/// (`br_multicast_enable_port`, by `br_port_state_selection`, net/bridge/br_stp.c).
pub(super) fn bridge(name: &LinkName, bridge: &Bridge) -> Message {
    let mut data = vec![InfoBridge::MulticastSnooping(false)];
    data.extend(bridge.vlan_filtering.then_some(InfoBridge::VlanFiltering(true)));
    let info = vec![LinkInfo::Kind(InfoKind::Bridge), LinkInfo::Data(InfoData::Bridge(data))];
    let mut message = link(vec![LinkAttribute::IfName(name.to_string()), LinkAttribute::LinkInfo(info)]);
    message.attributes.extend(bridge.mtu.map(LinkAttribute::Mtu));
    Message::NewLink(message)
}

/// The bridge up, with its own MAC as a set one: the kernel changes it no more.
pub(super) fn pin(index: u32, bridge: &Bridge, mac: &[u8]) -> Message {
    let mut message = raised(index);
    message.attributes.push(LinkAttribute::Address(mac.to_vec()));
    if bridge.promisc {
        message.header.flags |= LinkFlags::Promisc;
        message.header.change_mask |= LinkFlags::Promisc;
    }
    Message::SetLink(message)
}

/// From now on the bridge keeps VLANs apart.
pub(super) fn filter_vlans(name: &LinkName) -> Message {
    set_bridge(name, vec![InfoBridge::VlanFiltering(true)])
}

/// The port of a bridge, with `name` as its other end on the node.
pub(super) fn gateway_link((name, mac): (&LinkName, Mac), port: &LinkName, mtu: Option<u32>, bridge: u32) -> Message {
    let mac = LinkAttribute::Address(mac.to_vec());
    let mut end = link(vec![LinkAttribute::IfName(name.to_string()), mac]);
    end.attributes.extend(mtu.map(LinkAttribute::Mtu));
    end.attributes.extend(ONE_QUEUE);
    let info = vec![LinkInfo::Kind(InfoKind::Veth), LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(end)))];
    let port = LinkAttribute::IfName(port.to_string());
    let mut message = link(vec![port, LinkAttribute::LinkInfo(info), LinkAttribute::Controller(bridge)]);
    message.attributes.extend(mtu.map(LinkAttribute::Mtu));
    message.attributes.extend(ONE_QUEUE);
    Message::NewLink(message)
}

pub(super) fn mark_gateway(name: &LinkName) -> Message {
    let alias = LinkAttribute::IfAlias(GATEWAY_MARK.to_owned());
    Message::NewLink(link(vec![LinkAttribute::IfName(name.to_string()), alias]))
}

pub(super) fn become_port(index: u32, bridge: u32) -> Message {
    let mut message = link(vec![LinkAttribute::Controller(bridge)]);
    message.header.index = index;
    Message::SetLink(message)
}

/// Whether what is bridged passes the rules of IPv4 and IPv6, whatever the node's switch for all bridges says.
pub(super) fn filter(name: &LinkName, is_on: bool) -> Message {
    set_bridge(name, vec![InfoBridge::NfCallIpTables(is_on), InfoBridge::NfCallIp6Tables(is_on)])
}

fn set_bridge(name: &LinkName, data: Vec<InfoBridge>) -> Message {
    let info = vec![LinkInfo::Kind(InfoKind::Bridge), LinkInfo::Data(InfoData::Bridge(data))];
    Message::NewLink(link(vec![LinkAttribute::IfName(name.to_string()), LinkAttribute::LinkInfo(info)]))
}

/// One message: the pair, its host end with `mac` a port of the bridge, its other end in the sandbox with name and MAC. The
/// host end is told its MAC, so that no udev rule gives it another (`MACAddressPolicy`, systemd.link(5)). Both ends say
/// that they have one queue: the kernel would make one a CPU, and then wait for its readers, at either end, to use one of
/// them (`veth_init_queues`, drivers/net/veth.c).
pub(super) fn veth(name: &LinkName, veth: &Veth, mac: Mac, bridge: Option<u32>, netns: &OwnedFd) -> Message {
    let peer_name = &veth.peer.1;
    let mut peer = link(vec![LinkAttribute::IfName(peer_name.to_string()), LinkAttribute::NetNsFd(netns.as_raw_fd())]);
    peer.attributes.extend(veth.peer_mac.map(|mac| LinkAttribute::Address(mac.to_vec())));
    peer.attributes.extend(veth.mtu.map(LinkAttribute::Mtu));
    peer.attributes.extend(ONE_QUEUE);
    let info = vec![LinkInfo::Kind(InfoKind::Veth), LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer)))];
    let mac = LinkAttribute::Address(mac.to_vec());
    let mut message = link(vec![LinkAttribute::IfName(name.to_string()), mac, LinkAttribute::LinkInfo(info)]);
    message.attributes.extend(bridge.map(LinkAttribute::Controller));
    message.attributes.extend(veth.mtu.map(LinkAttribute::Mtu));
    message.attributes.extend(ONE_QUEUE);
    Message::NewLink(message)
}

/// Our mark, with the sandbox and the interface it was made for, and the port's flags. A message of its own: the kernel
/// passes over `IFLA_IFALIAS` when it creates a link (`rtnl_create_link`, net/core/rtnetlink.c). `has_ipv6`: the host end
/// gets no link-local address when it goes up; nobody speaks to a bridge port, and to a routed one by its gateway address.
pub(super) fn mark(name: &LinkName, veth: &Veth, has_ipv6: bool) -> Message {
    let alias = format!("{MARK}{:x}:{}", veth.peer.0.0, veth.peer.1);
    let mut attributes = vec![LinkAttribute::IfName(name.to_string()), LinkAttribute::IfAlias(alias)];
    if veth.hairpin || veth.isolated {
        attributes.push(port_flags(veth));
    }
    let mut families = Vec::new();
    if veth.bridge.is_none() {
        families.push(localnet());
    }
    if has_ipv6 {
        families.push(generation(In6AddrGenMode::None));
    }
    if !families.is_empty() {
        attributes.push(LinkAttribute::AfSpecUnspec(families));
    }
    Message::NewLink(link(attributes))
}

/// How the kernel makes a link's link-local address: as ever, or not at all.
pub(super) fn link_local_generation(index: u32, is_on: bool) -> Message {
    let mode = if is_on { In6AddrGenMode::Eui64 } else { In6AddrGenMode::None };
    let mut message = link(vec![LinkAttribute::AfSpecUnspec(vec![generation(mode)])]);
    message.header.index = index;
    Message::SetLink(message)
}

fn generation(mode: In6AddrGenMode) -> AfSpecUnspec {
    AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(mode)])
}

/// `route_localnet`, for published ports from 127/8, as a bridge of ours has it; without a file to open.
fn localnet() -> AfSpecUnspec {
    const IFLA_INET_CONF: u16 = 1;
    const ROUTE_LOCALNET: [u8; 4] = [8, 0, 26, 0];
    let on = [ROUTE_LOCALNET, 1_u32.to_ne_bytes()].concat();
    AfSpecUnspec::Inet(vec![AfSpecInet::Other(DefaultNla::new(IFLA_INET_CONF | NESTED, on))])
}

/// The link-local address that the kernel would make of a MAC, without trying it out.
pub(super) fn link_local(index: u32, mac: Mac) -> Message {
    let address = link_local_of(mac);
    let mut message = AddressMessage::default();
    message.header.family = AddressFamily::Inet6;
    message.header.prefix_len = 64;
    message.header.index = index;
    message.header.scope = AddressScope::Link;
    let nodad = AddressAttribute::Flags(AddressFlags::Nodad);
    message.attributes = vec![AddressAttribute::Local(address), AddressAttribute::Address(address), nodad];
    Message::NewAddress(message)
}

pub(super) fn up_by_name(name: &LinkName) -> Message {
    let mut message = raised(0);
    message.attributes.push(LinkAttribute::IfName(name.to_string()));
    Message::SetLink(message)
}

pub(super) fn down_by_name(name: &LinkName) -> Message {
    let mut message = link(vec![LinkAttribute::IfName(name.to_string())]);
    message.header.change_mask = LinkFlags::Up;
    Message::SetLink(message)
}

pub(super) fn port(name: &LinkName, veth: &Veth) -> Message {
    Message::NewLink(link(vec![LinkAttribute::IfName(name.to_string()), port_flags(veth)]))
}

fn port_flags(veth: &Veth) -> LinkAttribute {
    let data = vec![InfoBridgePort::HairpinMode(veth.hairpin), InfoBridgePort::Isolated(veth.isolated)];
    let data = LinkInfo::PortData(InfoPortData::BridgePort(data));
    LinkAttribute::LinkInfo(vec![LinkInfo::PortKind(InfoPortKind::Bridge), data])
}

/// Shuts a bridge port: `IFLA_PROTINFO` with `IFLA_BRPORT_STATE` 0, of the bridge family. By way of the link's own
/// options it would not last: the notice of that change makes the bridge enable the port again
/// (`br_port_carrier_check`, net/bridge/br_if.c).
pub(super) fn shut(index: u32) -> Message {
    const IFLA_PROTINFO: u16 = 12;
    let state = vec![5, 0, 1, 0, 0, 0, 0, 0];
    let mut message = link(vec![LinkAttribute::Other(DefaultNla::new(IFLA_PROTINFO | NESTED, state))]);
    message.header.interface_family = AddressFamily::Bridge;
    message.header.index = index;
    Message::SetLink(message)
}

pub(super) fn up(index: u32) -> Message {
    Message::SetLink(raised(index))
}

fn raised(index: u32) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    message
}

/// The link up, unless it is to stay down, with its settings.
pub(super) fn settings(index: u32, settings: &LinkSettings) -> Message {
    let mut message = raised(index);
    if settings.stays_down {
        message.header.flags -= LinkFlags::Up;
        message.header.change_mask -= LinkFlags::Up;
    }
    message.attributes.extend(settings.mac.map(|mac| LinkAttribute::Address(mac.to_vec())));
    message.attributes.extend(settings.mtu.map(LinkAttribute::Mtu));
    message.attributes.extend(settings.queue_length.map(LinkAttribute::TxQueueLen));
    for (is_on, flag) in [(settings.promisc, LinkFlags::Promisc), (settings.all_multicast, LinkFlags::Allmulti)] {
        if is_on {
            message.header.flags |= flag;
            message.header.change_mask |= flag;
        }
    }
    Message::SetLink(message)
}

/// Addresses are netd's to give: IPv6 ones skip duplicate address detection.
pub(super) fn address(index: u32, address: IpNet) -> Message {
    Message::NewAddress(addressed(index, address, AddressFlags::empty()))
}

/// Of a bridge, with our mark: kernels before 5.18 pass over it (`IFA_PROTO`).
pub(super) fn bridge_address(index: u32, address: IpNet) -> Message {
    let mut message = addressed(index, address, AddressFlags::empty());
    message.attributes.push(AddressAttribute::Protocol(u8::from(OURS).into()));
    Message::NewAddress(message)
}

/// An address that brings no route for its prefix.
pub(super) fn lone_address(index: u32, address: IpNet) -> Message {
    Message::NewAddress(addressed(index, address, AddressFlags::Noprefixroute))
}

pub(super) fn remove_address(index: u32, address: IpNet) -> Message {
    Message::DelAddress(addressed(index, address, AddressFlags::empty()))
}

fn addressed(index: u32, address: IpNet, mut flags: AddressFlags) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = if address.addr().is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    message.header.prefix_len = address.prefix_len();
    message.header.index = index;
    message.header.scope = AddressScope::Universe;
    message.attributes = vec![AddressAttribute::Local(address.addr()), AddressAttribute::Address(address.addr())];
    match address {
        IpNet::V4(v4) => message.attributes.push(AddressAttribute::Broadcast(v4.broadcast())),
        IpNet::V6(_) => flags |= AddressFlags::Nodad,
    }
    if !flags.is_empty() {
        message.attributes.push(AddressAttribute::Flags(flags));
    }
    message
}

/// Drops what the neighbour table has of an address.
pub(super) fn forget_neighbour(index: u32, address: IpAddr) -> Message {
    let mut message = NeighbourMessage::default();
    message.header.family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    message.header.ifindex = index;
    message.attributes = vec![NeighbourAttribute::Destination(address.into())];
    Message::DelNeighbour(message)
}

pub(super) fn route(index: u32, route: &Route) -> Message {
    let v4 = route.destination.addr().is_ipv4();
    let mut message = RouteMessage::default();
    message.header.address_family = if v4 { AddressFamily::Inet } else { AddressFamily::Inet6 };
    message.header.destination_prefix_length = route.destination.prefix_len();
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Boot;
    message.header.scope = if route.gateway.is_some() { RouteScope::Universe } else { RouteScope::Link };
    message.header.kind = RouteType::Unicast;
    message.attributes = vec![RouteAttribute::Oif(index)];
    if route.destination.prefix_len() > 0 {
        message.attributes.push(RouteAttribute::Destination(target(route.destination.network())));
    }
    message.attributes.extend(route.gateway.map(|gateway| RouteAttribute::Gateway(target(gateway))));
    message.attributes.extend(route.source.map(|source| RouteAttribute::PrefSource(target(source))));
    Message::NewRoute(message)
}

/// The way to an address, by a host end.
pub(super) fn way(index: u32, address: IpAddr) -> Message {
    let mut message = to(address);
    message.header.scope = RouteScope::Link;
    message.header.kind = RouteType::Unicast;
    message.attributes.push(RouteAttribute::Oif(index));
    Message::NewRoute(message)
}

pub(super) fn remove_way(index: u32, address: IpAddr) -> Message {
    let mut message = to(address);
    message.attributes.push(RouteAttribute::Oif(index));
    // Of whatever scope.
    message.header.scope = RouteScope::NoWhere;
    Message::DelRoute(message)
}

/// The route that leads to an address, as it stands in its table (RTM_F_FIB_MATCH, Linux 4.13).
pub(super) fn route_to(address: IpAddr) -> Message {
    let mut message = to(address);
    message.header.table = RouteHeader::RT_TABLE_UNSPEC;
    message.header.protocol = RouteProtocol::Unspec;
    message.header.flags.insert(RouteFlags::FibMatch);
    Message::GetRoute(message)
}

/// Our routes of a family; a kernel that does not choose sends all.
pub(super) fn routes(family: AddressFamily) -> Message {
    let mut message = RouteMessage::default();
    message.header.address_family = family;
    message.header.protocol = OURS;
    Message::GetRoute(message)
}

/// All routes of a family.
pub(super) fn all_routes(family: AddressFamily) -> Message {
    let mut message = RouteMessage::default();
    message.header.address_family = family;
    Message::GetRoute(message)
}

fn to(address: IpAddr) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    message.header.destination_prefix_length = IpNet::from(address).prefix_len();
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = OURS;
    message.attributes = vec![RouteAttribute::Destination(target(address))];
    message
}

pub(super) fn target(address: IpAddr) -> RouteAddress {
    match address {
        IpAddr::V4(v4) => RouteAddress::Inet(v4),
        IpAddr::V6(v6) => RouteAddress::Inet6(v6),
    }
}
