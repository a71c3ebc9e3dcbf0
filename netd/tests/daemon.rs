//! The binary: starts, answers, is alone in its folder, starts again after `kill -9`. Needs root.
#![expect(clippy::unwrap_used, reason = "helpers of tests stand outside of them")]

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use netd_api::{Client, blocking};
use nix::sched::{CloneFlags, unshare};

struct Daemon {
    child: Child,
    socket: PathBuf,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn spawn(folder: &Path) -> Child {
    let config = folder.join("netd.toml");
    let run_dir = folder.join("run");
    std::fs::write(
        &config,
        format!(
            "run_dir = {run_dir:?}\nsocket = \"{}/netd.sock\"\nconf_dirs = []\ncontainerd_socket = ''\n",
            run_dir.display()
        ),
    )
    .unwrap();
    // The child is made on a thread in a namespace of its own, and inherits it.
    std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap_or_else(|error| panic!("this test needs root (unshare: {error})"));
        Command::new(env!("CARGO_BIN_EXE_netd")).arg("--config").arg(config).process_group(0).spawn().unwrap()
    })
    .join()
    .unwrap()
}

fn start(folder: &Path) -> Daemon {
    let mut daemon = Daemon { child: spawn(folder), socket: folder.join("run/netd.sock") };
    let start = Instant::now();
    while Client::connect(&daemon.socket, &[]).is_err() {
        assert!(daemon.child.try_wait().unwrap().is_none(), "netd ended at once");
        assert!(start.elapsed() < Duration::from_secs(10), "netd does not listen");
        std::thread::sleep(Duration::from_millis(20));
    }
    daemon
}

#[test]
fn it_answers_alone_and_comes_back_after_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let mut daemon = start(folder.path());
    let status = Client::connect(&daemon.socket, &[]).unwrap().status(&blocking::StatusRequest::new()).unwrap();
    assert_eq!((status.instance.as_str(), status.attachments), ("netd", 0));
    let second = spawn(folder.path()).wait().unwrap();
    assert!(!second.success(), "two daemons in one folder");
    daemon.child.kill().unwrap();
    daemon.child.wait().unwrap();
    drop(daemon);
    let again = start(folder.path());
    assert!(Client::connect(&again.socket, &[]).unwrap().status(&blocking::StatusRequest::new()).is_ok());
}
