//! What netd answered about policies, as values for people and programs. Their JSON form is a promise: keys are added,
//! never renamed.

use netd_api::blocking as api;
use serde::Serialize;

/// All policies.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Policies {
    pub(crate) policies: Vec<Policy>,
    pub(crate) files: Vec<File>,
}

/// A policy in force.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Policy {
    pub(crate) kind: String,
    /// Empty for kinds that have none.
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) file: String,
    pub(crate) line: u32,
    pub(crate) directions: Vec<String>,
    /// Selected now.
    pub(crate) sandboxes: u32,
    /// New connections, counted since the rules stand as they do.
    pub(crate) allowed: u64,
    pub(crate) denied: u64,
    /// That passed, and that it would have denied, were it not in audit mode.
    pub(crate) would_deny: u64,
    /// `netdctl policy delete` takes it back.
    pub(crate) applied: bool,
    /// Only `get` shows it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) text: Option<String>,
}

/// A watched file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct File {
    pub(crate) file: String,
    pub(crate) policies: u32,
    /// Empty where the file is good.
    pub(crate) error: String,
}

/// A file that was examined without netd.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Validated {
    pub(crate) file: String,
    pub(crate) policies: usize,
    /// Each with its place; empty where the file is good.
    pub(crate) errors: Vec<String>,
}

/// A policy's whole name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Name {
    pub(crate) kind: String,
    pub(crate) namespace: String,
    pub(crate) name: String,
}

/// Whether a connection is allowed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Verdict {
    pub(crate) allowed: bool,
    pub(crate) from: String,
    pub(crate) to: String,
    pub(crate) reasons: Vec<Reason>,
    /// Empty where it is allowed.
    pub(crate) remedy: String,
    /// By every pair of addresses, those with one answer together. Where they differ, `allowed` is false, and what stands beside
    /// it is of the first that are denied.
    pub(crate) ways: Vec<TestedWay>,
}

/// What pairs of addresses have in common.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct TestedWay {
    pub(crate) allowed: bool,
    /// "IPv4", "IPv6", "IPv6 link-local".
    pub(crate) families: Vec<String>,
    pub(crate) pairs: Vec<Pair>,
    pub(crate) from: String,
    pub(crate) to: String,
    /// Where a published port leads, in words; empty: it is none.
    pub(crate) published: String,
    pub(crate) reasons: Vec<Reason>,
    pub(crate) remedy: String,
}

/// Addresses of sender and receiver.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Pair {
    pub(crate) from: String,
    pub(crate) to: String,
}

/// What decided in one direction.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Reason {
    pub(crate) direction: String,
    pub(crate) allowed: bool,
    pub(crate) rule: String,
    /// FILE:LINE; empty where no rule decides.
    pub(crate) place: String,
}

/// One way.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Way {
    pub(crate) from: String,
    pub(crate) to: String,
    pub(crate) ports: String,
    /// As it would be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ports_after: Option<String>,
    /// Where not all pairs of addresses reach the same: each. The first is as above.
    pub(crate) by: Vec<WayBy>,
}

/// What pairs of addresses reach.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct WayBy {
    /// As in [`TestedWay`].
    pub(crate) families: Vec<String>,
    pub(crate) pairs: Vec<Pair>,
    pub(crate) ports: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ports_after: Option<String>,
}

impl Way {
    /// Whether anything would be otherwise than it is, by any address.
    pub(crate) fn changes(&self) -> bool {
        self.ports_after.as_ref() != Some(&self.ports) || self.by.iter().any(WayBy::changes)
    }
}

impl WayBy {
    pub(crate) fn changes(&self) -> bool {
        self.ports_after.as_ref() != Some(&self.ports)
    }
}

/// A denied packet.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Dropped {
    pub(crate) at_unix_ms: u64,
    pub(crate) from: String,
    pub(crate) to: String,
    pub(crate) protocol: String,
    pub(crate) port: String,
    pub(crate) rule: String,
    pub(crate) place: String,
}

impl From<api::PoliciesResponse> for Policies {
    fn from(answer: api::PoliciesResponse) -> Self {
        Self {
            policies: answer.policies.into_iter().map(Policy::from).collect(),
            files: answer.files.into_iter().map(File::from).collect(),
        }
    }
}

impl From<api::Policy> for Policy {
    fn from(answer: api::Policy) -> Self {
        let Name { kind, namespace, name } = answer.name.unwrap_or_default().into();
        Self {
            kind,
            namespace,
            name,
            file: answer.file,
            line: answer.line,
            directions: answer.directions,
            sandboxes: answer.sandboxes,
            allowed: answer.allowed,
            denied: answer.denied,
            would_deny: answer.would_deny,
            applied: answer.applied,
            text: Some(answer.text),
        }
    }
}

impl From<api::PolicyFile> for File {
    fn from(answer: api::PolicyFile) -> Self {
        Self { file: answer.file, policies: answer.policies, error: answer.error }
    }
}

impl From<api::PolicyName> for Name {
    fn from(answer: api::PolicyName) -> Self {
        Self { kind: answer.kind, namespace: answer.namespace, name: answer.name }
    }
}

impl From<api::TestPolicyResponse> for Verdict {
    fn from(answer: api::TestPolicyResponse) -> Self {
        Self {
            allowed: answer.allowed,
            from: answer.from,
            to: answer.to,
            reasons: answer.reasons.into_iter().map(Reason::from).collect(),
            remedy: answer.remedy,
            ways: answer.ways.into_iter().map(TestedWay::from).collect(),
        }
    }
}

impl From<api::TestedWay> for TestedWay {
    fn from(answer: api::TestedWay) -> Self {
        Self {
            allowed: answer.allowed,
            families: answer.families,
            pairs: answer.pairs.into_iter().map(Pair::from).collect(),
            from: answer.from,
            to: answer.to,
            published: answer.published,
            reasons: answer.reasons.into_iter().map(Reason::from).collect(),
            remedy: answer.remedy,
        }
    }
}

impl From<api::AddressPair> for Pair {
    fn from(answer: api::AddressPair) -> Self {
        Self { from: answer.from, to: answer.to }
    }
}

impl From<api::Reason> for Reason {
    fn from(answer: api::Reason) -> Self {
        Self { direction: answer.direction, allowed: answer.allowed, rule: answer.rule, place: answer.place }
    }
}

impl From<api::Dropped> for Dropped {
    fn from(answer: api::Dropped) -> Self {
        Self {
            at_unix_ms: answer.at_unix_ms,
            from: answer.from,
            to: answer.to,
            protocol: answer.protocol,
            port: answer.port,
            rule: answer.rule,
            place: answer.place,
        }
    }
}

/// The ways of an answer, by name; with `after`, also as they would be.
pub(crate) fn ways(answer: api::ReachResponse, after: bool) -> Vec<Way> {
    let name = |at: u32| usize::try_from(at).ok().and_then(|at| answer.ends.get(at)).cloned().unwrap_or_default();
    let by = |by: api::ReachedBy| WayBy {
        families: by.families,
        pairs: by.pairs.into_iter().map(Pair::from).collect(),
        ports: by.ports,
        ports_after: after.then_some(by.ports_after),
    };
    let way = |pair: api::Reachable| Way {
        from: name(pair.from),
        to: name(pair.to),
        ports: pair.ports,
        ports_after: after.then_some(pair.ports_after),
        by: pair.by.into_iter().map(by).collect(),
    };
    answer.pairs.into_iter().map(way).collect()
}
