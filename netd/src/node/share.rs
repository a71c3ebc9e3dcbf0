//! What of the fleet's pools this node may give addresses from, and which of its networks uses which block. Pure; how blocks
//! come to this node is the fleet's.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use netd_config::{NetworkName, Range, Route};
use thiserror::Error;

use crate::attachment::{AttachmentKey, Lease};

/// Why the fleet lets this node give no such address.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ShareError {
    /// There is no block yet.
    #[error("cannot lease an address for {key}: this node has no block of pool {pool} for its network yet{}: {remedy}", waiting(*unforgotten))]
    NoBlock {
        /// Who asked.
        key: Box<AttachmentKey>,
        /// Of which pool.
        pool: String,
        /// What to do.
        remedy: String,
        /// Addresses of blocks that nobody holds, and that other nodes may take for somebody else's for a moment.
        unforgotten: usize,
        /// More may come without anybody's doing.
        is_transient: bool,
    },
    /// All addresses of the blocks are held.
    #[error(
        "cannot lease an address for {key}: this node's blocks of pool {pool} have none left ({blocks}; `netdctl lease ls` \
         names the holders){}: {remedy}",
        waiting(*unforgotten)
    )]
    Full {
        /// Who asked.
        key: Box<AttachmentKey>,
        /// Of which pool.
        pool: String,
        /// The network's blocks.
        blocks: String,
        /// What to do.
        remedy: String,
        /// Addresses of blocks that nobody holds, and that other nodes may take for somebody else's for a moment.
        unforgotten: usize,
        /// More may come without anybody's doing.
        is_transient: bool,
    },
    /// The asked-for address may be another node's.
    #[error(
        "cannot lease {address} for {key}: of pool {pool} this node gives addresses from {blocks} only; ask for one of \
         those, or for none"
    )]
    Beyond {
        /// Who asked.
        key: Box<AttachmentKey>,
        /// For what.
        address: IpAddr,
        /// Of which pool.
        pool: String,
        /// The blocks that the network may use.
        blocks: String,
    },
    /// Some of a network's addresses are the fleet's, and some are not.
    #[error(
        "cannot attach {key}: its network has addresses of pool {pool} and others in one range set ({ranges}); give the \
         network a range inside of the pool, or one outside"
    )]
    Mixed {
        /// Who asked.
        key: Box<AttachmentKey>,
        /// Which pool.
        pool: String,
        /// What the network declares.
        ranges: String,
    },
}

impl ShareError {
    /// Addresses that nobody holds, and that may be given when other nodes have forgotten whose they were.
    #[must_use]
    pub fn unforgotten(&self) -> usize {
        match self {
            Self::NoBlock { unforgotten, .. } | Self::Full { unforgotten, .. } => *unforgotten,
            Self::Beyond { .. } | Self::Mixed { .. } => 0,
        }
    }
}

fn waiting(unforgotten: usize) -> String {
    match unforgotten {
        0 => String::new(),
        number => format!(
            "; {number} that nobody holds other nodes may still take for somebody else's, and they are free in a moment, \
             while the fleet's store answers"
        ),
    }
}

/// Ranges that nodes share, and what of them is this node's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Share {
    /// All pools.
    pub pools: Vec<SharedPool>,
    /// This node's blocks, each with what of it may be given out.
    pub blocks: BTreeMap<IpNet, Vec<IpNet>>,
    /// What this node has still of those that it gave up some of. The subnet of their addresses stays what it was.
    pub parts: BTreeMap<IpNet, IpNet>,
}

/// A range that nodes share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SharedPool {
    /// Its name.
    pub name: String,
    /// All of its addresses.
    pub range: IpNet,
    /// Octets that get to every other node in one packet; `None`: as many as the kernel likes.
    pub mtu: Option<u32>,
    /// How this node gets more blocks of it, for people.
    pub remedy: String,
    /// More may come without anybody's doing.
    pub grows: bool,
    /// No block of it comes as things are: networks go on in the pools that continue it.
    pub is_spent: bool,
    /// Name of the pool whose networks go on in this one.
    pub continues: Option<String>,
    /// Prefix length of the smallest part of a block that is one.
    pub smallest: u8,
}

/// How much of a block is used, and by whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockUse {
    /// The block.
    pub block: IpNet,
    /// What of it is this node's.
    pub part: IpNet,
    /// The half that is to be kept if the other is given up; none: that is used, or the rest would be too small.
    pub keep: Option<IpNet>,
    /// Its pool's name.
    pub pool: String,
    /// The network that uses it, if any.
    pub network: Option<NetworkName>,
    /// It is about to be given back.
    pub is_leaving: bool,
    /// Addresses that can be given out in all.
    pub size: u128,
    /// Those that are held.
    pub held: u128,
}

impl Share {
    /// Whether the other is the same but for what people are told to do.
    #[must_use]
    pub fn says_but_for_words(&self, other: &Self) -> bool {
        let silent = |share: &Self| {
            let mut share = share.clone();
            share.pools.iter_mut().for_each(|pool| pool.remedy.clear());
            share
        };
        silent(self) == silent(other)
    }

