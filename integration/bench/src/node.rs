//! A node: a network namespace and a folder, with netd in it where the case wants it.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use netd_api::{Client, blocking::StatusRequest, blocking::StatusResponse};
use tempfile::TempDir;

use crate::leash::Leash;
use crate::space::Space;

const PATIENCE: Duration = Duration::from_secs(120);
const PAUSE: Duration = Duration::from_millis(1);
/// Whose environment netd has where it ships.
const UNIT: &str = include_str!("../../../packaging/systemd/netd.service");

/// A node.
#[derive(Debug)]
pub struct Node {
    /// Its namespace.
    pub space: Space,
    folder: TempDir,
}

impl Node {
    /// A new one, its loopback up.
    ///
    /// # Errors
    /// This process is not root, or there is no `ip`.
    pub fn fresh() -> Result<Self> {
        let space = Space::fresh()?;
        space.output("ip link set lo up")?;
        Self::of(space)
    }

    /// One in a namespace that is there.
    pub(crate) fn of(space: Space) -> Result<Self> {
        Ok(Self { space, folder: tempfile::tempdir()? })
    }

    /// Where host-local keeps its leases.
    #[must_use]
    pub fn data_dir(&self) -> PathBuf {
        self.folder.path().join("networks")
    }

    /// Where netd is.
    #[must_use]
    pub fn run_dir(&self) -> PathBuf {
        self.folder.path().join("run")
    }

    /// Where netd reads policies.
    #[must_use]
    pub fn policies_dir(&self) -> PathBuf {
        self.folder.path().join("policies")
    }

    /// What netd has said since it started.
    ///
    /// # Errors
    /// It was never started.
    pub fn log(&self) -> Result<String> {
        Ok(fs::read_to_string(self.log_path())?)
    }

    fn log_path(&self) -> PathBuf {
        self.folder.path().join("netd.log")
    }

    /// Starts netd and waits until it answers.
    ///
    /// # Errors
    /// It does not.
    pub fn start(&self, program: &Path) -> Result<Netd> {
        self.start_with(program, "")
    }

    /// The same, with `more` in its settings.
    pub(crate) fn start_with(&self, program: &Path, more: &str) -> Result<Netd> {
        let netd = self.launch(&[&program.to_string_lossy()], more)?;
        let start = Instant::now();
        while netd.status().is_err() {
            if start.elapsed() > PATIENCE {
                bail!("netd does not answer; its log: {}", self.log().unwrap_or_default());
            }
            sleep(PAUSE);
        }
        Ok(netd)
    }

    /// Takes netd's tables away, which outlive it.
    pub(crate) fn delete_tables(&self) -> Result<()> {
        for family in ["inet", "bridge"] {
            let tables = self.space.output("nft list tables")?;
            if tables.lines().any(|line| line == format!("table {family} netd")) {
                self.space.output(&format!("nft delete table {family} netd"))?;
            }
        }
        let left = self.space.output("nft list tables")?;
        ensure!(left.is_empty(), "tables are left: {left}");
        Ok(())
    }

    /// Starts netd by `words`, in the environment that its unit sets and with `more` in its settings, and waits for nothing.
    pub(crate) fn launch(&self, words: &[&str], more: &str) -> Result<Netd> {
        let (run_dir, config) = (self.run_dir(), self.folder.path().join("netd.toml"));
        let (socket, policies) = (run_dir.join("netd.sock"), self.policies_dir());
        fs::create_dir_all(&policies)?;
        fs::write(
            &config,
            format!(
                "run_dir = {run_dir:?}\nstate_dir = {run_dir:?}\nsocket = {socket:?}\nconf_dirs = []\n\
                 policies_dir = {policies:?}\ncontainerd_socket = \"\"\n{more}"
            ),
        )?;
        let config = config.to_string_lossy();
        let environment = UNIT.lines().filter_map(|line| line.strip_prefix("Environment="));
        let words = words.iter().copied().chain(["--config", &config]);
        let words: Vec<&str> = ["env"].into_iter().chain(environment).chain(words).collect();
        let leash = Leash::start(&self.space, &words, &self.log_path())?;
        Ok(Netd { leash, socket })
    }
}

/// A running netd; it ends with this value.
#[derive(Debug)]
pub struct Netd {
    leash: Leash,
    /// Where it listens.
    pub socket: PathBuf,
}

impl Netd {
    /// What it holds.
    ///
    /// # Errors
    /// It does not answer.
    pub fn status(&self) -> Result<StatusResponse> {
        Ok(Client::connect(&self.socket, &[])?.status(&StatusRequest::new())?)
    }

    /// Waits until every detached address can be leased again.
    ///
    /// # Errors
    /// Time is up.
    pub fn wait_until_drained(&self) -> Result<()> {
        let start = Instant::now();
        while self.status()?.draining > 0 {
            ensure!(start.elapsed() < PATIENCE, "netd still drains after {PATIENCE:?}");
            sleep(PAUSE);
        }
        Ok(())
    }

    /// Its process.
    pub(crate) fn process(&self) -> u32 {
        self.leash.process
    }

    /// Memory that it occupies, in kilobytes (`VmRSS`, proc_pid_status(5)).
    ///
    /// # Errors
    /// It has ended.
    pub fn resident_kb(&self) -> Result<u64> {
        self.kilobytes("VmRSS:")
    }

    /// Of that, what is no mapped file, in kilobytes (`RssAnon`): the program's own pages go with its file's cache.
    ///
    /// # Errors
    /// It has ended.
    pub fn anonymous_kb(&self) -> Result<u64> {
        self.kilobytes("RssAnon:")
    }

    fn kilobytes(&self, what: &'static str) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.leash.process))?;
        let line = status.lines().find_map(|line| line.strip_prefix(what)).with_context(|| format!("no {what}"))?;
        Ok(line.trim().trim_end_matches(" kB").parse()?)
    }
}
