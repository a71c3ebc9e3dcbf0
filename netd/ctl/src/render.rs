//! Values to text: tables for people, JSON for programs. Pure; nothing is asked and nothing is written here.

use std::fmt::Write;

use serde::Serialize;

use crate::model::{self, Attachment, Firewall, Lease, Network, Plan, Port, Sandbox, Status};
use crate::table::Table;

/// How text is to look.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Look {
    /// Container ids whole.
    pub(crate) full_ids: bool,
    /// Escape sequences for colour.
    pub(crate) colour: bool,
}

impl Look {
    fn id(self, id: &str) -> String {
        if self.full_ids { id.to_owned() } else { model::short_id(id).to_owned() }
    }

    /// `text` in an ANSI colour (31 red, 32 green, 33 yellow).
    pub(crate) fn paint(self, code: u8, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// Any answer as JSON.
pub(crate) fn json(answer: &impl Serialize) -> serde_json::Result<String> {
    Ok(serde_json::to_string_pretty(answer)? + "\n")
}

/// An object a line, for who reads as it is written.
pub(crate) fn json_lines(answers: &[impl Serialize]) -> serde_json::Result<String> {
    answers.iter().map(|answer| Ok(serde_json::to_string(answer)? + "\n")).collect()
}

pub(crate) fn status(status: &Status, look: Look) -> String {
    let mut table = Table::headless();
    let draining = if status.draining == 0 { String::new() } else { format!(", {} more draining", status.draining) };
    for (name, value) in [
        ("version", status.version.clone()),
        ("instance", status.instance.clone()),
        ("networks", status.networks.to_string()),
        ("attachments", format!("{}{draining}", status.attachments)),
        ("leases", status.leases.to_string()),
        ("published ports", status.published_ports.to_string()),
        ("journal", octets(status.journal_bytes)),
    ] {
        table.row([name.to_owned(), value]);
    }
    let mut text = table.render();
    for warning in status.warnings.iter().cloned().chain(status.firewalls.iter().filter_map(dropping)) {
        line(&mut text, format_args!("{} {warning}", look.paint(33, "warning:")));
    }
    text
}

fn dropping(firewall: &Firewall) -> Option<String> {
    let Firewall { chain, remedy, passes, .. } = firewall;
    let owner = firewall.owner();
    (!passes).then(|| {
        format!("{owner} drops what containers send beyond their node (chain {chain}); to let them pass: {remedy}")
    })
}

pub(crate) fn networks(networks: &[Network]) -> String {
    if networks.is_empty() {
        return "No networks: the directories that netd watches hold no CNI configuration.\n".to_owned();
    }
    let mut table = Table::new(["NETWORK", "TYPES", "MODE", "BRIDGE", "SUBNETS", "ATTACHMENTS", "STATE", "FILE"]);
    for network in networks {
        let state = match (network.error.is_empty(), network.others_types().is_empty()) {
            (true, _) => "ok",
            (false, true) => "broken",
            (false, false) => "others'",
        };
        table.row([
            network.name.clone(),
            network.types.join(","),
            network.mode.clone(),
            network.bridge.clone(),
            network.subnets.join(","),
            network.attachments.to_string(),
            state.to_owned(),
            network.file.clone(),
        ]);
    }
    let mut text = table.render();
    if networks.iter().any(|network| !network.error.is_empty() && network.others_types().is_empty()) {
        text.push_str("What is broken: `netdctl network inspect FILE`.\n");
    }
    if networks.iter().any(|network| !network.others_types().is_empty()) {
        text.push_str("What is others' has types that netd leaves to other plugins.\n");
    }
    text
}

pub(crate) fn network(network: &Network, look: Look) -> String {
    let mut text = facts([
        ("network", network.name.clone()),
        ("file", network.file.clone()),
        ("cni version", network.cni_version.clone()),
        ("types", network.types.join(",")),
        ("mode", network.mode.clone()),
        ("bridge", network.bridge.clone()),
        ("subnets", network.subnets.join(",")),
        ("attachments", network.attachments.to_string()),
    ]);
    if !network.others_types().is_empty() {
        line(&mut text, format_args!("{} {}", look.paint(33, "left to other plugins:"), network.error));
    } else if !network.error.is_empty() {
        line(&mut text, format_args!("{} {}", look.paint(31, "broken:"), network.error));
    }
    if !network.unknown_keys.is_empty() {
        let keys = network.unknown_keys.join(", ");
        line(&mut text, format_args!("{} netd does not know {keys}", look.paint(33, "warning:")));
    }
    for unheeded in &network.unheeded_keys {
        line(&mut text, format_args!("{} {unheeded}", look.paint(33, "without effect:")));
    }
    match &network.config {
        None => {}
        Some(serde_json::Value::String(broken)) => line(&mut text, format_args!("\n{}", broken.trim_end())),
        // Alternate form: indented.
        Some(config) => line(&mut text, format_args!("\n{config:#}")),
    }
    text
}

pub(crate) fn sandboxes(sandboxes: &[Sandbox], look: Look) -> String {
    if sandboxes.is_empty() {
        return "No sandboxes: nothing is attached.\n".to_owned();
    }
    let mut table = Table::new(["SANDBOX", "NAME", "NAMESPACE", "NETWORKS", "ADDRESSES", "PORTS", "STATE"]);
    for sandbox in sandboxes {
        let all = &sandbox.attachments;
        table.row([
            look.id(&sandbox.id),
            sandbox.name.clone(),
            sandbox.namespace.clone(),
            unique(all.iter().map(|one| one.network.clone())),
            unique(all.iter().flat_map(|one| one.addresses.iter().map(|address| host(address).to_owned()))),
            unique(all.iter().flat_map(|one| one.ports.iter().map(port))),
            unique(all.iter().map(|one| one.state.clone())),
        ]);
    }
    table.render()
}

pub(crate) fn sandbox(sandbox: &Sandbox) -> String {
    let labels: Vec<String> = sandbox.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let mut text = facts([
        // An inspection is for copying from: never shortened.
        ("sandbox", sandbox.id.clone()),
        ("name", sandbox.name.clone()),
        ("namespace", sandbox.namespace.clone()),
        ("netns", sandbox.netns.clone()),
        ("labels", labels.join(" ")),
    ]);
    if !sandbox.unmet.is_empty() {
        line(&mut text, format_args!("warning: {}", sandbox.unmet));
    }
    for one in &sandbox.attachments {
        line(&mut text, format_args!("\n{}", attachment(one).trim_end()));
    }
    text
}

fn attachment(one: &Attachment) -> String {
    facts([
        ("interface", one.interface.clone()),
        ("network", one.network.clone()),
        ("state", one.state.clone()),
        ("addresses", one.addresses.join(" ")),
        ("mac", one.mac.clone()),
        ("on the node", one.host_interface.clone()),
        ("mode", one.mode.clone()),
        ("bridge", one.bridge.clone()),
        ("ports", one.ports.iter().map(port).collect::<Vec<_>>().join(" ")),
    ])
}

pub(crate) fn leases(leases: &[Lease], look: Look) -> String {
    if leases.is_empty() {
        return "No leases: no address is in use.\n".to_owned();
    }
    let mut table = Table::new(["ADDRESS", "NETWORK", "SANDBOX", "INTERFACE", "NAME", "STATE"]);
    for lease in leases {
        table.row([
            lease.address.clone(),
            lease.network.clone(),
            look.id(&lease.sandbox),
            lease.interface.clone(),
            lease.name.clone(),
            lease.state.clone(),
        ]);
    }
    table.render()
}

pub(crate) fn plan(plan: &Plan) -> String {
    let count = plan.steps.len();
    let mut text = match (count, plan.dry_run) {
        (0, true) => "Nothing would be done: record and kernel agree.\n".to_owned(),
        (0, false) => "Nothing was done: record and kernel agree.\n".to_owned(),
        (_, true) => format!("Would be done, in this order ({count}):\n"),
        (_, false) => format!("Done, in this order ({count}):\n"),
    };
    plan.steps.iter().for_each(|step| line(&mut text, format_args!("  {step}")));
    text
}

fn facts<const N: usize>(pairs: [(&str, String); N]) -> String {
    let mut table = Table::headless();
    pairs.into_iter().for_each(|(name, value)| table.row([name.to_owned(), value]));
    table.render()
}

/// As `nerdctl ps` writes it: where to connect, then where it leads.
fn port(port: &Port) -> String {
    let Port { protocol, host_ip, host_port, container_port } = port;
    let from = match host_ip.as_str() {
        "" => host_port.to_string(),
        ip if ip.contains(':') => format!("[{ip}]:{host_port}"),
        ip => format!("{ip}:{host_port}"),
    };
    format!("{from}->{container_port}/{protocol}")
}

fn host(address: &str) -> &str {
    address.split('/').next().unwrap_or(address)
}

fn unique(words: impl Iterator<Item = String>) -> String {
    let mut kept: Vec<String> = Vec::new();
    words.for_each(|word| {
        if !kept.contains(&word) {
            kept.push(word);
        }
    });
    kept.join(",")
}

fn octets(count: u64) -> String {
    match count {
        0..10_240 => format!("{count} B"),
        10_240..10_485_760 => format!("{} KiB", count / 1_024),
        _ => format!("{} MiB", count / 1_048_576),
    }
}

/// Adds a line.
pub(crate) fn line(text: &mut String, what: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _infallible = text.write_fmt(what);
    text.push('\n');
}

#[cfg(test)]
mod tests;
