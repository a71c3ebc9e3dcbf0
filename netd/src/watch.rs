//! Hears at once what a resync would find later: links that the kernel deleted, tombstones, rules that somebody else took
//! away, and other firewalls that change. What follows from it is `lifecycle`'s, `resync`'s and `coexist`'s.

use std::io::{self, PipeReader, PipeWriter};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::thread;

use netd_kernel::{Change, Changes, Kernel, Notice, Notices, Others};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tracing::{info, warn};

use crate::attachment::State;
use crate::lifecycle::Lifecycle;
use crate::resync::{self, Exclusivity, ResyncError};

/// When so much was heard and not followed yet, the kernel is not read further: it drops notices and says so.
const UNFOLLOWED: usize = 1_024;

/// What was heard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Word {
    /// The kernel speaks of links.
    Link(Notice),
    /// Somebody left a tombstone.
    Tombstone,
    /// Rules went away.
    Rules(Change),
    /// Somebody changed a table that is not ours.
    Others,
}

/// What there is to listen to.
#[derive(Debug)]
pub struct Ears<'a> {
    /// Links.
    pub notices: Notices,
    /// The tables of netd, where others can change them.
    pub changes: Option<Changes>,
    /// The tables of others.
    pub others: Others,
    /// The directory of tombstones, which must exist.
    pub tombstones: &'a Path,
}

/// The listening thread's end; the thread ends with it.
#[derive(Debug)]
pub struct Heard {
    words: Receiver<Word>,
    _listening: PipeWriter,
}

/// Listens to the kernel, and to a directory of tombstones.
///
/// # Errors
/// The directory cannot be watched, or no thread is to be had.
pub fn listen(ears: Ears<'_>) -> io::Result<Heard> {
    let Ears { notices, changes, others, tombstones } = ears;
    let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
    // They come by rename, whole.
    inotify.add_watch(tombstones, AddWatchFlags::IN_MOVED_TO)?;
    let (ending, listening) = io::pipe()?;
    let (speak, words) = channel(UNFOLLOWED);
    thread::Builder::new().name("watch".to_owned()).spawn(move || {
        if let Err(error) = relay((&notices, changes, &others), &inotify, &ending, &speak) {
            warn!(%error, "no longer hears of links, rules and tombstones; netd looks from time to time");
        }
    })?;
    Ok(Heard { words, _listening: listening })
}

impl Heard {
    /// Follows what is heard, until the listening ends.
    pub async fn follow<K: Kernel + 'static>(mut self, lifecycle: &Lifecycle<K>) {
        while let Some(word) = self.words.recv().await {
            if let Err(error) = mind(lifecycle, &word).await {
                warn!(?word, error = &error as &dyn std::error::Error, "not followed; the next resync does it");
            }
        }
    }
}

/// A sandbox that dies takes its link along, and the link's name is never used again: what was attached by it is gone,
/// unless the sandbox lives.
async fn mind<K: Kernel + 'static>(lifecycle: &Lifecycle<K>, word: &Word) -> Result<(), ResyncError> {
    if let Word::Link(notice) = word {
        lifecycle.fleet.mind(notice);
    }
    let link = match word {
        // The fleet's own.
        Word::Link(Notice::Unrouted { .. }) => return Ok(()),
        Word::Tombstone => return resync::bury(lifecycle).await,
        Word::Link(Notice::Lost) => return resync::run(lifecycle, Exclusivity::Shared, false).await.map(drop),
        Word::Link(Notice::Gone(link)) => link,
        Word::Rules(change) => return restore(lifecycle, change).await,
        Word::Others => {
            lifecycle.coexist.stir();
            return Ok(());
        }
    };
    // One that is still being wired is its request's affair.
    if let Some(dead) = lifecycle.owner.at_link(link.clone()).await?.filter(|dead| dead.state == State::Attached) {
        if lifecycle.sandbox_of(&dead).await.is_some() {
            // Not at once: somebody may take it away again and again.
            warn!(key = %dead.key, link, "somebody deleted its link; the next resync makes it again");
            return Ok(());
        }
        info!(key = %dead.key, link, "its sandbox is gone");
        lifecycle.bury(dead).await?;
    } else if lifecycle.owner.uses_bridge(link.clone()).await? || has_rules(lifecycle, link.clone()).await? {
        resync::run(lifecycle, Exclusivity::Shared, false).await?;
    }
    Ok(())
}

/// Whether it was the bridge of a network that its owner took away (`nerdctl network rm`): what the rules say of it goes too.
async fn has_rules<K: Kernel + 'static>(lifecycle: &Lifecycle<K>, bridge: String) -> Result<bool, ResyncError> {
    let worker = Arc::clone(&lifecycle.executor);
    Ok(tokio::task::spawn_blocking(move || worker.admits(&bridge)).await??)
}

/// Rules that are gone let pass what they fenced off, until they are made again.
async fn restore<K: Kernel + 'static>(lifecycle: &Lifecycle<K>, change: &Change) -> Result<(), ResyncError> {
    match change {
        Change::By(thread, _) if Path::new("/proc/self/task").join(thread.to_string()).exists() => return Ok(()),
        Change::By(pid, program) => warn!(program, pid, "somebody took rules of netd away; they are made again"),
        Change::Lost => {}
    }
    if let Err(error) = lifecycle.policies.restore().await {
        warn!(error = &error as &dyn std::error::Error, "policies wait for the resync");
    }
    resync::run(lifecycle, Exclusivity::Shared, false).await.map(drop)
}

/// Until the other end is dropped.
fn relay(
    (notices, mut changes, others): (&Notices, Option<Changes>, &Others),
    inotify: &Inotify,
    ending: &PipeReader,
    speak: &Sender<Word>,
) -> io::Result<()> {
    loop {
        let [heard, missed] = others.ears();
        let always = [ending.as_fd(), notices.as_fd(), inotify.as_fd(), heard, missed];
        let fds = always.into_iter().chain(changes.as_ref().map(AsFd::as_fd));
        let mut polled: Vec<PollFd<'_>> = fds.map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
        match poll(&mut polled, PollTimeout::NONE) {
            Err(Errno::EINTR) => continue,
            ready => ready?,
        };
        let mut ready = polled.iter().map(|fd| fd.any().unwrap_or(false));
        let [ended, linked, left, stirred, missed, changed] = std::array::from_fn(|_| ready.next().unwrap_or(false));
        drop(ready);
        drop(polled);
        let mut words = Vec::new();
        if let Some(changes) = changes.as_mut().filter(|_| changed) {
            words.extend(there(changes.receive())?.into_iter().flatten().map(Word::Rules));
        }
        if linked {
            words.extend(there(notices.receive())?.into_iter().flatten().map(Word::Link));
        }
        if (stirred || missed) && others.receive()? {
            words.push(Word::Others);
        }
        if left && there(inotify.read_events().map_err(io::Error::from))?.is_some() {
            words.push(Word::Tombstone);
        }
        if ended || words.into_iter().any(|word| speak.blocking_send(word).is_err()) {
            return Ok(());
        }
    }
}

/// A socket may be called ready and have nothing.
fn there<T>(read: io::Result<T>) -> io::Result<Option<T>> {
    match read {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        read => read.map(Some),
    }
}

#[cfg(test)]
mod tests;
