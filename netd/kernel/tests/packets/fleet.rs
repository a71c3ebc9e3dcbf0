//! Nodes and others on one underlay, and the objects that connect a node with its peers.
//!
//! ```text
//! 192.0.2.<number>, 2001:db8::<number>   on the wire; a node's number is also its site
//! 10.4.<2 × number>.0/24, fd00:<2 × number>::/64   the node's block of the fleet, on its br0; that on br1 is its own
//! ```

use std::fs;
use std::io::Write;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use netd_kernel::{Entrance, Family, Hop, Kernel, KernelError, Key, Object, Objects, Tunnel, plan};

use crate::node::{Node, ip, net};
use crate::space::{Heard, Space};

pub(crate) const PORT: u16 = 4_789;
/// Of tunnels.
pub(crate) const MTU: u32 = 1_400;
/// A block that nobody has.
pub(crate) const NOBODY: u8 = 10;

/// The underlay.
pub(crate) struct Wire(Space);

impl Wire {
    pub(crate) fn new() -> Self {
        let space = Space::new();
        space.output("ip link add wire type bridge");
        space.output("ip link set wire up");
        space.output("ip addr add 192.0.2.254/24 dev wire");
        space.output("ip link set lo up");
        Self(space)
    }

    /// Somebody there who knows the way to the fleet's addresses, by node 1.
    pub(crate) fn neighbour(&self, number: u8) -> Space {
        let space = Space::new();
        self.plug(&space, number);
        space.output("ip route add 10.4.0.0/16 via 192.0.2.1");
        space.output("ip route add fd00::/16 via 2001:db8::1");
        space
    }

    fn plug(&self, space: &Space, number: u8) {
        self.0.output(&format!("ip link add p{number} type veth peer name eth0 netns {}", space.path()));
        self.0.output(&format!("ip link set p{number} master wire up"));
        // Neighbours are asked for from the link-local address: it is tried out for a second or two.
        let tries = ["all", "eth0"].map(|name| format!("/proc/sys/net/ipv6/conf/{name}/accept_dad"));
        space.run(move || tries.iter().for_each(|path| fs::write(path, "0").unwrap()));
        space.output(&format!("ip addr add 192.0.2.{number}/24 brd + dev eth0"));
        space.output(&format!("ip addr add 2001:db8::{number}/64 dev eth0 nodad"));
        space.output("ip link set lo up");
        space.output("ip link set eth0 up");
        // A carrier that has just come is looked at once a second, at either end.
        while !space.output("ip -6 addr show dev eth0 scope link").contains("fe80") {}
        while space.tcp(underlay(Family::V4, 254), 9) != Heard::Refusal {}
    }

    /// A node whose default route leads to neighbour 9. Its ruleset knows what is the fleet's; it has no peers yet.
    pub(crate) fn node(&self, number: u8, path: Path) -> Node {
        let node = Node::at(number, false);
        self.plug(&node.space, number);
        node.space.output("ip route add default via 192.0.2.9");
        node.space.output("ip route add default via 2001:db8::9");
        let mut objects: Objects =
            (1..=4).chain([NOBODY]).flat_map(block).map(|net| (Key::Inside(net), Object::Set)).collect();
        objects.insert(Key::Connected, Object::Set);
        objects.extend(block(NOBODY).map(|net| (Key::Route(net), Object::from(Hop::Nowhere))));
        objects.extend(path.tunnel(number));
        node.apply(plan(&objects, &Objects::new()));
        node
    }
}

/// The address on the wire.
pub(crate) fn underlay(family: Family, number: u8) -> IpAddr {
    match family {
        Family::V4 => [192, 0, 2, number].into(),
        Family::V6 => ip(&format!("2001:db8::{number}")),
    }
}

pub(crate) fn block(number: u8) -> [IpNet; 2] {
    let subnet = 2 * number;
    [net(&format!("10.4.{subnet}.0/24")), net(&format!("fd00:{subnet}::/64"))]
}

/// An address of a node's block, in the order of [`block`].
pub(crate) fn addresses(number: u8, last: u8) -> [IpAddr; 2] {
    let subnet = 2 * number;
    [ip(&format!("10.4.{subnet}.{last}")), ip(&format!("fd00:{subnet}::{last}"))]
}

/// From which a node itself sends by its tunnel. The first IPv6 address of a subnet is all routers' (RFC 4291, 2.6.1).
pub(crate) fn tunnel_addresses(number: u8) -> [IpAddr; 2] {
    [addresses(number, 0)[0], addresses(number, 99)[1]]
}

/// How packets get to a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Path {
    Direct,
    Ipip,
    /// Over an underlay of this version.
    Vxlan(Family),
}

impl Path {
    /// Whether this kernel has it. Where it has not, that is said past the test harness.
    pub(crate) fn is_there(self) -> bool {
        if self != Self::Ipip {
            return true;
        }
        let node = Node::new(false);
        let kernel = Arc::clone(&node.kernel);
        let steps = plan(&self.tunnel(1), &Objects::new());
        let Err(error) = node.space.run(move || kernel.apply(&steps, None)) else { return true };
        assert!(matches!(error.source, KernelError::NoTunnels { .. }), "{error:?}");
        let mut stderr = std::io::stderr();
        writeln!(stderr, "SKIPPED ipip: this kernel has none").unwrap();
        false
    }

    /// The versions that it carries.
    pub(crate) fn carries(self, to: IpAddr) -> bool {
        to.is_ipv4() || self != Self::Ipip
    }

    /// A node's end, from whose addresses the node itself sends.
    fn tunnel(self, number: u8) -> Objects {
        let entrance = match self {
            Self::Direct => return Objects::new(),
            Self::Ipip => Entrance::Ipip([192, 0, 2, number].into()),
            Self::Vxlan(family) => Entrance::Vxlan(underlay(family, number), PORT),
        };
        let addresses = tunnel_addresses(number).into_iter().filter(|address| self.carries(*address)).collect();
        let tunnel = Object::Tunnel(Tunnel { entrance, mtu: MTU, addresses });
        Objects::from([(Key::PeersOnly(entrance), Object::Set), (Key::Tunnel(entrance.encapsulation()), tunnel)])
    }

    /// What leads to a peer.
    pub(crate) fn peer(self, number: u8) -> Objects {
        let [v4, v6] = [Family::V4, Family::V6].map(|family| underlay(family, number));
        let mut objects = Objects::from([v4, v6].map(|address| (Key::Peer(address), Object::Set)));
        if let Self::Vxlan(family) = self {
            objects.insert(Key::FarEnd(underlay(family, number)), Object::Set);
        }
        for net in block(number).into_iter().filter(|net| self.carries(net.addr())) {
            let hop = match self {
                Self::Direct => Hop::Direct(if net.addr().is_ipv4() { v4 } else { v6 }),
                Self::Ipip => Hop::Ipip([192, 0, 2, number].into()),
                Self::Vxlan(family) => Hop::Vxlan(underlay(family, number)),
            };
            objects.insert(Key::Route(net), Object::from(hop));
        }
        objects
    }
}
