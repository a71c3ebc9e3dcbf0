//! The bed that most tests lie in: an underlay, one node on it, containerd, nerdctl's default network. More than one node, or
//! another order of events, is made from the same pieces by hand.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use anyhow::Result;

use crate::{Containerd, NERDCTL_DEFAULT, Netd, Node, Release, Underlay, parts};

/// Who makes the networks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Plugins {
    /// A folder with CNI plugins, and no daemon.
    Folder(PathBuf),
    /// The official plugins.
    Official,
    /// netd and its CNI client, of this tree.
    Netd,
}

/// A node with a containerd.
#[derive(Debug)]
pub struct Bed {
    // In the order in which they end.
    /// Its containerd.
    pub containerd: Containerd,
    /// Its netd, with [`Plugins::Netd`].
    pub netd: Option<Netd>,
    /// The node.
    pub node: Node,
    /// What lies outside of it.
    pub underlay: Underlay,
}

impl Bed {
    /// Starts `release` on a node with these plugins.
    ///
    /// # Errors
    /// This process is not root, a part cannot be built, or containerd does not answer.
    pub fn start(release: Release, plugins: &Plugins) -> Result<Self> {
        parts::packages()?;
        let underlay = Underlay::new()?;
        let node = Node::new(&underlay, 1)?;
        let netd = plugins.install(&node)?;
        node.write("/etc/cni/net.d/nerdctl-bridge.conflist", NERDCTL_DEFAULT)?;
        let containerd = Containerd::start(&node, release)?;
        Ok(Self { containerd, netd, node, underlay })
    }
}

impl Plugins {
    fn install(&self, node: &Node) -> Result<Option<Netd>> {
        match self {
            Self::Folder(folder) => node.use_plugins(folder)?,
            Self::Official => node.use_plugins(&parts::cni_plugins()?)?,
            Self::Netd => return Programs::of_this_tree()?.install(node, "").map(Some),
        }
        Ok(None)
    }
}

/// Where netd's programs are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Programs {
    /// The daemon.
    pub netd: PathBuf,
    /// `netdctl`.
    pub ctl: PathBuf,
    /// `netd-cni`.
    pub client: PathBuf,
}

impl Programs {
    /// Those of this tree, built for tests.
    ///
    /// # Errors
    /// They cannot be built.
    pub fn of_this_tree() -> Result<Self> {
        let ours = parts::ours()?;
        Ok(Self { netd: ours.join("netd"), ctl: ours.join("netdctl"), client: ours.join("netd-cni") })
    }

    /// The CNI client, and a netd with these settings.
    pub(crate) fn install(&self, node: &Node, settings: &str) -> Result<Netd> {
        let folder = node.outside("/opt/cni/bin");
        fs::create_dir_all(&folder)?;
        parts::cni_names()?.iter().try_for_each(|name| symlink(&self.client, folder.join(name)))?;
        Netd::start(node, &self.netd, settings)
    }
}
