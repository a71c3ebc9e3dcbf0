//! The bench's program: arguments, then the bench. `cargo xtask bench` builds what it needs and calls it.

use std::path::PathBuf;

use anyhow::Result;
use clap::Parser;
use netd_bench::attach::{self, Settings};
use netd_bench::case::Programs;

/// Measures attach and detach.
#[derive(Debug, Parser)]
struct Arguments {
    /// 0 and 100 attachments, and 1,000 for `netd-api` and `kernel-floor` on a bridge and routed: under 3 minutes.
    #[arg(long)]
    quick: bool,
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
    /// Where `attach.json` goes.
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
    attach::run(&Settings { quick: arguments.quick, programs, output: arguments.output, commit: arguments.commit })
}
