//! What answers about policies are given by: what is in force, who is attached, and what netd does to their packets. Where no policy
//! is in force the enforcer counts nobody, so that attachments are counted here. Pure.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use netd_config::LinkName;
use netd_kernel::{DEFAULT_VLAN, Vlans};
use netd_policy::{Change, Policy, World};

use super::ends::{End, ExplainError, of_link};
use super::enforcer::Force;
use super::members::Members;
use super::published::{NextHop, Published};
use crate::attachment::Attachment;

/// A bridge, and a VLAN of it.
type Link = (LinkName, u16);

/// See the module.
#[derive(Debug)]
pub(crate) struct Ground<'a> {
    /// Sandboxes and nodes.
    pub(crate) world: Cow<'a, World>,
    /// In force.
    pub(crate) policies: &'a [Policy],
    /// This node's name.
    pub(crate) here: &'a str,
    published: Published,
    /// Where a link-local address is that netd knows.
    links: BTreeMap<IpAddr, BTreeSet<Link>>,
    counted: Option<Members>,
}

impl<'a> Ground<'a> {
    /// `attachments` are all there are.
    pub(crate) fn new(force: &'a Force, attachments: &[Attachment]) -> Self {
        let (compiler, here) = (&force.compiler, force.node());
        let ground = Self::of(Cow::Borrowed(compiler.world()), compiler.policies(), here, attachments);
        if !compiler.policies().is_empty() {
            return ground;
        }
        let mut counted = force.members.afresh();
        let mut world = compiler.world().clone();
        for change in attachments.iter().flat_map(|one| counted.join(one)) {
            match change {
                Change::Sandbox(sandbox) => drop(world.sandboxes.insert(sandbox.name.clone(), sandbox)),
                Change::Gone(name) => drop(world.sandboxes.remove(&name)),
                Change::Policies(_) | Change::Nodes(_) | Change::Strangers(_) => {}
            }
        }
        Self { world: Cow::Owned(world), counted: Some(counted), ..ground }
    }

    /// By this world, and these policies.
    pub(super) fn of(world: Cow<'a, World>, policies: &'a [Policy], here: &'a str, attachments: &[Attachment]) -> Self {
        let mut links: BTreeMap<IpAddr, BTreeSet<Link>> = BTreeMap::new();
        for (address, link) in attachments.iter().filter_map(link) {
            links.entry(address).or_default().insert(link);
        }
        Self { world, policies, here, published: Published::of(attachments), links, counted: None }
    }

    /// Whom `text` means.
    ///
    /// # Errors
    /// See [`ExplainError`].
    pub(crate) fn find(&self, force: &Force, text: &str) -> Result<End, ExplainError> {
        let members = self.counted.as_ref().unwrap_or(&force.members);
        End::find(&self.world, self.here, text).or_else(|error| match members.of_container(text).as_slice() {
            [one] => Ok(End::Sandbox((*one).clone())),
            _ => Err(error),
        })
    }

    /// Whether a packet may go from one address to the other: both are of one family, and what is of a link alone is on one.
    pub(super) fn meet(&self, from: IpAddr, to: IpAddr) -> bool {
        if from.is_ipv4() != to.is_ipv4() || of_link(from) != of_link(to) {
            return false;
        }
        match (self.links.get(&from), self.links.get(&to)) {
            (Some(from), Some(to)) => from.intersection(to).next().is_some(),
            _ => true,
        }
    }

    /// Where it goes that is sent to an address of this node; `None`: to the node, or to whoever has the address.
    pub(super) fn lead(&self, to: IpAddr, traffic: netd_policy::Traffic) -> Option<NextHop> {
        let own = self.world.nodes.get(self.here)?;
        if own.addresses.contains(&to) { self.published.lead(to, traffic) } else { None }
    }
}

fn link(attachment: &Attachment) -> Option<(IpAddr, Link)> {
    let address = attachment.link_local()?;
    let wiring = attachment.wiring.as_ref()?;
    let vlan = wiring.vlans.as_ref().and_then(Vlans::native).unwrap_or(DEFAULT_VLAN);
    Some((address, (wiring.bridge.clone()?, vlan)))
}
