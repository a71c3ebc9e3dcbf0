//! Test programs of this tree in a guest: their counts and skips are told as if they had run here.

use std::fmt::Write as _;
use std::io::Write as _;
use std::time::Duration;

use anyhow::{Result, bail};

use super::Guest;
use crate::parts;

/// One program of the list; a guest that hangs is ended by its own limit.
const LIMIT_S: u32 = 1_200;

/// The kernel rewrites its own code at the first hook of a kind, and at the last one's end. QEMU 7.2 may then go on with the breakpoint
/// that stood there for a moment, for ever. A namespace beside keeps one hook of each kind.
const HOOKS: &str = "ip netns add hooks
for family in inet bridge; do for hook in prerouting input forward output postrouting; do
    echo \"add table $family hooks; add chain $family hooks $hook { type filter hook $hook priority 0; }\"
done; done | ip netns exec hooks nft -f - || failed=1
";

/// A test program for a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trial {
    /// Folder of its crate, below the workspace.
    pub folder: &'static str,
    /// Its name.
    pub target: &'static str,
    /// For the test harness: filters, `--skip NAME`, `--test-threads=N`.
    pub arguments: &'static [&'static str],
}

impl Guest {
    /// Runs test programs, all of them, one after the other, and passes on what they say to standard error, past the test
    /// harness, so that `cargo xtask test` counts them.
    ///
    /// # Errors
    /// A test failed or was skipped, a program ran no test, or the guest's own: see [`Guest::run`].
    pub fn test(self, trials: &[Trial], limit: Duration) -> Result<()> {
        let outcome = self.run(&errand(trials)?, limit)?;
        let mut told = format!("\n== {self:?}, {:.1?}\n", outcome.took);
        told.push_str(&outcome.output);
        std::io::stderr().write_all(told.as_bytes())?;
        if outcome.status != 0 {
            bail!("tests failed in the guest {self:?}; its output is above");
        }
        if let Some(skipped) = skipped(&outcome.output) {
            bail!("skipped in the guest {self:?}, which is there for what cannot run elsewhere: {skipped}");
        }
        match idle(&outcome.output) {
            0 => Ok(()),
            idle => bail!("{idle} programs ran no test in the guest {self:?}: is a filter out of date?"),
        }
    }
}

fn errand(trials: &[Trial]) -> Result<String> {
    parts::ours()?;
    // Nothing asks the kernel for it: whoever has policies loads it, as `doctor` says.
    let mut script = format!("failed=0; uname -r; export {}=1; modprobe br_netfilter\n{HOOKS}", parts::BUILT);
    for Trial { folder, target, arguments } in trials {
        let program = parts::test_program(folder, target)?;
        let (path, crate_folder) = (program.path.display(), program.folder.display());
        writeln!(script, "echo; echo '== {folder} {target}'; cd '{crate_folder}'")?;
        let arguments = arguments.join(" ");
        writeln!(
            script,
            "CARGO_MANIFEST_DIR='{crate_folder}' timeout -k 5 {LIMIT_S} '{path}' {arguments} || failed=1"
        )?;
    }
    Ok(script + "exit $failed\n")
}

/// The first test that could not run.
fn skipped(output: &str) -> Option<&str> {
    output.lines().find_map(|line| Some(line.split_once("SKIPPED ")?.1))
}

/// Programs that had nothing to do.
fn idle(output: &str) -> usize {
    output.lines().filter(|line| line.starts_with("test result: ok. 0 passed; 0 failed; 0 ignored")).count()
}

#[cfg(test)]
mod tests {
    use super::{idle, skipped};

    #[test]
    fn a_program_that_ran_no_test_is_noticed() {
        let one = "test result: ok. 0 passed; 0 failed; 0 ignored; 0 measured; 3 filtered out; finished in 0.00s\n";
        let two = "test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 2 filtered out; finished in 0.00s\n";
        assert_eq!((idle(one), idle(two)), (1, 0));
    }

    #[test]
    fn a_test_that_was_skipped_is_noticed() {
        assert_eq!(skipped("test a ... SKIPPED ipip: none\nok\n"), Some("ipip: none"));
        assert_eq!(skipped("test a ... ok\n"), None);
    }
}
