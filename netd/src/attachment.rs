//! What netd remembers of one attachment. Plain data; decisions about it are in `node`.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::SystemTime;

use ipnet::IpNet;
use netd_config::{ContainerId, LinkName, NetworkName, PortMapping};
use netd_kernel::{LinkSettings, Mac, NetnsId, Publication, Route, Vlans, link_local_of};
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

/// How an attachment is wired to the node: by a port of a bridge, or routed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wiring {
    /// Name of the host end; never reused within a boot.
    pub host_link: LinkName,
    /// The bridge it is a port of; `None`: it is routed.
    pub bridge: Option<LinkName>,
    /// Gateway addresses that the bridge, or its gateway link, carries for this attachment's network; of a routed one, its
    /// own host end.
    pub gateways: Vec<IpNet>,
    /// The bridge keeps VLANs apart.
    #[serde(default)]
    pub filters_vlans: bool,
    /// The port's VLANs, where they are not the kernel's default.
    #[serde(default)]
    pub vlans: Option<Vlans>,
    /// The link that the gateway of its VLAN is on; all sandboxes of the VLAN share it.
    #[serde(default)]
    pub gateway_link: Option<GatewayOf>,
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
    /// The sandbox end's link-local address is not tried out before it is used.
    #[serde(default)]
    pub quick_link_local: bool,
    /// What is sent beyond the bridge, or routed links, takes the node's address.
    pub ip_masq: bool,
    /// It sends by its own MAC and addresses only. Of a routed link that holds in any case.
    #[serde(default)]
    pub spoof_guarded: bool,
    /// The bridge, or the routed link, is fenced off from others that are.
    pub fenced: bool,
    /// Settings of the sandbox end, from `tuning`.
    pub tuned: LinkSettings,
}

/// Where the gateway of a bridge's VLAN is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatewayOf {
    /// The VLAN.
    pub vlan: u16,
    /// `<bridge>.<vlan>`.
    pub link: LinkName,
}

impl Wiring {
    /// The link by which what the sandbox sends comes to the node.
    #[must_use]
    pub fn home(&self) -> &LinkName {
        let gateway = self.gateway_link.as_ref().map(|gateway| &gateway.link);
        gateway.or(self.bridge.as_ref()).unwrap_or(&self.host_link)
    }

    /// The MAC of the sandbox end, where it is not left to the kernel.
    #[must_use]
    pub fn known_mac(&self) -> Option<Mac> {
        self.tuned.mac.or(self.mac)
    }

    /// As [`Wiring::home`], of one that is a port of a bridge.
    #[must_use]
    pub fn shared_home(&self) -> Option<&LinkName> {
        self.bridge.is_some().then(|| self.home())
    }
}

/// What the kernel made of it, for the result.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// MAC of the sandbox end.
    pub mac: String,
    /// MAC of the host end.
    pub host_mac: String,
    /// MAC of the bridge; empty where there is none.
    pub bridge_mac: String,
    /// MAC of the VLAN's gateway link; empty where there is none.
    #[serde(default)]
    pub gateway_mac: String,
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
    /// `None` where only addresses are held (host-local called by a foreign main plugin), or only ports are published.
    pub wiring: Option<Wiring>,
    /// Addresses that a foreign main plugin gave to the interface; published ports lead there.
    pub foreign: Vec<IpAddr>,
    /// Published ports.
    pub ports: Vec<PortMapping>,
    /// Filled when wired.
    pub facts: Facts,
    /// Name given by whoever described it.
    pub name: String,
    /// Labels given by whoever described it.
    pub labels: BTreeMap<String, String>,
    /// Namespace given by whoever described it: the pod's, or the container runtime's.
    #[serde(default)]
    pub namespace: String,
    /// The image given by whoever described it.
    #[serde(default)]
    pub image: String,
    /// Whose word name, namespace, labels and image are.
    #[serde(default)]
    pub label_state: LabelState,
    /// No packet passes until the labels are said.
    #[serde(default)]
    pub quarantined: bool,
    /// A network that an annotation named: no CNI call will ever detach it, so it goes with the container's others.
    #[serde(default)]
    pub extra: bool,
}

