//! The kernel's own notices of tables, chains, rules and sets that went away, and of who did it. Elements are not looked at:
//! they come and go with every attach.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use netlink_sys::SocketAddr;
use netlink_sys::protocols::NETLINK_NETFILTER;
use nix::errno::Errno;
use nix::sys::socket::{setsockopt, sockopt};

use crate::answer::{Answer, answers};
use crate::attributes::attribute;

/// `NFNLGRP_NFTABLES`.
const TABLES: u32 = 7;
const SUBSYSTEM: u16 = 10 << 8;
/// `NFT_MSG_DELTABLE`, `DELCHAIN`, `DELRULE`, `DELSET`.
const DELETED: [u16; 4] = [SUBSYSTEM | 2, SUBSYSTEM | 5, SUBSYSTEM | 8, SUBSYSTEM | 11];
/// `NFT_MSG_NEWGEN`: the end of a transaction.
const GENERATION: u16 = SUBSYSTEM | 15;
/// Header of a netlink message, and of a netfilter message behind it.
const HEADERS: usize = 16 + 4;
/// Room for a burst (octets): a flush of many large tables of others.
const RECEIVE_BUFFER: usize = 4 << 20;

/// Somebody took a part of the table away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// This thread, as the first process namespace counts it, of this program.
    By(u32, String),
    /// There was more to hear than room for it: perhaps somebody did.
    Lost,
}

/// A socket that never blocks and hears of one table name, of any family.
#[derive(Debug)]
pub struct Changes {
    socket: netlink_sys::Socket,
    table: Vec<u8>,
    /// Within the transaction that is being told.
    is_struck: bool,
}

impl Changes {
    /// Listens from now on, in the calling thread's network namespace.
    ///
    /// # Errors
    /// The kernel's.
    pub fn open(table: &str) -> io::Result<Self> {
        let mut socket = netlink_sys::Socket::new(NETLINK_NETFILTER)?;
        socket.bind(&SocketAddr::new(0, 0))?;
        setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER)
            .or_else(|_| setsockopt(&socket, sockopt::RcvBuf, &RECEIVE_BUFFER))?;
        socket.set_non_blocking(true)?;
        socket.add_membership(TABLES)?;
        let table = [table.as_bytes(), &[0]].concat();
        Ok(Self { socket, table, is_struck: false })
    }

    /// The changes of one datagram; none where it told of other things.
    ///
    /// # Errors
    /// `WouldBlock`: nothing was said since. Any other is the socket's end.
    pub fn receive(&mut self) -> io::Result<Vec<Change>> {
        match self.socket.recv_from_full() {
            Ok((datagram, _)) => Ok(self.hear(&datagram)),
            Err(error) if error.raw_os_error() == Some(Errno::ENOBUFS as i32) => Ok(vec![Change::Lost]),
            Err(error) => Err(error),
        }
    }

    fn hear(&mut self, datagram: &[u8]) -> Vec<Change> {
        let mut changes = Vec::new();
        for answer in answers(datagram) {
            let Answer::Object { message, .. } = answer else { continue };
            let kind = message.get(4..).and_then(<[u8]>::first_chunk).map_or(0, |kind| u16::from_ne_bytes(*kind));
            let body = message.get(HEADERS..).unwrap_or_default();
            if kind == GENERATION && std::mem::take(&mut self.is_struck) {
                changes.push(author(body));
            }
            self.is_struck |= DELETED.contains(&kind) && attribute(body, 1) == Some(&self.table);
        }
        changes
    }
}

fn author(generation: &[u8]) -> Change {
    let thread = attribute(generation, 2).and_then(<[u8]>::first_chunk).map_or(0, |pid| u32::from_be_bytes(*pid));
    let name = attribute(generation, 3).unwrap_or_default();
    let name = String::from_utf8_lossy(name).trim_end_matches('\0').to_owned();
    Change::By(thread, name)
}

impl AsFd for Changes {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
