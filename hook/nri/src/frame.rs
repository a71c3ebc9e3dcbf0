//! NRI's multiplexer, pure: bytes of the socket to frames and back. What a frame carries is `message`'s work.
//!
//! ```text
//! u32 connection │ u32 length │ payload      big endian; one socket carries many connections
//! ```

use thiserror::Error;

/// The connection on which the runtime calls us.
pub const PLUGIN: u32 = 1;
/// The connection on which we call the runtime.
pub const RUNTIME: u32 = 2;
/// The longest payload that the runtime sends, in bytes: a whole ttrpc message.
pub const LONGEST_RECEIVED: usize = 10 + (4 << 20);
/// The longest payload we send, in bytes. The runtime reads through a buffer of this size, and its multiplexer fails a
/// read whose buffer is smaller than the frame; only inside a long message would more be safe.
pub const LONGEST_SENT: usize = 4096;

const HEADER: usize = 8;

/// One piece of one connection's byte stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Whose bytes these are.
    pub connection: u32,
    /// The bytes; the borders between frames mean nothing.
    pub payload: Vec<u8>,
}

/// The bytes are not NRI's.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("a frame of {length} bytes on connection {connection}: is this NRI's socket?")]
pub struct FrameError {
    /// Whose frame it was.
    pub connection: u32,
    /// How long it claims to be.
    pub length: usize,
}

/// Puts frames together from bytes that come in pieces of any size. Holds at most one unfinished frame beside what was
/// pushed last.
#[derive(Debug, Default)]
pub struct FrameDecoder(Vec<u8>);

impl FrameDecoder {
    /// Takes what the socket gave.
    pub fn push(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// The next whole frame.
    ///
    /// # Errors
    /// The frame is longer than any that a runtime sends; nothing behind it can be read.
    pub fn pull(&mut self) -> Result<Option<Frame>, FrameError> {
        let Some(([a, b, c, d, e, f, g, h], rest)) = self.0.split_first_chunk::<HEADER>() else { return Ok(None) };
        let connection = u32::from_be_bytes([*a, *b, *c, *d]);
        let length = u32::from_be_bytes([*e, *f, *g, *h]) as usize;
        if length > LONGEST_RECEIVED {
            return Err(FrameError { connection, length });
        }
        if rest.len() < length {
            return Ok(None);
        }
        let payload = rest[..length].to_vec();
        self.0.drain(..HEADER + length);
        Ok(Some(Frame { connection, payload }))
    }
}

/// `bytes` in frames that any runtime can read.
#[must_use]
pub fn encode(connection: u32, bytes: &[u8]) -> Vec<u8> {
    let mut encoded = Vec::with_capacity(bytes.len() + HEADER);
    for piece in bytes.chunks(LONGEST_SENT) {
        encoded.extend(connection.to_be_bytes());
        #[expect(clippy::cast_possible_truncation, reason = "a piece has at most LONGEST_SENT bytes")]
        encoded.extend((piece.len() as u32).to_be_bytes());
        encoded.extend(piece);
    }
    encoded
}

#[cfg(test)]
mod tests;
