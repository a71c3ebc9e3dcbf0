//! Atoms: everything that policies can tell addresses apart by, each with a number. Addresses with the same atoms are
//! one class.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::model::{Block, Namespaces, Peer, SandboxSelector};
use crate::selector::{Selector, Test};
use crate::world::{NamedPort, Node, Sandbox};

/// An atom's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct AtomId(pub(super) u32);

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Atom {
    Peer(Peer),
    /// A container port with a name that some rule uses.
    Port(NamedPort),
    /// Whom a rule that denies sandboxes may mean, and nobody can say.
    Doubt(SandboxSelector),
    /// Who may have a port of this name, and nobody can say at which number.
    PortDoubt(String),
}

/// Where a selector is looked for: the rarest thing that a sandbox must have to match it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Bucket {
    Label(Option<String>, String, String),
    Namespace(String),
    Key(String),
    NamespaceLabel(String, String),
    Everything,
}

/// All atoms in force.
#[derive(Debug, Default)]
pub(super) struct Atoms {
    ids: BTreeMap<Atom, AtomId>,
    selectors: BTreeMap<Bucket, Vec<(AtomId, SandboxSelector)>>,
    nodes: Vec<(AtomId, Selector)>,
    used_names: BTreeSet<String>,
    ports: BTreeMap<AtomId, NamedPort>,
    doubts: BTreeMap<AtomId, SandboxSelector>,
    port_doubts: BTreeMap<AtomId, String>,
}

impl Atoms {
    /// The number of a peer or a subject.
    pub(super) fn peer(&mut self, peer: &Peer) -> AtomId {
        let (id, is_new) = self.number(Atom::Peer(peer.clone()));
        if is_new {
            match peer {
                Peer::Sandboxes(selector) => {
                    for bucket in buckets(selector) {
                        self.selectors.entry(bucket).or_default().push((id, selector.clone()));
                    }
                }
                Peer::Nodes(selector) => self.nodes.push((id, selector.clone())),
                Peer::Block(_) => {}
            }
        }
        id
    }

    /// The number of those who may be this peer, and nobody can say.
    pub(super) fn doubt(&mut self, peer: &Peer) -> Option<AtomId> {
        let Peer::Sandboxes(selector) = peer else { return None };
        let (id, _) = self.number(Atom::Doubt(selector.clone()));
        self.doubts.entry(id).or_insert_with(|| selector.clone());
        Some(id)
    }

    /// The number of those who may have a port of this name, and nobody can say at which number.
    pub(super) fn port_doubt(&mut self, name: &str) -> AtomId {
        let (id, _) = self.number(Atom::PortDoubt(name.to_owned()));
        self.port_doubts.entry(id).or_insert_with(|| name.to_owned());
        id
    }

    /// Whether only one without a name is in it as an address of a range.
    pub(super) fn is_doubt(&self, id: AtomId) -> bool {
        self.doubts.contains_key(&id) || self.port_doubts.contains_key(&id)
    }

    /// Makes container ports named `name` tell classes apart.
    pub(super) fn use_name(&mut self, name: &str) {
        self.used_names.insert(name.to_owned());
    }

