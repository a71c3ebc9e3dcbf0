//! One plugin entry of a chain, typed. Every official type is known; those that netd does not run say so.

mod limits;
mod plugins;
mod vlan;

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use crate::arguments::Arguments;
use crate::ipam::{self, HostLocal, Ipam, StaticIpam};
use crate::json::Object;
use crate::name::LinkName;
use crate::result::{Dns, dns};
pub(crate) use limits::unheeded;
#[cfg(test)]
pub(crate) use plugins::ALL;
use plugins::NOT_YET;
pub use plugins::{knows_plugin, runs_plugin};
pub use vlan::BridgeVlans;

/// One plugin entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stanza {
    /// `bridge`, and netd's own name for it, `netd`.
    Bridge(Box<Bridge>),
    /// `ptp`.
    Ptp(Box<Ptp>),
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
    /// A type that netd is to run and does not yet.
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
    /// VLANs of the port.
    pub vlans: BridgeVlans,
    /// The port sends by its own MAC only, whatever the node's setting for all of them says.
    pub mac_spoof_check: bool,
    /// The sandbox end stays down.
    pub disable_container_interface: bool,
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

/// The `ptp` plugin's settings: a sandbox on a link of its own, reached by a route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ptp {
    /// What leaves the routed sandboxes takes the node's address.
    pub ip_masq: bool,
    /// Octets; `None` keeps the kernel's default.
    pub mtu: Option<u32>,
    /// MAC of the sandbox end (netd's own extension: the reference lets the kernel choose).
    pub mac: Option<[u8; 6]>,
    /// Addresses, each with a gateway.
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortMapping {
    /// On the node.
    pub host: u16,
    /// In the sandbox.
    pub container: u16,
    /// Transport.
    pub protocol: Protocol,
    /// Only on this address of the node; an unspecified one is all of its family, and `None` all of both: also where the
    /// stanza says `0.0.0.0`, and nothing of `::`.
    pub host_ip: Option<IpAddr>,
}

/// A transport protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// Its number in an IP header (IANA protocol numbers).
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }

    /// The protocol with this number, if ports of it can be published.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        [Self::Tcp, Self::Udp, Self::Sctp].into_iter().find(|protocol| protocol.number() == number)
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        })
    }
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
    /// Sysctls below `net.`; `IFNAME` stands for the interface.
    pub sysctl: BTreeMap<String, String>,
    /// MAC of the sandbox end.
    pub mac: Option<[u8; 6]>,
    /// Octets.
    pub mtu: Option<u32>,
    /// Promiscuous mode.
    pub promisc: bool,
    /// All multicast is received.
    pub all_multicast: bool,
    /// Packets in the transmit queue.
    pub queue_length: Option<u32>,
}

