//! What all kinds have in common: names, annotations, our extensions, and the traffic of ICMP.

use std::collections::BTreeSet;

use crate::model::{Kind, PolicyName, Port, PortRange};

use super::fields::{Field, Object};
use super::names;

/// A document's metadata.
pub(super) struct Meta {
    pub(super) name: PolicyName,
    pub(super) log: bool,
    pub(super) audit: bool,
}

/// Keys that the API server writes, or that have no meaning for us.
const PASSIVE: [&str; 12] = [
    "labels",
    "uid",
    "creationTimestamp",
    "resourceVersion",
    "generation",
    "generateName",
    "managedFields",
    "ownerReferences",
    "finalizers",
    "selfLink",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
];

pub(super) fn meta(document: &Object<'_>, kind: Kind) -> Option<Meta> {
    let object = document.require("metadata", "give the policy a name there")?.object()?;
    for key in PASSIVE {
        object.find(key);
    }
    let name = object.require("name", "name the policy").and_then(|field| names::object_name(&field));
    let namespace = namespace(&object, kind);
    let (log, audit) = annotations(&object);
    object.close();
    let name = PolicyName { kind, namespace: namespace?, name: name?.to_owned() };
    Some(Meta { name, log, audit })
}

fn namespace(object: &Object<'_>, kind: Kind) -> Option<String> {
    let field = object.find("namespace");
    match (kind, field) {
        (Kind::NetworkPolicy, None) => Some("default".to_owned()),
        (Kind::NetworkPolicy, Some(field)) => names::object_name(&field).map(str::to_owned),
        (_, None) => Some(String::new()),
        (_, Some(field)) => {
            field.wrong("means nothing to a cluster-wide policy", "leave it out; select namespaces in subject");
            None
        }
    }
}

fn annotations(object: &Object<'_>) -> (bool, bool) {
    let (mut log, mut audit) = (false, false);
    let Some(annotations) = object.find("annotations").and_then(|field| field.object()) else { return (log, audit) };
    for (key, value) in annotations.entries() {
        match key {
            "netd/log" => log = switch(&value),
            "netd/audit" => audit = switch(&value),
            _ if key.starts_with("netd/") => {
                value.lacks(format!("{key:?} is no annotation of netd"), "netd knows netd/log and netd/audit");
            }
            _ => {}
        }
    }
    (log, audit)
}

fn switch(field: &Field<'_>) -> bool {
    field.word(&[("true", true), ("false", false)]).unwrap_or_default()
}

/// Extension `netd/networkNames`: only addresses on one of these networks.
pub(super) fn networks(object: &Object<'_>) -> BTreeSet<String> {
    let Some(field) = object.find("netd/networkNames") else { return BTreeSet::new() };
    let items = field.list().unwrap_or_default();
    if items.is_empty() {
        field.wrong("names no network", "list at least one, or leave the field out");
    }
    items.iter().filter_map(|item| item.text().map(str::to_owned)).collect()
}

/// Extension `netd/icmp`: ICMP types and codes, beside the ports of a rule.
pub(super) fn icmp(rule: &Object<'_>) -> Vec<Port> {
    let items = rule.find("netd/icmp").and_then(|field| field.list()).unwrap_or_default();
    items.iter().filter_map(icmp_item).collect()
}

fn icmp_item(field: &Field<'_>) -> Option<Port> {
    let object = field.object()?;
    let version6 = object
        .require("family", "use IPv4 or IPv6: their types differ")
        .and_then(|field| field.word(&[("IPv4", false), ("IPv6", true)]));
    let byte = |key| object.find(key).map(|field| (field.number(0, 255), field));
    let (kind, code) = (byte("type"), byte("code"));
    if let (None, Some((_, field))) = (&kind, &code) {
        field.wrong("is a code without a type", "add type");
    }
    object.close();
    let value = |found: Option<(Option<u16>, Field<'_>)>| {
        found.and_then(|(number, _)| number).and_then(|number| u8::try_from(number).ok())
    };
    Some(Port::Range(PortRange::icmp(version6?, value(kind), value(code))))
}
