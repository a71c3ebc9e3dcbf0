//! The node's side of published ports: one listening socket each, so that nobody else takes the port and port pickers see
//! it. The ruleset leads packets to the sandbox before they get here; what comes here is [`proxy`]'s.
//!
//! Under a service manager the sockets outlive netd ([`store`]): while it is away, connections to them wait. Otherwise they
//! end with it, connections are refused, and another process may take a port; the ruleset leads it to its sandbox all the
//! same.

mod gate;
mod proxy;
mod reserver;
mod store;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use netd_config::{PortMapping, Protocol};
use netd_kernel::Publication;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, Backlog, Shutdown, SockFlag, SockProtocol, SockType, SockaddrStorage, bind, listen, setsockopt,
    shutdown, socket, sockopt,
};
use thiserror::Error;

use crate::attachment::{Attachment, AttachmentKey};
use crate::node::{at_all, places};
pub use gate::Gate;
use proxy::{Accepting, Doorman};
use reserver::Reserver;
pub use store::Store;

/// An attachment that publishes more ports than this has no sockets: at two a port, a range would use up descriptors.
pub const MOST_HELD: usize = 256;

/// Why a port cannot be published.
#[derive(Debug, Error)]
pub enum PortError {
    /// Somebody listens there.
    #[error(
        "cannot publish {publication} for {key}: another process of this node uses the port; `ss -lnp` names it: stop it, or take another port"
    )]
    Taken {
        /// Who asked.
        key: Box<AttachmentKey>,
        /// Which.
        publication: Publication,
    },
    /// The kernel said no.
    #[error("cannot reserve {publication} for {key}; is {} an address of this node?", publication.address)]
    Io {
        /// Who asked.
        key: Box<AttachmentKey>,
        /// Which.
        publication: Publication,
        /// Why.
        source: io::Error,
    },
}

/// One reserved port.
#[derive(Debug)]
enum Held {
    /// A TCP socket that listens, and is accepted on. The descriptor is there where the socket is in the store too.
    Accepting(Accepting, Option<Arc<OwnedFd>>),
    /// A socket that is only there.
    Bound(Arc<OwnedFd>),
    /// nerdctl's hook holds it while the container runs.
    ByReserver(Reserver),
}

impl Held {
    /// Lets go: where the store has nothing of it, the port is free when this returns.
    fn end(self) {
        if let Self::Accepting(accepting, stored) = self {
            drop(accepting);
            if let Some(socket) = stored {
                // It listens no more, whoever else has it. One that did not listen is none to shut.
                shutdown(socket.as_raw_fd(), Shutdown::Both).ok();
            }
        }
    }

    fn to_store(&self) -> Option<Arc<OwnedFd>> {
        match self {
            Self::Accepting(_, stored) => stored.clone(),
            Self::Bound(socket) => Some(Arc::clone(socket)),
            Self::ByReserver(_) => None,
        }
    }
}

/// Of one attachment, which has few: a tree of its own would have room for eleven.
type Sockets = Vec<(Publication, Held)>;

/// All reserved ports of this node.
#[derive(Debug)]
pub struct Ports {
    held: Mutex<BTreeMap<AttachmentKey, Sockets>>,
    nerdctl: PathBuf,
    store: Arc<Store>,
    gate: Gate,
    /// From the first port on.
    doorman: Mutex<Option<Doorman>>,
}

impl Default for Ports {
    fn default() -> Self {
        Self::new(Path::new("/run/nerdctl"))
    }
}

impl Ports {
    /// None yet. `nerdctl`: where nerdctl keeps the process ids of its port reservers.
    #[must_use]
    pub fn new(nerdctl: &Path) -> Self {
        Self {
            held: Mutex::default(),
            nerdctl: nerdctl.to_owned(),
            store: Arc::default(),
            gate: Gate::default(),
            doorman: Mutex::default(),
        }
    }

    /// The same, where `gate` says who passes by netd itself.
    #[must_use]
    pub fn with_gate(self, gate: Gate) -> Self {
        Self { gate, ..self }
    }

    /// The same, with sockets that outlive netd where `store` does.
    #[must_use]
    pub fn with_store(self, store: Store) -> Self {
        Self { store: Arc::new(store), ..self }
    }

    /// Lets go of sockets that were kept for ports which nobody publishes any more.
    pub async fn leave_unclaimed(&self) {
        self.store.remove(self.store.unclaimed()).await;
    }

