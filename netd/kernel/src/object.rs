//! The vocabulary of the seam: kernel objects, their keys, and the steps between two states. No system call is here.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use netd_config::{LinkName, Protocol};
use serde::{Deserialize, Serialize};

mod fabric;
mod part;
mod policy;
mod vlan;

pub use fabric::{Encapsulation, Entrance, Hop, NextHop, Tunnel, VXLAN_PORT, mac_of_end};
pub use part::Part;
pub use policy::{Class, Decision, Direction, Flow, Profile, Reach, Service, Span, profile};
pub use vlan::{DEFAULT_VLAN, GatewayLink, LAST_VLAN, VlanRange, Vlans};

/// A MAC address.
pub type Mac = [u8; 6];

/// The IPv6 address that the kernel makes of a link's MAC (RFC 4291, appendix A).
#[must_use]
pub fn link_local_of([a, b, c, d, e, f]: Mac) -> IpAddr {
    IpAddr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f])
}

/// A network namespace by identity, never by path: the netns cookie (`SO_NETNS_COOKIE`, Linux 5.14), unique within a boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NetnsId(pub u64);

/// Names one kernel object. Declaration order is dependency order: created downwards, deleted upwards.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Key {
    /// A bridge in the node's namespace.
    Bridge(LinkName),
    /// The link that the gateway of a bridge's VLAN is on. Of a veth pair one end is the object; it goes with its other end.
    GatewayLink(LinkName),
    /// What is bridged there passes the rules too, as if it were forwarded.
    Filtered(LinkName),
    /// The fixed part of our nftables: tables, chains, rules, empty sets. The keys from here to `Published` fill its sets.
    Ruleset,
    /// `net.ipv4.ip_forward` or `net.ipv6.conf.all.forwarding`.
    Forwarding(Family),
    /// What is refused is dropped without an answer.
    DropSilently(Family),
    /// Of an address' new flows in this direction, only those pass that are allowed. It stands before what allows, and goes
    /// after it.
    Isolated(Direction, Reach, IpAddr),
    /// No multicast and no broadcast of other ports gets to the port, but for what addresses and groups are found by.
    NoFlood(LinkName),
    /// A bridge port sends nothing but what its [`Key::PortMac`]s and [`Key::PortAddress`] addresses may.
    Guarded(LinkName),
    /// Of a guarded port, frames with a VLAN's tag pass, by its own MAC and whatever addresses; of others they do not.
    Trunk(LinkName),
    /// What one address sends to the other, of the same family, passes: both are one sandbox's, which reaches itself by a
    /// port of the node.
    Hairpin(IpAddr, IpAddr),
    /// Who an address is to policies.
    Class(IpAddr),
    /// Who the addresses from one to another (both in it) are that are nobody by themselves. Blocks do not overlap.
    Block(IpAddr, IpAddr),
    /// A part of a profile.
    Span(Span),
    /// Which profile decides what a class of peers (or any other peer) sends to a class of subjects, or gets from it.
    Pair(Direction, Class, Option<Class>),
    /// A MAC that a guarded port may have, with the link-local address that the kernel makes of it.
    PortMac(LinkName, Mac),
    /// An address that a guarded port may have with this MAC.
    PortAddress(LinkName, Mac, IpAddr),
    /// The ruleset knows the bridge as ours.
    Admitted(LinkName),
    /// Sandboxes of other fenced bridges and routed links do not reach those of this one (`ingressPolicy` `same-bridge` and
    /// `isolated`).
    Fenced(LinkName),
    /// There are other nodes: UDP at [`VXLAN_PORT`] is asked what holds by tunnels. What is encapsulated is guarded only with
    /// it: it is the first of a fleet's to stand, and the last to go.
    Connected,
    /// A peer's address, from which encapsulated packets pass.
    Peer(IpAddr),
    /// Encapsulated packets to here pass from peers only, and never from a sandbox. It stands before its tunnel, and goes
    /// after it.
    PeersOnly(Entrance),
    /// A range of the fleet: what goes from one of them to one of them is not masqueraded. Ranges do not overlap.
    Inside(IpNet),
    /// What this address sends beyond its own bridge, or routed links, takes the node's address.
    Masquerade(IpAddr, LinkName),
    /// A port of the node that leads to a sandbox.
    Published(Publication),
    /// The tunnel device of this kind; a node has one of each.
    Tunnel(Encapsulation),
    /// Where the VXLAN tunnel ends at this peer: a neighbour and a forwarding entry. It goes with the tunnel.
    FarEnd(IpAddr),
    /// The route to what others of the fleet have, with our protocol number. One by a tunnel goes with it.
    Route(IpNet),
    /// The host end of a veth pair. Deleting it removes the sandbox end too, so only the host end is an object.
    Veth(LinkName),
    /// A gateway address, alone in its prefix, on the host end of a routed veth. It goes with the veth.
    Gateway(LinkName, IpAddr),
    /// The route by a routed veth to its sandbox's address, with our protocol number. It is the veth's door: what the sandbox
    /// sends passes only while a route leads back. To an address there is one way. It goes with the veth.
    SandboxRoute(LinkName, IpAddr),
    /// The sandbox end: addresses, routes, link up. Last, so that everything stands before the first packet.
    Interface(NetnsId, LinkName),
}

