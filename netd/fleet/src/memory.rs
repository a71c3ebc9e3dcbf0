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

/// A block that a node claims, or a part of one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub struct Holding {
    /// The block.
    pub block: IpNet,
    /// What it claimed of it at first; none: all of it.
    pub claimed: Option<IpNet>,
    /// What it claims of it still; none: all of it.
    pub part: Option<IpNet>,
    /// Whether it may be used.
    pub state: Hold,
}

/// As it stands on the disk. An earlier netd would use all of a block: a part it is not to read.
#[derive(Serialize, Deserialize)]
struct Written {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    block: Option<IpNet>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    part_of: Option<IpNet>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    claimed: Option<IpNet>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    part: Option<IpNet>,
    state: Hold,
}

impl From<Holding> for Written {
    fn from(holding: Holding) -> Self {
        let Holding { block, claimed, part, state } = holding;
        let (block, part_of) = if part.is_some() { (None, Some(block)) } else { (Some(block), None) };
        Self { block, part_of, claimed, part, state }
    }
}

impl TryFrom<Written> for Holding {
    type Error = &'static str;

    fn try_from(written: Written) -> Result<Self, Self::Error> {
        let Written { block, part_of, claimed, part, state } = written;
        Ok(Self { block: block.or(part_of).ok_or("missing field `block`")?, claimed, part, state })
    }
}

impl Holding {
    /// A claim to a block, or to a part of it.
    pub(crate) fn pending(block: IpNet, part: Option<IpNet>) -> Self {
        Self { block, claimed: part, part, state: Hold::Pending }
    }

    /// What is held.
    #[must_use]
    pub fn range(&self) -> IpNet {
        self.part.unwrap_or(self.block)
    }

    /// What was held at first: the subnet that its addresses are of.
    #[must_use]
    pub fn subnet(&self) -> IpNet {
        self.claimed.unwrap_or(self.block)
    }
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
        confirmed.flat_map(|holding| self.rest_of(holding)).collect()
    }

    /// What other nodes should route here: its blocks, with what is reserved of them.
    pub fn blocks(&self) -> impl Iterator<Item = IpNet> + '_ {
        self.confirmed().map(Holding::range)
    }

    /// What it may use.
    pub fn confirmed(&self) -> impl Iterator<Item = &Holding> {
        self.holdings.values().filter(|holding| holding.state == Hold::Confirmed)
    }

    fn rest_of(&self, holding: &Holding) -> Vec<IpNet> {
        let pool = self.charter.as_ref().and_then(|charter| charter.plan.pool_of(holding.block));
        let reserved: BTreeSet<IpNet> = pool.into_iter().flat_map(|pool| pool.reserved.iter().copied()).collect();
        without(holding.range(), &reserved)
    }

    /// Blocks of a pool that this node holds or has asked for.
    pub(crate) fn blocks_in<'a>(&'a self, pool: &'a crate::plan::Pool) -> impl Iterator<Item = &'a Holding> {
        self.holdings.values().filter(|holding| crate::span::holds(pool.range, holding.block))
    }
}

#[cfg(test)]
mod tests {
    use super::{Hold, Holding};

    #[test]
    fn a_part_is_written_so_that_an_earlier_netd_does_not_take_it_for_the_block() {
        let [block, part] = ["10.0.0.0/24", "10.0.0.0/25"].map(|one| one.parse().unwrap());
        let whole = Holding { state: Hold::Confirmed, ..Holding::pending(block, None) };
        assert_eq!(serde_json::to_string(&whole).unwrap(), r#"{"block":"10.0.0.0/24","state":"Confirmed"}"#);
        for claimed in [None, Some(part)] {
            let holding = Holding { part: Some(part), claimed, ..whole.clone() };
            let text = serde_json::to_string(&holding).unwrap();
            assert!(!text.contains("\"block\""), "{text}");
            assert_eq!(serde_json::from_str::<Holding>(&text).unwrap(), holding);
            assert_eq!((holding.range(), holding.subnet()), (part, claimed.unwrap_or(block)));
        }
    }
}
