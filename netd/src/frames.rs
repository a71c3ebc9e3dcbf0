//! Records in a file: length (u32, little endian), CRC-32 of the payload, payload (JSON). Which records, and when they are
//! written, is `journal`'s and `lasting`'s.

use std::io;

use serde::Serialize;

/// A payload larger than this is damage (octets).
const LARGEST: usize = 1 << 20;

/// One record as it lies in a file.
pub(crate) fn encode(record: &impl Serialize) -> io::Result<Vec<u8>> {
    let payload = serde_json::to_vec(record)?;
    let length = u32::try_from(payload.len()).map_err(io::Error::other)?;
    let mut frame = length.to_le_bytes().to_vec();
    frame.extend(crc32fast::hash(&payload).to_le_bytes());
    frame.extend(payload);
    Ok(frame)
}

/// The first payload, and what follows it. `None`: the end, or damage.
pub(crate) fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let (crc, rest) = rest.split_first_chunk::<4>()?;
    let length = usize::try_from(u32::from_le_bytes(*length)).ok().filter(|length| *length <= LARGEST)?;
    let (payload, rest) = rest.split_at_checked(length)?;
    (crc32fast::hash(payload) == u32::from_le_bytes(*crc)).then_some((payload, rest))
}
