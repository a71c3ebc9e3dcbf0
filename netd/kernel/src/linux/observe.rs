//! What the kernel has, in the vocabulary of `object`. Reads only.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::IpAddr;

use ipnet::IpNet;
use netd_config::LinkName;
use netd_netlink::{NetlinkError, Socket};
use netlink_packet_route::address::{AddressAttribute, AddressMessage, AddressScope};
use netlink_packet_route::link::{
    BridgePortState, InfoBridge, InfoBridgePort, InfoData, InfoKind, InfoPortData, LinkAttribute, LinkFlags, LinkInfo,
    LinkMessage,
};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage as Message};

use super::messages::{GATEWAY_MARK, MARK, OURS, all_links, by_name, route_to, routes};
use super::{FILTER_TAGGED, fabric, vlan};
use crate::object::{Bridge, Interface, Key, LinkSettings, NetnsId, Object, Objects, Port, Veth};

/// All bridges, the veths that carry our mark with their gateways, our ways, and the fabric. Which bridges are filtered is
/// [`filtered`]'s.
pub(super) fn node(socket: &mut Socket, tunnels: &fabric::Names) -> Result<Objects, NetlinkError> {
    let links = links(socket)?;
    let addresses = addresses(socket)?;
    let names = names(&links);
    let mut objects = Objects::new();
    let filtering: BTreeSet<u32> = links.iter().filter(|link| has_vlans(link)).map(|link| link.header.index).collect();
    let is_any = !filtering.is_empty() || links.iter().any(is_gateway);
    let vlans = if is_any { vlan::ports(socket)? } else { BTreeMap::new() };
    for link in &links {
        let Some(name) = names.get(&link.header.index) else { continue };
        if kind(link) == Some(&InfoKind::Bridge) {
            let bridge = Bridge {
                addresses: addresses.get(&link.header.index).cloned().unwrap_or_default(),
                mtu: Some(mtu_of(link)),
                promisc: link.header.flags.contains(LinkFlags::Promisc),
                vlan_filtering: filtering.contains(&link.header.index),
            };
            objects.insert(Key::Bridge(name.clone()), Object::Bridge(bridge));
        } else if is_gateway(link) {
            let here = addresses.get(&link.header.index).map(Vec::as_slice).unwrap_or_default();
            let object = vlan::seen(link, &links, (&names, &vlans), here);
            objects.insert(Key::GatewayLink(name.clone()), object);
        } else if let Some(mut veth) = veth(link, &names) {
            if controller(link).is_some_and(|bridge| filtering.contains(&bridge)) {
                veth.vlans = vlans.get(&link.header.index).cloned().flatten();
            }
            let here = addresses.get(&link.header.index).into_iter().flatten();
            let alone = here.filter(|_| veth.bridge.is_none()).filter(|one| one.prefix_len() == one.max_prefix_len());
            objects.extend(alone.map(|one| (Key::Gateway(name.clone(), one.addr()), Object::Set)));
            objects.insert(Key::Veth(name.clone()), Object::Veth(veth));
        }
    }
    objects.extend(ways_by(socket, &names)?);
    objects.extend(fabric::objects(socket, tunnels, &links, &addresses)?);
    Ok(objects)
}

/// The bridges that are filtered: none where frames with a tag pass by.
pub(super) fn filtered(socket: &mut Socket) -> Result<Objects, NetlinkError> {
    if !fs::read_to_string(FILTER_TAGGED).is_ok_and(|on| on.trim() == "1") {
        return Ok(Objects::new());
    }
    let links = links(socket)?;
    let names = names(&links);
    let filtered = links.iter().filter(|link| kind(link) == Some(&InfoKind::Bridge) && is_filtered(link));
    let names = filtered.filter_map(|link| names.get(&link.header.index));
    Ok(names.map(|name| (Key::Filtered(name.clone()), Object::Set)).collect())
}

