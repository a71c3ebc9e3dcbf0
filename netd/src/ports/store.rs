//! The service manager's descriptor store: sockets that lie there outlive netd, and come back to the next one. Without a
//! service manager nothing is put anywhere, and the sockets end with netd.
//!
//! ```text
//! put     FDSTORE=1, FDNAME=port-tcp-00000000-8080, the socket
//! remove  FDSTOREREMOVE=1, the same name; then BARRIER=1 with a pipe, whose end tells that all was taken in
//! taken   LISTEN_FDS, LISTEN_FDNAMES (sd_listen_fds_with_names(3), sd_notify(3))
//! ```

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use netd_config::Protocol;
use netd_kernel::Publication;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    ControlMessage, MsgFlags, SockType, SockaddrStorage, getsockname, getsockopt, sendmsg, sockopt,
};
use tracing::{debug, warn};

use crate::blocking::blocking;

/// A manager that takes in nothing for so long is not waited for (milliseconds).
const PATIENCE: u16 = 500;

/// The store, and what it has given back and nobody has claimed yet.
#[derive(Debug, Default)]
pub struct Store {
    manager: Option<PathBuf>,
    returned: Mutex<BTreeMap<Publication, OwnedFd>>,
}

impl Store {
    /// The service manager's store, if there is one, with the sockets that it kept. To be called once, at the start.
    #[must_use]
    pub fn open() -> Self {
        let manager = std::env::var_os("NOTIFY_SOCKET").map(PathBuf::from);
        let named = sd_notify::listen_fds_with_names().map(Vec::from_iter).unwrap_or_else(|error| {
            warn!(%error, "cannot take back the sockets of published ports; they are made anew");
            Vec::new()
        });
        let (mut returned, mut foreign) = (BTreeMap::new(), Vec::new());
        for (fd, name) in named {
            #[expect(unsafe_code, reason = "descriptors come by number")]
            // SAFETY: the service manager opened it for this process, and this is the only place that takes it.
            let socket = unsafe { OwnedFd::from_raw_fd(fd) };
            match parse(&name).filter(|publication| is_of(&socket, *publication)) {
                Some(publication) => drop(returned.insert(publication, socket)),
                None => {
                    warn!(name, "a descriptor that is no socket of a published port is let go");
                    foreign.push(name);
                }
            }
        }
        let store = Self { manager, returned: Mutex::new(returned) };
        // Before anything is put there under the same names.
        store.forget(&foreign).unwrap_or_else(|error| unheard(&error));
        store
    }

    /// The socket that was kept for a port.
    pub(super) fn take(&self, publication: Publication) -> Option<OwnedFd> {
        self.returned.lock().unwrap_or_else(PoisonError::into_inner).remove(&publication)
    }

    /// What nobody has taken.
    pub(super) fn unclaimed(&self) -> Vec<Publication> {
        let returned = std::mem::take(&mut *self.returned.lock().unwrap_or_else(PoisonError::into_inner));
        returned.into_keys().collect()
    }

    /// Whether sockets outlive netd.
    pub(super) fn is_there(&self) -> bool {
        self.manager.is_some()
    }

    /// Puts sockets there. One that the manager does not take ends with netd.
    pub(super) async fn put(self: &Arc<Self>, sockets: Vec<(Publication, Arc<OwnedFd>)>) {
        self.tell(sockets, |store, sockets| {
            let put = |(publication, socket): &(Publication, Arc<OwnedFd>)| {
                store.say(&format!("FDSTORE=1\nFDPOLL=0\nFDNAME={}", name(*publication)), Some(socket))
            };
            sockets.iter().try_for_each(put)
        })
        .await;
    }

    /// Takes sockets away: the ports are free once the manager has heard.
    pub(super) async fn remove(self: &Arc<Self>, publications: Vec<Publication>) {
        self.tell(publications.into_iter().map(name).collect(), Self::forget).await;
    }

    fn forget(&self, names: &[String]) -> io::Result<()> {
        if names.is_empty() {
            return Ok(());
        }
        names.iter().try_for_each(|name| self.say(&format!("FDSTOREREMOVE=1\nFDNAME={name}"), None))?;
        self.wait()
    }

    /// The manager may be slow to read.
    async fn tell<T: Send + 'static>(
        self: &Arc<Self>,
        what: Vec<T>,
        tell: impl FnOnce(&Self, &[T]) -> io::Result<()> + Send + 'static,
    ) {
        if what.is_empty() || !self.is_there() {
            return;
        }
        let store = Arc::clone(self);
        match blocking(move || tell(&store, &what)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => unheard(&error),
            Err(error) => debug!(%error, "the service manager was not told"),
        }
    }

    /// Until the manager has taken in all that it was told: it closes its end of a pipe then.
    fn wait(&self) -> io::Result<()> {
        let (ended, end) = io::pipe()?;
        self.say("BARRIER=1", Some(&Arc::new(end.into())))?;
        let mut polled = [PollFd::new(ended.as_fd(), PollFlags::POLLHUP)];
        if poll(&mut polled, PollTimeout::from(PATIENCE))? == 0 {
            warn!("the service manager is late: ports that are published no more may not be free yet");
        }
        Ok(())
    }

    fn say(&self, text: &str, fd: Option<&Arc<OwnedFd>>) -> io::Result<()> {
        let Some(manager) = &self.manager else { return Ok(()) };
        let socket = UnixDatagram::unbound()?;
        // Its queue may be full, and it may not read for long: while it reloads, or never again.
        socket.set_write_timeout(Some(Duration::from_millis(PATIENCE.into())))?;
        socket.connect(manager)?;
        let fds: Vec<i32> = fd.iter().map(|fd| fd.as_raw_fd()).collect();
        let with = if fds.is_empty() { Vec::new() } else { vec![ControlMessage::ScmRights(&fds)] };
        let text = [io::IoSlice::new(text.as_bytes())];
        sendmsg::<()>(socket.as_raw_fd(), &text, &with, MsgFlags::empty(), None)?;
        Ok(())
    }
}

