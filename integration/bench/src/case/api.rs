//! `netd-api`, `netd-api-routed`: one Attach and one Detach over ttrpc, a connection each, as a door makes them.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use netd_api::blocking::{AttachRequest, Call, DetachRequest};
use netd_api::{Client, Tag};

use super::{Added, Case, Gone, Sandbox, address_of};
use crate::network::{self, Writing};
use crate::node::{Netd, Node};

/// netd's API.
#[derive(Debug)]
pub struct Api {
    netd: Netd,
    writing: Writing,
}

impl Api {
    /// Starts netd on the node.
    ///
    /// # Errors
    /// It does not start.
    pub fn start(node: &Node, netd: &Path, writing: Writing) -> Result<Self> {
        Ok(Self { netd: node.start(netd)?, writing })
    }

    /// An attach that threads may make at the same time.
    ///
    /// # Errors
    /// It was refused.
    pub fn attach(socket: &Path, data_dir: &Path, writing: Writing, sandbox: &Sandbox) -> Result<Added> {
        let mut request = AttachRequest::new();
        request.call = Some(call(data_dir, writing, sandbox, &sandbox.space.path())?).into();
        let start = Instant::now();
        let client = Client::connect(socket, &[(Tag::SandboxNetns, sandbox.space.fd())])?;
        let response = client.attach(&request)?;
        let took = start.elapsed();
        if let Some(failure) = response.failure.as_ref() {
            bail!("netd refused: {} {}", failure.message, failure.details);
        }
        let result = serde_json::from_slice(&response.result).context("netd's result is no JSON")?;
        Ok(Added { took, address: address_of(&result)? })
    }

    /// A detach with an empty namespace; returns when it is answered.
    ///
    /// # Errors
    /// It was refused.
    pub fn detach(socket: &Path, data_dir: &Path, writing: Writing, sandbox: &Sandbox) -> Result<std::time::Duration> {
        let mut request = DetachRequest::new();
        request.call = Some(call(data_dir, writing, sandbox, "")?).into();
        let start = Instant::now();
        let response = Client::connect(socket, &[])?.detach(&request)?;
        let answered = start.elapsed();
        if let Some(failure) = response.failure.as_ref() {
            bail!("netd refused: {} {}", failure.message, failure.details);
        }
        Ok(answered)
    }
}

impl Case for Api {
    fn add(&mut self, node: &Node, sandbox: &Sandbox) -> Result<Added> {
        Self::attach(&self.netd.socket, &node.data_dir(), self.writing, sandbox)
    }

    fn del(&mut self, node: &Node, sandbox: &Sandbox) -> Result<Gone> {
        let start = Instant::now();
        let answered = Self::detach(&self.netd.socket, &node.data_dir(), self.writing, sandbox)?;
        self.netd.wait_until_drained()?;
        Ok(Gone { answered, leasable: start.elapsed() })
    }

    fn netd(&self) -> Option<&Netd> {
        Some(&self.netd)
    }
}

fn call(data_dir: &Path, writing: Writing, sandbox: &Sandbox, netns: &str) -> Result<Call> {
    let mut stanzas = network::stanzas(writing, data_dir, sandbox.number);
    let mut call = Call::new();
    call.container_id = network::container(sandbox.number);
    network::INTERFACE.clone_into(&mut call.interface);
    netns.clone_into(&mut call.netns_path);
    let stanza = stanzas.remove(0);
    stanza["type"].as_str().unwrap_or_default().clone_into(&mut call.plugin);
    call.config = serde_json::to_vec(&stanza)?;
    Ok(call)
}
