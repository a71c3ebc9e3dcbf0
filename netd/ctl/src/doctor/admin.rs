//! Chains in which an administrator writes rules for what the official `firewall` plugin lets through. netd makes no way to them:
//! what is written there holds only where a chain at forward leads to it.

use std::collections::BTreeSet;

use serde::Deserialize;
use serde_json::Value;

use super::containerd::said;
use super::facts::Answers;
use super::{Finding, Place};

/// Where no file names another.
const DEFAULT: &str = "CNI-ADMIN";
/// The key that does, as netd tells it.
const KEY: &str = "iptablesAdminChainName \"";
const FAMILIES: [&str; 2] = ["ip", "ip6"];
/// What may end or turn aside a packet.
const LIMITS: [&str; 5] = ["drop", "reject", "jump", "goto", "queue"];
/// Targets of iptables that `nft` does not know, and that let a packet go on.
const PASSING: [&str; 5] = ["LOG", "NFLOG", "MARK", "CONNMARK", "TRACE"];

/// A chain with rules that may limit somebody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AdminChain {
    family: &'static str,
    name: String,
    /// Such rules.
    rules: usize,
    /// A chain at forward leads to it.
    is_reached: bool,
}

/// `netd`: what it answered.
pub(super) fn gather(place: &Place, netd: Option<&Answers>) -> Vec<AdminChain> {
    if !place.is_host() {
        return Vec::new();
    }
    let names = names(netd);
    let tables = FAMILIES.map(|family| (family, said("nft", &["-j", "list", "table", family, "filter"])));
    tables.into_iter().flat_map(|(family, text)| read(family, &text.unwrap_or_default(), &names)).collect()
}

/// The default, and those that network files name.
fn names(netd: Option<&Answers>) -> BTreeSet<String> {
    let networks = netd.into_iter().flat_map(|answers| answers.networks.iter().flatten());
    let told = networks.flat_map(|network| &network.unheeded_keys);
    let named = told.filter_map(|key| key.split_once(KEY)?.1.split('"').next());
    named.chain([DEFAULT]).map(str::to_owned).collect()
}

/// Reads `nft -j list table FAMILY filter`.
fn read(family: &'static str, text: &str, names: &BTreeSet<String>) -> Vec<AdminChain> {
    let Ok(table) = serde_json::from_str::<Listing>(text) else { return Vec::new() };
    let chains = || table.nftables.iter().filter_map(|entry| entry.chain.as_ref());
    let rules: Vec<&Rule> = table.nftables.iter().filter_map(|entry| entry.rule.as_ref()).collect();
    let mut reached: BTreeSet<&str> =
        chains().filter(|chain| chain.hook == "forward").map(|chain| chain.name.as_str()).collect();
    loop {
        let next = rules.iter().filter(|rule| reached.contains(rule.chain.as_str())).flat_map(|rule| rule.targets());
        let all: BTreeSet<&str> = reached.iter().copied().chain(next).collect();
        if all.len() == reached.len() {
            break;
        }
        reached = all;
    }
    let listed = |name: &String| {
        let limits = rules.iter().filter(|rule| rule.chain == *name && rule.limits()).count();
        let is_reached = reached.contains(name.as_str());
        (limits > 0).then(|| AdminChain { family, name: name.clone(), rules: limits, is_reached })
    };
    names.iter().filter_map(listed).collect()
}

#[derive(Debug, Deserialize)]
struct Listing {
    nftables: Vec<Entry>,
}

#[derive(Debug, Deserialize)]
struct Entry {
    chain: Option<Chain>,
    rule: Option<Rule>,
}

#[derive(Debug, Deserialize)]
struct Chain {
    name: String,
    #[serde(default)]
    hook: String,
}

#[derive(Debug, Deserialize)]
struct Rule {
    chain: String,
    #[serde(default)]
    expr: Vec<Value>,
}

impl Rule {
    fn targets(&self) -> impl Iterator<Item = &str> {
        let to = |one| ["jump", "goto"].into_iter().find_map(|kind| Value::get(one, kind));
        self.expr.iter().filter_map(move |one| to(one)?.get("target")?.as_str())
    }

    /// A target that is not known may be one that ends a packet.
    fn limits(&self) -> bool {
        let is_target = |xt: &Value| xt["type"] == "target" && PASSING.iter().all(|name| xt["name"] != *name);
        let limits =
            |one: &Value| LIMITS.iter().any(|kind| one.get(kind).is_some()) || one.get("xt").is_some_and(is_target);
        self.expr.iter().any(limits)
    }
}

/// Rules that somebody trusts in, and that no packet of a container meets.
pub(super) fn check(chains: &[AdminChain]) -> Vec<Finding> {
    chains.iter().map(finding).collect()
}

fn finding(chain: &AdminChain) -> Finding {
    let AdminChain { family, name, rules, is_reached } = chain;
    let object = format!("nftables chain {family} filter {name}");
    if *is_reached {
        return Finding::ok(object, "FORWARD leads to it: its rules hold for what containers send and get");
    }
    let iptables = if *family == "ip" { "iptables" } else { "ip6tables" };
    let meaning = format!(
        "{rules} of its rules may refuse, and no packet of a container meets them: the official firewall plugin leads to that \
         chain, netd does not"
    );
    let remedy =
        format!("say it in a policy (docs/policies.md), or lead there yourself: `{iptables} -I FORWARD -j {name}`");
    Finding::problem(object, meaning, remedy)
}

#[cfg(test)]
mod tests;
