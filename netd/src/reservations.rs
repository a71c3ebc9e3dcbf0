//! Addresses that a host-local data directory reserves, so that a node can move over to netd while containers that the
//! official plugins attached still run. Only read; netd never writes there.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, SystemTime};

use tokio::sync::Semaphore;

use crate::blocking::blocking;
use crate::ipam::Reserved;

/// A directory that was changed so shortly before a look may change again at the same time by its file system's clock, whose ticks
/// are some milliseconds (and two seconds on the coarsest): what was seen is not remembered.
const SETTLED: Duration = Duration::from_secs(3);
/// Readers of one path at a time: a file system that does not answer keeps no more threads than this.
const READERS: usize = 2;
/// What nobody has asked for so long is forgotten.
const UNUSED: Duration = Duration::from_secs(600);

/// Remembers each directory's content until its modification time moves, so that an attach costs one `stat`.
#[derive(Debug, Default)]
pub struct Reservations {
    seen: Mutex<BTreeMap<Directory, Seen>>,
    /// Who may read at each path.
    readers: Mutex<BTreeMap<String, Weak<Semaphore>>>,
}

#[derive(Debug)]
struct Seen {
    modified: SystemTime,
    reserved: Reserved,
    used: SystemTime,
}

/// A directory by device and inode: callers from other mount namespaces mean different ones by the same path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Directory(u64, u64);

impl Reservations {
    /// As [`Reservations::read`], where it may block.
    ///
    /// # Errors
    /// As there.
    pub async fn find(
        self: &Arc<Self>,
        directory: Option<OwnedFd>,
        path: &str,
        network: &str,
        now: SystemTime,
    ) -> io::Result<Reserved> {
        let turn = self.readers_of(path).acquire_owned().await.map_err(io::Error::other)?;
        let (this, path, network) = (Arc::clone(self), path.to_owned(), network.to_owned());
        let found = blocking(move || {
            let _turn = turn;
            this.read(directory.as_ref(), &path, &network, now)
        });
        found.await.map_err(io::Error::other)?
    }

    fn readers_of(&self, path: &str) -> Arc<Semaphore> {
        let mut all = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(readers) = all.get(path).and_then(Weak::upgrade) {
            return readers;
        }
        all.retain(|_, readers| readers.strong_count() > 0);
        let readers = Arc::new(Semaphore::new(READERS));
        all.insert(path.to_owned(), Arc::downgrade(&readers));
        readers
    }

    /// The addresses reserved for `network`: file names of `<data directory>/<network>/` that are addresses
    /// (containernetworking/plugins, host-local's disk store). A missing directory reserves nothing.
    ///
    /// `now`: the time by the clock that file systems go by.
    ///
    /// `directory` is the data directory as the caller's mount namespace has it; without it, `path` is opened here.
    ///
    /// # Errors
    /// The directory is there and cannot be read: nothing may be leased then, or an address could be given twice.
    pub fn read(
        &self,
        directory: Option<&OwnedFd>,
        path: &str,
        network: &str,
        now: SystemTime,
    ) -> io::Result<Reserved> {
        let opened = match directory {
            Some(fd) => PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd())).join(network),
            None => Path::new(path).join(network),
        };
        let (key, modified) = match fs::metadata(&opened) {
            Ok(metadata) => (Directory(metadata.dev(), metadata.ino()), metadata.modified()?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Reserved::new()),
            Err(error) => return Err(error),
        };
        if let Some(seen) = self.lock().get_mut(&key).filter(|seen| seen.modified == modified) {
            seen.used = now;
            return Ok(seen.reserved.clone());
        }
        let reserved = list(&opened)?;
        let mut all = self.lock();
        all.retain(|_, seen| since(seen.used, now) < UNUSED);
        if since(modified, now) > SETTLED {
            all.insert(key, Seen { modified, reserved: reserved.clone(), used: now });
        } else {
            all.remove(&key);
        }
        Ok(reserved)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Directory, Seen>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Zero of what is still to come.
fn since(then: SystemTime, now: SystemTime) -> Duration {
    now.duration_since(then).unwrap_or_default()
}

fn list(directory: &Path) -> io::Result<Reserved> {
    let mut reserved = Reserved::new();
    for entry in fs::read_dir(directory)? {
        let name = entry?.file_name();
        if let Some(address) = name.to_str().and_then(|name| name.parse::<IpAddr>().ok()) {
            reserved.insert(address);
        }
    }
    Ok(reserved)
}

#[cfg(test)]
mod tests;
