//! The attachment that an attach is to make, or why it cannot be.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use netd_config::{Bridge, LinkName, PortMapping};
use netd_kernel::Publication;

use super::{AttachError, BRIDGE_PORTS, Node, Wanted, What, share, wiring};
use crate::attachment::{Attachment, AttachmentKey, Facts, Lease, State, Wiring};

impl Node {
    pub(super) fn draft(&self, wanted: Wanted, link: LinkName, leases: Vec<Lease>) -> Result<Attachment, AttachError> {
        let (mut wiring, ports) = match &wanted.what {
            What::Addresses(_) => (None, Vec::new()),
            What::Bridge(bridge) => (Some(self.wire(&wanted.key, bridge, link, &leases)?), bridge.ports.clone()),
            What::Routed(ptp) => {
                has_gateways(&wanted.key, &leases)?;
                (Some(wiring::of_ptp(ptp, link, &leases)), ptp.ports.clone())
            }
        };
        if let Some(wiring) = wiring.as_mut() {
            wiring.mtu = wiring.mtu.or_else(|| self.fleets_mtu(wiring, &leases));
        }
        Ok(Attachment {
            key: wanted.key,
            netns: wanted.netns,
            netns_path: wanted.netns_path,
            state: State::Wiring,
            leases,
            wiring,
            foreign: Vec::new(),
            ports,
            facts: Facts::default(),
            name: String::new(),
            labels: BTreeMap::new(),
            namespace: String::new(),
            image: String::new(),
            label_state: wanted.label_state,
            quarantined: false,
            extra: wanted.extra,
        })
    }

    /// Of a shared pool's addresses. All of one bridge have one size, that of the first: a frame that its neighbour cannot take
    /// is lost without a word (`__dev_forward_skb`, net/core/dev.c).
    fn fleets_mtu(&self, wiring: &Wiring, leases: &[Lease]) -> Option<u32> {
        let fits = self.blocks.share().mtu_of(leases)?;
        let mut all = self.attachments.values().filter_map(|one| one.wiring.as_ref());
        let beside = all.find(|one| one.bridge.is_some() && one.bridge == wiring.bridge);
        beside.map_or(Some(fits), |beside| beside.mtu)
    }

    pub(super) fn unclaimed(&self, attachment: &Attachment) -> Result<(), AttachError> {
        let wanted: BTreeSet<Publication> = claims(attachment).map(|(publication, _)| publication).collect();
        let held = |wanted: Publication| Some((wanted, self.claims.in_the_way(&attachment.key, wanted)?));
        match wanted.into_iter().find_map(held) {
            Some((publication, holder)) => {
                let (key, holder) = (Box::new(attachment.key.clone()), Box::new(holder.clone()));
                Err(AttachError::PortTaken { key, publication, holder })
            }
            None => Ok(()),
        }
    }

    fn wire(
        &self,
        key: &AttachmentKey,
        bridge: &Bridge,
        host_link: LinkName,
        leases: &[Lease],
    ) -> Result<Wiring, AttachError> {
        if self.ports.get(&bridge.bridge).is_some_and(|ports| *ports >= BRIDGE_PORTS) {
            return Err(AttachError::BridgeFull { key: Box::new(key.clone()), bridge: bridge.bridge.clone() });
        }
        let estranged = leases.iter().any(|lease| self.estranged.contains(&lease.address.addr()));
        let mut wiring = wiring::of_bridge(bridge, &key.interface, host_link, leases, estranged);
        wiring.spoof_guarded = !self.trusts_sandboxes || bridge.mac_spoof_check;
        self.agree(key, bridge, &wiring)?;
        Ok(wiring)
    }

    fn agree(&self, key: &AttachmentKey, bridge: &Bridge, wiring: &Wiring) -> Result<(), AttachError> {
        let known = self.gateways.get(wiring.home()).map(Vec::as_slice).unwrap_or_default();
        let clash = wiring.gateways.iter().find_map(|wanted| {
            let same_family = |found: &&IpNet| found.addr().is_ipv4() == wanted.addr().is_ipv4();
            known.iter().filter(same_family).find(|found| *found != wanted).map(|found| (*wanted, *found))
        });
        match clash {
            // Of the fleet's addresses each block has its own gateway.
            Some((wanted, _)) if self.blocks.share().pool_at(wanted.addr()).is_some() => Ok(()),
            Some((wanted, found)) if !bridge.force_address && wanted.addr().is_ipv4() => {
                let bridge = wiring.home().to_string();
                Err(AttachError::BridgeAddress { key: Box::new(key.clone()), bridge, wanted, found })
            }
            Some(_) | None => Ok(()),
        }
    }
}

/// Where IPAM names no gateway, a bridge that is one has the first address of the network (containernetworking/plugins,
/// `calcGatewayIP`).
pub(super) fn give_gateways(what: &What, leases: &mut [Lease]) {
    match what {
        What::Bridge(bridge) if bridge.is_gateway => {}
        What::Bridge(_) | What::Routed(_) | What::Addresses(_) => return,
    }
    for lease in leases {
        lease.gateway = lease.gateway.or_else(|| Some(share::offset(lease.address.network(), 1)));
    }
}

/// The places of the node that an attachment has for its ports, each with whose it is. Of a family that the sandbox lacks
/// too: a socket is there.
pub(super) fn claims(attachment: &Attachment) -> impl Iterator<Item = (Publication, AttachmentKey)> {
    let key = attachment.key.clone();
    attachment.ports.iter().flat_map(places).map(move |publication| (publication, key.clone()))
}

/// Where a port is published: everywhere of both families, or where it says.
pub(crate) fn places(port: &PortMapping) -> Vec<Publication> {
    let any = [IpAddr::from(Ipv4Addr::UNSPECIFIED), Ipv6Addr::UNSPECIFIED.into()];
    let addresses = port.host_ip.map_or_else(|| any.to_vec(), |address| vec![address]);
    let (protocol, host) = (port.protocol, port.host);
    addresses.into_iter().map(|address| Publication { address, protocol, port: host }).collect()
}

/// The same port at all addresses of its family.
pub(crate) fn at_all(publication: &Publication) -> Publication {
    let v4 = publication.address.is_ipv4();
    let address = if v4 { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    Publication { address, ..*publication }
}

fn has_gateways(key: &AttachmentKey, leases: &[Lease]) -> Result<(), AttachError> {
    match leases.iter().find(|lease| lease.gateway.is_none()) {
        Some(lease) => Err(AttachError::NoGateway { key: Box::new(key.clone()), address: lease.address }),
        None => Ok(()),
    }
}
