//! Detaches that `netd-cni` was asked for while netd did not answer, one file each. Carrying them out is `lifecycle`'s.
//!
//! A tombstone was left before anything that is asked of its key now, so an attach carries out its own key's first: none
//! outlives the attachment that it speaks of.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use netd_config::{ContainerId, LinkName, NetworkName};
use serde::Deserialize;

use crate::attachment::AttachmentKey;

/// The directory of tombstones. The default has none, ever.
#[derive(Debug, Clone, Default)]
pub struct Tombstones {
    directory: Option<PathBuf>,
}

/// One file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tombstone {
    path: PathBuf,
}

#[derive(Debug, Deserialize)]
struct Content {
    network: NetworkName,
    container_id: ContainerId,
    interface: LinkName,
}

impl Tombstones {
    /// Those in `directory`, which need not exist yet.
    #[must_use]
    pub fn new(directory: PathBuf) -> Self {
        Self { directory: Some(directory) }
    }

    /// The key's own, by the name that `netd-cni` gives it.
    #[must_use]
    pub fn of(&self, key: &AttachmentKey) -> Option<Tombstone> {
        let name = format!("{}:{}:{}.json", key.network, key.container, key.interface);
        Some(Tombstone { path: self.directory.as_ref()?.join(name) }).filter(Tombstone::stands)
    }

    /// All of them. Drafts of files still being written are passed over.
    #[must_use]
    pub fn all(&self) -> Vec<Tombstone> {
        let entries = self.directory.iter().flat_map(fs::read_dir).flatten();
        let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
        let mut paths: Vec<PathBuf> = paths.filter(|path| path.extension().is_some_and(|end| end == "json")).collect();
        paths.sort();
        paths.into_iter().map(|path| Tombstone { path }).collect()
    }
}

impl Tombstone {
    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whose detach it asks for.
    ///
    /// # Errors
    /// The file cannot be read, or says something else.
    pub fn key(&self) -> io::Result<AttachmentKey> {
        let content: Content = serde_json::from_slice(&fs::read(&self.path)?)?;
        Ok(AttachmentKey { network: content.network, container: content.container_id, interface: content.interface })
    }

    /// Whether it is still there.
    #[must_use]
    pub fn stands(&self) -> bool {
        self.path.exists()
    }

    /// Takes it away. Gone already is success.
    ///
    /// # Errors
    /// The file system's.
    pub fn remove(&self) -> io::Result<()> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            done => done,
        }
    }
}