    /// The pool that these ranges lie in. `None`: they have nothing to do with the fleet.
    pub(super) fn pool_of(&self, key: &AttachmentKey, subnets: &[IpNet]) -> Result<Option<&SharedPool>, ShareError> {
        let touches = |pool: &&SharedPool| subnets.iter().any(|subnet| meet(pool.range, *subnet));
        let Some(pool) = self.pools.iter().find(touches) else { return Ok(None) };
        if subnets.iter().all(|subnet| pool.range.contains(subnet)) {
            return Ok(Some(pool));
        }
        let ranges = subnets.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        Err(ShareError::Mixed { key: Box::new(key.clone()), pool: pool.name.clone(), ranges })
    }

    /// A pool, and all that continue it, in the order in which they are used.
    pub(super) fn line<'a>(&'a self, first: &'a SharedPool) -> Vec<&'a SharedPool> {
        let mut line = vec![first];
        let mut at = 0;
        while let Some(pool) = line.get(at).copied() {
            let next = self.pools.iter().filter(|next| next.continues.as_ref() == Some(&pool.name));
            let next: Vec<_> = next.filter(|next| !line.contains(next)).collect();
            line.extend(next);
            at += 1;
        }
        line
    }

    /// The pool that an address lies in.
    #[must_use]
    pub fn pool_at(&self, address: IpAddr) -> Option<&SharedPool> {
        self.pools.iter().find(|pool| pool.range.contains(&address))
    }

    /// The block of this node that an address lies in.
    #[must_use]
    pub fn block_at(&self, address: IpAddr) -> Option<IpNet> {
        self.blocks.keys().copied().find(|block| self.part(*block).contains(&address))
    }

    /// What of a block is this node's.
    #[must_use]
    pub fn part(&self, block: IpNet) -> IpNet {
        self.parts.get(&block).copied().unwrap_or(block)
    }

    /// The same with only this part of a block.
    pub(super) fn narrow(&mut self, block: IpNet, keep: IpNet) {
        if let Some(pieces) = self.blocks.get_mut(&block) {
            let rest = |piece: &IpNet| {
                if keep.contains(piece) { Some(*piece) } else { Some(keep).filter(|keep| piece.contains(keep)) }
            };
            *pieces = pieces.iter().filter_map(rest).collect();
            self.parts.insert(block, keep);
        }
    }

    /// What may be given out of a block.
    #[must_use]
    pub fn ranges(&self, block: IpNet) -> Vec<Range> {
        self.blocks.get(&block).map_or_else(Vec::new, |pieces| ranges(block, pieces))
    }

    /// Routes as a network lists them. By a gateway of its declared range, where the fleet gave it another, they go by that.
    #[must_use]
    pub fn routes(&self, listed: &[Route], leases: &[Lease]) -> Vec<Route> {
        let is_gone = |gateway: &IpAddr| {
            self.pool_at(*gateway).is_some() && !leases.iter().any(|lease| lease.address.contains(gateway))
        };
        listed.iter().map(|route| Route { gw: route.gw.filter(|gateway| !is_gone(gateway)), ..route.clone() }).collect()
    }

    /// The MTU of an attachment's interface where its network names none: the least of its pools'.
    pub(super) fn mtu_of(&self, leases: &[Lease]) -> Option<u32> {
        leases.iter().filter_map(|lease| self.pool_at(lease.address.addr())?.mtu).min()
    }
}

/// A block's gateway is its first address, behind the one that names it; the last of an IPv4 block is its broadcast address.
pub(super) fn ranges(block: IpNet, pieces: &[IpNet]) -> Vec<Range> {
    let last = if block.addr().is_ipv4() { offset(block.broadcast(), -1) } else { block.broadcast() };
    let first = offset(block.network(), 1);
    let mut spans: Vec<(IpAddr, IpAddr)> =
        pieces.iter().map(|piece| (piece.network().max(first), piece.broadcast().min(last))).collect();
    spans.retain(|(start, end)| start <= end);
    spans.sort_unstable();
    let Some((gateway, _)) = spans.first().copied() else { return Vec::new() };
    spans.into_iter().map(|(start, end)| Range { subnet: block, start, end, gateway }).collect()
}

/// Addresses between the ends of all ranges, without the gateway.
pub(super) fn size(ranges: &[Range]) -> u128 {
    let bits = |address: IpAddr| match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    };
    let all = ranges.iter().map(|range| (bits(range.end) - bits(range.start)).saturating_add(1));
    all.fold(0, u128::saturating_add).saturating_sub(1)
}

pub(super) fn meet(one: IpNet, other: IpNet) -> bool {
    one.contains(&other) || other.contains(&one)
}

pub(super) fn offset(address: IpAddr, by: i8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => Ipv4Addr::from_bits(v4.to_bits().wrapping_add_signed(i32::from(by))).into(),
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits().wrapping_add_signed(i128::from(by))).into(),
    }
}

/// For people.
pub(super) fn listed(blocks: &BTreeSet<IpNet>) -> String {
    if blocks.is_empty() {
        return "no block".to_owned();
    }
    blocks.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
