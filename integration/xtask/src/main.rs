//! The one door to building and testing: `cargo xtask {test, tidy, ci, dist, bench}`. A laptop and CI run the same.

mod bench;
mod dist;
mod tidy;

use std::process::{Command, ExitCode};

use anyhow::{Result, bail};

const USAGE: &str = "usage: cargo xtask {test | tidy | ci | dist | bench}\n  test  all tests\n  tidy  the house rules\n  ci    formatting, clippy, tidy, test\n  dist  release programs in target/dist\n  bench attach [--quick]  what an attach costs, in target/bench";

fn main() -> ExitCode {
    let word = std::env::args().nth(1).unwrap_or_default();
    let done = match word.as_str() {
        "test" => test(),
        "tidy" => tidy::run(),
        "ci" => ci(),
        "dist" => dist::run(),
        "bench" => bench::run(&std::env::args().skip(2).collect::<Vec<_>>()),
        _ => Err(anyhow::anyhow!(USAGE)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("xtask: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn test() -> Result<()> {
    cargo(&["test", "--workspace", "--doc"])?;
    cargo(&["test", "--workspace", "--all-targets"])
}

fn ci() -> Result<()> {
    cargo(&["fmt", "--all", "--check"])?;
    cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"])?;
    tidy::run()?;
    test()
}

pub(crate) fn cargo(arguments: &[&str]) -> Result<()> {
    let line = format!("cargo {}", arguments.join(" "));
    say(&format!("== {line}"));
    if Command::new(env!("CARGO")).args(arguments).status()?.success() {
        return Ok(());
    }
    bail!("`{line}` failed; its output is above")
}

#[expect(clippy::print_stderr, reason = "the one place where xtask speaks")]
pub(crate) fn say(line: &str) {
    eprintln!("{line}");
}
