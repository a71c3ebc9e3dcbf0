//! Addresses that a host-local data directory reserves, so that a node can move over to netd while containers that the
//! official plugins attached still run. netd reserves nothing there; a reservation goes when its own container is detached.

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

use crate::attachment::AttachmentKey;
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

/// Whom an address is reserved for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Holder {
    /// The container's id; empty where the file does not say.
    pub container: String,
    /// Its interface; empty in a file of host-local before 0.8.
    interface: String,
}

impl Holder {
    /// The id in the first line, the interface in the second (containernetworking/plugins, host-local's disk store).
    fn read(file: &Path) -> io::Result<Self> {
        let text = fs::read_to_string(file)?;
        let mut lines = text.lines().map(|line| line.trim().to_owned());
        Ok(Self { container: lines.next().unwrap_or_default(), interface: lines.next().unwrap_or_default() })
    }

    /// Whether it is the attachment's own.
    #[must_use]
    pub fn is(&self, key: &AttachmentKey) -> bool {
        let is_interface = self.interface.is_empty() || self.interface == key.interface.as_str();
        self.container == key.container.as_str() && is_interface
    }
}

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
        let (at, network) = (path.to_owned(), network.to_owned());
        self.in_turn(path, move |this| this.read(directory.as_ref(), &at, &network, now)).await?
    }

    /// Whom these addresses are reserved for; those whose file is gone meanwhile are left out. `directory` and `path` as for
    /// [`Reservations::read`].
    ///
    /// # Errors
    /// A file is there and cannot be read.
    pub async fn holders(
        self: &Arc<Self>,
        directory: Option<OwnedFd>,
        path: &str,
        network: &str,
        addresses: Vec<IpAddr>,
    ) -> io::Result<BTreeMap<IpAddr, Holder>> {
        let place = (path.to_owned(), network.to_owned());
        let look = move |_: &Self| {
            let folder = folder(directory.as_ref(), &place.0, &place.1);
            let mut found = BTreeMap::new();
            for address in addresses {
                match Holder::read(&folder.join(address.to_string())) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    holder => drop(found.insert(address, holder?)),
                }
            }
            Ok(found)
        };
        self.in_turn(path, look).await?
    }

    /// Takes away what the data directory `directory` reserves for this attachment, as host-local does when it is called for
    /// a DEL, and says how many addresses that were. One `stat` where nothing is reserved.
    ///
    /// # Errors
    /// A file cannot be read or removed; those before it are gone.
    pub async fn release(
        self: &Arc<Self>,
        directory: OwnedFd,
        key: AttachmentKey,
        now: SystemTime,
    ) -> io::Result<usize> {
        let turn = key.network.to_string();
        let release = move |this: &Self| {
            let network = key.network.as_str();
            let mut gone = 0;
            for address in this.read(Some(&directory), "", network, now)? {
                let file = folder(Some(&directory), "", network).join(address.to_string());
                if Holder::read(&file).is_ok_and(|holder| holder.is(&key)) {
                    fs::remove_file(&file)?;
                    gone += 1;
                }
            }
            Ok(gone)
        };
        self.in_turn(&turn, release).await?
    }

    /// Has `work` done where it may block.
    async fn in_turn<T: Send + 'static>(
        self: &Arc<Self>,
        path: &str,
        work: impl FnOnce(&Self) -> T + Send + 'static,
    ) -> io::Result<T> {
        let turn = self.readers_of(path).acquire_owned().await.map_err(io::Error::other)?;
        let this = Arc::clone(self);
        let done = blocking(move || {
            let _turn = turn;
            work(&this)
        });
        done.await.map_err(io::Error::other)
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
        let opened = folder(directory, path, network);
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

fn folder(directory: Option<&OwnedFd>, path: &str, network: &str) -> PathBuf {
    match directory {
        Some(fd) => PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd())).join(network),
        None => Path::new(path).join(network),
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
