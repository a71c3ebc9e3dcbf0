//! The floor does no less than netd: what both leave in the kernel for the same attachments is the same. Needs root, and the
//! programs netd and netd-kernel-floor, which it has built.
#![expect(clippy::unwrap_used, reason = "helpers of tests stand outside of them")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use netd_bench::case::{Api, Case, Floor, Programs, Sandbox};
use netd_bench::dump;
use netd_bench::network::Writing;
use netd_bench::node::Node;
use netd_bench::space::Space;

/// Both programs, of the same profile as this test. A run of all tests has them already, with these arguments: with others they
/// would have other features, and be built anew.
fn programs() -> Programs {
    let mut build = Command::new(env!("CARGO"));
    build.args(["build", "--quiet", "--workspace", "--bins", "--examples"]);
    if !cfg!(debug_assertions) {
        build.arg("--release");
    }
    assert!(build.status().unwrap().success(), "netd and netd-kernel-floor cannot be built");
    // target/<profile>/deps/same_result-...
    let folder = std::env::current_exe().unwrap().parent().and_then(Path::parent).unwrap().to_owned();
    let (netd, floor) = (folder.join("netd"), folder.join("netd-kernel-floor"));
    Programs { netd, floor, client: PathBuf::new(), plugins: PathBuf::new() }
}

fn sandboxes() -> Vec<Sandbox> {
    (1..=3).map(|number| Sandbox { number, space: Space::fresh().unwrap() }).collect()
}

/// Attaches three and detaches the second; the dump of the node, then of each sandbox.
fn dumps(node: &Node, case: &mut dyn Case) -> Vec<(String, String)> {
    let sandboxes = sandboxes();
    for sandbox in &sandboxes {
        case.add(node, sandbox).unwrap();
    }
    settle(node, &sandboxes);
    let mut dumps = vec![("node with three".to_owned(), dump::node(&node.space).unwrap())];
    for sandbox in &sandboxes {
        dumps.push((format!("sandbox {}", sandbox.number), dump::sandbox(&sandbox.space).unwrap()));
    }
    case.del(node, &sandboxes[1]).unwrap();
    dumps.push(("node with two".to_owned(), dump::node(&node.space).unwrap()));
    dumps.push(("sandbox 1 detached".to_owned(), dump::sandbox(&sandboxes[1].space).unwrap()));
    dumps
}

/// The kernel tries out the host links' own addresses for a second or two, and looks at carriers once a second.
fn settle(node: &Node, sandboxes: &[Sandbox]) {
    let is_settled = |space: &Space| {
        let unknown = space.output("ip -o link show").unwrap().matches("state UNKNOWN").count();
        // Loopback's state is never known.
        unknown <= 1 && !space.output("ip -6 address show tentative").unwrap().contains("inet6")
    };
    let start = Instant::now();
    while !std::iter::once(&node.space).chain(sandboxes.iter().map(|one| &one.space)).all(is_settled) {
        assert!(start.elapsed() < Duration::from_secs(60), "the links do not settle");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn the_floor_leaves_in_the_kernel_what_netd_leaves() {
    leave_the_same(Writing::One);
}

#[test]
fn routed_the_floor_leaves_in_the_kernel_what_netd_leaves() {
    leave_the_same(Writing::Routed);
}

fn leave_the_same(writing: Writing) {
    let programs = programs();
    let (ours, bare) = (Node::fresh().unwrap(), Node::fresh().unwrap());
    let mut api = Api::start(&ours, &programs.netd, writing).unwrap();
    // As on the floor's node: one attachment made the bridge, and went. A bridge that never lost its carrier shows it.
    let warm = Sandbox { number: 0, space: Space::fresh().unwrap() };
    api.add(&ours, &warm).unwrap();
    api.del(&ours, &warm).unwrap();
    let mut floor = Floor::start(&bare, &programs, writing).unwrap();
    let expected = dumps(&ours, &mut api);
    let actual = dumps(&bare, &mut floor);
    for ((what, expected), (_, actual)) in expected.iter().zip(&actual) {
        assert!(what.contains("detached") || expected.contains("10.4.0"), "{what}: nothing was dumped:\n{expected}");
        let found = differences(expected, actual);
        assert!(found.is_empty(), "{what}: lines that netd (-) or the floor (+) has more often\n{}", found.join("\n"));
    }
}

/// Lines that one has more often than the other.
fn differences(expected: &str, actual: &str) -> Vec<String> {
    let mut count: BTreeMap<&str, i32> = BTreeMap::new();
    expected.lines().for_each(|line| *count.entry(line).or_default() -= 1);
    actual.lines().for_each(|line| *count.entry(line).or_default() += 1);
    let told = |(line, more): (&str, i32)| match more {
        0 => None,
        _ => Some(format!("{more:+} {line}")),
    };
    count.into_iter().filter_map(told).collect()
}
