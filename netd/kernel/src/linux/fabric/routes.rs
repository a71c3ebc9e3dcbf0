//! Routes to what others have: made, changed without a gap, taken away. Another's route is never touched.

use std::collections::BTreeMap;
use std::io;

use ipnet::IpNet;
use netd_netlink::{NetlinkError, Socket};
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::RouteNetlinkMessage as Message;
use netlink_packet_route::route::RouteScope;

use super::messages::{Led, route};
use super::{Names, absent, device, is, observe};
use crate::linux::refused;
use crate::object::{Encapsulation, Family, Hop, Key, NextHop, Object, Step};
use crate::seam::KernelError;

/// Our routes to one range. One that leads nowhere is behind the other, so that both may stand while one becomes the other.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Found {
    pub(super) by: Option<Led>,
    /// Of the former.
    pub(super) mtu: Option<u32>,
    pub(super) nowhere: bool,
}

impl Found {
    /// The one that packets take.
    pub(super) fn taken(self) -> Option<Led> {
        self.by.or_else(|| self.nowhere.then_some(Led::Nowhere))
    }
}

/// The numbers of our tunnel devices.
struct Devices<'a> {
    names: &'a Names,
    ipip: Option<u32>,
    vxlan: Option<u32>,
}

impl<'a> Devices<'a> {
    fn find(socket: &mut Socket, names: &'a Names) -> Result<Self, KernelError> {
        let [ipip, vxlan] = [&names.ipip, &names.vxlan].map(|name| device::number(socket, name));
        Ok(Self { names, ipip: ipip?, vxlan: vxlan? })
    }

    fn led(&self, hop: Hop, to: &IpNet) -> Result<Led, KernelError> {
        let device = hop.encapsulation().map(|encapsulation| {
            let found = match encapsulation {
                Encapsulation::Ipip => self.ipip,
                Encapsulation::Vxlan => self.vxlan,
            };
            found.ok_or_else(|| absent(self.names.of(encapsulation)))
        });
        Ok(Led::of(hop, to.addr(), device.transpose()?))
    }
}

/// Takes the steps with one send. Where that is refused, one by one, to say which.
pub(super) fn apply(socket: &mut Socket, names: &Names, steps: &[Step]) -> Result<(), KernelError> {
    let devices = Devices::find(socket, names)?;
    let there = all(socket)?;
    let together: Result<Vec<_>, _> = steps.iter().map(|step| messages(step, &devices, &there)).collect();
    if together.is_ok_and(|all| socket.execute(all.into_iter().flatten().collect()).is_ok()) {
        return Ok(());
    }
    for step in steps {
        let batch = messages(step, &devices, &all(socket)?)?;
        socket.execute(batch).map_err(|error| denied(step, error))?;
    }
    Ok(())
}

fn all(socket: &mut Socket) -> Result<BTreeMap<IpNet, Found>, KernelError> {
    observe::all_led(socket).map_err(|error| refused("read the node's routes".to_owned(), error))
}

fn messages(
    step: &Step,
    devices: &Devices<'_>,
    there: &BTreeMap<IpNet, Found>,
) -> Result<Vec<(Message, u16)>, KernelError> {
    match step {
        Step::Create(Key::Route(to), Object::NextHop(NextHop { hop, mtu })) if hop.carries(Family::of(to.addr())) => {
            let found = there.get(to).copied().unwrap_or_default();
            let wanted = Wanted { led: devices.led(*hop, to)?, mtu: *mtu };
            match found.taken() {
                Some(_) if !wanted.is_taken(found, devices) => Err(KernelError::Exists(format!("a route to {to}"))),
                _ => Ok(set(*to, wanted, found, devices)),
            }
        }
        Step::Replace(Key::Route(to), Object::NextHop(NextHop { hop, mtu })) if hop.carries(Family::of(to.addr())) => {
            let found = there.get(to).copied().unwrap_or_default();
            let wanted = Wanted { led: devices.led(*hop, to)?, mtu: *mtu };
            Ok(set(*to, wanted, found, devices))
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

/// A direct route is seen with the link that the kernel found for it.
fn is_same(found: Led, wanted: Led, devices: &Devices<'_>) -> bool {
    match (found, wanted) {
        (Led::By(one, Some(device)), Led::By(other, None)) => {
            one == other && ![devices.ipip, devices.vxlan].contains(&Some(device))
        }
        _ => found == wanted,
    }
}

/// A route as it is to be.
#[derive(Debug, Clone, Copy)]
struct Wanted {
    led: Led,
    mtu: Option<u32>,
}

impl Wanted {
    /// Packets take it already.
    fn is_taken(self, found: Found, devices: &Devices<'_>) -> bool {
        let is_sized = self.led == Led::Nowhere || found.mtu == self.mtu;
        is_sized && found.taken().is_some_and(|taken| is_same(taken, self.led, devices))
    }
}

/// The new one stands before the old one goes.
fn set(to: IpNet, wanted: Wanted, found: Found, devices: &Devices<'_>) -> Vec<(Message, u16)> {
    let made = |flag| (Message::NewRoute(route(to, wanted.led, wanted.mtu)), NLM_F_CREATE | flag);
    let mut batch = Vec::new();
    match (wanted.led, found.by) {
        (Led::By(..), Some(_)) if wanted.is_taken(found, devices) => {}
        (Led::By(..), Some(_)) => batch.push(made(NLM_F_REPLACE)),
        (Led::By(..), None) => batch.push(made(NLM_F_EXCL)),
        (Led::Nowhere, by) => {
            batch.extend((!found.nowhere).then(|| made(NLM_F_EXCL)));
            batch.extend(by.map(|by| removed(to, by)));
        }
    }
    if wanted.led != Led::Nowhere && found.nowhere {
        batch.push(removed(to, Led::Nowhere));
    }
    batch
}

fn removed(to: IpNet, led: Led) -> (Message, u16) {
    let mut message = route(to, led, None);
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
        Step::Create(Key::Route(to), Object::NextHop(NextHop { hop: Hop::Direct(gateway), .. }))
        | Step::Replace(Key::Route(to), Object::NextHop(NextHop { hop: Hop::Direct(gateway), .. }))
            if is(&error, libc::ENETUNREACH) || is(&error, libc::EHOSTUNREACH) || is(&error, libc::EINVAL) =>
        {
            KernelError::OffLink { to: *to, gateway: *gateway }
        }
        Step::Create(..) | Step::Replace(..) | Step::Delete(_) => {
            KernelError::Refused { action: format!("take the step {step:?}"), source: io::Error::other(error) }
        }
    }
}
