//! Policies as values that are right by construction. How they are read is `parse.rs`; what they mean is `oracle.rs`.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::flow::{Direction, ICMP, ICMPV6, Protocol};
use crate::selector::Selector;

/// Where something was written.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Source {
    /// The file's name.
    pub file: Arc<str>,
    /// From 1.
    pub line: usize,
}

/// The kinds of documents, in the order in which equal priorities are asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// `policy.networking.k8s.io/v1alpha2`.
    ClusterNetworkPolicy,
    /// `policy.networking.k8s.io/v1alpha1`.
    AdminNetworkPolicy,
    /// `networking.k8s.io/v1`.
    NetworkPolicy,
    /// `policy.networking.k8s.io/v1alpha1`.
    BaselineAdminNetworkPolicy,
}

/// A policy's identity.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PolicyName {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace; empty for cluster-wide kinds.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// Tiers in the order in which they are asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tier {
    /// Before all others; the lowest number is asked first.
    Admin(u16),
    /// `NetworkPolicy`: what it selects and does not allow is denied.
    Namespaced,
    /// For what no `NetworkPolicy` selects; the lowest number is asked first.
    Baseline(u16),
}

/// One policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Its identity.
    pub name: PolicyName,
    /// Where it was written.
    pub source: Source,
    /// When it is asked.
    pub tier: Tier,
    /// Which sandboxes it is for.
    pub subject: SandboxSelector,
    /// Rules for traffic to them; `None` if it says nothing about ingress.
    pub ingress: Option<Vec<Rule>>,
    /// Rules for traffic from them; `None` if it says nothing about egress.
    pub egress: Option<Vec<Rule>>,
    /// Extension `netd/log`: log what it decides.
    pub log: bool,
    /// Extension `netd/audit`: only log and count what it would deny.
    pub audit: bool,
}

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Its name, if it has one.
    pub name: Option<String>,
    /// Where it was written.
    pub source: Source,
    /// What becomes of what it matches.
    pub action: Action,
    /// The other ends it matches.
    pub peers: Peers,
    /// The traffic it matches.
    pub ports: Ports,
}

/// What a rule does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    /// Nothing more is asked.
    Accept,
    /// Nothing more is asked.
    Deny,
    /// The next tier is asked.
    Pass,
}

/// The other ends of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peers {
    /// Every address.
    Any,
    /// Any of these.
    Of(Vec<Peer>),
}

/// One other end.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Peer {
    /// Sandboxes.
    Sandboxes(SandboxSelector),
    /// Addresses, whoever has them.
    Block(Block),
    /// Nodes.
    Nodes(Selector),
}

/// Selects sandboxes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct SandboxSelector {
    /// By namespace.
    pub namespaces: Namespaces,
    /// By their own labels.
    pub labels: Selector,
    /// Extension `netd/networkNames`: only addresses on one of these networks; none means all.
    pub networks: BTreeSet<String>,
}

/// Selects namespaces.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Namespaces {
    /// This one.
    Named(String),
    /// By their labels.
    Labelled(Selector),
}

/// A range of addresses with holes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Block {
    /// The range.
    pub cidr: IpNet,
    /// The holes, each inside the range.
    pub except: BTreeSet<IpNet>,
}

/// The traffic of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ports {
    /// All traffic of all protocols.
    Any,
    /// Any of these.
    Of(Vec<Port>),
}

/// Some traffic.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Port {
    /// A range of ports, or of ICMP types and codes.
    Range(PortRange),
    /// The destination's container port of this name; `None` is any protocol.
    Named(Option<Protocol>, String),
}

/// A range of ports of a protocol (see [`crate::Traffic`] for ICMP).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PortRange {
    /// IP protocol number.
    pub protocol: u8,
    /// First port.
    pub first: u16,
    /// Last port.
    pub last: u16,
}

impl Policy {
    /// Its rules in `direction`; `None` if it says nothing there.
    #[must_use]
    pub fn rules(&self, direction: Direction) -> Option<&[Rule]> {
        match direction {
            Direction::Ingress => self.ingress.as_deref(),
            Direction::Egress => self.egress.as_deref(),
        }
    }
}

impl PortRange {
    /// Ports `first` to `last`.
    #[must_use]
    pub fn of(protocol: Protocol, first: u16, last: u16) -> Self {
        Self { protocol: protocol.number(), first, last }
    }

    /// ICMP by type and code; `None` is every one.
    #[must_use]
    pub fn icmp(version6: bool, kind: Option<u8>, code: Option<u8>) -> Self {
        let (first, last) = match (kind, code) {
            (None, _) => (0, u16::MAX),
            (Some(kind), None) => (u16::from_be_bytes([kind, 0]), u16::from_be_bytes([kind, u8::MAX])),
            (Some(kind), Some(code)) => (u16::from_be_bytes([kind, code]), u16::from_be_bytes([kind, code])),
        };
        Self { protocol: if version6 { ICMPV6 } else { ICMP }, first, last }
    }
}

impl Block {
    /// Whether an address is in it.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.cidr.contains(&address) && !self.except.iter().any(|hole| hole.contains(&address))
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

impl Kind {
    /// Its name in documents.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ClusterNetworkPolicy => "ClusterNetworkPolicy",
            Self::AdminNetworkPolicy => "AdminNetworkPolicy",
            Self::NetworkPolicy => "NetworkPolicy",
            Self::BaselineAdminNetworkPolicy => "BaselineAdminNetworkPolicy",
        }
    }
}

impl fmt::Display for PolicyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = self.kind.as_str();
        match self.namespace.as_str() {
            "" => write!(f, "{kind} {}", self.name),
            namespace => write!(f, "{kind} {namespace}/{}", self.name),
        }
    }
}
