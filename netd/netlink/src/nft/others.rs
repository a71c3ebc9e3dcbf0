//! The kernel's own notices that somebody changed chains or rules of a table that is not ours. What they are now is asked
//! for afterwards: notices come in thousands where a firewall is loaded.

use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::Arc;

use netlink_sys::SocketAddr;
use netlink_sys::protocols::NETLINK_NETFILTER;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::request::SUBSYSTEM;
use crate::answer::{Answer, answers};
use crate::attributes::attribute;
use crate::filter::{Heard, hear};

/// `NFNLGRP_NFTABLES`.
const TABLES: u32 = 7;
/// `NFT_MSG_NEWSETELEM`, `DELSETELEM`, `NEWGEN`: every attach makes these, and no firewall begins with them.
const OURS: [u16; 3] = [SUBSYSTEM | 12, SUBSYSTEM | 14, SUBSYSTEM | 15];
/// `NFT_MSG_NEWTABLE`, `DELTABLE`, `NEWCHAIN`, `DELCHAIN`, `NEWRULE`, `DELRULE`.
const STRUCTURE: [u16; 6] = [SUBSYSTEM, SUBSYSTEM | 2, SUBSYSTEM | 3, SUBSYSTEM | 5, SUBSYSTEM | 6, SUBSYSTEM | 8];
/// Header of a netlink message, and of a netfilter message behind it.
const HEADERS: usize = 16 + 4;

/// A socket that never blocks and hears of all tables but those of one name.
#[derive(Debug)]
pub struct Others {
    socket: Arc<netlink_sys::Socket>,
    ours: Vec<u8>,
    /// A word for each time that it was deaf.
    missed: PipeReader,
}

/// Makes [`Others`] deaf for a while.
#[derive(Debug)]
pub struct Deafness {
    socket: Arc<netlink_sys::Socket>,
    missing: PipeWriter,
}

impl Others {
    /// Listens from now on, in the calling thread's network namespace.
    ///
    /// # Errors
    /// The kernel's.
    pub fn open(ours: &str) -> io::Result<Self> {
        Self::with_deafness(ours).map(|(others, _)| others)
    }

    /// The same, and what makes it deaf.
    ///
    /// # Errors
    /// The kernel's.
    pub fn with_deafness(ours: &str) -> io::Result<(Self, Deafness)> {
        let mut socket = netlink_sys::Socket::new(NETLINK_NETFILTER)?;
        socket.bind(&SocketAddr::new(0, 0))?;
        socket.set_non_blocking(true)?;
        hear(&socket, Heard::AllBut(&OURS))?;
        socket.add_membership(TABLES)?;
        let (socket, (missed, missing)) = (Arc::new(socket), io::pipe()?);
        fcntl(&missing, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        let deafness = Deafness { socket: Arc::clone(&socket), missing };
        Ok((Self { socket, ours: [ours.as_bytes(), &[0]].concat(), missed }, deafness))
    }

    /// What is ready to be read when there is something to hear.
    #[must_use]
    pub fn ears(&self) -> [BorrowedFd<'_>; 2] {
        [self.socket.as_fd(), self.missed.as_fd()]
    }

    /// Whether anything was changed, by all that was said since.
    ///
    /// # Errors
    /// The socket's end.
    pub fn receive(&self) -> io::Result<bool> {
        let mut is_changed = self.has_missed()?;
        loop {
            match self.socket.recv_from_full() {
                Ok((datagram, _)) => is_changed |= answers(&datagram).iter().any(|answer| self.is_of_others(answer)),
                // More was said than there was room for.
                Err(error) if error.raw_os_error() == Some(Errno::ENOBUFS as i32) => is_changed = true,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(is_changed),
                Err(error) => return Err(error),
            }
        }
    }

    fn has_missed(&self) -> io::Result<bool> {
        let mut polled = [PollFd::new(self.missed.as_fd(), PollFlags::POLLIN)];
        poll(&mut polled, PollTimeout::ZERO)?;
        let has_missed = polled[0].revents().is_some_and(|is| is.contains(PollFlags::POLLIN));
        if has_missed {
            (&self.missed).read_exact(&mut [0])?;
        }
        Ok(has_missed)
    }

    fn is_of_others(&self, answer: &Answer) -> bool {
        let Answer::Object { message, .. } = answer else { return false };
        let kind = message.get(4..).and_then(<[u8]>::first_chunk).map_or(0, |kind| u16::from_ne_bytes(*kind));
        let table = message.get(HEADERS..).and_then(|body| attribute(body, 1));
        STRUCTURE.contains(&kind) && table != Some(self.ours.as_slice())
    }
}

impl Deafness {
    /// Does something of which nothing is heard. While somebody listens, the kernel makes a notice for each element of a
    /// transaction, and keeps all of them to its end: that took as long as the transaction itself. What others did
    /// meanwhile may have been missed, and counts as a change.
    pub fn during<T>(&self, work: impl FnOnce() -> T) -> T {
        // Who cannot leave hears.
        let is_deaf = self.set_membership(libc::NETLINK_DROP_MEMBERSHIP).is_ok();
        let done = work();
        if is_deaf {
            // Refused only of a group that is not there (`netlink_setsockopt`).
            drop(self.set_membership(libc::NETLINK_ADD_MEMBERSHIP));
            // A pipe that is full has said it.
            drop((&self.missing).write(&[0]));
        }
        done
    }

    fn set_membership(&self, option: libc::c_int) -> io::Result<()> {
        let group = TABLES;
        let size = libc::socklen_t::try_from(size_of_val(&group)).map_err(io::Error::other)?;
        #[expect(unsafe_code, reason = "nix has no wrapper for memberships of netlink")]
        // SAFETY: the kernel reads a number of `size` octets, which outlives the call.
        let done = unsafe {
            libc::setsockopt(self.socket.as_raw_fd(), libc::SOL_NETLINK, option, (&raw const group).cast(), size)
        };
        if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}
