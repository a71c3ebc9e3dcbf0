//! netd's own programs for tests: built from this tree as it stands, so that no test runs an old one. The demo and benches take
//! what `cargo xtask dist` lays out instead.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, Result, anyhow, bail};

/// The folder with netd's programs, beside that of the running test.
///
/// # Errors
/// They cannot be built; the text has the compiler's words.
pub fn ours() -> Result<PathBuf> {
    static BUILT: OnceLock<std::result::Result<PathBuf, String>> = OnceLock::new();
    BUILT.get_or_init(|| build().map_err(|error| format!("{error:#}"))).clone().map_err(|error| anyhow!(error))
}

/// The names under which the CNI client is called.
///
/// # Errors
/// The list is missing.
pub fn cni_names() -> Result<Vec<String>> {
    let list = workspace().join("hook/cni/plugins.txt");
    let text = std::fs::read_to_string(&list).with_context(|| format!("cannot read {}", list.display()))?;
    Ok(text.lines().map(str::to_owned).collect())
}

fn build() -> Result<PathBuf> {
    // The whole workspace, as the test run has it: a choice of packages would choose other features and build all anew.
    let output = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--workspace", "--bins"])
        .current_dir(workspace())
        .output()
        .context("cannot run cargo")?;
    if !output.status.success() {
        bail!("cargo build failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    let test = env::current_exe()?;
    let folder = test.ancestors().nth(2).context("a test program lies two folders deep in target")?;
    Ok(folder.to_owned())
}

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}
