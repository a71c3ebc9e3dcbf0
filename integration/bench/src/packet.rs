//! One packet from node to sandbox and back: the proof that an attachment carries what the clock says it does.

use std::net::{Ipv4Addr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::space::Space;

const PORT: u16 = 7;
/// Where a broadcast to all ports overflows the queue of a processor (`net.core.netdev_max_backlog`), the kernel asks for the
/// neighbour again after a second; the packet waits and passes then.
const PATIENCE: Duration = Duration::from_secs(3);
/// A packet that took longer had to be asked for twice.
pub(crate) const SLOW: Duration = Duration::from_millis(500);

/// Sends one packet to `address` in `sandbox`, has it answered, and says how long that took.
pub(crate) fn pass(node: &Space, sandbox: &Space, address: Ipv4Addr) -> Result<Duration> {
    let inside = sandbox.run(|| Ok(UdpSocket::bind((Ipv4Addr::UNSPECIFIED, PORT))?))?;
    let outside = node.run(|| Ok(UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?))?;
    for socket in [&inside, &outside] {
        socket.set_read_timeout(Some(PATIENCE))?;
    }
    let start = Instant::now();
    let lost = || {
        format!("the first packet to {address} was lost: the attach was answered before it could pass; the run is void")
    };
    outside.send_to(b"?", (address, PORT)).with_context(lost)?;
    let (_, sender) = inside.recv_from(&mut [0; 1]).with_context(lost)?;
    inside.send_to(b"!", sender).with_context(lost)?;
    let (length, _) = outside.recv_from(&mut [0; 1]).with_context(lost)?;
    ensure!(length == 1, lost());
    Ok(start.elapsed())
}
