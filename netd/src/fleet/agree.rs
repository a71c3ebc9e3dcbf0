//! Whether the pools of this node's settings are those of the fleet: its founder's, and what was added since. Pure.

use netd_config::{FleetConfig, PoolConfig};
use netd_fleet::{Plan, PlanError, Pool};
use thiserror::Error;

use super::source;

/// A pool that is not in the store as it is in the settings.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(super) enum Unlike {
    #[error(
        "pool {name} is not in the store, which has {known}: no node gets a block of it. To add it for good, `netdctl pool add {word}` \
         on one node; else take it out of fleet.pools in netd.toml (docs/nodes.md, \"A pool more\")"
    )]
    Missing { name: String, known: String, word: String },
    #[error(
        "pool {name} is not in the store, which has {known}: no node gets a block of it, and it cannot be added ({why}). Take it out of \
         fleet.pools in netd.toml, or give it another range"
    )]
    Misfit { name: String, known: String, why: PlanError },
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
            Self::Missing { .. } | Self::Misfit { .. } | Self::Name { .. } | Self::Range { .. } => true,
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

/// Why such a pool cannot be added: the store has it otherwise, or what it shares addresses with.
pub(super) fn blocks_adding(pool: &PoolConfig, plan: &Plan) -> Option<Unlike> {
    of(pool, plan).filter(|unlike| !matches!(unlike, Unlike::Missing { .. }))
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
    let (known, range, word) = (known.join(", "), pool.range.to_string(), name.clone());
    let name = if name == range { name } else { format!("{name} ({range})") };
    let united = Plan::new(vec![source::pool(pool)]).and_then(|one| plan.united(&one));
    Some(match united {
        Ok(_) => Unlike::Missing { name, known, word },
        Err(why) => Unlike::Misfit { name, known, why },
    })
}

/// A pool is called by its range where nothing else was said.
pub(super) fn named(name: &str, pool: &Pool) -> String {
    let range = pool.range.to_string();
    if name == range { range } else { format!("{name} ({range})") }
}

#[cfg(test)]
mod tests;
