//! What the kernel has, in the vocabulary of `object`. Reads only.

use std::collections::BTreeMap;

use ipnet::IpNet;
use netd_config::LinkName;
use netd_netlink::{NetlinkError, Socket};
use netlink_packet_route::RouteNetlinkMessage as Message;
use netlink_packet_route::address::{AddressAttribute, AddressMessage, AddressScope};
use netlink_packet_route::link::{
    BridgePortState, InfoBridgePort, InfoKind, InfoPortData, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};

use super::messages::{MARK, by_name};
use crate::object::{Bridge, Interface, Key, LinkSettings, NetnsId, Object, Objects, Port, Veth};

/// All bridges, and the veths that carry our mark.
pub(super) fn node(socket: &mut Socket) -> Result<Objects, NetlinkError> {
    let links: Vec<LinkMessage> = socket
        .dump(&Message::GetLink(LinkMessage::default()))?
        .into_iter()
        .filter_map(|object| if let Message::NewLink(link) = object { Some(link) } else { None })
        .collect();
    let addresses = addresses(socket)?;
    let names: BTreeMap<u32, LinkName> =
        links.iter().filter_map(|link| Some((link.header.index, LinkName::new(name(link)?).ok()?))).collect();
    let mut objects = Objects::new();
    for link in &links {
        let Some(name) = names.get(&link.header.index) else { continue };
        if kind(link) == Some(&InfoKind::Bridge) {
            let bridge = Bridge {
                addresses: addresses.get(&link.header.index).cloned().unwrap_or_default(),
                mtu: Some(mtu_of(link)),
                promisc: link.header.flags.contains(LinkFlags::Promisc),
            };
            objects.insert(Key::Bridge(name.clone()), Object::Bridge(bridge));
        } else if let Some(veth) = veth(link, &names) {
            objects.insert(Key::Veth(name.clone()), Object::Veth(veth));
        }
    }
    Ok(objects)
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

pub(super) fn is_bridge(object: &Message) -> bool {
    matches!(object, Message::NewLink(link) if kind(link) == Some(&InfoKind::Bridge))
}

pub(super) fn is_port(object: &Message, bridge: &Message) -> bool {
    let (Message::NewLink(link), Message::NewLink(bridge)) = (object, bridge) else { return false };
    link.attributes.contains(&LinkAttribute::Controller(bridge.header.index))
}

pub(super) fn mac_octets(object: &Message) -> Vec<u8> {
    let Message::NewLink(link) = object else { return Vec::new() };
    let mac =
        |attribute: &LinkAttribute| if let LinkAttribute::Address(mac) = attribute { Some(mac.clone()) } else { None };
    link.attributes.iter().find_map(mac).unwrap_or_default()
}

pub(super) fn mac(object: &Message) -> String {
    mac_octets(object).iter().map(|octet| format!("{octet:02x}")).collect::<Vec<_>>().join(":")
}

pub(super) fn mtu(object: &Message) -> u32 {
    if let Message::NewLink(link) = object { mtu_of(link) } else { 0 }
}

fn addresses(socket: &mut Socket) -> Result<BTreeMap<u32, Vec<IpNet>>, NetlinkError> {
    let mut found: BTreeMap<u32, Vec<IpNet>> = BTreeMap::new();
    for object in socket.dump(&Message::GetAddress(AddressMessage::default()))? {
        let Message::NewAddress(message) = object else { continue };
        // Link-local ones are the kernel's own.
        if message.header.scope != AddressScope::Universe {
            continue;
        }
        let address = message.attributes.iter().find_map(|attribute| {
            if let AddressAttribute::Address(address) = attribute { Some(*address) } else { None }
        });
        let address = address.and_then(|address| IpNet::new(address, message.header.prefix_len).ok());
        found.entry(message.header.index).or_default().extend(address);
    }
    found.values_mut().for_each(|addresses| addresses.sort());
    Ok(found)
}

fn name(link: &LinkMessage) -> Option<&str> {
    link.attributes
        .iter()
        .find_map(|one| if let LinkAttribute::IfName(name) = one { Some(name.as_str()) } else { None })
}

fn mtu_of(link: &LinkMessage) -> u32 {
    let mtu = |one: &LinkAttribute| if let LinkAttribute::Mtu(mtu) = one { Some(*mtu) } else { None };
    link.attributes.iter().find_map(mtu).unwrap_or_default()
}

fn infos(link: &LinkMessage) -> impl Iterator<Item = &LinkInfo> {
    link.attributes
        .iter()
        .filter_map(|one| if let LinkAttribute::LinkInfo(infos) = one { Some(infos) } else { None })
        .flatten()
}

fn kind(link: &LinkMessage) -> Option<&InfoKind> {
    infos(link).find_map(|info| if let LinkInfo::Kind(kind) = info { Some(kind) } else { None })
}

/// A veth that is ours: its alias says which sandbox and which interface it was made for.
fn veth(link: &LinkMessage, names: &BTreeMap<u32, LinkName>) -> Option<Veth> {
    let alias = link
        .attributes
        .iter()
        .find_map(|one| if let LinkAttribute::IfAlias(alias) = one { alias.strip_prefix(MARK) } else { None })?;
    let (id, peer) = alias.split_once(':')?;
    let controller = |one: &LinkAttribute| if let LinkAttribute::Controller(index) = one { Some(*index) } else { None };
    let bridge = link.attributes.iter().find_map(controller).and_then(|index| names.get(&index).cloned());
    let mut veth = Veth {
        bridge,
        peer: (NetnsId(u64::from_str_radix(id, 16).ok()?), LinkName::new(peer).ok()?),
        peer_mac: None,
        mtu: Some(mtu_of(link)),
        hairpin: false,
        isolated: false,
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
