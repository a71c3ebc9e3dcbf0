//! The kernel's own notices that somebody changed chains or rules of a table that is not ours. What they are now is asked
//! for afterwards: notices come in thousands where a firewall is loaded.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use netlink_sys::SocketAddr;
use netlink_sys::protocols::NETLINK_NETFILTER;
use nix::errno::Errno;

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
    socket: netlink_sys::Socket,
    ours: Vec<u8>,
}

impl Others {
    /// Listens from now on, in the calling thread's network namespace.
    ///
    /// # Errors
    /// The kernel's.
    pub fn open(ours: &str) -> io::Result<Self> {
        let mut socket = netlink_sys::Socket::new(NETLINK_NETFILTER)?;
        socket.bind(&SocketAddr::new(0, 0))?;
        socket.set_non_blocking(true)?;
        hear(&socket, Heard::AllBut(&OURS))?;
        socket.add_membership(TABLES)?;
        Ok(Self { socket, ours: [ours.as_bytes(), &[0]].concat() })
    }

    /// Whether anything was changed, by all that was said since.
    ///
    /// # Errors
    /// The socket's end.
    pub fn receive(&self) -> io::Result<bool> {
        let mut is_changed = false;
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

    fn is_of_others(&self, answer: &Answer) -> bool {
        let Answer::Object { message, .. } = answer else { return false };
        let kind = message.get(4..).and_then(<[u8]>::first_chunk).map_or(0, |kind| u16::from_ne_bytes(*kind));
        let table = message.get(HEADERS..).and_then(|body| attribute(body, 1));
        STRUCTURE.contains(&kind) && table != Some(self.ours.as_slice())
    }
}

impl AsFd for Others {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
