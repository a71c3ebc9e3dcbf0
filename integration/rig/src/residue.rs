//! What a rig may leave behind, and taking it away: processes, control groups, folders. Namespaces and mounts end by themselves
//! with the last process in them.

use std::collections::BTreeSet;
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
    // A process whose parent ended first, and which has not yet heard that it was to end, is nobody's descendant any more.
    let mut ending = BTreeSet::new();
    for _ in 0..ROUNDS {
        ending.extend(living(folder));
        ending.retain(|process: &Process| Process::read(process.pid).is_some_and(|now| now.id() == process.id()));
        if ending.is_empty() {
            break;
        }
        for process in &ending {
            // One that has ended meanwhile is what we want.
            kill(Pid::from_raw(process.pid), Signal::SIGKILL).ok();
        }
        sleep(PAUSE);
    }
    let groups = groups(folder);
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
    living(folder).into_iter().map(|process| process.pid).collect()
}

/// A process that is no zombie: a zombie waits for its parent alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Process {
    pid: i32,
    parent: i32,
    /// Clock ticks since the boot: numbers of processes are given again.
    started: u64,
}

impl Process {
    fn read(pid: i32) -> Option<Self> {
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let words: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
        let state = *words.first()?;
        // The 22nd field of proc_pid_stat(5); the name, which is behind us, is the second.
        let (parent, started) = (words.get(1)?.parse().ok()?, words.get(19)?.parse().ok()?);
        (state != "Z" && state != "X").then_some(Self { pid, parent, started })
    }

    fn id(&self) -> (i32, u64) {
        (self.pid, self.started)
    }
}

fn living(folder: &Path) -> BTreeSet<Process> {
    let mark = format!("{MARK}={}", folder.display()).into_bytes();
    let (mut all, mut found) = (Vec::new(), BTreeSet::new());
    for entry in entries(Path::new("/proc")) {
        let pid = entry.file_name().and_then(|name| name.to_string_lossy().parse().ok());
        let Some(process) = pid.and_then(Process::read) else { continue };
        all.push(process);
        let environment = fs::read(entry.join("environ")).unwrap_or_default();
        if environment.split(|byte| *byte == 0).any(|variable| variable == mark) {
            found.insert(process);
        }
    }
    loop {
        let parents: BTreeSet<i32> = found.iter().map(|process| process.pid).collect();
        let before = found.len();
        found.extend(all.iter().filter(|process| parents.contains(&process.parent)));
        if found.len() == before {
            return found;
        }
    }
}

/// The control groups of the rig in `folder`, in every hierarchy of both versions, the inner ones first: those named after the
/// bundles of its containers, as containerd names them, and those in the group that is the rig's own.
fn groups(folder: &Path) -> Vec<PathBuf> {
    let tasks = folder.join("run/containerd/io.containerd.runtime.v2.task");
    let bundles = entries(&tasks).into_iter().flat_map(|namespace| entries(&namespace));
    let names: Vec<PathBuf> =
        bundles.filter_map(|bundle| bundle.strip_prefix(&tasks).map(Path::to_owned).ok()).collect();
    let root = Path::new("/sys/fs/cgroup");
    let hierarchies = entries(root).into_iter().chain([root.to_owned()]);
    let groups = hierarchies.flat_map(|root| {
        let own = root.join(own_group(folder));
        let within = entries(&own).into_iter().filter(|entry| entry.is_dir());
        let named = names.iter().map(|name| root.join(name));
        named.chain(within.collect::<Vec<_>>()).chain([own]).collect::<Vec<_>>()
    });
    groups.filter(|group| group.exists()).collect()
}

/// The control group for what a client names itself: two rigs may run a container of one name.
pub(crate) fn own_group(folder: &Path) -> PathBuf {
    folder.file_name().unwrap_or_default().into()
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}
