//! Routes to what others have: made, changed without a gap, taken away. Another's route is never touched.

use std::collections::BTreeMap;
use std::io;

use ipnet::IpNet;
use netd_netlink::{NetlinkError, Socket};
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::RouteNetlinkMessage as Message;
use netlink_packet_route::route::RouteScope;

use super::messages::{Led, route};
use super::{Names, is, observe};
use crate::linux::{index, refused};
use crate::object::{Encapsulation, Family, Hop, Key, Object, Step};
use crate::seam::KernelError;

/// Our routes to one range. One that leads nowhere is behind the other, so that both may stand while one becomes the other.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Found {
    pub(super) by: Option<Led>,
    pub(super) nowhere: bool,
}

impl Found {
    /// The one that packets take.
    pub(super) fn taken(self) -> Option<Led> {
        self.by.or_else(|| self.nowhere.then_some(Led::Nowhere))
    }
}

/// Takes the steps with one send. Where that is refused, one by one, to say which.
pub(super) fn apply(socket: &mut Socket, names: &Names, steps: &[Step]) -> Result<(), KernelError> {
    let there = all(socket)?;
    let together: Result<Vec<_>, _> = steps.iter().map(|step| messages(step, names, &there)).collect();
    if together.is_ok_and(|all| socket.execute(all.into_iter().flatten().collect()).is_ok()) {
        return Ok(());
    }
    for step in steps {
        let batch = messages(step, names, &all(socket)?)?;
        socket.execute(batch).map_err(|error| denied(step, error))?;
    }
    Ok(())
}

fn all(socket: &mut Socket) -> Result<BTreeMap<IpNet, Found>, KernelError> {
    observe::all_led(socket).map_err(|error| refused("read the node's routes".to_owned(), error))
}

fn messages(step: &Step, names: &Names, there: &BTreeMap<IpNet, Found>) -> Result<Vec<(Message, u16)>, KernelError> {
    match step {
        Step::Create(Key::Route(to), Object::Hop(hop)) if hop.carries(Family::of(to.addr())) => {
            let found = there.get(to).copied().unwrap_or_default();
            let (wanted, tunnels) = (led(*hop, to, names)?, tunnels(names));
            match found.taken() {
                Some(taken) if !is_same(taken, wanted, tunnels) => Err(KernelError::Exists(format!("a route to {to}"))),
                _ => Ok(set(*to, wanted, found, tunnels)),
            }
        }
        Step::Replace(Key::Route(to), Object::Hop(hop)) if hop.carries(Family::of(to.addr())) => {
            let found = there.get(to).copied().unwrap_or_default();
            Ok(set(*to, led(*hop, to, names)?, found, tunnels(names)))
        }
        Step::Delete(Key::Route(to)) => {
            let found = there.get(to).copied().unwrap_or_default();
            let gone = found.by.into_iter().chain(found.nowhere.then_some(Led::Nowhere));
            Ok(gone.map(|led| removed(*to, led)).collect())
        }
        Step::Create(..) | Step::Replace(..) | Step::Delete(_) => {
            let source = io::ErrorKind::Unsupported.into();
            Err(KernelError::Refused { action: format!("take the step {step:?}"), source })
        }
    }
}

fn led(hop: Hop, to: &IpNet, names: &Names) -> Result<Led, KernelError> {
    let device = hop.encapsulation().map(|encapsulation| index(names.of(encapsulation))).transpose()?;
    Ok(Led::of(hop, to.addr(), device))
}

fn tunnels(names: &Names) -> [Option<u32>; 2] {
    [Encapsulation::Ipip, Encapsulation::Vxlan].map(|encapsulation| index(names.of(encapsulation)).ok())
}

/// A direct route is seen with the link that the kernel found for it.
fn is_same(found: Led, wanted: Led, tunnels: [Option<u32>; 2]) -> bool {
    match (found, wanted) {
        (Led::By(one, Some(device)), Led::By(other, None)) => one == other && !tunnels.contains(&Some(device)),
        _ => found == wanted,
    }
}

/// The new one stands before the old one goes.
fn set(to: IpNet, wanted: Led, found: Found, tunnels: [Option<u32>; 2]) -> Vec<(Message, u16)> {
    let made = |flag| (Message::NewRoute(route(to, wanted)), NLM_F_CREATE | flag);
    let mut batch = Vec::new();
    match (wanted, found.by) {
        (Led::By(..), Some(by)) if is_same(by, wanted, tunnels) => {}
        (Led::By(..), Some(_)) => batch.push(made(NLM_F_REPLACE)),
        (Led::By(..), None) => batch.push(made(NLM_F_EXCL)),
        (Led::Nowhere, by) => {
            batch.extend((!found.nowhere).then(|| made(NLM_F_EXCL)));
            batch.extend(by.map(|by| removed(to, by)));
        }
    }
    if wanted != Led::Nowhere && found.nowhere {
        batch.push(removed(to, Led::Nowhere));
    }
    batch
}

fn removed(to: IpNet, led: Led) -> (Message, u16) {
    let mut message = route(to, led);
    // Of whatever scope.
    message.header.scope = RouteScope::NoWhere;
    (Message::DelRoute(message), 0)
}

fn denied(step: &Step, error: NetlinkError) -> KernelError {
    match step {
        Step::Create(Key::Route(to), _) | Step::Replace(Key::Route(to), _) if is(&error, libc::EEXIST) => {
            KernelError::Exists(format!(
                "a route to {to} that is not netd's: remove it, or give the fleet another pool;"
            ))
        }
        Step::Create(Key::Route(to), Object::Hop(Hop::Direct(gateway)))
        | Step::Replace(Key::Route(to), Object::Hop(Hop::Direct(gateway)))
            if is(&error, libc::ENETUNREACH) || is(&error, libc::EHOSTUNREACH) || is(&error, libc::EINVAL) =>
        {
            KernelError::OffLink { to: *to, gateway: *gateway }
        }
        Step::Create(..) | Step::Replace(..) | Step::Delete(_) => {
            KernelError::Refused { action: format!("take the step {step:?}"), source: io::Error::other(error) }
        }
    }
}
