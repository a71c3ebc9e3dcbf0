//! Policy files: read or refused with words, and what is read is compiled to maps that say what the model says.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::LazyLock;

use netd::policies::files::{PolicyFiles, Source};
use netd_policy::{
    Compiler, Errors, Flow, Hook, ICMP, NamedPort, Node, Policy, Protocol, Reaches, Sandbox, SandboxName, Traffic,
    World, oracle, parse,
};

use super::{Verdict, promise, shape};

pub(super) const TOKENS: &[&str] = &[
    "apiVersion: networking.k8s.io/v1\n",
    "apiVersion: policy.networking.k8s.io/v1alpha2\n",
    "kind: NetworkPolicy\n",
    "kind: ClusterNetworkPolicy\n",
    "kind: List\n",
    "metadata: {name: q, namespace: shop}\n",
    "netd/audit: \"true\"",
    "netd/log: \"true\"",
    "netd/networkNames: [blue]",
    "netd/icmp: [{family: IPv4, type: 8}]",
    "netd/nodes: {}",
    "podSelector: {}",
    "namespaceSelector: {}",
    "matchLabels: {app: db}",
    "matchExpressions: [{key: app, operator: Exists}]",
    "{key: app, operator: NotIn, values: [db]}",
    "policyTypes: [Ingress, Egress]",
    "ingress: [{}]",
    "egress: [{}]",
    "from: []",
    "ipBlock: {cidr: 0.0.0.0/0, except: [10.0.0.0/8]}",
    "cidr: \"::/0\"",
    "ports: [{port: http}]",
    "endPort: 65535",
    "protocol: SCTP",
    "tier: Baseline",
    "priority: 0",
    "subject: {namespaces: {}}",
    "action: Pass",
    "action: Deny",
    "protocols: [{tcp: {destinationPort: {number: 80}}}]",
    "networks: [0.0.0.0/0]",
    "---\n",
    "...\n",
    "\n  ",
    "- ",
    "&a ",
    "*a",
    "<<: *a",
    "!!str ",
    "|\n",
    ">-\n",
    "\t",
    "? ",
    "%YAML 1.1\n",
    "\u{feff}",
    "0x50",
    "~",
    "{",
    "}",
    "[",
    "]",
    ",",
    "# ",
];

const NODE: &str = "n1";
const ENDS: [&str; 5] = ["10.4.0.2", "10.4.0.4", "10.5.0.9", "10.0.0.1", "203.0.113.9"];

static WORLD: LazyLock<World> = LazyLock::new(world);

/// Two sandboxes of one namespace, one of another on another node, the own node; all else is outside.
fn world() -> World {
    let text = str::to_owned;
    let sandbox = |namespace: &str, app: &str, node: &str, at: &str, port: u16| Sandbox {
        name: SandboxName { namespace: text(namespace), name: text(app) },
        labels: [(text("app"), text(app))].into(),
        namespace_labels: [(text("team"), text(if namespace == "shop" { "red" } else { "blue" }))].into(),
        addresses: at.parse().map(|address: IpAddr| (address, text("blue"))).into_iter().collect(),
        ports: [NamedPort { name: text("http"), protocol: Protocol::Tcp, number: port }].into(),
        node: text(node),
        known: None,
    };
    let sandboxes = [
        sandbox("shop", "web", NODE, ENDS[0], 8080),
        sandbox("shop", "db", NODE, ENDS[1], 80),
        sandbox("lab", "web", "n2", ENDS[2], 80),
    ];
    let node = Node { labels: [(text("zone"), text("a"))].into(), addresses: ENDS[3].parse().into_iter().collect() };
    World {
        sandboxes: sandboxes.map(|one| (one.name.clone(), one)).into(),
        nodes: [(text(NODE), node)].into(),
        ..World::default()
    }
}

fn source(file: &str, text: &str) -> Source {
    Source { file: file.to_owned(), text: Ok(text.to_owned()) }
}

