//! The texts that are loaded: a town's policies, and so many rules before the one that a pair of sandboxes passes by. Pure.

use std::net::Ipv4Addr;

/// Where the measured pair meets.
pub(super) const PORT: u16 = 7;
/// Sandboxes of one namespace, each an app of its own.
pub(super) const APPS: usize = 10;
/// Namespaces that a team has.
const TEAM: usize = 10;
/// Rules of one block of addresses, each with a port of its own.
const PORTS: usize = 100;
/// Rules of one policy.
const RULES: usize = 1_000;

/// A namespace of a town of `namespaces`.
pub(super) fn namespace(number: usize) -> String {
    format!("space-{number}")
}

/// An app's label.
pub(super) fn app(number: usize) -> String {
    format!("app-{number}")
}

/// The policies of one namespace: of each ten of an app, eight let another app of the namespace in, one a team of ten
/// namespaces, one a block of addresses; every one by a port of its own.
pub(super) fn town(space: usize, policies: usize) -> String {
    let mut text = String::new();
    for number in 0..policies {
        let (subject, turn) = (number % APPS, number / APPS);
        let from = match turn % 10 {
            8 => format!("namespaceSelector: {{matchExpressions: [{}]}}", team(space / TEAM)),
            9 => format!("ipBlock: {{cidr: {}/24}}", block(space * 256)),
            _ => format!("podSelector: {{matchLabels: {{app: {}}}}}", app((subject + turn + 1) % APPS)),
        };
        let port = 8_000 + turn;
        text += &format!(
            "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n\
             metadata: {{name: policy-{number}, namespace: {}}}\nspec:\n  \
             podSelector: {{matchLabels: {{app: {}}}}}\n  ingress:\n  - from:\n    - {from}\n    ports: [{{port: {port}}}]\n",
            namespace(space),
            app(subject)
        );
    }
    text
}

fn team(number: usize) -> String {
    let names: Vec<String> = (number * TEAM..(number + 1) * TEAM).map(namespace).collect();
    format!("{{key: kubernetes.io/metadata.name, operator: In, values: [{}]}}", names.join(", "))
}

/// Policies of `rules` ingress rules together for `app: server`: each of a block and a port of its own that nobody uses, and
/// the last for `app: client`. No policy without rules.
pub(super) fn pair(rules: usize) -> Vec<String> {
    let mut texts = Vec::new();
    for first in (0..rules).step_by(RULES) {
        let mut text = format!(
            "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: pair-{first}, namespace: default}}\n\
             spec:\n  podSelector: {{matchLabels: {{app: server}}}}\n  ingress:\n"
        );
        for rule in first..rules.min(first + RULES) {
            text += &if rule + 1 == rules {
                format!(
                    "  - from: [{{podSelector: {{matchLabels: {{app: client}}}}}}]\n    \
                     ports: [{{port: {PORT}}}, {{port: {PORT}, protocol: UDP}}]\n"
                )
            } else {
                format!(
                    "  - from: [{{ipBlock: {{cidr: {}/32}}}}]\n    ports: [{{port: {}}}]\n",
                    source(rule),
                    port(rule)
                )
            };
        }
        texts.push(text);
    }
    texts
}

/// The same rules one after another, for `iptables-restore`: what has begun passes, then each rule is asked, then nothing
/// reaches the server.
pub(super) fn linear(rules: usize, client: Ipv4Addr, server: Ipv4Addr) -> String {
    let mut text = String::from(
        "*filter\n:FORWARD ACCEPT [0:0]\n-A FORWARD -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT\n",
    );
    for rule in 0..rules - 1 {
        text += &format!(
            "-A FORWARD -s {}/32 -d {server}/32 -p tcp -m tcp --dport {} -j ACCEPT\n",
            source(rule),
            port(rule)
        );
    }
    for protocol in ["tcp", "udp"] {
        text +=
            &format!("-A FORWARD -s {client}/32 -d {server}/32 -p {protocol} -m {protocol} --dport {PORT} -j ACCEPT\n");
    }
    text + &format!("-A FORWARD -d {server}/32 -j REJECT\nCOMMIT\n")
}

fn source(rule: usize) -> Ipv4Addr {
    block(rule / PORTS)
}

fn port(rule: usize) -> usize {
    1_000 + rule % PORTS
}

/// One of 65,536 addresses that no sandbox has.
fn block(number: usize) -> Ipv4Addr {
    let [.., high, low] = number.to_be_bytes();
    Ipv4Addr::new(10, 77, high, low)
}

#[cfg(test)]
mod tests {
    use super::{linear, pair, town};

    #[test]
    fn there_are_as_many_rules_as_asked_for() {
        for rules in [1, 10, 1_000, 2_500] {
            let policies = pair(rules);
            assert_eq!(policies.iter().map(|text| text.matches("  - from:").count()).sum::<usize>(), rules);
            let text = linear(rules, [10, 4, 0, 2].into(), [10, 4, 0, 3].into());
            // One for what has begun, one more for the pair (two protocols), one that ends it.
            assert_eq!(text.matches("-A FORWARD").count(), rules + 3);
        }
        assert_eq!(pair(0), Vec::<String>::new());
        assert_eq!(town(3, 100).matches("kind: NetworkPolicy").count(), 100);
    }
}
