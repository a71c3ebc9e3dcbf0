//! The trait that both kernels obey. The vocabulary is in `object`; what steps are needed is `plan`'s question.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;

use ipnet::IpNet;
use netd_config::LinkName;
use thiserror::Error;

use crate::linux::Inside;
use crate::object::{Encapsulation, Entrance, Flow, Interface, Key, NetnsId, Objects, Route, Step};

/// A sandbox for the length of one request. Nothing may keep it: a held descriptor or socket keeps its namespace alive.
#[derive(Debug)]
pub struct Sandbox {
    /// Which one.
    pub id: NetnsId,
    /// Its inside; the fake kernel has none.
    pub(crate) inside: Option<Inside>,
}

/// What to observe.
#[derive(Debug, Clone, Copy)]
pub enum Scope<'a> {
    /// All of ours in the node's namespace: bridges with their VLANs' gateways, ruleset, forwarding, veths, ways.
    Node,
    /// As [`Scope::Node`], without what policies have there ([`Key::is_of_policy`]): of that may be a hundred thousand.
    Wiring,
    /// What policies have, and the ruleset.
    Policies,
    /// The bridges that are filtered ([`Key::Filtered`]).
    Filters,
    /// Forwarding alone; cheap.
    Forwarding,
    /// Whether the ruleset stands, without its elements; cheap.
    Ruleset,
    /// One interface of a sandbox.
    Sandbox(&'a Sandbox, &'a LinkName),
}

/// What a CNI result says of an attachment's links.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkFacts {
    /// MAC of the sandbox end, as `aa:bb:cc:dd:ee:ff`.
    pub mac: String,
    /// MAC of the host end.
    pub host_mac: String,
    /// MAC of the bridge; empty where there is none.
    pub bridge_mac: String,
    /// Octets, of the sandbox end.
    pub mtu: u32,
}

/// Why the kernel did not do as told.
#[derive(Debug, Error)]
pub enum KernelError {
    /// The object is there already.
    #[error("{0} exists already")]
    Exists(String),
    /// The object, or one it needs, is not there.
    #[error("{0} not found")]
    NotFound(String),
    /// A bridge has all its ports.
    #[error("bridge {0} takes no more ports (the kernel's limit is 1,023)")]
    Full(LinkName),
    /// The name belongs to a link of another kind.
    #[error("{0} exists and is not a bridge: give the network another bridge name")]
    NotABridge(LinkName),
    /// The kernel was built or started without IPv6.
    #[error(
        "the network has an IPv6 range, and this kernel has no IPv6 (ipv6.disable=1 on its command line, or it is built \
         without): take the IPv6 range out of the network's file (`netdctl network ls` names it), or start a kernel with IPv6"
    )]
    NoIpv6,
    /// IPv6 is switched off on a link that was there before, and that is to have an IPv6 address.
    #[error(
        "IPv6 is switched off on {0}, which is to have an IPv6 address: `sysctl -w net.ipv6.conf.{0}.disable_ipv6=0`, or \
         take the IPv6 range out of the network's file (`netdctl network ls` names it)"
    )]
    Ipv6Off(LinkName),
    /// The kernel cannot tell one VLAN from another on a bridge.
    #[error(
        "bridge {0} is to keep VLANs apart (keys vlan and vlanTrunk), and this kernel cannot: it is built without \
         CONFIG_BRIDGE_VLAN_FILTERING; remove the keys, or start a kernel that has it"
    )]
    NoVlanFiltering(LinkName),
    /// The name of a VLAN's gateway link belongs to another's.
    #[error(
        "{0} exists and is not netd's, and the gateway of the bridge's VLAN needs that name: delete it when no container \
         of another plugin is in that VLAN, or give the network another bridge"
    )]
    NotOurGateway(LinkName),
    /// What is bridged cannot be made to pass the rules.
    #[error(
        "policy cannot hold between two sandboxes of bridge {0}: this kernel has no br_netfilter; load it (modprobe \
         br_netfilter) and name it in /etc/modules-load.d/netd.conf"
    )]
    Unfilterable(LinkName),
    /// The name of a tunnel belongs to another's link.
    #[error("{0} exists and is not netd's: delete or rename it, or give netd another link_prefix")]
    NotOurs(LinkName),
    /// The kernel has no such tunnels.
    #[error(
        "this kernel has no {module}: load it (modprobe {module}) and name it in /etc/modules-load.d/netd.conf, or choose \
         {} for the pool",
        other.map_or("direct, which needs no tunnel", module_of),
        module = module_of(*encapsulation)
    )]
    NoTunnels {
        /// Those that were wanted.
        encapsulation: Encapsulation,
        /// Those that it has.
        other: Option<Encapsulation>,
    },
    /// Packets for the tunnel would come out of another's.
    #[error(
        "{} takes the packets that {name} would take ({}): delete it, or give netd another {}",
        by.as_deref().unwrap_or("another program"),
        said(*entrance),
        if matches!(entrance, Entrance::Vxlan(..)) { "port" } else { "address" }
    )]
    Occupied {
        /// Our device.
        name: LinkName,
        /// Another's device, if it is one.
        by: Option<String>,
        /// What both want.
        entrance: Entrance,
    },
    /// A peer that is not on a link of this node cannot be gone by directly.
    #[error(
        "no link of this node leads to {gateway}, by which {to} is: choose cross-subnet, vxlan or ipip for the pool"
    )]
    OffLink {
        /// What is to be reached.
        to: IpNet,
        /// By whom.
        gateway: IpAddr,
    },
    /// Anything else the kernel says.
    #[error("cannot {action}")]
    Refused {
        /// What was attempted.
        action: String,
        /// What it said.
        source: io::Error,
    },
    /// A fault on demand.
    #[cfg(any(test, feature = "fake"))]
    #[error("fault injected at step {0}")]
    Injected(usize),
}

