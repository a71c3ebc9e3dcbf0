//! The daemon's start: arguments, settings, threads. What it consists of is `daemon`'s.

mod daemon;
mod logs;
mod memory;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use netd::fleet::FleetStartError;
use netd_config::{ConfigErrors, NodeConfig};

/// Threads for kernel work. The kernel changes links one at a time, so more of them only wait, each with memory of its own.
const KERNEL_WORKERS: usize = 8;

/// As sysexits.h has it; the unit does not start netd again after it.
const EX_CONFIG: u8 = 78;

/// Container networking for containerd nodes.
///
/// Exit status: 0 done, 1 failed, 2 wrong usage, 78 a mistake in the settings.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// The node's settings; defaults hold where the file is missing.
    #[arg(long, default_value = "/etc/netd/netd.toml")]
    config: PathBuf,
    /// Take away what `coexist = "insert"` put among other firewalls' rules, and end: for when netd is removed.
    #[arg(long)]
    withdraw: bool,
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&error);
            if is_a_mistake_in_settings(&error) { ExitCode::from(EX_CONFIG) } else { ExitCode::FAILURE }
        }
    }
}

/// The file says what will never do; what is missing on the node may come.
fn is_a_mistake_in_settings(error: &anyhow::Error) -> bool {
    error.is::<ConfigErrors>() || matches!(error.downcast_ref(), Some(FleetStartError::Plan(_)))
}

#[expect(clippy::print_stderr, reason = "the last words of the daemon, which are whole on one line")]
fn complain(error: &anyhow::Error) {
    eprintln!("netd: {error:#}");
}

fn run() -> Result<()> {
    memory::one_arena();
    logs::start();
    let arguments = Arguments::parse();
    let config = settings(&arguments.config)?;
    if arguments.withdraw {
        return daemon::withdraw(&config);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(config.workers)
        .max_blocking_threads(KERNEL_WORKERS)
        .enable_all()
        .build()?;
    let ended = runtime.block_on(daemon::run(config, &arguments.config));
    // A call that is still being served goes on by it until the process ends; what is cut off then is the next start's.
    std::mem::forget(runtime);
    ended
}

fn settings(path: &Path) -> Result<NodeConfig> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(NodeConfig::parse(&path.display().to_string(), &text)?),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(NodeConfig::default()),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}
