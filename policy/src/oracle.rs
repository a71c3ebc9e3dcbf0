//! The meaning of policies: a verdict straight from the model. Slow and plain, and no part of the compiler.

mod remedy;

use std::net::IpAddr;

pub use remedy::{Remedy, Step, remedies};

use crate::flow::{Direction, Flow, Protocol, Traffic};
use crate::model::{
    Action, Namespaces, Peer, Peers, Policy, PolicyName, Port, Ports, Rule, SandboxSelector, Source, Tier,
};
use crate::world::{Owner, Sandbox, World};

/// What becomes of a flow, and who says so at each end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// At the source, if that is a sandbox.
    pub egress: Ruling,
    /// At the destination, if that is a sandbox.
    pub ingress: Ruling,
}

/// One end's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ruling {
    /// Whether the flow passes.
    pub allowed: bool,
    /// Who says so.
    pub by: Decider,
    /// Whether that one asks for a log (`netd/log`).
    pub log: bool,
    /// A policy in audit mode that would deny what passes.
    pub audit: Option<Decider>,
}

/// Who decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decider {
    /// This end is no sandbox.
    NoSubject,
    /// A sandbox may talk to itself, and keep its IPv6 link.
    Exempt,
    /// No policy has anything to say.
    Default,
    /// Several sandboxes have its address, and no rule could tell which it is: see [`World::contested`].
    Contested,
    /// This rule.
    Rule {
        /// Its policy.
        policy: PolicyName,
        /// Its name, if it has one.
        name: Option<String>,
        /// Where it was written.
        source: Source,
    },
    /// A `NetworkPolicy` selects the sandbox, and no rule of any of them allows the flow.
    Isolated {
        /// The first that selects it.
        policy: PolicyName,
        /// Where it was written.
        source: Source,
    },
}

/// What becomes of `flow`. Replies are not asked about: they belong to their connection.
#[must_use]
pub fn verdict(world: &World, policies: &[Policy], flow: Flow) -> Verdict {
    if flow.traffic.keeps_link() || is_same(world.owner(flow.from), world.owner(flow.to)) {
        let exempt = Ruling { allowed: true, by: Decider::Exempt, log: false, audit: None };
        return Verdict { egress: exempt.clone(), ingress: exempt };
    }
    let [egress, ingress] = ends(world, flow);
    let ruling = |end: Option<End<'_>>, address, peer| match end {
        _ if !policies.is_empty() && is_closed(world, address, peer) => {
            Ruling { allowed: false, by: Decider::Contested, log: false, audit: None }
        }
        Some(end) => end.ruling(policies),
        None => Ruling { allowed: true, by: Decider::NoSubject, log: false, audit: None },
    };
    Verdict { egress: ruling(egress, flow.from, flow.to), ingress: ruling(ingress, flow.to, flow.from) }
}

fn is_closed(world: &World, address: IpAddr, peer: IpAddr) -> bool {
    let is_node = |sandbox: &Sandbox| matches!(world.owner(peer), Owner::Node(name, _) if name == sandbox.node);
    world.contested(address).is_some_and(|sandbox| !is_node(sandbox))
}

/// The source and the destination, where they are sandboxes.
fn ends(world: &World, flow: Flow) -> [Option<End<'_>>; 2] {
    let end = |direction, address, peer| match world.owner(address) {
        Owner::Sandbox(subject) => {
            let is_stranger = world.strangers.iter().any(|block| block.contains(peer));
            let (owner, traffic) = (world.owner(peer), flow.traffic);
            Some(End { direction, subject, address, peer, owner, is_stranger, traffic })
        }
        Owner::Node(..) | Owner::Outside => None,
    };
    [end(Direction::Egress, flow.from, flow.to), end(Direction::Ingress, flow.to, flow.from)]
}

/// Whether a policy is for any address of a sandbox.
#[must_use]
pub fn is_for(policy: &Policy, sandbox: &Sandbox) -> bool {
    sandbox.addresses.keys().any(|address| selects(&policy.subject, sandbox, *address))
}

