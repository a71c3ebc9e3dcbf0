//! Network namespaces without names: one lives as long as its value and the processes in it.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::panic::resume_unwind;
use std::process::{Command, id};
use std::thread;

use anyhow::{Context, Result, ensure};
use nix::sched::{CloneFlags, setns, unshare};

/// A network namespace.
#[derive(Debug)]
pub struct Space(File);

impl Space {
    /// A new one, with nothing but a loopback that is down.
    ///
    /// # Errors
    /// This process is not root.
    pub fn fresh() -> Result<Self> {
        let made = thread::spawn(|| -> Result<File> {
            unshare(CloneFlags::CLONE_NEWNET).context("cannot make a network namespace; the bench needs root")?;
            Ok(File::open("/proc/thread-self/ns/net")?)
        });
        Ok(Self(made.join().unwrap_or_else(|panic| resume_unwind(panic))?))
    }

    /// A path by which other programs can open it.
    #[must_use]
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", id(), self.0.as_raw_fd())
    }

    /// Its descriptor.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// Runs `work` here, on a thread of its own; processes that it starts are here too.
    ///
    /// # Errors
    /// Those of `work`; the namespace cannot be entered.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        thread::scope(|scope| {
            let worker = scope.spawn(|| {
                setns(&self.0, CloneFlags::CLONE_NEWNET).context("cannot enter a network namespace")?;
                work()
            });
            worker.join().unwrap_or_else(|panic| resume_unwind(panic))
        })
    }

    /// The switch of the whole namespace, which a new one has on, filters no bridge here: where a policy needs that, netd switches
    /// it on for one bridge.
    ///
    /// # Errors
    /// The switch is there, and cannot be written.
    pub(crate) fn unfilter_bridges(&self) -> Result<()> {
        self.run(|| match std::fs::write("/proc/sys/net/bridge/bridge-nf-call-iptables", "0") {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
            Ok(()) | Err(_) => Ok(()),
        })
    }

    /// Runs a program here to its end and returns what it printed.
    ///
    /// # Errors
    /// It cannot be started, or failed.
    pub fn output(&self, line: &str) -> Result<String> {
        self.run(|| {
            let mut words = line.split(' ');
            let program = words.next().unwrap_or_default();
            let output = Command::new(program).args(words).output().with_context(|| format!("cannot run `{line}`"))?;
            ensure!(output.status.success(), "`{line}` failed: {}", String::from_utf8_lossy(&output.stderr).trim());
            Ok(String::from_utf8(output.stdout)?)
        })
    }
}
