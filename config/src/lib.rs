//! Text to model: CNI stdin documents, network configuration files and `netd.toml`, as values that are right by construction.
//!
//! ```text
//! stdin ─▶ json (Go's rules) ─▶ Document { version, name, Stanza, prevResult }
//! file  ─▶ json (Go's rules) ─▶ Conflist { name, types, Network { name, version, plugins } or what is wrong }
//! netd.toml ─▶ NodeConfig
//! ```
//!
//! Not here: any file, socket or kernel. What a stanza means for the node is netd's business.

mod arguments;
mod conflist;
mod document;
mod error;
mod ipam;
mod json;
mod name;
mod node;
mod result;
mod stanza;
mod version;

pub use conflist::{Conflist, Folders, Mode, Network, Plugin, PluginFile};
pub use document::{Collection, Document, Removal};
pub use error::{ConfigErrors, Mistake};
pub use ipam::{HostLocal, Ipam, Range, Route, StaticIpam};
pub use name::{ContainerId, LinkName, NameError, NetworkName};
pub use node::{
    Addresses, Coexist, Denied, Encapsulation, EtcdConfig, FleetConfig, ListedNode, Namespace, Namespaces, NodeConfig,
    PoolConfig, Quarantine,
};
pub use result::{CniResult, Dns, ResultInterface, ResultIp};
pub use stanza::{
    Bridge, BridgeVlans, Firewall, IngressPolicy, PortMapping, Portmap, Protocol, Ptp, Stanza, Tuning, knows_plugin,
    runs_plugin,
};
pub use version::CniVersion;
