//! A node that is gone for good: which one is meant, and whether it may be said. Pure but for the asking; what becomes of its
//! blocks is netd-fleet's.

use std::collections::BTreeSet;
use std::time::Duration;

use ipnet::IpNet;
use netd_api::v1::{FailureCode, RemoveNodeRequest, RemoveNodeResponse};
use netd_fleet::{Charter, InstanceId, Memory, Peers, Phase, Status, Table};
use thiserror::Error;
use tokio::time::timeout;

use super::source::Source;
use super::{Fleet, Inner};

/// How long the answer waits for the fleet to note it.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why a node is not removed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RemoveError {
    /// No fleet.
    #[error("this node is part of no fleet; name one in [fleet] of netd.toml")]
    NoFleet,
    /// A list.
    #[error(
        "the nodes are those of fleet.nodes in netd.toml: take it out there, on every node; the file is read again"
    )]
    Listed,
    /// The store does not say what there is.
    #[error("cannot remove a node without the fleet's store: {0}")]
    Away(String),
    /// Nobody.
    #[error("there is no node {0}; `netdctl node ls` lists those that are present or have blocks")]
    Unknown(String),
    /// Several are gone.
    #[error("several nodes were called {name} and are gone: {}; say which with --instance", candidates.join(", "))]
    Several {
        /// The name.
        name: String,
        /// Each, with its blocks.
        candidates: Vec<String>,
    },
    /// One of the name is there.
    #[error(
        "{name} is present as {present}; not heard of under that name: {}. If that is the host before it was made anew, or one that \
         is gone for good, say so with --instance. It may also be a second host of the same name that runs (`netdctl status` there \
         says so): give that one a fleet.name of its own",
        candidates.join(", ")
    )]
    Replaced {
        /// The name.
        name: String,
        /// The instance that is there.
        present: InstanceId,
        /// The others, with their blocks.
        candidates: Vec<String>,
    },
    /// This one.
    #[error("this is {0} itself; a node is removed by another one, when it is gone for good")]
    Here(String),
    /// It lives.
    #[error(
        "{0} is present: only a node that is gone for good can be removed. Stop netd there for good, or take the host away, and try \
         again when its lease is over (`netdctl node ls` calls it absent)"
    )]
    Present(String),
    /// Its memory is needed.
    #[error(
        "{name} is one of the {witnesses} witnesses who remember whose every block is, and too few of them are there (absent: {}). \
         Start one that can come back, and try again. With --lost the fleet goes on without what {name} remembers; two things must be \
         true: its disk is gone for good or will never be used again, and etcd was not set back to an older copy since that node \
         was last present. If it was, a block that only {name} knew of can be given to two nodes: \
         start all other nodes first",
        absent.join(", ")
    )]
    Needed {
        /// Who.
        name: String,
        /// How many there are.
        witnesses: usize,
        /// Those that are not there.
        absent: Vec<String>,
    },
    /// Its memory is not needed.
    #[error("{0} is not waited for: enough of the witnesses are there without it, or it is none. Leave --lost away")]
    NotNeeded(String),
}

impl RemoveError {
    /// The code that its caller can act on.
    #[must_use]
    pub fn code(&self) -> FailureCode {
        match self {
            Self::NoFleet | Self::Listed | Self::Away(_) => FailureCode::NOT_AVAILABLE,
            Self::Unknown(_) => FailureCode::UNKNOWN_SANDBOX,
            Self::Several { .. }
            | Self::Replaced { .. }
            | Self::Here(_)
            | Self::Present(_)
            | Self::Needed { .. }
            | Self::NotNeeded(_) => FailureCode::CONFLICT,
        }
    }
}

/// A node that has a block, witnesses, or is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Known {
    /// Its instance, where nobody says its name.
    pub(super) name: String,
    pub(super) instance: InstanceId,
    pub(super) blocks: BTreeSet<IpNet>,
    pub(super) is_present: bool,
}

impl Known {
    /// For a choice.
    fn told(&self) -> String {
        let blocks: Vec<String> = self.blocks.iter().map(ToString::to_string).collect();
        match blocks.as_slice() {
            [] => format!("{} (no block)", self.instance),
            _ => format!("{} ({})", self.instance, blocks.join(", ")),
        }
    }
}

