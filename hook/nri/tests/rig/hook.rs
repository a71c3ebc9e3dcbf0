//! The program, in a folder of its own, with a systemd that listens.

use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use super::PATIENCE;

/// A running netd-hook; ends with the value.
pub(crate) struct Hook {
    pub(crate) folder: tempfile::TempDir,
    child: Child,
    systemd: UnixDatagram,
}

impl Hook {
    pub(crate) fn start() -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), "netd")
    }

    pub(crate) fn start_in(folder: tempfile::TempDir, name: &str) -> Self {
        let notify = folder.path().join("notify");
        let systemd = UnixDatagram::bind(&notify).unwrap();
        systemd.set_read_timeout(Some(PATIENCE)).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_netd-hook"))
            .arg("--nri-socket")
            .arg(folder.path().join("nri.sock"))
            .arg("--netd-socket")
            .arg(folder.path().join("netd.sock"))
            .args(["--name", name, "--index", "42"])
            .env("NOTIFY_SOCKET", notify)
            .env("NETD_LOG", "debug")
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        Self { folder, child, systemd }
    }

    pub(crate) fn nri(&self) -> PathBuf {
        self.folder.path().join("nri.sock")
    }

    pub(crate) fn netd(&self) -> PathBuf {
        self.folder.path().join("netd.sock")
    }

    /// What it tells systemd next.
    pub(crate) fn notified(&self) -> String {
        let mut told = [0; 500];
        let length = self.systemd.recv(&mut told).expect("netd-hook tells systemd nothing");
        String::from_utf8_lossy(&told[..length]).into_owned()
    }

    pub(crate) fn lives(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    pub(crate) fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap().count()
    }

    pub(crate) fn threads(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap().count()
    }
}

impl Drop for Hook {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
