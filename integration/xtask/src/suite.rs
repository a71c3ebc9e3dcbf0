//! `cargo xtask test`: all tests, shown as they run, then what was counted and what could not run here. What a test shows
//! is its own.
//!
//! A test that cannot run here writes `SKIPPED <what>: <reason>` to standard error, past the test harness, which keeps
//! `eprintln!` of a passed test to itself. In `cargo xtask ci`, and where `CI` is set, only what may be missing there may be skipped.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Command, Stdio};
use std::sync::Mutex;

use anyhow::{Context, Result, bail};

use crate::{say, threads};

/// What may be missing, by its name up to the colon, and the program of `rig/tests/guests.rs` in which it runs all the same:
/// folder of its crate, and its own name. What no guest runs stands with its reason.
const MAY_BE_MISSING: [(&str, Option<(&str, &str)>); 17] = [
    // No registry has them.
    ("nerdctl", None),
    ("nerdctl compose", None),
    ("crictl", None),
    ("ipip", Some(("netd/kernel", "packets"))),
    ("ipip (sizes of packets)", Some(("netd", "mtu"))),
    ("ipip (three hosts)", Some(("integration/rig", "nodes"))),
    ("ipip (a pool of its own)", Some(("netd", "fleet"))),
    ("ipip (beyond a router)", Some(("netd", "fleet"))),
    ("VLANs (laws)", Some(("netd/kernel", "contract"))),
    ("VLANs (policies in a VLAN)", Some(("netd", "policies"))),
    ("VLANs (VLANs of a bridge)", Some(("netd", "vlans"))),
    ("VLANs (a VLAN's gateway)", Some(("netd", "vlans"))),
    ("VLANs (mending of VLANs)", Some(("netd", "vlans"))),
    ("VLANs (a foreign link in a gateway's place)", Some(("netd", "vlans"))),
    ("VLANs (trunks)", Some(("netd", "vlans"))),
    // Each runs only where the one before it cannot: on a kernel that lacks it. Debian's has both.
    ("ipip (a kernel without)", None),
    ("VLANs (a node without them)", None),
];
const SKIPPED: &str = "SKIPPED ";
const RESULT: &str = "test result: ";
/// How a program begins to tell what failed; its result comes behind.
const FAILURES: &str = "failures:";
/// So many lines of a program's failures are told again: the first say what, the rest mostly which way it went.
const TOLD_AGAIN: usize = 40;
/// How cargo begins a line about a program that it starts.
const STARTS: [&str; 2] = ["     Running ", "   Doc-tests "];

/// With these a test tells or writes something, and passes.
const NOT_FOR_TESTS: [&str; 4] = ["NETD_FLEET_SEED", "NETD_FLEET_RULE", "NETD_FLEET_SCHEDULES", "UPDATE_GOLDEN"];

/// Runs documentation tests first, so that the counts of the others stand last. `is_strict`: what is skipped is a fault, but
/// for what may be missing.
pub(crate) fn run(is_strict: bool) -> Result<()> {
    let mut tally = Tally::default();
    let runner = threads::runner()?;
    let done = cargo_test(&["--doc"], &mut tally)
        .and_then(|()| cargo_test(&["--all-targets", "--config", &runner], &mut tally));
    tally.lines().iter().for_each(|line| say(line));
    done?;
    if tally.started != tally.ended {
        bail!("{} test programs were started, and {} said how it went", tally.started, tally.ended);
    }
    let forbidden = tally.forbidden();
    if is_strict && !forbidden.is_empty() {
        bail!("skipped in CI, where everything else must run: {}", forbidden.join("; "));
    }
    Ok(())
}

