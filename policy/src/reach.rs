//! What may begin between two addresses, as a set of traffic: both ends' profiles at once, without asking packet by packet.
//! One packet's fate is `interpret.rs`; how a set is written is `reach/words.rs`.

mod words;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use crate::compile::{ClassId, Compiled, Profile, ProfileId};
use crate::flow::{Direction, ICMP, ICMPV6, Traffic};

/// A set of traffic of one IP version: sorted ranges that do not touch. The other version's ICMP is not in it, nor what
/// keeps an IPv6 link ([`Traffic::keeps_link`]), which always passes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reach {
    is_v6: bool,
    ranges: Vec<Range>,
}

/// Traffic as numbers: protocol times 65536 and port, first and last.
type Range = (u32, u32);

const LAST: u32 = (u8::MAX as u32) << 16 | u16::MAX as u32;

/// The reaches between a node's own sandboxes, the node, and everybody else. Many pairs have one reach.
#[derive(Debug)]
pub struct Reaches<'a> {
    compiled: &'a Compiled,
    node: &'a BTreeSet<IpAddr>,
    known: BTreeMap<(Family, Said), Arc<Reach>>,
}

type Family = bool;

/// What source and destination have to say.
type Said = [Say; 2];

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Say {
    /// Not asked.
    Nothing,
    /// What this profile allows.
    By(ProfileId),
    /// Nothing passes: it is contested.
    No,
}

impl From<Option<ProfileId>> for Say {
    fn from(profile: Option<ProfileId>) -> Self {
        profile.map_or(Self::Nothing, Self::By)
    }
}

/// A pair whose reach is another in one state than in another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changed {
    /// Source.
    pub from: IpAddr,
    /// Destination.
    pub to: IpAddr,
    /// What was allowed.
    pub before: Arc<Reach>,
    /// What is allowed.
    pub after: Arc<Reach>,
}

impl<'a> Reaches<'a> {
    /// By what is compiled for the node with these addresses.
    #[must_use]
    pub fn new(compiled: &'a Compiled, node: &'a BTreeSet<IpAddr>) -> Self {
        Self { compiled, node, known: BTreeMap::new() }
    }

    /// What this node lets begin from one address to another of the same IP version. The ends on other nodes are asked there.
    pub fn between(&mut self, from: IpAddr, to: IpAddr) -> Arc<Reach> {
        let (said, is_v6) = (self.said(from, to), from.is_ipv6());
        let compiled = self.compiled;
        let reach = self.known.entry((is_v6, said)).or_insert_with(|| {
            let narrowed = |reach: Reach, say: &Say| match say {
                Say::Nothing => reach,
                Say::By(id) => compiled.profiles.get(id).map(|one| reach.narrowed(&allowed(one))).unwrap_or(reach),
                Say::No => reach.narrowed(&[]),
            };
            Arc::new(said.iter().fold(Reach::all(is_v6), narrowed))
        });
        Arc::clone(reach)
    }

    /// Those of `pairs` that reach something else in `after`.
    pub fn changed(&mut self, after: &mut Self, pairs: impl IntoIterator<Item = (IpAddr, IpAddr)>) -> Vec<Changed> {
        let both = pairs.into_iter().map(|(from, to)| Changed {
            from,
            to,
            before: self.between(from, to),
            after: after.between(from, to),
        });
        both.filter(|changed| changed.before != changed.after).collect()
    }

    fn said(&self, from: IpAddr, to: IpAddr) -> Said {
        let compiled = self.compiled;
        if compiled.itself.contains_key(&(from, to)) {
            return [Say::Nothing; 2];
        }
        let egress = compiled.egress.contains_key(&from);
        let ingress = compiled.ingress.contains_key(&to);
        match (self.node.contains(&from), self.node.contains(&to)) {
            (true, true) => [Say::Nothing; 2],
            (true, false) => [Say::Nothing, self.by_host(ingress, &compiled.host_in, to)],
            (false, true) => [self.by_host(egress, &compiled.host_out, from), Say::Nothing],
            (false, false) => {
                [self.by_peer(egress, Direction::Egress, from, to), self.by_peer(ingress, Direction::Ingress, to, from)]
            }
        }
    }