/// Where a port is published. An unspecified address stands for all addresses of its family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Publication {
    /// Of the node.
    pub address: IpAddr,
    /// Transport.
    pub protocol: Protocol,
    /// On the node.
    pub port: u16,
}

impl fmt::Display for Publication {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", SocketAddr::new(self.address, self.port), self.protocol)
    }
}

/// An address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Of this address.
    #[must_use]
    pub const fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }
}

/// What a key's object should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Object {
    /// The ruleset's mark: two rulesets with the same mark are the same.
    Ruleset(u64),
    /// Forwarding is on. `guarded`: netd switched it on, so only what comes from or goes to our bridges is forwarded.
    Forwarding {
        /// Whether others' packets are dropped.
        guarded: bool,
    },
    /// It is so; there is no more to say.
    Set,
    /// Where a published port leads.
    Target(SocketAddr),
    /// Who it is.
    Class(Class),
    /// What is decided.
    Decision(Decision),
    /// By which profile.
    Profile(Profile),
    /// See [`Bridge`].
    Bridge(Bridge),
    /// See [`GatewayLink`].
    GatewayLink(GatewayLink),
    /// See [`Tunnel`].
    Tunnel(Tunnel),
    /// See [`NextHop`].
    NextHop(NextHop),
    /// See [`Veth`].
    Veth(Veth),
    /// See [`Interface`].
    Interface(Interface),
}

/// A bridge. `None` in an optional field leaves that property alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bridge {
    /// Gateway addresses, each with its prefix.
    pub addresses: Vec<IpNet>,
    /// Octets; `None` keeps the kernel's default.
    pub mtu: Option<u32>,
    /// Promiscuous mode.
    pub promisc: bool,
    /// Frames pass between ports of the same VLAN only. Ports that nobody gave a VLAN, and the bridge itself, are in VLAN 1.
    /// It is never switched off.
    #[serde(default)]
    pub vlan_filtering: bool,
}

/// A veth pair seen from the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Veth {
    /// The bridge it is a port of; `None`: it is routed.
    pub bridge: Option<LinkName>,
    /// The namespace and name of the sandbox end.
    pub peer: (NetnsId, LinkName),
    /// MAC address of the sandbox end; `None` lets the kernel choose.
    pub peer_mac: Option<[u8; 6]>,
    /// Octets, both ends; `None` keeps the kernel's default.
    pub mtu: Option<u32>,
    /// Bridge port flag: frames may leave by the port they came in on.
    pub hairpin: bool,
    /// Bridge port flag: no frames between two isolated ports.
    pub isolated: bool,
    /// The VLANs it is in as a port; `None`: those that the kernel gives every port. Read back where the bridge filters.
    #[serde(default)]
    pub vlans: Option<Vlans>,
    /// Whether it passes packets; one that is draining or in quarantine does not. A routed veth cannot be closed, only down.
    pub port: Port,
}

/// Whether a veth passes packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Port {
    /// Passes packets.
    Open,
    /// `IFLA_BRPORT_STATE` = disabled: no packet either way, at 0.3 ms instead of a deletion's 20. It does not last: the
    /// sandbox switches its end off and on, and the kernel opens the port again.
    Closed,
    /// The host end is down: no packet either way, whatever is done to the sandbox end.
    Down,
}

/// The sandbox end of a veth.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// Addresses with their prefix. The kernel makes a route for each prefix that `routes` does not name.
    pub addresses: Vec<IpNet>,
    /// Routes, in the order to add them.
    pub routes: Vec<Route>,
    /// `net.*` sysctls of the namespace, dots in names, written before the link goes up.
    pub sysctls: BTreeMap<String, String>,
    /// Set before the link goes up.
    pub settings: LinkSettings,
    /// The link-local address works at once, without being tried out first. The kernel makes it otherwise.
    pub quick_link_local: bool,
}

/// Settings of a link; those that are absent are left alone.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkSettings {
    /// MAC address.
    pub mac: Option<[u8; 6]>,
    /// Octets.
    pub mtu: Option<u32>,
    /// Promiscuous mode is on.
    pub promisc: bool,
    /// All multicast is received.
    pub all_multicast: bool,
    /// Packets in the transmit queue.
    pub queue_length: Option<u32>,
    /// It does not go up.
    #[serde(default)]
    pub stays_down: bool,
}

/// One route in a sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Destination.
    pub destination: IpNet,
    /// Next hop; `None` is a route on the link.
    pub gateway: Option<IpAddr>,
    /// The sender's address, where there is a choice.
    #[serde(default)]
    pub source: Option<IpAddr>,
}

/// All objects of a node, or of a part of it.
pub type Objects = BTreeMap<Key, Object>;

/// One change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Step {
    /// The object is absent and should be there.
    Create(Key, Object),
    /// The object is there and differs. A change is one step, never delete and create.
    Replace(Key, Object),
    /// The object should be absent. Absent already is success.
    Delete(Key),
}

impl Step {
    /// Which object it is about.
    #[must_use]
    pub fn key(&self) -> &Key {
        let (Self::Create(key, _) | Self::Replace(key, _) | Self::Delete(key)) = self;
        key
    }
}
