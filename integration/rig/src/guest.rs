//! Guests: kernels other than this machine's, booted for one errand, with the machine's own files as their root. Freshly built
//! programs run in them as they are.
//!
//! ```text
//!   machine's files, read-only ─┐
//!                               ├─ overlay: the guest's root; what it writes is in memory and ends with it
//!   memory ─────────────────────┘
//!   folder of the errand ──────── /run/exchange: init and errand in, output and status out
//! ```
//!
//! A guest has no network but those made in it. One that does not come up, or does not end in time, is an error, never a
//! skip. Which test programs run, `trial` knows; how a guest is started, `boot`.

mod boot;
mod trial;

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio, id};
use std::sync::{Mutex, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use crate::node::FOLDER;
use crate::parts;
use crate::place::MARK;
use crate::residue;

pub use self::trial::Trial;

const INIT: &str = include_str!("guest/init.sh");
const PAUSE: Duration = Duration::from_millis(50);
/// Lines that an error shows of an errand and of the console: where both processors were fits into them.
const TAIL: usize = 150;

/// Two cores carry one guest at a time.
static TURN: Mutex<()> = Mutex::new(());

/// A kernel that runs errands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Guest {
    /// User-mode Linux, a kernel as a process: up in two seconds, with `ipip`; one processor, no nftables but for bridges.
    UserMode,
    /// The kernel that Debian installs, in an emulator: all that a Debian machine has, several times slower.
    Debian,
}

/// Who is a guest's first process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum First {
    /// The shell that runs the errand.
    Shell,
    /// systemd; the errand is a unit.
    Systemd,
}

/// What came back from an errand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// What the errand printed, both streams.
    pub output: String,
    /// Its exit status.
    pub status: i32,
    /// From start to end, with the boot.
    pub took: Duration,
}

impl Guest {
    /// Every guest.
    pub const ALL: [Self; 2] = [Self::UserMode, Self::Debian];

    /// Its name for people.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::UserMode => "user-mode",
            Self::Debian => "debian",
        }
    }

    /// Runs a shell script as root of the guest, in at most `limit`, boot included.
    ///
    /// # Errors
    /// The guest's parts are missing, it did not come up, or the errand did not end in time; the text has the remedy, or the
    /// end of the console.
    pub fn run(self, errand: &str, limit: Duration) -> Result<Outcome> {
        self.boot(First::Shell, errand, limit)
    }

    /// As [`Self::run`], in a guest whose services systemd manages; the errand is one of them.
    ///
    /// # Errors
    /// As for [`Self::run`]; systemd is not installed.
    pub fn run_under_systemd(self, errand: &str, limit: Duration) -> Result<Outcome> {
        parts::systemd()?;
        self.boot(First::Systemd, errand, limit)
    }

    fn boot(self, first: First, errand: &str, limit: Duration) -> Result<Outcome> {
        let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let exchange = Exchange::new(errand)?;
        let command = boot::command(self, first, exchange.path())?;
        let start = Instant::now();
        let ended = exchange.start(command)?.ends_within(limit)?;
        match exchange.status() {
            Some(status) => Ok(Outcome { output: exchange.read("output"), status, took: start.elapsed() }),
            None if ended => bail!("{self:?} ended without a status; {}", exchange.last_words()),
            None => bail!("{self:?} was not done within {limit:?}; {}", exchange.last_words()),
        }
    }
}

/// The errand's folder. Ends what was started for it, and goes away, when dropped.
#[derive(Debug)]
struct Exchange {
    folder: TempDir,
}

impl Exchange {
    fn new(errand: &str) -> Result<Self> {
        residue::sweep();
        let folder = tempfile::Builder::new().prefix(FOLDER).tempdir().context("cannot make the errand's folder")?;
        fs::write(folder.path().join("owner"), id().to_string())?;
        fs::write(folder.path().join("init"), INIT)?;
        fs::set_permissions(folder.path().join("init"), Permissions::from_mode(0o755))?;
        fs::write(folder.path().join("errand"), errand)?;
        Ok(Self { folder })
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn start(&self, mut command: Command) -> Result<Running> {
        let console = File::create(self.console()).context("cannot make the console's file")?;
        // User-mode Linux keeps a folder in the home directory.
        command.env(MARK, self.path()).env("HOME", self.path()).current_dir(self.path());
        command.stdin(Stdio::null()).stderr(console.try_clone()?).stdout(console);
        let child = command.spawn().with_context(|| format!("cannot start {command:?}"))?;
        Ok(Running { child })
    }

    fn console(&self) -> PathBuf {
        self.path().join("console")
    }

    fn status(&self) -> Option<i32> {
        self.read("status").trim().parse().ok()
    }

    fn read(&self, file: &str) -> String {
        let octets = fs::read(self.path().join(file)).unwrap_or_default();
        String::from_utf8_lossy(&octets).into_owned()
    }

    fn last_words(&self) -> String {
        format!("the errand said:\n{}\nthe console:\n{}", tail(&self.read("output")), tail(&self.read("console")))
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        residue::clear(self.path());
    }
}

/// A guest from its start to its end.
#[derive(Debug)]
struct Running {
    child: Child,
}

impl Running {
    fn ends_within(mut self, limit: Duration) -> Result<bool> {
        let start = Instant::now();
        while start.elapsed() < limit {
            if self.child.try_wait()?.is_some() {
                return Ok(true);
            }
            sleep(PAUSE);
        }
        self.child.kill()?;
        self.child.wait()?;
        Ok(false)
    }
}

fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines.get(lines.len().saturating_sub(TAIL)..).unwrap_or_default().join("\n")
}
