//! The record that survives a crash of netd: append-only, checked, guarded by the boot id. No decision is made here.
//!
//! A file is a header line (`netd-journal VERSION BOOT-ID\n`) and then records, as `frames` has them. It lies in `/run`, so
//! it ends with the sandboxes it speaks of.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use netd_config::NetworkName;
use netd_kernel::Family;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::attachment::{Attachment, AttachmentKey};
use crate::frames;

/// Version that this netd writes, and the only one that it reads.
pub const VERSION: u16 = 1;
/// The journal is worth a rewrite when it has grown by so many records and by as many as it had after the last.
const COMPACT_RECORDS: usize = 4_096;

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Record {
    /// The attachment is now this.
    Put(Box<Attachment>),
    /// The attachment is going: its link is to be deleted, then its addresses are free.
    Drain(Box<Attachment>),
    /// The drained link is gone.
    Reaped(AttachmentKey, String),
    /// Host link names up to this number were given out.
    Counter(u64),
    /// netd switches this family's forwarding on: the ruleset guards it.
    Guard(Family),
    /// The address was held under a MAC that is not its own: its next holder announces itself.
    Estranged(IpAddr),
    /// The key held the address last, and gets it again if it is free.
    Remembered(AttachmentKey, IpAddr),
    /// The network gives addresses of this block of the fleet's, and no other network does.
    Assigned(IpNet, NetworkName),
    /// The block is no network's.
    Unassigned(IpNet),
}

/// Why the journal could not be read or written.
#[derive(Debug, Error)]
pub enum JournalError {
    /// The file system said no.
    #[error("cannot use the journal {path}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Written by a netd of another time.
    #[error(
        "the journal {path} has version {found}; this netd reads {VERSION}: start the netd that wrote it, or stop all containers and remove the file"
    )]
    Version {
        /// The file.
        path: PathBuf,
        /// What it says.
        found: String,
    },
    /// A whole record that this netd does not understand: what follows it cannot be left out.
    #[error(
        "the journal {path} has a record that this netd does not understand (number {number}): start the netd that wrote it, or stop all containers and remove the file"
    )]
    Foreign {
        /// The file.
        path: PathBuf,
        /// Its place, from 1.
        number: usize,
    },
    /// A record is not as it was written, and no crash of netd leaves it like this.
    #[error(
        "the journal {path} is damaged at byte {octet} (record {number}), and what follows cannot be left out: stop all containers and remove the file"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where the record begins.
        octet: usize,
        /// Its place, from 1.
        number: usize,
    },
}

/// The open journal.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
    header: String,
    records: usize,
    bytes: u64,
    /// Records after the last rewrite, or attempt at one.
    compacted: usize,
    /// Part of a record may stand behind `bytes`.
    is_torn: bool,
}

impl Journal {
    /// Opens the journal, and returns what it holds for this boot: nothing if it is from another.
    ///
    /// A torn last record (a crash while writing) is cut off; nobody was answered on its ground. Other damage is left as it is.
    ///
    /// # Errors
    /// See [`JournalError`].
    pub fn open(path: &Path, boot_id: &str) -> Result<(Self, Vec<Record>), JournalError> {
        let failed = |source| JournalError::Io { path: path.to_owned(), source };
        let header = format!("netd-journal {VERSION} {}\n", boot_id.trim());
        let content = match fs::read(path) {
            Ok(content) => content,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(failed(error)),
        };
        let mut journal = Self {
            path: path.to_owned(),
            file: File::open("/dev/null").map_err(failed)?,
            header,
            records: 0,
            bytes: 0,
            compacted: 0,
            is_torn: false,
        };
        match classify(path, &content, &journal.header)? {
            Content::OtherBoot => journal.rewrite(&[]).map(|()| (journal, Vec::new())),
            Content::Ours => {
                let (records, whole) = read_all(path, &content, journal.header.len())?;
                journal.file = OpenOptions::new().append(true).open(path).map_err(failed)?;
                (journal.records, journal.bytes, journal.is_torn) = (records.len(), whole as u64, true);
                journal.cut_back()?;
                Ok((journal, records))
            }
        }
    }

