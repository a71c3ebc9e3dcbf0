//! A long-lived program on a node: started, killed, started again, its log kept. Which program it is, the caller says.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::{Node, Place};

const GRACE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(5);
const TAIL: usize = 20;

/// What to start.
#[derive(Debug, Clone)]
pub struct Program {
    /// Its name in messages and that of its log.
    pub name: String,
    /// The binary.
    pub path: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// Variables on top of the environment.
    pub environment: Vec<(String, String)>,
}

impl Program {
    /// A program with these arguments.
    #[must_use]
    pub fn new(name: &str, path: &Path, arguments: &[&str]) -> Self {
        let arguments = arguments.iter().map(|&argument| argument.to_owned()).collect();
        Self { name: name.to_owned(), path: path.to_owned(), arguments, environment: Vec::new() }
    }

    /// The same with one more variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }
}

/// A running program; it ends with this value.
#[derive(Debug)]
pub struct Daemon {
    program: Program,
    place: Place,
    log: PathBuf,
    child: Child,
}

impl Daemon {
    /// Starts `program` on `node`. It may not be ready yet: see [`until`].
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(node: &Node, program: Program) -> Result<Self> {
        Self::start_at(node, node.place.clone(), program)
    }

    /// Starts `program` with the node's log folder at a place of the caller's, such as the node's network alone.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start_at(node: &Node, place: Place, program: Program) -> Result<Self> {
        let log = node.outside(&format!("/var/log/{}.log", program.name));
        let child = spawn(&place, &program, &log)?;
        Ok(Self { program, place, log, child })
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// All that it has printed, over all its starts.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Ends it at once, as a crash would.
    ///
    /// # Errors
    /// It cannot be waited for.
    pub fn kill9(&mut self) -> Result<ExitStatus> {
        self.child.kill()?;
        Ok(self.child.wait()?)
    }

    /// Asks it to end, and waits.
    ///
    /// # Errors
    /// It does not end.
    pub fn terminate(&mut self) -> Result<ExitStatus> {
        if self.child.try_wait()?.is_none() {
            kill(Pid::from_raw(i32::try_from(self.child.id())?), Signal::SIGTERM)?;
        }
        let name = self.program.name.clone();
        until(&format!("{name} to end after SIGTERM"), GRACE, || Ok(self.child.try_wait()?))
    }

    /// Starts it again after [`Self::kill9`] or [`Self::terminate`].
    ///
    /// # Errors
    /// It cannot be started, or it still runs.
    pub fn start_again(&mut self) -> Result<()> {
        if self.is_running()? {
            bail!("{} still runs; end it first", self.program.name);
        }
        self.child = spawn(&self.place, &self.program, &self.log)?;
        Ok(())
    }

    /// Whether it runs.
    ///
    /// # Errors
    /// It cannot be asked.
    pub fn is_running(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// Waits until `ready` gives a value. A daemon that ends meanwhile is an error, with the end of its log.
    ///
    /// # Errors
    /// It ended, or time is up.
    pub fn wait<T>(&mut self, limit: Duration, mut ready: impl FnMut() -> Result<Option<T>>) -> Result<T> {
        let what = format!("{} to be ready", self.program.name);
        let (child, name) = (&mut self.child, &self.program.name);
        let waited = until(&what, limit, || match child.try_wait()? {
            Some(status) => bail!("{name} ended: {status}"),
            None => ready(),
        });
        waited.with_context(|| format!("the end of {name}'s log:\n{}", tail(&self.log)))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.terminate().is_err() {
            // It has ended, or ends now; there is nobody to tell.
            drop(self.kill9());
        }
    }
}

/// Calls `ready` again and again until it gives a value.
///
/// # Errors
/// `ready` failed, or time is up; the text says what was waited for.
pub fn until<T>(what: &str, limit: Duration, mut ready: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let start = Instant::now();
    loop {
        if let Some(value) = ready()? {
            return Ok(value);
        }
        if start.elapsed() > limit {
            bail!("waited {limit:?} for {what}, in vain");
        }
        sleep(PAUSE);
    }
}

fn spawn(place: &Place, program: &Program, log: &Path) -> Result<Child> {
    let output = File::options().create(true).append(true).open(log)?;
    let mut command = Command::new(&program.path);
    command.args(&program.arguments).envs(program.environment.iter().map(|(name, value)| (name, value)));
    command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
    place.spawn(&mut command)
}

fn tail(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(TAIL)..].join("\n")
}
