//! One request to netd, and what it means for the caller that netd cannot be reached. What netd does is netd's business.

use std::io;
use std::os::unix::fs::MetadataExt;

use netd_api::blocking::{AttachRequest, Call, CheckRequest, DetachRequest, GcRequest, StatusRequest};
use netd_api::{CallError, Client, ConnectError, v1};
use thiserror::Error;

use crate::environment::{Command, Environment, is_cni_name};
use crate::failure::{Code, Failure};
use crate::handover::Handover;
use crate::place::Place;
use crate::stanza::Stanza;
use crate::tombstone::{self, Key, TombstoneError};

/// A call, ready to be sent.
#[derive(Debug)]
pub(crate) struct Request<'a> {
    pub(crate) environment: Environment,
    /// The plugin's type.
    pub(crate) plugin: &'a str,
    pub(crate) stanza: &'a Stanza,
    /// The stanza as it came.
    pub(crate) config: Vec<u8>,
    pub(crate) place: Place,
}

/// Why netd said nothing.
#[derive(Debug, Error)]
enum Unanswered {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error(transparent)]
    Call(#[from] CallError),
    #[error(
        "cannot reach netd as this user: netd serves the node's root only, and no rootless containers; run the container \
         runtime as root, or give rootless containers the official CNI plugins"
    )]
    Rootless { source: io::Error },
}

/// A detach that is neither done nor noted.
#[derive(Debug, Error)]
enum LostDetach {
    #[error("{unanswered}; nor can the detach be left for it")]
    NotNoted { unanswered: String, source: TombstoneError },
    #[error("{unanswered}; and the stanza has no valid network name to note the detach by: {name:?}")]
    Nameless { unanswered: String, name: String },
}

/// netd's own failure, or why there is none.
enum AskError {
    Failed(Failure),
    Unanswered(Unanswered),
}

impl<E: Into<Unanswered>> From<E> for AskError {
    fn from(error: E) -> Self {
        Self::Unanswered(error.into())
    }
}

impl Request<'_> {
    /// Sends the request. The answer is what belongs on standard output.
    pub(crate) fn send(self) -> Result<Vec<u8>, Failure> {
        self.check_version()?;
        let handover = match self.environment.command {
            Command::Add | Command::Del | Command::Check => {
                Handover::open(&self.environment, self.stanza.data_dir(self.plugin))?
            }
            Command::Gc | Command::Status | Command::Version => Handover::default(),
        };
        match self.ask(&handover) {
            Ok(output) => Ok(output),
            Err(AskError::Failed(failure)) => Err(failure),
            Err(AskError::Unanswered(unanswered)) => self.without_netd(&unanswered),
        }
    }

    /// As the reference does it, whose words these are.
    fn check_version(&self) -> Result<(), Failure> {
        let (name, first) = match self.environment.command {
            Command::Check => ("CHECK", (0, 4)),
            Command::Gc => ("GC", (1, 1)),
            Command::Status => ("STATUS", (1, 1)),
            Command::Add | Command::Del | Command::Version => return Ok(()),
        };
        if !self.stanza.is_before(first) {
            return Ok(());
        }
        let message = format!("config version does not allow {name}");
        Err(Failure { code: Code::IncompatibleVersion as u32, message, details: String::new() })
    }

    fn ask(&self, handover: &Handover) -> Result<Vec<u8>, AskError> {
        let client = Client::connect(&self.place.socket(), &handover.tagged()).map_err(rootless)?;
        let call = || Some(self.call()).into();
        let config = || self.config.clone();
        let (output, failure) = match self.environment.command {
            Command::Add => {
                let response = client.attach(&AttachRequest { call: call(), ..AttachRequest::default() })?;
                (response.result, response.failure)
            }
            Command::Del => {
                let response = client.detach(&DetachRequest { call: call(), ..DetachRequest::default() })?;
                (Vec::new(), response.failure)
            }
            Command::Check => {
                let response = client.check(&CheckRequest { call: call(), ..CheckRequest::default() })?;
                (Vec::new(), response.failure)
            }
            Command::Gc => {
                let response = client.gc(&GcRequest { config: config(), ..GcRequest::default() })?;
                (Vec::new(), response.failure)
            }
            Command::Status => {
                let response = client.status(&StatusRequest { config: config(), ..StatusRequest::default() })?;
                (Vec::new(), response.failure)
            }
            Command::Version => (Vec::new(), None.into()),
        };
        match failure.into_option() {
            None => Ok(output),
            Some(failure) => Err(AskError::Failed(failed(failure))),
        }
    }

    fn call(&self) -> Call {
        Call {
            container_id: self.environment.container_id.clone(),
            interface: self.environment.interface.clone(),
            netns_path: self.environment.netns.clone(),
            cni_args: self.environment.arguments.clone(),
            plugin: self.plugin.to_owned(),
            config: self.config.clone(),
            ..Call::default()
        }
    }

    fn without_netd(&self, unanswered: &Unanswered) -> Result<Vec<u8>, Failure> {
        let code = match self.environment.command {
            Command::Add | Command::Check | Command::Gc | Command::Version => Code::TryAgain,
            Command::Status => Code::NotAvailable,
            Command::Del => return self.note_detach(unanswered),
        };
        Err(Failure::of(code, unanswered))
    }

    /// Containers must be removable while netd is away. Every stanza of a chain leaves the same tombstone: where the first is
    /// somebody else's plugin, its follower is all that netd knows.
    fn note_detach(&self, unanswered: &Unanswered) -> Result<Vec<u8>, Failure> {
        let told = || Failure::of(Code::TryAgain, unanswered).message;
        let network = self.stanza.name.as_str();
        if !is_cni_name(network) {
            let lost = LostDetach::Nameless { unanswered: told(), name: network.to_owned() };
            return Err(Failure::of(Code::InvalidConfig, &lost));
        }
        let key = Key { network, container_id: &self.environment.container_id, interface: &self.environment.interface };
        match tombstone::leave(&self.place.tombstones(), key) {
            Ok(()) => Ok(Vec::new()),
            Err(source) => Err(Failure::of(Code::TryAgain, &LostDetach::NotNoted { unanswered: told(), source })),
        }
    }
}

fn failed(failure: v1::Failure) -> Failure {
    let code = netd_api::cni_code(failure.code.enum_value_or_default());
    Failure { code, message: failure.message, details: failure.details }
}

/// A rootless runtime sees another `/run` than netd, or may not open the socket: the plain reason would mislead.
fn rootless(error: ConnectError) -> Unanswered {
    if error.source.kind() == io::ErrorKind::PermissionDenied || is_rootless().unwrap_or(false) {
        return Unanswered::Rootless { source: error.source };
    }
    error.into()
}

fn is_rootless() -> io::Result<bool> {
    let is_root = std::fs::metadata("/proc/self")?.uid() == 0;
    Ok(!is_root || !is_first_user_namespace(&std::fs::read_to_string("/proc/self/uid_map")?))
}

/// Whether every user is itself, as in the node's first user namespace (user_namespaces(7)).
fn is_first_user_namespace(uid_map: &str) -> bool {
    uid_map.split_whitespace().eq(["0", "0", "4294967295"])
}

#[cfg(test)]
mod tests {
    use super::is_first_user_namespace;

    #[test]
    fn a_mapped_root_is_not_the_nodes() {
        assert!(is_first_user_namespace("         0          0 4294967295\n"));
        assert!(!is_first_user_namespace("         0       1000          1\n"));
        assert!(!is_first_user_namespace("0 1000 1\n1 100000 65536\n"));
        assert!(!is_first_user_namespace(""));
    }
}