fn cargo_test(which: &[&str], tally: &mut Tally) -> Result<()> {
    let line = format!("cargo test --workspace --no-fail-fast {}", which.join(" "));
    say(&format!("== {line}"));
    let mut command = Command::new(env!("CARGO"));
    for name in NOT_FOR_TESTS {
        command.env_remove(name);
    }
    let mut child = command
        .args(["test", "--workspace", "--no-fail-fast"])
        .args(which)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run `{line}`"))?;
    let (out, err) = (child.stdout.take().context("no standard output")?, child.stderr.take().context("no errors")?);
    let shared = Mutex::new(tally);
    std::thread::scope(|scope| {
        let shown = scope.spawn(|| show(out, std::io::stdout(), |line| hear(&shared, line, Tally::hear_program)));
        let told = show(err, std::io::stderr(), |line| hear(&shared, line, Tally::hear_cargo));
        shown.join().unwrap_or(Ok(())).and(told)
    })
    .with_context(|| format!("cannot read what `{line}` says"))?;
    if child.wait()?.success() {
        return Ok(());
    }
    bail!("`{line}` failed; its output is above")
}

/// Passes on what a program says, octet by octet as lines, and counts.
fn show(from: impl Read, mut to: impl Write, heard: impl Fn(&str)) -> std::io::Result<()> {
    let mut from = BufReader::new(from);
    let mut line = Vec::new();
    while from.read_until(b'\n', &mut line)? > 0 {
        to.write_all(&line)?;
        to.flush()?;
        heard(&String::from_utf8_lossy(&line));
        line.clear();
    }
    Ok(())
}

fn hear(tally: &Mutex<&mut Tally>, line: &str, by: fn(&mut Tally, &str)) {
    if let Ok(mut tally) = tally.lock() {
        by(&mut tally, line.trim_end());
    }
}

/// What was counted.
#[derive(Debug, Default)]
struct Tally {
    /// Programs that cargo says it runs.
    started: u64,
    /// Those of them that said how it went.
    ended: u64,
    /// Those, and what ran in guests.
    programs: u64,
    passed: u64,
    failed: u64,
    ignored: u64,
    /// How often each was; guests and tests may say the same.
    skipped: BTreeMap<String, u64>,
    /// What failed, as its program told it, at most [`TOLD_AGAIN`] lines of each.
    failures: Vec<Vec<String>>,
    /// Whether the lines that come are of a failure.
    is_failing: bool,
}

impl Tally {
    /// A line of standard output, which is the test programs'.
    fn hear_program(&mut self, line: &str) {
        self.ended += u64::from(line.starts_with(RESULT));
        self.hear_failure(line);
        self.hear(line);
    }

    fn hear_failure(&mut self, line: &str) {
        if line == FAILURES && !self.is_failing {
            self.is_failing = true;
            self.failures.push(Vec::new());
        } else if line.starts_with(RESULT) {
            self.is_failing = false;
        } else if self.is_failing
            && let Some(told) = self.failures.last_mut()
            && told.len() < TOLD_AGAIN
        {
            told.push(line.to_owned());
        }
    }

    /// A line of standard error: cargo's, or what a test says past its harness.
    fn hear_cargo(&mut self, line: &str) {
        self.started += u64::from(STARTS.iter().any(|word| line.starts_with(word)));
        self.hear(line);
    }

