//! The vocabulary of policy: who is isolated, who is who, and what is decided for whom. What a policy means is not looked at.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::{Key, Object, Objects, Part};

/// Addresses that all policies in force treat alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Class(pub u32);

impl Class {
    /// Of an address that has no class of its own and is in no block.
    pub const WORLD: Self = Self(0);
    /// Of the node itself, by whichever of its addresses. A pair with it alone decides between a sandbox and its node.
    pub const NODE: Self = Self(u32::MAX);
    /// The rules' own, of an address that has no class of its own, until its block is looked for. No pair names it.
    pub const UNKNOWN: Self = Self(u32::MAX - 1);
}

/// A list of decisions by protocol and port, which pairs share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Profile(pub u32);

/// Which way a new flow goes, as its subject sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Direction {
    /// To the subject.
    Ingress,
    /// From the subject.
    Egress,
}

/// Between whom an isolated sandbox's flows are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Reach {
    /// Between it and all but its own node.
    Others,
    /// Between it and its own node, [`Class::NODE`]: what has no pair with that passes. NetworkPolicy never stands there.
    Node,
}

/// What is decided for a new flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Decision {
    /// Passes.
    Allow,
    /// Passes, and is told (NFLOG).
    AllowLogged,
    /// Is refused, told, counted and answered.
    Deny,
    /// Passes, and what would be denied is told and counted.
    Audit,
}

/// A protocol and a port of it. ICMP's port is its type times 256 and its code; the port of a protocol without is 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Service {
    /// IP's number of the protocol.
    pub protocol: u8,
    /// Of the subject in ingress, of the peer in egress: the port that the flow goes to.
    pub port: u16,
}

impl Service {
    /// The first of all.
    pub const FIRST: Self = Self { protocol: 0, port: 0 };
    /// The last of all.
    pub const LAST: Self = Self { protocol: u8::MAX, port: u16::MAX };

    /// The one behind it, in the order of protocols, then ports.
    #[must_use]
    pub fn next(self) -> Option<Self> {
        let next_protocol = || Some(Self { protocol: self.protocol.checked_add(1)?, port: 0 });
        self.port.checked_add(1).map(|port| Self { port, ..self }).or_else(next_protocol)
    }

    fn previous(self) -> Option<Self> {
        let last_protocol = || Some(Self { protocol: self.protocol.checked_sub(1)?, port: u16::MAX });
        self.port.checked_sub(1).map(|port| Self { port, ..self }).or_else(last_protocol)
    }
}

/// A part of a profile: all services from one to another, both in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Span {
    /// Whose.
    pub profile: Profile,
    /// From here.
    pub first: Service,
    /// To here.
    pub last: Service,
}

/// The whole of a profile: `list` of ranges of services, and `rest` for all others. A profile has no gaps, so a pair that has
/// one is decided by it alone. Of two ranges that overlap, the first in the list decides.
#[must_use]
pub fn profile(profile: Profile, list: &[(Service, Service, Decision)], rest: Decision) -> Objects {
    let starts = list.iter().map(|(first, _, _)| *first);
    let behind = list.iter().filter_map(|(_, last, _)| last.next());
    let mut cuts: Vec<Service> = starts.chain(behind).chain([Service::FIRST]).collect();
    cuts.sort_unstable();
    cuts.dedup();
    let decide = |service: Service| {
        let found = list.iter().find(|(first, last, _)| (*first..=*last).contains(&service));
        found.map_or(rest, |(_, _, decision)| *decision)
    };
    let ends = cuts.iter().skip(1).map(|next| next.previous()).chain([Some(Service::LAST)]);
    let pieces = cuts.iter().zip(ends).filter_map(|(first, last)| Some((*first, last?, decide(*first))));
    let mut spans: Vec<(Span, Decision)> = Vec::new();
    for (first, last, decision) in pieces {
        match spans.last_mut() {
            Some((span, same)) if *same == decision => span.last = last,
            Some(_) | None => spans.push((Span { profile, first, last }, decision)),
        }
    }
    spans.into_iter().map(|(span, decision)| (Key::Span(span), Object::Decision(decision))).collect()
}

impl Key {
    /// Whether it is an object of policies: only these make such.
    #[must_use]
    pub const fn is_of_policy(&self) -> bool {
        matches!(self.part(), Part::Policy) || matches!(self, Self::Filtered(_))
    }
}

/// A flow between two ends, as conntrack has it and as rules see it behind its address translation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Flow {
    /// IP's number of the protocol.
    pub protocol: u8,
    /// Who opened it.
    pub opener: (IpAddr, u16),
    /// Who answers: of a published port, the sandbox and its own port.
    pub answerer: (IpAddr, u16),
    /// Where the opener sent it: of a published port, the node's address and port.
    pub asked: (IpAddr, u16),
}

#[cfg(test)]
mod tests {
    use super::{Decision, Profile, Service, Span, profile};
    use crate::object::{Key, Object};

    fn tcp(port: u16) -> Service {
        Service { protocol: 6, port }
    }

    fn spans(list: &[(Service, Service, Decision)], rest: Decision) -> Vec<(Service, Service, Decision)> {
        let read = |(key, object)| match (key, object) {
            (Key::Span(Span { first, last, .. }), Object::Decision(decision)) => (first, last, decision),
            other => panic!("{other:?}"),
        };
        profile(Profile(1), list, rest).into_iter().map(read).collect()
    }

    #[test]
    fn a_profile_has_no_gaps() {
        let (allow, deny) = (Decision::Allow, Decision::Deny);
        assert_eq!(spans(&[], deny), [(Service::FIRST, Service::LAST, deny)]);
        let (below, above) = (tcp(79), tcp(81));
        let one = [(Service::FIRST, below, deny), (tcp(80), tcp(80), allow), (above, Service::LAST, deny)];
        assert_eq!(spans(&[(tcp(80), tcp(80), allow)], deny), one);
        assert_eq!(spans(&[(tcp(80), tcp(80), allow), (tcp(80), tcp(90), deny)], deny), one);
        let whole = [(tcp(0), tcp(u16::MAX), allow)];
        let before = Service { protocol: 5, port: u16::MAX };
        let behind = Service { protocol: 7, port: 0 };
        let expected = [(Service::FIRST, before, deny), (whole[0].0, whole[0].1, allow), (behind, Service::LAST, deny)];
        assert_eq!(spans(&whole, deny), expected);
        let ends = [(Service::FIRST, tcp(1), allow), (tcp(2), Service::LAST, allow)];
        assert_eq!(spans(&ends, deny), [(Service::FIRST, Service::LAST, allow)]);
    }
}