pub(super) fn file(input: &[u8]) -> Verdict {
    let Ok(text) = std::str::from_utf8(input) else { return Ok(0) };
    let read = parse("x.yaml", text);
    promise(parse("x.yaml", text) == read, || "read twice, two answers".to_owned())?;
    match read {
        Ok(policies) => {
            let names: BTreeSet<_> = policies.iter().map(|policy| &policy.name).collect();
            promise(names.len() == policies.len(), || format!("two of one name: {names:?}"))?;
            let files = PolicyFiles::default().next(&["x.yaml", "y.yaml"].map(|file| source(file, text)));
            let is_told = files.files[1].error.is_some();
            promise(files.policies().eq(&policies) && is_told != policies.is_empty(), || {
                format!("in two files: {files:?}")
            })?;
            enforced(policies)
        }
        Err(errors) => {
            told(&errors)?;
            Ok(shape(kinds(&errors)))
        }
    }
}

/// A person must learn something from every refusal, in one line.
fn told(errors: &Errors) -> Result<(), String> {
    let speaks = errors
        .faults
        .iter()
        .all(|fault| fault.line > 0 && fault.column > 0 && !fault.problem.is_empty() && !fault.remedy.is_empty());
    let lines = errors.to_string().chars().filter(|letter| *letter != ' ' && letter.is_whitespace()).count();
    let is_plain = lines + 1 == errors.faults.len() && !errors.to_string().contains('\r');
    promise(speaks && is_plain, || format!("refused in bad words: {errors:?}"))
}

/// Which kinds of mistake, whatever the values and places.
fn kinds(errors: &Errors) -> Vec<(String, String)> {
    let letters = |text: &str, count| text.chars().filter(|letter| !letter.is_ascii_digit()).take(count).collect();
    errors.faults.iter().take(3).map(|fault| (letters(&fault.path, 40), letters(&fault.remedy, 16))).collect()
}

/// Maps, reach and model say the same of every pair.
fn enforced(policies: Vec<Policy>) -> Verdict {
    let mut compiler = Compiler::new(NODE);
    compiler.load(policies, WORLD.clone());
    let (compiled, node) = (compiler.compiled(), &WORLD.nodes[NODE].addresses);
    let mut reaches = Reaches::new(compiled, node);
    let traffic = [
        Traffic::to(Protocol::Tcp, 80),
        Traffic::to(Protocol::Tcp, 8080),
        Traffic::to(Protocol::Udp, 53),
        Traffic::icmp(ICMP, 8, 0),
        Traffic { protocol: 47, port: 0 },
    ];
    let mut said = Vec::new();
    let ends: Vec<IpAddr> = ENDS.iter().filter_map(|end| end.parse().ok()).collect();
    for (from, to) in ends.iter().flat_map(|from| ends.iter().map(move |to| (*from, *to))) {
        let reach = reaches.between(from, to);
        for traffic in traffic {
            let flow = Flow { from, to, traffic };
            let model = here(&oracle::verdict(&WORLD, compiler.policies(), flow), flow);
            let maps = compiled.interpret(hook(node, flow), flow).allowed();
            promise((maps, reach.contains(traffic)) == (model, model), || {
                format!("{flow:?}: model {model}, maps {maps}, reach {reach}")
            })?;
            said.push(model);
        }
    }
    Ok(shape((compiler.policies().len(), said)))
}

/// What this node has to say of it.
fn here(verdict: &oracle::Verdict, flow: Flow) -> bool {
    let is_remote = |end: IpAddr| end.to_string() == ENDS[2];
    (is_remote(flow.from) || verdict.egress.allowed) && (is_remote(flow.to) || verdict.ingress.allowed)
}

fn hook(node: &BTreeSet<IpAddr>, flow: Flow) -> Hook {
    match (node.contains(&flow.from), node.contains(&flow.to)) {
        (true, _) => Hook::Output,
        (false, true) => Hook::Input,
        (false, false) => Hook::Forward,
    }
}
