//! The real crictl, where somebody has put it: what a person types on a node with CRI.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

use super::{SOCKET, on_path};
use crate::{Node, Place};

/// crictl on a node.
#[derive(Debug)]
pub struct Crictl<'node> {
    node: &'node Node,
    program: PathBuf,
}

impl<'node> Crictl<'node> {
    /// crictl, where it is on `PATH`: it is in no registry.
    #[must_use]
    pub fn real(node: &'node Node) -> Option<Self> {
        on_path("crictl").map(|program| Self { node, program })
    }

    /// Runs a command; what it printed.
    ///
    /// # Errors
    /// It failed; the text is crictl's.
    pub fn call(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new(&self.program);
        command.args(["--runtime-endpoint", &format!("unix://{SOCKET}"), "--timeout", "20s"]);
        Ok(self.node.output(command.args(arguments))?.trim().to_owned())
    }

    /// A pod's address as crictl tells it, and its network namespace.
    ///
    /// # Errors
    /// There is no such pod.
    pub fn find(&self, pod: &str) -> Result<(String, Place)> {
        let text = self.call(&["inspectp", "--output", "json", pod])?;
        let told: Value = serde_json::from_str(&text).context("crictl inspectp printed no JSON")?;
        let address = told["status"]["network"]["ip"].as_str().context("the pod has no address")?;
        let pid = told["info"]["pid"].as_u64().context("crictl tells no process id")?;
        Ok((address.to_owned(), Place::of_process(u32::try_from(pid)?)?))
    }
}
