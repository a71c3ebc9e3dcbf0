//! The bed that most tests lie in: an underlay, one node on it, containerd, nerdctl's default network. More than one node, or
//! another order of events, is made from the same pieces by hand.

use std::path::Path;

use anyhow::Result;

use crate::{Containerd, NERDCTL_DEFAULT, Node, Release, Underlay, parts};

/// A node with a containerd.
#[derive(Debug)]
pub struct Bed {
    // In the order in which they end.
    /// Its containerd.
    pub containerd: Containerd,
    /// The node.
    pub node: Node,
    /// What lies outside of it.
    pub underlay: Underlay,
}

impl Bed {
    /// Starts `release` on a node whose CNI plugins are those in the folder `plugins`.
    ///
    /// # Errors
    /// This process is not root, a part cannot be built, or containerd does not answer.
    pub fn start(release: Release, plugins: &Path) -> Result<Self> {
        parts::packages()?;
        let underlay = Underlay::new()?;
        let node = Node::new(&underlay, 1)?;
        node.use_plugins(plugins)?;
        node.write("/etc/cni/net.d/nerdctl-bridge.conflist", NERDCTL_DEFAULT)?;
        let containerd = Containerd::start(&node, release)?;
        Ok(Self { containerd, node, underlay })
    }
}
