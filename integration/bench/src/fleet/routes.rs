//! Who has which of netd's routes since when: the kernels' own notices, one socket a namespace, read by one thread. Nobody is
//! asked, so nobody is disturbed.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use anyhow::{Result, ensure};
use ipnet::Ipv4Net;
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, setsockopt, socket, sockopt,
};

use crate::space::Space;

/// `RTMGRP_IPV4_ROUTE`, `RTM_NEWROUTE`, `RTM_DELROUTE`, `RTA_DST` (linux/rtnetlink.h).
const GROUP: u32 = 0x40;
const NEW: u16 = 24;
const GONE: u16 = 25;
const DESTINATION: u16 = 1;
/// The protocol number of netd's routes.
const OURS: u8 = 0x6e;
const ROOM: usize = 4 << 20;

/// What the kernel of one node said.
#[derive(Debug, Default)]
pub(super) struct Table {
    /// Routes that stand, and since when.
    pub(super) since: BTreeMap<Ipv4Net, Instant>,
    /// Routes that are gone, and since when.
    pub(super) gone: BTreeMap<Ipv4Net, Instant>,
}

#[derive(Debug, Default)]
struct Heard {
    sockets: Vec<OwnedFd>,
    tables: Vec<Table>,
    is_lost: bool,
}

/// All nodes' routes.
#[derive(Debug)]
pub(super) struct Routes {
    heard: Arc<Mutex<Heard>>,
    epoll: Arc<Epoll>,
    ends: Arc<AtomicBool>,
    reader: Option<JoinHandle<()>>,
}

impl Routes {
    pub(super) fn new() -> Result<Self> {
        let (heard, epoll) = (Arc::<Mutex<Heard>>::default(), Arc::new(Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?));
        let ends = Arc::new(AtomicBool::new(false));
        let reader = {
            let (heard, epoll, ends) = (Arc::clone(&heard), Arc::clone(&epoll), Arc::clone(&ends));
            thread::spawn(move || read(&heard, &epoll, &ends))
        };
        Ok(Self { heard, epoll, ends, reader: Some(reader) })
    }

    /// Hears of this namespace from now on; its number.
    pub(super) fn listen(&self, space: &Space) -> Result<usize> {
        let socket = space.run(|| {
            let kind = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
            let socket = socket(AddressFamily::Netlink, SockType::Raw, kind, SockProtocol::NetlinkRoute)?;
            setsockopt(&socket, sockopt::RcvBufForce, &ROOM)?;
            bind(socket.as_raw_fd(), &NetlinkAddr::new(0, GROUP))?;
            Ok(socket)
        })?;
        let mut heard = lock(&self.heard);
        let number = heard.sockets.len();
        self.epoll.add(&socket, EpollEvent::new(EpollFlags::EPOLLIN, u64::try_from(number)?))?;
        heard.sockets.push(socket);
        heard.tables.push(Table::default());
        Ok(number)
    }

    /// Looks at what was heard.
    ///
    /// # Errors
    /// Something was not heard.
    pub(super) fn look<T>(&self, at: impl FnOnce(&[Table]) -> T) -> Result<T> {
        let heard = lock(&self.heard);
        ensure!(!heard.is_lost, "the kernel had more notices of routes than room for them");
        Ok(at(&heard.tables))
    }
}

impl Drop for Routes {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        drop(self.reader.take().map(JoinHandle::join));
    }
}

fn lock(heard: &Mutex<Heard>) -> MutexGuard<'_, Heard> {
    heard.lock().unwrap_or_else(PoisonError::into_inner)
}

fn read(heard: &Mutex<Heard>, epoll: &Epoll, ends: &AtomicBool) {
    let (mut events, mut buffer) = ([EpollEvent::empty(); 64], vec![0; 1 << 16]);
    while !ends.load(Ordering::Relaxed) {
        let Ok(count) = epoll.wait(&mut events, EpollTimeout::from(200_u8)) else { continue };
        let now = Instant::now();
        let mut heard = lock(heard);
        for event in events.iter().take(count) {
            let Ok(number) = usize::try_from(event.data()) else { continue };
            drain(&mut heard, number, (&mut buffer, now));
        }
    }
}

