//! The store of built parts, outside the source tree: a folder a part, named by its version. What is in a part is not its
//! business.

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::say;

const DEFAULT: &str = "/var/cache/netd-rig";

/// A folder of parts. `NETD_RIG_CACHE` moves it from `/var/cache/netd-rig`.
#[derive(Debug, Clone)]
pub struct Store {
    root: PathBuf,
}

impl Store {
    /// Opens the store, making its folder.
    ///
    /// # Errors
    /// The folder cannot be made.
    pub fn open() -> Result<Self> {
        Self::at(env::var_os("NETD_RIG_CACHE").map_or_else(|| PathBuf::from(DEFAULT), PathBuf::from))
    }

    fn at(root: PathBuf) -> Result<Self> {
        fs::create_dir_all(&root)
            .with_context(|| format!("cannot make {}; set NETD_RIG_CACHE to a folder of yours", root.display()))?;
        Ok(Self { root })
    }

    /// The folder of part `key`; where it is missing, `build` fills it first. A second caller, in any process, waits.
    /// A build that ends half way leaves no part.
    ///
    /// # Errors
    /// The part cannot be built or put in its place.
    pub fn part(&self, key: &str, build: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
        let part = self.root.join(key);
        if part.exists() {
            return Ok(part);
        }
        let lock = File::create(self.root.join(format!("{key}.lock"))).context("cannot make a lock in the store")?;
        lock.lock().with_context(|| format!("cannot lock {key} in the store"))?;
        if part.exists() {
            return Ok(part);
        }
        let unfinished = self.root.join(format!("{key}.unfinished"));
        if unfinished.exists() {
            fs::remove_dir_all(&unfinished)?;
        }
        fs::create_dir_all(&unfinished)?;
        say(&format!("building {key}, once, into {}", self.root.display()));
        build(&unfinished).with_context(|| format!("cannot build {key}"))?;
        fs::rename(&unfinished, &part).with_context(|| format!("cannot put {key} into the store"))?;
        Ok(part)
    }
}

/// Digest of a file's content, 16 hex digits.
pub(super) fn digest_of_file(path: &Path) -> Result<String> {
    digest(Command::new("sha256sum").arg(path))
}

/// Digest of the names and contents of a folder's files, 16 hex digits.
pub(super) fn digest_of_folder(path: &Path) -> Result<String> {
    digest(
        Command::new("sh")
            .current_dir(path)
            .args(["-c", "find . -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum"]),
    )
}

fn digest(command: &mut Command) -> Result<String> {
    let output = command.output().context("cannot run sha256sum")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    match text.get(..16) {
        Some(digest) if output.status.success() => Ok(digest.to_owned()),
        _ => bail!("sha256sum failed: {}", String::from_utf8_lossy(&output.stderr).trim()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use anyhow::bail;

    use super::{Store, digest_of_folder};

    #[test]
    fn a_part_is_built_once_by_many_and_not_at_all_by_a_failure() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::at(folder.path().to_owned()).unwrap();
        assert!(
            store
                .part("x-1", |half| {
                    fs::write(half.join("a"), "half")?;
                    bail!("no")
                })
                .is_err()
        );
        assert!(!folder.path().join("x-1").exists());
        let builds = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let part = store.part("x-1", |half| {
                        builds.fetch_add(1, Ordering::Relaxed);
                        Ok(fs::write(half.join("a"), "whole")?)
                    });
                    assert_eq!(fs::read_to_string(part.unwrap().join("a")).unwrap(), "whole");
                });
            }
        });
        assert_eq!(builds.into_inner(), 1);
    }

    #[test]
    fn a_changed_name_or_byte_changes_the_digest() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("a"), "1").unwrap();
        let first = digest_of_folder(folder.path()).unwrap();
        fs::write(folder.path().join("a"), "2").unwrap();
        let second = digest_of_folder(folder.path()).unwrap();
        fs::rename(folder.path().join("a"), folder.path().join("b")).unwrap();
        let third = digest_of_folder(folder.path()).unwrap();
        assert!(first != second && second != third && first != third);
    }
}