    fn by_host(&self, asked: bool, table: &BTreeMap<ClassId, ProfileId>, subject: IpAddr) -> Say {
        asked.then(|| table.get(&self.compiled.class(subject)).copied()).flatten().into()
    }

    fn by_peer(&self, asked: bool, direction: Direction, subject: IpAddr, peer: IpAddr) -> Say {
        if !asked {
            return Say::Nothing;
        }
        let (subject, peer) = (self.compiled.class(subject), self.compiled.class(peer));
        self.compiled.profile(direction, subject, peer).map_or(Say::No, Say::By)
    }
}

impl Reach {
    /// All traffic of an IP version.
    #[must_use]
    pub fn all(is_v6: bool) -> Self {
        let foreign = if is_v6 { ICMP } else { ICMPV6 };
        let mut asked = without(&[(0, LAST)], &[whole(foreign)]);
        if is_v6 {
            let kind = |kind: u32| (u32::from(ICMPV6) << 16) | (kind << 8);
            asked = without(&asked, &[(kind(130), kind(138) - 1), (kind(143), kind(144) - 1)]);
        }
        Self { is_v6, ranges: asked }
    }

    /// Whether nothing is in it.
    #[must_use]
    pub fn is_none(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Whether everything is in it.
    #[must_use]
    pub fn is_all(&self) -> bool {
        *self == Self::all(self.is_v6)
    }

    /// Whether this is in it.
    #[must_use]
    pub fn contains(&self, traffic: Traffic) -> bool {
        let number = number(traffic.protocol, traffic.port);
        let behind = self.ranges.partition_point(|(first, _)| *first <= number);
        behind.checked_sub(1).is_some_and(|at| number <= self.ranges[at].1)
    }

    /// What is in it and not in `other`.
    #[must_use]
    pub fn without(&self, other: &Self) -> Self {
        Self { ranges: without(&self.ranges, &other.ranges), ..*self }
    }

    fn narrowed(&self, to: &[Range]) -> Self {
        let outside = without(&[(0, LAST)], to);
        Self { ranges: without(&self.ranges, &outside), ..*self }
    }
}

fn number(protocol: u8, port: u16) -> u32 {
    u32::from(protocol) << 16 | u32::from(port)
}

fn whole(protocol: u8) -> Range {
    (number(protocol, 0), number(protocol, u16::MAX))
}

/// What a profile allows, sorted.
fn allowed(profile: &Profile) -> Vec<Range> {
    let mut ranges = Vec::new();
    for entry in profile.0.iter().filter(|entry| entry.answer.allowed) {
        let (from, to) = entry.protocols;
        if entry.ports == (0, u16::MAX) {
            ranges.push((number(from, 0), number(to, u16::MAX)));
        } else {
            ranges.extend((from..=to).map(|one| (number(one, entry.ports.0), number(one, entry.ports.1))));
        }
    }
    ranges.sort_unstable();
    ranges
}

/// The parts of `ranges` that none of `holes` covers. Both are sorted; what comes out does not touch where what goes in does
/// not.
fn without(ranges: &[Range], holes: &[Range]) -> Vec<Range> {
    let mut left = Vec::new();
    for (first, last) in ranges.iter().copied() {
        let mut start = Some(first);
        let near = holes.partition_point(|hole| hole.1 < first);
        for hole in holes[near..].iter().take_while(|hole| hole.0 <= last) {
            let Some(from) = start else { break };
            if from < hole.0 {
                left.push((from, hole.0 - 1));
            }
            start = hole.1.checked_add(1).filter(|next| *next <= last);
        }
        left.extend(start.map(|from| (from, last)));
    }
    left
}
