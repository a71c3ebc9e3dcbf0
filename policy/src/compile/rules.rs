//! A subject's rules in the order in which they are asked, and the profile they make for one kind of peer.

use std::collections::{BTreeMap, BTreeSet};

use crate::flow::{Direction, Protocol};
use crate::model::{Action, Peer, Peers, Policy, Port, PortRange, Ports, Rule, Tier};
use crate::world::{NamedPort, Node};

use super::atom::{AtomId, Atoms, selects_node};
use super::compiled::{Answer, Entry, PolicyId, Profile};

/// A policy with atoms in the place of selectors.
#[derive(Debug)]
pub(super) struct CompactPolicy {
    pub(super) subject: AtomId,
    pub(super) id: PolicyId,
    tier: Tier,
    log: bool,
    audit: bool,
    ingress: Option<Vec<CompactRule>>,
    egress: Option<Vec<CompactRule>>,
}

#[derive(Debug)]
struct CompactRule {
    action: Action,
    /// `None` is every peer.
    peers: Option<Vec<AtomId>>,
    /// Whether it names the subject's own node.
    own_node: bool,
    /// `None` is all traffic.
    ports: Option<Vec<Port>>,
    /// By the names of its ports, where it denies what goes there: who may have such a port at any number.
    port_doubts: BTreeMap<String, AtomId>,
}

/// The other end, as far as rules can tell.
#[derive(Debug, Clone, Copy)]
pub(super) enum Other<'a> {
    /// An address with these atoms, sorted.
    Peer(&'a [AtomId]),
    /// The node itself.
    OwnNode,
}

impl CompactPolicy {
    pub(super) fn new(policy: &Policy, id: PolicyId, own: Option<&Node>, atoms: &mut Atoms) -> Self {
        let subject = atoms.peer(&Peer::Sandboxes(policy.subject.clone()));
        let mut rules = |direction| {
            let rules: Option<&[Rule]> = policy.rules(direction);
            rules.map(|rules| rules.iter().map(|rule| CompactRule::new(rule, direction, own, atoms)).collect())
        };
        let (ingress, egress) = (rules(Direction::Ingress), rules(Direction::Egress));
        Self { subject, id, tier: policy.tier, log: policy.log, audit: policy.audit, ingress, egress }
    }

    fn rules(&self, direction: Direction) -> Option<&[CompactRule]> {
        match direction {
            Direction::Ingress => self.ingress.as_deref(),
            Direction::Egress => self.egress.as_deref(),
        }
    }

    pub(super) fn speaks(&self, direction: Direction) -> bool {
        self.rules(direction).is_some()
    }

    /// Whether any rule names the subject's own node.
    pub(super) fn names_own_node(&self, direction: Direction) -> bool {
        self.rules(direction).is_some_and(|rules| rules.iter().any(|rule| rule.own_node))
    }

    /// The atoms of its peers, and those that its peers' ports are in doubt by.
    pub(super) fn peers(&self, direction: Direction) -> impl Iterator<Item = AtomId> {
        let rules = || self.rules(direction).into_iter().flatten();
        let doubts = rules().flat_map(|rule| rule.port_doubts.values());
        rules().filter_map(|rule| rule.peers.as_ref()).flatten().chain(doubts).copied()
    }

    /// The names of ports in its rules.
    pub(super) fn port_names(&self, direction: Direction) -> impl Iterator<Item = &str> {
        let ports = self.rules(direction).into_iter().flatten().filter_map(|rule| rule.ports.as_ref()).flatten();
        ports.filter_map(|port| match port {
            Port::Named(_, name) => Some(name.as_str()),
            Port::Range(_) => None,
        })
    }
}

