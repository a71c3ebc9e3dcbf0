//! Which sysctls containers may be given: the list that the official `tuning` plugin obeys. What a stanza asks for is not here.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use regex_lite::Regex;
use thiserror::Error;

/// Where the official plugin reads it (containernetworking/plugins, plugins/meta/tuning).
const PLACE: &str = "/etc/cni/tuning/allowlist.conf";

/// The file: one regular expression a line, and a name that one of them matches anywhere may be set. Without the file, all
/// may. It is read at each question, so an edit holds at once.
#[derive(Debug, Clone)]
pub struct Allowlist {
    path: PathBuf,
}

/// Why a sysctl is not set.
#[derive(Debug, Error)]
pub enum AllowlistError {
    /// No line of the list matches it.
    #[error(
        "sysctl {name} is not allowed: no line of {path} matches it; add one there, or remove the sysctl from the network"
    )]
    Denied {
        /// Which.
        name: String,
        /// The file.
        path: PathBuf,
    },
    /// The list is there, and nobody knows what it says.
    #[error("cannot read {path}, which says what sysctls containers may be given; make it readable, or remove it")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A line is no regular expression.
    #[error("{path}:{line}: no regular expression; correct the line")]
    Pattern {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// Why.
        source: regex_lite::Error,
    },
}

impl Default for Allowlist {
    fn default() -> Self {
        Self::at(Path::new(PLACE))
    }
}

impl Allowlist {
    /// The list in this file.
    #[must_use]
    pub fn at(path: &Path) -> Self {
        Self { path: path.to_owned() }
    }

    /// Whether all of these may be set, in the words of the stanza with dots.
    ///
    /// # Errors
    /// See [`AllowlistError`]; the first that may not.
    pub fn permits<'a>(&self, names: impl IntoIterator<Item = &'a String>) -> Result<(), AllowlistError> {
        let mut names = names.into_iter().peekable();
        if names.peek().is_none() {
            return Ok(());
        }
        let path = || self.path.clone();
        let text = match fs::read_to_string(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            text => text.map_err(|source| AllowlistError::Unreadable { path: path(), source })?,
        };
        let lines = text.lines().map(str::trim).enumerate().filter(|(_, line)| !line.is_empty());
        let pattern = |(at, line): (usize, &str)| {
            Regex::new(line).map_err(|source| AllowlistError::Pattern { path: path(), line: at + 1, source })
        };
        let patterns = lines.map(pattern).collect::<Result<Vec<_>, _>>()?;
        // A stanza, and so a list, may have slashes instead.
        let is_listed = |name: &&String| {
            let slashed = name.replace('.', "/");
            patterns.iter().any(|pattern| pattern.is_match(name) || pattern.is_match(&slashed))
        };
        match names.find(|name| !is_listed(name)) {
            Some(name) => Err(AllowlistError::Denied { name: name.clone(), path: path() }),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Allowlist;

    #[test]
    fn a_list_permits_what_a_line_of_it_matches_and_no_list_permits_all() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("allowlist.conf");
        let judge = |name: &str| Allowlist::at(&file).permits([&name.to_owned()]).map_err(|error| error.to_string());
        assert_eq!(judge("net.core.somaxconn"), Ok(()));
        std::fs::write(&file, "\n ^net\\.core\\.som.* \nnet/ipv4/conf/IFNAME/[a-z_]*$\n").unwrap();
        assert_eq!(judge("net.core.somaxconn"), Ok(()));
        assert_eq!(judge("net.ipv4.conf.IFNAME.arp_ignore"), Ok(()));
        let denied = judge("net.core.rmem_max").unwrap_err();
        let expected = format!("sysctl net.core.rmem_max is not allowed: no line of {} matches it; ", file.display());
        assert!(denied.starts_with(&expected), "{denied}");
        assert!(Allowlist::at(&file).permits([]).is_ok());
    }

    #[test]
    fn an_empty_list_permits_nothing_and_one_that_cannot_be_read_neither() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("allowlist.conf");
        let judge = || Allowlist::at(&file).permits([&"net.a".to_owned()]).map_err(|error| error.to_string());
        std::fs::write(&file, "\n").unwrap();
        assert!(judge().unwrap_err().contains("is not allowed"));
        std::fs::write(&file, "net\n(").unwrap();
        assert!(judge().unwrap_err().ends_with("allowlist.conf:2: no regular expression; correct the line"));
        std::fs::remove_file(&file).unwrap();
        std::fs::create_dir(&file).unwrap();
        assert!(judge().unwrap_err().starts_with("cannot read "));
    }
}
