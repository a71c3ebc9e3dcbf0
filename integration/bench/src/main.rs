//! The bench's program: arguments, then the bench. `cargo xtask bench` builds what it needs and calls it.

use std::path::PathBuf;

use anyhow::Result;
use clap::{Parser, ValueEnum};
use netd_bench::attach::{self, Settings};
use netd_bench::case::Programs;
use netd_bench::{fleet, policy, tunnel};

/// What is measured.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Bench {
    /// Attach and detach.
    Attach,
    /// Policies: to load, to follow a change, for each packet.
    Policy,
    /// Packets between two nodes' sandboxes.
    Tunnel,
    /// How soon a new node is known to all others, and what that costs.
    Fleet,
}

/// Measures what netd costs.
#[derive(Debug, Parser)]
struct Arguments {
    /// What to measure.
    bench: Bench,
    /// Under 3 minutes. `attach`: 0 and 100 attachments, and 1,000 for `netd-api` and `kernel-floor` on a bridge and routed.
    /// `policy`: 1,000 policies and 100 sandboxes to load, and fewer rounds. `tunnel`: fewer rounds.
    /// `fleet`: 20 daemons, and 90 simulated nodes.
    #[arg(long)]
    quick: bool,
    /// Only these cases; `policy`: of packets, or `policy`, which is what is loaded. It may be given several times.
    #[arg(long)]
    only: Vec<String>,
    /// The daemon.
    #[arg(long)]
    netd: PathBuf,
    /// Folder with `netd-cni` by its plugin names.
    #[arg(long)]
    client: PathBuf,
    /// The program `netd-kernel-floor`.
    #[arg(long)]
    floor: PathBuf,
    /// Folder with the official CNI plugins 1.9.1.
    #[arg(long)]
    plugins: PathBuf,
    /// The program `etcd`, for `fleet`.
    #[arg(long)]
    etcd: Option<PathBuf>,
    /// Where the results go.
    #[arg(long)]
    output: PathBuf,
    /// Of what is measured.
    #[arg(long)]
    commit: String,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let programs =
        Programs { netd: arguments.netd, client: arguments.client, floor: arguments.floor, plugins: arguments.plugins };
    let (only, output, commit) = (arguments.only, arguments.output, arguments.commit);
    let settings = Settings { quick: arguments.quick, programs, etcd: arguments.etcd, output, commit, only };
    match arguments.bench {
        Bench::Attach => attach::run(&settings),
        Bench::Policy => policy::run(&settings),
        Bench::Tunnel => tunnel::run(&settings),
        Bench::Fleet => fleet::run(&settings),
    }
}
