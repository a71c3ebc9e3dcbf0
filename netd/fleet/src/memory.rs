//! What a node knows for certain, as it stands on its disk: nothing else is remembered, and nothing is done on other grounds.
//! Writing it is `disk`'s.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::charter::Charter;
use crate::identity::{ClaimId, IncarnationId, InstanceId, NodeName};
use crate::record::Table;
use crate::span::without;

/// A node's memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// Which node this is.
    pub instance: InstanceId,
    /// Its name.
    pub name: NodeName,
    /// The latest charter it has seen. An earlier one it never serves again.
    pub charter: Option<Charter>,
    /// The incarnation that `table` was read in.
    pub table_of: Option<IncarnationId>,
    /// All blocks, as it saw them last.
    pub table: Table,
    /// What it holds.
    pub holdings: BTreeMap<ClaimId, Holding>,
}

/// A block that a node claims.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holding {
    /// The block.
    pub block: IpNet,
    /// Whether it may be used.
    pub state: Hold,
}

/// Whether a holding may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Hold {
    /// Asked for.
    Pending,
    /// Confirmed: it is this node's until it gives it back or an operator removes the node.
    Confirmed,
}

impl Memory {
    /// The memory of a node that knows nothing.
    #[must_use]
    pub fn new(instance: InstanceId, name: NodeName) -> Self {
        Self { instance, name, charter: None, table_of: None, table: Table::new(), holdings: BTreeMap::new() }
    }

    /// What this node may give addresses from now, whatever the store says or whether it answers: reserved addresses
    /// are cut out.
    #[must_use]
    pub fn usable(&self) -> Vec<IpNet> {
        let confirmed = self.holdings.values().filter(|holding| holding.state == Hold::Confirmed);
        confirmed.flat_map(|holding| self.rest_of(holding.block)).collect()
    }

    /// What other nodes should route here: its blocks as a whole.
    pub fn blocks(&self) -> impl Iterator<Item = IpNet> + '_ {
        self.holdings.values().filter(|holding| holding.state == Hold::Confirmed).map(|holding| holding.block)
    }

    fn rest_of(&self, block: IpNet) -> Vec<IpNet> {
        let pool = self.charter.as_ref().and_then(|charter| charter.plan.pool_of(block));
        let reserved: BTreeSet<IpNet> = pool.into_iter().flat_map(|pool| pool.reserved.iter().copied()).collect();
        without(block, &reserved)
    }

    /// Blocks of a pool that this node holds or has asked for.
    pub(crate) fn blocks_in<'a>(&'a self, pool: &'a crate::plan::Pool) -> impl Iterator<Item = &'a Holding> {
        self.holdings.values().filter(|holding| crate::span::holds(pool.range, holding.block))
    }
}