/// Whether the way to `address` is the one by this link. The kernel is asked for the one route first: a look at all takes as
/// long as there are sandboxes.
pub(super) fn is_way(socket: &mut Socket, link: &LinkName, index: u32, address: IpAddr) -> Result<bool, NetlinkError> {
    let key = Key::SandboxRoute(link.clone(), address);
    let names = BTreeMap::from([(index, link.clone())]);
    // Where others' routing rules lead elsewhere it is not the one.
    if let Ok(Message::NewRoute(route)) = socket.fetch(route_to(address))
        && way(&route, &names).is_some_and(|(found, _)| found == key)
    {
        return Ok(true);
    }
    Ok(ways(socket)?.contains_key(&key))
}

/// The ways to sandboxes' addresses: host routes by our protocol number.
fn ways(socket: &mut Socket) -> Result<Objects, NetlinkError> {
    let links = links(socket)?;
    ways_by(socket, &names(&links))
}

fn ways_by(socket: &mut Socket, names: &BTreeMap<u32, LinkName>) -> Result<Objects, NetlinkError> {
    let mut ways = Objects::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        ways.extend(socket.dump(&routes(family), |object| {
            let Message::NewRoute(route) = object else { return None };
            way(&route, names)
        })?);
    }
    Ok(ways)
}

fn way(route: &RouteMessage, names: &BTreeMap<u32, LinkName>) -> Option<(Key, Object)> {
    let header = &route.header;
    let address = route.attributes.iter().find_map(destination)?;
    let is_way = header.protocol == OURS
        && header.table == RouteHeader::RT_TABLE_MAIN
        && !fabric::is_led(route)
        && header.destination_prefix_length == IpNet::from(address).prefix_len();
    let by = |one: &RouteAttribute| if let RouteAttribute::Oif(index) = one { names.get(index).cloned() } else { None };
    let via = route.attributes.iter().find_map(by)?;
    is_way.then_some((Key::SandboxRoute(via, address), Object::Set))
}

pub(super) fn destination(attribute: &RouteAttribute) -> Option<IpAddr> {
    if let RouteAttribute::Destination(to) = attribute { address(to) } else { None }
}

pub(super) fn address(of_route: &RouteAddress) -> Option<IpAddr> {
    if let RouteAddress::Inet(v4) = of_route {
        Some(IpAddr::from(*v4))
    } else if let RouteAddress::Inet6(v6) = of_route {
        Some(IpAddr::from(*v6))
    } else {
        None
    }
}

pub(super) fn links(socket: &mut Socket) -> Result<Vec<LinkMessage>, NetlinkError> {
    socket.dump(&all_links(), |object| {
        let Message::NewLink(mut link) = object else { return None };
        link.attributes.retain_mut(is_of_use);
        link.attributes.shrink_to_fit();
        Some(link)
    })
}

/// Of a link's some sixty attributes, and a port's thirty, those that anybody here looks at. The others go.
fn is_of_use(attribute: &mut LinkAttribute) -> bool {
    if let LinkAttribute::LinkInfo(infos) = attribute {
        for info in infos {
            if let LinkInfo::PortData(InfoPortData::BridgePort(options)) = info {
                options.retain(is_told_of_a_port);
                options.shrink_to_fit();
            }
        }
    }
    matches!(
        attribute,
        LinkAttribute::IfName(_)
            | LinkAttribute::IfAlias(_)
            | LinkAttribute::Address(_)
            | LinkAttribute::Mtu(_)
            | LinkAttribute::Controller(_)
            | LinkAttribute::Link(_)
            | LinkAttribute::Carrier(_)
            | LinkAttribute::LinkInfo(_)
    )
}

fn is_told_of_a_port(option: &InfoBridgePort) -> bool {
    matches!(option, InfoBridgePort::HairpinMode(_) | InfoBridgePort::Isolated(_) | InfoBridgePort::State(_))
}

fn names(links: &[LinkMessage]) -> BTreeMap<u32, LinkName> {
    links.iter().filter_map(|link| Some((link.header.index, LinkName::new(name(link)?).ok()?))).collect()
}

