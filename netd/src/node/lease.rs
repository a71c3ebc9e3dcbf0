//! Which addresses an attachment gets: of its network's ranges or blocks, and nobody's where they lead to.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use netd_config::{HostLocal, Ipam, Range, StaticIpam};

use super::blocks::Asked;
use super::places::Place;
use super::{AttachError, Node, Wanted, What};
use crate::attachment::Lease;
use crate::ipam::{LeaseError, Reserved};

impl Node {
    /// Also the blocks that are the network's from now on.
    pub(super) fn lease(&mut self, wanted: &Wanted) -> Result<(Vec<Lease>, BTreeSet<IpNet>), AttachError> {
        let ipam = match &wanted.what {
            What::Bridge(bridge) => &bridge.ipam,
            What::Routed(ptp) => &ptp.ipam,
            What::Addresses(ipam) => ipam,
        };
        let (leases, taken) = match ipam {
            Ipam::None => (Vec::new(), BTreeSet::new()),
            Ipam::HostLocal(HostLocal { range_sets, requested, .. }) => {
                requested.iter().try_for_each(|address| self.no_stranger(wanted, *address))?;
                let reserved = &self.reserved(wanted, range_sets);
                let (key, leases) = (&wanted.key, &self.leases);
                let placed = self.blocks.place(Asked { key, leases, reserved, requested }, range_sets)?;
                (self.leases.lease(key, &placed.sets, requested, reserved)?, placed.taken)
            }
            Ipam::Static(fixed) => self.fixed(wanted, fixed)?,
        };
        if leases.is_empty() && !matches!(ipam, Ipam::None) {
            return Err(AttachError::NoAddress(Box::new(wanted.key.clone())));
        }
        Ok((leases, taken))
    }

    pub(super) fn reroute(&self, what: &mut What, leases: &[Lease]) {
        let ipam = match what {
            What::Bridge(bridge) => &mut bridge.ipam,
            What::Routed(ptp) => &mut ptp.ipam,
            What::Addresses(ipam) => ipam,
        };
        match ipam {
            Ipam::None => {}
            Ipam::HostLocal(host_local) => host_local.routes = self.blocks.share().routes(&host_local.routes, leases),
            Ipam::Static(fixed) => fixed.routes = self.blocks.share().routes(&fixed.routes, leases),
        }
    }

    /// An address has one holder where it leads to, whatever network it was given for.
    fn no_stranger(&self, wanted: &Wanted, address: IpAddr) -> Result<(), LeaseError> {
        let Some(place) = Place::of_wanted(&wanted.what) else { return Ok(()) };
        match self.places.stranger(&place, &wanted.key.network, address) {
            Some(holder) => Err(LeaseError::Held { key: wanted.key.to_string(), address, holder: holder.to_string() }),
            None => Ok(()),
        }
    }

    /// What others hold, also for other networks where this one leads to.
    fn reserved<'a>(&self, wanted: &'a Wanted, sets: &[Vec<Range>]) -> Cow<'a, Reserved> {
        let mut reserved = Cow::Borrowed(&wanted.reserved);
        if let Some(place) = Place::of_wanted(&wanted.what) {
            let mut strangers = self.places.strangers(&place, &wanted.key.network, sets.iter().flatten()).peekable();
            if strangers.peek().is_some() {
                reserved.to_mut().extend(strangers);
            }
        }
        reserved
    }

    fn fixed(&mut self, wanted: &Wanted, fixed: &StaticIpam) -> Result<(Vec<Lease>, BTreeSet<IpNet>), AttachError> {
        let key = &wanted.key;
        let (leases, taken) = self.blocks.place_fixed(key, fixed)?;
        for lease in &leases {
            let address = lease.address.addr();
            if let Some(holder) = self.leases.holder(&key.network, address).filter(|holder| *holder != key) {
                let holder = holder.to_string();
                return Err(LeaseError::Held { key: key.to_string(), address, holder }.into());
            }
            self.no_stranger(wanted, address)?;
            self.leases.unspoken(key, address)?;
        }
        leases.iter().for_each(|lease| self.leases.hold(key, lease.address.addr()));
        Ok((leases, taken))
    }
}