/// Also the name of the encapsulation in `netd.toml`.
fn module_of(encapsulation: Encapsulation) -> &'static str {
    match encapsulation {
        Encapsulation::Ipip => "ipip",
        Encapsulation::Vxlan => "vxlan",
    }
}

fn said(entrance: Entrance) -> String {
    match entrance {
        Entrance::Ipip(address) => format!("protocol 4 to {address}"),
        Entrance::Vxlan(_, port) => format!("UDP port {port}"),
    }
}

/// A route as [`Kernel::lacking`] names it.
pub(crate) fn told_route(route: &Route) -> String {
    match route.gateway {
        Some(gateway) => format!("route to {} by {gateway}", route.destination),
        None => format!("route to {}", route.destination),
    }
}

/// A step that failed. Those before it stay done.
#[derive(Debug, Error)]
#[error("step {number} ({step}) failed")]
pub struct ApplyError {
    /// Steps done before it.
    pub number: usize,
    /// The step, for people.
    pub step: String,
    /// Why.
    pub source: KernelError,
}

/// A kernel. Two verbs do the work; four look at what conntrack remembers, or drop it; five answer questions.
///
/// All methods but one block.
pub trait Kernel: Send + Sync + std::fmt::Debug {
    /// What there is, of ours.
    ///
    /// # Errors
    /// See [`KernelError`].
    fn observe(&self, scope: Scope<'_>) -> Result<Objects, KernelError>;

    /// Takes the steps in order, and stops at the first that fails. `sandbox` is the one that veths and interfaces
    /// name; without it only node-wide steps and deletions can be taken.
    ///
    /// # Errors
    /// See [`ApplyError`].
    fn apply(&self, steps: &[Step], sandbox: Option<&Sandbox>) -> Result<(), ApplyError>;

    /// Forgets the connections of an address, so that its next holder does not get the last one's answers, and on `bridge`
    /// its MAC: the kernel goes on sending to the last holder's for half a minute where the next one's announcement is
    /// lost, as it is when the kernel is late in opening the new port.
    ///
    /// # Errors
    /// See [`KernelError`].
    fn forget(&self, address: IpAddr, bridge: Option<&LinkName>) -> Result<(), KernelError>;

    /// Forgets the connections to a UDP port of the node: a sender that goes on would never meet a port published since.
    ///
    /// # Errors
    /// See [`KernelError`].
    fn forget_port(&self, port: u16) -> Result<(), KernelError>;

    /// The flows that have one of these addresses at an end, before or behind the translation of addresses.
    ///
    /// # Errors
    /// See [`KernelError`].
    fn flows(&self, addresses: &BTreeSet<IpAddr>) -> Result<Vec<Flow>, KernelError>;

    /// Ends flows that are not allowed any more: what still comes of them is refused for two minutes, of protocols other than
    /// TCP what comes from the end that did not open them. What opens a flow is asked about as any other: a new TCP
    /// connection between the same ports, and each packet from the end that had opened it. Needs the ruleset.
    ///
    /// # Errors
    /// See [`KernelError`].
    fn cut(&self, flows: &[Flow]) -> Result<(), KernelError>;

    /// How many flows found each [`Key::Pair`] and each [`Key::Span`] since it was made: their first packets, that is, and
    /// each further packet of those that are refused.
    ///
    /// # Errors
    /// See [`KernelError`].
    fn counts(&self) -> Result<BTreeMap<Key, u64>, KernelError>;

    /// Which namespace a descriptor is. It does not block; the calling thread is in the kernel's own namespace.
    ///
    /// # Errors
    /// The descriptor is no network namespace.
    fn identify(&self, fd: OwnedFd) -> Result<Sandbox, KernelError>;

    /// The links of an attachment; without `bridge`, of a routed one.
    ///
    /// # Errors
    /// [`KernelError::NotFound`] names the link that is not there.
    fn attached(
        &self,
        host_link: &LinkName,
        bridge: Option<&LinkName>,
        interface: &LinkName,
        sandbox: &Sandbox,
    ) -> Result<LinkFacts, KernelError>;

    /// What an interface of a sandbox lacks of what it is to have, in words: addresses, routes, sysctls, settings. It may have
    /// more.
    ///
    /// # Errors
    /// [`KernelError::NotFound`]: there is no such interface.
    fn lacking(&self, interface: &LinkName, wanted: &Interface, sandbox: &Sandbox) -> Result<Vec<String>, KernelError>;

    /// The MAC of one of the node's links, as `aa:bb:cc:dd:ee:ff`.
    ///
    /// # Errors
    /// [`KernelError::NotFound`]: there is no such link.
    fn mac(&self, link: &LinkName) -> Result<String, KernelError>;
}
