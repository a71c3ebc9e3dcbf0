//! The node: every attachment, every lease. Pure decisions, microseconds each; `owner` makes them serial and durable.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use netd_config::{Bridge, HostLocal, Ipam, LinkName, NameError, Route as ConfigRoute, StaticIpam};
use netd_kernel::{NetnsId, Route};
use thiserror::Error;

use crate::attachment::{Attachment, AttachmentKey, Facts, Lease, State, Wiring};
use crate::ipam::{LeaseError, Leases, Reserved};
use crate::journal::Record;

/// The kernel's limit: a bridge has 1,023 ports, then "exchange full" (`BR_MAX_PORTS`, net/bridge/br_private.h).
pub const BRIDGE_PORTS: usize = 1_023;

/// What an attach wants; parsed, and with everything read that had to be read.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// Identity.
    pub key: AttachmentKey,
    /// The sandbox.
    pub netns: NetnsId,
    /// As the caller wrote it.
    pub netns_path: String,
    /// What to make.
    pub what: What,
    /// Addresses that others hold.
    pub reserved: Reserved,
}

/// The kinds of attachment that netd makes.
#[derive(Debug, Clone)]
pub enum What {
    /// A veth to a bridge.
    Bridge(Box<Bridge>),
    /// Only addresses, for a foreign main plugin that calls us as its IPAM.
    Addresses(Ipam),
}

/// Why an attach was refused.
#[derive(Debug, Error)]
pub enum AttachError {
    /// No address.
    #[error(transparent)]
    Lease(#[from] LeaseError),
    /// IPAM gave none.
    #[error("cannot attach {0}: IPAM plugin returned missing IP config")]
    NoAddress(Box<AttachmentKey>),
    /// The bridge is full.
    #[error("cannot attach {key}: bridge {bridge} has {BRIDGE_PORTS} ports, the kernel's limit; use a second network")]
    BridgeFull {
        /// Who asked.
        key: Box<AttachmentKey>,
        /// Which.
        bridge: LinkName,
    },
    /// The bridge carries another gateway and `forceAddress` is off.
    #[error(
        "cannot attach {key}: {bridge:?} already has an IP address different from {wanted}: it has {found}; give the network another bridge"
    )]
    BridgeAddress {
        /// Who asked.
        key: Box<AttachmentKey>,
        /// Which.
        bridge: String,
        /// What the network needs.
        wanted: IpNet,
        /// What stands there.
        found: IpNet,
    },
    /// The same attachment is in the making.
    #[error("{0} is being attached by another request; try again")]
    Busy(Box<AttachmentKey>),
    /// A host link name could not be formed.
    #[error("cannot name the host end of {key}'s link; shorten link_prefix in netd.toml")]
    Name {
        /// Who asked.
        key: Box<AttachmentKey>,
        /// Why.
        source: NameError,
    },
}

/// The answer to an attach.
#[derive(Debug)]
pub enum Attached {
    /// To be wired. `replaces` is what the same key held in another sandbox and must go.
    New {
        /// What to make.
        attachment: Box<Attachment>,
        /// What to drain first.
        replaces: Option<Box<Attachment>>,
    },
    /// It stands.
    Already(Box<Attachment>),
}

/// All that netd knows of this node.
#[derive(Debug)]
pub struct Node {
    link_prefix: String,
    counter: u64,
    attachments: BTreeMap<AttachmentKey, Attachment>,
    draining: BTreeMap<LinkName, Attachment>,
    leases: Leases,
    ports: BTreeMap<LinkName, usize>,
    gateways: BTreeMap<LinkName, Vec<IpNet>>,
}

impl Node {
    /// An empty node whose host links start with `link_prefix`.
    #[must_use]
    pub fn new(link_prefix: &str) -> Self {
        Self {
            link_prefix: link_prefix.to_owned(),
            counter: 0,
            attachments: BTreeMap::new(),
            draining: BTreeMap::new(),
            leases: Leases::default(),
            ports: BTreeMap::new(),
            gateways: BTreeMap::new(),
        }
    }

    /// All attachments.
    pub fn attachments(&self) -> impl Iterator<Item = &Attachment> {
        self.attachments.values()
    }

    /// Attachments whose link is still to be deleted.
    pub fn draining(&self) -> impl Iterator<Item = &Attachment> {
        self.draining.values()
    }

    /// One attachment.
    #[must_use]
    pub fn attachment(&self, key: &AttachmentKey) -> Option<&Attachment> {
        self.attachments.get(key)
    }

    /// Number of addresses held.
    #[must_use]
    pub fn lease_count(&self) -> usize {
        self.leases.count()
    }

    /// The node as journal records; replaying them gives this node.
    #[must_use]
    pub fn records(&self) -> Vec<Record> {
        let mut records = vec![Record::Counter(self.counter)];
        records.extend(self.draining.values().cloned().map(Box::new).map(Record::Drain));
        records.extend(self.attachments.values().cloned().map(Box::new).map(Record::Put));
        records
    }

