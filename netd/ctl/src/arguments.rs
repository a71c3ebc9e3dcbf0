//! The command line, as clap reads it. What a command does is in `main.rs`.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

/// Looks into netd, and has it put things right.
///
/// Exit status: 0 done, 1 failed, 2 wrong usage. Of `policy test`, `policy validate`, `peer check` and `doctor`: 0 yes, 1 no
/// (denied, a mistake, a peer that is not reached, a problem), 3 no answer.
#[derive(Debug, Parser)]
#[command(name = "netdctl", version)]
pub(crate) struct Arguments {
    /// Where netd listens [default: as /etc/netd/netd.toml says, else /run/netd/netd.sock]
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

impl Command {
    /// Whether its exit status says yes or no.
    pub(crate) fn judges(&self) -> bool {
        matches!(
            self,
            Self::Policy(Policy::Test { .. } | Policy::Validate { .. }) | Self::Peer(Peer::Check { .. }) | Self::Doctor
        )
    }
}

/// How answers are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// Aligned text for people
    #[default]
    Table,
    /// JSON for programs; keys are added, never renamed
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
    /// Policies: who may speak with whom
    #[command(subcommand)]
    Policy(Policy),
    /// Nodes: who shares ranges of addresses with this one
    #[command(subcommand)]
    Node(Node),
    /// Blocks: which node gives addresses from which part of the shared ranges
    #[command(subcommand)]
    Block(Block),
    /// Pools: the ranges that blocks are taken from
    #[command(subcommand)]
    Pool(Pool),
    /// Peers: whether other nodes are reached, and how
    #[command(subcommand)]
    Peer(Peer),
    /// Packets that policies denied: both ends, and the rule
    Drops(Drops),
    /// Make record and kernel agree
    Resync(Resync),
    /// Write settings of other networks as netd's; nothing is changed
    #[command(subcommand)]
    Translate(Translate),
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
        /// Its name, namespace/name, or the first letters of its id
        id: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Lease {
    /// All leases
    #[command(visible_alias = "list")]
    Ls,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Node {
    /// All nodes, this one first
    #[command(visible_alias = "list")]
    Ls,
    /// Everything about one node
    Inspect {
        /// Its name, or the first digits of its instance
        name: String,
    },
    /// Declare a node gone for good: its blocks are others' to take, and it never has a part in the fleet again
    Rm {
        /// Its name
        name: String,
        /// The first digits of its instance, where several have the name
        #[arg(long, value_name = "ID")]
        instance: Option<String>,
        /// Go on without what it remembers; netd says what must be true, and refuses this where it is not needed
        #[arg(long)]
        lost: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Pool {
    /// Add a pool of this node's netd.toml to those of the fleet on etcd; it cannot be taken back
    Add {
        /// Its name, or its range
        pool: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Translate {
    /// flannel's configuration as the [fleet] of netd.toml
    Flannel {
        /// The JSON file, net-conf.json; - is standard input, such as of `etcdctl get --print-value-only /coreos.com/network/config`
        file: PathBuf,
        /// An endpoint of the etcd that netd is to use, such as http://192.0.2.1:2379; may be repeated
        #[arg(long, value_name = "URL")]
        etcd: Vec<String>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Block {
    /// All blocks, with their nodes
    #[command(visible_alias = "list")]
    Ls,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Peer {
    /// Ask peers for an echo: route, round trip, largest packet, and what carried it; exit status 1 where something is wrong, 3
    /// where nobody could be asked
    Check {
        /// The peer's name; all of them without it
        name: Option<String>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Policy {
    /// All policies, and the files that are not taken
    #[command(visible_alias = "list")]
    Ls,
    /// The text of one policy
    Get {
        #[command(flatten)]
        which: Which,
    },
    /// Put policies in force; each replaces the one of its name that was applied before
    Apply {
        /// The file; - is standard input
        #[arg(short, long, value_name = "FILE")]
        file: PathBuf,
    },
    /// Take a policy back that was applied
    Delete {
        #[command(flatten)]
        which: Which,
    },
    /// Examine files without netd; exit status 1 where one is wrong, 3 where one cannot be read
    Validate {
        /// The files
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
    },
    /// Whether a connection is allowed, by which rule, and what would allow it; exit status 1 where it is denied, 3 where there is
    /// no answer
    Test {
        /// A sandbox's name, namespace/name or first letters of its id; "node"; or an address
        from: String,
        /// The same with a port: web:80, web:53/udp, [fd00::2]:443, web:icmp
        to: String,
    },
    /// Who reaches whom, and at which ports
    Matrix,
    /// Which ways would open or close if the policies of a file were applied
    Diff {
        /// The file; - is standard input
        file: PathBuf,
    },
}

/// A policy by its name.
#[derive(Debug, Args)]
pub(crate) struct Which {
    /// Its name
    pub(crate) name: String,
    /// Its namespace; needed only where several have a policy of the name
    #[arg(short, long)]
    pub(crate) namespace: Option<String>,
    /// Its kind; needed only where policies of several kinds have the name
    #[arg(short, long)]
    pub(crate) kind: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Drops {
    /// Go on until interrupted
    #[arg(short, long)]
    pub(crate) follow: bool,
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
