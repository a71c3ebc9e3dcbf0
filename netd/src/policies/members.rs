//! Attachments as policies see them: sandboxes with labels and addresses. Pure; what selects them is `netd_policy`'s.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use netd_config::{ContainerId, LinkName, Namespaces, Protocol};
use netd_policy::{Change, NamedPort, Sandbox, SandboxName};

use crate::attachment::{Attachment, AttachmentKey, Wiring};
use crate::few::Few;
use crate::identity::Identity;

/// Labels that every container has for policies, whatever its own say.
const NAME: &str = "netd/name";
const IMAGE: &str = "netd/image";

/// Who is attached to this node's networks.
#[derive(Debug, Default)]
pub(super) struct Members {
    node: String,
    namespaces: Namespaces,
    attached: BTreeMap<ContainerId, Few<AttachmentKey, Place>>,
    sandboxes: BTreeMap<ContainerId, Sandbox>,
    taken: BTreeSet<SandboxName>,
    /// Behind which bridges, and which port of each, an address lies, by whose attachment. One, unless it is contested.
    ports: BTreeMap<IpAddr, Few<AttachmentKey, BridgePort>>,
    /// Addresses that may be behind another bridge or port than before.
    moved: BTreeSet<IpAddr>,
}

/// Where an attachment can be reached.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    addresses: Vec<IpAddr>,
    port: Option<BridgePort>,
}

/// A sandbox's way to the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BridgePort {
    pub(super) bridge: LinkName,
    /// The host end of its veth.
    pub(super) link: LinkName,
}

impl Members {
    /// Nobody yet, on the node of this name.
    pub(super) fn new(node: &str, namespaces: Namespaces) -> Self {
        Self { node: node.to_owned(), namespaces, ..Self::default() }
    }

    /// Nobody yet, on the same node.
    pub(super) fn afresh(&self) -> Self {
        Self::new(&self.node, self.namespaces.clone())
    }

    /// This node's name.
    pub(super) fn node(&self) -> &str {
        &self.node
    }

    /// An attachment as it is now. None of its container's labels known yet: nothing of it passes, and it is nobody.
    pub(super) fn join(&mut self, attachment: &Attachment) -> Vec<Change> {
        let place = Place {
            addresses: attachment.addresses().chain(attachment.link_local()).collect(),
            port: attachment.wiring.as_ref().and_then(port_of),
        };
        let container = &attachment.key.container;
        self.leave(&attachment.key);
        if let Some(port) = &place.port {
            for address in &place.addresses {
                self.ports.entry(*address).or_default().insert(attachment.key.clone(), port.clone());
            }
        }
        self.moved.extend(&place.addresses);
        self.attached.entry(container.clone()).or_default().insert(attachment.key.clone(), place);
        let Some(identity) = attachment.identity(&self.namespaces) else { return Vec::new() };
        let name = self.name(container, &identity);
        let sandbox = sandbox(name, &identity, self.addresses(container), &self.node);
        self.set(container, sandbox)
    }

    /// An attachment is gone.
    pub(super) fn part(&mut self, key: &AttachmentKey) -> Vec<Change> {
        let container = &key.container;
        self.leave(key);
        let Some(places) = self.attached.get_mut(container) else { return Vec::new() };
        places.remove(key);
        let is_last = places.is_empty();
        if is_last {
            self.attached.remove(container);
        }
        let Some(sandbox) = self.sandboxes.get(container).cloned() else { return Vec::new() };
        if is_last {
            self.sandboxes.remove(container);
            self.taken.remove(&sandbox.name);
            return vec![Change::Gone(sandbox.name)];
        }
        self.set(container, Sandbox { addresses: self.addresses(container), ..sandbox })
    }

    /// Nobody is left.
    pub(super) fn clear(&mut self) -> Vec<Change> {
        self.attached.clear();
        self.taken.clear();
        self.moved.extend(std::mem::take(&mut self.ports).into_keys());
        std::mem::take(&mut self.sandboxes).into_values().map(|sandbox| Change::Gone(sandbox.name)).collect()
    }

    /// Whoever is somebody, by container.
    pub(super) fn sandboxes(&self) -> impl Iterator<Item = (&ContainerId, &Sandbox)> {
        self.sandboxes.iter()
    }

    /// The ports of bridges behind which an address of a sandbox lies.
    pub(super) fn ports(&self, address: IpAddr) -> impl Iterator<Item = &BridgePort> {
        self.ports.get(&address).into_iter().flat_map(Few::values)
    }

