//! The networks that configuration files describe, as the files stand now. Who is attached to them is the owner's
//! business; a network that a caller sends on standard input need not be here.
//!
//! ```text
//! directories (own thread) ─▶ directory ─files─▶ Catalogue::next (pure) ─▶ handles: snapshot, lookup
//! ```

mod catalogue;
mod directory;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use netd_config::Network;
use tokio::sync::watch::{Receiver, Sender, channel};

use crate::directories;

pub use catalogue::{Catalogue, Entry};

/// The way to the catalogue; cheap to clone. The watching ends with the last handle.
#[derive(Debug, Clone)]
pub struct Networks {
    current: Receiver<Arc<Catalogue>>,
    _watching: Option<Arc<io::PipeWriter>>,
}

impl Default for Networks {
    /// No networks, and nothing watched.
    fn default() -> Self {
        Self { current: channel(Arc::default()).1, _watching: None }
    }
}

impl Networks {
    /// Reads the directories, and again whenever something in them changes. A directory that is not there yet is
    /// waited for. The first reading is done when this returns.
    ///
    /// # Errors
    /// No thread or pipe is to be had.
    pub fn watch(paths: Vec<PathBuf>) -> io::Result<Self> {
        let (publish, current) = channel(Arc::default());
        let watching = directories::watch("networks", paths, move |paths| read(paths, &publish))?;
        Ok(Self { current, _watching: Some(Arc::new(watching)) })
    }

    /// All files as they were last read.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Catalogue> {
        Arc::clone(&self.current.borrow())
    }

    /// The network of this name.
    #[must_use]
    pub fn lookup(&self, name: &str) -> Option<Arc<Network>> {
        self.current.borrow().lookup(name)
    }

    /// Follows the catalogue: the receiver sees each change.
    #[must_use]
    pub fn subscribe(&self) -> Receiver<Arc<Catalogue>> {
        self.current.clone()
    }
}

fn read(paths: &[PathBuf], publish: &Sender<Arc<Catalogue>>) {
    let before = Arc::clone(&publish.borrow());
    let files: Vec<String> = before.entries.iter().map(|entry| entry.file.clone()).collect();
    let next = before.next(&directory::read(paths, &files));
    if next.generation != before.generation {
        report(&before, &next);
        publish.send_replace(Arc::new(next));
    }
}

fn report(before: &Catalogue, next: &Catalogue) {
    for entry in next.entries.iter().filter(|entry| !before.entries.contains(entry)) {
        match &entry.error {
            Some(error) => tracing::warn!(file = entry.file, error, "network file not taken"),
            None => tracing::info!(file = entry.file, network = entry.name, "network read"),
        }
    }
    let is_gone = |file: &str| !next.entries.iter().any(|entry| entry.file == file);
    for entry in before.entries.iter().filter(|entry| is_gone(&entry.file)) {
        tracing::info!(file = entry.file, network = entry.name, "network file gone");
    }
}

#[cfg(test)]
mod tests;
