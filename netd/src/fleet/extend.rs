//! A pool more for a fleet that runs, by an operator's word: whether it may be said. What becomes of it is netd-fleet's.

use std::sync::Arc;
use std::time::Duration;

use netd_api::v1::{AddPoolResponse, FailureCode};
use netd_config::{FleetConfig, PoolConfig};
use netd_fleet::{Charter, NodeRecord, Plan, PlanError, Pool, Status};
use thiserror::Error;
use tokio::time::timeout;

use super::source::{Source, pool};
use super::{Fleet, Inner, agree, look};

/// How long the answer waits for the fleet to have it.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why a pool is not added.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ExtendError {
    /// No fleet.
    #[error("this node is part of no fleet; name one in [fleet] of netd.toml")]
    NoFleet,
    /// A list.
    #[error("the pools are those of fleet.pools in netd.toml, on every node; the file is read again")]
    Listed,
    /// The store cannot be asked.
    #[error("cannot add a pool without the fleet's store: {0}")]
    Away(String),
    /// Too few witnesses.
    #[error("cannot add a pool now: {0}")]
    Short(String),
    /// This node does not have it.
    #[error("{name} is no pool of this node, whose netd.toml has {}: write it to fleet.pools there first, then say this again", known.join(", "))]
    Unknown {
        /// What was asked for.
        name: String,
        /// What there is.
        known: Vec<String>,
    },
    /// The settings are not followed as they stand.
    #[error("{name} is no pool of this node: {why}")]
    Unfollowed {
        /// What was asked for.
        name: String,
        /// What is wrong with them, and what to do.
        why: String,
    },
    /// The store has it otherwise, or has others that share something with it.
    #[error("{0}")]
    Unlike(String),
    /// It is none beside the others.
    #[error("cannot add the pool to those of the fleet; correct fleet.pools in netd.toml")]
    Misfit(#[from] PlanError),
    /// Somebody is reached there.
    #[error(
        "pool {pool} holds an address of the hosts' own networks, {own}: what no node has of the pool would be unreachable. Give it a \
         range that holds none, in fleet.pools of netd.toml on every node"
    )]
    Inside {
        /// The pool.
        pool: String,
        /// The address, and whose.
        own: String,
    },
    /// The kernel does not say.
    #[error("cannot see whether the pool holds addresses of the hosts: {0}; try again")]
    Unseen(String),
    /// An earlier netd.
    #[error(
        "the netd of {} cannot read of pools that were added, and would hear of no changes any more: update it there first, or remove the \
         node where it is gone for good",
        nodes.join(", ")
    )]
    Earlier {
        /// Those nodes.
        nodes: Vec<String>,
    },
}

impl ExtendError {
    /// The code that its caller can act on.
    #[must_use]
    pub fn code(&self) -> FailureCode {
        match self {
            Self::NoFleet | Self::Listed | Self::Away(_) | Self::Short(_) | Self::Unseen(_) => {
                FailureCode::NOT_AVAILABLE
            }
            Self::Unknown { .. }
            | Self::Unfollowed { .. }
            | Self::Unlike(_)
            | Self::Misfit(_)
            | Self::Inside { .. } => FailureCode::INVALID_CONFIG,
            Self::Earlier { .. } => FailureCode::CONFLICT,
        }
    }
}

/// A pool that this node knows does not fit beside those of the store: what to do.
pub(super) fn split(why: &PlanError) -> String {
    format!(
        "this node knows a pool of the fleet that the store forgot, and the store has got another since ({why}): both were added, one \
         of them before the store was set back. This node goes on with its own blocks, and does nothing in the store. If the store is \
         right, stop all containers here, remove fleet.json from netd's state_dir, and restart netd; if this node is, do that on \
         the nodes that have the other pool"
    )
}

/// The one that is meant.
fn choose<'a>(config: &'a FleetConfig, name: &str) -> Result<&'a PoolConfig, ExtendError> {
    config.pool(name).ok_or_else(|| {
        let known = config.pools.iter().map(|one| agree::named(&one.name, &pool(one))).collect();
        ExtendError::Unknown { name: name.to_owned(), known }
    })
}

