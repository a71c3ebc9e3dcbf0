//! The networks that configuration files describe, as the files stand now. Who is attached to them is the owner's
//! business; a network that a caller sends on standard input need not be here.
//!
//! ```text
//! inotify ─▶ watch (own thread) ─▶ directory ─files─▶ Catalogue::next (pure) ─▶ handles: snapshot, lookup
//! ```

mod catalogue;
mod directory;
mod watch;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use netd_config::Network;
use tokio::sync::watch::{Receiver, channel};

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
    pub fn watch(directories: Vec<PathBuf>) -> io::Result<Self> {
        let (publish, current) = channel(Arc::default());
        let watching = watch::start(directories, publish)?;
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

#[cfg(test)]
mod tests;
