//! The address plan: pools, the blocks they are carved into, and which node may use which. Who owns a block is `record`'s.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::span::{bits, holds, meet};

/// A block is halved so often.
const SPLITS: u8 = 3;
/// It has a network, a gateway, a sandbox and a broadcast address.
const SMALLEST: u8 = 30;

/// Why a plan is none.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PlanError {
    /// The block is no part of its pool.
    #[error("pool {pool}: blocks of /{block} do not fit in {range}; use /{} to /{}", .range.prefix_len(), .range.max_prefix_len())]
    Block {
        /// The pool.
        pool: String,
        /// Prefix length of a block.
        block: u8,
        /// The pool's range.
        range: IpNet,
    },
    /// An address range with host bits.
    #[error("pool {pool}: {range} has bits beyond its prefix; write {}", .range.trunc())]
    HostBits {
        /// The pool.
        pool: String,
        /// The range.
        range: IpNet,
    },
    /// Two pools share addresses.
    #[error("pools {one} and {other} share addresses; give each its own range")]
    Overlap {
        /// A pool.
        one: String,
        /// Another.
        other: String,
    },
    /// Two pools share a name.
    #[error("two pools are called {0}; give each its own name")]
    Twice(String),
    /// A reserved range lies elsewhere.
    #[error("pool {pool}: the reserved range {range} is not in the pool; remove it or correct it")]
    Reserved {
        /// The pool.
        pool: String,
        /// The range.
        range: IpNet,
    },
}

/// A range of addresses that nodes take blocks from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pool {
    /// Its name.
    pub name: String,
    /// All of its addresses.
    pub range: IpNet,
    /// Prefix length of its blocks.
    pub block: u8,
    /// Addresses that are never given out.
    #[serde(default)]
    pub reserved: BTreeSet<IpNet>,
    /// Labels that a node must have; none: every node may use it.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

/// All pools of a fleet, without overlaps.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<Pool>", into = "Vec<Pool>")]
pub struct Plan {
    pools: Vec<Pool>,
}

impl Plan {
    /// Takes `pools` if they fit together.
    ///
    /// # Errors
    /// The first that does not.
    pub fn new(mut pools: Vec<Pool>) -> Result<Self, PlanError> {
        pools.sort_by(|one, other| one.name.cmp(&other.name));
        pools.iter().try_for_each(Pool::check)?;
        for (at, one) in pools.iter().enumerate() {
            for other in &pools[at + 1..] {
                let names = || (one.name.clone(), other.name.clone());
                if one.name == other.name {
                    return Err(PlanError::Twice(one.name.clone()));
                }
                if meet(one.range, other.range) {
                    let (one, other) = names();
                    return Err(PlanError::Overlap { one, other });
                }
            }
        }
        Ok(Self { pools })
    }

    /// The pools, by name.
    #[must_use]
    pub fn pools(&self) -> &[Pool] {
        &self.pools
    }

    /// The pool of this name.
    #[must_use]
    pub fn pool(&self, name: &str) -> Option<&Pool> {
        self.pools.iter().find(|pool| pool.name == name)
    }

    /// The pools that a node with these labels may use.
    pub fn pools_for<'a>(&'a self, labels: &'a BTreeMap<String, String>) -> impl Iterator<Item = &'a Pool> {
        self.pools.iter().filter(|pool| pool.labels.iter().all(|(key, value)| labels.get(key) == Some(value)))
    }

    /// Both, if they fit together. Of a pool that both have, what either reserves is reserved.
    ///
    /// # Errors
    /// Pools that share addresses or a name, and are not the same.
    pub fn united(&self, other: &Self) -> Result<Self, PlanError> {
        let mut pools = self.pools.clone();
        for pool in &other.pools {
            match pools.iter_mut().find(|own| own.is_same(pool)) {
                Some(own) => own.reserved.extend(&pool.reserved),
                None => pools.push(pool.clone()),
            }
        }
        Self::new(pools)
    }

    /// Whether it lacks nothing that `other` has.
    pub(crate) fn has_all_of(&self, other: &Self) -> bool {
        other.pools.iter().all(|pool| self.has(pool))
    }