/// Whether it may be added to a fleet with this charter.
fn judge<'a>(
    wanted: &PoolConfig,
    charter: &Charter,
    peers: impl Iterator<Item = &'a NodeRecord> + Clone,
) -> Result<Pool, ExtendError> {
    let new = pool(wanted);
    if let Some(unlike) = agree::blocks_adding(wanted, &charter.plan) {
        return Err(ExtendError::Unlike(unlike.to_string()));
    }
    charter.plan.united(&Plan::new(vec![new.clone()])?)?;
    let mut at = peers.clone().flat_map(|peer| peer.addresses.iter().map(move |address| (address, &peer.name)));
    if let Some((address, name)) = at.find(|(address, _)| new.range.contains(*address)) {
        return Err(ExtendError::Inside { pool: wanted.name.clone(), own: format!("{address} ({name})") });
    }
    let nodes: Vec<String> = peers.filter(|peer| !peer.reads_added_pools).map(|peer| peer.name.to_string()).collect();
    if nodes.is_empty() { Ok(new) } else { Err(ExtendError::Earlier { nodes }) }
}

impl Fleet {
    /// Adds a pool of this node's settings to those of the fleet, and waits a while until nodes may take blocks of it.
    ///
    /// # Errors
    /// See [`ExtendError`].
    pub async fn add_pool(&self, name: &str) -> Result<AddPoolResponse, ExtendError> {
        self.0.as_ref().ok_or(ExtendError::NoFleet)?.add_pool(name).await
    }
}

impl Inner {
    async fn add_pool(self: &Arc<Self>, name: &str) -> Result<AddPoolResponse, ExtendError> {
        let Source::Store { fleet, endpoints } = &self.source else { return Err(ExtendError::Listed) };
        let status = fleet.status().borrow().clone();
        if let Some(ill) = self.ill(&status) {
            return Err(ExtendError::Away(ill));
        }
        let charter = status.charter.as_ref().ok_or_else(|| {
            ExtendError::Away(format!("it has no fleet yet at {endpoints}; try again when `netdctl status` is content"))
        })?;
        let (inner, name) = (Arc::clone(self), name.to_owned());
        let wanted = tokio::task::spawn_blocking(move || inner.asked_for(&name));
        let wanted = wanted.await.map_err(|error| ExtendError::Unseen(error.to_string()))??;
        let is_there = |status: &Status| {
            let has = |charter: &Charter| charter.is_open() && charter.plan.pool(&wanted.name).is_some();
            status.charter.as_ref().is_some_and(has)
        };
        let peers = self.source.peers();
        let new = judge(&wanted, charter, peers.values())?;
        if !is_there(&status) {
            if let Some(short) = self.short(&status) {
                return Err(ExtendError::Short(short));
            }
            fleet.blocks().add_pool(new);
        }
        let mut followed = fleet.status();
        let there = timeout(PATIENCE, followed.wait_for(is_there)).await;
        let mut response = AddPoolResponse::new();
        (response.name, response.range) = (wanted.name.clone(), wanted.range.to_string());
        response.done = there.is_ok_and(|there| there.is_ok());
        let now = fleet.status().borrow().clone();
        response.waits = self.ill(&now).or_else(|| self.short(&now)).unwrap_or_default();
        Ok(response)
    }

    /// A pool of `netd.toml` as it stands now, if no host is reached there.
    fn asked_for(&self, name: &str) -> Result<PoolConfig, ExtendError> {
        self.reload();
        let config = self.config.borrow().clone();
        let why = self.state().unfollowed.first().cloned();
        let unfollowed = |unknown| match why {
            Some(why) => ExtendError::Unfollowed { name: name.to_owned(), why },
            None => unknown,
        };
        let wanted = choose(&config, name).map_err(unfollowed)?.clone();
        let (peers, blocks) = (self.source.peers(), self.source.blocks());
        let member = self.source.status().and_then(|status| status.member);
        let here = look::here(&mut self.underlay(), &config, &self.name, (&peers, None), (blocks, member));
        let here = here.map_err(|error| ExtendError::Unseen(crate::reply::chain(&error)))?;
        match here.inside.get(&wanted.range) {
            Some(own) => Err(ExtendError::Inside { pool: wanted.name, own: own.clone() }),
            None => Ok(wanted),
        }
    }

    /// Why the pools that this node remembers and those of the store cannot be one plan.
    pub(super) fn misfit(&self, status: &Status) -> Option<PlanError> {
        let remembered = self.source.memory()?.charter?;
        status.charter.as_ref()?.plan.united(&remembered.plan).err()
    }
}

#[cfg(test)]
mod tests;
