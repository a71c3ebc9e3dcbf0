//! etcd's members in one namespace, so that what passes its one link is what nodes and store say to each other, and nothing of
//! what the members say among themselves.

use std::fs;
use std::io::Write as _;
use std::net::{Ipv4Addr, TcpStream};
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use super::ground::Ground;
use crate::leash::Leash;
use crate::space::Space;

const PATIENCE: Duration = Duration::from_secs(30);
const CLIENTS: usize = 2379;
const AMONG: usize = 3379;

/// A running etcd.
#[derive(Debug)]
pub(super) struct Store {
    members: Vec<Leash>,
    pub(super) place: Space,
    address: Ipv4Addr,
    _folder: TempDir,
}

/// Octets on the store's link since it is up, with their headers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Octets {
    pub(super) to_store: u64,
    pub(super) from_store: u64,
}

impl Store {
    pub(super) fn start(ground: &Ground, program: &Path, count: usize) -> Result<Self> {
        let (place, address) = ground.place()?;
        let folder = tempfile::tempdir()?;
        let all: Vec<String> = (0..count).map(|at| format!("m{at}=http://127.0.0.1:{}", AMONG + at)).collect();
        let all = all.join(",");
        let mut store = Self { members: Vec::new(), place, address, _folder: folder };
        for at in 0..count {
            let (name, data) = (format!("m{at}"), store._folder.path().join(format!("m{at}")));
            let (client, peer) = (store.endpoint(at), format!("http://127.0.0.1:{}", AMONG + at));
            let program = program.to_string_lossy();
            let data_dir = data.to_string_lossy();
            let words = [
                &*program,
                "--name",
                &name,
                "--data-dir",
                &data_dir,
                "--listen-client-urls",
                &client,
                "--advertise-client-urls",
                &client,
                "--listen-peer-urls",
                &peer,
                "--initial-advertise-peer-urls",
                &peer,
                "--initial-cluster",
                &all,
                "--logger",
                "zap",
                "--log-level",
                "error",
            ];
            store.members.push(Leash::start(&store.place, &words, &data.with_extension("log"))?);
        }
        for at in 0..count {
            store.wait(at)?;
        }
        Ok(store)
    }

    fn wait(&self, at: usize) -> Result<()> {
        let start = Instant::now();
        while self.connect(at).is_err() {
            ensure!(start.elapsed() < PATIENCE, "etcd's member {at} does not listen");
            sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    fn endpoint(&self, at: usize) -> String {
        format!("http://{}:{}", self.address, CLIENTS + at)
    }

    /// All members.
    pub(super) fn endpoints(&self) -> Vec<String> {
        (0..self.members.len()).map(|at| self.endpoint(at)).collect()
    }

    /// A connection to a member from where the store is.
    pub(super) fn connect(&self, at: usize) -> Result<TcpStream> {
        let port = u16::try_from(CLIENTS + at)?;
        self.place.run(|| Ok(TcpStream::connect((self.address, port))?))
    }

    /// Asks a member by its JSON gateway, and leaves the answer to be read.
    pub(super) fn ask(&self, path: &str, body: &str) -> Result<TcpStream> {
        let mut stream = self.connect(0)?;
        let length = body.len();
        write!(stream, "POST {path} HTTP/1.1\r\nHost: etcd\r\nContent-Length: {length}\r\n\r\n{body}")?;
        Ok(stream)
    }

    pub(super) fn octets(&self) -> Result<Octets> {
        self.place.run(|| octets("/proc/thread-self/net/dev"))
    }

    /// Memory and processor time of all members: kilobytes, seconds.
    pub(super) fn cost(&self) -> Result<(u64, Duration)> {
        let mut cost = (0, Duration::ZERO);
        for member in &self.members {
            cost.0 += resident_kb(member.process)?;
            cost.1 += worked(member.process)?;
        }
        Ok(cost)
    }
}

/// Of `eth0`, from a file like /proc/net/dev (proc_net(5)).
fn octets(path: &str) -> Result<Octets> {
    let text = fs::read_to_string(path)?;
    let line = text.lines().find_map(|line| line.trim().strip_prefix("eth0:")).context("no eth0")?;
    let words: Vec<&str> = line.split_whitespace().collect();
    let number = |at: usize| words.get(at).and_then(|word| word.parse().ok()).context("cannot read /proc/net/dev");
    Ok(Octets { to_store: number(0)?, from_store: number(8)? })
}

pub(super) fn resident_kb(process: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

/// Processor time of all of a process's threads, to 10 ms (`utime` and `stime`, proc_pid_stat(5)).
pub(super) fn worked(process: u32) -> Result<Duration> {
    let text = fs::read_to_string(format!("/proc/{process}/stat"))?;
    let (_, rest) = text.rsplit_once(')').context("cannot read stat")?;
    let words: Vec<&str> = rest.split_whitespace().collect();
    let ticks = |at: usize| words.get(at).and_then(|word| word.parse::<u64>().ok()).context("cannot read stat");
    // USER_HZ is 100 on every architecture that netd runs on.
    Ok(Duration::from_millis((ticks(11)? + ticks(12)?) * 10))
}