/// The addresses of a sandbox's interface. Routes, sysctls and settings are not read back: they are empty in the answer.
pub(super) fn interface(socket: &mut Socket, name: &LinkName) -> Result<Option<Interface>, NetlinkError> {
    let index = match socket.fetch(by_name(name)) {
        Ok(link) => index(&link),
        Err(NetlinkError::Refused { source, .. }) if source.raw_os_error() == Some(libc::ENODEV) => return Ok(None),
        Err(error) => return Err(error),
    };
    let addresses = addresses(socket)?.remove(&index).unwrap_or_default();
    let (routes, sysctls) = (Vec::new(), BTreeMap::new());
    Ok(Some(Interface { addresses, routes, sysctls, settings: LinkSettings::default(), quick_link_local: false }))
}

pub(super) fn index(object: &Message) -> u32 {
    if let Message::NewLink(link) = object { link.header.index } else { 0 }
}

/// Whether it was switched on, with a carrier or without.
pub(super) fn is_up(object: &Message) -> bool {
    matches!(object, Message::NewLink(link) if link.header.flags.contains(LinkFlags::Up))
}

pub(super) fn is_bridge(object: &Message) -> bool {
    matches!(object, Message::NewLink(link) if kind(link) == Some(&InfoKind::Bridge))
}

/// The bridge that it is a port of.
pub(super) fn controller(link: &LinkMessage) -> Option<u32> {
    let controller = |one: &LinkAttribute| if let LinkAttribute::Controller(index) = one { Some(*index) } else { None };
    link.attributes.iter().find_map(controller)
}

/// Of a veth pair.
pub(super) fn other_end(link: &LinkMessage) -> Option<u32> {
    let other = |one: &LinkAttribute| if let LinkAttribute::Link(index) = one { Some(*index) } else { None };
    link.attributes.iter().find_map(other)
}

/// The link of a VLAN's gateway, and ours.
pub(super) fn is_gateway(link: &LinkMessage) -> bool {
    link.attributes.iter().any(|one| matches!(one, LinkAttribute::IfAlias(alias) if alias == GATEWAY_MARK))
}

/// Whatever we made.
pub(super) fn is_marked(link: &LinkMessage) -> bool {
    let is_mark = |alias: &str| alias.starts_with(MARK) || alias == GATEWAY_MARK;
    link.attributes.iter().any(|one| matches!(one, LinkAttribute::IfAlias(alias) if is_mark(alias)))
}

pub(super) fn filters_vlans(object: &Message) -> bool {
    matches!(object, Message::NewLink(link) if has_vlans(link))
}

pub(super) fn mac_octets(object: &Message) -> Vec<u8> {
    let Message::NewLink(link) = object else { return Vec::new() };
    let mac =
        |attribute: &LinkAttribute| if let LinkAttribute::Address(mac) = attribute { Some(mac.clone()) } else { None };
    link.attributes.iter().find_map(mac).unwrap_or_default()
}

pub(super) fn in_words(mac: &[u8]) -> String {
    mac.iter().map(|octet| format!("{octet:02x}")).collect::<Vec<_>>().join(":")
}

pub(super) fn addresses(socket: &mut Socket) -> Result<BTreeMap<u32, Vec<IpNet>>, NetlinkError> {
    let mut found: BTreeMap<u32, Vec<IpNet>> = BTreeMap::new();
    let read = |object| {
        let Message::NewAddress(message) = object else { return None };
        let address = message.attributes.iter().find_map(|attribute| {
            if let AddressAttribute::Address(address) = attribute { Some(*address) } else { None }
        });
        // Link-local ones are the kernel's own.
        let address = address.filter(|_| message.header.scope == AddressScope::Universe)?;
        Some((message.header.index, IpNet::new(address, message.header.prefix_len).ok()?))
    };
    for (index, address) in socket.dump(&Message::GetAddress(AddressMessage::default()), read)? {
        found.entry(index).or_default().push(address);
    }
    found.values_mut().for_each(|addresses| addresses.sort());
    Ok(found)
}

