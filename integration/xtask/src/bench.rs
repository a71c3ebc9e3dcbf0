//! `cargo xtask bench {attach | policy | tunnel | fleet} [--quick] [--only CASE]...`: builds what is measured and runs the bench. What is measured when is its business.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::dist::{self, Workspace};
use crate::{cargo, say};

/// Where the parts of rigs are kept, and the official CNI plugins among them.
const PARTS: &str = "/var/cache/netd-rig";
const PLUGINS: &str = "cni-plugins-1.9.1";
const NAMES: [&str; 4] = ["attach", "policy", "tunnel", FLEET];
/// The one that needs a store.
const FLEET: &str = "fleet";
const BENCH: &str = "netd-bench";
const FLOOR: &str = "netd-kernel-floor";

pub(crate) fn run(arguments: &[String]) -> Result<()> {
    let Some((name, options)) = arguments.split_first().filter(|(name, _)| NAMES.contains(&name.as_str())) else {
        bail!("usage: cargo xtask bench {{attach | policy | tunnel | fleet}} [--quick] [--only CASE]...");
    };
    dist::run()?;
    cargo(&["build", "--release", "--package", BENCH, "--package", FLOOR])?;
    let target = Workspace::read()?.target;
    let (release, dist) = (target.join("release"), target.join("dist"));
    let parts = std::env::var_os("NETD_RIG_CACHE").map_or_else(|| PathBuf::from(PARTS), PathBuf::from);
    let mut bench = Command::new(release.join(BENCH));
    bench.arg(name).arg("--netd").arg(dist.join("netd")).arg("--client").arg(dist.join("cni"));
    bench.arg("--floor").arg(release.join(FLOOR)).arg("--plugins").arg(parts.join(PLUGINS));
    bench.arg("--output").arg(target.join("bench")).arg("--commit").arg(commit()?);
    if name == FLEET {
        bench.arg("--etcd").arg(netd_rig::parts::etcd()?);
    }
    // What options there are, and what is wrong with one, the bench itself says.
    bench.args(options);
    say(&format!("== bench {name}"));
    ensure!(bench.status().context("cannot start the bench")?.success(), "the bench failed; its output is above");
    say(&format!("results are in {}", target.join("bench").display()));
    Ok(())
}

/// The commit, with a mark where the tree differs from it.
fn commit() -> Result<String> {
    let output = Command::new("git").args(["describe", "--always", "--dirty", "--abbrev=12"]).output()?;
    ensure!(output.status.success(), "cannot name the commit: git describe failed");
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}
