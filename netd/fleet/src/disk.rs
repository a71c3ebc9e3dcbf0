//! A node's memory as a file: whole or not at all, and on the disk before the write returns.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::identity::{InstanceId, NodeName};
use crate::memory::Memory;

const VERSION: u32 = 1;

/// Why a memory cannot be used.
#[derive(Debug, Error)]
pub enum DiskError {
    /// The file system said no.
    #[error("cannot use the fleet's memory {path}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is damaged, or of a later netd. To go on without it would give this node's blocks away.
    #[error(
        "cannot read the fleet's memory {path}: start the netd that wrote it; or, if it is damaged, stop all containers, remove it, and remove the node that it was from the fleet (`netdctl node rm` on another node)"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// Another version.
    #[error("the fleet's memory {path} has version {found}, this netd reads {VERSION}: start the netd that wrote it")]
    Version {
        /// The file.
        path: PathBuf,
        /// What it says.
        found: u32,
    },
}

/// Where the memory lies.
#[derive(Debug, Clone)]
pub struct Disk {
    path: PathBuf,
}

#[derive(Serialize, Deserialize)]
struct Content {
    version: u32,
    memory: Memory,
}

#[derive(Deserialize)]
struct Head {
    version: u32,
}

impl Disk {
    /// Opens the memory, or begins a new one with an identity of its own.
    ///
    /// # Errors
    /// See [`DiskError`].
    pub fn open(path: &Path, name: &NodeName) -> Result<(Self, Memory), DiskError> {
        let disk = Self { path: path.to_owned() };
        match fs::read(path) {
            Ok(text) => Ok((disk.clone(), disk.read(&text, name)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let instance = InstanceId::new(random().map_err(|source| disk.failed(source))?);
                let memory = Memory::new(instance, name.clone());
                disk.save(&memory)?;
                Ok((disk, memory))
            }
            Err(error) => Err(disk.failed(error)),
        }
    }

    fn read(&self, text: &[u8], name: &NodeName) -> Result<Memory, DiskError> {
        let damaged = |source| DiskError::Damaged { path: self.path.clone(), source };
        let Head { version } = serde_json::from_slice(text).map_err(damaged)?;
        if version != VERSION {
            return Err(DiskError::Version { path: self.path.clone(), found: version });
        }
        let Content { memory, .. } = serde_json::from_slice(text).map_err(damaged)?;
        Ok(Memory { name: name.clone(), ..memory })
    }

    /// Replaces what is on the disk.
    ///
    /// # Errors
    /// [`DiskError::Io`]; what was there is there still.
    pub fn save(&self, memory: &Memory) -> Result<(), DiskError> {
        let content = Content { version: VERSION, memory: memory.clone() };
        let text = serde_json::to_vec(&content).map_err(|error| self.failed(error.into()))?;
        self.replace(&text).map_err(|source| self.failed(source))
    }

    fn replace(&self, text: &[u8]) -> io::Result<()> {
        let new = self.path.with_extension("new");
        let mut file = File::create(&new)?;
        file.write_all(text)?;
        file.sync_all()?;
        fs::rename(&new, &self.path)?;
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty());
        File::open(folder.unwrap_or_else(|| Path::new(".")))?.sync_all()
    }

    fn failed(&self, source: io::Error) -> DiskError {
        DiskError::Io { path: self.path.clone(), source }
    }
}

/// A number that nobody had before.
pub(crate) fn random() -> io::Result<u128> {
    let mut octets = [0; 16];
    File::open("/dev/urandom")?.read_exact(&mut octets)?;
    Ok(u128::from_ne_bytes(octets))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{Disk, DiskError};
    use crate::identity::NodeName;

    #[test]
    fn a_memory_is_kept_and_a_damaged_one_is_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("fleet.json");
        let name = NodeName::new("a").unwrap();
        let (_, first) = Disk::open(&path, &name).unwrap();
        let (disk, again) = Disk::open(&path, &name).unwrap();
        assert_eq!(first, again);
        disk.save(&again).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, text.replace("\"version\":1", "\"version\":2,\"new\":true")).unwrap();
        assert!(matches!(Disk::open(&path, &name), Err(DiskError::Version { found: 2, .. })));
        fs::write(&path, &text[..text.len() - 3]).unwrap();
        assert!(matches!(Disk::open(&path, &name), Err(DiskError::Damaged { .. })));
        fs::remove_file(&path).unwrap();
        assert_ne!(Disk::open(&path, &name).unwrap().1.instance, first.instance);
    }
}