/// All nodes but those that were removed and are not asked any more, by name. `present`: this one, and all that have a session.
pub(super) fn known(charter: &Charter, table: &Table, (peers, present): (&Peers, &BTreeSet<InstanceId>)) -> Vec<Known> {
    let (mut all, asked): (Vec<Known>, _) = (Vec::new(), asked(charter));
    let mut note = |instance: InstanceId, name: Option<&str>, block: Option<IpNet>| {
        // Who is asked still is waited for, whatever was said of him.
        if charter.removed.contains(&instance) && !asked.contains(&instance) {
            return;
        }
        let at = all.iter().position(|one| one.instance == instance).unwrap_or_else(|| {
            let (name, is_present) =
                (name.map_or_else(|| instance.to_string(), str::to_owned), present.contains(&instance));
            all.push(Known { name, instance, blocks: BTreeSet::new(), is_present });
            all.len() - 1
        });
        all[at].blocks.extend(block);
    };
    for peer in peers.values() {
        let Some(instance) = peer.instance else { continue };
        note(instance, Some(peer.name.as_str()), None);
        peer.blocks.iter().for_each(|block| note(instance, None, Some(*block)));
    }
    // A node may have been called otherwise when it claimed what it has.
    for (block, record) in table {
        for claim in record.claims.values() {
            note(claim.owner, Some(claim.name.as_str()), Some(claim.part.unwrap_or(*block)));
        }
    }
    asked.iter().for_each(|instance| note(*instance, None, None));
    all.sort_by(|one, other| (&one.name, one.instance).cmp(&(&other.name, other.instance)));
    all
}

/// Witnesses, and those that were before and are still asked.
fn asked(charter: &Charter) -> BTreeSet<InstanceId> {
    let mut asked = charter.witnesses.clone();
    match &charter.phase {
        Phase::Open => {}
        Phase::Settling(settling) => asked.extend(settling.need.iter().flatten()),
    }
    asked
}

/// Who is there: this node, its peers, and whoever has a session without being a peer.
pub(super) fn present(me: InstanceId, peers: &Peers, status: &Status) -> BTreeSet<InstanceId> {
    let peers = peers.values().filter_map(|peer| peer.instance);
    peers.chain(status.sessions.iter().copied()).chain([me]).collect()
}

/// The one that is meant.
fn choose<'a>(all: &'a [Known], name: &str, instance: &str) -> Result<&'a Known, RemoveError> {
    let is_it = |one: &&Known| {
        let number = one.instance.to_string();
        (one.name == name || number == name) && number.starts_with(&instance.to_ascii_lowercase())
    };
    let (there, gone): (Vec<&Known>, Vec<&Known>) = all.iter().filter(is_it).partition(|one| one.is_present);
    let candidates = || gone.iter().map(|one| one.told()).collect();
    let name = name.to_owned();
    match (there.as_slice(), gone.as_slice()) {
        ([], []) => Err(RemoveError::Unknown(name)),
        ([one, ..], []) | ([], [one]) => Ok(one),
        ([one, ..], _) => Err(RemoveError::Replaced { name, present: one.instance, candidates: candidates() }),
        ([], _) => Err(RemoveError::Several { name, candidates: candidates() }),
    }
}

/// Whether it may be said of this one.
fn judge(one: &Known, all: &[Known], (me, lost): (InstanceId, bool), charter: &Charter) -> Result<(), RemoveError> {
    let name = one.name.clone();
    if one.instance == me {
        return Err(RemoveError::Here(name));
    }
    if one.is_present {
        return Err(RemoveError::Present(name));
    }
    let absent = missing(all, charter);
    match (charter.asks(one.instance) && !absent.is_empty(), lost) {
        (true, false) => Err(RemoveError::Needed { name, witnesses: charter.witnesses.len(), absent }),
        (false, true) => Err(RemoveError::NotNeeded(name)),
        (true, true) | (false, false) => Ok(()),
    }
}

