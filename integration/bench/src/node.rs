//! A node: a network namespace and a folder, with netd in it where the case wants it.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use netd_api::{Client, blocking::StatusRequest, blocking::StatusResponse};
use tempfile::TempDir;

use crate::space::Space;

const PATIENCE: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(1);

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
        let (run_dir, config) = (self.run_dir(), self.folder.path().join("netd.toml"));
        let (socket, policies) = (run_dir.join("netd.sock"), self.policies_dir());
        fs::create_dir_all(&policies)?;
        fs::write(
            &config,
            format!(
                "run_dir = {run_dir:?}\nstate_dir = {run_dir:?}\nsocket = {socket:?}\nconf_dirs = []\n\
                 policies_dir = {policies:?}\ncontainerd_socket = \"\"\n"
            ),
        )?;
        let log = self.log_path();
        let mut leash = self.space.run(|| leashed(program, &config, &log))?;
        let mut line = String::new();
        BufReader::new(leash.stdout.take().context("the leash has no output")?).read_line(&mut line)?;
        let process = line.trim().parse().context("the leash named no process")?;
        let netd = Netd { leash, process, socket };
        let start = Instant::now();
        while netd.status().is_err() {
            if start.elapsed() > PATIENCE {
                bail!("netd does not answer; its log: {}", fs::read_to_string(&log).unwrap_or_default());
            }
            sleep(PAUSE);
        }
        Ok(netd)
    }
}

/// Starts netd by a shell that ends it when this process closes the shell's input, also by a sudden end.
fn leashed(program: &Path, config: &Path, log: &Path) -> Result<Child> {
    let script = r#""$@" </dev/null >/dev/null & echo $!; read -r _; kill -9 $!; wait"#;
    let mut command = Command::new("sh");
    command.args(["-c", script, "leash"]).arg(program).arg("--config").arg(config);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(File::create(log)?);
    command.spawn().with_context(|| format!("cannot start {}", program.display()))
}

/// A running netd; it ends with this value.
#[derive(Debug)]
pub struct Netd {
    leash: Child,
    process: u32,
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
        let status = fs::read_to_string(format!("/proc/{}/status", self.process))?;
        let line = status.lines().find_map(|line| line.strip_prefix(what)).with_context(|| format!("no {what}"))?;
        Ok(line.trim().trim_end_matches(" kB").parse()?)
    }
}

impl Drop for Netd {
    fn drop(&mut self) {
        drop(self.leash.stdin.take());
        // It has been told; there is nobody to tell that it did not end.
        drop(self.leash.wait());
    }
}
