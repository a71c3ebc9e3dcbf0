//! What the runtime asks, in either dialect, as one enum; and the answer, where it needs no work. The work is `door`'s.

use std::time::Duration;

use protobuf::Message as _;

use crate::message::{Answer, INVALID_ARGUMENT, UNIMPLEMENTED};
use crate::pod::Pod;
use crate::wire::{nri, ttrpc};

/// NRI's name for what we serve.
pub const SERVICE: &str = "nri.pkg.api.v1alpha1.Plugin";
/// RunPodSandbox, StopPodSandbox, RemovePodSandbox; nothing about containers.
const EVENTS: i32 = 0x7;
/// NRI's own, where the runtime does not tell its own.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);

/// A call of the runtime.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// The handshake: who the runtime is, and how long it waits for an answer.
    Configure {
        /// Name and version.
        runtime: String,
        /// A plugin that takes longer is thrown out.
        timeout: Duration,
    },
    /// A piece of the list of all pods.
    Synchronize {
        /// The pods of this piece.
        pods: Vec<Pod>,
        /// Another piece follows.
        more: bool,
    },
    /// A pod's sandbox runs, attached by CNI; no container of it does yet.
    Ran(Pod),
    /// A pod's processes have ended; CNI DEL follows.
    Stopped(Pod),
    /// A pod is gone, its namespace too.
    Removed(Pod),
    /// Nothing to do with networks.
    Irrelevant,
    /// Not in any NRI that we know.
    Unknown(String),
    /// A payload that is not what the method takes.
    Undecodable {
        /// The method.
        method: String,
        /// Whether the runtime would fail a pod for an error here.
        fails_pod: bool,
        /// What is wrong with it.
        why: String,
    },
}

impl Request {
    /// Reads a call.
    #[must_use]
    pub fn read(call: &ttrpc::Request) -> Self {
        if call.service != SERVICE {
            return Self::Unknown(format!("{}/{}", call.service, call.method));
        }
        Self::decode(&call.method, &call.payload).unwrap_or_else(|error| Self::Undecodable {
            method: call.method.clone(),
            fails_pod: !matches!(call.method.as_str(), "Configure" | "Synchronize"),
            why: error.to_string(),
        })
    }

    fn decode(method: &str, payload: &[u8]) -> protobuf::Result<Self> {
        let about = |event: fn(Pod) -> Self| {
            nri::PodSandboxRequest::parse_from_bytes(payload).map(|request| about_pod(request.pod, event))
        };
        Ok(match method {
            "Configure" => configured(&nri::ConfigureRequest::parse_from_bytes(payload)?),
            "Synchronize" => {
                let request = nri::SynchronizeRequest::parse_from_bytes(payload)?;
                Self::Synchronize { pods: request.pods.into_iter().map(Pod::from).collect(), more: request.more }
            }
            "RunPodSandbox" => about(Self::Ran)?,
            "StopPodSandbox" => about(Self::Stopped)?,
            "RemovePodSandbox" => about(Self::Removed)?,
            "StateChange" => changed(nri::StateChangeEvent::parse_from_bytes(payload)?),
            "Shutdown"
            | "UpdatePodSandbox"
            | "PostUpdatePodSandbox"
            | "CreateContainer"
            | "PostCreateContainer"
            | "StartContainer"
            | "PostStartContainer"
            | "UpdateContainer"
            | "PostUpdateContainer"
            | "StopContainer"
            | "RemoveContainer"
            | "ValidateContainerAdjustment" => Self::Irrelevant,
            _ => Self::Unknown(method.to_owned()),
        })
    }

    /// The answer. An event is never refused: containerd 2.0 and 2.1 leave the pause process of such a pod behind, and a
    /// pod that must not have a network has none from netd.
    #[must_use]
    pub fn answer(&self) -> Answer {
        match self {
            Self::Configure { .. } => {
                encoded(&nri::ConfigureResponse { events: EVENTS, ..nri::ConfigureResponse::default() })
            }
            Self::Synchronize { more, .. } => {
                encoded(&nri::SynchronizeResponse { more: *more, ..nri::SynchronizeResponse::default() })
            }
            Self::Ran(_) | Self::Stopped(_) | Self::Removed(_) | Self::Irrelevant => Answer::Done(Vec::new()),
            Self::Unknown(method) => {
                Answer::Refused { code: UNIMPLEMENTED, message: format!("netd-hook does not know {method}") }
            }
            Self::Undecodable { fails_pod: true, .. } => Answer::Done(Vec::new()),
            Self::Undecodable { method, why, .. } => Answer::Refused {
                code: INVALID_ARGUMENT,
                message: format!("cannot read the payload of {method}: {why}"),
            },
        }
    }
}

fn encoded(message: &impl protobuf::Message) -> Answer {
    message
        .write_to_bytes()
        .map_or_else(|error| Answer::Refused { code: INVALID_ARGUMENT, message: error.to_string() }, Answer::Done)
}

fn configured(request: &nri::ConfigureRequest) -> Request {
    let told = u64::try_from(request.request_timeout).unwrap_or_default();
    let timeout = if told == 0 { REQUEST_TIMEOUT } else { Duration::from_millis(told) };
    Request::Configure { runtime: format!("{} {}", request.runtime_name, request.runtime_version), timeout }
}

fn changed(event: nri::StateChangeEvent) -> Request {
    match event.event.enum_value() {
        Ok(nri::Event::RUN_POD_SANDBOX) => about_pod(event.pod, Request::Ran),
        Ok(nri::Event::STOP_POD_SANDBOX) => about_pod(event.pod, Request::Stopped),
        Ok(nri::Event::REMOVE_POD_SANDBOX) => about_pod(event.pod, Request::Removed),
        Ok(nri::Event::UNKNOWN) | Err(_) => Request::Irrelevant,
    }
}

/// An event about no pod is about nothing.
fn about_pod(pod: protobuf::MessageField<nri::PodSandbox>, event: fn(Pod) -> Request) -> Request {
    pod.into_option().filter(|pod| !pod.id.is_empty()).map_or(Request::Irrelevant, |pod| event(Pod::from(pod)))
}

#[cfg(test)]
mod tests;
