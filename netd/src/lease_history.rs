//! Who held which address, beyond the boot: written behind the answers, read when netd starts. A wish and never a hold: the
//! worst that a lost or an old file does is another address.
//!
//! A file is a header line (`netd-leases VERSION\n`) and then records, as `frames` has them, the oldest first. It is always
//! written anew as a whole. One of another version, or a part behind damage, is left out.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use thiserror::Error;
use tracing::warn;

use crate::attachment::AttachmentKey;
use crate::frames;
use crate::owner::OwnerHandle;
use crate::whole_file::write_whole;

const HEADER: &[u8] = b"netd-leases 1\n";
/// What nobody has come back for in this time is forgotten, at the next start.
pub const LONGEST: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// How far the file may be behind.
pub const LAG: Duration = Duration::from_secs(5);
/// A larger file is damage (octets): a bridge has 1,023 ports, and 4,096 containers that hold nothing are remembered.
const LARGEST: u64 = 64 << 20;

/// Why the file could not be written.
#[derive(Debug, Error)]
#[error("cannot write {path}; leases do not outlive this boot until it can be written (state_dir in netd.toml)")]
pub struct LeaseHistoryError {
    path: PathBuf,
    source: io::Error,
}

/// The last addresses of one interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PastLease {
    /// Whose.
    pub key: AttachmentKey,
    /// Which.
    pub addresses: Vec<IpAddr>,
    /// When it last held them, in seconds since 1970.
    seen: u64,
}

/// What the owner has to keep.
#[derive(Debug, Clone, Default)]
pub struct Kept {
    /// Those that hold addresses now.
    pub held: BTreeMap<AttachmentKey, Vec<IpAddr>>,
    /// Those that held them last, the oldest first.
    pub remembered: Vec<(AttachmentKey, Vec<IpAddr>)>,
}

/// The file.
#[derive(Debug)]
pub struct LeaseHistory {
    path: PathBuf,
    /// Of those that hold nothing.
    seen: BTreeMap<AttachmentKey, u64>,
}

impl LeaseHistory {
    /// Reads the file in `folder`, which is made where it is missing. What cannot be read is left out, with a warning.
    #[must_use]
    pub fn open(folder: &Path, now: SystemTime) -> (Self, Vec<PastLease>) {
        let path = folder.join("leases");
        let content = read(&path).unwrap_or_else(|error| {
            warn!(path = %path.display(), %error, "cannot read it: containers may get other addresses than before the boot");
            Vec::new()
        });
        let last = parse(&content, seconds(now));
        let seen = last.iter().map(|one| (one.key.clone(), one.seen)).collect();
        (Self { path, seen }, last)
    }

    /// Writes what is to be kept, atomically: after a loss of power the file is the old one or the new one.
    ///
    /// # Errors
    /// See [`LeaseHistoryError`]; the old file stays.
    pub fn write(&mut self, kept: &Kept, now: SystemTime) -> Result<(), LeaseHistoryError> {
        let now = seconds(now);
        let of = |key: &AttachmentKey, addresses: &[IpAddr], seen| PastLease {
            key: key.clone(),
            addresses: addresses.to_vec(),
            seen,
        };
        let since = |key: &AttachmentKey| self.seen.get(key).copied().unwrap_or(now);
        let remembered: Vec<PastLease> =
            kept.remembered.iter().map(|(key, addresses)| of(key, addresses, since(key))).collect();
        let held = kept.held.iter().map(|(key, addresses)| of(key, addresses, now));
        let failed = |source| LeaseHistoryError { path: self.path.clone(), source };
        let mut content = HEADER.to_vec();
        for last in remembered.iter().cloned().chain(held) {
            content.extend(frames::encode(&last).map_err(failed)?);
        }
        write_whole(&self.path, &content).map_err(failed)?;
        self.seen = remembered.into_iter().map(|last| (last.key, last.seen)).collect();
        Ok(())
    }
}

/// Writes what changes, for ever, and what is left to write when it is told to end.
pub async fn keep(owner: OwnerHandle, mut file: LeaseHistory, end: impl Future<Output = ()>) {
    let mut written = None;
    let mut end = std::pin::pin!(end);
    loop {
        let is_over = tokio::select! {
            () = &mut end => true,
            () = tokio::time::sleep(LAG) => false,
        };
        let Ok((state, kept)) = owner.kept(written).await else { return };
        if let Some(kept) = kept {
            let writing = tokio::task::spawn_blocking(move || {
                let done = file.write(&kept, SystemTime::now());
                (file, done)
            });
            let Ok((back, done)) = writing.await else { return };
            file = back;
            match done {
                Ok(()) => written = Some(state),
                Err(error) => warn!(error = &error as &dyn std::error::Error, "leases not written"),
            }
        }
        if is_over {
            return;
        }
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    match fs::metadata(path) {
        Ok(found) if found.len() > LARGEST => Err(io::Error::other("it is too large to be netd's")),
        Ok(_) => fs::read(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// The records of a file's content that are not too old by `now`.
fn parse(content: &[u8], now: u64) -> Vec<PastLease> {
    let mut bytes = content.strip_prefix(HEADER).unwrap_or_default();
    let mut last: Vec<PastLease> = Vec::new();
    while let Some((payload, rest)) = frames::split(bytes) {
        last.extend(serde_json::from_slice::<PastLease>(payload).ok());
        bytes = rest;
    }
    last.retain(|one| now.saturating_sub(one.seen) < LONGEST.as_secs());
    last
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Reads any bytes as a file's content.
#[must_use]
pub fn read_leases(content: &[u8]) -> Vec<PastLease> {
    parse(content, 0)
}

#[cfg(test)]
mod tests;
