//! Detaches that `netd-cni` was asked for while netd did not answer, one file each. Carrying them out is `lifecycle`'s.
//!
//! A tombstone was left before anything that is asked of its key now, so an attach carries out its own key's first: none
//! outlives the attachment that it speaks of.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

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

/// No door writes at one for so long.
const ABANDONED: Duration = Duration::from_secs(600);

/// Larger than any that `netd-cni` writes (octets).
const LARGEST: u64 = 64 << 10;

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
        let is_whole = |path: &PathBuf| path.extension().is_some_and(|end| end == "json");
        let mut paths: Vec<PathBuf> = self.paths().filter(is_whole).collect();
        paths.sort();
        paths.into_iter().map(|path| Tombstone { path }).collect()
    }

    /// Takes away drafts whose door was killed while it wrote.
    pub fn sweep(&self, now: SystemTime) {
        let is_abandoned = |path: &PathBuf| is_draft(path) && age(path, now).is_some_and(|age| age > ABANDONED);
        self.paths().filter(is_abandoned).for_each(|draft| drop(fs::remove_file(draft)));
    }

    fn paths(&self) -> impl Iterator<Item = PathBuf> {
        let entries = self.directory.iter().flat_map(fs::read_dir).flatten();
        entries.filter_map(|entry| Some(entry.ok()?.path()))
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
        read_key(&read(&self.path)?)
    }

    /// Whether it is still there.
    #[must_use]
    pub fn stands(&self) -> bool {
        self.path.symlink_metadata().is_ok()
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

/// By the name that `netd-cni` gives it: the key, and the number of its process.
fn is_draft(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    name.rsplit_once('.').is_some_and(|(key, process)| key.split(':').count() == 3 && process.parse::<u32>().is_ok())
}

fn age(path: &Path, now: SystemTime) -> Option<Duration> {
    now.duration_since(path.symlink_metadata().ok()?.modified().ok()?).ok()
}

/// Reads any bytes as a tombstone's content.
///
/// # Errors
/// They say something else.
pub fn read_key(content: &[u8]) -> io::Result<AttachmentKey> {
    let content: Content = serde_json::from_slice(content)?;
    Ok(AttachmentKey { network: content.network, container: content.container_id, interface: content.interface })
}

/// A file, and nothing that it takes time to open or has no end.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOFOLLOW).open(path)?;
    let metadata = file.metadata()?;
    let mut content = Vec::new();
    if metadata.is_file() && metadata.len() <= LARGEST {
        file.take(LARGEST).read_to_end(&mut content)?;
        return Ok(content);
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, format!("it is no file of at most {LARGEST} bytes")))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::sync::mpsc;
    use std::time::{Duration, SystemTime};

    use nix::sys::stat::Mode;

    use super::{ABANDONED, LARGEST, Tombstones};

    #[test]
    fn a_draft_that_nobody_writes_any_more_is_swept_away_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let names = ["a:b:eth0.json", "a:b:eth0.77", "a:b:eth0.d", "mine.77"];
        for name in names {
            fs::write(folder.path().join(name), "{}").unwrap();
        }
        let left = || {
            let names =
                fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
            names.collect::<BTreeSet<_>>()
        };
        let tombstones = Tombstones::new(folder.path().to_owned());
        let now = SystemTime::now();
        tombstones.sweep(now);
        assert_eq!(left(), names.map(str::to_owned).into(), "its door is at it");
        tombstones.sweep(now + ABANDONED * 2);
        assert_eq!(left(), ["a:b:eth0.d", "a:b:eth0.json", "mine.77"].map(str::to_owned).into());
    }

    #[test]
    fn what_is_no_file_of_a_tombstones_size_is_not_read_and_nobody_waits_for_it() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let text = r#"{"network":"web","container_id":"a","interface":"eth0"}"#;
        fs::write(at("0-whole.json"), text).unwrap();
        fs::write(at("1-large.json"), format!("{text}{}", " ".repeat(usize::try_from(LARGEST).unwrap()))).unwrap();
        fs::create_dir(at("2-directory.json")).unwrap();
        symlink(at("0-whole.json"), at("3-link.json")).unwrap();
        symlink(at("nowhere"), at("4-nowhere.json")).unwrap();
        nix::unistd::mkfifo(&at("5-fifo.json"), Mode::S_IRWXU).unwrap();
        let tombstones = Tombstones::new(folder.path().to_owned()).all();
        assert!(tombstones.iter().all(super::Tombstone::stands));
        let (tell, told) = mpsc::channel();
        std::thread::spawn(move || {
            let read: Vec<bool> = tombstones.iter().map(|one| one.key().is_ok()).collect();
            tell.send(read).unwrap();
        });
        let read = told.recv_timeout(Duration::from_secs(20)).expect("somebody waits for a writer");
        assert_eq!(read, [true, false, false, false, false, false]);
    }
}
