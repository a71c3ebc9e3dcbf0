//! A case on its node, with the sandboxes that are attached; adds and detaches one, and lets packets pass.

use std::time::Duration;

use anyhow::{Context, Result};

use crate::case::{Case, Gone, Sandbox};
use crate::node::Node;
use crate::packet;
use crate::space::Space;

/// After so many adds a packet passes; also after the first.
pub(crate) const PACKET_EVERY: u32 = 50;

/// A case in its place.
#[derive(Debug)]
pub(crate) struct Field {
    pub(crate) name: &'static str,
    pub(crate) case: Box<dyn Case>,
    pub(crate) node: Node,
    /// Most attachments that it is measured with.
    pub(crate) most: usize,
    /// Samples at each size.
    pub(crate) runs: usize,
    pub(crate) live: Vec<Sandbox>,
    /// Namespaces end with the field: while the kernel takes one away, others are slower.
    pub(crate) spent: Vec<Sandbox>,
    pub(crate) packets: Vec<Duration>,
    next: u32,
}

impl Field {
    pub(crate) fn new(name: &'static str, node: Node, case: Box<dyn Case>, most: usize, runs: usize) -> Self {
        let (live, spent, packets) = (Vec::new(), Vec::new(), Vec::new());
        Self { name, case, node, most, runs, live, spent, packets, next: 0 }
    }

    /// A sandbox that is not attached yet.
    pub(crate) fn sandbox(&mut self) -> Result<Sandbox> {
        let number = self.next;
        self.next += 1;
        Ok(Sandbox { number, space: Space::fresh()? })
    }

    /// Attaches one more.
    pub(crate) fn add(&mut self) -> Result<Duration> {
        let sandbox = self.sandbox()?;
        let (name, number) = (self.name, sandbox.number);
        let added = self.case.add(&self.node, &sandbox).with_context(|| format!("{name}: cannot attach {number}"))?;
        if number % PACKET_EVERY == 0 {
            let passed = packet::pass(&self.node.space, &sandbox.space, added.address);
            self.packets.push(passed.with_context(|| format!("{name}, attachment {number}"))?);
        }
        self.live.push(sandbox);
        Ok(added.took)
    }

    /// Detaches the one that was attached last.
    pub(crate) fn del(&mut self) -> Result<Gone> {
        let sandbox = self.live.pop().context("nothing is attached")?;
        let (name, number) = (self.name, sandbox.number);
        let gone = self.case.del(&self.node, &sandbox).with_context(|| format!("{name}: cannot detach {number}"))?;
        self.spent.push(sandbox);
        Ok(gone)
    }

    /// Attaches until there are `size`.
    pub(crate) fn fill(&mut self, size: usize) -> Result<()> {
        while self.live.len() < size {
            self.add()?;
        }
        Ok(())
    }
}
