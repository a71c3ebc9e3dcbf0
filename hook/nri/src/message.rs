//! ttrpc on one connection, pure: bytes to messages and back. Which call a message is, is `request`'s work.
//!
//! ```text
//! u32 length │ u32 stream │ u8 kind │ u8 flags │ payload      big endian; a stream is one call
//! ```

use protobuf::Message as _;
use thiserror::Error;

use crate::wire::ttrpc::{Request, Response, Status};

/// The longest payload ttrpc allows, in bytes.
pub const LONGEST: usize = 4 << 20;
/// gRPC's code for a payload that cannot be read.
pub const INVALID_ARGUMENT: i32 = 3;
/// gRPC's code for a method that is not there. The runtime falls back to an older dialect on it; any other code is a
/// failed pod.
pub const UNIMPLEMENTED: i32 = 12;

const HEADER: usize = 10;
const REQUEST: u8 = 1;
const RESPONSE: u8 = 2;

/// One message of a connection.
#[derive(Debug, Clone, PartialEq)]
pub enum Message {
    /// The peer calls.
    Request {
        /// Which call.
        stream: u32,
        /// What is called, with what.
        request: Request,
    },
    /// The peer answers.
    Response(Response),
    /// A part of a streaming call: NRI has none.
    Other,
}

/// The bytes are not ttrpc's.
#[derive(Debug, Error)]
pub enum MessageError {
    /// Longer than ttrpc allows.
    #[error("a ttrpc message of {0} bytes, where {LONGEST} are allowed")]
    TooLong(usize),
    /// The envelope is broken.
    #[error("cannot read a ttrpc message")]
    Undecodable(#[from] protobuf::Error),
}

/// Puts messages together from pieces of any size. Holds at most one unfinished message beside what was pushed last.
#[derive(Debug, Default)]
pub struct MessageDecoder(Vec<u8>);

impl MessageDecoder {
    /// Takes a frame's payload.
    pub fn push(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// The next whole message.
    ///
    /// # Errors
    /// See [`MessageError`]; nothing behind it can be read.
    pub fn pull(&mut self) -> Result<Option<Message>, MessageError> {
        let Some(([a, b, c, d, e, f, g, h, kind, _flags], rest)) = self.0.split_first_chunk::<HEADER>() else {
            return Ok(None);
        };
        let length = u32::from_be_bytes([*a, *b, *c, *d]) as usize;
        let stream = u32::from_be_bytes([*e, *f, *g, *h]);
        if length > LONGEST {
            return Err(MessageError::TooLong(length));
        }
        let Some(payload) = rest.get(..length) else { return Ok(None) };
        let message = match *kind {
            REQUEST => Message::Request { stream, request: Request::parse_from_bytes(payload)? },
            RESPONSE => Message::Response(Response::parse_from_bytes(payload)?),
            _ => Message::Other,
        };
        self.0.drain(..HEADER + length);
        Ok(Some(message))
    }
}

/// A call of `method`, the first on its connection.
///
/// # Errors
/// `payload` is too long to be sent.
pub fn request(service: &str, method: &str, payload: Vec<u8>) -> Result<Vec<u8>, MessageError> {
    let request = Request { service: service.to_owned(), method: method.to_owned(), payload, ..Request::default() };
    // Streams that a client opens have odd numbers.
    encode(1, REQUEST, &request.write_to_bytes()?)
}

/// The answer to the call on `stream`.
///
/// # Errors
/// `answer` is too long to be sent.
pub fn response(stream: u32, answer: Answer) -> Result<Vec<u8>, MessageError> {
    let mut response = Response::new();
    match answer {
        Answer::Done(payload) => response.payload = payload,
        Answer::Refused { code, message } => {
            response.status = Some(Status { code, message, ..Status::default() }).into();
        }
    }
    encode(stream, RESPONSE, &response.write_to_bytes()?)
}

/// How a call went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Well, with this encoded message.
    Done(Vec<u8>),
    /// Badly.
    Refused {
        /// A gRPC code.
        code: i32,
        /// For people.
        message: String,
    },
}

fn encode(stream: u32, kind: u8, payload: &[u8]) -> Result<Vec<u8>, MessageError> {
    let length = u32::try_from(payload.len()).ok().filter(|_| payload.len() <= LONGEST);
    let length = length.ok_or(MessageError::TooLong(payload.len()))?;
    let mut encoded = Vec::with_capacity(HEADER + payload.len());
    encoded.extend(length.to_be_bytes());
    encoded.extend(stream.to_be_bytes());
    encoded.extend([kind, 0]);
    encoded.extend(payload);
    Ok(encoded)
}

#[cfg(test)]
mod tests;
