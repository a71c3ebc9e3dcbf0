//! One plugin entry of a chain, typed. Every official type is known; those that netd does not run say so.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::arguments::Arguments;
use crate::ipam::{self, HostLocal, Ipam, StaticIpam};
use crate::json::Object;
use crate::name::LinkName;
use crate::result::{Dns, dns};

/// One plugin entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stanza {
    /// `bridge`, and netd's own name for it, `netd`.
    Bridge(Box<Bridge>),
    /// `loopback`.
    Loopback,
    /// `host-local` called by itself.
    HostLocal(HostLocal),
    /// `static` called by itself.
    Static(StaticIpam),
    /// `portmap`.
    Portmap(Portmap),
    /// `firewall`.
    Firewall(Firewall),
    /// `tuning`.
    Tuning(Tuning),
    /// An official type that netd does not run yet.
    NotYet {
        /// The type's name.
        kind: String,
    },
}

/// The `bridge` plugin's settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bridge {
    /// The bridge's name.
    pub bridge: LinkName,
    /// The bridge carries the gateway addresses.
    pub is_gateway: bool,
    /// The sandbox gets a default route.
    pub is_default_gateway: bool,
    /// A different gateway address on the bridge is replaced.
    pub force_address: bool,
    /// What leaves the network takes the node's address.
    pub ip_masq: bool,
    /// Frames may leave by the port they came in on.
    pub hairpin_mode: bool,
    /// Promiscuous mode of the bridge.
    pub promisc_mode: bool,
    /// No frames between two isolated ports.
    pub port_isolation: bool,
    /// Duplicate address detection inside the sandbox.
    pub enabledad: bool,
    /// Octets; `None` keeps the kernel's default.
    pub mtu: Option<u32>,
    /// MAC of the sandbox end.
    pub mac: Option<[u8; 6]>,
    /// Addresses.
    pub ipam: Ipam,
    /// Overrides IPAM's.
    pub dns: Option<Dns>,
    /// Published ports (netd's own extension: in the reference only `portmap` takes them).
    pub ports: Vec<PortMapping>,
    /// Who may come in (netd's own extension: in the reference only `firewall` takes it).
    pub ingress_policy: IngressPolicy,
}

/// The `portmap` plugin's settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Portmap {
    /// Published ports.
    pub ports: Vec<PortMapping>,
}

/// One published port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortMapping {
    /// On the node.
    pub host: u16,
    /// In the sandbox.
    pub container: u16,
    /// Transport.
    pub protocol: Protocol,
    /// Only on this address of the node.
    pub host_ip: Option<IpAddr>,
}

/// A transport protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

/// The `firewall` plugin's settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Firewall {
    /// Who may come in.
    pub ingress_policy: IngressPolicy,
}

/// `ingressPolicy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IngressPolicy {
    /// Everybody.
    Open,
    /// Only the same bridge, of all bridges with a policy.
    SameBridge,
    /// Nobody on the same bridge either.
    Isolated,
}

/// The `tuning` plugin's settings.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tuning {
    /// Sysctls below `net.`.
    pub sysctl: BTreeMap<String, String>,
    /// Whether anything else is set.
    pub others: bool,
}

impl Tuning {
    /// Whether there is nothing to do; nerdctl and podman always add such a stanza.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sysctl.is_empty() && !self.others
    }
}

const NOT_YET: [&str; 11] =
    ["ptp", "macvlan", "ipvlan", "vlan", "host-device", "dummy", "tap", "dhcp", "bandwidth", "sbr", "vrf"];

/// Reads the stanza of type `kind`. `None`: the mistakes say why.
pub(crate) fn parse(kind: &str, root: &Object<'_>, arguments: &Arguments) -> Option<Stanza> {
    Some(match kind {
        "bridge" | "netd" => Stanza::Bridge(Box::new(bridge(root, arguments)?)),
        "loopback" => Stanza::Loopback,
        "host-local" | "static" => match ipam::parse(root, arguments) {
            Ipam::HostLocal(ipam) => Stanza::HostLocal(ipam),
            Ipam::Static(ipam) => Stanza::Static(ipam),
            Ipam::None => {
                root.wrong("ipam", "missing; an IPAM plugin needs its settings there");
                return None;
            }
        },
        "portmap" => Stanza::Portmap(Portmap { ports: ports(root) }),
        "firewall" => Stanza::Firewall(Firewall { ingress_policy: ingress_policy(root) }),
        // The plugin that nerdctl up to 0.17 used for what became this policy; it has no keys.
        "isolation" => Stanza::Firewall(Firewall { ingress_policy: IngressPolicy::SameBridge }),
        "tuning" => Stanza::Tuning(tuning(root)),
        other if NOT_YET.contains(&other) => Stanza::NotYet { kind: other.to_owned() },
        other => {
            root.wrong(
                "type",
                format!("netd does not know plugin type {other:?}; keep its own binary in the plugin directory"),
            );
            return None;
        }
    })
}