fn drain(heard: &mut Heard, number: usize, (buffer, now): (&mut [u8], Instant)) {
    let Some(socket) = heard.sockets.get(number).map(AsRawFd::as_raw_fd) else { return };
    loop {
        match recv(socket, buffer, MsgFlags::empty()) {
            Ok(length) => {
                let Some(table) = heard.tables.get_mut(number) else { return };
                messages(buffer.get(..length).unwrap_or_default(), |kind, to| table.take(kind, to, now));
            }
            Err(Errno::ENOBUFS) => heard.is_lost = true,
            Err(_) => return,
        }
    }
}

impl Table {
    fn take(&mut self, kind: u16, to: Ipv4Net, now: Instant) {
        if kind == NEW {
            self.since.entry(to).or_insert(now);
        } else {
            self.since.remove(&to);
            self.gone.insert(to, now);
        }
    }
}

/// Tells of each of netd's routes in a datagram of netlink messages.
fn messages(mut bytes: &[u8], mut tell: impl FnMut(u16, Ipv4Net)) {
    while let Some(length) = bytes.first_chunk().map(|length| u32::from_ne_bytes(*length) as usize) {
        let Some(message) = bytes.get(..length).filter(|_| length >= 28) else { return };
        let kind = message.get(4..6).and_then(|two| two.try_into().ok()).map_or(0, u16::from_ne_bytes);
        if (kind == NEW || kind == GONE) && message.get(21) == Some(&OURS) {
            let to = message.get(28..).and_then(destination);
            let to = to.zip(message.get(17)).and_then(|(to, length)| Ipv4Net::new(to, *length).ok());
            to.into_iter().for_each(|to| tell(kind, to));
        }
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
}

fn destination(mut attributes: &[u8]) -> Option<Ipv4Addr> {
    loop {
        let length = usize::from(u16::from_ne_bytes(*attributes.first_chunk()?));
        let kind = u16::from_ne_bytes(*attributes.get(2..)?.first_chunk()?);
        if kind == DESTINATION {
            return Some(Ipv4Addr::from(*attributes.get(4..length)?.first_chunk::<4>()?));
        }
        attributes = attributes.get(length.next_multiple_of(4)..).filter(|_| length >= 4)?;
    }
}

#[cfg(test)]
mod tests {
    use std::thread::sleep;
    use std::time::{Duration, Instant};

    use super::Routes;
    use crate::fleet::ground::{Ground, ip};

    #[test]
    fn only_netds_routes_are_heard_as_they_come_and_go() {
        let ground = Ground::new(0).unwrap();
        let (space, _) = ground.place().unwrap();
        let routes = Routes::new().unwrap();
        assert_eq!(routes.listen(&space).unwrap(), 0);
        let wait = |wanted: &[&str]| {
            let end = Instant::now() + Duration::from_secs(10);
            loop {
                let now = routes.look(|tables| tables[0].since.keys().map(ToString::to_string).collect::<Vec<_>>());
                if now.as_ref().unwrap() == wanted {
                    return;
                }
                assert!(Instant::now() < end, "{now:?} and not {wanted:?}");
                sleep(Duration::from_millis(5));
            }
        };
        let add = "route add 10.9.0.0/24 dev eth0\nroute add 10.9.1.64/26 dev eth0 proto 110\nroute add 10.9.2.0/26 via 172.31.0.9 proto 110\n";
        ip(&space, add).unwrap();
        wait(&["10.9.1.64/26", "10.9.2.0/26"]);
        ip(&space, "route del 10.9.1.64/26\n").unwrap();
        wait(&["10.9.2.0/26"]);
        assert!(routes.look(|tables| tables[0].gone.contains_key(&"10.9.1.64/26".parse().unwrap())).unwrap());
    }
}
