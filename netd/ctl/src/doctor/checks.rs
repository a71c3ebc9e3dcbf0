//! Judges the facts. Pure. netd, its networks and the plugins are here; kernel, sysctls, neighbours, containerd, firewalls
//! and the fleet have files of their own.

use std::collections::BTreeSet;

use super::containerd::{self, OURS};
use super::facts::{Answers, Facts, Nerdctl, Plugins, Socket};
use super::{Finding, admin, firewall, fleet, kernel, neighbours, sysctl};
use crate::model::{Network, Sandbox, short_id};

/// Names that our folder must have: what nerdctl's and containerd's own conflists call.
const NEEDED: [&str; 7] = ["bridge", "firewall", "host-local", "loopback", "portmap", "ptp", "tuning"];
/// An attachment that publishes more has none of them reserved.
const MANY_PORTS: usize = 256;
/// Stale reservations that are named; the others are counted.
const NAMED: usize = 5;

pub(crate) fn all(facts: &Facts) -> Vec<Finding> {
    let empty = Answers::default();
    let answers = facts.netd.as_ref().unwrap_or(&empty);
    let mut findings = netd(facts, env!("CARGO_PKG_VERSION"));
    findings.extend(socket(&facts.socket.0, facts.socket.1));
    if facts.netd.is_ok() {
        findings.extend(networks(&answers.networks));
    }
    findings.extend(answers.sandboxes.iter().filter_map(many_ports));
    findings.extend(kernel::check(&facts.kernel));
    findings.extend(sysctl::check(&facts.sysctls, &bridges(answers), answers.status.attachments));
    findings.extend(sysctl::ipv6(&facts.sysctls, answers.networks.as_deref().unwrap_or_default()));
    findings.extend(neighbours::check(&facts.neighbours, answers.status.attachments));
    findings.extend(containerd::check(&facts.containerd));
    let first = answers.networks.as_ref().ok().and_then(|networks| networks.first());
    findings.extend(plugins(&facts.plugins, first.is_some_and(|network| network.error.is_empty())));
    findings.extend(nerdctl(&facts.nerdctl));
    let status = facts.netd.as_ref().ok().map(|answers| &answers.status);
    findings.extend(firewall::check(&facts.firewalls, status, facts.sysctls.bridge_nf));
    findings.extend(admin::check(&facts.admin));
    let ours = facts.netd.is_ok().then(|| bridges(answers));
    let networks = answers.networks.as_deref().unwrap_or_default();
    findings.extend(fleet::check(
        &facts.fleet,
        (ours.as_ref(), networks),
        (&facts.firewalls, &facts.sysctls, &facts.kernel),
    ));
    findings.push(reservations(facts));
    findings
}

fn netd(facts: &Facts, own_version: &str) -> Vec<Finding> {
    let status = match &facts.netd {
        Ok(answers) => &answers.status,
        Err(error) => {
            let meaning = "gives no answer: no container can start, and networks and attachments were not examined";
            return vec![Finding::problem("netd", meaning, error)];
        }
    };
    let mut findings: Vec<Finding> = Vec::new();
    findings.push(if status.version == own_version {
        Finding::ok("netd", format!("runs, version {own_version}"))
    } else {
        let meaning = format!("version {} runs, netdctl is {own_version}", status.version);
        Finding::warning("netd", meaning, "restart it after an upgrade: `systemctl restart netd`")
    });
    let warned = |warning: &String| Finding::warning("netd", warning, "netd's own warning; it names what to do");
    findings.extend(status.warnings.iter().map(warned));
    findings
}

fn socket(path: &str, found: Option<Socket>) -> Option<Finding> {
    let object = format!("socket {path}");
    // Where it is missing, netd's own finding says so.
    let Socket { is_socket, owner, mode } = found?;
    Some(if !is_socket {
        Finding::problem(object, "is no socket", "move the file away, then `systemctl restart netd`")
    } else if owner != 0 || mode & 0o022 != 0 {
        let meaning = format!("owner {owner}, mode {mode:03o}: others than root may be let in by it");
        Finding::problem(object, meaning, format!("`chown root {path} && chmod 0700 {path}`"))
    } else {
        Finding::ok(object, format!("root's, mode {mode:03o}"))
    })
}

fn networks(networks: &Result<Vec<Network>, String>) -> Vec<Finding> {
    let networks = match networks {
        Err(error) => return vec![Finding::warning("networks", "not examined", error)],
        Ok(networks) if networks.is_empty() => {
            let remedy = "make one with `nerdctl network create`, or install netd's 00-netd.conflist in /etc/cni/net.d";
            return vec![Finding::warning(
                "networks",
                "there is none: CRI and nerdctl have nothing to attach to",
                remedy,
            )];
        }
        Ok(networks) => networks,
    };
    networks.iter().map(network).collect()
}

