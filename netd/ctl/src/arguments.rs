//! The command line, as clap reads it. What a command does is in `main.rs`.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

/// Looks into netd, and has it put things right.
///
/// Exit status: 0 done, 1 failed (`doctor`: a problem was found), 2 wrong usage.
#[derive(Debug, Parser)]
#[command(name = "netdctl", version)]
pub(crate) struct Arguments {
    /// Where netd listens [default: `socket` of /etc/netd/netd.toml, else /run/netd/netd.sock]
    #[arg(long, global = true, value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,
    /// How answers are written
    #[arg(short, long, global = true, value_enum, default_value_t)]
    pub(crate) output: Output,
    /// Write container ids whole
    #[arg(long, global = true)]
    pub(crate) no_trunc: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// How answers are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// Aligned text for people
    #[default]
    Table,
    /// JSON for programs; every key is always there
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// What netd holds, in numbers, and what it warns of
    Status,
    /// Networks: the configuration files that netd watches
    #[command(subcommand)]
    Network(Network),
    /// Sandboxes: pods and containers with an attachment
    #[command(subcommand)]
    Sandbox(Sandbox),
    /// Leases: addresses in use
    #[command(subcommand)]
    Lease(Lease),
    /// Make record and kernel agree
    Resync(Resync),
    /// Examine the node: kernel, sysctls, containerd, firewalls, netd itself
    Doctor,
    /// Write a completion script for a shell
    Completion {
        /// Which shell
        shell: Shell,
    },
    /// Write the manual pages
    #[command(hide = true)]
    Man {
        /// Where to
        directory: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Network {
    /// All networks
    #[command(visible_alias = "list")]
    Ls,
    /// Everything about one network, with its file
    Inspect {
        /// The network's name; for a broken file, its path
        name: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Sandbox {
    /// All sandboxes
    #[command(visible_alias = "list")]
    Ls,
    /// Everything about one sandbox
    Inspect {
        /// The first letters of its id, or its name
        id: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Lease {
    /// All leases
    #[command(visible_alias = "list")]
    Ls,
}

#[derive(Debug, Args)]
pub(crate) struct Resync {
    /// Change nothing; say what would be done
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::Arguments;

    #[test]
    fn the_definition_is_sound() {
        Arguments::command().debug_assert();
    }
}
