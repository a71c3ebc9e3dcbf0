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

/// A range that a node claims.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holding {
    /// The block.
    pub block: IpNet,
    /// The block itself, or the part of it that is borrowed.
    pub range: IpNet,
    /// Whether it may be used.
    pub state: Hold,
    /// What of it is lent.
    #[serde(default)]
    pub loans: BTreeMap<ClaimId, Loan>,
}

/// Whether a holding may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Hold {
    /// Asked for.
    Pending,
    /// Confirmed: it is this node's until it gives it back or an operator removes the node.
    Confirmed,
}

/// A part of a block that another node uses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loan {
    /// Its addresses.
    pub range: IpNet,
    /// Who may use them.
    pub borrower: InstanceId,
    /// The borrower's name.
    pub name: NodeName,
    /// Epoch of the block when they were lent.
    pub since: u64,
}

impl Memory {
    /// The memory of a node that knows nothing.
    #[must_use]
    pub fn new(instance: InstanceId, name: NodeName) -> Self {
        Self { instance, name, charter: None, table_of: None, table: Table::new(), holdings: BTreeMap::new() }
    }

    /// What this node may give addresses from now, whatever the store says or whether it answers: reserved addresses and
    /// what is lent are cut out.
    #[must_use]
    pub fn usable(&self) -> Vec<IpNet> {
        let confirmed = self.holdings.values().filter(|holding| holding.state == Hold::Confirmed);
        confirmed.flat_map(|holding| self.rest_of(holding)).collect()
    }

    /// What other nodes should route here: the blocks as a whole, and what is borrowed.
    pub fn ranges(&self) -> impl Iterator<Item = IpNet> + '_ {
        self.holdings.values().filter(|holding| holding.state == Hold::Confirmed).map(|holding| holding.range)
    }

    /// What of its blocks is lent.
    pub(crate) fn loans(&self) -> impl Iterator<Item = ClaimId> + '_ {
        self.holdings.values().flat_map(|holding| holding.loans.keys().copied())
    }

    fn rest_of(&self, holding: &Holding) -> Vec<IpNet> {
        let pool = self.charter.as_ref().and_then(|charter| charter.plan.pool_of(holding.block));
        let reserved = pool.into_iter().flat_map(|pool| pool.reserved.iter().copied());
        let lent = holding.loans.values().map(|loan| loan.range);
        let cut: BTreeSet<IpNet> = reserved.chain(lent).collect();
        without(holding.range, &cut)
    }

    /// Whole blocks of a pool that this node holds or has asked for.
    pub(crate) fn blocks_in<'a>(&'a self, pool: &'a crate::plan::Pool) -> impl Iterator<Item = &'a Holding> {
        let whole = self.holdings.values().filter(|holding| holding.range == holding.block);
        whole.filter(|holding| crate::span::holds(pool.range, holding.block))
    }
}
