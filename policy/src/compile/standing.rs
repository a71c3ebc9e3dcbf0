//! What a kernel holds already, by the numbers of an earlier compiler: where it fits, a new one goes on with them, and little
//! has to be written. Which numbers there are is `classes.rs`'s and `profiles.rs`'s.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::flow::Direction;

use super::compiled::{AddressRange, Answer, ClassId, Compiled, Entry, PolicyId, Profile, ProfileId};

/// Tables that were read back.
#[derive(Debug, Default)]
pub(super) struct Standing {
    tables: Compiled,
    bare: BTreeMap<ProfileId, Vec<Entry>>,
}

impl Standing {
    pub(super) fn new(tables: Compiled) -> Self {
        let bare = tables.profiles.iter().map(|(id, profile)| (*id, bare(profile))).collect();
        Self { tables, bare }
    }

    pub(super) fn classes(&self) -> BTreeMap<IpAddr, ClassId> {
        self.tables.classes.iter().map(|(address, class)| (*address, *class)).collect()
    }

    /// The class that packets of an address are looked up by, which may be that of the range around it; `None`: the world's.
    pub(super) fn class(&self, address: IpAddr) -> Option<ClassId> {
        Some(self.tables.class(address)).filter(|class| *class != ClassId::WORLD)
    }

    pub(super) fn block(&self, range: &AddressRange) -> Option<ClassId> {
        self.tables.blocks.get(range).copied()
    }

    pub(super) fn blocks(&self) -> impl Iterator<Item = (&AddressRange, &ClassId)> {
        self.tables.blocks.iter()
    }

    /// The profile of a subject's packets with a peer, or, without one, with its own node.
    pub(super) fn profile(&self, direction: Direction, subject: ClassId, peer: Option<ClassId>) -> Option<ProfileId> {
        let tables = &self.tables;
        let (pairs, host) = match direction {
            Direction::Ingress => (&tables.pairs_in, &tables.host_in),
            Direction::Egress => (&tables.pairs_out, &tables.host_out),
        };
        match peer {
            None => host.get(&subject).copied(),
            Some(peer) => pairs.get(&(subject, peer)).copied().or_else(|| self.fallback(direction, subject)),
        }
    }

    pub(super) fn fallback(&self, direction: Direction, subject: ClassId) -> Option<ProfileId> {
        let any = match direction {
            Direction::Ingress => &self.tables.any_in,
            Direction::Egress => &self.tables.any_out,
        };
        any.get(&subject).copied()
    }

    /// Whether this is what stands by that number.
    pub(super) fn is(&self, id: ProfileId, profile: &Profile) -> bool {
        self.bare.get(&id).is_some_and(|standing| *standing == bare(profile))
    }

    /// The greatest number of a class, and of a profile.
    pub(super) fn last(&self) -> (u32, u32) {
        let tables = &self.tables;
        let pairs = [&tables.pairs_in, &tables.pairs_out].into_iter().flat_map(|pairs| pairs.iter());
        let single = [&tables.any_in, &tables.any_out, &tables.host_in, &tables.host_out];
        let single = single.into_iter().flat_map(|table| table.iter().map(|(subject, by)| ([*subject; 2], *by)));
        let named = pairs.map(|((subject, peer), by)| ([*subject, *peer], *by)).chain(single);
        let (mut class, mut profile) = (0, self.bare.keys().next_back().map_or(0, |last| last.0));
        for (classes, by) in named {
            class = classes.iter().fold(class, |last, one| last.max(one.0));
            profile = profile.max(by.0);
        }
        let of_addresses = tables.classes.values().chain(tables.blocks.values());
        (of_addresses.fold(class, |last, one| last.max(one.0)), profile)
    }
}

/// A profile as a kernel holds it: who says so is not told there, and of ports each protocol has its own.
fn bare(profile: &Profile) -> Vec<Entry> {
    let each = |entry: &Entry| {
        let (first, last) = entry.protocols;
        let is_whole = entry.ports == (0, u16::MAX);
        let answer = told(entry.answer);
        let ports = entry.ports;
        let runs: Vec<(u8, u8)> =
            if is_whole { vec![(first, last)] } else { (first..=last).map(|one| (one, one)).collect() };
        runs.into_iter().map(move |protocols| Entry { protocols, ports, answer })
    };
    let mut entries: Vec<Entry> = profile.0.iter().flat_map(each).collect();
    entries.sort_unstable();
    entries
}

fn told(answer: Answer) -> Answer {
    let Answer { allowed, log, audit, .. } = answer;
    let audit = audit.filter(|_| allowed).map(|_| PolicyId(0));
    Answer { allowed, by: None, log: log && allowed && audit.is_none(), audit }
}
