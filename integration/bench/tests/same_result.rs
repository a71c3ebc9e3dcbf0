//! The floor does no less than netd: what both leave in the kernel for the same attachments is the same. Needs root, and the
//! programs netd and netd-kernel-floor, which it has built.
#![expect(clippy::unwrap_used, reason = "helpers of tests stand outside of them")]

use std::path::{Path, PathBuf};
use std::process::Command;

use netd_bench::case::{Api, Case, Floor, Programs, Sandbox};
use netd_bench::dump;
use netd_bench::node::Node;
use netd_bench::space::Space;

/// Both programs, of the same profile as this test.
fn programs() -> Programs {
    let mut build = Command::new(env!("CARGO"));
    build.args(["build", "--quiet", "--package", "netd", "--package", "netd-kernel-floor"]);
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
    (0..3).map(|number| Sandbox { number, space: Space::fresh().unwrap() }).collect()
}

/// Attaches three and detaches the second; the dump of the node, then of each sandbox.
fn dumps(node: &Node, case: &mut dyn Case) -> Vec<(String, String)> {
    let sandboxes = sandboxes();
    for sandbox in &sandboxes {
        case.add(node, sandbox).unwrap();
    }
    let mut dumps = vec![("node with three".to_owned(), dump::node(&node.space).unwrap())];
    for sandbox in &sandboxes {
        dumps.push((format!("sandbox {}", sandbox.number), dump::sandbox(&sandbox.space).unwrap()));
    }
    case.del(node, &sandboxes[1]).unwrap();
    dumps.push(("node with two".to_owned(), dump::node(&node.space).unwrap()));
    dumps.push(("sandbox 1 detached".to_owned(), dump::sandbox(&sandboxes[1].space).unwrap()));
    dumps
}

#[test]
fn the_floor_leaves_in_the_kernel_what_netd_leaves() {
    let programs = programs();
    let (ours, bare) = (Node::fresh().unwrap(), Node::fresh().unwrap());
    let mut api = Api::start(&ours, &programs.netd).unwrap();
    let warm = Sandbox { number: 3, space: Space::fresh().unwrap() };
    // As the floor's node had it: one attachment that made the bridge, and went.
    let mut floor = Floor::start(&bare, &programs).unwrap();
    let expected = dumps(&ours, &mut api);
    let actual = dumps(&bare, &mut floor);
    drop(warm);
    for ((what, expected), (_, actual)) in expected.iter().zip(&actual) {
        assert!(expected.contains("10.4.0"), "{what}: nothing was dumped:\n{expected}");
        let differences: Vec<String> = differences(expected, actual);
        assert!(differences.is_empty(), "{what}: - netd, + floor\n{}", differences.join("\n"));
    }
}

fn differences(expected: &str, actual: &str) -> Vec<String> {
    let (left, right): (Vec<&str>, Vec<&str>) = (expected.lines().collect(), actual.lines().collect());
    if left == right {
        return Vec::new();
    }
    let only = |these: &[&str], others: &[&str], sign: &str| {
        let missing = these.iter().filter(|line| !others.contains(line));
        missing.map(|line| format!("{sign} {line}")).collect::<Vec<_>>()
    };
    let mut found = only(&left, &right, "-");
    found.extend(only(&right, &left, "+"));
    if found.is_empty() {
        found.push(format!("the same lines in another order or number:\n{expected}\n{actual}"));
    }
    found
}
