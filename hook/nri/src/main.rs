//! The program: arguments, logs, run. What it does is in the library.

use std::io::IsTerminal;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Parser;
use netd_hook::courier::Courier;
use netd_hook::door::Door;
use netd_hook::session::Identity;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// netd's NRI plugin: tells netd what each CRI pod is.
#[derive(Debug, Parser)]
#[command(name = "netd-hook", version)]
struct Arguments {
    /// Where containerd serves NRI.
    #[arg(long, default_value = "/var/run/nri/nri.sock")]
    nri_socket: PathBuf,
    /// Where netd listens.
    #[arg(long, default_value = "/run/netd/netd.sock")]
    netd_socket: PathBuf,
    /// The plugin's name.
    #[arg(long, default_value = "netd", value_parser = name)]
    name: String,
    /// Its place among plugins, two digits.
    #[arg(long, default_value = "10", value_parser = index)]
    index: String,
}

/// Begins to log. `NETD_LOG` chooses which lines: `info`, or by crate, as in `info,netd=debug`.
fn log() {
    // A journal and a file have no colours.
    let lines =
        tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal());
    let wanted = std::env::var("NETD_LOG").ok();
    let read = wanted.as_deref().map(str::parse::<Targets>);
    let chosen = match &read {
        Some(Ok(targets)) => targets.clone(),
        None | Some(Err(_)) => Targets::new().with_default(tracing::Level::INFO),
    };
    tracing_subscriber::registry().with(lines).with(chosen).init();
    if let Some(Err(error)) = read {
        tracing::warn!(NETD_LOG = wanted, %error, "cannot read NETD_LOG; info holds");
    }
}

fn main() -> Result<()> {
    log();
    let arguments = Arguments::parse();
    let courier = Courier::start(&arguments.netd_socket).context("cannot start the threads that speak to netd")?;
    let identity = Identity { name: arguments.name, index: arguments.index };
    Door { socket: arguments.nri_socket, identity }.serve(&courier)
}

/// NRI refuses others.
fn name(text: &str) -> Result<String, String> {
    let is_allowed = |letter: char| letter.is_ascii_alphanumeric() || "_.+-".contains(letter);
    if text.is_empty() || !text.chars().all(is_allowed) {
        return Err("a plugin's name consists of letters, digits and _.+-".to_owned());
    }
    Ok(text.to_owned())
}

/// NRI refuses others.
fn index(text: &str) -> Result<String, String> {
    if text.len() != 2 || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err("a plugin's index has two digits, such as 10".to_owned());
    }
    Ok(text.to_owned())
}
