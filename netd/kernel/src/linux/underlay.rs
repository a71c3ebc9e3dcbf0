//! What lies under the fabric: the way to another node's address, the node's own addresses, and what this kernel can wrap packets
//! in. Who the other nodes are is not looked at.

use std::io;
use std::net::IpAddr;

use ipnet::IpNet;
use netd_config::LinkName;
use netd_netlink::{NetlinkError, Socket};
use netlink_packet_route::RouteNetlinkMessage as Message;
use netlink_packet_route::address::{AddressAttribute, AddressMessage, AddressScope};
use netlink_packet_route::link::{InfoKind, LinkMessage};
use netlink_packet_route::route::{RouteAttribute, RouteFlags, RouteMessage, RouteType};

use super::fabric::{self, Names};
use super::messages::{remove_address, route_to};
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

/// An address of this node's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Own {
    /// The address.
    pub address: IpAddr,
    /// Where it is the end of a line between two: the other end.
    pub opposite: Option<IpAddr>,
    /// Its link's number.
    pub link: u32,
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
        let Some(link) = self.link(device)? else { return Ok(None) };
        let source = found.attributes.iter().find_map(|one| {
            if let RouteAttribute::PrefSource(address) = one { observe::address(address) } else { None }
        });
        let (name, mtu) = (name(&link).unwrap_or_default().to_owned(), mtu_of(&link));
        Ok(Some(Path { link: name, mtu, narrow: fabric::mtu(&found), source, router: fabric::gateway(&found) }))
    }

    /// The node's own addresses, but for those that are good for one link only.
    ///
    /// # Errors
    /// The kernel cannot be asked.
    pub fn own(&mut self) -> Result<Vec<Own>, KernelError> {
        let all = self.socket.dump(&Message::GetAddress(AddressMessage::default()), own);
        all.map_err(|error| refused("read the node's addresses".to_owned(), error))
    }

    /// The name of a link by which other hosts may be reached, and whether it is a bridge, on which sandboxes may hang. `None`:
    /// netd made it, or it is gone.
    ///
    /// # Errors
    /// The kernel cannot be asked.
    pub fn outer(&mut self, number: u32) -> Result<Option<(String, bool)>, KernelError> {
        let Some(link) = self.link(number)? else { return Ok(None) };
        let is_bridge = observe::kind(&link) == Some(&InfoKind::Bridge);
        Ok(name(&link).filter(|_| !observe::is_marked(&link)).map(|name| (name.to_owned(), is_bridge)))
    }

    /// `None`: it went away.
    fn link(&mut self, number: u32) -> Result<Option<LinkMessage>, KernelError> {
        let mut request = LinkMessage::default();
        request.header.index = number;
        match self.socket.fetch(Message::GetLink(request)) {
            Ok(Message::NewLink(link)) => Ok(Some(link)),
            Ok(_) | Err(NetlinkError::Refused { .. }) => Ok(None),
            Err(error) => Err(refused(format!("ask for link {number}"), error)),
        }
    }

    /// Whether the kernel has tunnels of this kind, or a module for them.
    pub fn can(&mut self, encapsulation: Encapsulation) -> bool {
        fabric::is_known(&mut self.socket, encapsulation)
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

fn own(object: Message) -> Option<Own> {
    let Message::NewAddress(message) = object else { return None };
    let local = |one: &AddressAttribute| if let AddressAttribute::Local(local) = one { Some(*local) } else { None };
    let told = |one: &AddressAttribute| if let AddressAttribute::Address(told) = one { Some(*told) } else { None };
    let told = message.attributes.iter().find_map(told);
    let address = message.attributes.iter().find_map(local).or(told)?;
    let is_of_use = message.header.scope == AddressScope::Universe && !address.is_loopback();
    is_of_use.then_some(Own { address, opposite: told.filter(|told| *told != address), link: message.header.index })
}

fn outgoing(route: &RouteMessage) -> Option<u32> {
    route.attributes.iter().find_map(|one| if let RouteAttribute::Oif(index) = one { Some(*index) } else { None })
}
