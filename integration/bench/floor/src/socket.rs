//! A netlink socket that sends a batch and waits for the answer to its last message.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, setsockopt, socket, sockopt,
};

use crate::wire::{Batch, acknowledgements};

#[derive(Debug)]
pub(crate) struct Socket(OwnedFd);

impl Socket {
    /// Opens a socket in the calling thread's network namespace.
    pub(crate) fn open(protocol: SockProtocol) -> io::Result<Self> {
        let fd = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
        Ok(Self(fd))
    }

    /// Room for what a transaction needs beyond the default.
    pub(crate) fn widen(&self) -> io::Result<()> {
        Ok(setsockopt(&self.0, sockopt::SndBufForce, &(1 << 20))?)
    }

    /// Sends the batch; its message number `awaited` asked for an acknowledgement.
    pub(crate) fn carry_out(&self, batch: &Batch, awaited: u32) -> io::Result<()> {
        sendto(self.0.as_raw_fd(), &batch.bytes, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
        let mut buffer = [0; 8192];
        loop {
            let length = recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
            for (sequence, errno) in acknowledgements(&buffer[..length]) {
                if errno != 0 {
                    let text = format!("message {sequence}: {}", io::Error::from_raw_os_error(errno));
                    return Err(io::Error::other(text));
                }
                if sequence == awaited {
                    return Ok(());
                }
            }
        }
    }
}
