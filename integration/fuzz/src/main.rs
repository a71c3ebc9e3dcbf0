//! `cargo xtask fuzz [--runs N] [--seed S] [TARGET...]`: longer runs than the tests'. A finding is written to a file.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Instant, SystemTime};

use anyhow::{Context, Result, bail};
use netd_fuzz::{Finding, TARGETS, Target, corpus, fuzz};

const RUNS: u64 = 1_000_000;

struct Orders {
    runs: u64,
    seed: u64,
    targets: Vec<Target>,
}

fn main() -> Result<ExitCode> {
    let orders = orders(std::env::args().skip(1))?;
    // A panic is a finding; its words are in it.
    std::panic::set_hook(Box::new(|_| {}));
    let mut found = false;
    for target in &orders.targets {
        let start = Instant::now();
        let report = fuzz(target, &corpus(target.name)?, orders.runs, orders.seed);
        let seconds = start.elapsed().as_secs_f64();
        let Orders { seed, .. } = orders;
        say(&format!("{}: {} runs, {} shapes, {seconds:.1} s, seed {seed}", target.name, report.runs, report.shapes));
        if let Some(finding) = report.finding {
            found = true;
            let path = keep(target, &finding)?;
            say(&format!("{}: {}; the input is {}", target.name, finding.what, path.display()));
        }
    }
    Ok(if found { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn orders(mut arguments: impl Iterator<Item = String>) -> Result<Orders> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    let mut orders = Orders { runs: RUNS, seed: u64::from(now.subsec_nanos()), targets: Vec::new() };
    while let Some(argument) = arguments.next() {
        let mut number = || -> Result<u64> {
            let text = arguments.next().with_context(|| format!("{argument} needs a number"))?;
            text.parse().with_context(|| format!("{argument} {text}: not a number"))
        };
        match argument.as_str() {
            "--runs" => orders.runs = number()?,
            "--seed" => orders.seed = number()?,
            name => match TARGETS.iter().find(|target| target.name == name) {
                Some(target) => orders.targets.push(*target),
                None => bail!("no target {name}; there are {}", TARGETS.map(|target| target.name).join(", ")),
            },
        }
    }
    if orders.targets.is_empty() {
        orders.targets = TARGETS.to_vec();
    }
    Ok(orders)
}

fn keep(target: &Target, finding: &Finding) -> Result<PathBuf> {
    let directory = PathBuf::from("target/fuzz");
    fs::create_dir_all(&directory).context("cannot make target/fuzz")?;
    let path = directory.join(format!("{}-{:08x}", target.name, crc32fast::hash(&finding.input)));
    fs::write(&path, &finding.input).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

#[expect(clippy::print_stdout, reason = "the program's answer")]
fn say(line: &str) {
    println!("{line}");
}