impl Tuning {
    /// Whether there is nothing to do; nerdctl and podman always add such a stanza.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Reads the stanza of type `kind`. `None`: the mistakes say why.
pub(crate) fn parse(kind: &str, root: &Object<'_>, arguments: &Arguments) -> Option<Stanza> {
    Some(match kind {
        "bridge" | "netd" => Stanza::Bridge(Box::new(bridge(root, arguments)?)),
        "ptp" => Stanza::Ptp(Box::new(ptp(root, arguments)?)),
        "loopback" => Stanza::Loopback,
        "host-local" | "static" => match ipam::parse(root, arguments) {
            Ipam::HostLocal(ipam) => Stanza::HostLocal(ipam),
            Ipam::Static(ipam) => Stanza::Static(ipam),
            Ipam::None => {
                root.wrong("ipam", "missing; an IPAM plugin needs its settings there");
                return None;
            }
        },
        "portmap" => {
            limits::of_portmap(root);
            Stanza::Portmap(Portmap { ports: ports(root) })
        }
        "firewall" => {
            limits::of_firewall(root);
            Stanza::Firewall(Firewall { ingress_policy: ingress_policy(root) })
        }
        "tuning" => Stanza::Tuning(tuning(root, arguments)),
        // What nerdctl up to 0.17 wrote before `firewall` had the policy.
        "isolation" => Stanza::Firewall(Firewall { ingress_policy: IngressPolicy::SameBridge }),
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
    limits::of_interface(root);
    let (hairpin_mode, promisc_mode) = (root.flag("hairpinMode"), root.flag("promiscMode"));
    if hairpin_mode && promisc_mode {
        root.wrong("promiscMode", "cannot set hairpin mode and promiscuous mode at the same time; set one of them");
    }
    let is_default_gateway = root.flag("isDefaultGateway");
    let is_gateway = root.flag("isGateway") || is_default_gateway;
    let before = root.mistakes.count();
    let ipam = ipam::parse_led(root, arguments);
    let has_no_addresses = matches!(ipam, Ipam::None) && root.mistakes.count() == before;
    let (mac_spoof_check, disable_container_interface) =
        (root.flag("macspoofchk"), root.flag("disableContainerInterface"));
    if has_no_addresses && mac_spoof_check {
        let why = "the MAC of a sandbox whose addresses netd does not give is not watched; add ipam, or remove the key";
        root.wrong("macspoofchk", why);
    }
    if !matches!(ipam, Ipam::None) && disable_container_interface {
        let why = "cannot use IPAM when DisableContainerInterface flag is set; remove one of them";
        root.wrong("disableContainerInterface", why);
    }
    Some(Bridge {
        vlans: vlan::vlans(root, name, is_gateway),
        mac_spoof_check,
        disable_container_interface,
        is_gateway,
        is_default_gateway,
        force_address: root.flag("forceAddress"),
        ip_masq: root.flag("ipMasq"),
        hairpin_mode,
        promisc_mode,
        port_isolation: root.flag("portIsolation"),
        enabledad: root.flag("enabledad"),
        mtu: root.number("mtu").filter(|mtu| *mtu != 0),
        mac: mac(root, arguments),
        ipam,
        dns: own_dns(root),
        ports: ports(root),
        ingress_policy: ingress_policy(root),
        bridge: bridge?,
    })
}

fn ptp(root: &Object<'_>, arguments: &Arguments) -> Option<Ptp> {
    limits::of_interface(root);
    let before = root.mistakes.count();
    let ipam = ipam::parse_led(root, arguments);
    match &ipam {
        // What is wrong in the section has been said.
        Ipam::None if root.mistakes.count() > before => return None,
        Ipam::None => {
            root.wrong("ipam", "missing; a routed sandbox needs an address: use \"host-local\" or \"static\"");
            return None;
        }
        Ipam::HostLocal(_) => {}
        Ipam::Static(fixed) => {
            fixed.addresses.iter().filter(|(_, gateway)| gateway.is_none()).for_each(|(address, _)| {
                let message = format!("{address} has no gateway, and a routed sandbox reaches all by it; name one");
                root.wrong("ipam.addresses", message);
            })
        }
    }
    Some(Ptp {
        ip_masq: root.flag("ipMasq"),
        mtu: root.number("mtu").filter(|mtu| *mtu != 0),
        mac: mac(root, arguments),
        ipam,
        dns: own_dns(root),
        ports: ports(root),
        ingress_policy: ingress_policy(root),
    })
}

fn own_dns(root: &Object<'_>) -> Option<Dns> {
    root.object("dns").map(|object| dns(&object)).filter(|dns| *dns != Dns::default())
}

/// `runtimeConfig.mac`, else `args.cni.mac`, else `MAC` of `CNI_ARGS`.
fn mac(root: &Object<'_>, arguments: &Arguments) -> Option<[u8; 6]> {
    let given = |object: Option<Object<'_>>| said(object?.string("mac")).map(str::to_owned);
    let text = given(root.object("runtimeConfig")).or_else(|| given(cni(root))).or_else(|| arguments.mac.clone());
    read_mac(root, said(text.as_deref())?)
}

/// What a caller says to this plugin alone (CNI's conventions, `args`).
fn cni<'a>(root: &Object<'a>) -> Option<Object<'a>> {
    root.object("args").and_then(|args| args.object("cni"))
}

/// An empty text says nothing.
fn said(text: Option<&str>) -> Option<&str> {
    text.filter(|text| !text.is_empty())
}

fn read_mac(root: &Object<'_>, text: &str) -> Option<[u8; 6]> {
    let octets: Vec<u8> = text.split([':', '-']).filter_map(|octet| u8::from_str_radix(octet, 16).ok()).collect();
    let parsed = octets.try_into().ok().filter(|_| text.len() == 17);
    if parsed.is_none() {
        root.wrong("mac", format!("{text:?} is no MAC address; write it as 02:42:ac:11:00:02"));
    }
    parsed
}

fn ports(root: &Object<'_>) -> Vec<PortMapping> {
    let Some(capability) = root.object("runtimeConfig") else { return Vec::new() };
    let mut ports: Vec<PortMapping> = Vec::new();
    for entry in &capability.objects("portMappings") {
        let Some(port) = port(entry) else { continue };
        let clash = ports.iter().find(|other| other.container != port.container && is_one_port(other, &port));
        if let Some(other) = clash {
            let message = format!(
                "{}/{} is published twice, for ports {} and {} of the container; publish them at two ports",
                port.host, port.protocol, other.container, port.container
            );
            entry.wrong("hostPort", message);
        } else if !ports.contains(&port) {
            ports.push(port);
        }
    }
    let all = ports.clone();
    ports.iter_mut().for_each(|port| port.host_ip = port.host_ip.filter(|_| !is_unsaid(port, &all)));
    ports.iter().filter(|port| !is_covered(port, &ports)).cloned().collect()
}

/// nerdctl writes `0.0.0.0` where its user names no address, and means all of them: it is of IPv4 alone only beside an entry
/// for all of IPv6. The reference takes it for IPv4 always.
fn is_unsaid(port: &PortMapping, all: &[PortMapping]) -> bool {
    let at_v6 = |one: &PortMapping| {
        one.host_ip == Some(Ipv6Addr::UNSPECIFIED.into()) && (one.host, one.protocol) == (port.host, port.protocol)
    };
    port.host_ip == Some(Ipv4Addr::UNSPECIFIED.into()) && !all.iter().any(at_v6)
}

/// Whether a connection to one may be a connection to the other, and neither is for a single address alone.
fn is_one_port(one: &PortMapping, other: &PortMapping) -> bool {
    let is_any = |place: Option<IpAddr>| place.is_none_or(|address| address.is_unspecified());
    let (place, place_of_other) = (one.host_ip, other.host_ip);
    let is_everywhere = place.is_none() || place_of_other.is_none();
    let is_same = place == place_of_other || (is_everywhere && is_any(place) && is_any(place_of_other));
    (one.host, one.protocol) == (other.host, other.protocol) && is_same
}

/// Whether another entry says the same of both families.
fn is_covered(port: &PortMapping, ports: &[PortMapping]) -> bool {
    let is_any = port.host_ip.is_some_and(|address| address.is_unspecified());
    is_any && ports.contains(&PortMapping { host_ip: None, ..port.clone() })
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
    let host_ip = entry.parsed("hostIP", "an address");
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

/// `args.cni` has the last word on each of its keys, ahead of the capability `mac` too, and takes away with 0, false and an
/// empty text (containernetworking/plugins, tuning). Of sysctls it replaces those that it names.
fn tuning(root: &Object<'_>, arguments: &Arguments) -> Tuning {
    let last = cni(root);
    let of = |key: &str| last.as_ref().filter(|last| last.value(key).is_some()).unwrap_or(root);
    let sysctl = [Some(root), last.as_ref()].into_iter().flatten().filter_map(|object| object.object("sysctl"));
    Tuning {
        sysctl: sysctl.flat_map(|sysctl| sysctls(&sysctl)).collect(),
        mac: tuned_mac(root, last.as_ref(), arguments),
        mtu: of("mtu").number("mtu").filter(|mtu| *mtu != 0),
        promisc: of("promisc").flag("promisc"),
        all_multicast: of("allmulti").flag("allmulti"),
        queue_length: of("txQLen").number("txQLen"),
    }
}

/// `args.cni.mac`, else `runtimeConfig.mac`, else `MAC` of `CNI_ARGS`, else the stanza's own.
fn tuned_mac(root: &Object<'_>, last: Option<&Object<'_>>, arguments: &Arguments) -> Option<[u8; 6]> {
    let own = || said(arguments.mac.as_deref()).or_else(|| root.string("mac"));
    let capability = root.object("runtimeConfig").and_then(|object| said(object.string("mac")));
    let text = last.and_then(|last| last.string("mac")).or(capability).or_else(own);
    read_mac(root, said(text)?)
}

fn sysctls(object: &Object<'_>) -> BTreeMap<String, String> {
    let mut sysctls = BTreeMap::new();
    for (key, value) in object.entries() {
        let name = key.replace('/', ".");
        match value.as_str() {
            Some(text) if name.starts_with("net.") && !name.contains("..") => {
                sysctls.insert(name, text.to_owned());
            }
            Some(_) => object.wrong(key, "only sysctls below net. belong to a network"),
            None => object.wrong(key, format!("{value} is not a string; put it in quotes")),
        }
    }
    sysctls
}
