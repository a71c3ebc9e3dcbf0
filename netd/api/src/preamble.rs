//! Descriptors ahead of the first request: ttrpc carries none. One preamble a connection, of fixed size.
//!
//! `netd`, version, count, one tag a descriptor (6 bytes), the descriptors beside it by `SCM_RIGHTS`.

use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

use nix::sys::socket::{ControlMessage, MsgFlags, UnixAddr, sendmsg};

#[cfg(feature = "server")]
mod received;
#[cfg(feature = "server")]
pub(crate) use received::receive;
#[cfg(feature = "server")]
pub use received::{Descriptors, descriptors};

const SIZE: usize = 12;
const MAGIC: &[u8; 5] = b"netd\x01";

/// What a descriptor is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Tag {
    /// The caller's own network namespace.
    CallerNetns = 1,
    /// `CNI_NETNS`, opened where the caller is.
    SandboxNetns = 2,
    /// host-local's data directory, opened where the caller is.
    IpamDirectory = 3,
}

/// Sends the preamble; at most six descriptors.
pub(crate) fn send(socket: RawFd, descriptors: &[(Tag, BorrowedFd<'_>)]) -> io::Result<()> {
    let mut bytes = [0_u8; SIZE];
    bytes[..5].copy_from_slice(MAGIC);
    bytes[5] = u8::try_from(descriptors.len()).map_err(io::Error::other)?;
    for (slot, (tag, _)) in bytes[6..].iter_mut().zip(descriptors) {
        *slot = *tag as u8;
    }
    let fds: Vec<RawFd> = descriptors.iter().map(|(_, fd)| fd.as_raw_fd()).collect();
    let rights = [ControlMessage::ScmRights(&fds)];
    let control: &[ControlMessage<'_>] = if fds.is_empty() { &[] } else { &rights };
    sendmsg::<UnixAddr>(socket, &[IoSlice::new(&bytes)], control, MsgFlags::MSG_NOSIGNAL, None)?;
    Ok(())
}
