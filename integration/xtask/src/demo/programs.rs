//! Which programs the demo shows: netd's, as `cargo xtask dist` lays them out, or the official CNI plugins in their place.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;
use netd_rig::{Daemon, Netd, Node, Program, parts};

use crate::{dist, say};

pub(super) const DIST: &str = "target/dist";

/// The programs of one kind of network.
pub(super) struct Programs {
    /// What makes the networks, to be shown.
    pub(super) title: &'static str,
    /// The folder that becomes `/opt/cni/bin`.
    pub(super) plugins: PathBuf,
    netd: Option<PathBuf>,
    hook: Option<PathBuf>,
    ctl: Option<PathBuf>,
}

impl Programs {
    /// netd's own, built and laid out in `target/dist`.
    pub(super) fn of_netd() -> Result<Self> {
        dist::run()?;
        let dist = std::env::current_dir()?.join(DIST);
        let program = |name: &str| Some(dist.join(name));
        Ok(Self {
            title: "netd",
            plugins: dist.join("cni"),
            netd: program("netd"),
            hook: program("netd-hook"),
            ctl: program("netdctl"),
        })
    }

    /// The official plugins, without any daemon.
    pub(super) fn official() -> Result<Self> {
        let plugins = parts::cni_plugins()?;
        Ok(Self { title: "the official CNI plugins", plugins, netd: None, hook: None, ctl: None })
    }

    /// Starts the daemons of this kind; they end with what is returned, the last one first.
    pub(super) fn start(&self, node: &Node) -> Result<(Option<Daemon>, Option<Netd>)> {
        let netd = self.netd.as_deref().map(|path| Netd::start(node, path, "")).transpose()?;
        let hook = |path: &PathBuf| Daemon::start(node, Program::new("netd-hook", path, &[]));
        Ok((self.hook.as_ref().map(hook).transpose()?, netd))
    }

    /// What netd says that it holds.
    pub(super) fn show_status(&self, node: &Node) -> Result<()> {
        let Some(ctl) = self.ctl.as_deref() else { return Ok(()) };
        say(&format!("== netdctl status\n{}", status(node, ctl)?));
        Ok(())
    }
}

fn status(node: &Node, ctl: &Path) -> Result<String> {
    node.output(Command::new(ctl).arg("status"))
}
