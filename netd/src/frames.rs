//! Records in a file: length (u32, little endian), CRC-32 of the payload, payload (JSON). Which records, and when they are
//! written, is `journal`'s and `lasting`'s.

use std::io;

use serde::Serialize;

/// Octets of a payload. A request of the API, which most of a record comes from, has at most 4 MiB.
const LARGEST: usize = 16 << 20;

/// One record as it lies in a file.
///
/// # Errors
/// It is too large to be read back.
pub(crate) fn encode(record: &impl Serialize) -> io::Result<Vec<u8>> {
    let payload = serde_json::to_vec(record)?;
    if payload.len() > LARGEST {
        let too_large = format!("a record of {} bytes is too large: at most {LARGEST}", payload.len());
        return Err(io::Error::new(io::ErrorKind::InvalidData, too_large));
    }
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

/// Whether this is how a file ends when its writer dies: a record begins, and more would have followed.
pub(crate) fn is_torn(bytes: &[u8]) -> bool {
    let Some((length, rest)) = bytes.split_first_chunk::<4>() else { return true };
    let length = u32::from_le_bytes(*length) as usize;
    length <= LARGEST && rest.len() < 4 + length
}
