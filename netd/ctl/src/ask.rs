//! netd's answers, fetched over its socket. How they look is not decided here.

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};

use netd_api::{CallError, Client, ConnectError, blocking as api};
use thiserror::Error;

use crate::model::{self, Network, Plan, Sandbox, Status};

/// Why there is no answer.
#[derive(Debug, Error)]
pub(crate) enum AskError {
    /// No socket.
    #[error(
        "netd does not run: there is no socket {0}. Start it (`systemctl start netd`), see why it stopped \
         (`journalctl -u netd -e`), or name its socket with --socket"
    )]
    Absent(PathBuf),
    /// A socket, and nobody behind it.
    #[error(
        "netd has died: nobody listens on {0}. Start it again (`systemctl restart netd`) and see why \
         (`journalctl -u netd -e`); containers keep their network meanwhile"
    )]
    Dead(PathBuf),
    /// Not root.
    #[error("only root may speak with netd at {0}; use sudo")]
    Forbidden(PathBuf),
    /// Another reason.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// An older netd.
    #[error("the running netd is older than this netdctl and does not know {0}; restart it (`systemctl restart netd`)")]
    Old(&'static str),
    /// The connection broke.
    #[error("netd gave no answer to {request}; see `journalctl -u netd -e`")]
    Call { request: &'static str, source: CallError },
    /// netd said no.
    #[error("{0}")]
    Refused(String),
}

/// netd, as netdctl sees it.
pub(crate) struct Netd(Client);

impl Netd {
    pub(crate) fn connect(socket: &Path) -> Result<Self, AskError> {
        Client::connect(socket, &[]).map(Self).map_err(|error| {
            let is = |kind| error.source.kind() == kind;
            if is(io::ErrorKind::NotFound) {
                AskError::Absent(error.socket)
            } else if is(io::ErrorKind::ConnectionRefused) {
                AskError::Dead(error.socket)
            } else if is(io::ErrorKind::PermissionDenied) {
                AskError::Forbidden(error.socket)
            } else {
                AskError::Connect(error)
            }
        })
    }

    pub(crate) fn status(&self) -> Result<Status, AskError> {
        let mut answer = self.0.status(&api::StatusRequest::new()).map_err(|error| failed("Status", error))?;
        refused(answer.failure.take())?;
        Ok(answer.into())
    }

    pub(crate) fn networks(&self) -> Result<Vec<Network>, AskError> {
        let mut answer = self.0.networks(&api::NetworksRequest::new()).map_err(|error| failed("Networks", error))?;
        refused(answer.failure.take())?;
        Ok(answer.networks.into_iter().map(Network::from).collect())
    }

    pub(crate) fn sandboxes(&self) -> Result<Vec<Sandbox>, AskError> {
        let answer = self.0.list(&api::ListRequest::new()).map_err(|error| failed("List", error))?;
        Ok(model::sandboxes(answer.attachments))
    }

    pub(crate) fn resync(&self, dry_run: bool) -> Result<Plan, AskError> {
        let request = api::ResyncRequest { dry_run, source: "netdctl".to_owned(), ..api::ResyncRequest::new() };
        let mut answer = self.0.resync(&request).map_err(|error| failed("Resync", error))?;
        refused(answer.failure.take())?;
        Ok(Plan { dry_run, steps: answer.steps })
    }
}

fn failed(request: &'static str, source: CallError) -> AskError {
    if source.is_unknown_request() { AskError::Old(request) } else { AskError::Call { request, source } }
}

fn refused(failure: Option<api::Failure>) -> Result<(), AskError> {
    match failure {
        None => Ok(()),
        Some(failure) if failure.details.is_empty() => Err(AskError::Refused(failure.message)),
        Some(failure) => Err(AskError::Refused(format!("{} ({})", failure.message, failure.details))),
    }
}

/// An error with all its causes, on one line.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
