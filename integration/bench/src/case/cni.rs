//! `cni-chain`, `netd-cni`, `netd-cni-one`: plugins executed as libcni does it, one a stanza, each with the result before it.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::close;
use serde_json::Value;

use super::{Added, Case, Gone, Sandbox, address_of};
use crate::network::{self, Writing};
use crate::node::{Netd, Node};

/// A runtime that calls the plugins of one folder.
#[derive(Debug)]
pub struct Cni {
    plugins: PathBuf,
    writing: Writing,
    netd: Option<Netd>,
    /// libcni keeps the result of an ADD and gives it to DEL.
    results: BTreeMap<u32, Value>,
}

impl Cni {
    /// The official plugins, without netd.
    #[must_use]
    pub fn official(plugins: &Path) -> Self {
        Self { plugins: plugins.to_owned(), writing: Writing::Chain, netd: None, results: BTreeMap::new() }
    }

    /// netd's own client, with a netd on the node.
    ///
    /// # Errors
    /// netd does not start.
    pub fn ours(node: &Node, netd: &Path, client: &Path, writing: Writing) -> Result<Self> {
        let netd = Some(node.start(netd)?);
        Ok(Self { plugins: client.to_owned(), writing, netd, results: BTreeMap::new() })
    }

    /// Runs one plugin and returns its result; nothing, as `null`.
    fn execute(&self, node: &Node, command: &str, sandbox: &Sandbox, netns: &str, stanza: &Value) -> Result<Value> {
        let plugin = stanza["type"].as_str().unwrap_or_default();
        let program = self.plugins.join(plugin);
        let mut child = Command::new(&program);
        child.env("CNI_COMMAND", command).env("CNI_CONTAINERID", network::container(sandbox.number));
        child.env("CNI_NETNS", netns).env("CNI_IFNAME", network::INTERFACE).env("CNI_PATH", &self.plugins);
        if self.netd.is_some() {
            child.env("NETD_RUN_DIR", node.run_dir());
        }
        child.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut child = child.spawn().with_context(|| format!("cannot run {}", program.display()))?;
        child.stdin.take().context("the plugin has no input")?.write_all(&serde_json::to_vec(stanza)?)?;
        let output = child.wait_with_output()?;
        let said = String::from_utf8_lossy(&output.stdout);
        ensure!(output.status.success(), "{plugin} refused {command}: {}", said.trim());
        if said.trim().is_empty() { Ok(Value::Null) } else { Ok(serde_json::from_str(&said)?) }
    }

    fn stanzas(&self, node: &Node, sandbox: &Sandbox) -> Vec<Value> {
        network::stanzas(self.writing, &node.data_dir(), sandbox.number)
    }
}

impl Case for Cni {
    fn add(&mut self, node: &Node, sandbox: &Sandbox) -> Result<Added> {
        let stanzas = self.stanzas(node, sandbox);
        let netns = sandbox.space.path();
        let this = &*self;
        let (took, result) = node.space.run(move || {
            leave_descriptors()?;
            let start = Instant::now();
            let mut result = Value::Null;
            for mut stanza in stanzas {
                if !result.is_null() {
                    stanza["prevResult"] = result;
                }
                result = this.execute(node, "ADD", sandbox, &netns, &stanza)?;
            }
            Ok((start.elapsed(), result))
        })?;
        let address = address_of(&result)?;
        self.results.insert(sandbox.number, result);
        Ok(Added { took, address })
    }

    fn del(&mut self, node: &Node, sandbox: &Sandbox) -> Result<Gone> {
        let stanzas = self.stanzas(node, sandbox);
        let result = self.results.remove(&sandbox.number).context("it was never attached")?;
        let (this, previous) = (&*self, &result);
        let (start, answered) = node.space.run(move || {
            leave_descriptors()?;
            let start = Instant::now();
            for mut stanza in stanzas.into_iter().rev() {
                stanza["prevResult"] = previous.clone();
                this.execute(node, "DEL", sandbox, "", &stanza)?;
            }
            Ok((start, start.elapsed()))
        })?;
        if let Some(netd) = &self.netd {
            netd.wait_until_drained()?;
            return Ok(Gone { answered, leasable: start.elapsed() });
        }
        // host-local has given the address back. Without a namespace the official bridge leaves its link and its rules of
        // masquerade behind: they go outside the clock, so that a later add does not find them.
        let path = sandbox.space.path();
        node.space.run(move || {
            for mut stanza in this.stanzas(node, sandbox).into_iter().rev() {
                stanza["prevResult"] = previous.clone();
                this.execute(node, "DEL", sandbox, &path, &stanza)?;
            }
            Ok(())
        })?;
        Ok(Gone { answered, leasable: answered })
    }

    fn netd(&self) -> Option<&Netd> {
        self.netd.as_ref()
    }
}

/// From now on the calling thread has a table of descriptors of its own, with the standard ones alone. To start a program takes
/// longer the more a process has open (the kernel copies the table, and then closes what is closed on exec), and this one has
/// every sandbox of every case open, a runtime hardly any.
fn leave_descriptors() -> Result<()> {
    unshare(CloneFlags::CLONE_FILES)?;
    let open = std::fs::read_dir("/proc/thread-self/fd")?;
    let numbers: Vec<RawFd> = open.filter_map(|one| one.ok()?.file_name().to_str()?.parse().ok()).collect();
    for number in numbers.into_iter().filter(|number| *number > 2) {
        // That of the look itself is gone already.
        close(number).ok();
    }
    Ok(())
}
