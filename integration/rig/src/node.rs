//! A node: a network namespace on the underlay, and a mount namespace in which the paths that container programs have built in
//! are its own. What runs on it is `containerd`'s, `netd`'s and `daemon`'s.

use std::fs::{self, File};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, id};
use std::thread;

use anyhow::{Context, Result};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use tempfile::TempDir;

use crate::underlay::{node_v4, node_v6};
use crate::{Place, Underlay, residue};

/// First letters of a node's folder in the temporary folder.
pub(crate) const FOLDER: &str = "netd-rig.";

/// Folders that get the node's own files laid over the machine's.
const OVERLAID: [&str; 3] = ["/etc", "/opt", "/var/lib"];
/// Folders that are the node's own and can be seen from outside of it.
const OWN: [&str; 9] = [
    "/run",
    "/etc/cni",
    "/etc/containerd",
    "/etc/netd",
    "/opt/cni",
    "/var/lib/cni",
    "/var/lib/nerdctl",
    "/var/lib/netd",
    "/var/log",
];
/// Folders that are in memory: containerd's database would wait for a disk.
const IN_MEMORY: [&str; 1] = ["/var/lib/containerd"];

/// A node. Ends its processes and takes away its folder when dropped; its namespaces have no names and end with it.
#[derive(Debug)]
pub struct Node {
    /// Where its programs run.
    pub place: Place,
    /// Its address on the underlay.
    pub v4: Ipv4Addr,
    /// Its address on the underlay.
    pub v6: Ipv6Addr,
    folder: TempDir,
}

impl Node {
    /// Makes node `number`, 1 to 99, and hangs it on `underlay`.
    ///
    /// # Errors
    /// This process is not root, or `ip` is missing.
    pub fn new(underlay: &Underlay, number: u8) -> Result<Self> {
        residue::sweep();
        let folder = tempfile::Builder::new().prefix(FOLDER).tempdir().context("cannot make the node's folder")?;
        fs::write(folder.path().join("owner"), id().to_string())?;
        for own in OWN {
            fs::create_dir_all(outside(folder.path(), own))?;
        }
        let mounts = mount_namespace(folder.path()).context("cannot make the node's mount namespace")?;
        let place = Place::fresh()?.with_mounts(mounts, folder.path().as_os_str().to_owned());
        underlay.attach(number, &place).with_context(|| format!("cannot hang node {number} on the underlay"))?;
        Ok(Self { place, v4: node_v4(number), v6: node_v6(number), folder })
    }

    /// The folder that has all of its files, outside of it.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Where a file of the node's own folders is, seen from outside of it.
    #[must_use]
    pub fn outside(&self, path: &str) -> PathBuf {
        outside(self.folder.path(), path)
    }

    /// Writes a file on the node.
    ///
    /// # Errors
    /// The path is in none of the node's own folders.
    pub fn write(&self, path: &str, text: &str) -> Result<()> {
        let file = self.outside(path);
        if let Some(folder) = file.parent() {
            fs::create_dir_all(folder)?;
        }
        // Renamed into place, as a reader may watch the folder.
        let unfinished = file.with_extension("unfinished");
        fs::write(&unfinished, text).with_context(|| format!("cannot write {path} of the node"))?;
        fs::rename(&unfinished, &file).with_context(|| format!("cannot write {path} of the node"))
    }

    /// Makes `/opt/cni/bin` be `plugins`.
    ///
    /// # Errors
    /// There is one already.
    pub fn use_plugins(&self, plugins: &Path) -> Result<()> {
        symlink(plugins, self.outside("/opt/cni/bin")).context("cannot make /opt/cni/bin of the node")
    }

    /// Runs a program on the node to its end.
    ///
    /// # Errors
    /// It cannot be started, or it failed; the text has what it printed.
    pub fn output(&self, command: &mut Command) -> Result<String> {
        self.place.output(command, "")
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        residue::clear(self.folder.path());
    }
}

fn outside(folder: &Path, path: &str) -> PathBuf {
    folder.join(path.trim_start_matches('/'))
}

fn mount_namespace(folder: &Path) -> Result<File> {
    let folder = folder.to_owned();
    let made = thread::spawn(move || -> Result<File> {
        unshare(CloneFlags::CLONE_NEWNS).context("rigs need root")?;
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)?;
        // An overlay cannot lie on an overlay, which the machine's root may be.
        let memory = folder.join("memory");
        fs::create_dir(&memory)?;
        in_memory(&memory)?;
        for path in OVERLAID {
            overlay(path, &outside(&memory, path))?;
        }
        for path in OWN {
            fs::create_dir_all(path)?;
            mount(Some(&outside(&folder, path)), path, None::<&str>, MsFlags::MS_BIND, None::<&str>)
                .with_context(|| format!("cannot bind {path}"))?;
        }
        for path in IN_MEMORY {
            fs::create_dir_all(path)?;
            in_memory(Path::new(path))?;
        }
        Ok(File::open("/proc/thread-self/ns/mnt")?)
    });
    made.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn in_memory(path: &Path) -> Result<()> {
    mount(Some("netd-rig"), path, Some("tmpfs"), MsFlags::empty(), None::<&str>)
        .with_context(|| format!("cannot mount a tmpfs on {}", path.display()))
}

fn overlay(path: &str, folder: &Path) -> Result<()> {
    let (upper, work) = (folder.join("upper"), folder.join("work"));
    fs::create_dir_all(&upper)?;
    fs::create_dir_all(&work)?;
    let options = format!("lowerdir={path},upperdir={},workdir={}", upper.display(), work.display());
    mount(Some("netd-rig"), path, Some("overlay"), MsFlags::empty(), Some(options.as_str()))
        .with_context(|| format!("cannot lay an overlay on {path}"))
}
