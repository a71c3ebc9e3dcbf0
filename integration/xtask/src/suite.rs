//! `cargo xtask test`: all tests, shown as they run, then what was counted and what could not run here. What a test shows
//! is its own.
//!
//! A test that cannot run here writes `SKIPPED <what>: <reason>` to standard error, past the test harness, which keeps
//! `eprintln!` of a passed test to itself. Where `CI` is set, only what may be missing there may be skipped.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Command, Stdio};
use std::sync::Mutex;

use anyhow::{Context, Result, bail};

use crate::say;

/// Programs that no registry has: tests that need them run where they are on `PATH`. And what a kernel may lack: the tests
/// that need it run in a guest too, where none is skipped.
const MAY_BE_MISSING: [&str; 4] = ["nerdctl", "crictl", "ipip", "VLANs"];
const SKIPPED: &str = "SKIPPED ";

/// Runs documentation tests first, so that the counts of the others stand last.
pub(crate) fn run() -> Result<()> {
    let mut tally = Tally::default();
    let done = ["--doc", "--all-targets"].iter().try_for_each(|which| cargo_test(which, &mut tally));
    tally.lines().iter().for_each(|line| say(line));
    done?;
    let forbidden = tally.forbidden();
    if std::env::var_os("CI").is_some() && !forbidden.is_empty() {
        bail!("skipped in CI, where everything else must run: {}", forbidden.join("; "));
    }
    Ok(())
}

fn cargo_test(which: &str, tally: &mut Tally) -> Result<()> {
    let line = format!("cargo test --workspace --no-fail-fast {which}");
    say(&format!("== {line}"));
    let mut child = Command::new(env!("CARGO"))
        .args(["test", "--workspace", "--no-fail-fast", which])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run `{line}`"))?;
    let (out, err) = (child.stdout.take().context("no standard output")?, child.stderr.take().context("no errors")?);
    let shared = Mutex::new(tally);
    std::thread::scope(|scope| {
        let shown = scope.spawn(|| show(out, std::io::stdout(), &shared));
        let told = show(err, std::io::stderr(), &shared);
        shown.join().unwrap_or(Ok(())).and(told)
    })
    .with_context(|| format!("cannot read what `{line}` says"))?;
    if child.wait()?.success() {
        return Ok(());
    }
    bail!("`{line}` failed; its output is above")
}

/// Passes on what a program says, octet by octet as lines, and counts.
fn show(from: impl Read, mut to: impl Write, tally: &Mutex<&mut Tally>) -> std::io::Result<()> {
    let mut from = BufReader::new(from);
    let mut line = Vec::new();
    while from.read_until(b'\n', &mut line)? > 0 {
        to.write_all(&line)?;
        to.flush()?;
        if let Ok(mut tally) = tally.lock() {
            tally.hear(&String::from_utf8_lossy(&line));
        }
        line.clear();
    }
    Ok(())
}

/// What was counted.
#[derive(Debug, Default)]
struct Tally {
    programs: u64,
    passed: u64,
    failed: u64,
    ignored: u64,
    skipped: BTreeSet<String>,
}

impl Tally {
    fn hear(&mut self, line: &str) {
        let line = line.trim_end();
        if let Some(skipped) = line.find(SKIPPED).and_then(|at| line.get(at + SKIPPED.len()..)) {
            self.skipped.insert(skipped.to_owned());
        }
        let Some(counts) = line.strip_prefix("test result: ") else { return };
        self.programs += 1;
        for part in counts.split([';', '.']) {
            match part.trim().split_once(' ') {
                Some((count, "passed")) => self.passed += number(count),
                Some((count, "failed")) => self.failed += number(count),
                Some((count, "ignored")) => self.ignored += number(count),
                Some(_) | None => {}
            }
        }
    }

    /// What a person reads last.
    fn lines(&self) -> Vec<String> {
        let Self { programs, passed, failed, ignored, skipped } = self;
        let mut lines: Vec<String> = skipped.iter().map(|what| format!("{SKIPPED}{what}")).collect();
        let count = skipped.len();
        lines.push(format!(
            "all tests: {passed} passed; {failed} failed; {ignored} ignored; {count} skipped; {programs} programs"
        ));
        lines
    }

    fn forbidden(&self) -> Vec<&str> {
        let may = |what: &str| MAY_BE_MISSING.iter().any(|program| what.starts_with(program));
        self.skipped.iter().map(String::as_str).filter(|what| !may(what)).collect()
    }
}

fn number(text: &str) -> u64 {
    text.parse().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::Tally;

    fn heard(text: &str) -> Tally {
        let mut tally = Tally::default();
        text.lines().for_each(|line| tally.hear(line));
        tally
    }

    #[test]
    fn counts_are_summed_and_skips_are_named_once() {
        let tally = heard(
            "running 3 tests\ntest a ... SKIPPED nerdctl scenarios: nerdctl is not on PATH\nok\n\
             test result: ok. 2 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s\n\
             SKIPPED nerdctl scenarios: nerdctl is not on PATH\n\
             test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.02s\n",
        );
        assert_eq!(
            tally.lines(),
            [
                "SKIPPED nerdctl scenarios: nerdctl is not on PATH",
                "all tests: 3 passed; 2 failed; 1 ignored; 1 skipped; 2 programs"
            ]
        );
    }

    #[test]
    fn only_what_no_registry_has_may_be_skipped_in_ci() {
        let tally = heard("SKIPPED crictl: not on PATH\nSKIPPED WireGuard: this kernel has none\n");
        assert_eq!(tally.forbidden(), ["WireGuard: this kernel has none"]);
    }
}
