//! Packages of a Debian system: installs those that are missing, by name, and no other.

use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::say;

/// What a node and its clients run with: `ip`, `nft`, a static busybox for images, and iptables for the official plugins.
pub(super) const TO_RUN: [&str; 4] = ["busybox-static", "iproute2", "iptables", "nftables"];
/// What runc links, and how it finds it.
pub(super) const TO_BUILD_RUNC: [&str; 3] = ["gcc", "libseccomp-dev", "pkg-config"];

/// Installs the missing ones of `packages`.
pub(super) fn ensure(packages: &[&str]) -> Result<()> {
    let missing: Vec<&str> = packages.iter().copied().filter(|name| !is_installed(name)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    say(&format!("installing {}", missing.join(" ")));
    // Another test may have taken the lock and installed them meanwhile: apt waits, and then has nothing to do.
    if install(&missing).is_ok() {
        return Ok(());
    }
    apt(&["update"]).with_context(|| remedy(&missing))?;
    install(&missing).with_context(|| remedy(&missing))
}

fn remedy(missing: &[&str]) -> String {
    format!("packages are missing; on Debian, as root: apt-get install {}", missing.join(" "))
}

fn is_installed(name: &str) -> bool {
    let query = Command::new("dpkg-query").args(["-W", "-f=${db:Status-Status}", name]).output();
    query.is_ok_and(|output| output.stdout == b"installed")
}

fn install(missing: &[&str]) -> Result<()> {
    apt(&[&["install", "-y", "--no-install-recommends"], missing].concat())
}

fn apt(arguments: &[&str]) -> Result<()> {
    let output = Command::new("apt-get")
        .args(["-q", "-o", "DPkg::Lock::Timeout=300"])
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .output()
        .context("cannot run apt-get")?;
    if output.status.success() {
        return Ok(());
    }
    bail!("apt-get {} failed: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim())
}
