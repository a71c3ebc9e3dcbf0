//! Other firewalls. An accept of netd ends netd's chain only: another's drop still wins.

use serde::Deserialize;

use super::{Finding, Level};
use crate::model::{Firewall, Status};

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

impl Chain {
    /// As netd calls it.
    fn place(&self) -> String {
        format!("{} {} {}", self.family, self.table, self.name)
    }
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

impl Firewalls {
    /// What drops what is sent to this node, unless a rule lets it in.
    pub(super) fn who_drops_input(&self, instance: &str) -> Option<String> {
        let is_it = |chain: &&Chain| chain.hook == "input" && chain.policy == "drop" && chain.table != instance;
        let chain = self.chains.iter().flatten().find(is_it);
        // Its last rule refuses; its policy is to accept.
        let firewalld = || self.names.contains(&"firewalld").then(|| "firewalld".to_owned());
        chain.map(|chain| format!("nftables chain {}", chain.place())).or_else(firewalld)
    }
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

/// `status` is netd's word on it, which knows the links that must pass; `None` where netd gives no answer. `bridge_nf` is the value
/// of bridge-nf-call-iptables.
pub(super) fn check(firewalls: &Firewalls, status: Option<&Status>, bridge_nf: Option<u32>) -> Vec<Finding> {
    let instance = status.map(|status| status.instance.as_str()).filter(|name| !name.is_empty()).unwrap_or("netd");
    let told = status.map(|status| status.firewalls.as_slice()).unwrap_or_default();
    let is_foreign = |chain: &&Chain| chain.policy == "drop" && chain.table != instance && chain.family != "bridge";
    let foreign: Vec<&Chain> = firewalls.chains.iter().flatten().filter(is_foreign).collect();
    let is_told = |chain: &Chain| told.iter().any(|one| one.chain == chain.place());
    let untold = foreign.iter().filter(|chain| chain.hook == "forward" && !is_told(chain));

    let mut findings: Vec<Finding> =
        told.iter().map(told_finding).chain(untold.map(|chain| drop_finding(chain))).collect();
    let is_dropping = firewalls.legacy || findings.iter().any(|finding| finding.level != Level::Ok);
    findings.extend(foreign.iter().filter(|chain| chain.hook == "input").map(|chain| input_finding(chain)));
    let silent = firewalls.names.iter().filter(|name| !told.iter().any(|one| one.name == **name));
    findings.extend(silent.map(|name| running(name, status.is_some())));
    if firewalls.legacy {
        findings.push(Finding::warning(
            "iptables-legacy",
            "has a filter table, which nft does not show; its FORWARD policy may drop what netd accepts",
            "look with `iptables-legacy -S FORWARD`; move to iptables-nft if you can: netd cannot write into the old one",
        ));
    }
    findings.push(bridged(bridge_nf, is_dropping));
    match &firewalls.chains {
        None => findings.push(Finding::warning(
            "nftables",
            "cannot list other programs' chains",
            "run doctor as root, with Debian's package nftables installed",
        )),
        Some(_) if !is_dropping => {
            findings.push(Finding::ok("nftables", "no other program's chain drops what containers send and get"));
        }
        Some(_) => {}
    }
    findings
}

fn told_finding(firewall: &Firewall) -> Finding {
    let object = format!("nftables chain {}", firewall.chain);
    let owner = firewall.owner();
    if firewall.passes {
        return Finding::ok(object, format!("{owner} drops by default; a rule of netd's lets containers pass"));
    }
    let meaning = format!("{owner} drops what containers send beyond their node, whatever netd accepts");
    Finding::warning(object, meaning, &firewall.remedy)
}

fn drop_finding(chain: &Chain) -> Finding {
    let remedy = match (chain.table.as_str(), chain.name.as_str()) {
        ("filter", "FORWARD") => {
            "accept what netd forwards: `iptables -I FORWARD -i BRIDGE -j ACCEPT; iptables -I FORWARD -o BRIDGE -j ACCEPT` \
             (with Docker: in DOCKER-USER), for each of netd's bridges and for `nd+`; the same with ip6tables"
        }
        _ => "accept there what comes from and goes to netd's bridges and links (`nd*`)",
    };
    let meaning = "drops by policy what is forwarded; what netd accepts is dropped there all the same";
    Finding::warning(format!("nftables chain {}", chain.place()), meaning, remedy)
}

/// netd asks nobody to open the node itself to containers.
fn input_finding(chain: &Chain) -> Finding {
    let meaning =
        "drops by policy what is sent to this node: containers reach those services of it that are accepted there";
    Finding::ok(format!("nftables chain {}", chain.place()), meaning)
}

fn bridged(bridge_nf: Option<u32>, is_dropping: bool) -> Finding {
    match bridge_nf {
        Some(1) if is_dropping => Finding::warning(
            "net.bridge.bridge-nf-call-iptables",
            "1: packets between two sandboxes on one bridge pass that FORWARD chain too",
            "accept the bridge there, or set it to 0 if nothing else (such as Kubernetes) needs it",
        ),
        Some(value) => Finding::ok("br_netfilter", format!("bridge-nf-call-iptables is {value}")),
        None => Finding::ok("br_netfilter", "not loaded: bridged packets pass no iptables chain"),
    }
}

/// One that netd says nothing of drops nothing, as far as nf_tables shows.
fn running(name: &str, is_netd_asked: bool) -> Finding {
    if is_netd_asked {
        return Finding::ok(name, "is active beside netd; no chain of it drops what is forwarded");
    }
    let remedy = match name {
        "ufw" => {
            "allow it: `ufw route allow in on BRIDGE` and `ufw route allow out on BRIDGE` for each of netd's bridges, and for `nd+`"
        }
        "firewalld" => {
            "trust netd's bridges, and `nd+`: `firewall-cmd --permanent --zone=trusted --add-interface=BRIDGE`, then reload"
        }
        _ => "if containers of both must talk, accept netd's bridges and `nd+` in its chain DOCKER-USER",
    };
    Finding::warning(name, "is active beside netd; its drops win over what netd accepts", remedy)
}
