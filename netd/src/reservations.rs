//! Addresses that a host-local data directory reserves, so that a node can move over to netd while containers that the
//! official plugins attached still run. Only read; netd never writes there.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::SystemTime;

use crate::ipam::Reserved;

/// Remembers each directory's content until its modification time moves, so that an attach costs one `stat`.
#[derive(Debug, Default)]
pub struct Reservations {
    seen: Mutex<BTreeMap<Directory, (SystemTime, Reserved)>>,
}

/// A directory by device and inode: callers from other mount namespaces mean different ones by the same path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Directory(u64, u64);

impl Reservations {
    /// The addresses reserved for `network`: file names of `<data directory>/<network>/` that are addresses
    /// (containernetworking/plugins, host-local's disk store). A missing directory reserves nothing.
    ///
    /// `directory` is the data directory as the caller's mount namespace has it; without it, `path` is opened here.
    ///
    /// # Errors
    /// The directory is there and cannot be read: nothing may be leased then, or an address could be given twice.
    pub fn read(&self, directory: Option<&OwnedFd>, path: &str, network: &str) -> io::Result<Reserved> {
        let opened = match directory {
            Some(fd) => PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd())).join(network),
            None => Path::new(path).join(network),
        };
        let (key, modified) = match fs::metadata(&opened) {
            Ok(metadata) => (Directory(metadata.dev(), metadata.ino()), metadata.modified()?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Reserved::new()),
            Err(error) => return Err(error),
        };
        if let Ok(seen) = self.seen.lock()
            && let Some((at, reserved)) = seen.get(&key)
            && *at == modified
        {
            return Ok(reserved.clone());
        }
        let reserved = list(&opened)?;
        if let Ok(mut seen) = self.seen.lock() {
            seen.insert(key, (modified, reserved.clone()));
        }
        Ok(reserved)
    }
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
