//! A real containerd on a node, with NRI and CRI, at the paths it has by default. Its clients are in `client`.

use std::ffi::OsString;
use std::fs::create_dir_all;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::json;

use crate::{Cri, Daemon, Node, PAUSE, Program, Release, parts};

const SOCKET: &str = "/run/containerd/containerd.sock";
const CONFIG: &str = "/etc/containerd/config.toml";
const PATIENCE: Duration = Duration::from_secs(90);

/// A running containerd.
#[derive(Debug)]
pub struct Containerd {
    /// The process.
    pub daemon: Daemon,
    folder: PathBuf,
}

impl Containerd {
    /// Starts `release` and imports the images. CRI's networks are what the node has in `/etc/cni/net.d` and `/opt/cni/bin`.
    ///
    /// # Errors
    /// A part cannot be built, or containerd does not answer.
    pub fn start(node: &Node, release: Release) -> Result<Self> {
        let folder = parts::containerd(release)?;
        let images = parts::images()?;
        node.write(CONFIG, &config(release))?;
        create_dir_all(node.outside("/etc/cni/net.d"))?;
        let path = search_path(&[folder.clone(), parts::runc()?])?;
        let program = Program::new("containerd", &folder.join("containerd"), &["--config", CONFIG])
            .env("PATH", &path.to_string_lossy());
        let mut containerd = Self { daemon: Daemon::start(node, program)?, folder };
        containerd.wait(node)?;
        for namespace in ["default", "k8s.io"] {
            let mut import = containerd.ctr(namespace);
            node.output(import.args(["images", "import"]).arg(&images)).context("cannot import the images")?;
        }
        Ok(containerd)
    }

    /// Waits until CRI answers.
    ///
    /// # Errors
    /// It does not.
    pub fn wait(&mut self, node: &Node) -> Result<()> {
        let (cri, socket) = (Cri::new(node)?, node.outside(SOCKET));
        self.daemon.wait(PATIENCE, || Ok(UnixStream::connect(&socket).ok()))?;
        self.daemon.wait(PATIENCE, || Ok(cri.call("Version", &json!({})).ok()))?;
        Ok(())
    }

    /// Ends it, as a crash would where `crash`, and starts it again. Containers keep running.
    ///
    /// # Errors
    /// It does not end or does not answer again.
    pub fn restart(&mut self, node: &Node, crash: bool) -> Result<()> {
        if crash {
            self.daemon.kill9()?;
        } else {
            self.daemon.terminate()?;
        }
        self.daemon.start_again()?;
        self.wait(node)
    }

    /// The command `ctr` of the same release, in a containerd namespace.
    #[must_use]
    pub fn ctr(&self, namespace: &str) -> Command {
        let mut command = Command::new(self.folder.join("ctr"));
        command.args(["--address", SOCKET, "--namespace", namespace]);
        command
    }
}

/// `PATH` with these folders first.
fn search_path(folders: &[PathBuf]) -> Result<OsString> {
    let rest = std::env::var_os("PATH").unwrap_or_default();
    std::env::join_paths(folders.iter().cloned().chain(std::env::split_paths(&rest))).context("PATH cannot be joined")
}

fn config(release: Release) -> String {
    // A machine without CAP_SYS_RESOURCE may not lower the score; AppArmor's profile needs a loader that may be missing.
    let runtime = "restrict_oom_score_adj = true\ndisable_apparmor = true\n";
    let nri = "[plugins.'io.containerd.nri.v1.nri']\ndisable = false\nsocket_path = '/run/nri/nri.sock'\n";
    match release {
        Release::V1_7 => format!(
            "version = 2\n\
             [plugins.'io.containerd.grpc.v1.cri']\nsandbox_image = '{PAUSE}'\n{runtime}\
             [plugins.'io.containerd.grpc.v1.cri'.cni]\nbin_dir = '/opt/cni/bin'\nconf_dir = '/etc/cni/net.d'\n{nri}"
        ),
        Release::V2_2 | Release::V2_4 => format!(
            "version = 3\n\
             [plugins.'io.containerd.cri.v1.images'.pinned_images]\nsandbox = '{PAUSE}'\n\
             [plugins.'io.containerd.cri.v1.runtime']\n{runtime}\
             [plugins.'io.containerd.cri.v1.runtime'.cni]\nbin_dirs = ['/opt/cni/bin']\nconf_dir = '/etc/cni/net.d'\n{nri}"
        ),
    }
}
