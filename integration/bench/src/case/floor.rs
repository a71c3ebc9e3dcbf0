//! `kernel-floor`, `kernel-floor-routed`: a program that has none of netd's crates, told by lines what to do. The clock is its own.

use std::io::{BufRead, BufReader, Write};
use std::net::Ipv4Addr;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::{Added, Api, Case, Gone, Programs, Sandbox};
use crate::network::{BRIDGE, GATEWAY, Writing, host_port};
use crate::node::Node;
use crate::space::Space;

/// Name of the ruleset's tables: netd's instance.
const TABLE: &str = "netd";

/// The program, running on a node.
#[derive(Debug)]
pub struct Floor {
    child: Child,
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Floor {
    /// Starts the program on a node where bridge (but for routed links), ruleset and forwarding stand: netd makes them by one attachment, takes that
    /// away, and ends.
    ///
    /// # Errors
    /// netd or the program does not start.
    pub fn start(node: &Node, programs: &Programs, writing: Writing) -> Result<Self> {
        let sandbox = Sandbox { number: 0, space: Space::fresh()? };
        let mut netd = Api::start(node, &programs.netd, writing)?;
        netd.add(node, &sandbox)?;
        netd.del(node, &sandbox)?;
        drop(netd);
        let mut child = node.space.run(|| {
            let mut command = Command::new(&programs.floor);
            command.stdin(Stdio::piped()).stdout(Stdio::piped());
            command.spawn().with_context(|| format!("cannot start {}", programs.floor.display()))
        })?;
        let orders = child.stdin.take();
        let answers = BufReader::new(child.stdout.take().context("the floor has no output")?);
        let mut floor = Self { child, orders, answers };
        let bridge = if writing == Writing::Routed { "-" } else { BRIDGE };
        floor.order(&format!("open {bridge} {TABLE}"))?;
        Ok(floor)
    }

    fn order(&mut self, line: &str) -> Result<Vec<Duration>> {
        writeln!(self.orders.as_mut().context("the floor has no input")?, "{line}")?;
        let mut answer = String::new();
        self.answers.read_line(&mut answer)?;
        let mut words = answer.split_whitespace();
        if words.next() != Some("ok") {
            bail!("the floor failed at `{line}`; its error is above");
        }
        words.map(|word| Ok(Duration::from_nanos(word.parse()?))).collect()
    }
}

impl Case for Floor {
    fn add(&mut self, _: &Node, sandbox: &Sandbox) -> Result<Added> {
        let address = address(sandbox.number);
        let Sandbox { number, space } = sandbox;
        let line = format!("add {number} {} {address}/16 {GATEWAY} {}", space.path(), host_port(*number));
        match self.order(&line)?.as_slice() {
            [took] => Ok(Added { took: *took, address }),
            _ => bail!("the floor answered `{line}` with something else than one time"),
        }
    }

    fn del(&mut self, _: &Node, sandbox: &Sandbox) -> Result<Gone> {
        match self.order(&format!("del {}", sandbox.number))?.as_slice() {
            [answered, leasable] => Ok(Gone { answered: *answered, leasable: *leasable }),
            _ => bail!("the floor answered a detach with something else than two times"),
        }
    }
}

impl Drop for Floor {
    fn drop(&mut self) {
        drop(self.orders.take());
        // Its input is closed: it ends.
        drop(self.child.wait());
    }
}

/// The first is the first that netd gives; no two sandboxes of a run have the same.
fn address(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 4, 0, 2)) + number)
}