    /// Reserves what the attachment publishes, and lets go of what it published before. Reserved already is success.
    ///
    /// # Errors
    /// See [`PortError`]; what was reserved before stays, nothing new does.
    pub async fn hold(&self, attachment: &Attachment) -> Result<(), PortError> {
        let wanted = sockets(attachment);
        let (mut new, mut taken) = (Sockets::new(), Vec::new());
        for publication in self.missing(&attachment.key, &wanted) {
            match self.reserve(attachment, publication) {
                Ok(held) => new.extend(held.map(|held| (publication, held))),
                Err(PortError::Taken { .. }) => taken.push(publication),
                Err(error) => {
                    self.let_go(new).await;
                    return Err(error);
                }
            }
        }
        match self.borrow(attachment, taken).await {
            Ok(borrowed) => new.extend(borrowed),
            Err(error) => {
                self.let_go(new).await;
                return Err(error);
            }
        }
        let stored = new.iter().filter_map(|(publication, held)| Some((*publication, held.to_store()?))).collect();
        let old = self.exchange(&attachment.key, &wanted, new);
        self.store.put(stored).await;
        self.let_go(old).await;
        Ok(())
    }

    async fn let_go(&self, sockets: Sockets) {
        let stored = sockets.iter().filter(|(_, held)| held.to_store().is_some());
        let stored = stored.map(|(publication, _)| *publication).collect();
        sockets.into_iter().for_each(|(_, held)| held.end());
        self.store.remove(stored).await;
    }

    /// Lets go of all ports of an attachment.
    pub async fn release(&self, key: &AttachmentKey) {
        let held = self.lock().remove(key);
        self.let_go(held.unwrap_or_default()).await;
    }

    fn missing(&self, key: &AttachmentKey, wanted: &[Publication]) -> Vec<Publication> {
        let all = self.lock();
        let held: BTreeSet<Publication> = all.get(key).into_iter().flatten().filter_map(ours).collect();
        let has = |publication: &Publication| held.contains(publication);
        wanted.iter().filter(|publication| !has(publication)).copied().collect()
    }

    /// Puts new sockets beside those that are still wanted; returns the others.
    fn exchange(&self, key: &AttachmentKey, wanted: &[Publication], new: Sockets) -> Sockets {
        let mut all = self.lock();
        let (mut kept, old) =
            all.remove(key).unwrap_or_default().into_iter().partition::<Sockets, _>(|(one, _)| wanted.contains(one));
        // What a reserver held is netd's own now.
        kept.retain(|(one, _)| !new.iter().any(|(instead, _)| instead == one));
        kept.extend(new);
        if !kept.is_empty() {
            kept.shrink_to_fit();
            all.insert(key.clone(), kept);
        }
        old
    }

    /// Attachments with ports that nerdctl's reserver held when they were asked for, and has died since. Reads files.
    #[must_use]
    pub fn left_behind(&self) -> Vec<AttachmentKey> {
        let of = |held: &Sockets| {
            held.iter().find_map(|(_, one)| if let Held::ByReserver(reserver) = one { Some(*reserver) } else { None })
        };
        let borrowed: Vec<_> = self.lock().iter().filter_map(|(key, held)| Some((key.clone(), of(held)?))).collect();
        borrowed.into_iter().filter(|(_, reserver)| !reserver.lives()).map(|(key, _)| key).collect()
    }

