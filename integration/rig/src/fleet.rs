//! Several nodes on one underlay, each with its containerd, its netd and nerdctl's default network, made one fleet by a few lines
//! of `netd.toml`. What they should reach of each other is for the tests to say.

use std::fmt::Write as _;
use std::net::{IpAddr, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use crate::{Containerd, Ctr, Daemon, NERDCTL_DEFAULT, Netd, Node, Program, Programs, Release, Underlay, parts};

/// The pool that the nodes share; nerdctl's default network lies in it on each of them.
pub const POOL: &str = "10.4.0.0/16";
/// The node that etcd runs on, where there is one; others begin at 1.
const STORE: u8 = 90;
const STORE_PORT: u16 = 2379;
const PATIENCE: Duration = Duration::from_secs(90);

/// How the nodes know each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meeting {
    /// By a list in `netd.toml`; node 1 has the block 10.4.1.0/24, and so on.
    List,
    /// On an etcd of one member.
    Etcd,
}

/// One node of the fleet.
#[derive(Debug)]
pub struct Host {
    // In the order in which they end.
    /// Its containerd.
    pub containerd: Containerd,
    /// Its netd.
    pub netd: Netd,
    /// The node.
    pub node: Node,
    /// What it is called in the fleet.
    pub name: String,
    /// Its `netd.toml`.
    pub settings: String,
    ctl: PathBuf,
}

/// The nodes, what they meet on, and what lies outside of them.
#[derive(Debug)]
pub struct Fleet {
    // In the order in which they end.
    /// By number, from 1.
    pub hosts: Vec<Host>,
    /// etcd, with [`Meeting::Etcd`].
    pub store: Option<(Daemon, Node)>,
    /// What they hang on.
    pub underlay: Underlay,
}

impl Fleet {
    /// Starts `count` nodes with these programs, whose packets to each other go by `encapsulation`, as `netd.toml` has it.
    ///
    /// # Errors
    /// This process is not root, a part cannot be built, or a program does not answer.
    pub fn start(programs: &Programs, count: u8, meeting: Meeting, encapsulation: &str) -> Result<Self> {
        parts::packages()?;
        let underlay = Underlay::new()?;
        let store = if meeting == Meeting::Etcd { Some(store(&underlay)?) } else { None };
        let nodes = (1..=count).map(|number| Node::new(&underlay, number)).collect::<Result<Vec<_>>>()?;
        let met = store
            .as_ref()
            .map_or_else(|| list(&nodes), |(_, node)| format!("etcd = [\"http://{}:{STORE_PORT}\"]\n", node.v4));
        let start = |(number, node): (usize, Node)| {
            let name = name(number);
            let settings =
                format!("[fleet]\npools = [\"{POOL}\"]\n{met}name = \"{name}\"\nencapsulation = \"{encapsulation}\"\n");
            Host::start(programs, node, name, settings)
        };
        let hosts = (1..).zip(nodes).map(start).collect::<Result<Vec<_>>>()?;
        Ok(Self { hosts, store, underlay })
    }
}

impl Host {
    fn start(programs: &Programs, node: Node, name: String, settings: String) -> Result<Self> {
        node.write("/etc/cni/net.d/nerdctl-bridge.conflist", NERDCTL_DEFAULT)?;
        let netd = programs.install(&node, &settings)?;
        let containerd = Containerd::start(&node, Release::V2_4)?;
        Ok(Self { containerd, netd, node, name, settings, ctl: programs.ctl.clone() })
    }

    /// What netdctl says there.
    ///
    /// # Errors
    /// It fails; the text has its words.
    pub fn netdctl(&self, arguments: &[&str]) -> Result<String> {
        self.node.output(Command::new(&self.ctl).args(arguments))
    }

    /// A client that makes containers there.
    #[must_use]
    pub fn ctr(&self) -> Ctr<'_> {
        Ctr::new(&self.node, &self.containerd)
    }
}

/// What node `number` is called.
fn name(number: usize) -> String {
    format!("host-{number}")
}

fn list(nodes: &[Node]) -> String {
    let mut text = "nodes = {".to_owned();
    for (number, node) in (1..).zip(nodes) {
        let name = name(number);
        // Writing to a string does not fail.
        let _ = write!(text, " {name} = {{ address = \"{}\", blocks = [\"10.4.{number}.0/24\"] }},", node.v4);
    }
    // TOML takes no comma after the last.
    format!("{} }}\n", text.trim_end_matches(','))
}

fn store(underlay: &Underlay) -> Result<(Daemon, Node)> {
    let node = Node::new(underlay, STORE)?;
    let url = format!("http://{}:{STORE_PORT}", node.v4);
    let arguments = ["--data-dir", "/var/lib/netd/etcd", "--listen-client-urls", &url, "--advertise-client-urls", &url];
    let mut etcd = Daemon::start(&node, Program::new("etcd", &parts::etcd()?, &arguments))?;
    let (place, address) = (node.place.clone(), (IpAddr::from(node.v4), STORE_PORT));
    etcd.wait(PATIENCE, || place.run(|| TcpStream::connect(address).ok()))?;
    Ok((etcd, node))
}
