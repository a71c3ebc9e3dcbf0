//! What the nodes of one fleet hang on: a bridge in a namespace of its own, on which every node has an address.

use std::cell::Cell;
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
}

impl Ground {
    pub(super) fn new() -> Result<Self> {
        let space = Space::fresh()?;
        ip(&space, "link add ul type bridge mcast_snooping 0\nlink set ul addrgenmode none\nlink set ul up\n")?;
        Ok(Self { space, last: Cell::new(0) })
    }

    /// An address that nobody has yet.
    pub(super) fn address(&self) -> Ipv4Addr {
        self.last.set(self.last.get() + 1);
        let [high, low] = self.last.get().to_be_bytes();
        Ipv4Addr::new(172, 31, high, low)
    }

    /// A namespace whose `eth0` hangs on the bridge. Links have no IPv6 addresses: what IPv6 sends by itself would go to all.
    pub(super) fn place(&self) -> Result<(Space, Ipv4Addr)> {
        let (space, address) = (Space::fresh()?, self.address());
        let port = format!("p{}", self.last.get());
        let path = space.path();
        ip(
            &self.space,
            &format!(
                "link add {port} type veth peer name eth0 netns {path}\nlink set {port} addrgenmode none master ul\nlink set {port} up\n"
            ),
        )?;
        ip(
            &space,
            &format!(
                "link set lo up\nlink set eth0 addrgenmode none\naddress add {address}/16 dev eth0\nlink set eth0 up\n"
            ),
        )?;
        Ok((space, address))
    }
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
