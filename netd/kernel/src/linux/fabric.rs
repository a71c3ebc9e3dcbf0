//! The fabric on Linux: tunnel devices, their far ends, and routes to what others have. Which packets pass is the ruleset's.

mod device;
mod messages;
mod observe;
mod routes;

use std::io;
use std::path::Path;

use netd_config::LinkName;
use netd_netlink::{NetlinkError, Socket};
use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};

use super::refused;
use crate::object::{Encapsulation, Key, Object, Part, Step};
use crate::seam::KernelError;
pub(super) use device::is_known;
pub(super) use messages::NETWORK;
pub(super) use observe::{gateway, is_led, mtu, objects};

/// The names of our tunnel devices. No link of a sandbox is named so: those have digits behind the prefix.
#[derive(Debug)]
pub(super) struct Names {
    ipip: LinkName,
    vxlan: LinkName,
}

impl Names {
    pub(super) fn new(link_prefix: &str) -> io::Result<Self> {
        let name = |encapsulation| {
            LinkName::new(device_name(link_prefix, encapsulation))
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))
        };
        Ok(Self { ipip: name(Encapsulation::Ipip)?, vxlan: name(Encapsulation::Vxlan)? })
    }

    pub(super) fn of(&self, encapsulation: Encapsulation) -> &LinkName {
        match encapsulation {
            Encapsulation::Ipip => &self.ipip,
            Encapsulation::Vxlan => &self.vxlan,
        }
    }
}

pub(super) fn device_name(link_prefix: &str, encapsulation: Encapsulation) -> String {
    let kind = match encapsulation {
        Encapsulation::Ipip => "ipip",
        Encapsulation::Vxlan => "vxlan",
    };
    tunnels_prefix(link_prefix) + kind
}

/// What the names of our tunnel devices begin with, and no other link's of ours.
pub(super) fn tunnels_prefix(link_prefix: &str) -> String {
    format!("{link_prefix}-")
}

/// Whether [`apply`] takes the step.
pub(super) fn is_ours(step: &Step) -> bool {
    step.key().part() == Part::Ways
}

/// Takes the steps; routes that stand together, with one send.
pub(super) fn apply(socket: &mut Socket, names: &Names, steps: &[Step]) -> Result<(), KernelError> {
    let is_route = |step: &Step| matches!(step.key(), Key::Route(_));
    for run in steps.chunk_by(|one, next| is_route(one) && is_route(next)) {
        match run {
            [Step::Create(Key::Tunnel(kind), Object::Tunnel(tunnel))] if tunnel.entrance.encapsulation() == *kind => {
                device::create(socket, names, tunnel)?;
            }
            [Step::Replace(Key::Tunnel(kind), Object::Tunnel(tunnel))] if tunnel.entrance.encapsulation() == *kind => {
                device::replace(socket, names, tunnel)?;
            }
            [Step::Delete(Key::Tunnel(kind))] => device::delete(socket, names.of(*kind))?,
            [Step::Create(Key::FarEnd(peer), Object::Set) | Step::Replace(Key::FarEnd(peer), Object::Set)] => {
                far_end(socket, names, *peer)?;
            }
            [Step::Delete(Key::FarEnd(peer))] => forget_far_end(socket, names, *peer)?,
            routes => routes::apply(socket, names, routes)?,
        }
    }
    Ok(())
}

fn far_end(socket: &mut Socket, names: &Names, peer: std::net::IpAddr) -> Result<(), KernelError> {
    let device = device::number(socket, &names.vxlan)?.ok_or_else(|| absent(&names.vxlan))?;
    let entries = messages::far_end(device, peer, speaks_ipv6(&names.vxlan));
    let batch = entries.into_iter().map(|entry| (entry.added(), NLM_F_CREATE | NLM_F_REPLACE)).collect();
    socket.execute(batch).map_err(|error| refused(format!("lead the VXLAN tunnel to {peer}"), error))
}

fn forget_far_end(socket: &mut Socket, names: &Names, peer: std::net::IpAddr) -> Result<(), KernelError> {
    let Some(device) = device::number(socket, &names.vxlan)? else { return Ok(()) };
    for entry in messages::far_end(device, peer, speaks_ipv6(&names.vxlan)) {
        match socket.execute(vec![(entry.removed(), 0)]) {
            Err(error) if is(&error, libc::ENOENT) => {}
            done => done.map_err(|error| refused(format!("lead the VXLAN tunnel no more to {peer}"), error))?,
        }
    }
    Ok(())
}

fn absent(name: &LinkName) -> KernelError {
    KernelError::NotFound(format!("link {name}"))
}

/// A link with an MTU under 1,280 does not (RFC 8200, 5), nor does any of a kernel without.
fn speaks_ipv6(link: &LinkName) -> bool {
    Path::new("/proc/sys/net/ipv6/conf").join(link.as_str()).exists()
}

fn is(error: &NetlinkError, errno: i32) -> bool {
    matches!(error, NetlinkError::Refused { source, .. } if source.raw_os_error() == Some(errno))
}
