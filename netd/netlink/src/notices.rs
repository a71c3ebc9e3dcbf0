//! The kernel's own notices of links and routes that went away. What they mean is the reader's business.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

use ipnet::IpNet;
use netlink_packet_route::link::LinkAttribute;
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage};
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
/// `RTNLGRP_IPV4_ROUTE`, `RTNLGRP_IPV6_ROUTE`.
const ROUTES: [u32; 2] = [7, 11];
/// `RTM_DELLINK`.
const DELETED: u16 = 17;
/// `RTM_DELROUTE`.
const ROUTE_DELETED: u16 = 25;
/// Room for a burst (octets): a thousand sandboxes that end at once.
const RECEIVE_BUFFER: usize = 4 << 20;

/// What the kernel says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// A link of this namespace is gone: deleted, or moved to another namespace.
    Gone(String),
    /// A route of this namespace is gone.
    Unrouted {
        /// To where.
        to: IpNet,
        /// Whose it was, by its protocol number.
        protocol: u8,
    },
    /// There were more notices than room for them.
    Lost,
}

/// A socket that never blocks and hears of what goes away in the namespace that it was opened in.
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

    /// Hears of routes too. Links that are detached take some along, each of which wakes the reader.
    ///
    /// # Errors
    /// The kernel's.
    pub fn with_routes(self) -> io::Result<Self> {
        hear(&self.socket, Heard::Only(&[DELETED, ROUTE_DELETED]))?;
        ROUTES.into_iter().try_for_each(|group| self.socket.add_membership(group))?;
        Ok(self)
    }

    /// The notices of one datagram; none where it told of other things.
    ///
    /// # Errors
    /// `WouldBlock`: nothing was said since. Any other is the socket's end.
    pub fn receive(&self) -> io::Result<Vec<Notice>> {
        match self.socket.recv_from_full() {
            Ok((datagram, _)) => Ok(answers(&datagram).iter().filter_map(Notice::read).collect()),
            Err(error) if error.raw_os_error() == Some(Errno::ENOBUFS as i32) => Ok(vec![Notice::Lost]),
            Err(error) => Err(error),
        }
    }
}

impl Notice {
    /// Reads any message of the kernel's; `None`: it tells of other things, or nothing that can be read.
    #[must_use]
    pub fn read(answer: &Answer) -> Option<Self> {
        let Answer::Object { message, .. } = answer else { return None };
        let kind = u16::from_ne_bytes(*message.get(4..)?.first_chunk()?);
        if kind != DELETED && kind != ROUTE_DELETED {
            return None;
        }
        let object = decode(message).ok()??;
        if let RouteNetlinkMessage::DelRoute(route) = &object {
            return unrouted(route);
        }
        let RouteNetlinkMessage::DelLink(link) = object else { return None };
        // A port that leaves its bridge is told in the same words, as the bridge's (net/bridge/br_netlink.c).
        if link.header.interface_family == AddressFamily::Bridge {
            return None;
        }
        let name = |one: LinkAttribute| if let LinkAttribute::IfName(name) = one { Some(name) } else { None };
        link.attributes.into_iter().find_map(name).map(Self::Gone)
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

/// The default route has no destination, and is nobody's here.
fn unrouted(route: &RouteMessage) -> Option<Notice> {
    let to = route.attributes.iter().find_map(|one| {
        let RouteAttribute::Destination(to) = one else { return None };
        if let RouteAddress::Inet(v4) = to {
            Some(IpAddr::from(*v4))
        } else if let RouteAddress::Inet6(v6) = to {
            Some(IpAddr::from(*v6))
        } else {
            None
        }
    })?;
    let to = IpNet::new(to, route.header.destination_prefix_length).ok()?;
    Some(Notice::Unrouted { to, protocol: route.header.protocol.into() })
}
