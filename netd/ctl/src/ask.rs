//! netd's answers, fetched over its socket. How they look is not decided here.

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
    /// No answer, or none that can be read.
    #[error(transparent)]
    Call(CallError),
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

    /// All of them, in as many messages as they need.
    pub(crate) fn sandboxes(&self) -> Result<Vec<Sandbox>, AskError> {
        let (mut all, mut from) = (Vec::new(), String::new());
        loop {
            let request = api::ListRequest { paged: true, from: from.clone(), ..api::ListRequest::new() };
            let answer = self.0.list(&request).map_err(|error| failed("List", error))?;
            all.extend(answer.attachments);
            if answer.next <= from {
                return Ok(model::sandboxes(all));
            }
            from = answer.next;
        }
    }

    pub(crate) fn resync(&self, dry_run: bool) -> Result<Plan, AskError> {
        let request = api::ResyncRequest { dry_run, source: "netdctl".to_owned(), ..api::ResyncRequest::new() };
        let mut answer = self.0.resync(&request).map_err(|error| failed("Resync", error))?;
        refused(answer.failure.take())?;
        Ok(Plan { dry_run, steps: answer.steps })
    }
}

/// About other nodes.
impl Netd {
    pub(crate) fn fleet(&self) -> Result<api::FleetResponse, AskError> {
        let mut answer = self.0.fleet(&api::FleetRequest::new()).map_err(|error| failed("Fleet", error))?;
        refused(answer.failure.take())?;
        Ok(answer)
    }

    pub(crate) fn check_peers(&self, name: String) -> Result<Vec<api::PeerCheck>, AskError> {
        let request = api::CheckPeersRequest { name, ..api::CheckPeersRequest::new() };
        let mut answer = self.0.check_peers(&request).map_err(|error| failed("CheckPeers", error))?;
        refused(answer.failure.take())?;
        Ok(answer.peers)
    }

    pub(crate) fn add_pool(&self, pool: String) -> Result<api::AddPoolResponse, AskError> {
        let request = api::AddPoolRequest { pool, ..api::AddPoolRequest::new() };
        let mut answer = self.0.add_pool(&request).map_err(|error| failed("AddPool", error))?;
        refused(answer.failure.take())?;
        Ok(answer)
    }

    pub(crate) fn remove_node(&self, request: &api::RemoveNodeRequest) -> Result<api::RemoveNodeResponse, AskError> {
        let mut answer = self.0.remove_node(request).map_err(|error| failed("RemoveNode", error))?;
        refused(answer.failure.take())?;
        Ok(answer)
    }
}

/// About policies: answers as they come, for `policy` to read.
impl Netd {
    /// All of them, in as many messages as they need; `brief`: without their texts. What changes meanwhile may be there twice or
    /// not at all.
    pub(crate) fn policies(&self, brief: bool) -> Result<api::PoliciesResponse, AskError> {
        let mut all = api::PoliciesResponse::new();
        let mut from = 0;
        loop {
            let request = api::PoliciesRequest { brief, paged: true, from, ..api::PoliciesRequest::new() };
            let mut answer = self.0.policies(&request).map_err(|error| failed("Policies", error))?;
            refused(answer.failure.take())?;
            all.policies.append(&mut answer.policies);
            all.files.append(&mut answer.files);
            if answer.next <= from {
                return Ok(all);
            }
            from = answer.next;
        }
    }

    pub(crate) fn apply_policies(&self, file: String, text: Vec<u8>) -> Result<api::ApplyPoliciesResponse, AskError> {
        let request = api::ApplyPoliciesRequest { file, text, ..api::ApplyPoliciesRequest::new() };
        let mut answer = self.0.apply_policies(&request).map_err(|error| failed("ApplyPolicies", error))?;
        refused(answer.failure.take())?;
        Ok(answer)
    }

    pub(crate) fn delete_policy(&self, kind: &str, namespace: &str, name: &str) -> Result<(), AskError> {
        let [kind, namespace, name] = [kind, namespace, name].map(str::to_owned);
        let name = api::PolicyName { kind, namespace, name, ..api::PolicyName::new() };
        let request = api::DeletePolicyRequest { name: Some(name).into(), ..api::DeletePolicyRequest::new() };
        let mut answer = self.0.delete_policy(&request).map_err(|error| failed("DeletePolicy", error))?;
        refused(answer.failure.take())
    }

    pub(crate) fn test_policy(&self, request: &api::TestPolicyRequest) -> Result<api::TestPolicyResponse, AskError> {
        let mut answer = self.0.test_policy(request).map_err(|error| failed("TestPolicy", error))?;
        refused(answer.failure.take())?;
        Ok(answer)
    }

    pub(crate) fn reach(&self, file: String, text: Vec<u8>) -> Result<api::ReachResponse, AskError> {
        let request = api::ReachRequest { file, text, ..api::ReachRequest::new() };
        let mut answer = self.0.reach(&request).map_err(|error| failed("Reach", error))?;
        refused(answer.failure.take())?;
        Ok(answer)
    }

    pub(crate) fn drops(&self, after: u64, wait_ms: u32) -> Result<api::DropsResponse, AskError> {
        let request = api::DropsRequest { after, wait_ms, ..api::DropsRequest::new() };
        let mut answer = self.0.drops(&request).map_err(|error| failed("Drops", error))?;
        refused(answer.failure.take())?;
        Ok(answer)
    }
}

fn failed(request: &'static str, source: CallError) -> AskError {
    if source.is_unknown_request() { AskError::Old(request) } else { AskError::Call(source) }
}

fn refused(failure: Option<api::Failure>) -> Result<(), AskError> {
    match failure {
        None => Ok(()),
        Some(failure) if failure.details.is_empty() => Err(AskError::Refused(failure.message)),
        Some(failure) => Err(AskError::Refused(format!("{} ({})", failure.message, failure.details))),
    }
}