    /// Decides an attach. Nothing changes on an error.
    ///
    /// # Errors
    /// See [`AttachError`].
    pub fn attach(&mut self, wanted: Wanted) -> Result<Attached, AttachError> {
        let replaces = match self.attachments.get(&wanted.key) {
            Some(found) if found.state == State::Wiring => return Err(AttachError::Busy(Box::new(wanted.key))),
            Some(found) if found.netns == wanted.netns => return Ok(Attached::Already(Box::new(found.clone()))),
            found => found.cloned().map(Box::new),
        };
        let link = self.next_link(&wanted.key)?;
        let leases = self.lease(&wanted)?;
        let wiring = match &wanted.what {
            What::Addresses(_) => Ok(None),
            What::Bridge(bridge) => self.wire(&wanted.key, bridge, link, &leases).map(Some),
        };
        let wiring = wiring.inspect_err(|_| self.release(&wanted.key, &leases))?;
        let attachment = Attachment {
            key: wanted.key,
            netns: wanted.netns,
            netns_path: wanted.netns_path,
            state: State::Wiring,
            leases,
            wiring,
            facts: Facts::default(),
            name: String::new(),
            labels: BTreeMap::new(),
        };
        Ok(Attached::New { attachment: Box::new(attachment), replaces })
    }

    /// Takes a record in. This is the only way the node changes, when it is replayed and when it is decided.
    pub fn take(&mut self, record: Record) {
        match record {
            Record::Counter(counter) => self.counter = self.counter.max(counter),
            Record::Put(attachment) => self.put(*attachment),
            Record::Drain(attachment) => self.drain(*attachment),
            Record::Reaped(key, link) => self.reaped(&key, &link),
        }
    }

    /// Takes back a decision of [`Node::attach`] that could not be made durable.
    pub fn forget(&mut self, attachment: &Attachment) {
        self.release(&attachment.key, &attachment.leases);
    }

    fn put(&mut self, attachment: Attachment) {
        for lease in &attachment.leases {
            self.leases.hold(&attachment.key, lease.address.addr());
        }
        if let Some(wiring) = &attachment.wiring {
            self.counter = self.counter.max(self.number(&wiring.host_link));
            let known = self.gateways.entry(wiring.bridge.clone()).or_default();
            known
                .extend(wiring.gateways.iter().filter(|gateway| !known.contains(gateway)).copied().collect::<Vec<_>>());
        }
        let bridge = attachment.wiring.as_ref().map(|wiring| wiring.bridge.clone());
        if self.attachments.insert(attachment.key.clone(), attachment).is_none()
            && let Some(bridge) = bridge
        {
            *self.ports.entry(bridge).or_default() += 1;
        }
    }

    fn drain(&mut self, attachment: Attachment) {
        let Some(wiring) = &attachment.wiring else {
            self.attachments.remove(&attachment.key);
            self.release(&attachment.key, &attachment.leases);
            return;
        };
        let current = self.attachments.get(&attachment.key).and_then(|found| found.wiring.as_ref());
        if current.is_some_and(|current| current.host_link == wiring.host_link) {
            self.attachments.remove(&attachment.key);
        }
        for lease in &attachment.leases {
            self.leases.hold(&attachment.key, lease.address.addr());
        }
        self.draining.insert(wiring.host_link.clone(), attachment);
    }

    fn reaped(&mut self, key: &AttachmentKey, link: &str) {
        let Ok(link) = LinkName::new(link) else { return };
        let Some(gone) = self.draining.remove(&link) else { return };
        if let Some(wiring) = &gone.wiring
            && let Some(ports) = self.ports.get_mut(&wiring.bridge)
        {
            *ports = ports.saturating_sub(1);
            if *ports == 0 {
                self.ports.remove(&wiring.bridge);
                self.gateways.remove(&wiring.bridge);
            }
        }
        let held = self.attachments.get(key).map(|now| now.leases.clone()).unwrap_or_default();
        let others = self.draining.values().filter(|other| other.key == *key).flat_map(|other| &other.leases);
        let held: Vec<&Lease> = held.iter().chain(others).collect();
        for lease in gone.leases.iter().filter(|lease| !held.contains(lease)) {
            self.leases.release(key, lease.address.addr());
        }
    }

    fn release(&mut self, key: &AttachmentKey, leases: &[Lease]) {
        let kept: Vec<IpAddr> = self
            .draining
            .values()
            .filter(|other| other.key == *key)
            .chain(self.attachments.get(key))
            .flat_map(|other| &other.leases)
            .map(|lease| lease.address.addr())
            .collect();
        for lease in leases.iter().filter(|lease| !kept.contains(&lease.address.addr())) {
            self.leases.release(key, lease.address.addr());
        }
    }

    fn next_link(&mut self, key: &AttachmentKey) -> Result<LinkName, AttachError> {
        self.counter += 1;
        LinkName::new(format!("{}{:08x}", self.link_prefix, self.counter))
            .map_err(|source| AttachError::Name { key: Box::new(key.clone()), source })
    }