impl Verdict {
    /// Whether both ends let it pass.
    #[must_use]
    pub fn allowed(&self) -> bool {
        self.egress.allowed && self.ingress.allowed
    }
}

impl Decider {
    /// The policy that decided, if one did.
    #[must_use]
    pub fn policy(&self) -> Option<&PolicyName> {
        match self {
            Self::NoSubject | Self::Exempt | Self::Default | Self::Contested => None,
            Self::Rule { policy, .. } | Self::Isolated { policy, .. } => Some(policy),
        }
    }
}

fn is_same(from: Owner<'_>, to: Owner<'_>) -> bool {
    match (from, to) {
        (Owner::Sandbox(from), Owner::Sandbox(to)) => from.name == to.name,
        (Owner::Sandbox(_) | Owner::Node(..) | Owner::Outside, _) => false,
    }
}

/// One end of a flow.
struct End<'a> {
    direction: Direction,
    subject: &'a Sandbox,
    address: IpAddr,
    peer: IpAddr,
    owner: Owner<'a>,
    is_stranger: bool,
    traffic: Traffic,
}

impl End<'_> {
    fn ruling(&self, policies: &[Policy]) -> Ruling {
        let mut mine: Vec<&Policy> = self.speaking(policies).collect();
        mine.sort_by_key(|policy| (policy.tier, &policy.name));
        let staged = self.decide(&mine);
        let enforced: Vec<&Policy> = mine.iter().copied().filter(|policy| !policy.audit).collect();
        let (allowed, by) = self.decide(&enforced);
        let log = mine.iter().any(|policy| policy.log && Some(&policy.name) == by.policy());
        let audit = (allowed && !staged.0).then_some(staged.1);
        Ruling { allowed, by, log, audit }
    }

    /// The policies that select the subject and say something about this direction.
    fn speaking<'p>(&self, policies: &'p [Policy]) -> impl Iterator<Item = &'p Policy> {
        let speaks = policies.iter().filter(|policy| policy.rules(self.direction).is_some());
        speaks.filter(|policy| selects(&policy.subject, self.subject, self.address))
    }

    fn enforced<'p>(&self, policies: &'p [Policy]) -> impl Iterator<Item = &'p Policy> {
        self.speaking(policies).filter(|policy| !policy.audit)
    }

    /// Asks the tiers in their order. `policies` are sorted, and all select the subject.
    fn decide(&self, policies: &[&Policy]) -> (bool, Decider) {
        let of = |wanted: fn(Tier) -> bool| policies.iter().copied().filter(move |policy| wanted(policy.tier));
        if let Some(decided) = self.first_match(of(|tier| matches!(tier, Tier::Admin(_)))) {
            return decided;
        }
        let isolating: Vec<&Policy> = of(|tier| tier == Tier::Namespaced).collect();
        if !self.is_own_node()
            && let Some(first) = isolating.first()
        {
            return self.first_match(isolating.iter().copied()).unwrap_or_else(|| (false, isolated(first)));
        }
        self.first_match(of(|tier| matches!(tier, Tier::Baseline(_)))).unwrap_or((true, Decider::Default))
    }

    /// The first rule that matches, unless it passes the question on.
    fn first_match<'p>(&self, policies: impl Iterator<Item = &'p Policy>) -> Option<(bool, Decider)> {
        let rules = policies
            .flat_map(|policy| policy.rules(self.direction).into_iter().flatten().map(move |rule| (policy, rule)));
        let (policy, rule) = rules.into_iter().find(|(_, rule)| self.matches(rule))?;
        let by = Decider::Rule { policy: policy.name.clone(), name: rule.name.clone(), source: rule.source.clone() };
        match rule.action {
            Action::Accept => Some((true, by)),
            Action::Deny => Some((false, by)),
            Action::Pass => None,
        }
    }

    fn matches(&self, rule: &Rule) -> bool {
        self.has_peer(rule) && self.has_port(rule)
    }

    fn has_peer(&self, rule: &Rule) -> bool {
        match &rule.peers {
            Peers::Any => !self.is_own_node(),
            Peers::Of(peers) => {
                let denies = rule.action == Action::Deny;
                peers.iter().any(|peer| self.is_peer(peer) || (denies && self.may_be_peer(peer)))
            }
        }
    }

    /// Nobody can say whether it is one.
    fn may_be_peer(&self, peer: &Peer) -> bool {
        match (peer, self.owner) {
            (Peer::Sandboxes(selector), Owner::Sandbox(sandbox)) => sandbox.is_in_doubt(selector),
            (Peer::Sandboxes(_), Owner::Outside) => self.is_stranger,
            (Peer::Sandboxes(_) | Peer::Nodes(_) | Peer::Block(_), _) => false,
        }
    }

    fn has_port(&self, rule: &Rule) -> bool {
        match &rule.ports {
            Ports::Any => true,
            Ports::Of(ports) => {
                let denies = rule.action == Action::Deny;
                ports.iter().any(|port| self.is_port(port) || (denies && self.may_be_port(port)))
            }
        }
    }

    /// Nobody can say whether it is one: all ports of a protocol with ports may be.
    fn may_be_port(&self, port: &Port) -> bool {
        let Port::Named(protocol, name) = port else { return false };
        let is_in_doubt = match (self.direction, self.owner) {
            (Direction::Ingress, _) | (Direction::Egress, Owner::Node(..)) => false,
            (Direction::Egress, Owner::Sandbox(sandbox)) => sandbox.may_name(name),
            (Direction::Egress, Owner::Outside) => self.is_stranger,
        };
        let mut all = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp].into_iter();
        is_in_doubt
            && all.any(|one| one.number() == self.traffic.protocol && protocol.is_none_or(|protocol| protocol == one))
    }

    /// Between a sandbox and its own node only rules that name nodes count.
    fn is_own_node(&self) -> bool {
        matches!(self.owner, Owner::Node(name, _) if name == self.subject.node)
    }

    fn is_peer(&self, peer: &Peer) -> bool {
        match (peer, self.owner) {
            (Peer::Sandboxes(selector), Owner::Sandbox(sandbox)) => selects(selector, sandbox, self.peer),
            (Peer::Nodes(selector), Owner::Node(_, node)) => {
                selector.matches(|key| node.labels.get(key).map(String::as_str))
            }
            (Peer::Block(block), _) => !self.is_own_node() && block.contains(self.peer),
            (Peer::Sandboxes(_) | Peer::Nodes(_), _) => false,
        }
    }

    fn is_port(&self, port: &Port) -> bool {
        match port {
            Port::Range(range) => {
                range.protocol == self.traffic.protocol && (range.first..=range.last).contains(&self.traffic.port)
            }
            Port::Named(protocol, name) => self.destination().is_some_and(|sandbox| {
                sandbox.ports.iter().any(|port| {
                    port.name == *name
                        && protocol.is_none_or(|protocol| protocol == port.protocol)
                        && self.traffic == Traffic::to(port.protocol, port.number)
                })
            }),
        }
    }

    fn destination(&self) -> Option<&Sandbox> {
        match (self.direction, self.owner) {
            (Direction::Ingress, _) => Some(self.subject),
            (Direction::Egress, Owner::Sandbox(sandbox)) => Some(sandbox),
            (Direction::Egress, Owner::Node(..) | Owner::Outside) => None,
        }
    }
}

fn isolated(policy: &Policy) -> Decider {
    Decider::Isolated { policy: policy.name.clone(), source: policy.source.clone() }
}

fn selects(selector: &SandboxSelector, sandbox: &Sandbox, address: IpAddr) -> bool {
    let namespace = match &selector.namespaces {
        Namespaces::Named(name) => *name == sandbox.name.namespace,
        Namespaces::Labelled(labels) => labels.matches(|key| sandbox.namespace_label(key)),
    };
    let network = selector.networks.is_empty()
        || sandbox.addresses.get(&address).is_some_and(|network| selector.networks.contains(network));
    sandbox.is_known_to(selector) && namespace && network && selector.labels.matches(|key| sandbox.label(key))
}
