//! The one door to building and testing: `cargo xtask {demo, parts, test, crash, chaos, fleet, fuzz, bench, guest, tidy,
//! packaging, ci, dist}`. A laptop and CI run the same.

mod bench;
mod demo;
mod dist;
mod guest;
mod hard;
mod packaging;
mod parts;
mod suite;
mod threads;
mod tidy;

use std::process::{Command, ExitCode};

use anyhow::{Result, bail};

const USAGE: &str = "usage: cargo xtask {demo | parts | test | crash | chaos | fleet | fuzz | bench | guest | tidy | packaging | ci | dist}\n  demo       a node with containerd and netd, shown and taken away\n  parts      what tests and demo need: installs and builds it, once\n  test       all tests\n  crash      [--kills N] kills netd under load, 200 times\n  chaos      [--rounds N] what may happen to nodes and a real etcd, 10 times\n  fleet      [--schedules N] simulates who owns which block, 100,000 times\n  fuzz       [--runs N] [--seed S] [TARGET...] hostile input for every reader\n  bench      {attach | policy | tunnel | fleet} [--quick] what an attach, a policy, a packet between nodes or a node more costs, in target/bench\n  guest      KERNEL COMMAND... a command in another kernel\n  tidy       the house rules\n  packaging  the systemd units\n  ci         formatting, clippy, tidy, test\n  dist       release programs in target/dist";

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let word = arguments.next().unwrap_or_default();
    let arguments: Vec<String> = arguments.collect();
    let done = match word.as_str() {
        "demo" => demo::run(&arguments),
        "parts" => parts::run(),
        "test" => test(is_in_ci()),
        "crash" => hard::crash(&arguments),
        "chaos" => hard::chaos(&arguments),
        "fleet" => hard::fleet(&arguments),
        "fuzz" => hard::fuzz(&arguments),
        "tidy" => tidy::run(),
        "packaging" => packaging::run(is_in_ci()),
        "ci" => ci(),
        "dist" => dist::run(),
        "bench" => bench::run(&arguments),
        "guest" => guest::run(&arguments),
        threads::START => threads::start(&arguments),
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

fn is_in_ci() -> bool {
    std::env::var_os("CI").is_some()
}

fn test(is_strict: bool) -> Result<()> {
    packaging::run(is_strict)?;
    parts::run()?;
    suite::run(is_strict)
}

fn ci() -> Result<()> {
    cargo(&["fmt", "--all", "--check"])?;
    cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"])?;
    tidy::run()?;
    test(true)?;
    demo::run(&[])?;
    demo::run(&["nodes".to_owned()])
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