impl CompactRule {
    fn new(rule: &Rule, direction: Direction, own: Option<&Node>, atoms: &mut Atoms) -> Self {
        let own_node = match &rule.peers {
            Peers::Any => false,
            Peers::Of(peers) => peers.iter().any(|peer| match peer {
                Peer::Nodes(selector) => own.is_some_and(|node| selects_node(selector, node)),
                Peer::Sandboxes(_) | Peer::Block(_) => false,
            }),
        };
        let peers = match &rule.peers {
            Peers::Any => None,
            Peers::Of(peers) => {
                let denies = rule.action == Action::Deny;
                let mut of = |peer| [Some(atoms.peer(peer)), denies.then(|| atoms.doubt(peer)).flatten()];
                Some(peers.iter().flat_map(|peer| of(peer).into_iter().flatten()).collect())
            }
        };
        let ports = match &rule.ports {
            Ports::Any => None,
            Ports::Of(ports) => Some(ports.clone()),
        };
        let mut port_doubts = BTreeMap::new();
        for port in ports.iter().flatten() {
            if let Port::Named(_, name) = port {
                atoms.use_name(name);
                // A port's name is its destination's, and this node knows all of its own.
                if rule.action == Action::Deny && direction == Direction::Egress {
                    port_doubts.insert(name.clone(), atoms.port_doubt(name));
                }
            }
        }
        Self { action: rule.action, peers, own_node, ports, port_doubts }
    }

    /// Whether the other end may have the port, and nobody can say at which number.
    fn is_in_doubt(&self, port: &Port, other: Other<'_>) -> bool {
        match (port, other) {
            (Port::Named(_, name), Other::Peer(atoms)) => {
                self.port_doubts.get(name).is_some_and(|doubt| atoms.binary_search(doubt).is_ok())
            }
            (Port::Named(..), Other::OwnNode) | (Port::Range(_), _) => false,
        }
    }

    fn matches(&self, other: Other<'_>) -> bool {
        match (other, &self.peers) {
            (Other::OwnNode, _) => self.own_node,
            (Other::Peer(_), None) => true,
            (Other::Peer(atoms), Some(peers)) => peers.iter().any(|peer| atoms.binary_search(peer).is_ok()),
        }
    }
}

/// A rule that matches the other end, with its ports as numbers.
struct Step {
    policy: usize,
    action: Action,
    ranges: Option<Vec<PortRange>>,
}

/// All answers for one other end. `policies` are in the order of tiers; `ports` are the destination's named ports.
pub(super) fn profile(
    policies: &[&CompactPolicy],
    direction: Direction,
    other: Other<'_>,
    ports: &[&NamedPort],
) -> Profile {
    let mut steps = Vec::new();
    for (number, policy) in policies.iter().enumerate() {
        for rule in policy.rules(direction).into_iter().flatten().filter(|rule| rule.matches(other)) {
            let of = |port| if rule.is_in_doubt(port, other) { all_numbers(port) } else { numbers(port, ports) };
            let ranges = rule.ports.as_ref().map(|wanted| wanted.iter().flat_map(of).collect());
            steps.push(Step { policy: number, action: rule.action, ranges });
        }
    }
    let asked = Asked { policies, steps: &steps, own_node: matches!(other, Other::OwnNode) };
    Profile(asked.entries())
}

/// The numbers of a port at a destination with these named ports.
fn numbers(port: &Port, named: &[&NamedPort]) -> Vec<PortRange> {
    match port {
        Port::Range(range) => vec![*range],
        Port::Named(protocol, name) => named
            .iter()
            .filter(|port| port.name == *name && protocol.is_none_or(|protocol: Protocol| protocol == port.protocol))
            .map(|port| PortRange::of(port.protocol, port.number, port.number))
            .collect(),
    }
}

/// All that a port may be.
fn all_numbers(port: &Port) -> Vec<PortRange> {
    match port {
        Port::Range(range) => vec![*range],
        Port::Named(protocol, _) => {
            let all = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp].into_iter();
            let may = all.filter(|one| protocol.is_none_or(|protocol| protocol == *one));
            may.map(|one| PortRange::of(one, 0, u16::MAX)).collect()
        }
    }
}

/// The answers of one protocol, by ports.
type PortAnswers = Vec<((u16, u16), Answer)>;

struct Asked<'a> {
    policies: &'a [&'a CompactPolicy],
    steps: &'a [Step],
    own_node: bool,
}