fn unheard(error: &io::Error) {
    warn!(%error, "the service manager does not take what it is told of published ports");
}

/// A name has no colon, so an address is its octets.
fn name(publication: Publication) -> String {
    let octets = match publication.address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    let octets: String = octets.iter().map(|octet| format!("{octet:02x}")).collect();
    format!("port-{}-{octets}-{}", publication.protocol, publication.port)
}

fn parse(name: &str) -> Option<Publication> {
    let mut parts = name.strip_prefix("port-")?.split('-');
    let (protocol, octets, port) = (parts.next()?, parts.next()?, parts.next()?.parse().ok()?);
    let protocol = [Protocol::Tcp, Protocol::Udp].into_iter().find(|one| one.to_string() == protocol)?;
    let bits = u128::from_str_radix(octets, 16).ok()?;
    let address = match octets.len() {
        8 => IpAddr::from(u32::try_from(bits).ok()?.to_be_bytes()),
        32 => IpAddr::from(bits.to_be_bytes()),
        _ => return None,
    };
    parts.next().is_none().then_some(Publication { address, protocol, port })
}

/// Whether the socket is what its name says.
fn is_of(socket: &OwnedFd, publication: Publication) -> bool {
    let Ok(bound) = getsockname::<SockaddrStorage>(socket.as_raw_fd()) else { return false };
    let v4 = bound.as_sockaddr_in().map(|one| SocketAddr::from((one.ip(), one.port())));
    let v6 = bound.as_sockaddr_in6().map(|one| SocketAddr::from((one.ip(), one.port())));
    let expected = match publication.protocol {
        Protocol::Tcp => SockType::Stream,
        Protocol::Udp => SockType::Datagram,
        Protocol::Sctp => return false,
    };
    let kind = getsockopt(socket, sockopt::SockType).ok();
    let listens = getsockopt(socket, sockopt::AcceptConn).unwrap_or(false);
    v4.or(v6) == Some(SocketAddr::new(publication.address, publication.port))
        && kind == Some(expected)
        && listens == (expected == SockType::Stream)
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};
    use std::os::unix::net::UnixDatagram;
    use std::sync::mpsc::channel;
    use std::time::Duration;

    use netd_config::Protocol;
    use netd_kernel::Publication;

    use super::{PATIENCE, Store, is_of, name, parse};

    #[test]
    fn a_manager_that_does_not_read_is_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let manager = folder.path().join("notify");
        let _unread = UnixDatagram::bind(&manager).unwrap();
        let store = Store { manager: Some(manager), ..Store::default() };
        let (told, refused) = channel();
        std::thread::spawn(move || {
            let is_refused = (0..100_000).any(|_| store.say("WATCHDOG=1", None).is_err());
            told.send(is_refused).unwrap();
        });
        let limit = Duration::from_millis(u64::from(PATIENCE) * 10);
        assert!(refused.recv_timeout(limit).unwrap(), "its queue takes what it is told for ever");
    }

    #[test]
    fn a_name_says_which_port_and_only_its_socket_is_taken_for_it() {
        let table = [
            ("127.0.0.1", Protocol::Tcp, 8080, "port-tcp-7f000001-8080"),
            ("0.0.0.0", Protocol::Udp, 53, "port-udp-00000000-53"),
            ("::1", Protocol::Tcp, 1, "port-tcp-00000000000000000000000000000001-1"),
        ];
        for (address, protocol, port, text) in table {
            let publication = Publication { address: address.parse().unwrap(), protocol, port };
            assert_eq!((name(publication).as_str(), parse(text)), (text, Some(publication)));
        }
        for text in ["", "port-tcp-7f000001", "port-sctp-7f000001-1", "port-tcp-7f0001-1", "port-tcp-7f000001-1-2"] {
            assert_eq!(parse(text), None, "{text}");
        }
        let (tcp, udp) = (TcpListener::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
        let (tcp_port, udp_port) = (tcp.local_addr().unwrap().port(), udp.local_addr().unwrap().port());
        let of = |protocol, port| Publication { address: "127.0.0.1".parse().unwrap(), protocol, port };
        let (tcp, udp) = (tcp.into(), udp.into());
        assert!(is_of(&tcp, of(Protocol::Tcp, tcp_port)) && is_of(&udp, of(Protocol::Udp, udp_port)));
        assert!(!is_of(&tcp, of(Protocol::Tcp, tcp_port ^ 1)) && !is_of(&udp, of(Protocol::Tcp, udp_port)));
    }
}
