//! A matrix in words, and what a change of policies does to it.
#![allow(clippy::unwrap_used, clippy::expect_used, dead_code, reason = "a test program, and the table's other half")]

#[path = "table/probes.rs"]
mod probes;

use std::collections::BTreeSet;
use std::net::IpAddr;

use netd_policy::{Compiler, Reaches, parse};
use probes::world;

const WEB: &str = "10.4.0.2";
const DB: &str = "10.4.0.4";
const NODE: &str = "10.0.0.1";
const FAR: &str = "203.0.113.9";

fn compiler(text: &str) -> Compiler {
    let mut compiler = Compiler::new("n1");
    compiler.load(parse("p.yaml", text).unwrap(), world());
    compiler
}

fn node() -> BTreeSet<IpAddr> {
    world().nodes["n1"].addresses.clone()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// The data takes `ports` from the front, and asks for names only.
fn closed(ports: &str) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: p, namespace: shop}}\nspec:\n  \
         podSelector: {{matchLabels: {{app: db}}}}\n  ingress: [{{from: [{{podSelector: {{matchLabels: {{app: web}}}}}}], \
         ports: {ports}}}]\n  egress: [{{ports: [{{port: 53, protocol: UDP}}, {{port: 53}}]}}]\n"
    )
}

const NO_NODE: &str = "
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: c}
spec:
  tier: Admin
  priority: 1
  subject: {namespaces: {}}
  egress: [{action: Deny, to: [{nodes: {}}], protocols: [{tcp: {destinationPort: {number: 22}}}]}]
  ingress: [{action: Deny, from: [{netd/nodes: {}}]}]
";

#[test]
fn each_pair_has_what_both_ends_allow() {
    let compiler = compiler(&format!("{}---{NO_NODE}", closed("[{port: 5432}, {port: 8000, endPort: 8080}]")));
    let node = node();
    let mut reaches = Reaches::new(compiler.compiled(), &node);
    for (from, to, wanted) in [
        (WEB, DB, "tcp/5432 tcp/8000-8080"),
        ("fd00:4::2", "fd00:4::4", "tcp/5432 tcp/8000-8080"),
        (DB, WEB, "tcp/53 udp/53"),
        (FAR, DB, "none"),
        (DB, DB, "all"),
        (WEB, FAR, "all"),
        (WEB, NODE, "all but tcp/22"),
        (NODE, WEB, "none"),
        (NODE, NODE, "all"),
        (FAR, NODE, "all"),
    ] {
        assert_eq!(reaches.between(ip(from), ip(to)).to_string(), wanted, "{from} -> {to}");
    }
}

#[test]
fn a_change_says_which_pairs_lose_and_gain_what() {
    let (old, new) = (compiler(&closed("[{port: 1, endPort: 100}]")), compiler(&closed("[{port: 80, endPort: 200}]")));
    let (node, ends) = (node(), [WEB, DB, FAR].map(ip));
    let (mut before, mut after) = (Reaches::new(old.compiled(), &node), Reaches::new(new.compiled(), &node));
    let pairs = ends.into_iter().flat_map(|from| ends.map(|to| (from, to)));
    let changed = before.changed(&mut after, pairs);
    let told: Vec<String> = changed
        .iter()
        .map(|one| {
            let (lost, gained) = (one.before.without(&one.after), one.after.without(&one.before));
            format!("{} -> {}: lost {lost}, gained {gained}", one.from, one.to)
        })
        .collect();
    assert_eq!(told, ["10.4.0.2 -> 10.4.0.4: lost tcp/1-79, gained tcp/101-200"]);
}
