//! Two nodes on one wire, with a sandbox each, and the pair of sandboxes that is measured.

use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use super::{by_hand, by_netd};
use crate::case::Sandbox;
use crate::node::{Netd, Node};
use crate::policy::probe::Pair;
use crate::space::Space;

/// How packets get to the other node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    Direct,
    Vxlan,
    Ipip,
}

impl Way {
    pub(super) const ALL: [Self; 3] = [Self::Direct, Self::Vxlan, Self::Ipip];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Vxlan => "vxlan",
            Self::Ipip => "ipip",
        }
    }

    /// Octets of a packet that fits into a wire of 1,500.
    pub(super) const fn mtu(self) -> u32 {
        match self {
            Self::Direct => 1_500,
            Self::Vxlan => 1_450,
            Self::Ipip => 1_480,
        }
    }
}

/// Who makes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Maker {
    /// The daemon, with its ruleset in force and a published port.
    Netd,
    /// What the daemon made, and no table: links and routes alone.
    NetdBare,
    /// With no table.
    Hand,
    /// The same again: what differs between the two is the measurement's own.
    HandAgain,
}

impl Maker {
    pub(super) const ALL: [Self; 4] = [Self::Netd, Self::NetdBare, Self::Hand, Self::HandAgain];

    /// How it is called in the results.
    pub(super) fn case(self, way: Way) -> String {
        match self {
            Self::Netd => format!("netd-{}", way.name()),
            Self::NetdBare => format!("netd-{}-no-table", way.name()),
            Self::Hand => format!("ip-{}", way.name()),
            Self::HandAgain => format!("ip-{}-again", way.name()),
        }
    }
}

/// A node, number 1 or 2, that is to be connected with the other.
#[derive(Debug)]
pub(super) struct Site {
    pub(super) number: u8,
    pub(super) node: Node,
    pub(super) sandbox: Sandbox,
}

impl Site {
    pub(super) const fn peer(&self) -> u8 {
        3 - self.number
    }

    fn new(number: u8) -> Result<Self> {
        let (node, space) = (Node::fresh()?, Space::fresh()?);
        space.output("ip link set lo up")?;
        node.space.unfilter_bridges()?;
        Ok(Self { number, node, sandbox: Sandbox { number: number.into(), space } })
    }
}

/// On the wire.
pub(super) const fn underlay(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 0, 2, number)
}

/// Of a node's block.
pub(super) const fn inside(number: u8, last: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 4, number, last)
}

/// A pair of sandboxes, measured by turns.
#[derive(Debug)]
pub(super) struct Course {
    pub(super) name: String,
    pair: Pair,
    // Dropped last: the pair is attached there.
    _daemons: Vec<Netd>,
    _nodes: [Node; 2],
    _server: Space,
}

impl Course {
    /// Lays the way; fails where no packet passes.
    pub(super) fn new(program: &Path, way: Way, maker: Maker) -> Result<Self> {
        let name = maker.case(way);
        let sites = [Site::new(1)?, Site::new(2)?];
        wire(&sites)?;
        let mut daemons = Vec::new();
        for site in &sites {
            match maker {
                Maker::Netd => daemons.push(by_netd::make(program, site, way)?),
                Maker::NetdBare => {
                    drop(by_netd::make(program, site, way)?);
                    site.node.delete_tables()?;
                }
                Maker::Hand | Maker::HandAgain => by_hand::make(site, way)?,
            }
        }
        let [one, two] = sites;
        let pair = Pair::new(one.sandbox.space, &two.sandbox.space, inside(2, 2))
            .with_context(|| format!("{name}: no packet passes"))?;
        Ok(Self { name, pair, _daemons: daemons, _nodes: [one.node, two.node], _server: two.sandbox.space })
    }

    /// The median of so many exchanges.
    pub(super) fn median(&mut self, op: &str, exchanges: usize) -> Result<Duration> {
        let mut took = (0..exchanges).map(|_| self.pair.measure(op)).collect::<Result<Vec<_>>>()?;
        took.sort_unstable();
        Ok(took.get(took.len() / 2).copied().unwrap_or_default())
    }
}

fn wire(sites: &[Site; 2]) -> Result<()> {
    let [one, two] = sites;
    one.node.space.output(&format!("ip link add eth0 type veth peer name eth0 netns {}", two.node.space.path()))?;
    for site in sites {
        site.node.space.output(&format!("ip address add {}/24 dev eth0", underlay(site.number)))?;
        site.node.space.output("ip link set eth0 up")?;
    }
    Ok(())
}