    fn number(&self, link: &LinkName) -> u64 {
        let digits = link.as_str().strip_prefix(self.link_prefix.as_str()).unwrap_or_default();
        u64::from_str_radix(digits, 16).unwrap_or_default()
    }

    fn lease(&mut self, wanted: &Wanted) -> Result<Vec<Lease>, AttachError> {
        let ipam = match &wanted.what {
            What::Bridge(bridge) => &bridge.ipam,
            What::Addresses(ipam) => ipam,
        };
        let leases = match ipam {
            Ipam::None => Vec::new(),
            Ipam::HostLocal(HostLocal { range_sets, requested, .. }) => {
                self.leases.lease(&wanted.key, range_sets, requested, &wanted.reserved)?
            }
            Ipam::Static(fixed) => self.fixed(&wanted.key, fixed)?,
        };
        if leases.is_empty() && !matches!(ipam, Ipam::None) {
            return Err(AttachError::NoAddress(Box::new(wanted.key.clone())));
        }
        Ok(leases)
    }

    fn fixed(&mut self, key: &AttachmentKey, fixed: &StaticIpam) -> Result<Vec<Lease>, AttachError> {
        for (address, _) in &fixed.addresses {
            let address = address.addr();
            if let Some(holder) = self.leases.holder(&key.network, address).filter(|holder| *holder != key) {
                let holder = holder.to_string();
                return Err(LeaseError::Held { key: key.to_string(), address, holder }.into());
            }
        }
        let leases: Vec<Lease> =
            fixed.addresses.iter().map(|(address, gateway)| Lease { address: *address, gateway: *gateway }).collect();
        leases.iter().for_each(|lease| self.leases.hold(key, lease.address.addr()));
        Ok(leases)
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
        let gateways = if bridge.is_gateway { gateways_of(leases) } else { Vec::new() };
        self.agree(key, bridge, &gateways)?;
        let sysctls = sysctls_of(&key.interface, bridge);
        Ok(Wiring {
            host_link,
            bridge: bridge.bridge.clone(),
            gateways,
            mtu: bridge.mtu,
            promisc: bridge.promisc_mode,
            hairpin: bridge.hairpin_mode,
            isolated: bridge.port_isolation,
            mac: bridge.mac,
            routes: routes_of(bridge, leases),
            sysctls,
        })
    }

    fn agree(&self, key: &AttachmentKey, bridge: &Bridge, gateways: &[IpNet]) -> Result<(), AttachError> {
        let known = self.gateways.get(&bridge.bridge).map(Vec::as_slice).unwrap_or_default();
        let clash = gateways.iter().find_map(|wanted| {
            let same_family = |found: &&IpNet| found.addr().is_ipv4() == wanted.addr().is_ipv4();
            known.iter().filter(same_family).find(|found| *found != wanted).map(|found| (*wanted, *found))
        });
        match clash {
            Some((wanted, found)) if !bridge.force_address && wanted.addr().is_ipv4() => {
                let bridge = bridge.bridge.to_string();
                Err(AttachError::BridgeAddress { key: Box::new(key.clone()), bridge, wanted, found })
            }
            Some(_) | None => Ok(()),
        }
    }
}

fn gateways_of(leases: &[Lease]) -> Vec<IpNet> {
    let gateway = |lease: &Lease| IpNet::new(lease.gateway?, lease.address.prefix_len()).ok();
    leases.iter().filter_map(gateway).collect()
}

/// `arp_notify` announces the address when the link goes up; without DAD an address that netd alone gives out works at once.
fn sysctls_of(interface: &LinkName, bridge: &Bridge) -> BTreeMap<String, String> {
    let mut sysctls = BTreeMap::from([(format!("net.ipv4.conf.{interface}.arp_notify"), "1".to_owned())]);
    let dad = if bridge.enabledad { "1" } else { "0" };
    sysctls.insert(format!("net.ipv6.conf.{interface}.accept_dad"), dad.to_owned());
    sysctls
}

/// Routes of the IPAM section; then, for `isDefaultGateway`, a default route for each family that has none.
fn routes_of(bridge: &Bridge, leases: &[Lease]) -> Vec<Route> {
    let listed = bridge.ipam.routes();
    let first_gateway =
        |v4: bool| leases.iter().filter_map(|lease| lease.gateway).find(|gateway| gateway.is_ipv4() == v4);
    let route = |route: &ConfigRoute| Route {
        destination: route.dst,
        gateway: route.gw.or_else(|| first_gateway(route.dst.addr().is_ipv4())),
    };
    let mut routes: Vec<Route> = listed.iter().map(route).collect();
    if bridge.is_default_gateway {
        for lease in leases {
            let Some(gateway) = lease.gateway else { continue };
            let default = IpNet::from(if gateway.is_ipv4() { IpAddr::from([0; 4]) } else { IpAddr::from([0; 16]) });
            let destination = IpNet::new(default.addr(), 0).unwrap_or(default);
            if !routes.iter().any(|route| route.destination == destination) {
                routes.push(Route { destination, gateway: Some(gateway) });
            }
        }
    }
    routes
}

#[cfg(test)]
pub(crate) mod tests;
