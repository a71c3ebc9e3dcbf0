//! A detach that netd could not be told of, left for it on disk. netd reads and removes tombstones; this program only writes
//! them, and nothing else.

use std::fs::{DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use serde_json::json;
use thiserror::Error;

/// Which attachment it was.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Key<'a> {
    pub(crate) network: &'a str,
    pub(crate) container_id: &'a str,
    pub(crate) interface: &'a str,
}

/// The detach is lost if the caller does not repeat it.
#[derive(Debug, Error)]
#[error("cannot write tombstone {path}; make room, or the directory writable, then detach again")]
pub(crate) struct TombstoneError {
    path: PathBuf,
    source: io::Error,
}

/// Leaves a tombstone in `directory`, which is made where it is missing: a netd that never ran since the boot reads it when
/// it starts. Repeated, it is the same file.
pub(crate) fn leave(directory: &Path, key: Key<'_>) -> Result<(), TombstoneError> {
    // No part can hold a colon, so two keys never share a name. A name too long for a file (NAME_MAX, 255 octets with what is
    // added here) is told as any other failure: such a detach waits for netd. libcni's cache file has all three parts in its
    // name as well, so it makes no attachment whose name is more than a few octets beyond that.
    let name = format!("{}:{}:{}", key.network, key.container_id, key.interface);
    let path = directory.join(format!("{name}.json"));
    // netd reads what ends in `.json`: it never sees half a file.
    let draft = directory.join(format!("{name}.{}", std::process::id()));
    let text = json!({ "network": key.network, "container_id": key.container_id, "interface": key.interface });
    write(directory, &draft, &path, &text.to_string()).map_err(|source| TombstoneError { path, source })
}

fn write(directory: &Path, draft: &Path, path: &Path, text: &str) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    let written = fill(draft, text).and_then(|()| std::fs::rename(draft, path));
    if written.is_err() {
        // On a full disk it would take the room that the next attempt needs.
        drop(std::fs::remove_file(draft));
    }
    written
}

fn fill(draft: &Path, text: &str) -> io::Result<()> {
    let mut file = File::create(draft)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    use super::{Key, leave};

    const WEB: Key<'_> = Key { network: "web", container_id: "default-1", interface: "eth0" };

    fn files(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn one_file_a_key_however_often_it_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let tombstones = folder.path().join("run/tombstones");
        leave(&tombstones, WEB).unwrap();
        leave(&tombstones, WEB).unwrap();
        leave(&tombstones, Key { interface: "eth1", ..WEB }).unwrap();
        // With any sign that a name may hold between the parts, these two would be one.
        leave(&tombstones, Key { network: "web-default", container_id: "1", ..WEB }).unwrap();
        let names = ["web-default:1:eth0.json", "web:default-1:eth0.json", "web:default-1:eth1.json"];
        assert_eq!(files(&tombstones), names);
        let text = std::fs::read_to_string(tombstones.join(names[1])).unwrap();
        assert_eq!(text, r#"{"network":"web","container_id":"default-1","interface":"eth0"}"#);
        assert_eq!(folder.path().join("run").metadata().unwrap().permissions().mode() & 0o777, 0o700);
    }

    #[test]
    fn a_name_that_is_too_long_for_a_file_is_told_and_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let container = "c".repeat(246);
        let error = leave(folder.path(), Key { container_id: &container, ..WEB }).unwrap_err();
        assert_eq!(error.source.raw_os_error(), Some(nix::libc::ENAMETOOLONG));
        assert_eq!(files(folder.path()), [""; 0]);
        leave(folder.path(), Key { container_id: &container[..230], ..WEB }).unwrap();
        assert_eq!(files(folder.path()).len(), 1);
    }

    #[test]
    fn what_cannot_be_written_leaves_no_draft() {
        let folder = tempfile::tempdir().unwrap();
        let occupied = folder.path().join("web:default-1:eth0.json");
        std::fs::create_dir(&occupied).unwrap();
        let error = leave(folder.path(), WEB).unwrap_err();
        assert_eq!(error.source.raw_os_error(), Some(nix::libc::EISDIR));
        assert_eq!(files(folder.path()), ["web:default-1:eth0.json"]);
    }

    #[test]
    fn a_place_that_takes_no_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let occupied = folder.path().join("tombstones");
        std::fs::write(&occupied, "").unwrap();
        let error = leave(&occupied, WEB).unwrap_err();
        let expected = format!("cannot write tombstone {}/web:default-1:eth0.json; ", occupied.display());
        assert!(error.to_string().starts_with(&expected), "{error}");
    }
}