    /// Number of reserved ports, one an address family.
    #[must_use]
    pub fn count(&self) -> usize {
        self.lock().values().map(Vec::len).sum()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<AttachmentKey, Sockets>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn accept(&self, socket: OwnedFd, target: Option<SocketAddr>) -> io::Result<Accepting> {
        let mut doorman = self.doorman.lock().unwrap_or_else(PoisonError::into_inner);
        let doorman = match &mut *doorman {
            Some(doorman) => doorman,
            none => none.insert(Doorman::start(self.gate.clone(), proxy::MOST)?),
        };
        doorman.accept(socket, target)
    }

    /// What is taken by the reserver of the attachment's own container is taken for it. The tables of all sockets of the node
    /// are read, on the blocking pool and once for all ports.
    async fn borrow(&self, attachment: &Attachment, taken: Vec<Publication>) -> Result<Sockets, PortError> {
        let Some(first) = taken.first().copied() else { return Ok(Sockets::new()) };
        let failed = |publication| PortError::Taken { key: Box::new(attachment.key.clone()), publication };
        let (nerdctl, container, asked) = (self.nerdctl.clone(), attachment.key.container.clone(), taken.clone());
        let look = tokio::task::spawn_blocking(move || {
            let reserver = Reserver::of(&nerdctl, &container)?;
            Some((reserver, reserver.held_of(&asked)))
        });
        let (reserver, held) = look.await.ok().flatten().ok_or_else(|| failed(first))?;
        match taken.iter().find(|one| !held.contains(one)) {
            Some(others) => Err(failed(*others)),
            None => Ok(taken.into_iter().map(|one| (one, Held::ByReserver(reserver))).collect()),
        }
    }

    /// `None`: no socket is needed.
    fn reserve(&self, attachment: &Attachment, publication: Publication) -> Result<Option<Held>, PortError> {
        let key = || Box::new(attachment.key.clone());
        let failed = |source| PortError::Io { key: key(), publication, source };
        match self.store.take(publication).map_or_else(|| open(publication), Ok) {
            Ok(socket) if publication.protocol == Protocol::Tcp => {
                let target = proxy_target(attachment, publication);
                let twin = self.store.is_there().then(|| socket.try_clone().map(Arc::new));
                let twin = twin.transpose().map_err(failed)?;
                Ok(Some(Held::Accepting(self.accept(socket, target).map_err(failed)?, twin)))
            }
            Ok(socket) => Ok(Some(Held::Bound(Arc::new(socket)))),
            Err(error) if is_needless(&attachment.ports, publication, error) => Ok(None),
            Err(Errno::EADDRINUSE) => Err(PortError::Taken { key: key(), publication }),
            Err(error) => Err(PortError::Io { key: key(), publication, source: error.into() }),
        }
    }
}

/// What is reserved, if by netd's own socket.
fn ours((publication, held): &(Publication, Held)) -> Option<Publication> {
    (!matches!(held, Held::ByReserver(_))).then_some(*publication)
}

/// The sockets that reserve an attachment's ports: on both families for a port without host address, since what comes by
/// a family that the sandbox lacks is proxied.
fn sockets(attachment: &Attachment) -> Vec<Publication> {
    if attachment.ports.len() > MOST_HELD {
        return Vec::new();
    }
    // Not every kernel has SCTP sockets; the ruleset publishes such ports all the same.
    let ports = attachment.ports.iter().filter(|port| port.protocol != Protocol::Sctp);
    let all: BTreeSet<Publication> = ports.flat_map(places).collect();
    // A socket at all addresses leaves no room for one at a single address, and needs none beside it.
    let is_alone = |one: &&Publication| one.address.is_unspecified() || !all.contains(&at_all(one));
    all.iter().filter(is_alone).copied().collect()
}

/// Whether a socket that cannot be is none that anybody misses: a node without IPv6 (`ipv6.disable=1`) has no such sockets, and
/// a port without a host address is published where the node has addresses.
fn is_needless(ports: &[PortMapping], publication: Publication, error: Errno) -> bool {
    let names_it = |port: &PortMapping| port.host_ip.is_some() && places(port).contains(&publication);
    error == Errno::EAFNOSUPPORT && publication.address.is_ipv6() && !ports.iter().any(names_it)
}

/// Where a connection that comes to our socket goes: to the sandbox's address of the same family, else to its other one.
/// IPv4 is the ruleset's alone: nothing of it may come here.
fn proxy_target(attachment: &Attachment, publication: Publication) -> Option<SocketAddr> {
    if publication.address.is_ipv4() {
        return None;
    }
    let same = |port: &&PortMapping| places(port).contains(&publication);
    let port = attachment.ports.iter().find(same)?;
    let mut addresses: Vec<IpAddr> = attachment.addresses().collect();
    addresses.sort_by_key(IpAddr::is_ipv4);
    addresses.first().map(|address| SocketAddr::new(*address, port.container))
}

/// What netd passes on that comes to its sockets, where the ruleset does not lead it away before.
pub(crate) fn proxied(attachment: &Attachment) -> Vec<(Publication, SocketAddr)> {
    let tcp = sockets(attachment).into_iter().filter(|one| one.protocol == Protocol::Tcp);
    tcp.filter_map(|one| Some((one, proxy_target(attachment, one)?))).collect()
}

fn open(publication: Publication) -> nix::Result<OwnedFd> {
    let address = SockaddrStorage::from(SocketAddr::new(publication.address, publication.port));
    let family = if publication.address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let (kind, protocol) = match publication.protocol {
        Protocol::Tcp => (SockType::Stream, Some(SockProtocol::Tcp)),
        Protocol::Udp => (SockType::Datagram, Some(SockProtocol::Udp)),
        Protocol::Sctp => (SockType::Stream, None),
    };
    let fd = socket(family, kind, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, protocol)?;
    if publication.address.is_ipv6() {
        setsockopt(&fd, sockopt::Ipv6V6Only, &true)?;
    }
    if publication.protocol == Protocol::Tcp {
        // A connection of ours that lingers in TIME_WAIT is no user of the port.
        setsockopt(&fd, sockopt::ReuseAddr, &true)?;
    }
    if !publication.address.is_unspecified() {
        // The node may get the address later: by DHCP, at the end of DAD, as the next holder of a floating one (ip(7)).
        setsockopt(&fd, sockopt::IpFreebind, &true)?;
    }
    bind(fd.as_raw_fd(), &address)?;
    if publication.protocol == Protocol::Tcp {
        listen(&fd, Backlog::new(64)?)?;
    }
    Ok(fd)
}

#[cfg(test)]
pub(crate) mod tests;
