//! `cargo xtask crash`, `chaos`, `fleet` and `fuzz`: the tests that have no end of their own, for longer than `cargo xtask test` runs them.

use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::say;

const KILLS: &str = "200";
const ROUNDS: u64 = 10;
const SCHEDULES: &str = "100000";

/// Kills netd at random moments, as often as `--kills` says.
pub(crate) fn crash(arguments: &[String]) -> Result<()> {
    let kills = match arguments {
        [] => KILLS,
        [flag, count] if flag == "--kills" => {
            count.parse::<u64>().with_context(|| format!("--kills {count}: not a number"))?;
            count
        }
        _ => bail!("usage: cargo xtask crash [--kills N]; NETD_CRASH_SEED=S repeats a run's choices"),
    };
    let test = ["test", "--package", "netd", "--test", "crash", "--", "--nocapture"];
    cargo(&test, Some(("NETD_CRASH_KILLS", kills)))
}

/// Does to real nodes and a real etcd what may happen to them, as many rounds as `--rounds` says; what is promised has to be
/// kept.
pub(crate) fn chaos(arguments: &[String]) -> Result<()> {
    let rounds = match arguments {
        [] => ROUNDS,
        [flag, count] if flag == "--rounds" => {
            count.parse::<u64>().with_context(|| format!("--rounds {count}: not a number"))?
        }
        _ => bail!("usage: cargo xtask chaos [--rounds N]"),
    };
    (0..rounds)
        .try_for_each(|_| cargo(&["test", "--package", "netd", "--test", "chaos"], Some(("NETD_CHAOS_STRICT", "1"))))
}

/// Plays a fleet with every fault, in as many schedules as `--schedules` says; then with every rule broken in turn, until that is
/// found.
pub(crate) fn fleet(arguments: &[String]) -> Result<()> {
    let schedules = match arguments {
        [] => SCHEDULES,
        [flag, count] if flag == "--schedules" => {
            count.parse::<u64>().with_context(|| format!("--schedules {count}: not a number"))?;
            count
        }
        _ => bail!("usage: cargo xtask fleet [--schedules N]; NETD_FLEET_SEED=S tells one schedule"),
    };
    for (package, test) in [("netd-fleet", "simulation"), ("netd-fleet-mutants", "hunt")] {
        let test = ["test", "--profile", "fuzz", "--package", package, "--test", test, "--", "--nocapture"];
        cargo(&test, Some(("NETD_FLEET_SCHEDULES", schedules)))?;
    }
    Ok(())
}

/// Feeds every reader, or those that are named, with mutated input.
pub(crate) fn fuzz(arguments: &[String]) -> Result<()> {
    let mut run = vec!["run", "--quiet", "--profile", "fuzz", "--package", "netd-fuzz", "--"];
    run.extend(arguments.iter().map(String::as_str));
    cargo(&run, None)
}

fn cargo(arguments: &[&str], variable: Option<(&str, &str)>) -> Result<()> {
    let line = format!("cargo {}", arguments.join(" "));
    say(&format!("== {line}"));
    if Command::new(env!("CARGO")).args(arguments).envs(variable).status()?.success() {
        return Ok(());
    }
    bail!("`{line}` failed; its output is above")
}
