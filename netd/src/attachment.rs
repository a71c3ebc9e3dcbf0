//! What netd remembers of one attachment. Plain data; decisions about it are in `node`.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use netd_config::{ContainerId, LinkName, NetworkName};
use netd_kernel::{NetnsId, Route};
use serde::{Deserialize, Serialize};

/// Identity of an attachment, as the CNI specification has it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct AttachmentKey {
    /// The network's name.
    pub network: NetworkName,
    /// `CNI_CONTAINERID`.
    pub container: ContainerId,
    /// `CNI_IFNAME`.
    pub interface: LinkName,
}

impl fmt::Display for AttachmentKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{} on network {}", self.container, self.interface, self.network)
    }
}

/// One address held by an attachment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// The address with its network's prefix length.
    pub address: IpNet,
    /// The network's gateway, where it has one.
    pub gateway: Option<IpAddr>,
}

/// How far an attachment has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    /// Addresses are reserved; kernel work is under way and nobody was answered yet.
    Wiring,
    /// The caller has its result.
    Attached,
}

/// The bridge wiring of an attachment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wiring {
    /// Name of the host end; never reused within a boot.
    pub host_link: LinkName,
    /// The bridge it is a port of.
    pub bridge: LinkName,
    /// Gateway addresses that the bridge carries for this attachment's network.
    pub gateways: Vec<IpNet>,
    /// Octets.
    pub mtu: Option<u32>,
    /// The bridge's promiscuous mode.
    pub promisc: bool,
    /// Bridge port flags.
    pub hairpin: bool,
    /// Bridge port flags.
    pub isolated: bool,
    /// Asked-for MAC of the sandbox end.
    pub mac: Option<[u8; 6]>,
    /// Routes inside the sandbox.
    pub routes: Vec<Route>,
    /// Sysctls inside the sandbox.
    pub sysctls: BTreeMap<String, String>,
}

/// What the kernel made of it, for the result.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// MAC of the sandbox end.
    pub mac: String,
    /// MAC of the host end.
    pub host_mac: String,
    /// MAC of the bridge.
    pub bridge_mac: String,
    /// Octets.
    pub mtu: u32,
}

/// sandbox × network × interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// Identity.
    pub key: AttachmentKey,
    /// The sandbox's namespace.
    pub netns: NetnsId,
    /// Its path as the caller gave it; for people and for the result.
    pub netns_path: String,
    /// How far it has come.
    pub state: State,
    /// Addresses held.
    pub leases: Vec<Lease>,
    /// `None` where only addresses are held (host-local called by a foreign main plugin).
    pub wiring: Option<Wiring>,
    /// Filled when wired.
    pub facts: Facts,
    /// Name given by whoever described it.
    pub name: String,
    /// Labels given by whoever described it.
    pub labels: BTreeMap<String, String>,
}
