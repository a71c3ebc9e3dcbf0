//! The node's side of routed veths: gateway addresses on their host ends, and the ways to their sandboxes. How the pair is
//! made is the front's.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv6Addr};

use ipnet::IpNet;
use netd_config::LinkName;
use netd_netlink::{NetlinkError, Socket};
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::RouteNetlinkMessage;

use super::{index, messages as netlink, observe, refused, sysctls};
use crate::object::{Key, Object, Step};
use crate::seam::KernelError;

type Message = (RouteNetlinkMessage, u16);

/// Whether [`apply`] takes the step.
pub(super) fn is_ours(step: &Step) -> bool {
    matches!(
        step,
        Step::Create(Key::Gateway(..) | Key::SandboxRoute(..), Object::Set)
            | Step::Replace(Key::Gateway(..) | Key::SandboxRoute(..), Object::Set)
            | Step::Delete(Key::Gateway(..) | Key::SandboxRoute(..))
    )
}

/// Takes the steps with one send. Where that is refused, one by one: what is so already is no error.
pub(super) fn apply(socket: &mut Socket, steps: &[Step]) -> Result<(), KernelError> {
    let mut indices = BTreeMap::new();
    let mut batch = Vec::new();
    for step in steps {
        batch.extend(messages(socket, step, &mut indices)?);
    }
    if socket.execute(batch).is_ok() {
        return Ok(());
    }
    for step in steps {
        if let Step::Create(Key::Gateway(link, IpAddr::V6(_)), _) = step {
            sysctls::set(link, &sysctls::WITH_IPV6)?;
        }
        for message in messages(socket, step, &mut indices)? {
            let done = socket.execute(vec![message]);
            done.or_else(|error| if is_so(socket, step, &error)? { Ok(()) } else { Err(denied(step, error)) })?;
        }
    }
    Ok(())
}

/// None where the link is gone: what is to be deleted went with it.
fn messages<'a>(
    socket: &mut Socket,
    step: &'a Step,
    indices: &mut BTreeMap<&'a LinkName, u32>,
) -> Result<Vec<Message>, KernelError> {
    let mut by = |link: &'a LinkName| match indices.get(link) {
        Some(known) => Ok(*known),
        None => {
            let found = index(socket, link)?;
            indices.insert(link, found);
            Ok(found)
        }
    };
    Ok(match step {
        Step::Create(Key::Gateway(link, address), _) | Step::Replace(Key::Gateway(link, address), _) => {
            gateway(by(link)?, *address)
        }
        Step::Create(Key::SandboxRoute(link, address), _) | Step::Replace(Key::SandboxRoute(link, address), _) => {
            vec![(netlink::way(by(link)?, *address), NLM_F_CREATE | NLM_F_EXCL)]
        }
        Step::Delete(Key::Gateway(link, address)) => {
            let index = by(link).ok();
            index.map(|index| (netlink::remove_address(index, IpNet::from(*address)), 0)).into_iter().collect()
        }
        Step::Delete(Key::SandboxRoute(link, address)) => {
            by(link).ok().map(|index| (netlink::remove_way(index, *address), 0)).into_iter().collect()
        }
        Step::Create(..) | Step::Replace(..) | Step::Delete(_) => Vec::new(),
    })
}

/// The kernel asks for an IPv6 neighbour on a stranger's behalf from a link-local address, or not at all
/// (`ndisc_send_ns`, net/ipv6/ndisc.c). It is alone in its prefix too: the link-local network leads nowhere.
fn gateway(index: u32, address: IpAddr) -> Vec<Message> {
    const ASKING: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
    let asking = IpNet::from(IpAddr::from(ASKING));
    let all = [Some(IpNet::from(address)), address.is_ipv6().then_some(asking)];
    let alone = |address| (netlink::address(index, address), NLM_F_CREATE | NLM_F_REPLACE);
    all.into_iter().flatten().map(alone).collect()
}

/// Whether a refusal says that the step had been taken before.
fn is_so(socket: &mut Socket, step: &Step, error: &NetlinkError) -> Result<bool, KernelError> {
    let NetlinkError::Refused { source, .. } = error else { return Ok(false) };
    Ok(match (step, source.raw_os_error()) {
        (
            Step::Create(Key::SandboxRoute(link, to), _) | Step::Replace(Key::SandboxRoute(link, to), _),
            Some(libc::EEXIST),
        ) => {
            let index = index(socket, link)?;
            let found = observe::is_way(socket, link, index, *to);
            found.map_err(|error| refused("read the node's routes".to_owned(), error))?
        }
        (Step::Delete(_), Some(libc::ESRCH | libc::ENODEV | libc::EADDRNOTAVAIL)) => true,
        _ => false,
    })
}

fn denied(step: &Step, error: NetlinkError) -> KernelError {
    match (step, &error) {
        (
            Step::Create(Key::SandboxRoute(_, address), _) | Step::Replace(Key::SandboxRoute(_, address), _),
            NetlinkError::Refused { source, .. },
        ) if source.raw_os_error() == Some(libc::EEXIST) => KernelError::Exists(format!("a route to {address}")),
        _ => KernelError::Refused { action: format!("take the step {step:?}"), source: io::Error::other(error) },
    }
}
