//! The node: every attachment, every lease. Pure decisions, microseconds each; `owner` makes them serial and durable.

mod blocks;
mod claims;
mod draft;
mod fleet;
mod lease;
mod places;
mod request;
mod share;
mod wiring;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use netd_config::{ContainerId, LinkName};
use netd_kernel::{Family, Publication};

use crate::attachment::{Attachment, AttachmentKey, Lease, State, Wiring};
use crate::ipam::Leases;
use crate::journal::Record;
use crate::lease_history::{Kept, PastLease};
use blocks::Blocks;
use claims::Claims;
use draft::claims;
pub(crate) use draft::{at_all, places};
use places::Places;
pub use request::{AttachError, Attached, Extended, Extension, Follower, Wanted, What};
pub use share::{BlockUse, Share, ShareError, SharedPool};
pub use wiring::{mac_of, settings_of};

/// The kernel's limit: a bridge has 1,023 ports, then "exchange full" (`BR_MAX_PORTS`, net/bridge/br_private.h).
pub const BRIDGE_PORTS: usize = 1_023;

/// All that netd knows of this node.
#[derive(Debug)]
pub struct Node {
    link_prefix: String,
    counter: u64,
    attachments: BTreeMap<AttachmentKey, Box<Attachment>>,
    draining: BTreeMap<LinkName, Box<Attachment>>,
    leases: Leases,
    places: Places,
    ports: BTreeMap<LinkName, usize>,
    gateways: BTreeMap<LinkName, Vec<IpNet>>,
    claims: Claims,
    guarded: BTreeSet<Family>,
    estranged: BTreeSet<IpAddr>,
    extra: BTreeSet<AttachmentKey>,
    blocks: Blocks,
    trusts_sandboxes: bool,
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
            places: Places::default(),
            ports: BTreeMap::new(),
            gateways: BTreeMap::new(),
            claims: Claims::default(),
            guarded: BTreeSet::new(),
            estranged: BTreeSet::new(),
            extra: BTreeSet::new(),
            blocks: Blocks::default(),
            trusts_sandboxes: false,
        }
    }

    /// The node that these records left behind. Nothing publishes a port any more but what is attached.
    #[must_use]
    pub fn replay(link_prefix: &str, records: Vec<Record>) -> Self {
        let mut node = Self::new(link_prefix);
        records.into_iter().for_each(|record| node.take(record));
        node.claims = Claims::default();
        node.attachments.values().for_each(|one| node.claims.extend(claims(one)));
        node
    }

    /// From now on, sandboxes are attached without a spoof guard.
    #[must_use]
    pub fn without_spoof_guard(self) -> Self {
        Self { trusts_sandboxes: true, ..self }
    }

    /// All attachments.
    pub fn attachments(&self) -> impl ExactSizeIterator<Item = &Attachment> {
        self.attachments.values().map(Box::as_ref)
    }

    /// Attachments whose link is still to be deleted.
    pub fn draining(&self) -> impl ExactSizeIterator<Item = &Attachment> {
        self.draining.values().map(Box::as_ref)
    }

    /// What was under this key and has a link that is still to be deleted.
    #[must_use]
    pub fn draining_of(&self, key: &AttachmentKey) -> Vec<Attachment> {
        self.draining.values().filter(|gone| gone.key == *key).map(|gone| (**gone).clone()).collect()
    }

    /// One attachment.
    #[must_use]
    pub fn attachment(&self, key: &AttachmentKey) -> Option<&Attachment> {
        self.attachments.get(key).map(Box::as_ref)
    }

    /// Families whose forwarding netd switched on.
    #[must_use]
    pub fn guarded(&self) -> &BTreeSet<Family> {
        &self.guarded
    }

    /// Number of addresses held.
    #[must_use]
    pub fn lease_count(&self) -> usize {
        self.leases.count()
    }

    /// Remembers who held which address before this boot, the oldest first. What this boot knows of them is newer.
    pub fn recall(&mut self, last: Vec<PastLease>) {
        let kept = self.kept();
        let known: BTreeSet<&AttachmentKey> =
            kept.held.keys().chain(kept.remembered.iter().map(|(key, _)| key)).collect();
        for PastLease { key, addresses, .. } in last.into_iter().filter(|last| !known.contains(&last.key)) {
            addresses.into_iter().for_each(|address| self.take(Record::Remembered(key.clone(), address)));
        }
    }

    /// Who holds, and who held last, which addresses.
    #[must_use]
    pub fn kept(&self) -> Kept {
        let mut kept = Kept::default();
        for (key, address) in self.leases.holders() {
            kept.held.entry(key.clone()).or_default().push(address);
        }
        kept.remembered = self.leases.remembered().map(|(key, addresses)| (key.clone(), addresses.to_vec())).collect();
        kept
    }

    /// The node as journal records; replaying them gives this node.
    #[must_use]
    pub fn records(&self) -> Vec<Record> {
        let mut records = vec![Record::Counter(self.counter)];
        records.extend(self.guarded.iter().copied().map(Record::Guard));
        records.extend(self.estranged.iter().copied().map(Record::Estranged));
        for (key, addresses) in self.leases.remembered() {
            records.extend(addresses.iter().map(|address| Record::Remembered(key.clone(), *address)));
        }
        let assigned = self.blocks.assigned();
        records.extend(assigned.map(|(block, network)| Record::Assigned(block, network.clone())));
        records.extend(self.draining.values().cloned().map(Record::Drain));
        records.extend(self.attachments.values().cloned().map(Record::Put));
        records
    }

    /// Decides an attach. Nothing changes on an error.
    ///
    /// # Errors
    /// See [`AttachError`].
    pub fn attach(&mut self, mut wanted: Wanted) -> Result<Attached, AttachError> {
        let replaces = match self.attachments.get(&wanted.key) {
            // One that is being wired was left by a request that was cut off: requests for one key take turns.
            Some(found) if found.netns == wanted.netns && found.state == State::Attached => {
                return Ok(Attached::Already(found.clone()));
            }
            found => found.cloned(),
        };
        let link = self.next_link(&wanted.key)?;
        let held = self.leases.held_by(&wanted.key);
        let (mut leases, taken) = self.lease(&wanted)?;
        let is_reused = leases.iter().any(|lease| held.contains(&lease.address.addr()));
        draft::give_gateways(&wanted.what, &mut leases);
        self.reroute(&mut wanted.what, &leases);
        let key = wanted.key.clone();
        let drafted = self.draft(wanted, link, leases.clone());
        let drafted = drafted.and_then(|attachment| self.unclaimed(&attachment).map(|()| attachment));
        let attachment = drafted.inspect_err(|_| self.release(&key, &leases))?;
        Ok(Attached::New { attachment: Box::new(attachment), replaces, taken, is_reused })
    }

    /// Decides how a damaged attachment is made again: the same in all that its container knows, by a new link. `None`:
    /// there is nothing to make again.
    ///
    /// # Errors
    /// See [`AttachError`].
    pub fn renew(&mut self, key: &AttachmentKey) -> Result<Option<Box<Attachment>>, AttachError> {
        let Some(mut anew) = self.attachments.get(key).cloned() else { return Ok(None) };
        let link = self.next_link(key)?;
        let Some(wiring) = anew.wiring.as_mut() else { return Ok(None) };
        wiring.host_link = link;
        wiring.mac = wiring.mac.or_else(|| octets(&anew.facts.mac));
        anew.state = State::Wiring;
        Ok(Some(anew))
    }

    /// The attachment whose host end has this name, if it stands.
    #[must_use]
    pub fn at_link(&self, link: &str) -> Option<&Attachment> {
        let is = |attachment: &&Attachment| {
            attachment.wiring.as_ref().is_some_and(|wiring| wiring.host_link.as_str() == link)
        };
        self.attachments().find(is)
    }

    /// Whether an attachment is, or was until its link is deleted, a port of this bridge.
    #[must_use]
    pub fn uses_bridge(&self, bridge: &str) -> bool {
        self.ports.keys().any(|known| known.as_str() == bridge)
    }

    /// Whether an attachment's VLAN has its gateway on this link.
    #[must_use]
    pub fn uses_gateway(&self, link: &LinkName) -> bool {
        let gateway = |wiring: &Wiring| wiring.gateway_link.as_ref().is_some_and(|gateway| gateway.link == *link);
        self.attachments.values().any(|attachment| attachment.wiring.as_ref().is_some_and(gateway))
    }

    /// The extra attachments of a container that has no others any more: no CNI call will detach them.
    #[must_use]
    pub fn left_behind(&self, container: &ContainerId) -> Vec<AttachmentKey> {
        let is_of = |key: &AttachmentKey| key.container == *container;
        // Hardly any node has extra ones, and every detach asks.
        let extra: Vec<AttachmentKey> = self.extra.iter().filter(|key| is_of(key)).cloned().collect();
        let others = || self.attachments.values().any(|attachment| is_of(&attachment.key) && !attachment.extra);
        if extra.is_empty() || others() { Vec::new() } else { extra }
    }

    /// Decides what a later stanza of a chain adds. Where another plugin made the interface, only ports can be published.
    ///
    /// # Errors
    /// See [`AttachError`].
    pub fn extend(&self, wanted: Follower, extension: &Extension) -> Result<Extended, AttachError> {
        let found = self.attachments.get(&wanted.key);
        let (known, replaces) = match found {
            Some(found) if found.netns == wanted.netns => (Some(found), None),
            other => (None, other.cloned()),
        };
        let before = known.cloned().unwrap_or_else(|| Box::new(wanted.blank()));
        let mut after = before.clone();
        let foreign = |what| AttachError::Foreign { key: Box::new(before.key.clone()), what };
        match extension {
            Extension::Ports(ports) => {
                after.ports.clone_from(ports);
                if after.wiring.is_none() {
                    after.foreign = wanted.addresses;
                }
            }
            Extension::Ingress(policy) => {
                wiring::restrict(after.wiring.as_mut().ok_or_else(|| foreign("ingressPolicy"))?, *policy);
            }
            Extension::Tuning(tuning) => {
                let wiring = after.wiring.as_mut().ok_or_else(|| foreign("tuning"))?;
                wiring::tune(wiring, &before.key.interface, tuning);
            }
        }
        self.unclaimed(&after)?;
        if after == before && known.is_some() {
            return Ok(Extended::Already(after));
        }
        Ok(Extended::Changed { before, after, replaces })
    }

    /// Takes a record in: when it is replayed, and when it is decided. What is to outlive a crash changes in no other way.
    pub fn take(&mut self, record: Record) {
        match record {
            Record::Counter(counter) => self.counter = self.counter.max(counter),
            Record::Put(attachment) => self.put(attachment),
            Record::Drain(attachment) => self.drain(attachment),
            Record::Reaped(key, link) => self.reaped(&key, &link),
            Record::Guard(family) => {
                self.guarded.insert(family);
            }
            Record::Remembered(key, address) => self.leases.remember(&key, address),
            Record::Estranged(address) => {
                self.estranged.insert(address);
            }
            Record::Assigned(block, network) => self.blocks.assign(block, network),
            Record::Unassigned(block) => self.blocks.unassign(block),
        }
    }

    /// The ruleset leads no port to a drained attachment any more: others may publish them.
    pub fn closed(&mut self, gone: &Attachment) {
        let kept: Vec<Publication> =
            self.attachment(&gone.key).into_iter().flat_map(claims).map(|(publication, _)| publication).collect();
        for (publication, key) in claims(gone) {
            if self.claims.holder(publication) == Some(&key) && !kept.contains(&publication) {
                self.claims.remove(publication);
            }
        }
    }

    /// Takes back a decision of [`Node::attach`] that could not be made durable.
    pub fn undo(&mut self, attachment: &Attachment) {
        self.release(&attachment.key, &attachment.leases);
    }

    fn put(&mut self, attachment: Box<Attachment>) {
        for lease in &attachment.leases {
            self.leases.hold(&attachment.key, lease.address.addr());
        }
        self.places.add(&attachment);
        self.claims.extend(claims(&attachment));
        if let Some(wiring) = &attachment.wiring {
            self.counter = self.counter.max(self.number(&wiring.host_link));
        }
        if let Some(wiring) = attachment.wiring.as_ref().filter(|wiring| wiring.bridge.is_some()) {
            if wiring.known_mac() != mac_of(&attachment.leases) {
                self.estranged.extend(attachment.leases.iter().map(|lease| lease.address.addr()));
            }
            self.open_gateways(wiring);
        }
        if attachment.extra {
            self.extra.insert(attachment.key.clone());
        } else {
            self.extra.remove(&attachment.key);
        }
        let wiring = attachment.wiring.clone();
        if self.attachments.insert(attachment.key.clone(), attachment).is_none()
            && let Some(wiring) = wiring
        {
            self.occupy(&wiring);
        }
    }

    fn drain(&mut self, attachment: Box<Attachment>) {
        let Some(wiring) = &attachment.wiring else {
            self.remove(&attachment.key);
            self.release(&attachment.key, &attachment.leases);
            return;
        };
        let current = self.attachments.get(&attachment.key).and_then(|found| found.wiring.as_ref());
        let is_current = current.is_some_and(|current| current.host_link == wiring.host_link);
        if is_current {
            self.remove(&attachment.key);
        }
        for lease in &attachment.leases {
            self.leases.hold(&attachment.key, lease.address.addr());
        }
        self.places.add(&attachment);
        let (link, wiring) = (wiring.host_link.clone(), wiring.clone());
        let is_known = is_current || self.draining.contains_key(&link);
        self.draining.insert(link, attachment);
        // Nothing but this record speaks of it in a journal that was rewritten.
        if !is_known {
            self.occupy(&wiring);
        }
    }

    /// A port of its bridge, with the bridge's gateways.
    fn occupy(&mut self, wiring: &Wiring) {
        let Some(bridge) = &wiring.bridge else { return };
        *self.ports.entry(bridge.clone()).or_default() += 1;
        self.open_gateways(wiring);
    }

    fn open_gateways(&mut self, wiring: &Wiring) {
        let known = self.gateways.entry(wiring.home().clone()).or_default();
        let new: Vec<IpNet> = wiring.gateways.iter().filter(|gateway| !known.contains(gateway)).copied().collect();
        known.extend(new);
    }

    fn remove(&mut self, key: &AttachmentKey) {
        self.attachments.remove(key);
        self.extra.remove(key);
    }

    fn reaped(&mut self, key: &AttachmentKey, link: &str) {
        let Ok(link) = LinkName::new(link) else { return };
        let Some(gone) = self.draining.remove(&link) else { return };
        self.places.remove(&gone);
        if let Some(bridge) = gone.wiring.as_ref().and_then(|wiring| wiring.bridge.as_ref())
            && let Some(ports) = self.ports.get_mut(bridge)
        {
            *ports = ports.saturating_sub(1);
            if *ports == 0 {
                self.ports.remove(bridge);
                self.gateways.remove(bridge);
            }
        }
        if let Some(gateway) = gone.wiring.as_ref().and_then(|wiring| wiring.gateway_link.as_ref())
            && !self.uses_gateway(&gateway.link)
        {
            self.gateways.remove(&gateway.link);
        }
        self.release(key, &gone.leases);
    }

    /// The ports of a drained attachment that are not free for others yet: the ruleset may lead them to it still.
    #[must_use]
    pub fn not_closed(&self, gone: &Attachment) -> BTreeSet<Publication> {
        let of = |(publication, key)| (self.claims.holder(publication) == Some(&key)).then_some(publication);
        claims(gone).filter_map(of).collect()
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
}

fn octets(mac: &str) -> Option<[u8; 6]> {
    let octets: Result<Vec<u8>, _> = mac.split(':').map(|octet| u8::from_str_radix(octet, 16)).collect();
    octets.ok()?.try_into().ok()
}

#[cfg(test)]
pub(crate) mod tests;
