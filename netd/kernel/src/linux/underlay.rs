//! What lies under the fabric: the way to another node's address, what this kernel can wrap packets in, and what its tunnels
//! have sent. Who the other nodes are is not looked at.

use std::io;
use std::net::IpAddr;

use ipnet::IpNet;
use netd_config::LinkName;
use netd_netlink::{NetlinkError, Socket};
use netlink_packet_route::RouteNetlinkMessage as Message;
use netlink_packet_route::link::{LinkAttribute, LinkMessage};
use netlink_packet_route::route::{RouteAttribute, RouteFlags, RouteMessage, RouteType};

use super::fabric::{self, Names};
use super::messages::{by_name, remove_address, route_to};
use super::observe::{self, mtu_of, name};
use super::{index, refused, sysctls};
use crate::object::Encapsulation;
use crate::seam::KernelError;

/// The way that packets to an address take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Path {
    /// The link that they leave by.
    pub link: String,
    /// Octets, of that link.
    pub mtu: u32,
    /// Octets, where less is known to pass: as the route says, or a router of whom a packet was too large.
    pub narrow: Option<u32>,
    /// The address that they are sent from, where the kernel has one for them.
    pub source: Option<IpAddr>,
    /// The router that they go to first; `None`: the address is on the link.
    pub router: Option<IpAddr>,
}

/// What a tunnel device has carried since it was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Carried {
    /// Packets that went into it.
    pub sent: u64,
    /// Packets that came out of it.
    pub received: u64,
}

/// Asks the kernel of the namespace that it was opened in.
#[derive(Debug)]
pub struct Underlay {
    socket: Socket,
    names: Names,
}

impl Underlay {
    /// Opens the calling thread's network namespace. `link_prefix`: that of netd's links.
    ///
    /// # Errors
    /// The kernel's.
    pub fn open(link_prefix: &str) -> io::Result<Self> {
        Ok(Self { socket: Socket::open()?, names: Names::new(link_prefix)? })
    }

    /// The way to `address`. `None`: there is none, or the address is this node's own.
    ///
    /// # Errors
    /// The kernel cannot be asked.
    pub fn path(&mut self, address: IpAddr) -> Result<Option<Path>, KernelError> {
        let mut request = route_to(address);
        if let Message::GetRoute(route) = &mut request {
            // Not the entry of the table: what becomes of a packet.
            route.header.flags.remove(RouteFlags::FibMatch);
        }
        let found = match self.socket.fetch(request) {
            Ok(Message::NewRoute(route)) => route,
            Ok(_) | Err(NetlinkError::Refused { .. }) => return Ok(None),
            Err(error) => return Err(refused(format!("ask for the route to {address}"), error)),
        };
        let Some(device) = outgoing(&found).filter(|_| found.header.kind == RouteType::Unicast) else {
            return Ok(None);
        };
        let mut request = LinkMessage::default();
        request.header.index = device;
        let link = match self.socket.fetch(Message::GetLink(request)) {
            Ok(Message::NewLink(link)) => link,
            // It went away meanwhile.
            Ok(_) | Err(NetlinkError::Refused { .. }) => return Ok(None),
            Err(error) => return Err(refused(format!("ask for the link to {address}"), error)),
        };
        let source = found.attributes.iter().find_map(|one| {
            if let RouteAttribute::PrefSource(address) = one { observe::address(address) } else { None }
        });
        let (name, mtu) = (name(&link).unwrap_or_default().to_owned(), mtu_of(&link));
        Ok(Some(Path { link: name, mtu, narrow: fabric::mtu(&found), source, router: fabric::gateway(&found) }))
    }

    /// Whether the kernel has tunnels of this kind, or a module for them.
    pub fn can(&mut self, encapsulation: Encapsulation) -> bool {
        fabric::is_known(&mut self.socket, encapsulation)
    }

    /// What our tunnel device of this kind has carried; `None`: there is none.
    pub fn carried(&mut self, encapsulation: Encapsulation) -> Option<Carried> {
        let Ok(Message::NewLink(link)) = self.socket.fetch(by_name(self.names.of(encapsulation))) else { return None };
        let counted = |one: &LinkAttribute| {
            if let LinkAttribute::Stats64(stats) = one {
                Some(Carried { sent: stats.tx_packets, received: stats.rx_packets })
            } else {
                None
            }
        };
        link.attributes.iter().find_map(counted)
    }

    /// The name of our tunnel device of this kind.
    #[must_use]
    pub fn device(&self, encapsulation: Encapsulation) -> &LinkName {
        self.names.of(encapsulation)
    }

    /// From now on a bridge answers at once for IPv4 addresses that are reached elsewhere (arp(7), `proxy_arp`): sandboxes may take
    /// them for their neighbours'. What it asks for is what the kernel has a route for by another link.
    ///
    /// # Errors
    /// The kernel's; a bridge that is not there is none.
    pub fn answer_on(&mut self, bridge: &LinkName) -> Result<(), KernelError> {
        sysctls::answer(bridge)
    }

    /// Takes an address of ours from a bridge: what is not given out here any more must not look as if it were. Says whether
    /// it was there. `is_remembered`: netd has given it, which counts where the kernel keeps no marks.
    ///
    /// # Errors
    /// The kernel's.
    pub fn withdraw(&mut self, bridge: &LinkName, address: IpNet, is_remembered: bool) -> Result<bool, KernelError> {
        let Ok(index) = index(&mut self.socket, bridge) else { return Ok(false) };
        let is_ours = observe::is_our_address(&mut self.socket, index, address)
            .map_err(|error| refused("read the node's addresses".to_owned(), error))?;
        if !is_ours.unwrap_or(is_remembered) {
            return Ok(false);
        }
        match self.socket.execute(vec![(remove_address(index, address), 0)]) {
            Err(NetlinkError::Refused { source, .. })
                if matches!(source.raw_os_error(), Some(libc::EADDRNOTAVAIL | libc::ENODEV)) =>
            {
                Ok(false)
            }
            done => done
                .map(|()| true)
                .map_err(|error| refused(format!("take address {address} from bridge {bridge}"), error)),
        }
    }
}

fn outgoing(route: &RouteMessage) -> Option<u32> {
    route.attributes.iter().find_map(|one| if let RouteAttribute::Oif(index) = one { Some(*index) } else { None })
}
