//! The descriptors that go to netd ahead of the request, opened where the caller is: netd may see other files under the same
//! paths.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;

use netd_api::Tag;
use thiserror::Error;

use crate::environment::{Command, Environment};
use crate::failure::{Code, Failure};

const OWN_NETNS: &str = "/proc/self/ns/net";

/// What was opened.
#[derive(Debug, Default)]
pub(crate) struct Handover {
    caller_netns: Option<File>,
    sandbox_netns: Option<File>,
    ipam_dir: Option<File>,
}

/// What cannot be opened, or must not be used.
#[derive(Debug, Error)]
pub(crate) enum HandoverError {
    #[error("cannot open network namespace {path:?} (CNI_NETNS); make it before ADD, and keep it until DEL")]
    Sandbox { path: String, source: io::Error },
    #[error("cannot open this process's own network namespace {OWN_NETNS}; mount /proc")]
    Caller { source: io::Error },
    #[error("cannot open host-local's data directory {path:?}; make it readable, or remove it")]
    IpamDirectory { path: String, source: io::Error },
    #[error("plugin's netns and netns from CNI_NETNS should not be the same")]
    SameNetns,
}

impl From<HandoverError> for Failure {
    fn from(error: HandoverError) -> Self {
        let code = match error {
            HandoverError::Sandbox { .. } | HandoverError::SameNetns => Code::InvalidNetns,
            HandoverError::Caller { .. } | HandoverError::IpamDirectory { .. } => Code::InputOutput,
        };
        Self::of(code, &error)
    }
}

impl Handover {
    /// Opens what `environment` and the stanza's `data_dir` name. On a DEL, what is gone or closed is left out.
    ///
    /// The reference compares the two namespaces after its work is done; here nothing is done then.
    pub(crate) fn open(environment: &Environment, data_dir: Option<&str>) -> Result<Self, HandoverError> {
        let must = environment.command != Command::Del;
        let path = || environment.netns.clone();
        let handover = Self {
            caller_netns: wanted(must, OWN_NETNS).map_err(|source| HandoverError::Caller { source })?,
            sandbox_netns: wanted(must, &environment.netns)
                .map_err(|source| HandoverError::Sandbox { path: path(), source })?,
            ipam_dir: data_dir.map(|path| directory(must, path)).transpose()?.flatten(),
        };
        let checked = matches!(environment.command, Command::Add | Command::Del) && !environment.may_share_netns;
        if checked && handover.is_own_netns().map_err(|source| HandoverError::Sandbox { path: path(), source })? {
            return Err(HandoverError::SameNetns);
        }
        Ok(handover)
    }

    pub(crate) fn tagged(&self) -> Vec<(Tag, BorrowedFd<'_>)> {
        let files = [
            (Tag::CallerNetns, &self.caller_netns),
            (Tag::SandboxNetns, &self.sandbox_netns),
            (Tag::IpamDirectory, &self.ipam_dir),
        ];
        files.into_iter().filter_map(|(tag, file)| Some((tag, file.as_ref()?.as_fd()))).collect()
    }

    fn is_own_netns(&self) -> io::Result<bool> {
        let (Some(own), Some(sandbox)) = (&self.caller_netns, &self.sandbox_netns) else { return Ok(false) };
        let (own, sandbox) = (own.metadata()?, sandbox.metadata()?);
        Ok((own.dev(), own.ino()) == (sandbox.dev(), sandbox.ino()))
    }
}

fn wanted(must: bool, path: &str) -> io::Result<Option<File>> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if must => Err(error),
        Err(_) => Ok(None),
    }
}

/// A directory that is not there reserves nothing.
fn directory(must: bool, path: &str) -> Result<Option<File>, HandoverError> {
    match wanted(must, path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        opened => opened.map_err(|source| HandoverError::IpamDirectory { path: path.to_owned(), source }),
    }
}

#[cfg(test)]
mod tests {
    use netd_api::Tag;

    use super::{Handover, OWN_NETNS};
    use crate::environment::{Command, Environment};
    use crate::failure::Failure;

    fn open(command: Command, netns: &str, data_dir: Option<&str>, may_share_netns: bool) -> Result<Vec<Tag>, Failure> {
        let environment = Environment {
            command,
            container_id: "a".to_owned(),
            netns: netns.to_owned(),
            interface: "eth0".to_owned(),
            arguments: String::new(),
            may_share_netns,
        };
        let handover = Handover::open(&environment, data_dir)?;
        Ok(handover.tagged().into_iter().map(|(tag, _)| tag).collect())
    }

    #[test]
    fn what_is_there_is_handed_over() {
        let folder = tempfile::tempdir().unwrap();
        let netns = folder.path().join("netns");
        std::fs::write(&netns, "").unwrap();
        let (netns, data_dir) = (netns.to_str().unwrap(), folder.path().to_str());
        let all = vec![Tag::CallerNetns, Tag::SandboxNetns, Tag::IpamDirectory];
        for command in [Command::Add, Command::Check, Command::Del] {
            assert_eq!(open(command, netns, data_dir, false), Ok(all.clone()), "{command:?}");
        }
        let without = Ok(all[..2].to_vec());
        assert_eq!(open(Command::Add, netns, Some("/nonexistent/networks"), false), without);
        assert_eq!(open(Command::Add, netns, None, false), without);
    }

    #[test]
    fn a_detach_needs_no_namespace_and_an_attach_does() {
        for netns in ["", "/nonexistent/netns"] {
            assert_eq!(open(Command::Del, netns, None, false), Ok(vec![Tag::CallerNetns]), "{netns:?}");
            for command in [Command::Add, Command::Check] {
                let failure = open(command, netns, None, false).unwrap_err();
                let expected = format!(
                    "cannot open network namespace {netns:?} (CNI_NETNS); make it before ADD, and keep it until DEL: "
                );
                assert!(failure.code == 8 && failure.message.starts_with(&expected), "{failure:?}");
            }
        }
    }

    #[test]
    fn its_own_namespace_is_no_sandbox_unless_told_so() {
        for command in [Command::Add, Command::Del] {
            let failure = open(command, OWN_NETNS, None, false).unwrap_err();
            let message = "plugin's netns and netns from CNI_NETNS should not be the same";
            assert_eq!((failure.code, failure.message.as_str()), (8, message));
            assert!(open(command, OWN_NETNS, None, true).is_ok());
        }
        assert!(open(Command::Check, OWN_NETNS, None, false).is_ok());
    }

    #[test]
    fn a_data_directory_that_cannot_be_read_stops_an_attach_only() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        let inside = file.join("networks");
        let failure = open(Command::Check, OWN_NETNS, inside.to_str(), false).unwrap_err();
        assert!(failure.code == 5 && failure.message.contains("data directory"), "{failure:?}");
        assert_eq!(open(Command::Del, "", inside.to_str(), false), Ok(vec![Tag::CallerNetns]));
    }
}
