//! Where netd's files are: `NETD_RUN_DIR`, or a file beside the name it was called by, or the default. Runtimes give plugins
//! an environment of their own, so a second instance is named by the file.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

const DEFAULT: &str = "/run/netd";
const FILE: &str = "netd-cni.conf";

/// Where one instance of netd keeps its socket and takes tombstones.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Place {
    run_dir: PathBuf,
}

/// Why it is not known which netd to call.
#[derive(Debug, Error)]
pub(crate) enum PlaceError {
    #[error("{from} says {run_dir:?}, which is no absolute path; write one that begins with /")]
    Relative { from: String, run_dir: PathBuf },
    #[error("cannot read {file}; make it readable, or remove it to call the netd at {DEFAULT}")]
    Unreadable { file: PathBuf, source: io::Error },
    #[error("{file}:{line}: cannot understand this line; the file has one line: run_dir = \"/path\"")]
    Line { file: PathBuf, line: usize },
}

impl Place {
    /// The place for a program called by `argv0`, with `variable` as its environment. A symbolic link is not followed: the
    /// file lies beside the link.
    pub(crate) fn find(argv0: &Path, variable: Option<OsString>) -> Result<Self, PlaceError> {
        if let Some(run_dir) = variable.filter(|value| !value.is_empty()) {
            return Self::at("NETD_RUN_DIR".to_owned(), run_dir.into());
        }
        let Some(file) = argv0.parent().filter(|folder| !folder.as_os_str().is_empty()).map(|folder| folder.join(FILE))
        else {
            return Ok(Self { run_dir: DEFAULT.into() });
        };
        match std::fs::read_to_string(&file) {
            Ok(text) => match run_dir(&text).map_err(|line| PlaceError::Line { file: file.clone(), line })? {
                Some(run_dir) => Self::at(file.display().to_string(), run_dir),
                None => Ok(Self { run_dir: DEFAULT.into() }),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self { run_dir: DEFAULT.into() }),
            Err(source) => Err(PlaceError::Unreadable { file, source }),
        }
    }

    fn at(from: String, run_dir: PathBuf) -> Result<Self, PlaceError> {
        if run_dir.is_absolute() { Ok(Self { run_dir }) } else { Err(PlaceError::Relative { from, run_dir }) }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.run_dir.join("netd.sock")
    }

    pub(crate) fn tombstones(&self) -> PathBuf {
        self.run_dir.join("tombstones")
    }
}

/// The value of the line `run_dir = "..."`, as TOML has it, or the number of the line that is something else.
fn run_dir(text: &str) -> Result<Option<PathBuf>, usize> {
    let mut found = None;
    for (at, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let value = line.split_once('=').filter(|(key, _)| key.trim() == "run_dir").map(|(_, value)| value.trim());
        let path = value.and_then(|value| value.strip_prefix('"')?.strip_suffix('"'));
        match path.filter(|path| found.is_none() && !path.contains(['"', '\\'])) {
            Some(path) => found = Some(PathBuf::from(path)),
            None => return Err(at + 1),
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::path::{Path, PathBuf};

    use super::{Place, run_dir};

    fn found(argv0: &Path, variable: Option<&str>) -> String {
        match Place::find(argv0, variable.map(Into::into)) {
            Ok(place) => place.run_dir.display().to_string(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn the_variable_wins_over_the_file_and_the_file_over_the_default() {
        let folder = tempfile::tempdir().unwrap();
        let argv0 = folder.path().join("bridge");
        assert_eq!(found(&argv0, None), "/run/netd");
        std::fs::write(folder.path().join("netd-cni.conf"), "# the second node\nrun_dir = \"/run/two\"\n").unwrap();
        assert_eq!(found(&argv0, None), "/run/two");
        assert_eq!(found(&argv0, Some("")), "/run/two");
        assert_eq!(found(&argv0, Some("/run/three")), "/run/three");
        // Found on PATH: no folder is known, and the working directory is none.
        assert_eq!(found(Path::new("bridge"), None), "/run/netd");
    }

    #[test]
    fn the_file_lies_beside_the_link_not_its_target() {
        let folder = tempfile::tempdir().unwrap();
        let (real, links) = (folder.path().join("real"), folder.path().join("links"));
        for (folder, run_dir) in [(&real, "/run/real"), (&links, "/run/links")] {
            std::fs::create_dir(folder).unwrap();
            std::fs::write(folder.join("netd-cni.conf"), format!("run_dir = \"{run_dir}\"")).unwrap();
        }
        std::fs::write(real.join("netd-cni"), "").unwrap();
        symlink(real.join("netd-cni"), links.join("bridge")).unwrap();
        assert_eq!(found(&links.join("bridge"), None), "/run/links");
    }

    #[test]
    fn a_mistake_is_named_with_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("netd-cni.conf");
        std::fs::write(&file, "\nrun-dir = \"/x\"\n").unwrap();
        let expected =
            format!("{}:2: cannot understand this line; the file has one line: run_dir = \"/path\"", file.display());
        assert_eq!(found(&folder.path().join("bridge"), None), expected);
        std::fs::write(&file, "run_dir = \"x\"").unwrap();
        let expected =
            format!("{} says \"x\", which is no absolute path; write one that begins with /", file.display());
        assert_eq!(found(&folder.path().join("bridge"), None), expected);
        assert!(found(Path::new("/bin/bridge"), Some("x")).starts_with("NETD_RUN_DIR says \"x\""));
    }

    #[test]
    fn only_the_one_line_is_understood() {
        assert_eq!(run_dir(""), Ok(None));
        assert_eq!(run_dir("run_dir=\"/a b\""), Ok(Some(PathBuf::from("/a b"))));
        for text in ["run_dir = /a", "run_dir = \"/a", "run_dir = \"/a\" # b", "[netd]", "run_dir = \"/a\\n\""] {
            assert_eq!(run_dir(text), Err(1), "{text}");
        }
        assert_eq!(run_dir("run_dir = \"/a\"\nrun_dir = \"/b\""), Err(2));
    }
}
