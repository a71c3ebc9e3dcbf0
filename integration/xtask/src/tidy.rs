//! The house rules that a program can check. What a reader must judge is in STYLE.md.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::say;

const LONGEST_FILE: usize = 600;
const LONGEST_ARCHITECTURE: usize = 200;

/// Crates that each crate may use. An arrow that is not here points upwards.
const ARROWS: &[(&str, &[&str])] = &[
    ("netd-config", &[]),
    // The rig for its tests alone; so netd.
    ("netd-fleet", &["netd-config", "netd-grpc", "netd-rig"]),
    // Reads the sources of netd-fleet, and uses nothing of it.
    ("netd-fleet-mutants", &[]),
    ("netd-grpc", &[]),
    // Itself for its tests alone: they have the fake.
    ("netd-kernel", &["netd-config", "netd-kernel", "netd-netlink"]),
    ("netd-netlink", &[]),
    ("netd-policy", &["netd-config"]),
    ("netd-api", &[]),
    ("netd", &["netd-api", "netd-config", "netd-fleet", "netd-grpc", "netd-kernel", "netd-policy", "netd-rig"]),
    ("netd-cni", &["netd-api"]),
    ("netd-hook", &["netd-api"]),
    ("netdctl", &["netd-api", "netd-config", "netd-policy"]),
    (
        "netd-fuzz",
        &[
            "netd",
            "netd-config",
            "netd-fleet",
            "netd-grpc",
            "netd-hook",
            "netd-kernel",
            "netd-netlink",
            "netd-policy",
            "netdctl",
        ],
    ),
    ("netd-rig", &[]),
    ("xtask", &["netd-rig"]),
    ("netd-bench", &["netd-api", "netd-fleet"]),
    ("netd-kernel-floor", &[]),
];

pub(crate) fn run() -> Result<()> {
    say("== tidy");
    let mut faults = Vec::new();
    for path in tracked("*.rs")? {
        let Ok(text) = fs::read_to_string(&path) else { continue };
        faults.extend(file(&path, &text));
    }
    let pages = fs::read_to_string("ARCHITECTURE.md").context("cannot read ARCHITECTURE.md")?.lines().count();
    if pages > LONGEST_ARCHITECTURE {
        faults.push(format!("ARCHITECTURE.md: {pages} lines; {LONGEST_ARCHITECTURE} are enough"));
    }
    faults.extend(arrows()?);
    if faults.is_empty() {
        return Ok(());
    }
    faults.iter().for_each(|fault| say(fault));
    bail!("{} house rules broken", faults.len())
}

/// Faults of one source file.
fn file(path: &str, text: &str) -> Vec<String> {
    let mut faults = Vec::new();
    if !text.starts_with("//!") {
        faults.push(format!("{path}: does not open with `//!` and its subject"));
    }
    let is_test = path.ends_with("tests.rs") || path.contains("/tests/");
    let lines = text.lines().count();
    if lines > LONGEST_FILE && !is_test {
        faults.push(format!("{path}: {lines} lines; what is its second subject?"));
    }
    faults
}

fn tracked(pattern: &str) -> Result<Vec<String>> {
    let output = Command::new("git").args(["ls-files", pattern]).output().context("cannot run git")?;
    if !output.status.success() {
        bail!("git ls-files failed: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8(output.stdout)?.lines().map(str::to_owned).filter(|path| Path::new(path).exists()).collect())
}

fn arrows() -> Result<Vec<String>> {
    let output = Command::new(env!("CARGO")).args(["metadata", "--no-deps", "--format-version=1"]).output()?;
    let metadata: Value = serde_json::from_slice(&output.stdout).context("cannot read cargo metadata")?;
    let allowed: BTreeMap<&str, &[&str]> = ARROWS.iter().copied().collect();
    let packages = metadata["packages"].as_array().context("cargo metadata lists no packages")?;
    let names: Vec<&str> = packages.iter().filter_map(|package| package["name"].as_str()).collect();
    let mut faults = Vec::new();
    for package in packages {
        let name = package["name"].as_str().unwrap_or_default();
        let Some(may) = allowed.get(name) else {
            faults.push(format!("crate {name}: not in tidy's ARROWS; say there what it may use"));
            continue;
        };
        let uses = package["dependencies"].as_array().into_iter().flatten().filter_map(|one| one["name"].as_str());
        faults.extend(
            uses.filter(|used| names.contains(used) && !may.contains(used))
                .map(|used| format!("crate {name} uses {used}: dependencies point downwards only")),
        );
    }
    Ok(faults)
}

#[cfg(test)]
mod tests {
    use super::file;

    #[test]
    fn a_file_without_its_subject_or_too_long_is_a_fault() {
        assert!(file("a.rs", "//! A.\n").is_empty());
        assert_eq!(file("a.rs", "fn main() {}\n").len(), 1);
        let long = format!("//! A.\n{}", "\n".repeat(700));
        assert_eq!(file("a.rs", &long).len(), 1);
        assert!(file("x/tests.rs", &long).is_empty());
    }
}
