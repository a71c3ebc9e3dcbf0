//! What policies are about: sandboxes and nodes, as plain values. Where they come from is netd's business.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use crate::flow::Protocol;
use crate::model::{Block, Namespaces, SandboxSelector};
use crate::selector::Labels;

/// The label that every namespace has, with its name.
pub const NAMESPACE_NAME: &str = "kubernetes.io/metadata.name";

/// A sandbox's name in its namespace: the CRI pod's, or the container's.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct SandboxName {
    /// CRI pod namespace or containerd namespace.
    pub namespace: String,
    /// Unique there.
    pub name: String,
}

/// A sandbox as policies see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sandbox {
    /// Its identity.
    pub name: SandboxName,
    /// Its own labels.
    pub labels: Labels,
    /// Its namespace's labels, without [`NAMESPACE_NAME`].
    pub namespace_labels: Labels,
    /// Its addresses, each with the name of the network it is on.
    pub addresses: BTreeMap<IpAddr, String>,
    /// Its container ports that have a name.
    pub ports: BTreeSet<NamedPort>,
    /// The node it runs on.
    pub node: String,
    /// What is known of it; `None`: everything, as of those of this node.
    pub known: Option<Known>,
}

/// What another node has told of a sandbox. What is not in here may be so or not: no rule that asks for it lets it pass.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Known {
    /// Keys of its labels: with the value that it has, or without one.
    pub labels: BTreeSet<String>,
    /// Keys of its namespace's labels, without [`NAMESPACE_NAME`], which is always known.
    pub namespace_labels: BTreeSet<String>,
    /// Which networks its addresses are on.
    pub networks: bool,
    /// Names of container ports: with the numbers that it has, or without any.
    pub ports: BTreeSet<String>,
}

/// A container port with a name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct NamedPort {
    /// Its name.
    pub name: String,
    /// Its protocol.
    pub protocol: Protocol,
    /// Its number.
    pub number: u16,
}

/// A node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Node {
    /// Its labels.
    pub labels: Labels,
    /// Its own addresses.
    pub addresses: BTreeSet<IpAddr>,
}

/// Everything that has a name. All other addresses are the outside.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct World {
    /// All sandboxes of all nodes.
    pub sandboxes: BTreeMap<SandboxName, Sandbox>,
    /// All nodes by name.
    pub nodes: BTreeMap<String, Node>,
    /// Where other nodes' sandboxes are: who has such an address and no name here may be any of them. No rule lets it pass for
    /// what it might be, and each that denies sandboxes denies it; one that denies a port by its name denies all ports there.
    pub strangers: BTreeSet<Block>,
}

/// Whose an address is.
#[derive(Debug, Clone, Copy)]
pub enum Owner<'a> {
    /// A sandbox's.
    Sandbox(&'a Sandbox),
    /// A node's: its name and labels.
    Node(&'a str, &'a Node),
    /// Nobody's we know.
    Outside,
}

impl Sandbox {
    /// A label of its namespace.
    #[must_use]
    pub fn namespace_label(&self, key: &str) -> Option<&str> {
        if key == NAMESPACE_NAME {
            return Some(&self.name.namespace);
        }
        self.namespace_labels.get(key).map(String::as_str)
    }

    /// Whether all is known of it that the selector asks for.
    pub(crate) fn is_known_to(&self, selector: &SandboxSelector) -> bool {
        self.known.as_ref().is_none_or(|known| known.has(selector))
    }

    /// Whether the selector may select it, and nobody can say.
    pub(crate) fn is_in_doubt(&self, selector: &SandboxSelector) -> bool {
        let elsewhere = matches!(&selector.namespaces, Namespaces::Named(name) if *name != self.name.namespace);
        !elsewhere && !self.is_known_to(selector)
    }

    /// Whether it may have a port of this name, and nobody can say at which number.
    pub(crate) fn may_name(&self, port: &str) -> bool {
        self.known.as_ref().is_some_and(|known| !known.ports.contains(port))
    }

    /// A label of its own.
    #[must_use]
    pub fn label(&self, key: &str) -> Option<&str> {
        self.labels.get(key).map(String::as_str)
    }
}

impl Known {
    fn has(&self, selector: &SandboxSelector) -> bool {
        let mut labels = selector.labels.requirements.iter();
        let of_namespace = match &selector.namespaces {
            Namespaces::Named(_) => true,
            Namespaces::Labelled(labels) => labels
                .requirements
                .iter()
                .all(|one| one.key == NAMESPACE_NAME || self.namespace_labels.contains(&one.key)),
        };
        of_namespace
            && (selector.networks.is_empty() || self.networks)
            && labels.all(|one| self.labels.contains(&one.key))
    }
}

impl World {
    /// Whose `address` is. A sandbox comes before a node, and one of this node before others'. What is contested is nobody's.
    #[must_use]
    pub fn owner(&self, address: IpAddr) -> Owner<'_> {
        let mut own = self.own(address);
        match (own.next(), own.next()) {
            (Some(_), Some(_)) => return Owner::Outside,
            (Some(own), None) => return Owner::Sandbox(own),
            (None, _) => {}
        }
        if let Some(other) = self.sandboxes.values().find(|one| one.addresses.contains_key(&address)) {
            return Owner::Sandbox(other);
        }
        match self.nodes.iter().find(|(_, node)| node.addresses.contains(&address)) {
            Some((name, node)) => Owner::Node(name, node),
            None => Owner::Outside,
        }
    }

    /// The first of this node's sandboxes that have `address`, where they are several: on links of their own, but rules ask by
    /// address alone. Nobody can tell whose a packet is, so while there are policies none of it passes, but between it and its node.
    #[must_use]
    pub fn contested(&self, address: IpAddr) -> Option<&Sandbox> {
        let mut own = self.own(address);
        own.next().filter(|_| own.next().is_some())
    }

    fn own(&self, address: IpAddr) -> impl Iterator<Item = &Sandbox> {
        self.sandboxes.values().filter(move |one| one.known.is_none() && one.addresses.contains_key(&address))
    }
}

impl fmt::Display for SandboxName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}
