//! Packages of a Debian system: installs those that are missing, by name, and no other.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::say;

/// What a node and its clients run with: `ip`, `nft`, a static busybox for images, and iptables for the official plugins.
pub(super) const TO_RUN: [&str; 4] = ["busybox-static", "iproute2", "iptables", "nftables"];
/// What runc links, and how it finds it.
pub(super) const TO_BUILD_RUNC: [&str; 3] = ["gcc", "libseccomp-dev", "pkg-config"];
/// User-mode Linux and its modules.
pub(super) const FOR_USER_MODE: [&str; 2] = ["kmod", "user-mode-linux"];
/// What slows one program's disk down.
pub(super) const TO_SLOW: [&str; 1] = ["strace"];
/// What ufw runs with.
pub(super) const FOR_UFW: [&str; 2] = ["iptables", "python3"];
/// What firewalld runs with.
pub(super) const FOR_FIREWALLD: [&str; 6] =
    ["dbus-daemon", "gir1.2-glib-2.0", "nftables", "python3", "python3-dbus", "python3-gi"];
/// An emulator, and what an initrd is made of.
pub(super) const TO_EMULATE: [&str; 3] = ["busybox-static", "kmod", "qemu-system-x86"];
/// The first process of a guest whose services are managed.
pub(super) const TO_MANAGE: [&str; 1] = ["systemd"];

/// A mirror may fail once.
const RETRIES: [&str; 2] = ["-o", "Acquire::Retries=5"];

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

/// The package that `package` depends on, as the machine's package lists have it.
pub(super) fn dependency(package: &str) -> Result<String> {
    let ask = || -> Option<String> {
        let output = Command::new("apt-cache").args(["depends", "--important", package]).output().ok()?;
        first_dependency(&String::from_utf8_lossy(&output.stdout)).map(str::to_owned)
    };
    if let Some(found) = ask() {
        return Ok(found);
    }
    apt(&["update"])?;
    ask().with_context(|| format!("no package {package} in this machine's lists; it must be a Debian on amd64"))
}

fn first_dependency(text: &str) -> Option<&str> {
    text.lines().find_map(|line| line.trim().strip_prefix("Depends: "))
}

/// Downloads a package into `folder`, without installing it; the file.
pub(super) fn download(package: &str, folder: &Path) -> Result<PathBuf> {
    let download = || run(Command::new("apt-get").args(RETRIES).args(["-q", "download", package]).current_dir(folder));
    let remedy = || format!("cannot download {package}; `apt-get download {package}` must work here");
    if download().is_err() {
        apt(&["update"]).with_context(remedy)?;
        download().with_context(remedy)?;
    }
    let files = fs::read_dir(folder)?.flatten().map(|entry| entry.path());
    files.into_iter().find(|file| file.extension().is_some_and(|end| end == "deb")).with_context(remedy)
}

/// Unpacks a package into `folder`, without installing it.
pub(super) fn unpack(package: &str, folder: &Path) -> Result<()> {
    let file = download(package, folder)?;
    run(Command::new("dpkg-deb").arg("-x").arg(&file).arg(folder))?;
    Ok(fs::remove_file(file)?)
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
    run(Command::new("apt-get").args(RETRIES).args(["-q", "-o", "DPkg::Lock::Timeout=300"]).args(arguments))
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.env("DEBIAN_FRONTEND", "noninteractive").output().context("cannot run apt-get")?;
    if output.status.success() {
        return Ok(());
    }
    bail!("{command:?} failed: {}", String::from_utf8_lossy(&output.stderr).trim())
}

#[cfg(test)]
mod tests {
    use super::first_dependency;

    #[test]
    fn a_dependency_is_read_from_what_apt_shows() {
        let text = "linux-image-amd64\n  Depends: linux-image-6.1.0-56-amd64\n  Breaks: x\n";
        assert_eq!(first_dependency(text), Some("linux-image-6.1.0-56-amd64"));
        assert_eq!(first_dependency(""), None);
    }
}
