//! Policies: from documents to what a kernel can look up, and what they mean.
//!
//! ```text
//! files ─▶ parse ─▶ Policy ─┬─▶ Compiler(node) ─▶ Compiled, Delta ─▶ (netd writes it into the kernel)
//!                    World ─┤                        ├─▶ interpret: what the kernel will answer
//!                           │                        └─▶ reach: all that may pass between two addresses
//!                           └─▶ oracle: a verdict straight from the model, with its reasons
//! ```
//!
//! Extensions beside Kubernetes' own fields, all marked by `netd/`: annotations `netd/log` (log what the policy decides) and
//! `netd/audit` (only log and count what it would deny), `netd/icmp` in rules, `netd/networkNames` in peers, and
//! `netd/nodes` and `netd/networks` in the ingress peers of cluster-wide policies.
//!
//! Not here: files, labels' origins, nftables, the kernel.

mod compile;
mod flow;
mod interpret;
mod model;
pub mod oracle;
mod parse;
mod reach;
mod selector;
mod world;

pub use compile::{
    AddressRange, Answer, Change, ClassId, Compiled, Compiler, Delta, Entry, PolicyId, Profile, ProfileId, Table,
    TableChange,
};
pub use flow::{Direction, Flow, ICMP, ICMPV6, Protocol, SCTP, TCP, Traffic, UDP};
pub use interpret::{Answers, Hook};
pub use model::{
    Action, Block, Kind, Namespaces, Peer, Peers, Policy, PolicyName, Port, PortRange, Ports, Rule, SandboxSelector,
    Source, Tier,
};
pub use parse::{Errors, Fault, LONGEST, apart, parse, text};
pub use reach::{Changed, Reach, Reaches};
pub use selector::{Labels, Requirement, Selector, Test};
pub use world::{Known, NAMESPACE_NAME, NamedPort, Node, Owner, Sandbox, SandboxName, World};
