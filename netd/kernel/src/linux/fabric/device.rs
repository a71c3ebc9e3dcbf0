//! Tunnel devices: made whole or not at all, changed in place, taken away. Another's is never touched.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use ipnet::IpNet;
use netd_config::LinkName;
use netd_netlink::{NetlinkError, Socket};
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage as Message;
use netlink_packet_route::link::LinkMessage;

use super::{Names, apply, is, messages, observe};
use crate::linux::messages as netlink;
use crate::linux::observe as links;
use crate::linux::{index, refused};
use crate::object::{Encapsulation, Entrance, Key, NextHop, Object, Objects, Step, Tunnel};
use crate::seam::KernelError;

pub(super) fn create(socket: &mut Socket, names: &Names, tunnel: &Tunnel) -> Result<(), KernelError> {
    let name = names.of(tunnel.entrance.encapsulation());
    match standing(socket, name)? {
        None => make(socket, name, tunnel),
        Some(found) if found == *tunnel => raise(socket, name, tunnel),
        Some(_) => Err(KernelError::Exists(format!("tunnel {name}"))),
    }
}

/// What led by it leads by it afterwards: where the kernel has no other way, the device is made anew.
pub(super) fn replace(socket: &mut Socket, names: &Names, tunnel: &Tunnel) -> Result<(), KernelError> {
    let name = names.of(tunnel.entrance.encapsulation());
    let Some(found) = standing(socket, name)? else { return make(socket, name, tunnel) };
    let led = led(socket, names, tunnel.entrance.encapsulation())?;
    if is_of_one_make(found.entrance, tunnel.entrance) {
        let changed = socket.execute(messages::changed(name, tunnel).map(|message| (message, 0)).into());
        changed.map_err(|error| refused(format!("change tunnel {name}"), error))?;
        raise(socket, name, tunnel)?;
    } else {
        delete(socket, name)?;
        make(socket, name, tunnel)?;
    }
    let again: Vec<Step> = led.into_iter().map(|(key, object)| Step::Replace(key, object)).collect();
    apply(socket, names, &again)
}

pub(super) fn delete(socket: &mut Socket, name: &LinkName) -> Result<(), KernelError> {
    let Some(link) = link(socket, name)? else { return Ok(()) };
    if !observe::is_ours(&link) {
        return Ok(());
    }
    match socket.execute(vec![(netlink::delete(name), 0)]) {
        Err(error) if is(&error, libc::ENODEV) => Ok(()),
        done => done.map_err(|error| refused(format!("delete tunnel {name}"), error)),
    }
}

/// The kernel changes neither port nor IP version of a VXLAN device.
fn is_of_one_make(found: Entrance, wanted: Entrance) -> bool {
    match (found, wanted) {
        (Entrance::Vxlan(one, port), Entrance::Vxlan(other, wanted)) => {
            port == wanted && one.is_ipv4() == other.is_ipv4()
        }
        (Entrance::Ipip(_), Entrance::Ipip(_)) => true,
        (Entrance::Ipip(_), Entrance::Vxlan(..)) | (Entrance::Vxlan(..), Entrance::Ipip(_)) => false,
    }
}

/// Far ends and routes that go with the device, and IPv4 routes with its last IPv4 address.
fn led(socket: &mut Socket, names: &Names, encapsulation: Encapsulation) -> Result<Objects, KernelError> {
    let all = links::links(socket).and_then(|links| observe::objects(socket, names, &links, &BTreeMap::new()));
    let mut all = all.map_err(|error| refused("read the node's links".to_owned(), error))?;
    let is_by = |object: &Object| matches!(object, Object::NextHop(NextHop { hop, .. }) if hop.encapsulation() == Some(encapsulation));
    let is_end = |key: &Key| matches!(key, Key::FarEnd(_)) && encapsulation == Encapsulation::Vxlan;
    all.retain(|key, object| is_by(object) || is_end(key));
    Ok(all)
}

/// Our device of this name, up or down. Another's is in the way.
fn standing(socket: &mut Socket, name: &LinkName) -> Result<Option<Tunnel>, KernelError> {
    let Some(link) = link(socket, name)? else { return Ok(None) };
    let addresses = links::addresses(socket).map_err(|error| refused("read the node's addresses".to_owned(), error))?;
    let here = addresses.get(&link.header.index).map_or(&[][..], Vec::as_slice);
    let tunnel = observe::tunnel(&link, here).filter(|_| observe::is_ours(&link));
    tunnel.map(Some).ok_or_else(|| KernelError::NotOurs(name.clone()))
}

/// The device's number.
pub(super) fn number(socket: &mut Socket, name: &LinkName) -> Result<Option<u32>, KernelError> {
    Ok(link(socket, name)?.map(|link| link.header.index))
}