    fn hear(&mut self, line: &str) {
        if let Some(skipped) = line.find(SKIPPED).and_then(|at| line.get(at + SKIPPED.len()..)) {
            *self.skipped.entry(skipped.to_owned()).or_default() += 1;
        }
        let Some(counts) = line.strip_prefix(RESULT) else { return };
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

    /// What a person reads last: what failed stands there again, for who has only the end of a long run.
    fn lines(&self) -> Vec<String> {
        let Self { started: _, ended: _, programs, passed, failed, ignored, skipped, failures, is_failing: _ } = self;
        let line = |(what, count): (&String, &u64)| match count {
            1 => format!("{SKIPPED}{what}"),
            _ => format!("{SKIPPED}{what} ({count} times)"),
        };
        let mut lines: Vec<String> = failures.iter().flat_map(|told| told.iter().cloned()).collect();
        lines.extend(skipped.iter().map(line));
        let count: u64 = skipped.values().sum();
        lines.push(format!(
            "all tests: {passed} passed; {failed} failed; {ignored} ignored; {count} skipped; {programs} programs"
        ));
        lines
    }

    fn forbidden(&self) -> Vec<&str> {
        let may = |what: &str| MAY_BE_MISSING.iter().any(|(name, _)| what.split(':').next() == Some(*name));
        self.skipped.keys().map(String::as_str).filter(|what| !may(what)).collect()
    }
}

fn number(text: &str) -> u64 {
    text.parse().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::{MAY_BE_MISSING, Tally};

    fn heard(text: &str) -> Tally {
        let mut tally = Tally::default();
        text.lines().for_each(|line| tally.hear_program(line));
        tally
    }

    #[test]
    fn counts_and_skips_are_summed() {
        let tally = heard(
            "running 3 tests\ntest a ... SKIPPED nerdctl scenarios: nerdctl is not on PATH\nok\n\
             test result: ok. 2 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s\n\
             SKIPPED nerdctl scenarios: nerdctl is not on PATH\n\
             test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.02s\n",
        );
        assert_eq!(
            tally.lines(),
            [
                "SKIPPED nerdctl scenarios: nerdctl is not on PATH (2 times)",
                "all tests: 3 passed; 2 failed; 1 ignored; 2 skipped; 2 programs"
            ]
        );
    }

    #[test]
    fn what_failed_is_told_again_at_the_end() {
        let long = "word\n".repeat(100);
        let text = format!(
            "test a ... FAILED\n\nfailures:\n\n---- a stdout ----\nafter 7 kills: 10.0.0.2 is lost\n{long}\nfailures:\n    a\n\n\
             test result: FAILED. 1 passed; 1 failed; 0 ignored\ntest b ... ok\n\
             test result: ok. 1 passed; 0 failed; 0 ignored\n"
        );
        let lines = heard(&text).lines();
        assert_eq!(lines[..3], ["", "---- a stdout ----", "after 7 kills: 10.0.0.2 is lost"]);
        assert_eq!(
            (lines.len(), lines.last().map(String::as_str)),
            (41, Some("all tests: 2 passed; 1 failed; 0 ignored; 0 skipped; 2 programs"))
        );
    }

    #[test]
    fn a_program_that_ends_before_its_last_line_is_missed() {
        let mut tally = heard("test result: ok. 1 passed; 0 failed; 0 ignored\n");
        for line in ["     Running unittests src/lib.rs (target/a)", "   Doc-tests netd", "test result: ok. 9 passed"] {
            tally.hear_cargo(line);
        }
        assert_eq!((tally.started, tally.ended, tally.programs, tally.passed), (2, 1, 2, 10));
    }

    #[test]
    fn only_what_stands_in_the_table_may_be_skipped_in_ci() {
        let tally = heard(
            "SKIPPED crictl: not on PATH\nSKIPPED ipip: none\nSKIPPED ipip (something new): none\n\
             SKIPPED WireGuard: this kernel has none\n",
        );
        assert_eq!(tally.forbidden(), ["WireGuard: this kernel has none", "ipip (something new): none"]);
    }

    #[test]
    fn what_a_kernel_may_lack_runs_in_a_guest() {
        let guests = include_str!("../../rig/tests/guests.rs").split_whitespace().collect::<Vec<_>>().join(" ");
        for (what, program) in MAY_BE_MISSING {
            let Some((folder, target)) = program else { continue };
            let ways = [
                format!("all(\"{folder}\", \"{target}\")"),
                format!("Trial {{ folder: \"{folder}\", target: \"{target}\","),
            ];
            assert!(ways.iter().any(|way| guests.contains(way)), "{what}: no guest runs {folder} {target}");
        }
    }
}
