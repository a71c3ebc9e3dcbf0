//! The daemon under test on a node, at the paths it has by default. What it should do is for the tests to say.

use std::io::{self, Read};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;

use crate::{Daemon, Node, Program};

pub(crate) const SOCKET: &str = "/run/netd/netd.sock";
const PATIENCE: Duration = Duration::from_secs(60);

/// A running netd.
#[derive(Debug)]
pub struct Netd {
    /// The process.
    pub daemon: Daemon,
}

impl Netd {
    /// Starts `binary` with `settings`, the text of its `netd.toml`, and waits until it serves.
    ///
    /// # Errors
    /// It cannot be started or does not listen.
    pub fn start(node: &Node, binary: &Path, settings: &str) -> Result<Self> {
        node.write("/etc/netd/netd.toml", settings)?;
        let program = Program::new("netd", binary, &["--config", "/etc/netd/netd.toml"]);
        let mut netd = Self { daemon: Daemon::start(node, program)? };
        netd.wait(node)?;
        Ok(netd)
    }

    /// Waits until it serves.
    ///
    /// # Errors
    /// It ended, or time is up.
    pub fn wait(&mut self, node: &Node) -> Result<()> {
        let socket = node.outside(SOCKET);
        self.daemon.wait(PATIENCE, || Ok(hung_up(&socket).ok()))?;
        Ok(())
    }

    /// Kills it, as a crash would, and starts it again.
    ///
    /// # Errors
    /// It does not listen again.
    pub fn crash(&mut self, node: &Node) -> Result<()> {
        self.daemon.kill9()?;
        self.daemon.start_again()?;
        self.wait(node)
    }
}

/// netd hangs up on who says nothing, once it serves; its socket is there before.
fn hung_up(socket: &Path) -> io::Result<()> {
    let mut caller = UnixStream::connect(socket)?;
    caller.set_read_timeout(Some(Duration::from_secs(1)))?;
    caller.shutdown(Shutdown::Write)?;
    caller.read_to_end(&mut Vec::new()).map(drop)
}
