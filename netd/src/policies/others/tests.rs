//! Needs and records: nothing is told that nobody asks for, and what is told says what is not there, too.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use netd_config::Namespaces;
use netd_fleet::{Needs, NodeName};

use super::{needs, records, sandbox};
use crate::attachment::{Attachment, LabelState};
use crate::ports::tests::attachment;

const RULES: &str = "apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: a, namespace: shop}
spec:
  podSelector: {matchLabels: {own: x}}
  ingress:
  - from:
    - podSelector: {matchLabels: {app: login}}
    - namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: lab, team: red}}
      podSelector: {matchExpressions: [{key: tier, operator: DoesNotExist}]}
    ports: [{port: http}]
  egress:
  - ports: [{port: dns, protocol: UDP}]
";
const BLOCKS: &str = "apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: b, namespace: shop}
spec:
  podSelector: {matchLabels: {app: x}}
  ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8}}], ports: [{port: http}]}]
";

fn asked(text: &str) -> Needs {
    needs(netd_policy::parse("a.yaml", text).unwrap().iter())
}

fn set(keys: &[&str]) -> BTreeSet<String> {
    keys.iter().map(|key| (*key).to_owned()).collect()
}

fn described(labels: &[(&str, &str)]) -> Attachment {
    let mut attachment = attachment("web", &[]);
    attachment.labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    attachment.label_state = LabelState::Known { source: "test".to_owned() };
    "shop".clone_into(&mut attachment.namespace);
    "web".clone_into(&mut attachment.name);
    attachment
}

#[test]
fn needed_is_what_tells_peers_apart_and_nothing_of_subjects() {
    let needed = asked(RULES);
    assert_eq!(needed.labels, set(&["app", "tier"]));
    assert_eq!(needed.namespace_labels, set(&["team"]));
    assert_eq!(needed.ports, set(&["dns"]));
    assert!(needed.sandboxes && !needed.networks);
    assert_eq!(asked(BLOCKS), Needs::default());
}

#[test]
fn only_what_is_needed_is_told_and_what_is_not_there_too() {
    let one = described(&[("app", "login"), ("secret", "s"), ("netd/port.dns", "53/udp"), ("netd/port.web", "80")]);
    let own = |address: IpAddr| address.is_ipv4();
    let told = |needs: &Needs| records(std::slice::from_ref(&one), &Namespaces::default(), (needs, own));
    assert_eq!(told(&Needs::default()), BTreeMap::new());
    let told = told(&asked(RULES)).into_values().next().unwrap();
    assert_eq!((told.namespace.as_str(), told.name.as_str()), ("shop", "web"));
    let value = |text: &str| Some(text.to_owned());
    assert_eq!(told.labels, BTreeMap::from([("app".to_owned(), value("login")), ("tier".to_owned(), None)]));
    assert_eq!(told.namespace_labels, BTreeMap::from([("team".to_owned(), None)]));
    assert_eq!(told.ports, BTreeMap::from([("dns".to_owned(), BTreeSet::from([(17, 53)]))]));
    assert!(told.addresses.values().all(Option::is_none) && !told.addresses.is_empty());
    let text = serde_json::to_string(&told).unwrap();
    assert!(!text.contains("secret") && !text.contains("80"), "{text}");
    let back = sandbox(&NodeName::new("n2").unwrap(), &serde_json::from_str(&text).unwrap());
    assert_eq!(back.name.to_string(), "shop/web@n2");
    assert_eq!(back.known.as_ref().map(|known| known.labels.clone()), Some(set(&["app", "tier"])));
    assert_eq!((back.label("app"), back.label("tier"), back.ports.len()), (Some("login"), None, 1));
}

#[test]
fn nobody_is_told_of_whose_labels_are_not_known_or_who_has_no_address_of_the_fleet() {
    let mut one = described(&[]);
    let needs = asked(RULES);
    let count = |one: &Attachment, own: bool| {
        records(std::slice::from_ref(one), &Namespaces::default(), (&needs, |_| own)).len()
    };
    assert_eq!((count(&one, true), count(&one, false)), (1, 0));
    one.label_state = LabelState::Pending { source: "test".to_owned(), due: std::time::SystemTime::UNIX_EPOCH };
    assert_eq!(count(&one, true), 0);
}
