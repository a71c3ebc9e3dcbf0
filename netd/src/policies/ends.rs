//! The ends of a connection that people ask about: whom a text means, where he is reached, and how he is told of. Pure; what may
//! pass between two is `explain`'s.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netd_policy::{Sandbox, SandboxName, World};
use thiserror::Error;

/// How people ask for everybody whom no policy names.
pub(super) const OUTSIDE: &str = "outside";
/// Stand for them (RFC 5737, RFC 3849).
pub(super) const OUTSIDE_AT: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1)), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 1))];

/// The question cannot be answered.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ExplainError {
    /// Nobody.
    #[error("{0:?} is no sandbox, address, \"node\" or \"outside\"; `netdctl sandbox ls` lists the sandboxes")]
    Nobody(String),
    /// Several.
    #[error("{what:?} may mean {}; write namespace/name", candidates.join(", "))]
    Several {
        /// What was asked for.
        what: String,
        /// Who may be meant.
        candidates: Vec<String>,
    },
    /// No packet goes from one to the other.
    #[error("{from} and {to} have no address of the same family: nothing passes, whatever the policies say")]
    Apart {
        /// One end.
        from: String,
        /// The other.
        to: String,
    },
    /// It does not come by its own address, and nobody here knows what its node makes of it.
    #[error(
        "{port} is published, and what {from} sends there comes by an address of its node: ask with that address in its place"
    )]
    ByItsNode {
        /// A sandbox of another node.
        from: String,
        /// Of this node.
        port: String,
    },
}

/// One end of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// A sandbox.
    Sandbox(SandboxName),
    /// The node with this name.
    Node(String),
    /// Everybody whom no policy names.
    Outside,
    /// An address, whoever has it.
    Address(IpAddr),
}

impl End {
    /// Whom `text` means: an address, `node` (the one called `here`), a sandbox by name or namespace/name, or `outside`.
    ///
    /// # Errors
    /// See [`ExplainError`].
    pub fn find(world: &World, here: &str, text: &str) -> Result<Self, ExplainError> {
        if let Ok(address) = text.parse() {
            return Ok(Self::Address(address));
        }
        if text == "node" {
            return Ok(Self::Node(here.to_owned()));
        }
        let called = |name: &str, full: &str| name == text || full == text;
        let is = |name: &&SandboxName| called(&name.name, &name.to_string());
        let mut found: Vec<&SandboxName> = world.sandboxes.keys().filter(is).collect();
        if found.is_empty() {
            // Made again while the one before it ended.
            let again = |name: &&SandboxName| {
                let plain = |text: &str| text.split('~').next().unwrap_or_default().to_owned();
                called(&plain(&name.name), &plain(&name.to_string()))
            };
            found = world.sandboxes.keys().filter(again).collect();
        }
        if found.is_empty() {
            // Of another node, without saying of which.
            let others = world.sandboxes.values().filter(|sandbox| sandbox.known.is_some());
            let bare =
                |sandbox: &Sandbox| short(&sandbox.name).trim_end_matches(&format!("@{}", sandbox.node)).to_owned();
            let is = |sandbox: &&Sandbox| bare(sandbox) == text || bare(sandbox).split('/').next_back() == Some(text);
            found = others.filter(is).map(|sandbox| &sandbox.name).collect();
        }
        match found.as_slice() {
            [] if text == OUTSIDE => Ok(Self::Outside),
            [] => Err(ExplainError::Nobody(text.to_owned())),
            [one] => Ok(Self::Sandbox((*one).clone())),
            several => Err(ExplainError::Several {
                what: text.to_owned(),
                candidates: several.iter().map(ToString::to_string).collect(),
            }),
        }
    }

    /// Where it is reached. What only the node itself has a way to (`127.0.0.1`) is none of its; what only its neighbours have
    /// one to, is `by_link`: these have a better one, and to policies it is the same.
    pub(super) fn addresses(&self, world: &World, by_link: bool) -> Vec<IpAddr> {
        match self {
            Self::Sandbox(name) => {
                world.sandboxes.get(name).map(|one| one.addresses.keys().copied().collect()).unwrap_or_default()
            }
            Self::Node(name) => {
                let is_reached = |address: &IpAddr| !address.is_loopback() && (by_link || !of_link(*address));
                let own = world.nodes.get(name).map(|one| one.addresses.iter().copied().filter(is_reached).collect());
                own.unwrap_or_default()
            }
            Self::Outside => OUTSIDE_AT.into(),
            Self::Address(address) => vec![*address],
        }
    }

    /// With the address that is looked at.
    pub(super) fn told(&self, address: IpAddr) -> String {
        match self {
            Self::Address(address) => address.to_string(),
            Self::Sandbox(_) | Self::Node(_) | Self::Outside => format!("{self} ({address})"),
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sandbox(name) => f.write_str(&short(name)),
            Self::Node(name) => write!(f, "node {name}"),
            Self::Outside => f.write_str(OUTSIDE),
            Self::Address(address) => address.fmt(f),
        }
    }
}

/// Of a link alone: fe80::/10.
pub(super) fn of_link(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local())
}

/// A container that nobody has a record of is in no namespace.
pub(super) fn short(name: &SandboxName) -> String {
    if name.namespace.is_empty() { name.name.clone() } else { name.to_string() }
}

/// Who has this address, in words.
#[must_use]
pub fn told(world: &World, address: IpAddr) -> String {
    match world.owner(address) {
        netd_policy::Owner::Sandbox(sandbox) => format!("{} ({address})", short(&sandbox.name)),
        netd_policy::Owner::Node(name, _) => format!("node {name} ({address})"),
        netd_policy::Owner::Outside => address.to_string(),
    }
}
