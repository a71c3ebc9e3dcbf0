//! `networking.k8s.io/v1 NetworkPolicy`.

use crate::flow::Protocol;
use crate::model::{
    Action, Namespaces, Peer, Peers, Policy, Port, PortRange, Ports, Rule, SandboxSelector, Source, Tier,
};
use crate::selector::Selector;

use super::fields::{Field, Object};
use super::meta::{self, Meta};
use super::{names, select};

const PROTOCOLS: [(&str, Protocol); 3] = [("TCP", Protocol::Tcp), ("UDP", Protocol::Udp), ("SCTP", Protocol::Sctp)];

pub(super) fn policy(spec: &Object<'_>, meta: Meta, source: Source) -> Policy {
    let reader = Reader { namespace: &meta.name.namespace, source: &source };
    let labels = spec
        .require("podSelector", "podSelector: {} selects the whole namespace")
        .map(|field| select::selector(&field))
        .unwrap_or_default();
    let ingress = spec.find("ingress").map(|field| reader.rules(&field, "from"));
    let egress = spec.find("egress").map(|field| reader.rules(&field, "to"));
    let (has_ingress, has_egress) = directions(spec, egress.as_ref().is_some_and(|rules| !rules.is_empty()));
    let namespaces = Namespaces::Named(meta.name.namespace.clone());
    Policy {
        tier: Tier::Namespaced,
        subject: SandboxSelector { namespaces, labels, networks: [].into() },
        ingress: has_ingress.then(|| ingress.unwrap_or_default()),
        egress: has_egress.then(|| egress.unwrap_or_default()),
        log: meta.log,
        audit: meta.audit,
        name: meta.name,
        source,
    }
}

/// `policyTypes`, or the default: ingress always, egress where there are egress rules.
fn directions(spec: &Object<'_>, egress_rules: bool) -> (bool, bool) {
    let listed = spec.find("policyTypes").and_then(|field| field.list()).unwrap_or_default();
    if listed.is_empty() {
        return (true, egress_rules);
    }
    let types: Vec<bool> =
        listed.iter().filter_map(|field| field.word(&[("Ingress", false), ("Egress", true)])).collect();
    (types.contains(&false), types.contains(&true))
}

struct Reader<'a> {
    namespace: &'a str,
    source: &'a Source,
}

impl Reader<'_> {
    fn rules(&self, field: &Field<'_>, peers: &'static str) -> Vec<Rule> {
        field.list().unwrap_or_default().iter().filter_map(|item| self.rule(item, peers)).collect()
    }

    fn rule(&self, field: &Field<'_>, key: &'static str) -> Option<Rule> {
        let object = field.object()?;
        let peers = object.find(key).and_then(|field| field.list()).unwrap_or_default();
        let mut ports: Vec<Port> =
            object.find("ports").and_then(|field| field.list()).unwrap_or_default().iter().filter_map(port).collect();
        ports.extend(meta::icmp(&object));
        let peers = match peers.as_slice() {
            [] => Peers::Any,
            peers => Peers::Of(peers.iter().filter_map(|peer| self.peer(peer)).collect()),
        };
        object.close();
        Some(Rule {
            name: None,
            source: Source { line: field.line(), ..self.source.clone() },
            action: Action::Accept,
            peers,
            ports: if ports.is_empty() { Ports::Any } else { Ports::Of(ports) },
        })
    }

    fn peer(&self, field: &Field<'_>) -> Option<Peer> {
        let object = field.object()?;
        let pods = object.find("podSelector").map(|field| select::selector(&field));
        let namespaces = object.find("namespaceSelector").map(|field| select::selector(&field));
        let named = object.find("netd/networkNames").is_some();
        let networks = meta::networks(&object);
        let block = object.find("ipBlock");
        let selects = pods.is_some() || namespaces.is_some() || named;
        let peer = match block {
            Some(block) if selects => {
                block.wrong("stands beside a selector", "make it an item of its own");
                None
            }
            Some(block) => select::block(&block).map(Peer::Block),
            None if !selects => {
                field.wrong(
                    "selects nothing",
                    "use podSelector, namespaceSelector or ipBlock; leave the list out for everyone",
                );
                None
            }
            None => {
                let everywhere = pods.is_none().then(Selector::default);
                let namespaces = match namespaces.or(everywhere) {
                    Some(labels) => Namespaces::Labelled(labels),
                    None => Namespaces::Named(self.namespace.to_owned()),
                };
                Some(Peer::Sandboxes(SandboxSelector { namespaces, labels: pods.unwrap_or_default(), networks }))
            }
        };
        object.close();
        peer
    }
}

fn port(field: &Field<'_>) -> Option<Port> {
    let object = field.object()?;
    let protocol = transport(&object);
    let (port, end) = (object.find("port"), object.find("endPort"));
    let found = match (port, end) {
        (None, None) => protocol.map(|protocol| Port::Range(PortRange::of(protocol, 0, u16::MAX))),
        (None, Some(end)) => {
            end.wrong("is the end of a range without a start", "add port");
            None
        }
        (Some(port), None) if !port.is_number() => {
            names::port_name(&port).and_then(|name| Some(Port::Named(Some(protocol?), name)))
        }
        (Some(port), Some(end)) if !port.is_number() => {
            end.wrong("is the end of a range that starts with a name", "endPort needs a port that is a number");
            None
        }
        (Some(port), None) => {
            port.number(1, u16::MAX).and_then(|port| Some(Port::Range(PortRange::of(protocol?, port, port))))
        }
        (Some(port), Some(end)) => port
            .number(1, u16::MAX)
            .and_then(|first| Some(Port::Range(PortRange::of(protocol?, first, end.number(first, u16::MAX)?)))),
    };
    object.close();
    found
}

/// `protocol`, by default TCP.
pub(super) fn transport(object: &Object<'_>) -> Option<Protocol> {
    let Some(field) = object.find("protocol") else { return Some(Protocol::Tcp) };
    if field.is("ICMP") || field.is("ICMPv6") {
        field.wrong("has no ports", "leave it out of ports, and write netd/icmp beside them");
        return None;
    }
    field.word(&PROTOCOLS)
}
