//! Builds Go programs: published modules by name and version, and our own folder. Which ones, `parts` says.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::say;

/// What containerd 2.4.2 asks for in its `go.mod`.
const OLDEST: (u32, u32) = (1, 26);

/// Between one try to fetch modules and the next.
const PAUSES: [Duration; 3] = [Duration::from_secs(2), Duration::from_secs(10), Duration::from_secs(30)];

/// How a program is linked.
#[derive(Debug)]
pub(super) enum Flavour {
    /// Without C.
    Static,
    /// With C, and these build tags.
    Cgo(&'static str),
}

/// Builds `packages` of a module at `version` into `folder`.
pub(super) fn build_modules(folder: &Path, packages: &[String], version: &str, flavour: &Flavour) -> Result<()> {
    check_version()?;
    let module = tempfile::tempdir()?;
    fs::write(module.path().join("go.mod"), format!("module parts\n\ngo {}.{}\n", OLDEST.0, OLDEST.1))?;
    let pinned: Vec<String> = packages.iter().map(|package| format!("{package}@v{version}")).collect();
    // As tools of a module of their own: `go install` refuses modules with replace directives.
    again(&mut || run(go(module.path(), flavour).args(["get", "-tool"]).args(&pinned)))?;
    build(folder, module.path(), packages, flavour)?;
    Ok(())
}

/// Builds every program of the module in `source` into `folder`.
pub(super) fn build_folder(folder: &Path, source: &Path) -> Result<()> {
    check_version()?;
    again(&mut || run(go(source, &Flavour::Static).args(["mod", "download"])))?;
    build(folder, source, &["./...".to_owned()], &Flavour::Static)
}

/// What comes from elsewhere may fail once.
fn again(fetch: &mut dyn FnMut() -> Result<()>) -> Result<()> {
    for pause in PAUSES {
        match fetch() {
            Ok(()) => return Ok(()),
            Err(error) => say(&format!("once more in {pause:?}: {error:#}")),
        }
        sleep(pause);
    }
    fetch()
}

fn build(folder: &Path, module: &Path, packages: &[String], flavour: &Flavour) -> Result<()> {
    let mut go = go(module, flavour);
    go.args(["build", "-trimpath", "-ldflags=-s -w"]);
    if let Flavour::Cgo(tags) = flavour {
        go.args(["-tags", tags]);
    }
    // The slash tells Go that it is a folder.
    run(go.arg("-o").arg(folder.join("")).args(packages))
}

fn go(module: &Path, flavour: &Flavour) -> Command {
    let mut go = Command::new("go");
    let cgo = if matches!(flavour, Flavour::Cgo(_)) { "1" } else { "0" };
    go.current_dir(module).env("CGO_ENABLED", cgo).env("GOWORK", "off").env("GOFLAGS", "-buildvcs=false");
    go
}

fn run(go: &mut Command) -> Result<()> {
    let output = go.output().context("cannot run go")?;
    if output.status.success() {
        return Ok(());
    }
    bail!("{go:?} failed:\n{}", String::from_utf8_lossy(&output.stderr).trim())
}

fn check_version() -> Result<()> {
    let remedy = format!("install Go {}.{} or newer, and put `go` on PATH", OLDEST.0, OLDEST.1);
    let output = Command::new("go").arg("version").output().with_context(|| format!("no Go here; {remedy}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    match version(&text) {
        Some(version) if version >= OLDEST => Ok(()),
        Some((major, minor)) => bail!("Go {major}.{minor} is too old for containerd 2.4; {remedy}"),
        None => bail!("cannot read `go version`: {text:?}; {remedy}"),
    }
}

/// Major and minor of `go version go1.26.8 linux/amd64`.
fn version(text: &str) -> Option<(u32, u32)> {
    let word = text.split_whitespace().nth(2)?.strip_prefix("go")?;
    let (major, rest) = word.split_once('.')?;
    let minor: String = rest.chars().take_while(char::is_ascii_digit).collect();
    Some((major.parse().ok()?, minor.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::version;

    #[test]
    fn versions_of_go_are_read() {
        assert_eq!(version("go version go1.26.8 linux/amd64"), Some((1, 26)));
        assert_eq!(version("go version go1.27rc1 linux/amd64"), Some((1, 27)));
        assert_eq!(version("go version devel +abc linux/amd64"), None);
    }
}
