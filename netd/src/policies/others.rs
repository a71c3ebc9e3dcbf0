//! Sandboxes between nodes, as policies know them: what this node's ask of others', what this node tells of its own, and what
//! is told made a sandbox again. Pure; how it is told, and who is believed, is the fleet's.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use netd_config::{ContainerId, Namespaces};
use netd_fleet::{Needs, NodeName, SandboxRecord};
use netd_policy::{
    Direction, Known, Labels, NAMESPACE_NAME, NamedPort, Namespaces as Selected, Peer, Peers, Policy, Port, Ports,
    Protocol, Rule, Sandbox, SandboxName, SandboxSelector,
};

use super::members::Members;
use crate::attachment::Attachment;

/// What these policies ask of others' sandboxes. Those that they are about are this node's own.
pub(crate) fn needs<'a>(policies: impl Iterator<Item = &'a Policy>) -> Needs {
    let mut needs = Needs::default();
    for policy in policies {
        for direction in [Direction::Ingress, Direction::Egress] {
            for rule in policy.rules(direction).into_iter().flatten() {
                of_rule(rule, direction, &mut needs);
            }
        }
    }
    needs
}

fn of_rule(rule: &Rule, direction: Direction, needs: &mut Needs) {
    if let Peers::Of(peers) = &rule.peers {
        for peer in peers {
            match peer {
                Peer::Sandboxes(selector) => of_selector(selector, needs),
                Peer::Block(_) | Peer::Nodes(_) => {}
            }
        }
    }
    // A port's name is its destination's.
    if let (Ports::Of(ports), Direction::Egress) = (&rule.ports, direction) {
        for port in ports {
            if let Port::Named(_, name) = port {
                needs.sandboxes = true;
                needs.ports.insert(name.clone());
            }
        }
    }
}

fn of_selector(selector: &SandboxSelector, needs: &mut Needs) {
    needs.sandboxes = true;
    needs.networks |= !selector.networks.is_empty();
    needs.labels.extend(selector.labels.requirements.iter().map(|one| one.key.clone()));
    if let Selected::Labelled(labels) = &selector.namespaces {
        let keys = labels.requirements.iter().map(|one| &one.key).filter(|key| *key != NAMESPACE_NAME);
        needs.namespace_labels.extend(keys.cloned());
    }
}

/// What others are told of this node's sandboxes, by container: of the addresses that are `own`, and only what they need.
pub(crate) fn records(
    attachments: &[Attachment],
    namespaces: &Namespaces,
    (needs, own): (&Needs, impl Fn(IpAddr) -> bool),
) -> BTreeMap<ContainerId, SandboxRecord> {
    if !needs.sandboxes {
        return BTreeMap::new();
    }
    let mut members = Members::new("", namespaces.clone());
    attachments.iter().for_each(|attachment| drop(members.join(attachment)));
    let told = |(container, sandbox)| Some((ContainerId::clone(container), record(sandbox, needs, &own)?));
    members.sandboxes().filter_map(told).collect()
}

fn record(sandbox: &Sandbox, needs: &Needs, own: impl Fn(IpAddr) -> bool) -> Option<SandboxRecord> {
    let network = |name: &String| needs.networks.then(|| name.clone());
    let addresses: BTreeMap<IpAddr, Option<String>> = sandbox
        .addresses
        .iter()
        .filter(|(address, _)| own(**address))
        .map(|(address, name)| (*address, network(name)))
        .collect();
    let ports = |name: &String| {
        let of = sandbox.ports.iter().filter(|port| port.name == *name);
        (name.clone(), of.map(|port| (port.protocol.number(), port.number)).collect())
    };
    let SandboxName { namespace, name } = sandbox.name.clone();
    (!addresses.is_empty()).then(|| SandboxRecord {
        namespace,
        name,
        addresses,
        labels: asked(&needs.labels, &sandbox.labels),
        namespace_labels: asked(&needs.namespace_labels, &sandbox.namespace_labels),
        ports: needs.ports.iter().map(ports).collect(),
    })
}

fn asked(keys: &BTreeSet<String>, labels: &Labels) -> BTreeMap<String, Option<String>> {
    keys.iter().map(|key| (key.clone(), labels.get(key).cloned())).collect()
}

/// What a node has told, as a sandbox. Another of its name may be on this node.
pub(crate) fn sandbox(node: &NodeName, record: &SandboxRecord) -> Sandbox {
    let present = |labels: &BTreeMap<String, Option<String>>| -> Labels {
        labels.iter().filter_map(|(key, value)| Some((key.clone(), value.clone()?))).collect()
    };
    let port = |name: &String, (number, port): &(u8, u16)| {
        let protocol =
            [Protocol::Tcp, Protocol::Udp, Protocol::Sctp].into_iter().find(|one| one.number() == *number)?;
        Some(NamedPort { name: name.clone(), protocol, number: *port })
    };
    let known = Known {
        labels: record.labels.keys().cloned().collect(),
        namespace_labels: record.namespace_labels.keys().cloned().collect(),
        networks: record.addresses.values().all(Option::is_some),
        ports: record.ports.keys().cloned().collect(),
    };
    Sandbox {
        name: SandboxName { namespace: record.namespace.clone(), name: format!("{}@{node}", record.name) },
        labels: present(&record.labels),
        namespace_labels: present(&record.namespace_labels),
        addresses: record.addresses.iter().map(|(at, network)| (*at, network.clone().unwrap_or_default())).collect(),
        ports: record.ports.iter().flat_map(|(name, all)| all.iter().filter_map(|one| port(name, one))).collect(),
        node: node.to_string(),
        known: Some(known),
    }
}

#[cfg(test)]
mod tests;
