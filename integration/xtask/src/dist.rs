//! `cargo xtask dist`: what an installation takes, in `target/dist`. How it is packed is packaging's work.
//!
//! ```text
//! target/dist/netd, netdctl, netd-hook    linked as usual
//! target/dist/cni/netd-cni                static: a start costs no dynamic linking
//! target/dist/cni/{bridge, portmap, ...}  links to it
//! ```

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::{cargo, say};

/// Programs of an installation, each by the name of its package too.
const PROGRAMS: [&str; 3] = ["netd", "netdctl", "netd-hook"];
const STATIC: &str = "netd-cni";
/// The names that the CNI client answers to, one a line.
const NAMES: &str = "hook/cni/plugins.txt";

pub(crate) fn run() -> Result<()> {
    let workspace = Workspace::read()?;
    let dist = workspace.target.join("dist");
    if dist.exists() {
        fs::remove_dir_all(&dist).with_context(|| format!("cannot empty {}", dist.display()))?;
    }
    fs::create_dir_all(dist.join("cni")).with_context(|| format!("cannot make {}", dist.display()))?;
    for program in PROGRAMS {
        cargo(&["build", "--release", "--package", program, "--bin", program])?;
        copy(&workspace.target.join("release").join(program), &dist.join(program))?;
    }
    let client = dist.join("cni").join(STATIC);
    copy(&build_static(&workspace)?, &client)?;
    for name in fs::read_to_string(NAMES).with_context(|| format!("cannot read {NAMES}"))?.lines() {
        if name != STATIC {
            symlink(STATIC, client.with_file_name(name)).with_context(|| format!("cannot link {name}"))?;
        }
    }
    say(&format!("everything is in {}", dist.display()));
    Ok(())
}

/// Builds the CNI client with the C library inside. The flag is bound to the target: build scripts and all other builds
/// stay as they are.
fn build_static(workspace: &Workspace) -> Result<PathBuf> {
    // `RUSTFLAGS` would take the flag's place.
    ensure!(std::env::var_os("RUSTFLAGS").is_none(), "cannot build {STATIC} statically under RUSTFLAGS; unset it");
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let flags = format!("target.{target}.rustflags=[\"-Ctarget-feature=+crt-static\"]");
    let strip = "profile.release.strip=\"symbols\"";
    cargo(&["build", "--release", "--package", STATIC, "--target", &target, "--config", &flags, "--config", strip])?;
    let built = workspace.target.join(target).join("release").join(STATIC);
    let bytes = fs::read(&built).with_context(|| format!("cannot read {}", built.display()))?;
    let is_static = !has_interpreter(&bytes).with_context(|| format!("{} is no ELF file", built.display()))?;
    ensure!(
        is_static,
        "{} is linked dynamically; does the linker have the static C library (libc6-dev)?",
        built.display()
    );
    Ok(built)
}

/// Whether an ELF file asks for a dynamic linker (`PT_INTERP`; elf(5), 64 bits, little-endian).
fn has_interpreter(elf: &[u8]) -> Option<bool> {
    const PT_INTERP: [u8; 4] = [3, 0, 0, 0];
    let half = |at: usize| Some(usize::from(u16::from_le_bytes(elf.get(at..at + 2)?.try_into().ok()?)));
    let start = usize::try_from(u64::from_le_bytes(elf.get(32..40)?.try_into().ok()?)).ok()?;
    let (size, count) = (half(54)?, half(56)?);
    let headers = elf.starts_with(b"\x7fELF").then(|| elf.get(start..start + size * count))??;
    (size > 0).then(|| headers.chunks(size).any(|header| header.starts_with(&PT_INTERP)))
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to).with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))?;
    Ok(())
}

/// The workspace, as cargo knows it.
pub(crate) struct Workspace {
    pub(crate) target: PathBuf,
}

impl Workspace {
    pub(crate) fn read() -> Result<Self> {
        let output = Command::new(env!("CARGO")).args(["metadata", "--no-deps", "--format-version=1"]).output()?;
        if !output.status.success() {
            bail!("cargo metadata failed: {}", String::from_utf8_lossy(&output.stderr));
        }
        let metadata: Value = serde_json::from_slice(&output.stdout).context("cannot read cargo metadata")?;
        let target = metadata["target_directory"].as_str().context("cargo metadata names no target directory")?.into();
        Ok(Self { target })
    }
}

#[cfg(test)]
mod tests {
    use super::has_interpreter;

    #[test]
    fn a_dynamic_program_names_its_interpreter_and_a_text_is_no_program() {
        // This test is linked as cargo does it by default.
        let own = std::fs::read("/proc/self/exe").unwrap();
        assert_eq!(has_interpreter(&own), Some(true));
        for text in [&b""[..], b"\x7fELF", &[b'a'; 100]] {
            assert_eq!(has_interpreter(text), None);
        }
    }
}
