//! Other firewalls. An accept of netd ends netd's chain only: another's drop still wins.

use serde::Deserialize;

use super::Finding;

/// A base chain as `nft -j list chains` tells it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Chain {
    family: String,
    table: String,
    name: String,
    #[serde(default)]
    hook: String,
    #[serde(default)]
    policy: String,
}

/// What was found of others.
#[derive(Debug, Clone, Default)]
pub(crate) struct Firewalls {
    /// Programs: "docker", "ufw", "firewalld".
    pub(crate) names: Vec<&'static str>,
    /// `None`: nft is missing or may not be asked.
    pub(crate) chains: Option<Vec<Chain>>,
    /// The old iptables, which `nft` does not show, has a filter table.
    pub(crate) legacy: bool,
}

/// Reads `nft -j list chains`. `None`: it is something else.
pub(super) fn chains(text: &str) -> Option<Vec<Chain>> {
    #[derive(Deserialize)]
    struct Entry {
        chain: Option<Chain>,
    }
    #[derive(Deserialize)]
    struct Answer {
        nftables: Vec<Entry>,
    }
    let answer: Answer = serde_json::from_str(text).ok()?;
    Some(answer.nftables.into_iter().filter_map(|entry| entry.chain).collect())
}

/// `instance` is netd's name, which its tables bear; `bridge_nf` the value of bridge-nf-call-iptables.
pub(super) fn check(firewalls: &Firewalls, instance: &str, bridge_nf: Option<u32>) -> Vec<Finding> {
    let drops = |chain: &&Chain| {
        chain.hook == "forward" && chain.policy == "drop" && chain.table != instance && chain.family != "bridge"
    };
    let dropping: Vec<&Chain> = firewalls.chains.iter().flatten().filter(drops).collect();
    let mut findings: Vec<Finding> = dropping.iter().map(|chain| drop_finding(chain)).collect();
    findings.extend(firewalls.names.iter().map(|name| running(name)));
    if firewalls.legacy {
        findings.push(Finding::warning(
            "iptables-legacy",
            "has a filter table, which nft does not show; its FORWARD policy may drop what netd accepts",
            "look with `iptables-legacy -S FORWARD`; move to iptables-nft if you can",
        ));
    }
    match bridge_nf {
        Some(1) if !dropping.is_empty() || firewalls.legacy => findings.push(Finding::warning(
            "net.bridge.bridge-nf-call-iptables",
            "1: packets between two sandboxes on one bridge pass that FORWARD chain too",
            "accept the bridge there, or set it to 0 if nothing else (such as Kubernetes) needs it",
        )),
        Some(value) => findings.push(Finding::ok("br_netfilter", format!("bridge-nf-call-iptables is {value}"))),
        None => findings.push(Finding::ok("br_netfilter", "not loaded: bridged packets pass no iptables chain")),
    }
    match &firewalls.chains {
        None => findings.push(Finding::warning(
            "nftables",
            "cannot list other programs' chains",
            "run doctor as root, with Debian's package nftables installed",
        )),
        Some(_) if dropping.is_empty() => {
            findings.push(Finding::ok("nftables", "no other program's chain drops forwarded packets by policy"));
        }
        Some(_) => {}
    }
    findings
}

fn drop_finding(chain: &Chain) -> Finding {
    let Chain { family, table, name, .. } = chain;
    let remedy = match (table.as_str(), name.as_str()) {
        ("filter", "FORWARD") => {
            "accept what netd forwards: `iptables -I FORWARD -i BRIDGE -j ACCEPT; iptables -I FORWARD -o BRIDGE -j ACCEPT` \
             (with Docker: in DOCKER-USER), for each of netd's bridges; the same with ip6tables"
        }
        _ => "accept there what comes from and goes to netd's bridges",
    };
    let meaning = "drops by policy what is forwarded; what netd accepts is dropped there all the same";
    Finding::warning(format!("nftables chain {family} {table} {name}"), meaning, remedy)
}

fn running(name: &str) -> Finding {
    let remedy = match name {
        "ufw" => {
            "allow it: `ufw route allow in on BRIDGE` and `ufw route allow out on BRIDGE` for each of netd's bridges"
        }
        "firewalld" => {
            "trust netd's bridges: `firewall-cmd --permanent --zone=trusted --add-interface=BRIDGE`, then reload"
        }
        _ => "if containers of both must talk, accept netd's bridges in its chain DOCKER-USER",
    };
    Finding::warning(name, "is active beside netd; its drops win over what netd accepts", remedy)
}