    /// All ranges that rules can tell apart; in those of `strangers` anybody may be.
    pub(super) fn blocks<'a>(&'a self, strangers: &'a BTreeSet<Block>) -> impl Iterator<Item = (AtomId, &'a Block)> {
        let named = self.ids.iter().filter_map(|(atom, id)| match atom {
            Atom::Peer(Peer::Block(block)) => Some((*id, block)),
            Atom::Peer(Peer::Sandboxes(_) | Peer::Nodes(_)) | Atom::Port(_) | Atom::Doubt(_) | Atom::PortDoubt(_) => {
                None
            }
        });
        let doubts = || self.doubts.keys().chain(self.port_doubts.keys());
        named.chain(strangers.iter().flat_map(move |block| doubts().map(move |id| (*id, block))))
    }

    pub(super) fn port(&self, id: AtomId) -> Option<&NamedPort> {
        self.ports.get(&id)
    }

    pub(super) fn ports_named<'a>(&'a self, name: &'a str) -> impl Iterator<Item = AtomId> + 'a {
        self.ports.iter().filter(move |(_, port)| port.name == name).map(|(id, _)| *id)
    }

    /// The atoms of a sandbox at one of its addresses, and how many of them are new.
    pub(super) fn of_sandbox(&mut self, sandbox: &Sandbox, address: IpAddr) -> (BTreeSet<AtomId>, Vec<AtomId>) {
        let mut found = BTreeSet::new();
        let mut look = |bucket: &Bucket| {
            let there = self.selectors.get(bucket).into_iter().flatten();
            found.extend(there.filter(|(_, selector)| selects(selector, sandbox, address)).map(|(id, _)| *id));
        };
        let namespace = &sandbox.name.namespace;
        for (key, value) in &sandbox.labels {
            look(&Bucket::Label(Some(namespace.clone()), key.clone(), value.clone()));
            look(&Bucket::Label(None, key.clone(), value.clone()));
            look(&Bucket::Key(key.clone()));
        }
        look(&Bucket::Namespace(namespace.clone()));
        for (key, value) in &sandbox.namespace_labels {
            look(&Bucket::NamespaceLabel(key.clone(), value.clone()));
        }
        look(&Bucket::Everything);
        if sandbox.known.is_some() {
            found.extend(self.doubts.iter().filter(|(_, selector)| sandbox.is_in_doubt(selector)).map(|(id, _)| *id));
            found.extend(self.port_doubts.iter().filter(|(_, name)| sandbox.may_name(name)).map(|(id, _)| *id));
        }
        let mut new = Vec::new();
        for port in
            sandbox.ports.iter().filter(|port| self.used_names.contains(&port.name)).cloned().collect::<Vec<_>>()
        {
            let (id, is_new) = self.number(Atom::Port(port.clone()));
            if is_new {
                self.ports.insert(id, port);
                new.push(id);
            }
            found.insert(id);
        }
        (found, new)
    }

    pub(super) fn of_node(&self, node: &Node) -> BTreeSet<AtomId> {
        self.nodes.iter().filter(|(_, selector)| selects_node(selector, node)).map(|(id, _)| *id).collect()
    }

    fn number(&mut self, atom: Atom) -> (AtomId, bool) {
        let next = AtomId(u32::try_from(self.ids.len()).unwrap_or(u32::MAX));
        let id = *self.ids.entry(atom).or_insert(next);
        (id, id == next)
    }
}

pub(super) fn selects_node(selector: &Selector, node: &Node) -> bool {
    selector.matches(|key| node.labels.get(key).map(String::as_str))
}

fn selects(selector: &SandboxSelector, sandbox: &Sandbox, address: IpAddr) -> bool {
    sandbox.is_known_to(selector)
        && (selector.networks.is_empty()
            || sandbox.addresses.get(&address).is_some_and(|on| selector.networks.contains(on)))
        && selector.labels.matches(|key| sandbox.label(key))
        && match &selector.namespaces {
            Namespaces::Named(name) => *name == sandbox.name.namespace,
            Namespaces::Labelled(labels) => labels.matches(|key| sandbox.namespace_label(key)),
        }
}

/// Where to file a selector: once, or once for each value that one requirement allows.
fn buckets(selector: &SandboxSelector) -> Vec<Bucket> {
    let namespace = match &selector.namespaces {
        Namespaces::Named(name) => Some(name.clone()),
        Namespaces::Labelled(labels) => named_by_label(labels),
    };
    if let Some((key, values)) = fewest_values(&selector.labels) {
        return values.iter().map(|value| Bucket::Label(namespace.clone(), key.to_owned(), value.clone())).collect();
    }
    if let Some(name) = namespace {
        return vec![Bucket::Namespace(name)];
    }
    if let Some(requirement) = selector.labels.requirements.iter().find(|one| one.test == Test::Exists) {
        return vec![Bucket::Key(requirement.key.clone())];
    }
    match &selector.namespaces {
        Namespaces::Labelled(labels) => match fewest_values(labels).filter(|(key, _)| *key != crate::NAMESPACE_NAME) {
            Some((key, values)) => {
                values.iter().map(|value| Bucket::NamespaceLabel(key.to_owned(), value.clone())).collect()
            }
            None => vec![Bucket::Everything],
        },
        Namespaces::Named(_) => vec![Bucket::Everything],
    }
}

/// The one namespace that a selector of namespaces names by [`crate::NAMESPACE_NAME`].
fn named_by_label(labels: &Selector) -> Option<String> {
    let mut named = labels.requirements.iter().filter(|one| one.key == crate::NAMESPACE_NAME);
    named.find_map(|one| match &one.test {
        Test::In(values) if values.len() == 1 => values.first().cloned(),
        Test::In(_) | Test::NotIn(_) | Test::Exists | Test::Absent => None,
    })
}

fn fewest_values(selector: &Selector) -> Option<(&str, &BTreeSet<String>)> {
    let allowed = selector.requirements.iter().filter_map(|one| match &one.test {
        Test::In(values) => Some((one.key.as_str(), values)),
        Test::NotIn(_) | Test::Exists | Test::Absent => None,
    });
    allowed.min_by_key(|(_, values)| values.len())
}
