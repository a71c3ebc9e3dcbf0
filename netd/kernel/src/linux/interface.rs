//! The sandbox end of a veth: sysctls, addresses, routes, settings, link up. How the pair is made is the front's.

use std::ops::Range;

use ipnet::IpNet;
use netd_config::LinkName;
use netd_netlink::NetlinkError;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::RouteNetlinkMessage;

use super::inside::Inside;
use super::namespace::Entrant;
use super::{messages, observe, refused};
use crate::object::Interface;
use crate::seam::KernelError;

/// Sysctls first, then addresses, then links up, then routes: no packet before all stands.
pub(super) fn configure(
    name: &LinkName,
    interface: &Interface,
    (inside, entrant): (&Inside, &Entrant),
    flags: u16,
) -> Result<(), KernelError> {
    let mut socket = inside.socket();
    let made = inside.made().end.as_ref().filter(|(made, _)| made == name).map(|(_, link)| link.clone());
    let found = made.map_or_else(|| socket.link(messages::by_name(name)), Ok);
    let link = found.map_err(|_| KernelError::NotFound(format!("interface {name}")))?;
    let index = link.index;
    for (key, value) in &interface.sysctls {
        let action = || format!("set sysctl {key} of the sandbox to {value:?}");
        inside.write_sysctl(entrant, key, value).map_err(|source| KernelError::Refused { action: action(), source })?;
    }
    let mac = interface.settings.mac.or_else(|| link.mac.as_slice().try_into().ok());
    let quick = mac.filter(|_| interface.quick_link_local);
    let (batch, optional) = configuration(index, interface, quick, flags);
    match socket.execute(batch) {
        // A sandbox whose IPv6 is switched off takes no link-local address, and needs none.
        Err(NetlinkError::Refused { index, .. }) if optional.contains(&index) => {}
        done => done.map_err(|error| refused(format!("configure interface {name}"), error))?,
    }
    let mac = interface.settings.mac.map_or_else(|| link.mac.clone(), Vec::from);
    let mtu = interface.settings.mtu.unwrap_or(link.mtu);
    inside.made().interface = Some((name.clone(), observe::in_words(&mac), mtu));
    Ok(())
}

type Batch = Vec<(RouteNetlinkMessage, u16)>;

/// The messages, and the places of those that may be refused: they are the last.
fn configuration(index: u32, interface: &Interface, quick: Option<[u8; 6]>, flags: u16) -> (Batch, Range<usize>) {
    let mut batch = Batch::new();
    if quick.is_some() {
        batch.push((messages::link_local_generation(index, false), 0));
    }
    batch.extend(interface.addresses.iter().map(|address| (address_of(index, interface, *address), flags)));
    batch.extend([(messages::up(1), 0), (messages::settings(index, &interface.settings), 0)]);
    batch.extend(interface.routes.iter().map(|route| (messages::route(index, route), flags)));
    let required = batch.len();
    if let Some(mac) = quick {
        batch.push((messages::link_local(index, mac), NLM_F_CREATE | NLM_F_REPLACE));
        batch.push((messages::link_local_generation(index, true), 0));
    }
    let optional = required..batch.len();
    (batch, optional)
}

fn address_of(index: u32, interface: &Interface, address: IpNet) -> RouteNetlinkMessage {
    let is_routed = interface.routes.iter().any(|route| route.destination == address.trunc());
    if is_routed { messages::lone_address(index, address) } else { messages::address(index, address) }
}
