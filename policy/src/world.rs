//! What policies are about: sandboxes and nodes, as plain values. Where they come from is netd's business.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use crate::flow::Protocol;
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

    /// A label of its own.
    #[must_use]
    pub fn label(&self, key: &str) -> Option<&str> {
        self.labels.get(key).map(String::as_str)
    }
}

impl World {
    /// Whose `address` is. A sandbox comes before a node.
    #[must_use]
    pub fn owner(&self, address: IpAddr) -> Owner<'_> {
        if let Some(sandbox) = self.sandboxes.values().find(|sandbox| sandbox.addresses.contains_key(&address)) {
            return Owner::Sandbox(sandbox);
        }
        match self.nodes.iter().find(|(_, node)| node.addresses.contains(&address)) {
            Some((name, node)) => Owner::Node(name, node),
            None => Owner::Outside,
        }
    }
}

impl fmt::Display for SandboxName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}
