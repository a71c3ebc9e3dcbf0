//! Counts and times of compilation: `cargo run --release -p netd-policy --example load [POLICIES SANDBOXES NAMESPACES]`.
#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a program for people")]

use std::net::{IpAddr, Ipv4Addr};
use std::time::Instant;

use netd_policy::{Change, Compiled, Compiler, Delta, Policy, Reaches, Sandbox, SandboxName, World, parse};

fn main() {
    let given: Vec<usize> = std::env::args().skip(1).filter_map(|text| text.parse().ok()).collect();
    let [policies, sandboxes, namespaces] = given.try_into().unwrap_or([10_000, 1_000, 100]);
    for (name, from) in [
        ("peers by label in the own namespace", "- podSelector: {matchLabels: {app: PEER}}"),
        ("the own namespace", "- podSelector: {}"),
        ("another namespace", "- namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: OTHER}}"),
        ("every sandbox of the cluster", "- namespaceSelector: {}"),
        ("a block of its own", "- ipBlock: {cidr: BLOCK, except: [HOLE]}"),
    ] {
        run(name, from, policies, sandboxes, namespaces);
    }
}

fn run(name: &str, from: &str, policies: usize, sandboxes: usize, namespaces: usize) {
    println!("{policies} policies, {sandboxes} sandboxes, {namespaces} namespaces; peers: {name}");
    let start = Instant::now();
    let policies: Vec<Policy> = (0..policies).flat_map(|number| policy(number, from, namespaces)).collect();
    println!("  parse         {:>10.1?}", start.elapsed());
    let world = World {
        sandboxes: (0..sandboxes)
            .map(|number| sandbox(number, namespaces, None))
            .map(|one| (one.name.clone(), one))
            .collect(),
        ..World::default()
    };
    let mut compiler = Compiler::new("n1");
    let start = Instant::now();
    let delta = compiler.load(policies.clone(), world);
    println!("  load          {:>10.1?}  {:>7} elements", start.elapsed(), delta.len());
    counts(compiler.compiled());
    matrix(compiler.compiled(), sandboxes.min(300));
    let mut fresh = |number| compiler_change(&mut compiler, Change::Sandbox(sandbox(number, namespaces, None)));
    row("new sandbox", (0..20).map(|one| fresh(sandboxes + one)).collect());
    let mut relabel =
        |number, app| compiler_change(&mut compiler, Change::Sandbox(sandbox(number, namespaces, Some(app))));
    row("relabel", (0..20).map(|one| relabel(one * 7, format!("a{}", (one + 3) % 10))).collect());
    row("unknown label", (0..20).map(|one| relabel(one * 7, format!("u{one}"))).collect());
    let start = Instant::now();
    let delta = compiler.update(Change::Policies(policies[1..].to_vec()));
    println!("  policy away   {:>10.1?}  {:>7} elements", start.elapsed(), delta.len());
}

fn matrix(compiled: &Compiled, size: usize) {
    let (start, node) = (Instant::now(), [].into());
    let mut reaches = Reaches::new(compiled, &node);
    let ends: Vec<IpAddr> = compiled.classes.keys().take(size).copied().collect();
    let all = ends.iter().flat_map(|from| ends.iter().map(move |to| (*from, *to)));
    let closed = all.filter(|(from, to)| reaches.between(*from, *to).is_none()).count();
    println!("  matrix        {:>10.1?}  {:>7} of {} pairs closed", start.elapsed(), closed, ends.len() * ends.len());
}

fn compiler_change(compiler: &mut Compiler, change: Change) -> (std::time::Duration, Delta) {
    let start = Instant::now();
    let delta = compiler.update(change);
    (start.elapsed(), delta)
}

fn row(name: &str, mut all: Vec<(std::time::Duration, Delta)>) {
    all.sort_by_key(|(time, _)| *time);
    let (median, last) = (&all[all.len() / 2], &all[all.len() - 1]);
    println!(
        "  {name:<13} {:>10.1?}  {:>7} elements (slowest {:.1?}, {} elements)",
        median.0,
        median.1.len(),
        last.0,
        last.1.len()
    );
}

fn counts(compiled: &Compiled) {
    let entries: usize = compiled.profiles.values().map(|profile| profile.0.len()).sum();
    println!(
        "  classes {}, blocks {}, ingress {}, pairs {} in, {} out, profiles {} with {entries} entries",
        compiled.classes.len(),
        compiled.blocks.len(),
        compiled.ingress.len(),
        compiled.pairs_in.len(),
        compiled.pairs_out.len(),
        compiled.profiles.len(),
    );
}

fn policy(number: usize, from: &str, namespaces: usize) -> Vec<Policy> {
    let namespace = number % namespaces;
    let app = number / namespaces % 10;
    let from = from
        .replace("PEER", &format!("a{}", (app + 1) % 10))
        .replace("OTHER", &format!("ns{}", (namespace + 1) % namespaces))
        .replace("BLOCK", &format!("10.{}.{}.0/24", number / 256 % 256, number % 256))
        .replace("HOLE", &format!("10.{}.{}.8/29", number / 256 % 256, number % 256));
    let text = format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: p{number}, namespace: ns{namespace}}}\nspec:\n  podSelector: {{matchLabels: {{app: a{app}}}}}\n  ingress:\n  - from:\n    {from}\n    ports: [{{port: {}}}]\n",
        1000 + number / namespaces
    );
    parse("load.yaml", &text).unwrap()
}

fn sandbox(number: usize, namespaces: usize, app: Option<String>) -> Sandbox {
    let bytes = u32::try_from(number).unwrap().to_be_bytes();
    let address = IpAddr::from(Ipv4Addr::new(10, 200, bytes[2], bytes[3]));
    Sandbox {
        name: SandboxName { namespace: format!("ns{}", number % namespaces), name: format!("s{number}") },
        labels: [("app".to_owned(), app.unwrap_or_else(|| format!("a{}", number / namespaces % 10)))].into(),
        namespace_labels: [].into(),
        addresses: [(address, "blue".to_owned())].into(),
        ports: [].into(),
        node: "n1".to_owned(),
        known: None,
    }
}