    /// Whether the pool is one of them, with all that it reserves.
    #[must_use]
    pub fn has(&self, pool: &Pool) -> bool {
        self.pools.iter().any(|own| own.is_same(pool) && own.reserved.is_superset(&pool.reserved))
    }

    /// The pool that `block` is a block of.
    #[must_use]
    pub fn pool_of(&self, block: IpNet) -> Option<&Pool> {
        self.pools.iter().find(|pool| block.prefix_len() == pool.block && holds(pool.range, block))
    }
}

impl TryFrom<Vec<Pool>> for Plan {
    type Error = PlanError;

    fn try_from(pools: Vec<Pool>) -> Result<Self, PlanError> {
        Self::new(pools)
    }
}

impl From<Plan> for Vec<Pool> {
    fn from(plan: Plan) -> Self {
        plan.pools
    }
}

impl Pool {
    /// Prefix length of the smallest part of a block that somebody may claim. Blocks of IPv6 are not parted: there are enough.
    #[must_use]
    pub fn smallest(&self) -> u8 {
        match self.range {
            IpNet::V4(_) => (self.block + SPLITS).min(SMALLEST).max(self.block),
            IpNet::V6(_) => self.block,
        }
    }

    /// Whether they are carved into the same blocks, and called the same.
    fn is_same(&self, other: &Self) -> bool {
        (&self.name, self.range, self.block) == (&other.name, other.range, other.block)
    }

    fn check(&self) -> Result<(), PlanError> {
        let pool = || self.name.clone();
        for range in self.reserved.iter().chain([&self.range]) {
            if range.trunc() != *range {
                return Err(PlanError::HostBits { pool: pool(), range: *range });
            }
        }
        if !(self.range.prefix_len()..=self.range.max_prefix_len()).contains(&self.block) {
            return Err(PlanError::Block { pool: pool(), block: self.block, range: self.range });
        }
        match self.reserved.iter().find(|range| !holds(self.range, **range)) {
            Some(range) => Err(PlanError::Reserved { pool: pool(), range: *range }),
            None => Ok(()),
        }
    }

    /// The first block that is not `taken`, beginning with one that `start` chooses: nodes that begin elsewhere seldom
    /// meet. Blocks that are reserved as a whole are none.
    pub fn block_from(&self, start: u128, mut taken: impl FnMut(IpNet) -> bool) -> Option<IpNet> {
        let last = self.last();
        let start = last.checked_add(1).map_or(start, |count| start % count);
        self.walk(start, last, &mut taken).or_else(|| self.walk(0, start.checked_sub(1)?, &mut taken))
    }

    /// Number of the last block.
    fn last(&self) -> u128 {
        let width = u32::from(self.block - self.range.prefix_len());
        1_u128.checked_shl(width).map_or(u128::MAX, |count| count - 1)
    }

    fn walk(&self, mut at: u128, last: u128, taken: &mut impl FnMut(IpNet) -> bool) -> Option<IpNet> {
        while at <= last {
            let block = self.nth(at)?;
            match self.reserved.iter().find(|reserved| holds(**reserved, block)) {
                Some(reserved) => at = self.number_of(reserved.broadcast())?,
                None if !taken(block) => return Some(block),
                None => {}
            }
            at = at.checked_add(1)?;
        }
        None
    }

    fn nth(&self, number: u128) -> Option<IpNet> {
        let shift = u32::from(self.range.max_prefix_len() - self.block);
        let offset = number.checked_shl(shift)?;
        let address = bits(self.range.network()) + offset;
        match self.range {
            IpNet::V4(_) => Ipv4Net::new(u32::try_from(address).ok()?.into(), self.block).ok().map(IpNet::V4),
            IpNet::V6(_) => Ipv6Net::new(address.into(), self.block).ok().map(IpNet::V6),
        }
    }

    fn number_of(&self, address: IpAddr) -> Option<u128> {
        let offset = bits(address).checked_sub(bits(self.range.network()))?;
        Some(offset.checked_shr(u32::from(self.range.max_prefix_len() - self.block)).unwrap_or(0))
    }
}

#[cfg(test)]
mod tests;
