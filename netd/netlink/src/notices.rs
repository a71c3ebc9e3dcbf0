//! The kernel's own notices of links that went away. What they mean is the reader's business.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

use netlink_packet_route::link::LinkAttribute;
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::SocketAddr;
use netlink_sys::protocols::NETLINK_ROUTE;
use nix::errno::Errno;
use nix::sys::socket::{setsockopt, sockopt};

use crate::answer::{Answer, answers};
use crate::filter::{Heard, hear};
use crate::socket::decode;

/// `RTNLGRP_LINK`.
const LINKS: u32 = 1;
/// `RTM_DELLINK`.
const DELETED: u16 = 17;
/// Room for a burst (octets): a thousand sandboxes that end at once.
const RECEIVE_BUFFER: usize = 4 << 20;

/// What the kernel says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// A link of this namespace is gone: deleted, or moved to another namespace.
    Gone(String),
    /// There were more notices than room for them.
    Lost,
}

/// A socket that never blocks and hears of links in the namespace that it was opened in.
#[derive(Debug)]
pub struct Notices {
    socket: netlink_sys::Socket,
}

impl Notices {
    /// Listens from now on, in the calling thread's network namespace.
    ///
    /// # Errors
    /// The kernel's.
    pub fn open() -> io::Result<Self> {
        let mut socket = netlink_sys::Socket::new(NETLINK_ROUTE)?;
        socket.bind(&SocketAddr::new(0, 0))?;
        setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER)
            .or_else(|_| setsockopt(&socket, sockopt::RcvBuf, &RECEIVE_BUFFER))?;
        socket.set_non_blocking(true)?;
        // Every attach changes links a dozen times; woken for each, the reader would take time from it.
        hear(&socket, Heard::Only(&[DELETED]))?;
        socket.add_membership(LINKS)?;
        Ok(Self { socket })
    }

    /// The notices of one datagram; none where it told of other things.
    ///
    /// # Errors
    /// `WouldBlock`: nothing was said since. Any other is the socket's end.
    pub fn receive(&self) -> io::Result<Vec<Notice>> {
        match self.socket.recv_from_full() {
            Ok((datagram, _)) => Ok(answers(&datagram).iter().filter_map(gone).collect()),
            Err(error) if error.raw_os_error() == Some(Errno::ENOBUFS as i32) => Ok(vec![Notice::Lost]),
            Err(error) => Err(error),
        }
    }
}

impl AsRawFd for Notices {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

impl std::os::fd::AsFd for Notices {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn gone(answer: &Answer) -> Option<Notice> {
    let Answer::Object { message, .. } = answer else { return None };
    if *message.get(4..)?.first_chunk()? != DELETED.to_ne_bytes() {
        return None;
    }
    let RouteNetlinkMessage::DelLink(link) = decode(message).ok()?? else { return None };
    // A port that leaves its bridge is told in the same words, as the bridge's (net/bridge/br_netlink.c).
    if link.header.interface_family == AddressFamily::Bridge {
        return None;
    }
    let name = |one: LinkAttribute| if let LinkAttribute::IfName(name) = one { Some(name) } else { None };
    link.attributes.into_iter().find_map(name).map(Notice::Gone)
}
