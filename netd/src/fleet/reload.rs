//! `netd.toml` is read again when it changes: a list of nodes, how packets get to them, and pools more. What else it says of the
//! fleet holds from the next start on, and is told; with etcd, pools only as the store has them.

use std::fs;
use std::io::PipeWriter;
use std::path::PathBuf;
use std::sync::Arc;

use netd_config::{FleetConfig, NodeConfig, PoolConfig};
use tracing::{info, warn};

use super::Inner;
use super::source::{Source, listed};
use crate::directories;

const LEFT: &str = "netd.toml has no [fleet] any more: it goes on as it last stood there until the next start (`systemctl restart netd`); \
                    write it again, or restart netd to leave the fleet";

impl Inner {
    /// The watching ends with what is returned.
    pub(super) fn watch_settings(self: &Arc<Self>) -> Option<PipeWriter> {
        let folder = self.file.parent()?.to_owned();
        let folder = if folder.as_os_str().is_empty() { PathBuf::from(".") } else { folder };
        let inner = Arc::downgrade(self);
        let read = move |_: &[PathBuf]| {
            if let Some(inner) = inner.upgrade() {
                inner.reload();
            }
        };
        let watching = directories::watch("settings", vec![folder], read);
        watching.inspect_err(|error| warn!(%error, "cannot watch netd.toml; a change takes a restart")).ok()
    }

    pub(super) fn reload(&self) {
        let unfollowed = match self.read() {
            Ok(config) => self.take(config),
            Err(error) => vec![error],
        };
        let mut state = self.state();
        for text in unfollowed.iter().filter(|text| !state.unfollowed.contains(text)) {
            warn!(text, "netd.toml");
        }
        state.unfollowed = unfollowed;
    }

    fn read(&self) -> Result<FleetConfig, String> {
        let file = self.file.display();
        let goes_on = "the fleet goes on as it last stood there";
        let text = fs::read_to_string(&self.file).map_err(|error| format!("cannot read {file}: {error}; {goes_on}"))?;
        let config = NodeConfig::parse(&file.to_string(), &text).map_err(|error| format!("{error}; {goes_on}"))?;
        Ok(config.fleet)
    }

    /// Takes what can be changed while netd runs; what cannot is returned, for people.
    pub(super) fn take(&self, wanted: FleetConfig) -> Vec<String> {
        let mut unfollowed = Vec::new();
        let mut now = self.config.borrow().clone();
        if wanted == now {
            return unfollowed;
        }
        if !wanted.is_on() {
            return vec![LEFT.to_owned()];
        }
        if let Source::List(list) = &self.source
            && wanted.nodes != now.nodes
            && !wanted.nodes.is_empty()
        {
            let taken = listed(&wanted).and_then(|nodes| Ok(list.reload(nodes)?));
            match taken {
                Ok(()) => now.nodes.clone_from(&wanted.nodes),
                Err(error) => unfollowed
                    .push(format!("{}; the nodes are those that stood there before", crate::reply::chain(&error))),
            }
        }
        now.encapsulation = wanted.encapsulation;
        for pool in &mut now.pools {
            if let Some(other) = wanted.pools.iter().find(|other| other.name == pool.name && other.range == pool.range)
            {
                pool.encapsulation = other.encapsulation;
                pool.continues.clone_from(&other.continues);
            }
        }
        self.take_pools(&mut now, &wanted);
        // The list is told of already.
        if (FleetConfig { nodes: now.nodes.clone(), ..wanted.clone() }) != now {
            let pools =
                if matches!(self.source, Source::Store { .. }) { ", pools only as the store has them" } else { "" };
            unfollowed.push(format!(
                "netd.toml has changed in [fleet]: pools, etcd, name, address and labels hold from the next start on{pools} (`systemctl restart netd`; running containers keep their network)"
            ));
            // Of the same store, as far as anybody can say.
            unfollowed.extend(self.unlike(&wanted));
        }
        info!("netd.toml was read again");
        self.config.send_if_modified(|known| {
            let is_news = *known != now;
            *known = now;
            is_news
        });
        unfollowed
    }

    /// Pools that are new; and those that the fleet never had may go.
    fn take_pools(&self, now: &mut FleetConfig, wanted: &FleetConfig) {
        let plan = self.agreed();
        let is_none = |pool: &PoolConfig| plan.as_ref().is_some_and(|plan| plan.pool(&pool.name).is_none());
        let (stay, go): (Vec<_>, Vec<_>) = now.pools.iter().partition(|pool| wanted.pools.contains(pool));
        if stay.len() == wanted.pools.len() && go.is_empty() || !go.iter().all(|pool| is_none(pool)) {
            return;
        }
        // Should another node add it after all, this one wants nothing of it.
        self.source.want(&go.iter().map(|pool| (pool.name.clone(), 0)).collect());
        now.pools.clone_from(&wanted.pools);
    }
}
