//! A real member: a netd of its own in a namespace of its own, with its own folders, on the underlay.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};

use super::ground::Ground;
use super::store::worked;
use crate::node::{Netd, Node};

/// Every daemon has a user of its own from here on, with all of root's capabilities: the kernel counts inotify instances by
/// user, and gives each 128 (`fs.inotify.max_user_instances`).
const USERS: u32 = 2_000_000;

/// How a daemon is set up.
#[derive(Debug, Clone)]
pub(super) struct Setup<'a> {
    pub(super) netd: &'a str,
    pub(super) pool: &'a str,
    pub(super) encapsulation: &'a str,
    pub(super) endpoints: Vec<String>,
    pub(super) lease_seconds: u64,
}

/// A member, whether its daemon runs or not.
#[derive(Debug)]
pub(super) struct Member {
    // In the order in which they end.
    netd: Option<Netd>,
    pub(super) node: Node,
    pub(super) name: String,
    user: u32,
}

impl Member {
    /// Makes it, and starts nothing.
    pub(super) fn new(ground: &Ground, number: u32) -> Result<Self> {
        let (space, _) = ground.place()?;
        Ok(Self { netd: None, node: Node::of(space)?, name: format!("real-{number:04}"), user: USERS + number })
    }

    /// Starts its daemon, and waits for nothing.
    pub(super) fn start(&mut self, setup: &Setup<'_>) -> Result<()> {
        let Setup { netd, pool, encapsulation, endpoints, lease_seconds } = setup;
        let name = &self.name;
        let settings = format!(
            "[fleet]\npools = [{{ range = \"{pool}\", block = 26 }}]\nname = \"{name}\"\nencapsulation = \"{encapsulation}\"\n\
             [fleet.etcd]\nendpoints = {endpoints:?}\nlease_seconds = {lease_seconds}\n"
        );
        let user = self.user;
        let (user, group) = (format!("--reuid={user}"), format!("--regid={user}"));
        let capabilities = capabilities()?;
        let (inheritable, ambient) = (format!("--inh-caps={capabilities}"), format!("--ambient-caps={capabilities}"));
        let words = ["setpriv", &user, &group, "--clear-groups", &inheritable, &ambient, netd];
        self.netd = Some(self.node.launch(&words, &settings)?);
        Ok(())
    }

    /// Kills its daemon, as a crash would.
    pub(super) fn kill(&mut self) {
        self.netd = None;
    }

    pub(super) fn resident_kb(&self) -> Result<u64> {
        self.netd.as_ref().context("it does not run")?.resident_kb()
    }

    /// Processor time that its daemon took.
    pub(super) fn worked(&self) -> Result<Duration> {
        worked(self.netd.as_ref().context("it does not run")?.process())
    }
}

/// All that this process has, as `setpriv` names them.
fn capabilities() -> Result<String> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:")).context("no CapEff")?;
    let set = u64::from_str_radix(line.trim(), 16)?;
    let names: Vec<String> = (0..64).filter(|bit| set >> bit & 1 == 1).map(|bit| format!("+cap_{bit}")).collect();
    Ok(names.join(","))
}
