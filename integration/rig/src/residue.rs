//! What a rig may leave behind, and taking it away: processes, control groups, folders. Namespaces and mounts end by themselves
//! with the last process in them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::node::FOLDER;
use crate::place::MARK;
use crate::say;

const ROUNDS: usize = 100;
const PAUSE: Duration = Duration::from_millis(20);

/// Takes away what rigs of processes that have ended left behind.
pub fn sweep() {
    for folder in entries(&std::env::temp_dir()) {
        let is_ours = folder.file_name().is_some_and(|name| name.to_string_lossy().starts_with(FOLDER));
        let owner = fs::read_to_string(folder.join("owner")).unwrap_or_default();
        if is_ours && !owner.is_empty() && !Path::new("/proc").join(&owner).exists() {
            say(&format!("sweeping {}, which process {owner} left", folder.display()));
            clear(&folder);
        }
    }
}

/// Ends every process of the rig in `folder` and takes away its control groups and the folder.
pub(crate) fn clear(folder: &Path) {
    for _ in 0..ROUNDS {
        let left = processes(folder);
        if left.is_empty() {
            break;
        }
        for pid in left {
            // One that has ended meanwhile is what we want.
            kill(Pid::from_raw(pid), Signal::SIGKILL).ok();
        }
        sleep(PAUSE);
    }
    let groups = groups(&folder.join("run/containerd/io.containerd.runtime.v2.task"));
    for _ in 0..ROUNDS {
        // A group is busy for a moment after its last process has ended.
        let busy = groups.iter().filter(|group| fs::remove_dir(group).is_err() && group.exists());
        if busy.count() == 0 {
            break;
        }
        sleep(PAUSE);
    }
    if let Err(error) = fs::remove_dir_all(folder) {
        say(&format!("{} remains: {error}", folder.display()));
    }
}

/// The processes of the rig in `folder` that still live: those that bear its mark, and their descendants.
#[must_use]
pub fn processes(folder: &Path) -> BTreeSet<i32> {
    let mark = format!("{MARK}={}", folder.display()).into_bytes();
    let mut parents = BTreeMap::new();
    let mut found = BTreeSet::new();
    for process in entries(Path::new("/proc")) {
        let Some(pid) = process.file_name().and_then(|name| name.to_string_lossy().parse::<i32>().ok()) else {
            continue;
        };
        let Some(parent) = living_with_parent(&process) else { continue };
        parents.insert(pid, parent);
        let environment = fs::read(process.join("environ")).unwrap_or_default();
        if environment.split(|byte| *byte == 0).any(|variable| variable == mark) {
            found.insert(pid);
        }
    }
    loop {
        let children: Vec<i32> = parents
            .iter()
            .filter(|(pid, parent)| found.contains(*parent) && !found.contains(*pid))
            .map(|(pid, _)| *pid)
            .collect();
        if children.is_empty() {
            return found;
        }
        found.extend(children);
    }
}

/// The parent of a process that is no zombie: a zombie waits for its parent alone.
fn living_with_parent(process: &Path) -> Option<i32> {
    let text = fs::read_to_string(process.join("stat")).ok()?;
    let mut words = text.rsplit_once(')')?.1.split_whitespace();
    let state = words.next()?;
    let parent = words.next()?.parse().ok()?;
    (state != "Z" && state != "X").then_some(parent)
}

/// The control groups, in every hierarchy of both versions, of the containers whose bundles are in `tasks`: containerd's
/// namespace and the id name both.
fn groups(tasks: &Path) -> Vec<PathBuf> {
    let root = Path::new("/sys/fs/cgroup");
    let hierarchies: Vec<PathBuf> = entries(root).into_iter().chain([root.to_owned()]).collect();
    let bundles = entries(tasks).into_iter().flat_map(|namespace| entries(&namespace));
    let names = bundles.filter_map(|bundle| bundle.strip_prefix(tasks).map(Path::to_owned).ok());
    names
        .flat_map(|name| hierarchies.iter().map(|root| root.join(&name)).collect::<Vec<_>>())
        .filter(|p| p.exists())
        .collect()
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}
