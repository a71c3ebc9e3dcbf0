//! Which part of a node's network an object belongs to.

use super::Key;

/// Who makes it and what it goes with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Links, what is set on them, and what goes with them.
    Links,
    /// The fixed part of the ruleset, and the forwarding that it guards.
    Skeleton,
    /// Elements of the ruleset: bridges, masquerade and published ports.
    Networks,
    /// Elements of the ruleset: what a port may send.
    Guard,
    /// Elements of the ruleset: policies.
    Policy,
    /// Elements of the ruleset: other nodes.
    Fleet,
    /// Tunnels, and what leads to other nodes.
    Ways,
}

impl Part {
    /// Whether these objects are elements of the ruleset's sets, and so go with it.
    #[must_use]
    pub const fn is_elements(self) -> bool {
        matches!(self, Self::Networks | Self::Guard | Self::Policy | Self::Fleet)
    }
}

impl Key {
    /// Of the object.
    #[must_use]
    pub const fn part(&self) -> Part {
        match self {
            Self::Bridge(_)
            | Self::GatewayLink(_)
            | Self::Filtered(_)
            | Self::Veth(_)
            | Self::Gateway(..)
            | Self::SandboxRoute(..)
            | Self::Interface(..) => Part::Links,
            Self::Ruleset | Self::Forwarding(_) => Part::Skeleton,
            Self::Admitted(_) | Self::Fenced(_) | Self::Masquerade(..) | Self::Published(_) => Part::Networks,
            Self::Guarded(_) | Self::Trunk(_) | Self::PortMac(..) | Self::PortAddress(..) => Part::Guard,
            Self::DropSilently(_)
            | Self::Isolated(..)
            | Self::NoFlood(_)
            | Self::Hairpin(..)
            | Self::Class(_)
            | Self::Block(..)
            | Self::Span(_)
            | Self::Pair(..) => Part::Policy,
            Self::Connected | Self::Peer(_) | Self::PeersOnly(_) | Self::Inside(_) => Part::Fleet,
            Self::Tunnel(_) | Self::FarEnd(_) | Self::Route(_) => Part::Ways,
        }
    }
}
