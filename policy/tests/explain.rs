//! What people are told: who decides, where that was written, and what would allow a flow.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test program")]

use std::net::IpAddr;

use netd_policy::oracle::{Decider, Step, remedies, verdict};
use netd_policy::{Direction, Flow, Policy, Protocol, Sandbox, SandboxName, Traffic, World, parse};

const WEB: &str = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web}
spec:
  podSelector: {matchLabels: {app: web}}
  ingress:
  - from: [{podSelector: {matchLabels: {app: api}}}]
    ports: [{port: 80}]
  - from: [{podSelector: {matchLabels: {app: db}}}]
    ports: [{port: 81}]
";
const GUARD: &str = "\
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: guard}
spec:
  tier: Admin
  priority: 1
  subject: {namespaces: {}}
  egress:
  - {name: no-telnet, action: Deny, to: [{namespaces: {}}], protocols: [{tcp: {destinationPort: {number: 23}}}]}
";

fn address(last: u8) -> IpAddr {
    IpAddr::from([10, 4, 0, last])
}

fn world() -> World {
    let sandbox = |(last, app): (u8, &str)| Sandbox {
        name: SandboxName { namespace: "default".to_owned(), name: app.to_owned() },
        labels: [("app".to_owned(), app.to_owned())].into(),
        namespace_labels: [].into(),
        addresses: [(address(last), "blue".to_owned())].into(),
        ports: [].into(),
        node: "n1".to_owned(),
        known: None,
    };
    let all = [(1, "web"), (2, "api"), (3, "db")].map(sandbox);
    World { sandboxes: all.map(|sandbox| (sandbox.name.clone(), sandbox)).into(), ..World::default() }
}

fn flow(from: u8, to: u8, port: u16) -> Flow {
    Flow { from: address(from), to: address(to), traffic: Traffic::to(Protocol::Tcp, port) }
}

fn policies() -> Vec<Policy> {
    [("web.yaml", WEB), ("guard.yaml", GUARD)].iter().flat_map(|(name, text)| parse(name, text).unwrap()).collect()
}

#[test]
fn the_deciding_rule_is_named_with_its_line() {
    let said = |from, to, port| {
        let verdict = verdict(&world(), &policies(), flow(from, to, port));
        [verdict.egress.by, verdict.ingress.by].map(|by| match by {
            Decider::Rule { policy, source, name } => format!("{policy} {source} {}", name.unwrap_or_default()),
            Decider::Isolated { policy, source } => format!("isolated by {policy} {source}"),
            Decider::Default => "default".to_owned(),
            Decider::Exempt => "exempt".to_owned(),
            Decider::Contested => "contested".to_owned(),
            Decider::NoSubject => "outside".to_owned(),
        })
    };
    assert_eq!(said(2, 1, 80), ["default", "NetworkPolicy default/web web.yaml:7 "]);
    assert_eq!(said(3, 1, 80), ["default", "isolated by NetworkPolicy default/web web.yaml:1"]);
    assert_eq!(said(1, 2, 23), ["ClusterNetworkPolicy guard guard.yaml:9 no-telnet", "default"]);
    assert_eq!(said(1, 1, 23), ["exempt", "exempt"]);
    assert_eq!(said(9, 1, 80), ["outside", "isolated by NetworkPolicy default/web web.yaml:1"]);
}

#[test]
fn what_would_allow_a_flow_is_the_nearest_change() {
    let told = |from, to, port| -> Vec<(Direction, Step, String)> {
        let all = remedies(&world(), &policies(), flow(from, to, port));
        all.into_iter().map(|remedy| (remedy.direction, remedy.step, remedy.source.to_string())).collect()
    };
    let ingress = |step, source: &str| (Direction::Ingress, step, source.to_owned());
    assert_eq!(told(2, 1, 80), []);
    assert_eq!(told(2, 1, 81), [ingress(Step::AddPort, "web.yaml:7"), ingress(Step::AddPeer, "web.yaml:9")]);
    assert_eq!(told(9, 1, 9), [ingress(Step::AddRule, "web.yaml:1")]);
    let egress = (Direction::Egress, Step::ChangeRule, "guard.yaml:9".to_owned());
    assert_eq!(told(2, 3, 23), std::slice::from_ref(&egress));
    assert_eq!(told(3, 1, 23), [egress, ingress(Step::AddPort, "web.yaml:9")]);
}