impl Asked<'_> {
    /// Protocols that no rule names are answered alike, and neighbours with the same answers are one entry.
    fn entries(&self) -> Vec<Entry> {
        let ranges = || self.steps.iter().filter_map(|step| step.ranges.as_ref()).flatten();
        let named: BTreeSet<u8> = ranges().map(|range| range.protocol).collect();
        let whole = vec![((0, u16::MAX), self.answer(None, 0))];
        let mut lines: Vec<(u8, u8, PortAnswers)> = Vec::new();
        let mut add = |first: u8, last: u8, answers: PortAnswers| match lines.last_mut() {
            Some((_, end, before)) if *before == answers => *end = last,
            Some(_) | None => lines.push((first, last, answers)),
        };
        let mut next = Some(0_u8);
        for protocol in named {
            if let Some(first) = next.filter(|first| *first < protocol) {
                add(first, protocol - 1, whole.clone());
            }
            add(protocol, protocol, self.ports(protocol));
            next = protocol.checked_add(1);
        }
        if let Some(first) = next {
            add(first, u8::MAX, whole);
        }
        let entry = |first, last| move |(ports, answer)| Entry { protocols: (first, last), ports, answer };
        lines.into_iter().flat_map(|(first, last, answers)| answers.into_iter().map(entry(first, last))).collect()
    }

    fn ports(&self, protocol: u8) -> PortAnswers {
        let mut starts = BTreeSet::from([0]);
        let ranges = self.steps.iter().filter_map(|step| step.ranges.as_ref()).flatten();
        for range in ranges.filter(|range| range.protocol == protocol) {
            starts.insert(range.first);
            starts.extend(range.last.checked_add(1));
        }
        let mut answers: PortAnswers = Vec::new();
        for start in starts {
            let answer = self.answer(Some(protocol), start);
            match answers.last_mut() {
                Some((_, before)) if *before == answer => {}
                Some((before, _)) => {
                    before.1 = start - 1;
                    answers.push(((start, u16::MAX), answer));
                }
                None => answers.push(((start, u16::MAX), answer)),
            }
        }
        answers
    }

    /// `None` is a protocol that no rule names.
    fn answer(&self, protocol: Option<u8>, port: u16) -> Answer {
        let matching = |step: &&Step| match (&step.ranges, protocol) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(ranges), Some(protocol)) => {
                ranges.iter().any(|range| range.protocol == protocol && (range.first..=range.last).contains(&port))
            }
        };
        let steps: Vec<&Step> = self.steps.iter().filter(matching).collect();
        let (allowed, by) = self.decide(&steps, false);
        let staged = self.policies.iter().any(|policy| policy.audit).then(|| self.decide(&steps, true));
        let audit = staged.filter(|(staged, _)| allowed && !staged).and_then(|(_, by)| by);
        let policy = |number: usize| self.policies[number];
        Answer {
            allowed,
            by: by.map(|number| policy(number).id),
            log: by.is_some_and(|number| policy(number).log),
            audit: audit.map(|number| policy(number).id),
        }
    }

    /// Whether it passes, and the number of the policy that decides.
    fn decide(&self, steps: &[&Step], with_audit: bool) -> (bool, Option<usize>) {
        let counts = |number: usize| with_audit || !self.policies[number].audit;
        let first = |is_tier: fn(Tier) -> bool| {
            let here = |step: &&&Step| counts(step.policy) && is_tier(self.policies[step.policy].tier);
            steps.iter().find(here).and_then(|step| match step.action {
                Action::Accept => Some((true, Some(step.policy))),
                Action::Deny => Some((false, Some(step.policy))),
                Action::Pass => None,
            })
        };
        let namespaced = |tier| matches!(tier, Tier::Namespaced);
        let isolating =
            (0..self.policies.len()).find(|number| counts(*number) && namespaced(self.policies[*number].tier));
        first(|tier| matches!(tier, Tier::Admin(_)))
            .or_else(|| {
                isolating.filter(|_| !self.own_node).map(|number| first(namespaced).unwrap_or((false, Some(number))))
            })
            .or_else(|| first(|tier| matches!(tier, Tier::Baseline(_))))
            .unwrap_or((true, None))
    }
}
