//! `policy.networking.k8s.io`: `ClusterNetworkPolicy` (v1alpha2), `AdminNetworkPolicy` and `BaselineAdminNetworkPolicy`
//! (v1alpha1).

use crate::model::{
    Action, Block, Kind, Namespaces, Peer, Peers, Policy, Port, Ports, Rule, SandboxSelector, Source, Tier,
};
use crate::selector::Selector;

use super::fields::{Field, Object};
use super::meta::{self, Meta};
use super::{protocols, select};

/// Asked after every `ClusterNetworkPolicy` of the baseline tier: priorities end at 1000.
const LAST: u16 = 1001;

type InTier = fn(u16) -> Tier;

pub(super) fn policy(spec: &Object<'_>, meta: Meta, source: Source) -> Option<Policy> {
    let kind = meta.name.kind;
    let tier = tier(spec, kind);
    let subject = spec.require("subject", "choose namespaces or pods").and_then(|field| subject(&field));
    let reader = Reader { kind, source: &source };
    let rules = |key, peers| spec.find(key).map(|field| reader.rules(&field, peers)).filter(|rules| !rules.is_empty());
    let (ingress, egress) = (rules("ingress", "from"), rules("egress", "to"));
    Some(Policy {
        tier: tier?,
        subject: subject?,
        ingress,
        egress,
        log: meta.log,
        audit: meta.audit,
        name: meta.name,
        source,
    })
}

fn tier(spec: &Object<'_>, kind: Kind) -> Option<Tier> {
    const TIERS: [(&str, InTier); 2] = [("Admin", Tier::Admin), ("Baseline", Tier::Baseline)];
    if kind == Kind::BaselineAdminNetworkPolicy {
        return Some(Tier::Baseline(LAST));
    }
    let priority = spec.require("priority", "use 0 (asked first) to 1000").and_then(|field| field.number(0, 1000));
    if kind == Kind::AdminNetworkPolicy {
        return priority.map(Tier::Admin);
    }
    let tier = spec.require("tier", "use Admin or Baseline").and_then(|field| field.word(&TIERS));
    Some(tier?(priority?))
}

fn subject(field: &Field<'_>) -> Option<SandboxSelector> {
    let object = field.object()?;
    let namespaces = object.find("namespaces").map(|field| Some(namespaces_peer(&field)));
    let pods = object.find("pods").map(|field| pods_peer(&field));
    object.close();
    field.only(namespaces.into_iter().chain(pods).collect(), "namespaces or pods")
}

fn namespaces_peer(field: &Field<'_>) -> SandboxSelector {
    let namespaces = Namespaces::Labelled(select::selector(field));
    SandboxSelector { namespaces, labels: Selector::default(), networks: [].into() }
}

fn pods_peer(field: &Field<'_>) -> Option<SandboxSelector> {
    let object = field.object()?;
    let select = |key| object.require(key, "{} selects all").map(|field| select::selector(&field));
    let (namespaces, labels) = (select("namespaceSelector"), select("podSelector"));
    object.close();
    Some(SandboxSelector { namespaces: Namespaces::Labelled(namespaces?), labels: labels?, networks: [].into() })
}

struct Reader<'a> {
    kind: Kind,
    source: &'a Source,
}

