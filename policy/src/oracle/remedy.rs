//! What would allow a flow that is denied: the rules that almost do. The verdict itself is `oracle.rs`.

use crate::flow::{Direction, Flow};
use crate::model::{Action, Policy, PolicyName, Source, Tier};
use crate::world::World;

use super::{Decider, End, Ruling, ends, verdict};

/// One way to allow a flow at one end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remedy {
    /// The end that denies.
    pub direction: Direction,
    /// What to do.
    pub step: Step,
    /// The policy to change.
    pub policy: PolicyName,
    /// The rule, or the policy, to change.
    pub source: Source,
}

/// What to do to a policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// This rule knows the other end; it lacks the port.
    AddPort,
    /// This rule knows the port; it lacks the other end.
    AddPeer,
    /// No rule comes near: this policy could have one.
    AddRule,
    /// This rule denies.
    ChangeRule,
}

/// Ways to allow `flow` at each end that denies it; none if it passes. Each end that denies needs one.
#[must_use]
pub fn remedies(world: &World, policies: &[Policy], flow: Flow) -> Vec<Remedy> {
    let said = verdict(world, policies, flow);
    let [egress, ingress] = ends(world, flow);
    let of = |end: Option<End<'_>>, ruling: &Ruling| match end {
        Some(end) if !ruling.allowed => end.remedies(policies, &ruling.by),
        Some(_) | None => Vec::new(),
    };
    [of(egress, &said.egress), of(ingress, &said.ingress)].concat()
}

impl End<'_> {
    fn remedies(&self, policies: &[Policy], by: &Decider) -> Vec<Remedy> {
        let remedy = |step, policy: &PolicyName, source: &Source| Remedy {
            direction: self.direction,
            step,
            policy: policy.clone(),
            source: source.clone(),
        };
        match by {
            Decider::NoSubject | Decider::Exempt | Decider::Default | Decider::Contested => Vec::new(),
            Decider::Rule { policy, source, .. } => vec![remedy(Step::ChangeRule, policy, source)],
            Decider::Isolated { policy, source } => {
                let near: Vec<Remedy> = self
                    .enforced(policies)
                    .filter(|policy| policy.tier == Tier::Namespaced)
                    .flat_map(|policy| {
                        policy.rules(self.direction).into_iter().flatten().map(move |rule| (policy, rule))
                    })
                    .filter(|(_, rule)| rule.action == Action::Accept)
                    .filter_map(|(policy, rule)| match (self.has_peer(rule), self.has_port(rule)) {
                        (true, false) => Some(remedy(Step::AddPort, &policy.name, &rule.source)),
                        (false, true) => Some(remedy(Step::AddPeer, &policy.name, &rule.source)),
                        (true, true) | (false, false) => None,
                    })
                    .collect();
                if near.is_empty() { vec![remedy(Step::AddRule, policy, source)] } else { near }
            }
        }
    }
}
