//! The world and the probes of policy cases, and their expectations as the head of each file says them:
//!
//! ```text
//! # What the case shows.
//! # deny * -> shop/db *
//! # allow shop/web,lab/web -> shop/db tcp/5432 @4
//! ```
//!
//! Every probe is expected to pass unless a line matches it; the last line that does decides. `*` is everyone but a
//! sandbox's own node, which is `own`. A sandbox to itself always passes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use netd_policy::{Flow, ICMP, ICMPV6, NamedPort, Node, Protocol, Sandbox, SandboxName, Traffic, World};

/// Namespace, name, node, labels, ports, network and last byte of its addresses.
type Row = (&'static str, &'static str, &'static str, &'static str, &'static str, &'static str, u8);

const SANDBOXES: [Row; 7] = [
    ("shop", "web", "n1", "app=web tier=front", "http:tcp/8080", "blue", 2),
    ("shop", "api", "n1", "app=api tier=back version=v1", "http:tcp/80 metrics:tcp/9090", "blue", 3),
    ("shop", "db", "n1", "app=db tier=back", "sql:tcp/5432", "blue", 4),
    ("shop", "bare", "n2", "", "", "blue", 5),
    ("lab", "web", "n1", "app=web version=v2", "http:tcp/80", "blue", 130),
    ("lab", "probe", "n2", "app=probe", "", "red", 131),
    ("dns", "dns", "n2", "app=dns", "dns:udp/53 dns-tcp:tcp/53", "blue", 200),
];
const NAMESPACES: [(&str, &str); 3] = [("shop", "team=red env=prod"), ("lab", "team=blue env=test"), ("dns", "")];
const NODES: [(&str, &str, u8); 2] = [("n1", "zone=a", 1), ("n2", "zone=b", 2)];
const OUTSIDE: [(&str, &str, &str); 2] =
    [("far", "203.0.113.9", "2001:db8::9"), ("near", "198.51.100.7", "2001:db8:1::7")];
const TRAFFIC: [&str; 12] = [
    "tcp/53",
    "tcp/80",
    "tcp/5432",
    "tcp/8080",
    "tcp/9090",
    "udp/53",
    "udp/80",
    "sctp/80",
    "ping",
    "unreachable",
    "gre",
    "tcp/65535",
];

/// One end of a probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct End {
    /// As `shop/web`, `n1` or `far`.
    pub(crate) name: &'static str,
    pub(crate) node: Option<&'static str>,
    pub(crate) is_node: bool,
    pub(crate) addresses: [IpAddr; 2],
}

/// One probe.
#[derive(Debug, Clone)]
pub(crate) struct Probe {
    pub(crate) from: End,
    pub(crate) to: End,
    pub(crate) traffic: &'static str,
    pub(crate) v6: bool,
    pub(crate) flow: Flow,
}

/// One line of a head.
#[derive(Debug)]
pub(crate) struct Line {
    allow: bool,
    from: Vec<String>,
    to: Vec<String>,
    traffic: Vec<String>,
    family: Option<bool>,
}

