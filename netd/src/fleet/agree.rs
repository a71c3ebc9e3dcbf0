//! Whether the pools of this node's settings are those of the fleet, which are its founder's. Pure.

use netd_config::{FleetConfig, PoolConfig};
use netd_fleet::{Plan, Pool};
use thiserror::Error;

/// A pool that is not in the store as it is in the settings.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(super) enum Unlike {
    #[error(
        "pool {0} is not in the store, which has {1}: no node gets a block of it. The pools are those of the first node, for as long as \
         the fleet is: take it out of fleet.pools in netd.toml, or found another fleet (docs/nodes.md, \"Pools are for good\")"
    )]
    Missing(String, String),
    #[error(
        "pool {ours} is called {theirs} in the store: no node gets a block of it by another name. Give it name = \"{theirs}\" in \
         fleet.pools of netd.toml"
    )]
    Name { ours: String, theirs: String },
    #[error(
        "pool {name} is {ours} here and {theirs} in the store, where blocks come from: write range = \"{theirs}\" in fleet.pools of \
         netd.toml"
    )]
    Range { name: String, ours: String, theirs: String },
    #[error(
        "pool {name} has blocks of /{ours} in netd.toml and of /{theirs} in the store, which is what nodes get: write block = {theirs} \
         in fleet.pools"
    )]
    Block { name: String, ours: u8, theirs: u8 },
    #[error(
        "pool {0} is in the store and not in netd.toml: what other nodes have there is not reached from here. Add it to fleet.pools"
    )]
    Foreign(String),
}

impl Unlike {
    /// Whether this node gets no block of the pool.
    fn gets_none(&self) -> bool {
        match self {
            Self::Missing(..) | Self::Name { .. } | Self::Range { .. } => true,
            Self::Block { .. } | Self::Foreign(_) => false,
        }
    }
}

/// All that differs, the pools of the settings first.
pub(super) fn unlike(config: &FleetConfig, plan: &Plan) -> Vec<Unlike> {
    let ours = config.pools.iter().filter_map(|pool| of(pool, plan));
    let is_foreign = |pool: &&Pool| !config.pools.iter().any(|own| own.name == pool.name || own.range == pool.range);
    let theirs = plan.pools().iter().filter(is_foreign).map(|pool| Unlike::Foreign(named(&pool.name, pool)));
    ours.chain(theirs).collect()
}

/// Why this node gets no block of the pool, where that is for good.
pub(super) fn hinders(pool: &PoolConfig, plan: &Plan) -> Option<Unlike> {
    of(pool, plan).filter(Unlike::gets_none)
}

fn of(pool: &PoolConfig, plan: &Plan) -> Option<Unlike> {
    let name = pool.name.clone();
    if let Some(known) = plan.pool(&pool.name) {
        if known.range != pool.range {
            return Some(Unlike::Range { name, ours: pool.range.to_string(), theirs: known.range.to_string() });
        }
        let (ours, theirs) = (pool.block, known.block);
        return (ours != theirs).then_some(Unlike::Block { name, ours, theirs });
    }
    if let Some(known) = plan.pools().iter().find(|known| known.range == pool.range) {
        return Some(Unlike::Name { ours: name, theirs: known.name.clone() });
    }
    let known: Vec<String> = plan.pools().iter().map(|pool| named(&pool.name, pool)).collect();
    let range = pool.range.to_string();
    let name = if name == range { name } else { format!("{name} ({range})") };
    Some(Unlike::Missing(name, known.join(", ")))
}

/// A pool is called by its range where nothing else was said.
fn named(name: &str, pool: &Pool) -> String {
    let range = pool.range.to_string();
    if name == range { range } else { format!("{name} ({range})") }
}

#[cfg(test)]
mod tests;