    /// Addresses that may be behind another port since this was asked last.
    pub(super) fn moved(&mut self) -> BTreeSet<IpAddr> {
        std::mem::take(&mut self.moved)
    }

    /// Its addresses are behind no port of its any more.
    fn leave(&mut self, key: &AttachmentKey) {
        let place = self.attached.get(&key.container).and_then(|places| places.get(key));
        for address in place.iter().flat_map(|place| &place.addresses) {
            self.moved.insert(*address);
            if let Some(holders) = self.ports.get_mut(address) {
                holders.remove(key);
                if holders.is_empty() {
                    self.ports.remove(address);
                }
            }
        }
    }

    /// Whose container this is, where it is somebody.
    pub(super) fn of_container(&self, prefix: &str) -> Vec<&SandboxName> {
        // Namespaces of containerd may have dashes, and so may ids that people choose.
        let own = |id: &ContainerId, sandbox: &Sandbox| {
            let known = id.as_str().strip_prefix(&sandbox.name.namespace).and_then(|rest| rest.strip_prefix('-'));
            known.or_else(|| Some(id.as_str().rsplit_once('-')?.1)).is_some_and(|own| own.starts_with(prefix))
        };
        let begins = |(id, sandbox): &(&ContainerId, &Sandbox)| id.as_str().starts_with(prefix) || own(id, sandbox);
        self.sandboxes.iter().filter(begins).map(|(_, sandbox)| &sandbox.name).collect()
    }

    /// What it was called before, or a name that nobody has: a pod may be made again while the one before it ends.
    fn name(&self, container: &ContainerId, identity: &Identity<'_>) -> SandboxName {
        let wanted = SandboxName { namespace: identity.namespace.to_owned(), name: identity.name.to_owned() };
        let mine = self.sandboxes.get(container).map(|sandbox| &sandbox.name);
        let is_mine = |mine: &&SandboxName| {
            mine.namespace == wanted.namespace && mine.name.split('~').next() == Some(identity.name)
        };
        if let Some(mine) = mine.filter(is_mine) {
            return mine.clone();
        }
        if self.taken.contains(&wanted) {
            return SandboxName { name: format!("{}~{container}", wanted.name), ..wanted };
        }
        wanted
    }

    fn addresses(&self, container: &ContainerId) -> BTreeMap<IpAddr, String> {
        let own = self.attached.get(container).into_iter().flat_map(Few::iter);
        own.flat_map(|(key, place)| place.addresses.iter().map(|address| (*address, key.network.to_string()))).collect()
    }

    fn set(&mut self, container: &ContainerId, sandbox: Sandbox) -> Vec<Change> {
        let before = self.sandboxes.insert(container.clone(), sandbox.clone());
        if before.as_ref() == Some(&sandbox) {
            return Vec::new();
        }
        let mut changes = Vec::new();
        if let Some(before) = before.filter(|before| before.name != sandbox.name) {
            self.taken.remove(&before.name);
            changes.push(Change::Gone(before.name));
        }
        self.taken.insert(sandbox.name.clone());
        changes.push(Change::Sandbox(sandbox));
        changes
    }
}

fn port_of(wiring: &Wiring) -> Option<BridgePort> {
    Some(BridgePort { bridge: wiring.bridge.clone()?, link: wiring.host_link.clone() })
}

fn sandbox(name: SandboxName, identity: &Identity<'_>, addresses: BTreeMap<IpAddr, String>, node: &str) -> Sandbox {
    let mut labels = identity.labels.clone();
    // Nobody else's word on these counts.
    labels.remove(IMAGE);
    labels.insert(NAME.to_owned(), identity.name.to_owned());
    if !identity.image.is_empty() {
        labels.insert(IMAGE.to_owned(), identity.image.to_owned());
    }
    Sandbox {
        name,
        labels,
        namespace_labels: identity.namespace_labels.clone(),
        addresses,
        ports: identity.ports.iter().map(|((name, protocol), number)| port(name, *protocol, *number)).collect(),
        node: node.to_owned(),
        known: None,
    }
}

fn port(name: &str, protocol: Protocol, number: u16) -> NamedPort {
    let protocol = match protocol {
        Protocol::Tcp => netd_policy::Protocol::Tcp,
        Protocol::Udp => netd_policy::Protocol::Udp,
        Protocol::Sctp => netd_policy::Protocol::Sctp,
    };
    NamedPort { name: name.to_owned(), protocol, number }
}
