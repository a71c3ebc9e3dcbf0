//! One connection to the runtime, pure: bytes in, events out. Reading, writing and acting are `door`'s work.

use protobuf::Message as _;
use thiserror::Error;

use crate::frame::{self, FrameDecoder, FrameError, PLUGIN, RUNTIME};
use crate::message::{self, Answer, Message, MessageDecoder, MessageError};
use crate::request::Request;
use crate::wire::nri::RegisterPluginRequest;
use crate::wire::ttrpc::Response;

const SERVICE: &str = "nri.pkg.api.v1alpha1.Runtime";
/// The NRI whose calls we know.
const NRI_VERSION: &str = "v0.12.0";

/// Under which name and place we register.
#[derive(Debug, Clone)]
pub struct Identity {
    /// Letters, digits and `_.+-`.
    pub name: String,
    /// Two digits; plugins are called in this order.
    pub index: String,
}

/// What the runtime said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// It takes us; `Configure` and `Synchronize` follow, or came already.
    Registered,
    /// It wants something.
    Asked {
        /// For the answer.
        stream: u32,
        /// What.
        request: Request,
    },
}

/// The connection is of no more use.
#[derive(Debug, Error)]
pub enum SessionError {
    /// See [`FrameError`].
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// See [`MessageError`].
    #[error(transparent)]
    Message(#[from] MessageError),
    /// The runtime does not take us.
    #[error("the runtime refuses the plugin: {message} (code {code}); are --name and --index well formed?")]
    Refused {
        /// A gRPC code.
        code: i32,
        /// The runtime's words.
        message: String,
    },
}

/// The state of a connection.
#[derive(Debug, Default)]
pub struct Session {
    frames: FrameDecoder,
    calls: MessageDecoder,
    replies: MessageDecoder,
}

impl Session {
    /// Takes what the socket gave.
    pub fn push(&mut self, bytes: &[u8]) {
        self.frames.push(bytes);
    }

    /// The next thing the runtime said, if it is whole.
    ///
    /// # Errors
    /// See [`SessionError`]: close the connection.
    pub fn pull(&mut self) -> Result<Option<Event>, SessionError> {
        loop {
            while let Some(message) = self.calls.pull()? {
                if let Message::Request { stream, request } = message {
                    return Ok(Some(Event::Asked { stream, request: Request::read(&request) }));
                }
            }
            while let Some(message) = self.replies.pull()? {
                if let Message::Response(response) = message {
                    return registered(response).map(Some);
                }
            }
            let Some(frame) = self.frames.pull()? else { return Ok(None) };
            match frame.connection {
                PLUGIN => self.calls.push(&frame.payload),
                RUNTIME => self.replies.push(&frame.payload),
                // The runtime drops such frames too: a connection is neither opened nor closed.
                _ => {}
            }
        }
    }
}

/// The one call we make is `RegisterPlugin`.
fn registered(response: Response) -> Result<Event, SessionError> {
    let status = response.status.unwrap_or_default();
    if status.code == 0 {
        return Ok(Event::Registered);
    }
    Err(SessionError::Refused { code: status.code, message: status.message })
}

/// The first bytes on a new connection.
///
/// # Errors
/// The name is longer than a message may be.
pub fn register(identity: &Identity) -> Result<Vec<u8>, MessageError> {
    let request = RegisterPluginRequest {
        plugin_name: identity.name.clone(),
        plugin_idx: identity.index.clone(),
        nri_version: NRI_VERSION.to_owned(),
        ..RegisterPluginRequest::default()
    };
    Ok(frame::encode(RUNTIME, &message::request(SERVICE, "RegisterPlugin", request.write_to_bytes()?)?))
}

/// The bytes that answer a call.
///
/// # Errors
/// The answer is longer than a message may be.
pub fn answer(stream: u32, answer: Answer) -> Result<Vec<u8>, MessageError> {
    Ok(frame::encode(PLUGIN, &message::response(stream, answer)?))
}

#[cfg(test)]
mod tests;
