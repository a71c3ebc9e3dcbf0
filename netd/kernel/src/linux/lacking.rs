//! What an interface of a sandbox lacks of what it was given. Reads only.

use std::net::IpAddr;

use ipnet::IpNet;
use netd_config::LinkName;
use netd_netlink::{NetlinkError, Socket};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use netlink_packet_route::route::{RouteAttribute, RouteHeader, RouteMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage as Message};

use super::inside::Inside;
use super::namespace::Entrant;
use super::{messages, observe, refused};
use crate::object::{Interface, LinkSettings};
use crate::seam::{KernelError, told_route};

pub(super) fn lacking(
    name: &LinkName,
    wanted: &Interface,
    (inside, entrant): (&Inside, &Entrant),
) -> Result<Vec<String>, KernelError> {
    let failed = |error| refused(format!("read interface {name} of the sandbox"), error);
    let mut socket = inside.socket();
    let Ok(Message::NewLink(link)) = socket.fetch(messages::by_name(name)) else {
        return Err(KernelError::NotFound(format!("interface {name}")));
    };
    let index = link.header.index;
    let addresses = observe::addresses(&mut socket).map_err(failed)?.remove(&index).unwrap_or_default();
    let routes = routes(&mut socket, index).map_err(failed)?;
    drop(socket);
    let gone = wanted.addresses.iter().filter(|address| !addresses.contains(address));
    let mut lacking: Vec<String> = gone.map(|address| format!("address {address}")).collect();
    let gone = wanted.routes.iter().filter(|route| !routes.contains(&(route.destination, route.gateway)));
    lacking.extend(gone.map(told_route));
    lacking.extend(settings(&link, &wanted.settings));
    for (key, value) in &wanted.sysctls {
        let action = || format!("read sysctl {key} of the sandbox");
        let read = inside.read_sysctl(entrant, key);
        let found = read.map_err(|source| KernelError::Refused { action: action(), source })?;
        // Numbers of a list are written with blanks, and read with tabs.
        let is_other = |found: &String| !found.split_whitespace().eq(value.split_whitespace());
        lacking.extend(found.filter(is_other).map(|found| format!("sysctl {key} {value}: it is {}", found.trim())));
    }
    Ok(lacking)
}

/// Destinations and next hops of the main table's routes by this link.
fn routes(socket: &mut Socket, index: u32) -> Result<Vec<(IpNet, Option<IpAddr>)>, NetlinkError> {
    let mut routes = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        routes.extend(socket.dump(&messages::all_routes(family), |object| {
            let Message::NewRoute(route) = object else { return None };
            by_link(&route, index)
        })?);
    }
    Ok(routes)
}

fn by_link(route: &RouteMessage, index: u32) -> Option<(IpNet, Option<IpAddr>)> {
    let header = &route.header;
    let is_by = route.attributes.contains(&RouteAttribute::Oif(index));
    let any = if header.address_family == AddressFamily::Inet { IpAddr::from([0; 4]) } else { IpAddr::from([0; 16]) };
    let to = route.attributes.iter().find_map(observe::destination).unwrap_or(any);
    let hop = |one: &RouteAttribute| if let RouteAttribute::Gateway(hop) = one { observe::address(hop) } else { None };
    let destination = IpNet::new(to, header.destination_prefix_length).ok()?;
    let is_main = header.table == RouteHeader::RT_TABLE_MAIN;
    (is_by && is_main).then(|| (destination, route.attributes.iter().find_map(hop)))
}

fn settings(link: &LinkMessage, wanted: &LinkSettings) -> Vec<String> {
    let mut lacking = Vec::new();
    let found = observe::mac_octets(&Message::NewLink(link.clone()));
    if let Some(mac) = wanted.mac.filter(|mac| found != mac.as_slice()) {
        lacking.push(format!("MAC {}: it is {}", observe::in_words(&mac), observe::in_words(&found)));
    }
    let mtu = observe::mtu_of(link);
    lacking.extend(wanted.mtu.filter(|wanted| *wanted != mtu).map(|wanted| format!("MTU {wanted}: it is {mtu}")));
    let length = |one: &LinkAttribute| if let LinkAttribute::TxQueueLen(length) = one { Some(*length) } else { None };
    let length = link.attributes.iter().find_map(length).unwrap_or_default();
    let queue = wanted.queue_length.filter(|wanted| *wanted != length);
    lacking.extend(queue.map(|wanted| format!("transmit queue of {wanted} packets: it has {length}")));
    let modes = [
        (wanted.promisc, LinkFlags::Promisc, "promiscuous mode"),
        (wanted.all_multicast, LinkFlags::Allmulti, "reception of all multicast"),
    ];
    let off = modes.into_iter().filter(|(is_wanted, flag, _)| *is_wanted && !link.header.flags.contains(*flag));
    lacking.extend(off.map(|(_, _, mode)| mode.to_owned()));
    lacking
}
