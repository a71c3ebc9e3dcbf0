//! What an attach and a detach take of the kernel, in netd's order: rules, then links, then the sandbox's end.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use anyhow::{Context, Result};
use nix::net::if_::if_nametoindex;
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockProtocol, SockType, SockaddrStorage, bind, listen, setsockopt, socket,
    sockopt,
};

use crate::messages::{self, Home, Inside};
use crate::socket::Socket;
use crate::wire::Batch;

const INTERFACE: &str = "eth0";
/// Indices from here on are ours to choose.
const FIRST_INDEX: u32 = 10_000;
/// `NFT_TABLE_F_OWNER` and `NFT_TABLE_F_PERSIST`.
const OWNED: u32 = 2 | 4;

/// One attach.
#[derive(Debug)]
pub(crate) struct Order {
    number: u32,
    netns: String,
    address: Ipv4Addr,
    prefix: u8,
    gateway: Ipv4Addr,
    port: u16,
}

impl Order {
    pub(crate) fn parse(number: &str, netns: &str, address: &str, gateway: &str, port: &str) -> Result<Self> {
        let (address, prefix) =
            address.split_once('/').context("the address has no prefix; write it as 10.4.0.2/16")?;
        Ok(Self {
            number: number.parse()?,
            netns: netns.to_owned(),
            address: address.parse()?,
            prefix: prefix.parse()?,
            gateway: gateway.parse()?,
            port: port.parse()?,
        })
    }
}

/// The two open sockets, and what has to be known for a detach.
#[derive(Debug)]
pub(crate) struct Floor {
    links: Socket,
    rules: Socket,
    own_netns: File,
    /// Without one, links are routed.
    bridge: Option<Bridge>,
    table: String,
    attached: BTreeMap<u32, Attached>,
}

#[derive(Debug)]
struct Bridge {
    name: String,
    index: u32,
}

#[derive(Debug)]
struct Attached {
    address: Ipv4Addr,
    port: u16,
    listeners: [OwnedFd; 2],
}

impl Bridge {
    #[expect(clippy::disallowed_methods, reason = "it was made just now")]
    fn find(name: &str) -> Result<Self> {
        let index = if_nametoindex(name).with_context(|| format!("there is no bridge {name}"))?;
        Ok(Self { name: name.to_owned(), index })
    }
}

impl Floor {
    /// On a node whose bridge, if one is named, and ruleset stand.
    pub(crate) fn open(bridge: Option<&str>, table: &str) -> Result<Self> {
        let rules = Socket::open(SockProtocol::NetlinkNetFilter)?;
        rules.widen()?;
        for family in messages::TABLES {
            adopt(&rules, family, table).with_context(|| format!("cannot use the table {table}"))?;
        }
        Ok(Self {
            links: Socket::open(SockProtocol::NetlinkRoute)?,
            rules,
            own_netns: File::open("/proc/thread-self/ns/net")?,
            bridge: bridge.map(Bridge::find).transpose()?,
            table: table.to_owned(),
            attached: BTreeMap::new(),
        })
    }

    pub(crate) fn add(&mut self, order: Order) -> Result<()> {
        let netns = File::open(&order.netns).with_context(|| format!("cannot open {}", order.netns))?;
        let listeners = [
            listener(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), order.port))?,
            listener(SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), order.port))?,
        ];
        self.elements(messages::NEW_ELEMENTS, order.number, order.address, order.port)?;
        let mut batch = Batch::default();
        let (name, index) = (name_of(order.number), FIRST_INDEX + order.number);
        let bridge = self.bridge.as_ref().map(|bridge| bridge.index);
        messages::pair(&mut batch, (&name, index), bridge, INTERFACE, netns.as_raw_fd(), order.address);
        if bridge.is_none() {
            messages::way(&mut batch, index, order.address, order.gateway);
        }
        self.links.carry_out(&batch, batch.last).context("cannot make the pair")?;
        self.inside(&netns, &order).context("cannot configure the sandbox")?;
        self.attached.insert(order.number, Attached { address: order.address, port: order.port, listeners });
        Ok(())
    }

    fn inside(&self, netns: &File, order: &Order) -> Result<()> {
        let mut batch = Batch::default();
        let Order { address, prefix, gateway, .. } = *order;
        messages::interface(&mut batch, Inside { address, prefix, gateway, routed: self.bridge.is_none() });
        setns(netns.as_fd(), CloneFlags::CLONE_NEWNET)?;
        let socket = Socket::open(SockProtocol::NetlinkRoute);
        setns(self.own_netns.as_fd(), CloneFlags::CLONE_NEWNET)?;
        Ok(socket?.carry_out(&batch, batch.last)?)
    }

    /// No packet passes any more, the rules and listening sockets are gone.
    pub(crate) fn shut(&mut self, number: u32) -> Result<()> {
        let gone = self.attached.remove(&number).with_context(|| format!("{number} is not attached"))?;
        let mut batch = Batch::default();
        match self.bridge {
            Some(_) => messages::shut(&mut batch, FIRST_INDEX + number),
            None => messages::close(&mut batch, gone.address),
        }
        self.links.carry_out(&batch, batch.last).context("cannot shut the port")?;
        self.elements(messages::DELETE_ELEMENTS, number, gone.address, gone.port)?;
        drop(gone.listeners);
        Ok(())
    }

    pub(crate) fn unlink(&mut self, number: u32) -> Result<()> {
        let mut batch = Batch::default();
        messages::unlink(&mut batch, FIRST_INDEX + number);
        self.links.carry_out(&batch, batch.last).context("cannot delete the link")
    }

    fn elements(&self, kind: u16, number: u32, address: Ipv4Addr, port: u16) -> Result<()> {
        let mut batch = Batch::default();
        let own = name_of(number);
        let home = match &self.bridge {
            Some(bridge) => Home { link: &bridge.name, routed: false, own: &own },
            None => Home { link: &own, routed: true, own: &own },
        };
        messages::elements(&mut batch, kind, &self.table, home, address, port);
        self.rules.carry_out(&batch, batch.last - 1).context("cannot change the rules")
    }
}

fn name_of(number: u32) -> String {
    format!("nd{number:x}")
}

/// Where the kernel has no owners, the table is open to all.
fn adopt(rules: &Socket, family: u8, table: &str) -> Result<()> {
    let with = |flags| {
        let mut batch = Batch::default();
        messages::adopt(&mut batch, family, table, flags);
        rules.carry_out(&batch, batch.last - 1)
    };
    Ok(with(OWNED).or_else(|_| with(0))?)
}

fn listener(address: SocketAddr) -> Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let fd = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, SockProtocol::Tcp)?;
    if address.is_ipv6() {
        setsockopt(&fd, sockopt::Ipv6V6Only, &true)?;
    }
    setsockopt(&fd, sockopt::ReuseAddr, &true)?;
    bind(fd.as_raw_fd(), &SockaddrStorage::from(address)).with_context(|| format!("cannot take {address}"))?;
    listen(&fd, Backlog::new(64)?)?;
    Ok(fd)
}
