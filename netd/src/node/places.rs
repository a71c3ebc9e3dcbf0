//! Whose address is whose on one link, whatever network it was given for: neighbours find each other by address there, and
//! rules are told apart by it. Pure; which address of a network is free is `ipam`'s.

use std::collections::BTreeMap;
use std::net::IpAddr;

use netd_config::{LinkName, NetworkName, Range};
use netd_kernel::DEFAULT_VLAN;

use super::{What, wiring};
use crate::attachment::{Attachment, AttachmentKey, Wiring};
use crate::few::Few;

/// Where an address has one holder.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    /// A bridge, or the link of a VLAN's gateway, in this VLAN.
    Link(LinkName, u16),
    /// All routed links: the node has one way to an address.
    Routed,
}

impl Place {
    /// Where an attach leads to. `None`: nowhere that netd knows of.
    pub(super) fn of_wanted(what: &What) -> Option<Self> {
        match what {
            What::Addresses(_) => None,
            What::Routed(_) => Some(Self::Routed),
            What::Bridge(bridge) => {
                let gateway = wiring::gateway_of(&bridge.vlans).map(|gateway| gateway.link);
                let vlan = bridge.vlans.own.unwrap_or(DEFAULT_VLAN);
                Some(Self::Link(gateway.unwrap_or_else(|| bridge.bridge.clone()), vlan))
            }
        }
    }

    fn of_wired(wiring: &Wiring) -> Self {
        let native = || wiring.vlans.as_ref().and_then(netd_kernel::Vlans::native).unwrap_or(DEFAULT_VLAN);
        wiring.shared_home().map_or(Self::Routed, |home| Self::Link(home.clone(), native()))
    }
}

/// Holders by the link that they have, so that the old one of a container's does not stand for its new one.
type Holders = Few<LinkName, AttachmentKey>;

/// The addresses of all attachments that stand or drain.
#[derive(Debug, Default)]
pub(super) struct Places(BTreeMap<Place, BTreeMap<NetworkName, BTreeMap<IpAddr, Holders>>>);

impl Places {
    /// It has a link, or still has it.
    pub(super) fn add(&mut self, attachment: &Attachment) {
        let Some(wiring) = attachment.wiring.as_ref().filter(|_| !attachment.leases.is_empty()) else { return };
        let place = self.0.entry(Place::of_wired(wiring)).or_default();
        let network = place.entry(attachment.key.network.clone()).or_default();
        for lease in &attachment.leases {
            let holders = network.entry(lease.address.addr()).or_default();
            holders.insert(wiring.host_link.clone(), attachment.key.clone());
        }
    }

    /// Its link is gone.
    pub(super) fn remove(&mut self, attachment: &Attachment) {
        let Some(wiring) = &attachment.wiring else { return };
        let at = Place::of_wired(wiring);
        let Some(place) = self.0.get_mut(&at) else { return };
        if let Some(network) = place.get_mut(&attachment.key.network) {
            for address in attachment.leases.iter().map(|lease| lease.address.addr()) {
                if let Some(holders) = network.get_mut(&address) {
                    holders.remove(&wiring.host_link);
                    if holders.is_empty() {
                        network.remove(&address);
                    }
                }
            }
            if network.is_empty() {
                place.remove(&attachment.key.network);
            }
        }
        if place.is_empty() {
            self.0.remove(&at);
        }
    }

    /// Who holds the address there for another network.
    pub(super) fn stranger(&self, place: &Place, own: &NetworkName, address: IpAddr) -> Option<&AttachmentKey> {
        let others = self.others(place, own);
        others.filter_map(|addresses| addresses.get(&address)).find_map(|holders| holders.values().next())
    }

    /// Addresses of these ranges that are held there for other networks.
    pub(super) fn strangers<'a>(
        &'a self,
        place: &Place,
        own: &NetworkName,
        ranges: impl Iterator<Item = &'a Range> + Clone,
    ) -> impl Iterator<Item = IpAddr> {
        let within = move |addresses: &'a BTreeMap<IpAddr, Holders>| {
            let ranges = ranges.clone().filter(|range| range.start <= range.end);
            ranges.flat_map(move |range| addresses.range(range.start..=range.end).map(|(address, _)| *address))
        };
        self.others(place, own).flat_map(within)
    }

    fn others(&self, place: &Place, own: &NetworkName) -> impl Iterator<Item = &BTreeMap<IpAddr, Holders>> {
        let networks = self.0.get(place).into_iter().flatten();
        networks.filter(move |(network, _)| *network != own).map(|(_, addresses)| addresses)
    }
}
