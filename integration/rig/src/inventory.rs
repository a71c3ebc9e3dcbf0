//! What a node holds for its sandboxes, so that a test can show that nothing is left. It only looks: taking away what a rig
//! left is `residue`'s.

use std::collections::BTreeSet;
use std::fmt::{self, Display};
use std::fs;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::{Node, netd, parts};

const PATIENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(50);

/// Everything found, each as a line of text.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Inventory {
    /// Links of the node's network namespace, `name: kind`.
    pub links: BTreeSet<String>,
    /// Elements of nftables' sets and maps.
    pub elements: BTreeSet<String>,
    /// Rules of nftables, those that iptables made included.
    pub rules: BTreeSet<String>,
    /// host-local's leases and libcni's cached results, by path.
    pub files: BTreeSet<String>,
    /// Named network namespaces.
    pub namespaces: BTreeSet<String>,
    /// Addresses that a netd at its default paths holds, with their holders; those that it drains too.
    pub leases: BTreeSet<String>,
    /// Sockets that wait for others, `protocol address:port`.
    pub sockets: BTreeSet<String>,
}

impl Inventory {
    /// Looks at `node`.
    ///
    /// # Errors
    /// `ip`, `nft` or `ss` failed, or netd runs and does not answer.
    pub fn of(node: &Node) -> Result<Self> {
        let (elements, rules) = nftables(node)?;
        let mut files = BTreeSet::new();
        let cni = node.outside("/var/lib/cni");
        collect_files(&cni, &cni, &mut files);
        let namespaces = fs::read_dir(node.outside("/run/netns")).into_iter().flatten().flatten();
        let namespaces = namespaces.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        let (leases, sockets) = (leases(node)?, sockets(node)?);
        Ok(Self { links: links(node)?, elements, rules, files, namespaces, leases, sockets })
    }

    /// What `node` holds beyond `earlier` once its sandboxes are gone. It waits for the kernel,
    /// which takes a namespace apart some time after the last reference is gone; a [`crate::Place`] is one.
    ///
    /// # Errors
    /// See [`Self::of`].
    pub fn left(node: &Node, earlier: &Self) -> Result<Self> {
        let start = Instant::now();
        loop {
            let left = Self::of(node)?.beyond(earlier);
            if !left.has_traces() || start.elapsed() > PATIENCE {
                return Ok(left);
            }
            sleep(PAUSE);
        }
    }

    /// What is here and was not in `earlier`.
    #[must_use]
    pub fn beyond(&self, earlier: &Self) -> Self {
        let beyond = |now: &BTreeSet<String>, then: &BTreeSet<String>| now.difference(then).cloned().collect();
        Self {
            links: beyond(&self.links, &earlier.links),
            elements: beyond(&self.elements, &earlier.elements),
            rules: beyond(&self.rules, &earlier.rules),
            files: beyond(&self.files, &earlier.files),
            namespaces: beyond(&self.namespaces, &earlier.namespaces),
            leases: beyond(&self.leases, &earlier.leases),
            sockets: beyond(&self.sockets, &earlier.sockets),
        }
    }

    /// Whether a sandbox left a trace: a link, an element, a lease, a namespace or a socket. Rules are not asked: those that a network's
    /// first sandbox brought may stay for the next one.
    #[must_use]
    pub fn has_traces(&self) -> bool {
        self.traces().iter().any(|(_, found)| !found.is_empty())
    }

    fn traces(&self) -> [(&'static str, &BTreeSet<String>); 6] {
        [
            ("links", &self.links),
            ("nftables elements", &self.elements),
            ("files of CNI", &self.files),
            ("namespaces", &self.namespaces),
            ("leases of netd", &self.leases),
            ("listening sockets", &self.sockets),
        ]
    }
}

/// Counts, and the traces below their counts.
impl Display for Inventory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (kind, found) in self.traces() {
            writeln!(f, "{:>3} {kind}", found.len())?;
            for one in found {
                writeln!(f, "      {one}")?;
            }
        }
        writeln!(f, "{:>3} nftables rules", self.rules.len())
    }
}

fn links(node: &Node) -> Result<BTreeSet<String>> {
    let text = node.output(Command::new("ip").args(["-json", "-details", "link"]))?;
    let links: Vec<Value> = serde_json::from_str(&text).context("`ip -json link` printed no JSON list")?;
    let kind = |link: &Value| link["linkinfo"]["info_kind"].as_str().unwrap_or("other").to_owned();
    Ok(links.iter().map(|link| format!("{}: {}", link["ifname"].as_str().unwrap_or("?"), kind(link))).collect())
}

fn nftables(node: &Node) -> Result<(BTreeSet<String>, BTreeSet<String>)> {
    let text = node.output(Command::new("nft").args(["-j", "list", "ruleset"]))?;
    let listing: Value = serde_json::from_str(&text).context("`nft -j` printed no JSON")?;
    let (mut elements, mut rules) = (BTreeSet::new(), BTreeSet::new());
    for object in listing["nftables"].as_array().into_iter().flatten() {
        let rule = &object["rule"];
        if rule.is_object() {
            let place = ["family", "table", "chain"].map(|key| rule[key].as_str().unwrap_or("?")).join(" ");
            rules.insert(format!("{place} {}", rule["expr"]));
        }
        for set in [&object["set"], &object["map"]] {
            let place = ["family", "table", "name"].map(|key| set[key].as_str().unwrap_or("?")).join(" ");
            // What leaves by itself is no trace.
            let lasting = |one: &&Value| one["elem"]["expires"].is_null();
            let listed = set["elem"].as_array().into_iter().flatten().filter(lasting);
            elements.extend(listed.map(|one| format!("{place} {one}")));
        }
    }
    Ok((elements, rules))
}

/// None where no netd runs.
fn leases(node: &Node) -> Result<BTreeSet<String>> {
    if UnixStream::connect(node.outside(netd::SOCKET)).is_err() {
        return Ok(BTreeSet::new());
    }
    let netdctl = parts::ours()?.join("netdctl");
    let text = node.output(Command::new(netdctl).args(["-o", "json", "lease", "ls"]))?;
    let listed: Vec<Value> = serde_json::from_str(&text).context("`netdctl -o json lease ls` printed no JSON list")?;
    let line = |lease: &Value| {
        ["address", "network", "sandbox", "interface"].map(|key| lease[key].as_str().unwrap_or("?")).join(" ")
    };
    Ok(listed.iter().map(line).collect())
}

fn sockets(node: &Node) -> Result<BTreeSet<String>> {
    let arguments = ["--no-header", "--oneline", "--numeric", "--listening", "--tcp", "--udp"];
    let text = node.output(Command::new("ss").args(arguments))?;
    let socket = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        Some(format!("{} {}", words.first()?, words.get(4)?))
    };
    Ok(text.lines().filter_map(socket).collect())
}

fn collect_files(root: &Path, folder: &Path, files: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let name = entry.file_name();
        if path.is_dir() {
            collect_files(root, &path, files);
        } else if name != "lock" && !name.to_string_lossy().starts_with("last_reserved_ip") {
            files.insert(path.strip_prefix(root).unwrap_or(&path).display().to_string());
        }
    }
}
