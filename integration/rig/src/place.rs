//! Where code and programs run: a network namespace, and on a node its mount namespace too. What a place looks like inside
//! is its maker's: `underlay`, `node` or a container runtime.

use std::ffi::OsString;
use std::fs::File;
use std::io::Write as _;
use std::panic::resume_unwind;
use std::process::{Child, Command, Output, Stdio, id};
use std::sync::Arc;
use std::thread;

use anyhow::{Context, Result, bail};
use nix::sched::{CloneFlags, setns, unshare};

/// Environment variable that marks every process of a rig, so that what it left behind can be found.
pub(crate) const MARK: &str = "NETD_RIG";

/// A namespace that lives as long as this value, its copies and its processes: a sandbox's links stay until they are dropped.
/// It has no name.
#[derive(Debug, Clone)]
pub struct Place {
    net: Arc<File>,
    mount: Option<Arc<File>>,
    mark: Option<OsString>,
}

impl Place {
    /// A new network namespace with nothing but a loopback that is up.
    ///
    /// # Errors
    /// This process is not root.
    pub fn fresh() -> Result<Self> {
        let made = thread::spawn(|| -> Result<File> {
            unshare(CloneFlags::CLONE_NEWNET).context("cannot make a network namespace; rigs need root")?;
            Ok(File::open("/proc/thread-self/ns/net")?)
        });
        let net = made.join().unwrap_or_else(|panic| resume_unwind(panic))?;
        let place = Self { net: Arc::new(net), mount: None, mark: None };
        place.ip("link set lo up")?;
        Ok(place)
    }

    /// The network namespace of a process, for a sandbox that a container runtime made.
    ///
    /// # Errors
    /// There is no such process.
    pub fn of_process(pid: u32) -> Result<Self> {
        let path = format!("/proc/{pid}/ns/net");
        let net = File::open(&path).with_context(|| format!("cannot open {path}; has the process ended?"))?;
        Ok(Self { net: Arc::new(net), mount: None, mark: None })
    }

    /// The same network with a mount namespace, and a mark for its processes.
    pub(crate) fn with_mounts(self, mount: File, mark: OsString) -> Self {
        Self { net: self.net, mount: Some(Arc::new(mount)), mark: Some(mark) }
    }

    /// The same network, with the machine's own mounts.
    #[must_use]
    pub fn without_mounts(&self) -> Self {
        Self { mount: None, ..self.clone() }
    }

    /// A path by which programs outside of this place can name its network namespace.
    #[must_use]
    pub fn path(&self) -> String {
        use std::os::fd::AsRawFd;
        format!("/proc/{}/fd/{}", id(), self.net.as_raw_fd())
    }

    /// Runs `work` here, on a thread of its own.
    ///
    /// # Errors
    /// The place cannot be entered.
    ///
    /// # Panics
    /// `work` panicked.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        thread::scope(|scope| {
            let worker = scope.spawn(|| {
                self.enter()?;
                Ok(work())
            });
            worker.join().unwrap_or_else(|panic| resume_unwind(panic))
        })
    }

    /// Moves this thread here, for good.
    fn enter(&self) -> Result<()> {
        if let Some(mount) = &self.mount {
            // The kernel moves no thread between mount namespaces that shares its working directory with another.
            unshare(CloneFlags::CLONE_FS).context("cannot leave the shared working directory")?;
            setns(mount, CloneFlags::CLONE_NEWNS).context("cannot enter the mount namespace")?;
        }
        setns(&self.net, CloneFlags::CLONE_NEWNET).context("cannot enter the network namespace")
    }

    /// Starts a program here.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn spawn(&self, command: &mut Command) -> Result<Child> {
        if let Some(mark) = &self.mark {
            command.env(MARK, mark);
        }
        let spawned = self.run(|| command.spawn())?;
        spawned.with_context(|| format!("cannot start {}", command.get_program().display()))
    }

    /// Runs a program here to its end, with `input` on its standard input.
    ///
    /// # Errors
    /// It cannot be started, or it failed; the text has what it printed.
    pub fn output(&self, command: &mut Command, input: &str) -> Result<String> {
        let output = self.outcome(command, input)?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let said = [output.stdout, output.stderr].concat();
        bail!("{command:?} failed ({}): {}", output.status, String::from_utf8_lossy(&said).trim())
    }

    /// Like [`Self::output`], for a program that may fail.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn outcome(&self, command: &mut Command, input: &str) -> Result<Output> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = self.spawn(command)?;
        if let Some(mut stdin) = child.stdin.take() {
            // A program that does not read its input is free to end before it.
            drop(stdin.write_all(input.as_bytes()));
        }
        Ok(child.wait_with_output()?)
    }

    /// Runs `ip` with each line of `batch`.
    ///
    /// # Errors
    /// One of the lines failed; those after it were not run.
    pub fn ip(&self, batch: &str) -> Result<String> {
        self.output(Command::new("ip").args(["-batch", "-"]), batch)
    }
}