fn network(network: &Network) -> Finding {
    let object = match network.name.as_str() {
        "" => format!("network file {}", network.file),
        name => format!("network {name}"),
    };
    let others = network.others_types();
    if !others.is_empty() {
        return left(object, network, &others);
    }
    if !network.error.is_empty() {
        return Finding::problem(object, "cannot be attached to", format!("{}: {}", network.file, network.error));
    }
    if !network.unknown_keys.is_empty() {
        let meaning = format!("netd does not know {}; it goes by the rest", network.unknown_keys.join(", "));
        return Finding::warning(object, meaning, format!("look for a misspelt key in {}", network.file));
    }
    Finding::ok(object, format!("good ({})", network.file))
}

/// A type that nobody knows may be a misspelt one.
fn left(object: String, network: &Network, others: &[&str]) -> Finding {
    let meaning =
        format!("left to other plugins ({}), which the runtime has to find ({})", others.join(", "), network.file);
    if others.iter().all(|kind| netd_config::knows_plugin(kind)) {
        return Finding::ok(object, meaning);
    }
    Finding::warning(object, meaning, format!("where a type is misspelt, correct it: {}", network.error))
}

fn bridges(answers: &Answers) -> BTreeSet<String> {
    let attached =
        answers.sandboxes.iter().flat_map(|sandbox| sandbox.attachments.iter().map(|one| one.bridge.clone()));
    let named = answers.networks.iter().flatten().map(|network| network.bridge.clone());
    attached.chain(named).filter(|bridge| !bridge.is_empty()).collect()
}

fn many_ports(sandbox: &Sandbox) -> Option<Finding> {
    let count = sandbox.attachments.iter().map(|one| one.ports.len()).max()?;
    (count > MANY_PORTS).then(|| {
        Finding::warning(
            format!("sandbox {}", short_id(&sandbox.id)),
            format!(
                "publishes {count} ports: of more than {MANY_PORTS} none is reserved, so another program of this node may take one \
                 (packets to it go to the sandbox all the same)"
            ),
            "publish fewer ports, or run it with the host's network",
        )
    })
}

/// Where `ctr run --cni` looks for plugins, and nowhere else (go-cni's default).
const OF_CTR: &str = "/opt/cni/bin";

/// `is_first`: the network whose file comes first is netd's.
fn plugins(plugins: &Plugins, is_first: bool) -> Vec<Finding> {
    let missing: Vec<&str> = NEEDED.into_iter().filter(|name| !plugins.ours.contains(*name)).collect();
    let mut findings = Vec::new();
    findings.push(if missing.is_empty() {
        Finding::ok(OURS, "answers to every plugin name that is needed")
    } else {
        let meaning = format!("lacks {}: conflists that name them fail or reach other plugins", missing.join(", "));
        Finding::problem(OURS, meaning, "link these names to netd-cni in that folder")
    });
    findings.extend(plugins.others.iter().map(|folder| {
        if *folder == OF_CTR && is_first {
            let meaning = "holds other CNI plugins: `ctr run --cni` takes those, and its containers are none of netd's";
            let remedy =
                format!("link the names in {OURS} there (packaging/README.md), or run containers by nerdctl or CRI");
            return Finding::warning(*folder, meaning, remedy);
        }
        Finding::ok(*folder, format!("holds other CNI plugins; unused for netd's types where {OURS} comes first"))
    }));
    findings
}

fn nerdctl(nerdctl: &Nerdctl) -> Option<Finding> {
    let object = "nerdctl cni_path";
    if let Some(error) = &nerdctl.error {
        return Some(Finding::problem("/etc/nerdctl/nerdctl.toml", format!("cannot be read: {error}"), "correct it"));
    }
    let remedy = format!("set cni_path = {OURS:?} in /etc/nerdctl/nerdctl.toml (packaging/nerdctl)");
    match (nerdctl.cni_path.as_deref(), nerdctl.installed) {
        (Some(path), _) if path.trim_end_matches('/') == OURS => Some(Finding::ok(object, OURS)),
        (Some(path), _) => {
            Some(Finding::problem(object, format!("{path}: nerdctl runs the plugins there, not netd"), remedy))
        }
        (None, true) => Some(Finding::problem(object, "not set: nerdctl does not find netd", remedy)),
        (None, false) => None,
    }
}

/// A reservation whose container neither netd nor containerd knows keeps its address from everybody.
fn reservations(facts: &Facts) -> Finding {
    let object = "/var/lib/cni/networks";
    let known = |id: &str| {
        let attached = facts.netd.iter().flat_map(|answers| &answers.sandboxes).any(|sandbox| sandbox.id == id);
        attached || facts.tasks.contains(id)
    };
    let stale: Vec<&str> =
        facts.reservations.iter().filter(|one| !known(&one.container)).map(|one| one.file.as_str()).collect();
    if stale.is_empty() {
        return Finding::ok(object, format!("{} reservations, none stale", facts.reservations.len()));
    }
    let more = if stale.len() > NAMED { format!(" and {} more", stale.len() - NAMED) } else { String::new() };
    let named = stale.iter().take(NAMED).copied().collect::<Vec<_>>().join(", ");
    Finding::warning(
        object,
        format!("{} addresses are held for containers that do not run: {named}{more}", stale.len()),
        "if no stopped container of another engine needs them, remove these files",
    )
}

#[cfg(test)]
pub(super) mod tests;
