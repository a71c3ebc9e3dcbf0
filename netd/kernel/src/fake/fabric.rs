//! The fabric's laws: what needs its tunnel and goes with it, and what is in the way of what.

use std::io::ErrorKind;

use ipnet::IpNet;

use super::State;
use crate::object::{Encapsulation, Family, Hop, Key, NextHop, Object, Tunnel};
use crate::seam::KernelError;

impl State {
    /// `anew`: one that differs may not be there.
    pub(super) fn fabric(&mut self, key: &Key, object: &Object, anew: bool) -> Result<(), KernelError> {
        self.fits(key, object)?;
        if anew && self.objects.get(key).is_some_and(|found| found != object) {
            return Err(KernelError::Exists(format!("{key:?}")));
        }
        self.objects.insert(key.clone(), object.clone());
        Ok(())
    }

    fn fits(&self, key: &Key, object: &Object) -> Result<(), KernelError> {
        let is_so = match (key, object) {
            (Key::Tunnel(encapsulation), Object::Tunnel(tunnel)) => tunnel.entrance.encapsulation() == *encapsulation,
            (Key::FarEnd(peer), Object::Set) => {
                let near = self.tunnel(Encapsulation::Vxlan)?.entrance.address();
                Family::of(near) == Family::of(*peer)
            }
            (Key::Route(to), Object::NextHop(NextHop { hop, .. })) => {
                hop.encapsulation().map_or(Ok(()), |encapsulation| self.tunnel(encapsulation).map(drop))?;
                hop.carries(Family::of(to.addr()))
            }
            _ => false,
        };
        let unsupported = || KernelError::Refused {
            action: format!("make {key:?} {object:?}"),
            source: ErrorKind::Unsupported.into(),
        };
        if is_so { Ok(()) } else { Err(unsupported()) }
    }

    fn tunnel(&self, encapsulation: Encapsulation) -> Result<&Tunnel, KernelError> {
        match self.objects.get(&Key::Tunnel(encapsulation)) {
            Some(Object::Tunnel(tunnel)) => Ok(tunnel),
            _ => Err(KernelError::NotFound(format!("the {encapsulation:?} tunnel"))),
        }
    }

    /// Far ends and routes go with their tunnel.
    pub(super) fn delete_tunnel(&mut self, encapsulation: Encapsulation) {
        self.objects.remove(&Key::Tunnel(encapsulation));
        let is_by = |hop: &Hop| hop.encapsulation() == Some(encapsulation);
        self.objects.retain(|key, object| match (key, object) {
            (Key::FarEnd(_), _) => encapsulation != Encapsulation::Vxlan,
            (_, Object::NextHop(NextHop { hop, .. })) => !is_by(hop),
            _ => true,
        });
    }

    /// An address is in one of the ranges.
    pub(super) fn lies_apart(&self, net: &IpNet) -> Result<(), KernelError> {
        let overlaps = |other: &IpNet| other != net && (other.contains(net) || net.contains(other));
        match self.objects.keys().find(|key| matches!(key, Key::Inside(other) if overlaps(other))) {
            Some(other) => Err(KernelError::Exists(format!("{other:?}"))),
            None => Ok(()),
        }
    }
}
