//! Watched directories: says that something in them changed, never what. Everything is looked at anew after each change:
//! directories come, go and are replaced, and a fresh watch that stands before the reading begins misses nothing.

use std::ffi::OsString;
use std::fs;
use std::io::{self, PipeReader, PipeWriter, Read};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent, WatchDescriptor};

/// A burst of changes is over when it has been quiet for so long.
const QUIET_MS: u16 = 50;
/// But a burst without end is read in its midst.
const LONGEST_BURST: Duration = Duration::from_millis(500);
/// How often to look where the kernel gives no watch.
const LOOK_EVERY_MS: u16 = 5_000;

/// Has `read` called once, and then by a thread of the name `subject` whenever something in the directories or their
/// subdirectories changes. A directory that is not there yet is waited for. The thread ends when the returned end of the
/// pipe is closed.
///
/// # Errors
/// No thread or pipe is to be had.
pub(crate) fn watch(
    subject: &'static str,
    directories: Vec<PathBuf>,
    mut read: impl FnMut(&[PathBuf]) + Send + 'static,
) -> io::Result<PipeWriter> {
    let (ending, end) = io::pipe()?;
    let watch = arm(&directories).inspect_err(|error| unwatched(subject, *error)).ok();
    read(&directories);
    thread::Builder::new()
        .name(subject.to_owned())
        .spawn(move || follow(subject, &directories, watch, read, &ending))?;
    Ok(end)
}

fn follow(
    subject: &str,
    directories: &[PathBuf],
    mut watch: Option<Watch>,
    mut read: impl FnMut(&[PathBuf]),
    ending: &PipeReader,
) {
    while change(watch.as_ref(), ending) {
        // The new one first: what happens between the two is seen by both.
        let armed = arm(directories);
        // Told once, not at each look.
        watch = if watch.is_some() { armed.inspect_err(|error| unwatched(subject, *error)).ok() } else { armed.ok() };
        read(directories);
    }
}

/// The text of a file that is at most `longest` octets, as every `kind` of file is; or why not, and what to do.
pub(crate) fn text(path: &Path, longest: u64, kind: &str) -> Result<Vec<u8>, String> {
    let failed = |error: io::Error| format!("cannot read it: {error}; give netd the right to read it, or remove it");
    // Opening anything else may wait for ever.
    if !fs::metadata(path).map_err(failed)?.is_file() {
        return Err("not a file; remove it".to_owned());
    }
    let mut text = Vec::new();
    fs::File::open(path).and_then(|file| file.take(longest + 1).read_to_end(&mut text)).map_err(failed)?;
    if text.len() as u64 > longest {
        return Err(format!("longer than {longest} bytes; no {kind} is: remove it"));
    }
    Ok(text)
}

/// The watched directories, and what in each of them matters: a name, or everything.
struct Watch {
    inotify: Inotify,
    interests: Vec<(WatchDescriptor, Option<OsString>)>,
}

fn arm(directories: &[PathBuf]) -> nix::Result<Watch> {
    Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).and_then(|inotify| {
        let mut watch = Watch { inotify, interests: Vec::new() };
        directories.iter().try_for_each(|directory| watch.add(directory))?;
        Ok(watch)
    })
}

fn unwatched(subject: &str, error: Errno) {
    tracing::warn!(
        %error,
        subject,
        every_ms = LOOK_EVERY_MS,
        "cannot watch the directories; netd looks at them from time to time (raise fs.inotify.max_user_instances and max_user_watches)"
    );
}

impl Watch {
    /// Watches the directory, its subdirectories, and on the way to it the parent (it may be replaced) or, where that
    /// is missing, the deepest directory that is there.
    fn add(&mut self, directory: &Path) -> nix::Result<()> {
        let mut child = directory;
        let mut is_there = self.put(directory, None)?;
        for parent in directory.ancestors().skip(1) {
            let named = child.file_name().map(ToOwned::to_owned);
            let parent_is_there = self.put(parent, named)?;
            if parent_is_there && !is_there && child.is_dir() {
                // It came after it was tried and before its parent was watched.
                return self.add(directory);
            }
            if parent_is_there {
                break;
            }
            (child, is_there) = (parent, false);
        }
        subdirectories(directory).iter().try_for_each(|path| self.put(path, None).map(drop))
    }

    /// Says whether the directory is there.
    fn put(&mut self, directory: &Path, named: Option<OsString>) -> nix::Result<bool> {
        let flags = AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_MOVE
            | AddWatchFlags::IN_ATTRIB
            | AddWatchFlags::IN_DELETE_SELF
            | AddWatchFlags::IN_MOVE_SELF
            | AddWatchFlags::IN_ONLYDIR;
        match self.inotify.add_watch(directory, flags) {
            Ok(descriptor) => {
                self.interests.push((descriptor, named));
                Ok(true)
            }
            // No right to read it is for the reading to tell.
            Err(Errno::EACCES) => Ok(true),
            Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn matters(&self, event: &InotifyEvent) -> bool {
        let of_all = event.mask.intersects(AddWatchFlags::IN_Q_OVERFLOW | AddWatchFlags::IN_IGNORED);
        let of_one = |(descriptor, named): &(WatchDescriptor, Option<OsString>)| {
            *descriptor == event.wd && (named.is_none() || event.name.is_none() || *named == event.name)
        };
        of_all || self.interests.iter().any(of_one)
    }

    /// Takes what has happened; says whether any of it matters.
    fn drain(&self) -> bool {
        let mut matters = false;
        while let Ok(events) = self.inotify.read_events() {
            matters |= events.iter().any(|event| self.matters(event));
        }
        matters
    }
}

fn subdirectories(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
}

/// Waits for a change and the end of its burst. False: the watching is to end.
fn change(watch: Option<&Watch>, ending: &PipeReader) -> bool {
    let Some(watch) = watch else { return !wait(None, ending, LOOK_EVERY_MS.into()).ended };
    loop {
        if wait(Some(watch), ending, PollTimeout::NONE).ended {
            return false;
        }
        if watch.drain() {
            break;
        }
    }
    let begin = Instant::now();
    while begin.elapsed() < LONGEST_BURST {
        let woken = wait(Some(watch), ending, QUIET_MS.into());
        if woken.ended {
            return false;
        }
        if !woken.changed {
            break;
        }
        watch.drain();
    }
    true
}

struct Woken {
    changed: bool,
    ended: bool,
}

fn wait(watch: Option<&Watch>, ending: &PipeReader, timeout: PollTimeout) -> Woken {
    let mut polled = vec![PollFd::new(ending.as_fd(), PollFlags::POLLIN)];
    polled.extend(watch.map(|watch| PollFd::new(watch.inotify.as_fd(), PollFlags::POLLIN)));
    // An interrupted wait looks like a quiet one: the worst is a reading too many.
    let ready = poll(&mut polled, timeout).unwrap_or(0);
    let any = |at: usize| polled.get(at).and_then(PollFd::any).unwrap_or(false);
    Woken { ended: ready > 0 && any(0), changed: ready > 0 && any(1) }
}