fn map(text: &str) -> BTreeMap<String, String> {
    text.split_whitespace()
        .map(|pair| pair.split_once('=').expect(pair))
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

fn protocol(text: &str) -> Protocol {
    match text {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        "sctp" => Protocol::Sctp,
        _ => panic!("no protocol: {text}"),
    }
}

fn addresses(network: &str, last: u8) -> [IpAddr; 2] {
    let (four, six) = match network {
        "blue" => ("10.4.0", "fd00:4"),
        "red" => ("10.5.0", "fd00:5"),
        _ => ("10.0.0", "fd00:1"),
    };
    [format!("{four}.{last}").parse().unwrap(), format!("{six}::{last}").parse().unwrap()]
}

/// The world of all cases.
pub(crate) fn world() -> World {
    let namespaces: BTreeMap<&str, &str> = NAMESPACES.into();
    let sandbox = |(namespace, name, node, labels, ports, network, last): Row| Sandbox {
        name: SandboxName { namespace: namespace.to_owned(), name: name.to_owned() },
        labels: map(labels),
        namespace_labels: map(namespaces[namespace]),
        addresses: addresses(network, last).map(|address| (address, network.to_owned())).into(),
        ports: ports.split_whitespace().map(named_port).collect(),
        node: node.to_owned(),
        known: None,
    };
    World {
        sandboxes: SANDBOXES.map(sandbox).into_iter().map(|sandbox| (sandbox.name.clone(), sandbox)).collect(),
        nodes: NODES
            .map(|(name, labels, last)| {
                (name.to_owned(), Node { labels: map(labels), addresses: addresses("", last).into() })
            })
            .into(),
        ..World::default()
    }
}

fn named_port(text: &str) -> NamedPort {
    let (name, rest) = text.split_once(':').unwrap();
    let (kind, number) = rest.split_once('/').unwrap();
    NamedPort { name: name.to_owned(), protocol: protocol(kind), number: number.parse().unwrap() }
}

fn ends() -> Vec<End> {
    let name =
        |namespace: &str, name: &str| -> &'static str { Box::leak(format!("{namespace}/{name}").into_boxed_str()) };
    let sandboxes = SANDBOXES.map(|row| End {
        name: name(row.0, row.1),
        node: Some(row.2),
        is_node: false,
        addresses: addresses(row.5, row.6),
    });
    let nodes =
        NODES.map(|(name, _, last)| End { name, node: Some(name), is_node: true, addresses: addresses("", last) });
    let outside = OUTSIDE.map(|(name, four, six)| End {
        name,
        node: None,
        is_node: false,
        addresses: [four.parse().unwrap(), six.parse().unwrap()],
    });
    sandboxes.into_iter().chain(nodes).chain(outside).collect()
}

fn packet(text: &str, v6: bool) -> Traffic {
    match (text, v6) {
        ("ping", false) => Traffic::icmp(ICMP, 8, 0),
        ("ping", true) => Traffic::icmp(ICMPV6, 128, 0),
        ("unreachable", false) => Traffic::icmp(ICMP, 3, 1),
        ("unreachable", true) => Traffic::icmp(ICMPV6, 1, 3),
        ("gre", _) => Traffic { protocol: 47, port: 0 },
        _ => {
            let (kind, port) = text.split_once('/').unwrap();
            Traffic::to(protocol(kind), port.parse().unwrap())
        }
    }
}

/// All probes: every pair with a sandbox in it, all traffic, both families.
pub(crate) fn probes() -> Vec<Probe> {
    let ends = ends();
    let mut probes = Vec::new();
    for from in &ends {
        for to in ends.iter().filter(|to| is_sandbox(from) || is_sandbox(to)) {
            for (traffic, v6) in TRAFFIC.iter().flat_map(|traffic| [(*traffic, false), (*traffic, true)]) {
                let at = usize::from(v6);
                let flow = Flow { from: from.addresses[at], to: to.addresses[at], traffic: packet(traffic, v6) };
                probes.push(Probe { from: from.clone(), to: to.clone(), traffic, v6, flow });
            }
        }
    }
    probes
}

fn is_sandbox(end: &End) -> bool {
    end.name.contains('/')
}

impl Probe {
    /// Whether one end is a sandbox and the other its own node.
    pub(crate) fn is_own_node(&self) -> bool {
        self.from.is_node != self.to.is_node && self.from.node == self.to.node
    }
}

/// What the head of a case says: its title and its lines.
pub(crate) fn head(text: &str) -> (String, Vec<Line>) {
    let mut lines =
        text.lines().take_while(|line| line.starts_with('#')).map(|line| line.trim_start_matches('#').trim());
    let title = lines.next().unwrap_or_default().to_owned();
    (title, lines.map(line).collect())
}

fn line(text: &str) -> Line {
    let mut words: Vec<&str> = text.split_whitespace().collect();
    let family = words.iter().position(|word| word.starts_with('@')).map(|at| words.remove(at) == "@6");
    let [verb, from, arrow, to, traffic @ ..] = words.as_slice() else { panic!("no line: {text}") };
    assert!(matches!(*verb, "allow" | "deny") && *arrow == "->" && !traffic.is_empty(), "no line: {text}");
    let list = |text: &str| -> Vec<String> { text.split(',').map(str::to_owned).collect() };
    let names: BTreeSet<&str> = ends().iter().map(|end| end.name).collect();
    for name in list(from).iter().chain(&list(to)) {
        assert!(
            name == "*" || name == "own" || name.ends_with("/*") || names.contains(name.as_str()),
            "no end: {name}"
        );
    }
    for name in traffic {
        assert!(
            *name == "*"
                || TRAFFIC
                    .iter()
                    .any(|known| known == name || known.split_once('/').is_some_and(|(kind, _)| kind == *name)),
            "no probe: {name}"
        );
    }
    let traffic = traffic.iter().map(|word| (*word).to_owned()).collect();
    Line { allow: *verb == "allow", from: list(from), to: list(to), traffic, family }
}

/// Whether `probe` is expected to pass.
pub(crate) fn expected(lines: &[Line], probe: &Probe) -> bool {
    if probe.from == probe.to {
        return true;
    }
    lines.iter().rev().find(|line| line.matches(probe)).is_none_or(|line| line.allow)
}

impl Line {
    fn matches(&self, probe: &Probe) -> bool {
        let end = |names: &[String], end: &End| names.iter().any(|name| is_end(name, end, probe.is_own_node()));
        let traffic = |name: &String| {
            name == "*" || name == probe.traffic || probe.traffic.split_once('/').is_some_and(|(kind, _)| kind == name)
        };
        end(&self.from, &probe.from)
            && end(&self.to, &probe.to)
            && self.traffic.iter().any(traffic)
            && self.family.is_none_or(|v6| v6 == probe.v6)
    }
}

fn is_end(name: &str, end: &End, own_node: bool) -> bool {
    if end.is_node && own_node {
        return name == "own";
    }
    if own_node {
        return name == end.name || name.strip_suffix('*').is_some_and(|prefix| end.name.starts_with(prefix));
    }
    name == "*"
        || name == end.name
        || name.strip_suffix("/*").is_some_and(|space| end.name.starts_with(&format!("{space}/")))
}
