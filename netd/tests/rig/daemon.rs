//! The daemon's own program, in a namespace of its own.

use std::fs::File;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output};
use std::time::{Duration, Instant};

use netd_api::{Client, blocking};
use nix::sched::{CloneFlags, unshare};

use super::Space;

/// Less than from one of netd's rounds to the next, 30 s.
const SOON: Duration = Duration::from_secs(20);

pub(crate) struct Daemon {
    pub(crate) child: Child,
    pub(crate) socket: PathBuf,
    log: PathBuf,
}

impl Daemon {
    /// All that it has said, and those before it in the same folder.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub(crate) fn until_it_listens(mut self) -> Self {
        let start = Instant::now();
        while !answers(&self.socket) {
            assert!(self.child.try_wait().unwrap().is_none(), "netd ended at once");
            assert!(start.elapsed() < Duration::from_secs(60), "netd does not answer");
            std::thread::sleep(Duration::from_millis(20));
        }
        self
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
        if std::thread::panicking() {
            drop(std::io::stderr().write_all(self.log().as_bytes()));
        }
    }
}

/// Its socket is there before it serves.
pub(crate) fn answers(socket: &Path) -> bool {
    let status = || Client::connect(socket, &[]).ok()?.status(&blocking::StatusRequest::new()).ok();
    status().is_some()
}

fn log(folder: &Path) -> PathBuf {
    folder.join("netd.log")
}

pub(crate) fn spawn(folder: &Path, settings: &str) -> Child {
    let netd = program(folder, settings);
    // The child is made on a thread in a namespace of its own, and inherits it.
    std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap_or_else(|error| panic!("this test needs root (unshare: {error})"));
        netd()
    })
    .join()
    .unwrap()
}

/// Writes the settings; what starts it where it is called.
fn program(folder: &Path, settings: &str) -> impl FnOnce() -> Child + Send + 'static + use<> {
    let config = folder.join("netd.toml");
    let (run_dir, log) = (folder.join("run"), log(folder));
    std::fs::write(
        &config,
        format!(
            "run_dir = {run_dir:?}\nstate_dir = {run_dir:?}\nsocket = \"{}/netd.sock\"\nconf_dirs = []\ncontainerd_socket = ''\n{settings}",
            run_dir.display()
        ),
    )
    .unwrap();
    move || {
        let mut netd = Command::new(env!("CARGO_BIN_EXE_netd"));
        let log = File::options().create(true).append(true).open(log).unwrap();
        netd.arg("--config").arg(config).process_group(0).stderr(log).spawn().unwrap()
    }
}

pub(crate) fn start(folder: &Path) -> Daemon {
    start_with(folder, "")
}

pub(crate) fn start_with(folder: &Path, settings: &str) -> Daemon {
    of(folder, spawn(folder, settings)).until_it_listens()
}

/// In a namespace that is there, and outlives it. It does not listen yet.
pub(crate) fn begin_in(space: &Space, folder: &Path, settings: &str) -> Daemon {
    of(folder, space.run(program(folder, settings)))
}

fn of(folder: &Path, child: Child) -> Daemon {
    Daemon { child, socket: socket(folder), log: log(folder) }
}

pub(crate) fn socket(folder: &Path) -> PathBuf {
    folder.join("run/netd.sock")
}

pub(crate) fn status(daemon: &Daemon) -> blocking::StatusResponse {
    Client::connect(&daemon.socket, &[]).unwrap().status(&blocking::StatusRequest::new()).unwrap()
}

/// Waits for what comes about by itself.
#[track_caller]
pub(crate) fn soon(what: &str, is_so: impl Fn() -> bool) {
    let begin = Instant::now();
    while !is_so() {
        assert!(begin.elapsed() < SOON, "{what}: not within {SOON:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

pub(crate) fn inside(daemon: &Daemon, program: &str) -> Output {
    let namespace = format!("--net=/proc/{}/ns/net", daemon.child.id());
    Command::new("nsenter").arg(namespace).args(program.split(' ')).output().unwrap()
}
