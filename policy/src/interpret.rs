//! What a kernel with these maps does to a packet. How the maps came about is `compile.rs`.

use std::net::IpAddr;

use crate::compile::{AddressRange, Answer, ClassId, Compiled, ProfileId};
use crate::flow::{Direction, Flow, Traffic};

/// The hook that sees the packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// It goes through the node.
    Forward,
    /// It is for the node itself.
    Input,
    /// The node itself sends it.
    Output,
}

/// The answers of a packet's two ends, where they are restricted on this node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Answers {
    /// At its source.
    pub egress: Option<Answer>,
    /// At its destination.
    pub ingress: Option<Answer>,
}

impl Answers {
    /// Whether neither end denies it.
    #[must_use]
    pub fn allowed(&self) -> bool {
        [self.egress, self.ingress].iter().flatten().all(|answer| answer.allowed)
    }
}

impl Compiled {
    /// What becomes of the first packet of `flow` at `hook`.
    #[must_use]
    pub fn interpret(&self, hook: Hook, flow: Flow) -> Answers {
        if flow.traffic.keeps_link() || self.itself.contains_key(&(flow.from, flow.to)) {
            return Answers::default();
        }
        let egress = self.egress.contains_key(&flow.from);
        let ingress = self.ingress.contains_key(&flow.to);
        let host = |map: &std::collections::BTreeMap<ClassId, ProfileId>, address| {
            map.get(&self.class(address)).copied().and_then(|profile| self.answer(profile, flow.traffic))
        };
        match hook {
            Hook::Forward => Answers {
                egress: egress.then(|| self.peer(Direction::Egress, flow.from, flow.to, flow.traffic)).flatten(),
                ingress: ingress.then(|| self.peer(Direction::Ingress, flow.to, flow.from, flow.traffic)).flatten(),
            },
            Hook::Input => Answers { egress: egress.then(|| host(&self.host_out, flow.from)).flatten(), ingress: None },
            Hook::Output => Answers { egress: None, ingress: ingress.then(|| host(&self.host_in, flow.to)).flatten() },
        }
    }

    /// The class of an address.
    #[must_use]
    pub fn class(&self, address: IpAddr) -> ClassId {
        if let Some(class) = self.classes.get(&address) {
            return *class;
        }
        let before = AddressRange { first: address, last: IpAddr::from([u8::MAX; 16]) };
        match self.blocks.range(..=before).next_back() {
            Some((range, class)) if (range.first..=range.last).contains(&address) => *class,
            Some(_) | None => ClassId::WORLD,
        }
    }

    /// The profile for packets of `direction` between two classes; `None` if the subject has none.
    #[must_use]
    pub fn profile(&self, direction: Direction, subject: ClassId, peer: ClassId) -> Option<ProfileId> {
        let (pairs, any) = match direction {
            Direction::Ingress => (&self.pairs_in, &self.any_in),
            Direction::Egress => (&self.pairs_out, &self.any_out),
        };
        pairs.get(&(subject, peer)).or_else(|| any.get(&subject)).copied()
    }

    fn peer(&self, direction: Direction, subject: IpAddr, peer: IpAddr, traffic: Traffic) -> Option<Answer> {
        match self.profile(direction, self.class(subject), self.class(peer)) {
            Some(profile) => self.answer(profile, traffic),
            // It is contested.
            None => Some(Answer { allowed: false, by: None, log: false, audit: None }),
        }
    }

    fn answer(&self, profile: ProfileId, traffic: Traffic) -> Option<Answer> {
        let covers = |(first, last): (u8, u8)| (first..=last).contains(&traffic.protocol);
        let entries = &self.profiles.get(&profile)?.0;
        let found = entries
            .iter()
            .find(|entry| covers(entry.protocols) && (entry.ports.0..=entry.ports.1).contains(&traffic.port));
        found.map(|entry| entry.answer)
    }
}
