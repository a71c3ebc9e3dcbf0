//! The ways to attach and detach that are compared. What is measured when is `attach`'s.

mod api;
mod cni;
mod floor;

use std::fmt::Debug;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

pub use self::api::Api;
pub use self::cni::Cni;
pub use self::floor::Floor;
use crate::node::{Netd, Node};
use crate::space::Space;

/// The programs under test.
#[derive(Debug, Clone)]
pub struct Programs {
    /// The daemon.
    pub netd: PathBuf,
    /// Folder with `netd-cni` by its plugin names.
    pub client: PathBuf,
    /// `netd-kernel-floor`.
    pub floor: PathBuf,
    /// Folder with the official plugins.
    pub plugins: PathBuf,
}

/// A sandbox: an empty namespace, and a number that no other on its node has.
#[derive(Debug)]
pub struct Sandbox {
    /// From 0.
    pub number: u32,
    /// Its namespace.
    pub space: Space,
}

/// An attach that was answered.
#[derive(Debug)]
pub struct Added {
    /// From the request to the answer.
    pub took: Duration,
    /// The sandbox's.
    pub address: Ipv4Addr,
}

/// A detach that was answered.
#[derive(Debug)]
pub struct Gone {
    /// From the request to the answer.
    pub answered: Duration,
    /// From the request until the address could be leased again.
    pub leasable: Duration,
}

/// One way to attach and detach, on a node of its own.
pub trait Case: Debug {
    /// Attaches a sandbox.
    ///
    /// # Errors
    /// It was refused.
    fn add(&mut self, node: &Node, sandbox: &Sandbox) -> Result<Added>;

    /// Detaches it, without naming its namespace.
    ///
    /// # Errors
    /// It was refused.
    fn del(&mut self, node: &Node, sandbox: &Sandbox) -> Result<Gone>;

    /// The netd that works here.
    fn netd(&self) -> Option<&Netd> {
        None
    }
}

/// The sandbox's address in a CNI result.
fn address_of(result: &Value) -> Result<Ipv4Addr> {
    let text = result["ips"][0]["address"].as_str().context("the result has no address")?;
    Ok(text.split('/').next().unwrap_or(text).parse()?)
}
