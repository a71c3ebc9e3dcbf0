//! Messages as octets. One is a flag octet (compressed: never), its length (u32, big endian), and itself (gRPC over HTTP/2,
//! "Length-Prefixed-Message").

use bytes::{Buf, Bytes, BytesMut};
use protobuf::Message;

use crate::error::CallError;

/// Flag and length.
const PREFIX: usize = 5;

/// Octets as they come, until they are whole messages.
#[derive(Debug)]
pub struct Incoming {
    octets: BytesMut,
    largest: usize,
}

impl Incoming {
    /// Nothing yet, of messages of up to `largest` octets.
    #[must_use]
    pub fn new(largest: usize) -> Self {
        Self { octets: BytesMut::new(), largest }
    }

    /// Takes what came.
    pub fn push(&mut self, octets: &[u8]) {
        self.octets.extend_from_slice(octets);
    }

    /// Nothing of another message has come.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.octets.is_empty()
    }

    /// The next message, once it is there as a whole.
    ///
    /// # Errors
    /// [`CallError::Garbled`], before more of it is taken.
    pub fn whole(&mut self) -> Result<Option<Bytes>, CallError> {
        let Some((prefix, _)) = self.octets.split_first_chunk::<PREFIX>() else { return Ok(None) };
        let [flag, length @ ..] = *prefix;
        let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
        if flag != 0 || length > self.largest {
            return Err(CallError::Garbled(format!("a message of {length} bytes with flag {flag}")));
        }
        if self.octets.len() - PREFIX < length {
            return Ok(None);
        }
        self.octets.advance(PREFIX);
        Ok(Some(self.octets.split_to(length).freeze()))
    }
}

pub(crate) fn frame(message: &impl Message) -> Result<Bytes, CallError> {
    let garbled = |error: String| CallError::Garbled(error);
    let body = message.write_to_bytes().map_err(|error| garbled(error.to_string()))?;
    let length = u32::try_from(body.len()).map_err(|error| garbled(error.to_string()))?;
    Ok([&[0], length.to_be_bytes().as_slice(), &body].concat().into())
}
