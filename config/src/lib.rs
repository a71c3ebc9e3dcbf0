//! Text to model: CNI stdin documents and `netd.toml`, as values that are right by construction.
//!
//! ```text
//! stdin ─▶ json (Go's rules) ─▶ Document { version, name, Stanza, prevResult }
//! netd.toml ─▶ NodeConfig
//! ```
//!
//! Not here: any file, socket or kernel. What a stanza means for the node is netd's business.

mod arguments;
mod document;
mod error;
mod ipam;
mod json;
mod name;
mod node;
mod result;
mod stanza;
mod version;

pub use document::Document;
pub use error::{ConfigErrors, Mistake};
pub use ipam::{HostLocal, Ipam, Range, Route, StaticIpam};
pub use name::{ContainerId, LinkName, NameError, NetworkName};
pub use node::NodeConfig;
pub use result::{CniResult, Dns, ResultInterface, ResultIp};
pub use stanza::{Bridge, Firewall, IngressPolicy, PortMapping, Portmap, Protocol, Stanza, Tuning};
pub use version::CniVersion;
