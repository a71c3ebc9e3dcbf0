//! Kernel work on behalf of requests. Everything here blocks: it runs where `blocking` has it run, never under the owner.

mod check;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ipnet::IpNet;
use netd_config::{LinkName, Protocol};
use netd_kernel::{
    ApplyError, Family, Flow, Kernel, KernelError, Key, LinkFacts, Object, Objects, Part, Publication, Sandbox, Scope,
    Step, plan,
};
use thiserror::Error;

use crate::attachment::{Attachment, Facts, Lease, Wiring};
use crate::desired;

/// Why kernel work failed.
#[derive(Debug, Error)]
pub enum ExecutorError {
    /// A step failed; what came before it was taken back.
    #[error("the kernel refused")]
    Apply(#[from] ApplyError),
    /// Some links, or what is on them, could not be put right. All else was done.
    #[error("the kernel refused links")]
    Links(#[source] ApplyError),
    /// Nothing can be written to the ruleset.
    #[error("netd's ruleset is gone or another's; netd makes it again in a moment, try again then")]
    NoRuleset,
    /// The kernel could not be read.
    #[error("cannot read the kernel's state")]
    Observe(#[from] KernelError),
}

impl ExecutorError {
    /// Whether the rules are as they should be all the same.
    #[must_use]
    pub const fn is_of_links(&self) -> bool {
        matches!(self, Self::Links(_))
    }
}

/// Applies steps; knows which shared objects stand.
#[derive(Debug)]
pub struct Executor<K> {
    kernel: Arc<K>,
    /// Held while the kernel works: to be waited for by what may block only.
    standing: Mutex<Objects>,
    guarded: Mutex<BTreeSet<Family>>,
    /// Whose link of a VLAN's gateway is being taken away: one at a time, or what one doubts another takes for doubted still.
    removing_gateway: tokio::sync::Mutex<()>,
}

impl<K: Kernel> Executor<K> {
    /// An executor that has not looked yet what stands. `guarded`: families whose forwarding netd switched on.
    pub fn new(kernel: Arc<K>, guarded: BTreeSet<Family>) -> Self {
        Self {
            kernel,
            standing: Mutex::new(Objects::new()),
            guarded: Mutex::new(guarded),
            removing_gateway: tokio::sync::Mutex::default(),
        }
    }

    /// Whether all families that the attachment needs forwarded are believed to be. Never waits: while what stands is being
    /// changed it says no, and [`Executor::unswitched`] knows.
    #[must_use]
    pub fn forwards(&self, attachment: &Attachment) -> bool {
        let families = desired::families(attachment);
        let is_on = |standing: &Objects| families.iter().all(|one| standing.contains_key(&Key::Forwarding(*one)));
        families.is_empty() || self.standing.try_lock().is_ok_and(|standing| is_on(&standing))
    }

    /// Families that the attachment needs forwarded and that nobody has switched on.
    ///
    /// # Errors
    /// See [`ExecutorError`].
    pub fn unswitched(&self, attachment: &Attachment) -> Result<BTreeSet<Family>, ExecutorError> {
        let mut families = desired::families(attachment);
        families.retain(|family| !lock(&self.standing).contains_key(&Key::Forwarding(*family)));
        if !families.is_empty() {
            let on = self.kernel.observe(Scope::Forwarding)?;
            families.retain(|family| !on.contains_key(&Key::Forwarding(*family)));
        }
        Ok(families)
    }

    /// Whether the ruleset knows the bridge as ours, by what is believed to stand.
    ///
    /// # Errors
    /// See [`ExecutorError`].
    pub fn admits(&self, bridge: &str) -> Result<bool, ExecutorError> {
        let is = |key: &Key| matches!(key, Key::Admitted(admitted) if admitted.as_str() == bridge);
        Ok(self.standing()?.keys().any(is))
    }

    /// From now on netd is the one who switches this family on; it is recorded by then.
    pub fn guard(&self, family: Family) {
        lock(&self.guarded).insert(family);
    }

    /// Which namespace a descriptor is, without blocking.
    ///
    /// # Errors
    /// The descriptor is no network namespace.
    pub fn identify(&self, fd: OwnedFd) -> Result<Sandbox, KernelError> {
        self.kernel.identify(fd)
    }

    /// Makes the objects that the attachment shares with others.
    ///
    /// # Errors
    /// See [`ExecutorError`].
    pub fn make_shared(&self, attachment: &Attachment) -> Result<(), ExecutorError> {
        let guarded = lock(&self.guarded).clone();
        self.ensure(desired::shared(attachment, &guarded))
    }

    /// Makes all objects of an attachment. On an error nothing of its own is left.
    ///
    /// # Errors
    /// See [`ExecutorError`].
    pub fn wire(&self, attachment: &Attachment, sandbox: &Sandbox) -> Result<Facts, ExecutorError> {
        self.make_shared(attachment)?;
        self.forget_senders(attachment)?;
        let steps = plan(&desired::own(attachment), &Objects::new());
        let wired = self.kernel.apply(&steps, Some(sandbox)).map_err(ExecutorError::from);
        wired.and_then(|()| self.facts(attachment, sandbox)).inspect_err(|_| {
            // The first error is the one to report; what these leave behind, resync takes away.
            let ports = attachment.publications().into_iter().map(|(publication, _)| publication).collect();
            drop(self.close(attachment, None, &ports));
            drop(self.unlink(std::slice::from_ref(attachment)));
        })
    }

    /// Makes the difference between two states of an attachment. Its first error leaves it in between: the caller goes
    /// back by the same way.
    ///
    /// # Errors
    /// See [`ExecutorError`].
    pub fn extend(&self, before: &Attachment, after: &Attachment, sandbox: &Sandbox) -> Result<Facts, ExecutorError> {
        self.make_shared(after)?;
        self.forget_senders(after)?;
        self.kernel.apply(&plan(&desired::own(after), &desired::own(before)), Some(sandbox))?;
        self.facts(after, sandbox)
    }

    /// Lets an attachment's link pass packets, or holds it back, as the attachment says.
    ///
    /// # Errors
    /// See [`ExecutorError`].
    pub fn set_port(&self, attachment: &Attachment) -> Result<(), ExecutorError> {
        let ways = desired::ways(attachment);
        let steps: Vec<Step> = if ways.is_empty() {
            let veths = desired::own(attachment).into_iter().filter(|(key, _)| matches!(key, Key::Veth(_)));
            veths.map(|(key, object)| Step::Replace(key, object)).collect()
        } else if attachment.quarantined {
            ways.into_keys().map(Step::Delete).collect()
        } else {
            ways.into_iter().map(|(key, object)| Step::Create(key, object)).collect()
        };
        Ok(self.kernel.apply(&steps, None)?)
    }

    /// Takes steps inside a sandbox.
    ///
    /// # Errors
    /// See [`ExecutorError`].
    pub fn within(&self, steps: &[Step], sandbox: &Sandbox) -> Result<(), ExecutorError> {
        Ok(self.kernel.apply(steps, Some(sandbox))?)
    }

    /// Lets no packet pass any more, and takes from ruleset and routes what is not also `current`'s, the attachment that has
    /// the key now. Of published ports, those of `ports`: others may be somebody else's. Cheap; the link itself goes later, by
    /// [`Executor::unlink`].
    ///
    /// # Errors
    /// See [`ExecutorError`]. Without an error the ruleset holds nothing of the attachment.
    pub fn close(
        &self,
        attachment: &Attachment,
        current: Option<&Attachment>,
        ports: &BTreeSet<Publication>,
    ) -> Result<(), ExecutorError> {
        let is_port = attachment.wiring.as_ref().is_some_and(|wiring| wiring.bridge.is_some());
        let shut = desired::drained(attachment).into_iter().filter(|_| is_port);
        let shut: Vec<Step> = shut.map(|(key, object)| Step::Replace(key, object)).collect();
        if let Err(error) = self.kernel.apply(&shut, None) {
            // It is gone with its sandbox, as a rule; if it is not, it goes now.
            tracing::debug!(key = %attachment.key, error = %error.source, "port not shut");
        }
        let all = |of: &Attachment| desired::ruled(of).into_iter().chain(desired::ways(of)).collect::<Objects>();
        let kept = current.map(all).unwrap_or_default();
        let is_others = |key: &Key| matches!(key, Key::Published(publication) if !ports.contains(publication));
        let gone = all(attachment).into_iter().rev();
        let gone = gone.filter(|(key, object)| kept.get(key) != Some(object) && !is_others(key));
        Ok(self.kernel.apply(&gone.map(|(key, _)| Step::Delete(key)).collect::<Vec<_>>(), None)?)
    }

    /// Makes the ruleset hold of an attachment what it held before, after an extension that failed somewhere.
    ///
    /// # Errors
    /// See [`ExecutorError`].
    pub fn restore(&self, before: &Attachment, after: &Attachment) -> Result<(), ExecutorError> {
        Ok(self.kernel.apply(&plan(&desired::ruled(before), &desired::ruled(after)), None)?)
    }

    /// Adds to ruleset, gateways and routes what they may have lost of an attachment; what stands there already stays. A link
    /// that is gone has none: that is for [`Executor::is_damaged`] to see.
    ///
    /// # Errors
    /// See [`ExecutorError`].
    pub fn restate(&self, attachment: &Attachment) -> Result<(), ExecutorError> {
        self.kernel.apply(&plan(&desired::ruled(attachment), &Objects::new()), None)?;
        match self.kernel.apply(&plan(&desired::routed(attachment), &Objects::new()), None) {
            Err(ApplyError { source: KernelError::NotFound(_), .. }) => Ok(()),
            done => Ok(done?),
        }
    }

    /// Drops what the node remembers of an attachment's addresses: connections, and MACs. `but`: addresses that are in use
    /// again.
    ///
    /// # Errors
    /// See [`ExecutorError`].
    pub fn forget_flows(&self, attachment: &Attachment, but: &[Lease]) -> Result<(), ExecutorError> {
        let home = attachment.wiring.as_ref().and_then(Wiring::shared_home);
        let is_used = |address: IpAddr| but.iter().any(|lease| lease.address.addr() == address);
        let mut unused = attachment.leases.iter().map(|lease| lease.address.addr()).filter(|one| !is_used(*one));
        unused.try_for_each(|address| self.kernel.forget(address, home))?;
        // It follows from the addresses: whoever has one of them next has this one, too.
        let is_next = attachment.leases.iter().any(|lease| is_used(lease.address.addr()));
        match attachment.link_local().filter(|_| !is_next) {
            Some(address) => Ok(self.kernel.forget(address, home)?),
            None => Ok(()),
        }
    }

    fn forget_senders(&self, attachment: &Attachment) -> Result<(), ExecutorError> {
        let udp = attachment.ports.iter().filter(|port| port.protocol == Protocol::Udp);
        udp.into_iter().try_for_each(|port| Ok(self.kernel.forget_port(port.host)?))
    }

    /// Deletes links, all at once. Gone already is success.
    ///
    /// # Errors
    /// See [`ExecutorError`].
    pub fn unlink(&self, attachments: &[Attachment]) -> Result<(), ExecutorError> {
        let links = attachments.iter().flat_map(|gone| desired::drained(gone).into_keys());
        Ok(self.kernel.apply(&links.map(Step::Delete).collect::<Vec<_>>(), None)?)
    }

    /// What the kernel made of an attachment; an error if it is not whole.
    ///
    /// # Errors
    /// See [`ExecutorError`].
    pub fn facts(&self, attachment: &Attachment, sandbox: &Sandbox) -> Result<Facts, ExecutorError> {
        let Some(wiring) = &attachment.wiring else { return Ok(Facts::default()) };
        let links =
            self.kernel.attached(&wiring.host_link, wiring.bridge.as_ref(), &attachment.key.interface, sandbox)?;
        let gateway = wiring.gateway_link.as_ref().map(|gateway| self.kernel.mac(&gateway.link));
        let gateway_mac = match gateway {
            // Somebody took it away; the next resync makes it again.
            Some(Err(KernelError::NotFound(_))) | None => String::new(),
            Some(mac) => mac?,
        };
        let LinkFacts { mac, host_mac, bridge_mac, mtu } = links;
        Ok(Facts { mac, host_mac, bridge_mac, gateway_mac, mtu })
    }

    /// The node's objects that are ours, as the kernel has them, but for those of policies.
    ///
    /// # Errors
    /// See [`ExecutorError`].
    pub fn observe(&self) -> Result<Objects, ExecutorError> {
        Ok(self.kernel.observe(Scope::Wiring)?)
    }

    /// What the kernel has of policies, and the ruleset.
    ///
    /// # Errors
    /// See [`ExecutorError`].
    pub fn observe_policies(&self) -> Result<Objects, ExecutorError> {
        Ok(self.kernel.observe(Scope::Policies)?)
    }

    /// The bridges that are filtered.
    ///
    /// # Errors
    /// See [`ExecutorError`].
    pub fn observe_filters(&self) -> Result<Objects, ExecutorError> {
        Ok(self.kernel.observe(Scope::Filters)?)
    }

    /// Whether an attachment's link, its bridge's end of it, or an address of it is not there any more. What its sandbox's
    /// owner has changed or added inside (MAC, MTU, further addresses) is no damage, as it is for [`Executor::faults`].
    ///
    /// # Errors
    /// See [`ExecutorError`].
    pub fn is_damaged(&self, attachment: &Attachment, sandbox: &Sandbox) -> Result<bool, ExecutorError> {
        if attachment.wiring.is_none() {
            return Ok(false);
        }
        let facts = match self.facts(attachment, sandbox) {
            Err(ExecutorError::Observe(KernelError::NotFound(_))) => return Ok(true),
            facts => facts?,
        };
        let inside = self.kernel.observe(Scope::Sandbox(sandbox, &attachment.key.interface))?;
        let is_there = |address: &IpNet| {
            inside.values().any(|object| matches!(object, Object::Interface(one) if one.addresses.contains(address)))
        };
        let has_all = attachment.leases.iter().all(|lease| is_there(&lease.address));
        // A bridge that was made again has another MAC, and lost its ports.
        Ok(!has_all || facts.bridge_mac != attachment.facts.bridge_mac)
    }

    /// Takes steps of a resync, and forgets what is believed to stand. A link that cannot be put right keeps nothing else from
    /// it; what the ruleset refuses does.
    ///
    /// # Errors
    /// See [`ExecutorError`]; of several links the first.
    pub fn repair(&self, steps: &[Step]) -> Result<(), ExecutorError> {
        let mut standing = lock(&self.standing);
        standing.clear();
        let (mut left, mut first) = (steps, None);
        while let Err(error) = self.kernel.apply(left, None) {
            let failed = left.get(error.number).filter(|step| is_of_links(step));
            let Some(failed) = failed else { return Err(error.into()) };
            tracing::warn!(step = ?failed, error = &error.source as &dyn std::error::Error, "not put right");
            left = &left[error.number + 1..];
            first = first.or(Some(error));
        }
        first.map_or(Ok(()), |error| Err(ExecutorError::Links(error)))
    }

    /// Whether there is a ruleset, whole or not.
    ///
    /// # Errors
    /// See [`ExecutorError`].
    pub fn has_ruleset(&self) -> Result<bool, ExecutorError> {
        Ok(self.kernel.observe(Scope::Ruleset)?.contains_key(&Key::Ruleset))
    }

    /// An address of a bridge is gone: it is not believed to stand any more.
    pub fn lost(&self, bridge: &LinkName, address: IpNet) {
        if let Some(Object::Bridge(found)) = lock(&self.standing).get_mut(&Key::Bridge(bridge.clone())) {
            found.addresses.retain(|one| *one != address);
        }
    }

    /// Takes steps of policies, or of the fleet.
    ///
    /// # Errors
    /// See [`ExecutorError`]; nftables then holds what it held.
    pub fn enforce(&self, steps: &[Step]) -> Result<(), ExecutorError> {
        Ok(self.kernel.apply(steps, None)?)
    }

    /// The flows that have one of these addresses at an end.
    ///
    /// # Errors
    /// See [`ExecutorError`].
    pub fn flows(&self, addresses: &BTreeSet<IpAddr>) -> Result<Vec<Flow>, ExecutorError> {
        Ok(self.kernel.flows(addresses)?)
    }

    /// Ends flows, and refuses what still comes of them.
    ///
    /// # Errors
    /// See [`ExecutorError`].
    pub fn cut(&self, flows: &[Flow]) -> Result<(), ExecutorError> {
        if flows.is_empty() { Ok(()) } else { Ok(self.kernel.cut(flows)?) }
    }

    /// How many flows found each object of policies; see [`Kernel::counts`].
    ///
    /// # Errors
    /// See [`ExecutorError`].
    pub fn counts(&self) -> Result<BTreeMap<Key, u64>, ExecutorError> {
        Ok(self.kernel.counts()?)
    }

    /// To be held from [`Executor::doubt_gateway`] to [`Executor::remove_gateway`].
    pub async fn removing_gateway(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.removing_gateway.lock().await
    }

    /// Believes no more that the link of a VLAN's gateway stands: whoever needs it from now on makes it again. The first half of
    /// [`Executor::remove_gateway`].
    ///
    /// # Errors
    /// See [`ExecutorError`].
    pub fn doubt_gateway(&self, link: &LinkName) -> Result<(), ExecutorError> {
        let mut standing = self.standing()?;
        gateway_keys(link).iter().for_each(|key| drop(standing.remove(key)));
        Ok(())
    }

    /// Takes the link of a VLAN's gateway away, and what the ruleset says of it. To be asked for when nobody used it after
    /// [`Executor::doubt_gateway`]: whoever has made it stand since then keeps it.
    ///
    /// # Errors
    /// See [`ExecutorError`].
    pub fn remove_gateway(&self, link: &LinkName) -> Result<(), ExecutorError> {
        let standing = self.standing()?;
        let keys = gateway_keys(link);
        if keys.iter().any(|key| standing.contains_key(key)) {
            return Ok(());
        }
        Ok(self.kernel.apply(&keys.map(Step::Delete), None)?)
    }

    /// Makes shared objects stand. Two attaches that need the same new bridge meet here, one after the other.
    fn ensure(&self, wanted: Objects) -> Result<(), ExecutorError> {
        let mut standing = self.standing()?;
        let mut united = standing.clone();
        desired::merge(&mut united, wanted);
        if united == *standing {
            return Ok(());
        }
        let steps = plan(&united, &standing);
        self.kernel.apply(&steps, None)?;
        *standing = united;
        Ok(())
    }

    /// Looks, where it has not yet.
    fn standing(&self) -> Result<MutexGuard<'_, Objects>, ExecutorError> {
        let mut standing = lock(&self.standing);
        if standing.is_empty() {
            *standing = self.observe()?.into_iter().filter(|(key, _)| desired::is_shared(key)).collect();
        }
        Ok(standing)
    }
}

/// What passes the rules of a bridge's node is no link's affair, though it is set on one.
fn is_of_links(step: &Step) -> bool {
    let key = step.key();
    matches!(key.part(), Part::Links | Part::Ways) && !matches!(key, Key::Filtered(_))
}

fn gateway_keys(link: &LinkName) -> [Key; 3] {
    [Key::Fenced(link.clone()), Key::Admitted(link.clone()), Key::GatewayLink(link.clone())]
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
