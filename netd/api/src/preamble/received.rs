//! The daemon's end of the preamble: takes it off a new connection, under a deadline.

use std::io::{self, IoSliceMut};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::socket::{ControlMessageOwned, MsgFlags, UnixAddr, recvmsg};
use ttrpc::asynchronous::TtrpcContext;
use ttrpc::{ConnectionData, ConnectionDataExt};

use super::{MAGIC, SIZE};

/// A door writes its preamble at once; who has not by then is none.
const DEADLINE: Duration = Duration::from_secs(2);

/// The descriptors that came with a connection.
#[derive(Debug, Default)]
pub struct Descriptors {
    /// The caller's own network namespace.
    pub caller_netns: Option<OwnedFd>,
    /// `CNI_NETNS`.
    pub sandbox_netns: Option<OwnedFd>,
    /// host-local's data directory.
    pub ipam_dir: Option<OwnedFd>,
}

const KEY: &str = "netd.descriptors";

/// The descriptors of the connection that a request came by.
#[must_use]
pub fn descriptors(context: &TtrpcContext) -> Arc<Descriptors> {
    context.connection_data.get_typed::<Arc<Descriptors>>(KEY).cloned().unwrap_or_default()
}

/// Takes the preamble off a new connection, for the context of its requests.
pub(crate) fn receive(stream: &UnixStream) -> io::Result<ConnectionData> {
    stream.set_read_timeout(Some(DEADLINE))?;
    let descriptors = gather(stream)?;
    stream.set_read_timeout(None)?;
    let mut data = ConnectionData::new();
    data.insert(KEY.to_owned(), Box::new(Arc::new(descriptors)));
    Ok(data)
}

fn gather(stream: &UnixStream) -> io::Result<Descriptors> {
    let mut bytes = [0_u8; SIZE];
    let mut filled = 0;
    let mut fds = Vec::new();
    while filled < SIZE {
        match take(stream, &mut bytes[filled..], &mut fds)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            taken => filled += taken,
        }
    }
    sort(&bytes, fds)
}

fn take(stream: &UnixStream, bytes: &mut [u8], fds: &mut Vec<OwnedFd>) -> io::Result<usize> {
    let mut control = nix::cmsg_space!([RawFd; 6]);
    let mut slices = [IoSliceMut::new(bytes)];
    let message = recvmsg::<UnixAddr>(stream.as_raw_fd(), &mut slices, Some(&mut control), MsgFlags::MSG_CMSG_CLOEXEC)?;
    for part in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(received) = part {
            fds.extend(received.into_iter().map(own));
        }
    }
    Ok(message.bytes)
}

fn sort(bytes: &[u8; SIZE], fds: Vec<OwnedFd>) -> io::Result<Descriptors> {
    if !bytes.starts_with(MAGIC) || usize::from(bytes[5]) != fds.len() || fds.len() > SIZE - 6 {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "not a netd preamble: is the door of another version?"));
    }
    let mut descriptors = Descriptors::default();
    for (tag, fd) in bytes[6..].iter().zip(fds) {
        match *tag {
            1 => descriptors.caller_netns = Some(fd),
            2 => descriptors.sandbox_netns = Some(fd),
            3 => descriptors.ipam_dir = Some(fd),
            // A newer door's: closed again.
            _ => drop(fd),
        }
    }
    Ok(descriptors)
}

#[expect(unsafe_code, reason = "a received descriptor is a bare number")]
fn own(fd: RawFd) -> OwnedFd {
    // SAFETY: the kernel has just made this descriptor for us by SCM_RIGHTS, and nobody else knows its number.
    unsafe { OwnedFd::from_raw_fd(fd) }
}
