//! netd's own programs for tests: built from this tree as it stands, so that no test runs an old one. The demo and benches take
//! what `cargo xtask dist` lays out instead.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, Result, anyhow, bail};
use serde_json::Value;

/// Set where all programs are built already, and building is out of place: in a guest.
pub(crate) const BUILT: &str = "NETD_RIG_BUILT";

/// The folder with netd's programs, of the running test or of xtask.
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

/// A test program, and the folder of its crate, in which tests run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TestProgram {
    /// The program.
    pub path: PathBuf,
    /// The crate's folder.
    pub folder: PathBuf,
}

/// The test program `target` of the crate in `folder` (below the workspace), built from this tree as it stands.
///
/// # Errors
/// It cannot be built, or there is none.
pub fn test_program(folder: &str, target: &str) -> Result<TestProgram> {
    static BUILT: OnceLock<std::result::Result<String, String>> = OnceLock::new();
    let built = BUILT.get_or_init(|| build_tests().map_err(|error| format!("{error:#}")));
    let built = built.as_ref().map_err(|error| anyhow!("{error}"))?;
    let folder = workspace().canonicalize()?.join(folder);
    let path = built.lines().find_map(|line| executable(line, &folder, target));
    let path = path.with_context(|| format!("{} has no test program {target}", folder.display()))?;
    Ok(TestProgram { path, folder })
}

/// What cargo tells of the workspace's test programs, a line of JSON each.
fn build_tests() -> Result<String> {
    // As the test run has it, for the same reason as below.
    let output = Command::new(env!("CARGO"))
        .args(["test", "--quiet", "--workspace", "--all-targets", "--no-run", "--message-format=json"])
        .current_dir(workspace())
        .output()
        .context("cannot run cargo")?;
    if !output.status.success() {
        bail!("cargo test --no-run failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8(output.stdout)?)
}

fn executable(line: &str, folder: &Path, target: &str) -> Option<PathBuf> {
    let message: Value = serde_json::from_str(line).ok()?;
    let is_test = message["profile"]["test"] == true && message["target"]["name"] == target;
    let is_there = message["manifest_path"].as_str().is_some_and(|path| Path::new(path).parent() == Some(folder));
    if is_test && is_there { message["executable"].as_str().map(PathBuf::from) } else { None }
}

fn build() -> Result<PathBuf> {
    if env::var_os(BUILT).is_none() {
        build_programs()?;
    }
    let this = env::current_exe()?;
    let folder = this.parent().context("a program lies in a folder")?;
    // A test program lies one deeper than the others.
    let folder = if folder.ends_with("deps") { folder.parent().unwrap_or(folder) } else { folder };
    Ok(folder.to_owned())
}

fn build_programs() -> Result<()> {
    // The whole workspace, as the test run has it: a choice of packages would choose other features and build all anew, and so would
    // programs alone. Examples have the features of tests.
    let output = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--workspace", "--bins", "--examples"])
        .current_dir(workspace())
        .output()
        .context("cannot run cargo")?;
    if !output.status.success() {
        bail!("cargo build failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}
