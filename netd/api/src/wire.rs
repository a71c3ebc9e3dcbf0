//! One unary ttrpc call over a blocking socket. What is called is the client's business.
//!
//! The runtime's own blocking client starts two threads a connection, which a door that makes one call pays for.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, setsockopt, socket, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};
use protobuf::Message;
use thiserror::Error;
use ttrpc::proto::{MESSAGE_HEADER_LENGTH, MESSAGE_LENGTH_MAX, MESSAGE_TYPE_RESPONSE};
use ttrpc::{Code, MessageHeader, Request, Response};

/// Longer than any attach; a door's caller has its own limit.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A request had no answer.
#[derive(Debug, Error)]
pub enum CallError {
    /// The connection broke, or `PATIENCE` ran out.
    #[error("netd did not answer {method}; is it stopping? (`systemctl status netd`, `journalctl -u netd -e`)")]
    Unanswered {
        /// What was called.
        method: &'static str,
        /// How the connection failed.
        source: io::Error,
    },
    /// The message is longer than ttrpc allows.
    #[error("cannot send {method} to netd: {length} bytes are more than the {MESSAGE_LENGTH_MAX} of a message")]
    TooLong {
        /// What was called.
        method: &'static str,
        /// Bytes of the request.
        length: usize,
    },
    /// netd does not know the method, or could not read the request.
    #[error("netd refused {method}: {message}; are netd and its client of the same version?")]
    Refused {
        /// What was called.
        method: &'static str,
        /// netd's words.
        message: String,
        /// Whether it does not have the method: it is older than its caller.
        is_unknown: bool,
    },
    /// The answer is not what was asked for.
    #[error("cannot read netd's answer to {method}; are netd and its client of the same version?")]
    Undecodable {
        /// What was called.
        method: &'static str,
        /// Where it fails.
        source: protobuf::Error,
    },
}

impl CallError {
    /// Whether netd does not know the request: it is older than its caller.
    #[must_use]
    pub fn is_unknown_request(&self) -> bool {
        matches!(self, Self::Refused { is_unknown: true, .. })
    }
}

/// A connection that carries one call at a time. A call that has no answer ends it: what came later could be taken for
/// the answer to the next.
#[derive(Debug)]
pub(crate) struct Wire {
    stream: UnixStream,
    last_id: u32,
}

impl Wire {
    /// Connects to the socket. No step on it takes longer than `patience`: not a full backlog, not a silent netd.
    pub(crate) fn connect(path: &Path, patience: Duration) -> io::Result<Self> {
        let address = UnixAddr::new(path)?;
        let fd = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
        let patience = TimeVal::milliseconds(i64::try_from(patience.as_millis()).map_err(io::Error::other)?);
        setsockopt(&fd, sockopt::SendTimeout, &patience)?;
        setsockopt(&fd, sockopt::ReceiveTimeout, &patience)?;
        connect(fd.as_raw_fd(), &address)?;
        // Client streams are odd; the first is 1.
        Ok(Self { stream: fd.into(), last_id: u32::MAX })
    }

    pub(crate) fn as_raw_fd(&self) -> RawFd {
        self.stream.as_raw_fd()
    }

    /// Calls `method` of `service` and waits for its answer.
    pub(crate) fn call<Q: Message, A: Message>(
        &mut self,
        service: &str,
        method: &'static str,
        question: &Q,
    ) -> Result<A, CallError> {
        let undecodable = |source| CallError::Undecodable { method, source };
        let request = Request {
            service: service.to_owned(),
            method: method.to_owned(),
            payload: question.write_to_bytes().map_err(undecodable)?,
            timeout_nano: i64::try_from(PATIENCE.as_nanos()).unwrap_or(i64::MAX),
            ..Request::default()
        };
        let body = request.write_to_bytes().map_err(undecodable)?;
        let too_long = CallError::TooLong { method, length: body.len() };
        let Some(length) = u32::try_from(body.len()).ok().filter(|_| body.len() <= MESSAGE_LENGTH_MAX) else {
            return Err(too_long);
        };
        let answer = self.exchange(length, &body).map_err(|source| {
            // Nothing is lost where the peer has gone already.
            drop(self.stream.shutdown(Shutdown::Both));
            CallError::Unanswered { method, source: in_words(source) }
        })?;
        let response = Response::parse_from_bytes(&answer).map_err(undecodable)?;
        let status = response.status.get_or_default();
        if status.code() != Code::OK {
            // The server's words for a method that its service does not have; netd itself never answers so.
            let is_unknown = matches!(status.code(), Code::NOT_FOUND | Code::UNIMPLEMENTED);
            return Err(CallError::Refused { method, message: status.message.clone(), is_unknown });
        }
        A::parse_from_bytes(&response.payload).map_err(undecodable)
    }

    fn exchange(&mut self, length: u32, body: &[u8]) -> io::Result<Vec<u8>> {
        self.last_id = self.last_id.wrapping_add(2);
        let mut frame: Vec<u8> = MessageHeader::new_request(self.last_id, length).into();
        frame.extend_from_slice(body);
        self.stream.write_all(&frame)?;
        let mut header = [0; MESSAGE_HEADER_LENGTH];
        self.stream.read_exact(&mut header)?;
        let header = MessageHeader::from(header);
        let length = usize::try_from(header.length).map_err(io::Error::other)?;
        let is_ours = header.type_ == MESSAGE_TYPE_RESPONSE && header.stream_id == self.last_id;
        if !is_ours || length > MESSAGE_LENGTH_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "what came is no answer to this request"));
        }
        let mut answer = vec![0; length];
        self.stream.read_exact(&mut answer)?;
        Ok(answer)
    }
}

/// What the ways in which a netd goes away mean; the standard library tells of buffers and resources.
fn in_words(error: io::Error) -> io::Error {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof, WouldBlock};
    let kind = error.kind();
    if matches!(kind, UnexpectedEof | ConnectionReset | BrokenPipe) {
        io::Error::new(kind, "it hung up")
    } else if kind == WouldBlock {
        io::Error::new(kind, "it was silent for too long")
    } else {
        error
    }
}

#[cfg(test)]
mod tests;
