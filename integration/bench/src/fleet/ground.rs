//! What the nodes of one fleet hang on: a bridge in a namespace of its own, on which every node has an address.
//!
//! All namespaces of a kernel share one table of neighbours (`net.ipv4.neigh.default.gc_thresh3`, 1,024 of them), so that nodes
//! beside each other on one machine push each other's out, which hosts do not. Nodes here know each other's hardware addresses
//! from the start: permanent neighbours are not counted.

use std::cell::Cell;
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::space::Space;

/// The underlay, 172.31.0.0/16.
#[derive(Debug)]
pub(super) struct Ground {
    space: Space,
    last: Cell<u16>,
    acquainted: u16,
}

impl Ground {
    /// Nobody yet. Whoever gets a place knows where the first so many addresses are.
    ///
    /// # Errors
    /// They are more than the underlay has, or it cannot be made.
    pub(super) fn new(acquainted: usize) -> Result<Self> {
        let acquainted = u16::try_from(acquainted).context("too many nodes for one underlay")?;
        let space = Space::fresh()?;
        ip(&space, "link add ul type bridge mcast_snooping 0\nlink set ul addrgenmode none\nlink set ul up\n")?;
        Ok(Self { space, last: Cell::new(0), acquainted })
    }

    /// An address that nobody has yet.
    pub(super) fn address(&self) -> Ipv4Addr {
        self.last.set(self.last.get() + 1);
        at(self.last.get()).0
    }

    /// A namespace whose `eth0` hangs on the bridge. Links have no IPv6 addresses: what IPv6 sends by itself would go to all.
    pub(super) fn place(&self) -> Result<(Space, Ipv4Addr)> {
        let (space, address) = (Space::fresh()?, self.address());
        let own = self.last.get();
        let (port, mac) = (format!("p{own}"), at(own).1);
        let path = space.path();
        ip(
            &self.space,
            &format!(
                "link add {port} type veth peer name eth0 netns {path}\nlink set {port} addrgenmode none master ul\nlink set {port} up\n"
            ),
        )?;
        let mut batch = format!(
            "link set lo up\nlink set eth0 addrgenmode none address {mac}\naddress add {address}/16 dev eth0\nlink set eth0 up\n"
        );
        for (other, mac) in (1..=self.acquainted).filter(|number| *number != own).map(at) {
            // Writing to a string does not fail.
            let _ = writeln!(batch, "neighbour add {other} lladdr {mac} dev eth0 nud permanent");
        }
        ip(&space, &batch)?;
        Ok((space, address))
    }
}

/// The address of this number, and its owner's on the link.
fn at(number: u16) -> (Ipv4Addr, String) {
    let [high, low] = number.to_be_bytes();
    (Ipv4Addr::new(172, 31, high, low), format!("02:00:ac:1f:{high:02x}:{low:02x}"))
}

/// Runs `ip` with each line of `batch`.
pub(super) fn ip(space: &Space, batch: &str) -> Result<()> {
    lines(space, "ip", batch)
}

/// Runs `ip` or `bridge` with each line of `batch`.
pub(super) fn lines(space: &Space, program: &str, batch: &str) -> Result<()> {
    space.run(|| {
        let mut command = Command::new(program);
        command.args(["-batch", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("cannot run {program}; install iproute2"))?;
        // Dropped behind this line, which is the end of the input.
        child.stdin.take().context("no input")?.write_all(batch.as_bytes())?;
        let output = child.wait_with_output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "`{program} -batch` failed: {}", said.trim());
        Ok(())
    })
}
