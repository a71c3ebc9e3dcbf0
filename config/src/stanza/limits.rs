//! Settings that limit a container or change who reaches it, and that netd has no rules for. What would not be enforced is
//! refused; what changes nothing is said where the file is shown.

use serde_json::Value;

use crate::json::{Object, quote};

/// firewalld's zone that the reference takes where none is named: it lets everything pass.
const OPEN_ZONE: &str = "trusted";
/// CNI's code for a field that a plugin does not support.
const UNSUPPORTED: u32 = 2;

/// Refuses what `portmap` would have to limit published ports by.
pub(super) fn of_portmap(root: &Object<'_>) {
    for key in ["conditionsV4", "conditionsV6"] {
        if !root.list(key).is_empty() {
            let why = "netd leads every connection to a published port, whatever the condition; remove the key, and say in a \
                       policy who may come in";
            refuse(root, key, why);
        }
    }
    if root.value("snat") == Some(&Value::Bool(false)) {
        let why = "netd lets a container and the node itself reach published ports by the node's addresses, and masquerades \
                   that; remove the key";
        refuse(root, "snat", why);
    }
    if root.value("masqAll") == Some(&Value::Bool(true)) {
        let why =
            "netd shows a container who comes to its published ports, by which its policies judge; remove the key";
        refuse(root, "masqAll", why);
    }
}

/// Refuses a zone of firewalld's that does not let everything pass, where the reference would put the container into it.
pub(super) fn of_firewall(root: &Object<'_>) {
    let zone = root.string("firewalldZone").unwrap_or_default();
    let is_used = root.string("backend") != Some("iptables");
    if is_used && !zone.is_empty() && zone != OPEN_ZONE {
        let why = format!(
            "netd puts no container into firewalld's zone {zone:?}; remove the key, and say in a policy who may come in"
        );
        refuse(root, "firewalldZone", &why);
    }
}

/// Refuses a rate for an interface that netd makes.
pub(super) fn of_interface(root: &Object<'_>) {
    let Some(bandwidth) = root.object("runtimeConfig").and_then(|given| given.object("bandwidth")) else { return };
    let is_limit = |value: &Value| value.as_f64().is_some_and(|rate| rate != 0.0);
    if bandwidth.entries().any(|(_, value)| is_limit(value)) {
        let why = "netd limits no rates yet; take the limit from the container (a pod's annotations kubernetes.io/ingress-bandwidth \
                   and egress-bandwidth), or the capability bandwidth from this plugin, and let the official plugin bandwidth follow it";
        root.mistakes.add(&root.path("runtimeConfig.bandwidth"), UNSUPPORTED, why);
    }
}

/// Capabilities that netd does nothing for where it makes the interface: each with what that means.
const UNDONE: [(&str, &str); 4] = [
    ("bandwidth", "netd limits no rates: a container that asks for a limit is refused"),
    ("dns", "netd answers with the name servers of the file, not with the runtime's"),
    ("aliases", "netd gives no names to other containers"),
    ("deviceID", "netd moves no device into the container"),
];

fn undone(root: &Object<'_>) -> Vec<String> {
    let Some(declared) = root.object("capabilities") else { return Vec::new() };
    let told = |(name, meaning): &(&str, &str)| {
        (declared.value(name) == Some(&Value::Bool(true))).then(|| format!("{} true: {meaning}", declared.path(name)))
    };
    UNDONE.iter().filter_map(told).collect()
}

fn refuse(root: &Object<'_>, key: &str, why: &str) {
    root.mistakes.add(&root.path(key), UNSUPPORTED, why);
}

/// The keys of a plugin that have no effect with netd, and take nothing away: each with what that means.
pub(crate) fn unheeded(kind: &str, root: &Object<'_>) -> Vec<String> {
    let keys: &[(&str, &str)] = match kind {
        "portmap" => &[
            ("markMasqBit", "netd masquerades what comes back to its own node without a mark"),
            ("externalSetMarkChain", "netd masquerades what comes back to its own node without that chain"),
        ],
        "firewall" => &[(
            "iptablesAdminChainName",
            "netd leads nothing to that chain: a rule that somebody writes there holds only where FORWARD leads to it \
             (`netdctl doctor` looks); write a policy",
        )],
        "bridge" | "netd" | "ptp" => return undone(root),
        _ => &[],
    };
    let told =
        |(key, meaning): &(&str, &str)| Some(format!("{} {}: {meaning}", root.path(key), quote(root.value(key)?)));
    keys.iter().filter_map(told).collect()
}
