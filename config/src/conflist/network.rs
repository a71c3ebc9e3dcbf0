//! A network as its file describes it, right by construction. Who is attached to it is netd's business.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use ipnet::IpNet;
use serde_json::{Map, Value};

use crate::name::{LinkName, NetworkName};
use crate::stanza::Stanza;
use crate::version::CniVersion;

/// A network: a chain of plugins that netd runs, all of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    /// Its name.
    pub name: NetworkName,
    /// The file that describes it.
    pub file: String,
    /// Documents and results are in this version.
    pub cni_version: CniVersion,
    /// CHECK is not wanted.
    pub disable_check: bool,
    /// GC is not wanted.
    pub disable_gc: bool,
    /// `nerdctlID`, by which nerdctl knows the network.
    pub nerdctl_id: Option<String>,
    /// `nerdctlLabels`.
    pub labels: BTreeMap<String, String>,
    /// The chain, in its order.
    pub plugins: Vec<Plugin>,
}

/// One plugin of a chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plugin {
    /// Its type as the file writes it.
    pub kind: String,
    /// What it is to do, where a caller adds nothing.
    pub stanza: Stanza,
    /// The capability arguments that it takes.
    pub capabilities: BTreeSet<String>,
    pub(super) entry: Map<String, Value>,
}

/// How sandboxes are wired to the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// By a port of a bridge.
    Bridge,
    /// By a link of their own and a route.
    Routed,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bridge => "bridge",
            Self::Routed => "routed",
        })
    }
}

impl Network {
    /// What libcni sends to each plugin on standard input when the caller has no capability arguments and nothing was
    /// attached before: the plugin's entry with the network's name and version. Keys are sorted, as Go sorts them.
    #[must_use]
    pub fn documents(&self) -> Vec<Vec<u8>> {
        self.plugins.iter().map(|plugin| self.document(plugin)).collect()
    }

    fn document(&self, plugin: &Plugin) -> Vec<u8> {
        let mut document = plugin.entry.clone();
        document.insert("name".to_owned(), self.name.as_str().into());
        document.insert("cniVersion".to_owned(), self.cni_version.as_str().into());
        let mut document = Value::Object(document);
        // The last of several spellings of a key wins, so their order is part of the meaning.
        document.sort_all_objects();
        document.to_string().into_bytes()
    }

    /// The bridge of the first plugin that has one.
    #[must_use]
    pub fn bridge(&self) -> Option<&LinkName> {
        self.plugins.iter().find_map(|plugin| match &plugin.stanza {
            Stanza::Bridge(bridge) => Some(&bridge.bridge),
            Stanza::Ptp(_)
            | Stanza::Loopback
            | Stanza::HostLocal(_)
            | Stanza::Static(_)
            | Stanza::Portmap(_)
            | Stanza::Firewall(_)
            | Stanza::Tuning(_)
            | Stanza::NotYet { .. } => None,
        })
    }

    /// How its sandboxes are wired.
    #[must_use]
    pub fn mode(&self) -> Option<Mode> {
        self.plugins.iter().find_map(|plugin| match &plugin.stanza {
            Stanza::Bridge(_) => Some(Mode::Bridge),
            Stanza::Ptp(_) => Some(Mode::Routed),
            Stanza::Loopback
            | Stanza::HostLocal(_)
            | Stanza::Static(_)
            | Stanza::Portmap(_)
            | Stanza::Firewall(_)
            | Stanza::Tuning(_)
            | Stanza::NotYet { .. } => None,
        })
    }

    /// The networks that its addresses come from, each once, in the order of the file.
    #[must_use]
    pub fn subnets(&self) -> Vec<IpNet> {
        let mut subnets = Vec::new();
        for subnet in self.plugins.iter().flat_map(|plugin| plugin.stanza.subnets()) {
            if !subnets.contains(&subnet) {
                subnets.push(subnet);
            }
        }
        subnets
    }
}

impl Stanza {
    fn subnets(&self) -> Vec<IpNet> {
        match self {
            Self::Bridge(bridge) => bridge.ipam.subnets(),
            Self::Ptp(ptp) => ptp.ipam.subnets(),
            Self::HostLocal(ipam) => ipam.subnets(),
            Self::Static(ipam) => ipam.subnets(),
            Self::Loopback | Self::Portmap(_) | Self::Firewall(_) | Self::Tuning(_) | Self::NotYet { .. } => Vec::new(),
        }
    }
}