/// Whether a container's labels are known.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum LabelState {
    /// The door has none (podman, Nomad, BuildKit): the empty set is the whole truth.
    #[default]
    None,
    /// Said.
    Known {
        /// By whom.
        source: String,
    },
    /// To be said.
    Pending {
        /// By whom.
        source: String,
        /// When it should have been.
        due: SystemTime,
    },
}

/// What a container is, to people and to policies.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Description {
    /// Its name.
    pub name: String,
    /// The pod's namespace, or the container runtime's.
    pub namespace: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its image, where its record has one.
    pub image: String,
    /// Whose word this is.
    pub state: LabelState,
}

impl Description {
    /// The state of its labels before they are recorded.
    #[must_use]
    pub fn awaited(&self, now: SystemTime) -> LabelState {
        match &self.state {
            LabelState::Known { source } => LabelState::Pending { source: source.clone(), due: now },
            LabelState::Pending { .. } | LabelState::None => self.state.clone(),
        }
    }
}

impl Attachment {
    /// Takes a description. What is known stays known while somebody else is still to be heard.
    pub fn describe(&mut self, description: &Description) {
        let known = matches!(self.label_state, LabelState::Known { .. });
        if known && !matches!(description.state, LabelState::Known { .. }) {
            return;
        }
        self.name.clone_from(&description.name);
        self.namespace.clone_from(&description.namespace);
        self.labels.clone_from(&description.labels);
        self.image.clone_from(&description.image);
        self.label_state.clone_from(&description.state);
    }

    /// Takes what `now` has of the container, and whether that holds it back.
    pub fn keep_word_of(&mut self, now: &Self) {
        self.name.clone_from(&now.name);
        self.namespace.clone_from(&now.namespace);
        self.labels.clone_from(&now.labels);
        self.image.clone_from(&now.image);
        self.label_state.clone_from(&now.label_state);
        self.quarantined = now.quarantined;
    }

    /// Whether somebody is still to say the labels.
    #[must_use]
    pub fn is_pending(&self) -> bool {
        matches!(self.label_state, LabelState::Pending { .. })
    }

    /// Goes into quarantine, stays in it or leaves it. `holds`: a container without its labels passes no packet. Where
    /// another plugin made the interface, netd has nothing to hold back.
    pub fn quarantine(&mut self, holds: bool) {
        self.quarantined = holds && self.is_pending() && self.wiring.is_some();
    }

    /// The addresses of the interface, whoever gave them.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.leases.iter().map(|lease| lease.address.addr()).chain(self.foreign.iter().copied())
    }

    /// The address that the kernel makes of the interface's MAC, where neighbours on a bridge reach it by that. A guarded port
    /// sends by no other of its kind.
    #[must_use]
    pub fn link_local(&self) -> Option<IpAddr> {
        let wiring = self.wiring.as_ref().filter(|wiring| wiring.bridge.is_some())?;
        wiring.known_mac().map(link_local_of)
    }

    /// Each published port with where it leads: the first address of each family, as the `portmap` plugin does it. A
    /// host address of another family is passed over.
    #[must_use]
    pub fn publications(&self) -> Vec<(Publication, SocketAddr)> {
        let first = |v4: bool| self.addresses().find(|address| address.is_ipv4() == v4);
        let mut publications = Vec::new();
        for target in [first(true), first(false)].into_iter().flatten() {
            for port in &self.ports {
                let any = if target.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
                let address = port.host_ip.unwrap_or(any);
                if address.is_ipv4() == target.is_ipv4() {
                    let publication = Publication { address, protocol: port.protocol, port: port.host };
                    publications.push((publication, SocketAddr::new(target, port.container)));
                }
            }
        }
        publications
    }
}