fn link(socket: &mut Socket, name: &LinkName) -> Result<Option<LinkMessage>, KernelError> {
    match socket.fetch(netlink::by_name(name)) {
        Ok(Message::NewLink(link)) => Ok(Some(link)),
        Ok(_) => Ok(None),
        Err(error) if is(&error, libc::ENODEV) => Ok(None),
        Err(error) => Err(refused(format!("read link {name}"), error)),
    }
}

/// Device and mark with one send, so that no crash leaves one without the other.
fn make(socket: &mut Socket, name: &LinkName, tunnel: &Tunnel) -> Result<(), KernelError> {
    let has_ipv6 = Path::new("/proc/sys/net/ipv6").exists();
    let device = messages::device(name, tunnel);
    let batch = vec![(device, NLM_F_CREATE | NLM_F_EXCL), (messages::mark(name, has_ipv6), 0)];
    socket.execute(batch).map_err(|error| explained(socket, name, tunnel.entrance, error))?;
    raise(socket, name, tunnel).inspect_err(|_| drop(delete(socket, name)))
}

/// Up, with its addresses and none besides.
fn raise(socket: &mut Socket, name: &LinkName, tunnel: &Tunnel) -> Result<(), KernelError> {
    sysctls(name)?;
    let index = index(socket, name)?;
    let up = socket.execute(vec![(netlink::up(index), 0)]);
    up.map_err(|error| explained(socket, name, tunnel.entrance, error))?;
    let there = links::addresses(socket).map_err(|error| refused("read the node's addresses".to_owned(), error))?;
    let there = there.get(&index).cloned().unwrap_or_default();
    let wanted: Vec<IpNet> = tunnel.addresses.iter().copied().map(IpNet::from).collect();
    // First what is added: with its last IPv4 address a link loses its routes (`fib_inetaddr_event`).
    let added =
        wanted.iter().filter(|one| !there.contains(one)).map(|one| (netlink::address(index, *one), NLM_F_CREATE));
    let removed = there.iter().filter(|one| !wanted.contains(one)).map(|one| (netlink::remove_address(index, *one), 0));
    let changed = socket.execute(added.chain(removed).collect());
    changed.map_err(|error| refused(format!("give tunnel {name} its addresses"), error))
}

/// What comes out of a tunnel may have come by another one before; and nobody there is a router.
fn sysctls(name: &LinkName) -> Result<(), KernelError> {
    for (version, switch, value) in [("ipv4", "rp_filter", "2"), ("ipv6", "accept_ra", "0")] {
        let path = format!("/proc/sys/net/{version}/conf/{name}/{switch}");
        match fs::write(&path, value) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && version == "ipv6" => {}
            written => written.map_err(|source| KernelError::Refused { action: format!("write {path}"), source })?,
        }
    }
    Ok(())
}

fn explained(socket: &mut Socket, name: &LinkName, entrance: Entrance, error: NetlinkError) -> KernelError {
    let encapsulation = entrance.encapsulation();
    if is(&error, libc::EOPNOTSUPP) && !is_known(socket, encapsulation) {
        let other = match encapsulation {
            Encapsulation::Ipip => Encapsulation::Vxlan,
            Encapsulation::Vxlan => Encapsulation::Ipip,
        };
        return KernelError::NoTunnels { encapsulation, other: is_known(socket, other).then_some(other) };
    }
    if is(&error, libc::EEXIST) || is(&error, libc::EADDRINUSE) {
        return KernelError::Occupied { name: name.clone(), by: occupant(socket, name, entrance), entrance };
    }
    refused(format!("create tunnel {name}"), error)
}

/// Whether the kernel has such devices, or a module for them: it is asked for one that nothing can be.
pub(in crate::linux) fn is_known(socket: &mut Socket, encapsulation: Encapsulation) -> bool {
    let asked = socket.execute(vec![(messages::impossible(encapsulation), NLM_F_CREATE | NLM_F_EXCL)]);
    !matches!(asked, Err(error) if is(&error, libc::EOPNOTSUPP))
}

/// Another's tunnel that comes in where ours would.
fn occupant(socket: &mut Socket, name: &LinkName, entrance: Entrance) -> Option<String> {
    let takes = |other: Entrance| match (entrance, other) {
        (Entrance::Ipip(here), Entrance::Ipip(there)) => here == there,
        (Entrance::Vxlan(_, here), Entrance::Vxlan(_, there)) => here == there,
        (Entrance::Ipip(_), Entrance::Vxlan(..)) | (Entrance::Vxlan(..), Entrance::Ipip(_)) => false,
    };
    let all = links::links(socket).ok()?;
    let other =
        all.iter().find(|link| links::name(link) != Some(name.as_str()) && observe::entrance(link).is_some_and(takes));
    other.and_then(links::name).map(str::to_owned)
}