    /// Appends a record; it is in the kernel's hands when this returns.
    ///
    /// # Errors
    /// [`JournalError::Io`]; the request must then be refused. Nothing of the record stays.
    pub fn append(&mut self, record: &Record) -> Result<(), JournalError> {
        let frame = frames::encode(record).map_err(|source| self.failed(source))?;
        self.cut_back()?;
        if let Err(source) = self.file.write_all(&frame) {
            self.is_torn = true;
            // What cannot be cut off now is before the next record.
            let _torn = self.cut_back();
            return Err(self.failed(source));
        }
        self.records += 1;
        self.bytes += frame.len() as u64;
        Ok(())
    }

    /// Takes away what a write that failed has left.
    fn cut_back(&mut self) -> Result<(), JournalError> {
        if self.is_torn {
            self.file.set_len(self.bytes).map_err(|source| self.failed(source))?;
            self.is_torn = false;
        }
        Ok(())
    }

    /// Whether [`Journal::rewrite`] is worth it.
    #[must_use]
    pub fn is_bloated(&self) -> bool {
        self.records > COMPACT_RECORDS + 2 * self.compacted
    }

    /// Size in octets.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Replaces the file by one that holds just `records`, atomically.
    ///
    /// # Errors
    /// [`JournalError::Io`]; the old file stays, and is appended to.
    pub fn rewrite(&mut self, records: &[Record]) -> Result<(), JournalError> {
        self.compacted = self.records;
        let next = self.path.with_extension("next");
        let mut content = self.header.clone().into_bytes();
        for record in records {
            content.extend(frames::encode(record).map_err(|source| self.failed(source))?);
        }
        let replaced = replace(&self.path, &next, &content);
        self.file = replaced.map_err(|source| {
            // It may be what fills the file system.
            let _gone = fs::remove_file(&next);
            self.failed(source)
        })?;
        (self.records, self.compacted) = (records.len(), records.len());
        (self.bytes, self.is_torn) = (content.len() as u64, false);
        Ok(())
    }

    fn failed(&self, source: io::Error) -> JournalError {
        JournalError::Io { path: self.path.clone(), source }
    }
}

/// The new file, open to be appended to: nothing can fail once it stands at its name.
fn replace(path: &Path, next: &Path, content: &[u8]) -> io::Result<File> {
    if let Err(error) = fs::remove_file(next)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(error);
    }
    let mut file = OpenOptions::new().append(true).create_new(true).open(next)?;
    file.write_all(content)?;
    fs::rename(next, path)?;
    Ok(file)
}

enum Content {
    Ours,
    OtherBoot,
}

fn classify(path: &Path, content: &[u8], header: &str) -> Result<Content, JournalError> {
    if content.starts_with(header.as_bytes()) {
        return Ok(Content::Ours);
    }
    let line = content.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let line = String::from_utf8_lossy(line);
    let mut words = line.split(' ').skip(1);
    let (version, boot) = (words.next(), words.next());
    // The sandboxes that it speaks of ended with their boot, whoever wrote it.
    let is_of_this_boot = boot.is_none_or(|boot| header.trim_end().ends_with(&format!(" {boot}")));
    match version {
        Some(version) if version != VERSION.to_string() && is_of_this_boot => {
            Err(JournalError::Version { path: path.to_owned(), found: version.to_owned() })
        }
        Some(_) | None => Ok(Content::OtherBoot),
    }
}

/// Reads records up to the first damage, or the first that is not understood.
#[must_use]
pub fn read_records(bytes: &[u8]) -> Vec<Record> {
    read(bytes).0
}

/// All records behind the header, and where the last of them ends.
fn read_all(path: &Path, content: &[u8], header: usize) -> Result<(Vec<Record>, usize), JournalError> {
    let (records, rest) = read(&content[header..]);
    let (path, number, octet) = (path.to_owned(), records.len() + 1, content.len() - rest.len());
    if frames::split(rest).is_some() {
        return Err(JournalError::Foreign { path, number });
    }
    if !frames::is_torn(rest) {
        return Err(JournalError::Damaged { path, octet, number });
    }
    Ok((records, octet))
}

/// The records, and what follows the last that is whole and understood.
fn read(mut bytes: &[u8]) -> (Vec<Record>, &[u8]) {
    let mut records = Vec::new();
    while let Some((payload, rest)) = frames::split(bytes) {
        let Ok(record) = serde_json::from_slice(payload) else { break };
        records.push(record);
        bytes = rest;
    }
    (records, bytes)
}

#[cfg(test)]
mod tests;