/// Witnesses that are not there, by name, where no block can change hands without them; else none.
fn missing(all: &[Known], charter: &Charter) -> Vec<String> {
    let present = all.iter().filter(|one| one.is_present).map(|one| one.instance).collect();
    if charter.goes_on_with(&present) {
        return Vec::new();
    }
    let asked = asked(charter);
    all.iter().filter(|one| !one.is_present && asked.contains(&one.instance)).map(|one| one.name.clone()).collect()
}

fn short(absent: &[String]) -> String {
    format!(
        "too few of the fleet's witnesses are there (absent: {}): no node gets another block, and none that is given up is free. \
         Start netd on them; of one that is gone for good, `netdctl node rm NAME` says what must be true",
        absent.join(", ")
    )
}

impl Fleet {
    /// Declares a node gone for good, and waits a while for the fleet to note it.
    ///
    /// # Errors
    /// See [`RemoveError`].
    pub async fn remove(&self, request: &RemoveNodeRequest) -> Result<RemoveNodeResponse, RemoveError> {
        self.0.as_ref().ok_or(RemoveError::NoFleet)?.remove(request).await
    }
}

impl Inner {
    async fn remove(&self, request: &RemoveNodeRequest) -> Result<RemoveNodeResponse, RemoveError> {
        let Source::Store { fleet, endpoints } = &self.source else { return Err(RemoveError::Listed) };
        let away = || {
            RemoveError::Away(format!("it does not answer at {endpoints}; try again when `netdctl status` is content"))
        };
        let status = fleet.status().borrow().clone();
        if let Some(ill) = self.ill(&status) {
            return Err(RemoveError::Away(ill));
        }
        let (table, me) = (fleet.table().await.ok_or_else(away)?, fleet.blocks().memory().borrow().instance);
        let charter = status.charter.as_ref().ok_or_else(away)?;
        let peers = self.source.peers();
        let all = known(charter, &table, (&peers, &present(me, &peers, &status)));
        let one = choose(&all, &request.name, &request.instance)?;
        judge(one, &all, (me, request.lost), charter)?;
        if request.lost {
            fleet.blocks().abandon(one.instance);
        }
        fleet.blocks().remove(one.instance);
        let is_noted = |status: &Status| status.charter.as_ref().is_some_and(|now| now.removed.contains(&one.instance));
        let mut followed = fleet.status();
        let noted = timeout(PATIENCE, followed.wait_for(is_noted)).await;
        let mut response = RemoveNodeResponse::new();
        response.name.clone_from(&one.name);
        response.instance = one.instance.to_string();
        response.blocks = one.blocks.iter().map(ToString::to_string).collect();
        response.done = noted.is_ok_and(|noted| noted.is_ok());
        let now = fleet.status().borrow().clone();
        if !response.done {
            let why = self.short_of_witnesses(&now, &table, me).or_else(|| self.ill(&now));
            response.waits =
                why.unwrap_or_else(|| "the store has not taken it in time; `netdctl status` says how it is".to_owned());
        }
        Ok(response)
    }

    /// Who is back is not removed when it is away again.
    pub(super) fn forget_removals(&self) {
        let Source::Store { fleet, .. } = &self.source else { return };
        let (me, status) = (fleet.blocks().memory().borrow().instance, fleet.status().borrow().clone());
        fleet.blocks().forget_removals(&present(me, &self.source.peers(), &status));
    }

    /// What to do where too few witnesses are there.
    fn short_of_witnesses(&self, status: &Status, table: &Table, me: InstanceId) -> Option<String> {
        let charter = status.charter.as_ref().filter(|_| status.is_connected)?;
        let peers = self.source.peers();
        let present = present(me, &peers, status);
        if charter.goes_on_with(&present) {
            return None;
        }
        Some(short(&missing(&known(charter, table, (&peers, &present)), charter)))
    }

    /// The same, as this node remembers the names.
    pub(super) fn short(&self, status: &Status) -> Option<String> {
        let Memory { table, instance, .. } = self.source.memory()?;
        self.short_of_witnesses(status, &table, instance)
    }
}

#[cfg(test)]
mod tests;