fn bridge(root: &Object<'_>, arguments: &Arguments) -> Option<Bridge> {
    let name = root.string("bridge").filter(|name| !name.is_empty()).unwrap_or("cni0");
    let bridge = LinkName::new(name).map_err(|error| root.wrong("bridge", error.to_string())).ok();
    let (hairpin_mode, promisc_mode) = (root.flag("hairpinMode"), root.flag("promiscMode"));
    if hairpin_mode && promisc_mode {
        root.wrong("promiscMode", "cannot set hairpin mode and promiscuous mode at the same time; set one of them");
    }
    for key in ["vlan", "vlanTrunk"] {
        let asked = root.value(key).is_some_and(|value| value.as_u64() != Some(0));
        if asked {
            root.wrong(key, "netd does not filter VLANs yet; remove the key, or use the official plugin");
        }
    }
    for key in ["macspoofchk", "disableContainerInterface", "preserveDefaultVlan"] {
        if root.flag(key) {
            root.wrong(key, "netd does not do this yet; remove the key, or use the official plugin");
        }
    }
    let is_default_gateway = root.flag("isDefaultGateway");
    Some(Bridge {
        is_gateway: root.flag("isGateway") || is_default_gateway,
        is_default_gateway,
        force_address: root.flag("forceAddress"),
        ip_masq: root.flag("ipMasq"),
        hairpin_mode,
        promisc_mode,
        port_isolation: root.flag("portIsolation"),
        enabledad: root.flag("enabledad"),
        mtu: root.number("mtu").filter(|mtu| *mtu != 0),
        mac: mac(root, arguments),
        ipam: ipam::parse(root, arguments),
        dns: root.object("dns").map(|object| dns(&object)).filter(|dns| *dns != Dns::default()),
        ports: ports(root),
        ingress_policy: ingress_policy(root),
        bridge: bridge?,
    })
}

/// `runtimeConfig.mac`, else `args.cni.mac`, else `MAC` of `CNI_ARGS`.
fn mac(root: &Object<'_>, arguments: &Arguments) -> Option<[u8; 6]> {
    let capability = root.object("runtimeConfig").and_then(|object| object.string("mac").map(str::to_owned));
    let cni = root.object("args").and_then(|args| args.object("cni"));
    let text = capability.or_else(|| cni?.string("mac").map(str::to_owned)).or_else(|| arguments.mac.clone())?;
    let octets: Vec<u8> = text.split([':', '-']).filter_map(|octet| u8::from_str_radix(octet, 16).ok()).collect();
    let parsed = octets.try_into().ok().filter(|_| text.len() == 17);
    if parsed.is_none() {
        root.wrong("mac", format!("{text:?} is no MAC address; write it as 02:42:ac:11:00:02"));
    }
    parsed
}

fn ports(root: &Object<'_>) -> Vec<PortMapping> {
    let Some(capability) = root.object("runtimeConfig") else { return Vec::new() };
    capability.objects("portMappings").iter().filter_map(port).collect()
}

fn port(entry: &Object<'_>) -> Option<PortMapping> {
    let number = |key: &str, what: &str| {
        let value = entry.value(key).and_then(serde_json::Value::as_i64).unwrap_or_default();
        let port = u16::try_from(value).ok().filter(|port| *port != 0);
        if port.is_none() {
            entry.wrong(key, format!("Invalid {what} port number: {value}; use 1 to 65535"));
        }
        port
    };
    let (host, container) = (number("hostPort", "host"), number("containerPort", "container"));
    let protocol = match entry.string("protocol").unwrap_or("tcp").to_ascii_lowercase().as_str() {
        "tcp" | "" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        "sctp" => Protocol::Sctp,
        other => {
            entry.wrong("protocol", format!("{other:?} is no protocol to publish; use tcp, udp or sctp"));
            return None;
        }
    };
    let host_ip = entry.parsed::<IpAddr>("hostIP", "an address").filter(|address| !address.is_unspecified());
    Some(PortMapping { host: host?, container: container?, protocol, host_ip })
}

fn ingress_policy(root: &Object<'_>) -> IngressPolicy {
    match root.string("ingressPolicy").unwrap_or_default() {
        "" | "open" => IngressPolicy::Open,
        "same-bridge" => IngressPolicy::SameBridge,
        "isolated" => IngressPolicy::Isolated,
        other => {
            root.wrong("ingressPolicy", format!("{other:?} is no ingress policy; use open, same-bridge or isolated"));
            IngressPolicy::Isolated
        }
    }
}

fn tuning(root: &Object<'_>) -> Tuning {
    let mut tuning = Tuning::default();
    if let Some(sysctl) = root.object("sysctl") {
        for (key, value) in sysctl.entries() {
            let name = key.replace('/', ".");
            match value.as_str() {
                Some(text) if name.starts_with("net.") && !name.contains("..") => {
                    tuning.sysctl.insert(name, text.to_owned());
                }
                Some(_) => sysctl.wrong(key, "only sysctls below net. belong to a network"),
                None => sysctl.wrong(key, format!("{value} is not a string; put it in quotes")),
            }
        }
    }
    let capability = root.object("runtimeConfig").is_some_and(|object| object.string("mac").is_some());
    tuning.others = capability
        || root.flag("promisc")
        || root.flag("allmulti")
        || root.number("mtu").is_some_and(|mtu| mtu != 0)
        || root.number("txQLen").is_some()
        || root.string("mac").is_some_and(|mac| !mac.is_empty());
    tuning
}