impl Reader<'_> {
    fn rules(&self, field: &Field<'_>, peers: &'static str) -> Vec<Rule> {
        field.list().unwrap_or_default().iter().filter_map(|item| self.rule(item, peers)).collect()
    }

    fn rule(&self, field: &Field<'_>, key: &'static str) -> Option<Rule> {
        let object = field.object()?;
        let name = object.find("name").and_then(|field| field.text().map(str::to_owned));
        let action =
            object.require("action", "say what the rule does").and_then(|field| field.word(actions(self.kind)));
        let peers = self.peers(&object, key);
        let ports = self.ports(&object);
        object.close();
        Some(Rule {
            name,
            source: Source { line: field.line(), ..self.source.clone() },
            action: action?,
            peers: Peers::Of(peers?),
            ports,
        })
    }

    fn peers(&self, rule: &Object<'_>, key: &'static str) -> Option<Vec<Peer>> {
        let field = rule.require(key, "list at least one peer; namespaces: {} is every sandbox")?;
        let items = field.list()?;
        if items.is_empty() {
            field.wrong("is empty", "list at least one peer; namespaces: {} is every sandbox");
        }
        Some(items.iter().flat_map(|item| peer(item, key == "from")).collect())
    }

    /// All traffic, or what the list says. An empty list is no list: nobody writes a rule that matches nothing.
    fn ports(&self, rule: &Object<'_>) -> Ports {
        let key = if self.kind == Kind::ClusterNetworkPolicy { "protocols" } else { "ports" };
        let listed = rule.find(key);
        let items = listed.as_ref().and_then(Field::list).unwrap_or_default();
        if let Some(field) = listed.filter(|_| items.is_empty()) {
            field.wrong("is empty", format!("list at least one, or leave {key} out for all traffic"));
        }
        let read = if self.kind == Kind::ClusterNetworkPolicy { protocols::protocol } else { protocols::admin_port };
        let mut ports: Vec<Port> = items.iter().filter_map(read).collect();
        ports.extend(meta::icmp(rule));
        if ports.is_empty() { Ports::Any } else { Ports::Of(ports) }
    }
}

/// `Allow` is v1alpha1's word for `Accept`; a baseline has nothing to pass to.
fn actions(kind: Kind) -> &'static [(&'static str, Action)] {
    match kind {
        Kind::ClusterNetworkPolicy => &[("Accept", Action::Accept), ("Deny", Action::Deny), ("Pass", Action::Pass)],
        Kind::AdminNetworkPolicy => &[("Allow", Action::Accept), ("Deny", Action::Deny), ("Pass", Action::Pass)],
        Kind::BaselineAdminNetworkPolicy | Kind::NetworkPolicy => &[("Allow", Action::Accept), ("Deny", Action::Deny)],
    }
}

/// One peer, or one for each range of `networks`. Kubernetes has nodes and networks in egress only: in ingress they are
/// extensions and bear our name.
fn peer(field: &Field<'_>, ingress: bool) -> Vec<Peer> {
    let Some(object) = field.object() else { return Vec::new() };
    let (nodes_key, networks_key) = if ingress { ("netd/nodes", "netd/networks") } else { ("nodes", "networks") };
    let unreadable = [("nodes", "write netd/nodes"), ("networks", "write netd/networks")];
    for (key, remedy) in unreadable.into_iter().filter(|_| ingress) {
        if let Some(field) = object.find(key) {
            field.lacks("Kubernetes has no such peer in ingress; netd has it as an extension", remedy);
            return Vec::new();
        }
    }
    if let Some(names) = object.find("domainNames") {
        names.lacks("netd does not enforce names", "list their addresses under networks");
        return Vec::new();
    }
    let named = meta::networks(&object);
    let on_networks =
        |selector: SandboxSelector| vec![Peer::Sandboxes(SandboxSelector { networks: named.clone(), ..selector })];
    let sandboxes = [
        object.find("namespaces").map(|field| Some(on_networks(namespaces_peer(&field)))),
        object.find("pods").map(|field| pods_peer(&field).map(on_networks)),
    ];
    let others = [
        object.find(nodes_key).map(|field| Some(vec![Peer::Nodes(select::selector(&field))])),
        object.find(networks_key).map(|field| Some(blocks(&field))),
    ];
    object.close();
    if !named.is_empty() && sandboxes.iter().all(Option::is_none) {
        field.wrong("has netd/networkNames without sandboxes", "add namespaces: {} or pods");
        return Vec::new();
    }
    let found = sandboxes.into_iter().chain(others).flatten().collect();
    field.only(found, &format!("namespaces, pods, {nodes_key} or {networks_key}")).unwrap_or_default()
}

fn blocks(field: &Field<'_>) -> Vec<Peer> {
    let items = field.list().unwrap_or_default();
    if items.is_empty() {
        field.wrong("names no range", "list at least one as 10.0.0.0/8");
    }
    items.iter().filter_map(select::cidr).map(|cidr| Peer::Block(Block { cidr, except: [].into() })).collect()
}
