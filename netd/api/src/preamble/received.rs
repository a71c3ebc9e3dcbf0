//! The daemon's end of the preamble: takes it off a new connection, under a deadline.

use std::io::{self, IoSliceMut};
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, UnixAddr, recvmsg};
use ttrpc::ConnectionDataExt;
use ttrpc::asynchronous::TtrpcContext;

use super::{MAGIC, SIZE};

/// A door writes its preamble at once; who has not by then is none.
const DEADLINE_MS: u16 = 2_000;

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

/// Takes the preamble off a new connection.
#[derive(Debug)]
pub(crate) struct PreambleHook;

impl ttrpc::AcceptHook for PreambleHook {
    fn on_accept(&self, fd: RawFd) -> Result<ttrpc::HookOutput, ttrpc::HookError> {
        let descriptors = receive(fd).map_err(ttrpc::HookError::Io)?;
        let mut data = ttrpc::ConnectionData::new();
        data.insert(KEY.to_owned(), Box::new(Arc::new(descriptors)));
        Ok(ttrpc::HookOutput { data, payload_transform: None })
    }
}

fn receive(socket: RawFd) -> io::Result<Descriptors> {
    let mut bytes = [0_u8; SIZE];
    let mut filled = 0;
    let mut fds = Vec::new();
    while filled < SIZE {
        wait(socket)?;
        let mut control = nix::cmsg_space!([RawFd; 6]);
        let mut slices = [IoSliceMut::new(&mut bytes[filled..])];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_DONTWAIT;
        let message = match recvmsg::<UnixAddr>(socket, &mut slices, Some(&mut control), flags) {
            Ok(message) => message,
            Err(Errno::EAGAIN | Errno::EINTR) => continue,
            Err(error) => return Err(error.into()),
        };
        for part in message.cmsgs()? {
            if let ControlMessageOwned::ScmRights(received) = part {
                fds.extend(received.into_iter().map(own));
            }
        }
        if message.bytes == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        filled += message.bytes;
    }
    sort(&bytes, fds)
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

fn wait(socket: RawFd) -> io::Result<()> {
    #[expect(unsafe_code, reason = "ttrpc hands the connection over as a bare number")]
    // SAFETY: ttrpc keeps the connection open until the hook returns.
    let borrowed = unsafe { BorrowedFd::borrow_raw(socket) };
    let mut ready = [PollFd::new(borrowed, PollFlags::POLLIN)];
    match poll(&mut ready, PollTimeout::from(DEADLINE_MS)) {
        Ok(0) => Err(io::ErrorKind::TimedOut.into()),
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