/// Whether we gave the link this address. `None`: this kernel keeps no marks of addresses (before 5.18), or has none yet.
pub(super) fn is_our_address(socket: &mut Socket, index: u32, address: IpNet) -> Result<Option<bool>, NetlinkError> {
    let mark =
        |one: &AddressAttribute| if let AddressAttribute::Protocol(by) = one { Some(u8::from(*by)) } else { None };
    let is_it = |message: &AddressMessage| {
        message.header.index == index
            && message.header.prefix_len == address.prefix_len()
            && message.attributes.contains(&AddressAttribute::Address(address.addr()))
    };
    let marked = |object| {
        let Message::NewAddress(message) = object else { return None };
        let by = message.attributes.iter().find_map(mark)?;
        Some(is_it(&message) && by == u8::from(OURS))
    };
    let marks = socket.dump(&Message::GetAddress(AddressMessage::default()), marked)?;
    Ok(marks.into_iter().reduce(|one, other| one || other))
}

pub(super) fn name(link: &LinkMessage) -> Option<&str> {
    link.attributes
        .iter()
        .find_map(|one| if let LinkAttribute::IfName(name) = one { Some(name.as_str()) } else { None })
}

pub(super) fn mtu_of(link: &LinkMessage) -> u32 {
    let mtu = |one: &LinkAttribute| if let LinkAttribute::Mtu(mtu) = one { Some(*mtu) } else { None };
    link.attributes.iter().find_map(mtu).unwrap_or_default()
}

fn infos(link: &LinkMessage) -> impl Iterator<Item = &LinkInfo> {
    link.attributes
        .iter()
        .filter_map(|one| if let LinkAttribute::LinkInfo(infos) = one { Some(infos) } else { None })
        .flatten()
}

pub(super) fn kind(link: &LinkMessage) -> Option<&InfoKind> {
    infos(link).find_map(|info| if let LinkInfo::Kind(kind) = info { Some(kind) } else { None })
}

pub(super) fn data(link: &LinkMessage) -> Option<&InfoData> {
    infos(link).find_map(|info| if let LinkInfo::Data(data) = info { Some(data) } else { None })
}

fn bridge_options(link: &LinkMessage) -> Vec<&InfoBridge> {
    let data = infos(link)
        .filter_map(|info| if let LinkInfo::Data(InfoData::Bridge(data)) = info { Some(data) } else { None });
    data.flatten().collect()
}

fn has_vlans(link: &LinkMessage) -> bool {
    bridge_options(link).contains(&&InfoBridge::VlanFiltering(true))
}

/// Both versions pass the rules. The node's switch for all bridges is not looked at.
fn is_filtered(link: &LinkMessage) -> bool {
    let options = bridge_options(link);
    [InfoBridge::NfCallIpTables(true), InfoBridge::NfCallIp6Tables(true)].iter().all(|one| options.contains(&one))
}

/// A veth that is ours: its alias says which sandbox and which interface it was made for.
fn veth(link: &LinkMessage, names: &BTreeMap<u32, LinkName>) -> Option<Veth> {
    let alias = link
        .attributes
        .iter()
        .find_map(|one| if let LinkAttribute::IfAlias(alias) = one { alias.strip_prefix(MARK) } else { None })?;
    let (id, peer) = alias.split_once(':')?;
    let bridge = controller(link).and_then(|index| names.get(&index).cloned());
    let mut veth = Veth {
        bridge,
        peer: (NetnsId(u64::from_str_radix(id, 16).ok()?), LinkName::new(peer).ok()?),
        peer_mac: None,
        mtu: Some(mtu_of(link)),
        hairpin: false,
        isolated: false,
        vlans: None,
        port: if link.header.flags.contains(LinkFlags::Up) { Port::Open } else { Port::Down },
    };
    let options = infos(link)
        .filter_map(
            |info| if let LinkInfo::PortData(InfoPortData::BridgePort(data)) = info { Some(data) } else { None },
        )
        .flatten();
    for option in options {
        if let InfoBridgePort::HairpinMode(hairpin) = option {
            veth.hairpin = *hairpin;
        } else if let InfoBridgePort::Isolated(isolated) = option {
            veth.isolated = *isolated;
        } else if let InfoBridgePort::State(BridgePortState::Disabled) = option
            && link.attributes.contains(&LinkAttribute::Carrier(1))
        {
            // Without carrier a port is disabled in any case.
            veth.port = Port::Closed;
        }
    }
    Some(veth)
}
