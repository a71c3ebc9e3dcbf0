//! What comes to the socket of a published port. To `[::1]`, and to an IPv6 address where the sandbox has only IPv4, no
//! packet can be led by the ruleset: netd accepts and passes the bytes on. Everything else missed the ruleset, and is reset.

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::poll::PollTimeout;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::socket::{setsockopt, sockopt};
use tokio::io::unix::AsyncFd;
use tokio::io::{Interest, copy_bidirectional};
use tokio::net::TcpStream;
use tokio::task::{JoinHandle, JoinSet};

use super::gate::{Gate, Visit};

/// A sandbox that does not answer within this refuses, with the time that it takes to know who may reach it.
const CONNECT: Duration = Duration::from_secs(10);
/// Out of descriptors, accepting again at once would only spin.
const PAUSE: Duration = Duration::from_millis(100);
/// Connections of one port at a time: each takes two descriptors. Who comes then is reset.
pub(super) const MOST: usize = 1_024;
/// An end that says nothing for so long is asked whether it is still there (seconds), and then so often, so many times.
const SILENCE: u32 = 60;
const ASK_AGAIN: u32 = 10;
const ASKED: u32 = 6;

/// Accepts on all sockets, by one task: hardly anybody ever comes here, and a task for each socket, with its place in the
/// runtime's own list, would be a third of what an attachment occupies.
#[derive(Debug)]
pub(super) struct Doorman {
    doors: Arc<Doors>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct Doors {
    gate: Gate,
    most: usize,
    bell: AsyncFd<Bell>,
    open: Mutex<BTreeMap<u64, Door>>,
}

/// Rings when somebody is at a door (epoll(7)).
#[derive(Debug)]
struct Bell(Epoll);

#[derive(Debug)]
struct Door {
    listener: TcpListener,
    target: Option<SocketAddr>,
    /// From the first connection on.
    connections: Option<JoinSet<()>>,
}

/// A socket that is accepted on for as long as this lives. Its connections end with it; it is closed when this is gone.
#[derive(Debug)]
pub(super) struct Accepting {
    doors: Arc<Doors>,
    number: u64,
}

impl AsRawFd for Bell {
    fn as_raw_fd(&self) -> RawFd {
        self.0.0.as_raw_fd()
    }
}

impl Drop for Doorman {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Drop for Accepting {
    fn drop(&mut self) {
        let mut open = self.doors.open();
        if let Some(door) = open.remove(&self.number) {
            // Somebody else may have the socket too: then it would go on ringing.
            self.doors.bell.get_ref().0.delete(&door.listener).ok();
        }
    }
}

impl Doorman {
    /// To be called on a runtime. At most `most` connections pass by one socket at a time.
    pub(super) fn start(gate: Gate, most: usize) -> io::Result<Self> {
        let bell = Bell(Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?);
        #[expect(unsafe_code, reason = "the runtime trusts the descriptor's owner")]
        // SAFETY: the bell has its descriptor for as long as it lives, and never another.
        let bell = unsafe { AsyncFd::register_with_interest(bell, Interest::READABLE) }?;
        let doors = Arc::new(Doors { gate, most, bell, open: Mutex::default() });
        let task = tokio::spawn(attend(Arc::clone(&doors)));
        Ok(Self { doors, task })
    }

    /// Accepts on `socket`, which does not block; `target`: where those who come are led.
    pub(super) fn accept(&self, socket: OwnedFd, target: Option<SocketAddr>) -> io::Result<Accepting> {
        let door = Door { listener: TcpListener::from(socket), target, connections: None };
        let mut open = self.doors.open();
        let number = open.last_key_value().map_or(0, |(last, _)| last + 1);
        self.doors.bell.get_ref().0.add(&door.listener, EpollEvent::new(EpollFlags::EPOLLIN, number))?;
        open.insert(number, door);
        drop(open);
        Ok(Accepting { doors: Arc::clone(&self.doors), number })
    }
}

async fn attend(doors: Arc<Doors>) {
    while let Ok(mut rung) = doors.bell.readable().await {
        let answered = doors.callers().and_then(|callers| {
            if callers.is_empty() {
                rung.clear_ready();
            }
            callers.into_iter().try_for_each(|number| doors.answer(number))
        });
        if let Err(error) = answered {
            tracing::debug!(%error, "cannot accept on a published port");
            tokio::time::sleep(PAUSE).await;
        }
    }
}

impl Doors {
    fn open(&self) -> MutexGuard<'_, BTreeMap<u64, Door>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The doors that somebody is at.
    fn callers(&self) -> io::Result<Vec<u64>> {
        let mut events = [EpollEvent::empty(); 64];
        let count = self.bell.get_ref().0.wait(&mut events, PollTimeout::ZERO)?;
        Ok(events.iter().take(count).map(EpollEvent::data).collect())
    }

    /// Lets one in. What is closed meanwhile has nobody at it.
    fn answer(&self, number: u64) -> io::Result<()> {
        let mut open = self.open();
        let Some(door) = open.get_mut(&number) else { return Ok(()) };
        let (stream, client) = match door.listener.accept() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            accepted => accepted?,
        };
        stream.set_nonblocking(true)?;
        let stream = TcpStream::from_std(stream)?;
        let connections = door.connections.get_or_insert_default();
        while connections.try_join_next().is_some() {}
        if connections.len() >= self.most {
            reset(&stream);
        } else {
            connections.spawn(serve(stream, client, door.target, self.gate.clone()));
        }
        Ok(())
    }
}

/// A stream that is reset, unless it has come to its end: who hears of an end believes that he has had all.
struct Uncut {
    stream: TcpStream,
    is_over: bool,
}

impl Uncut {
    fn new(stream: TcpStream) -> Self {
        keep_alive(&stream);
        Self { stream, is_over: false }
    }
}

impl Drop for Uncut {
    fn drop(&mut self) {
        if !self.is_over {
            reset(&self.stream);
        }
    }
}

/// One whose other end is gone without a word does not stay for ever.
fn keep_alive(stream: &TcpStream) {
    let set = setsockopt(stream, sockopt::KeepAlive, &true)
        .and_then(|()| setsockopt(stream, sockopt::TcpKeepIdle, &SILENCE))
        .and_then(|()| setsockopt(stream, sockopt::TcpKeepInterval, &ASK_AGAIN))
        .and_then(|()| setsockopt(stream, sockopt::TcpKeepCount, &ASKED));
    if let Err(error) = set {
        tracing::debug!(%error, "a connection of a published port is not asked whether it is still there");
    }
}

async fn serve(stream: TcpStream, client: SocketAddr, target: Option<SocketAddr>, gate: Gate) {
    let mut stream = Uncut::new(stream);
    let Some((target, own)) = target.zip(stream.stream.local_addr().ok()) else { return };
    let (mut gate, visit) = (gate.afresh(), Visit { client, own, target });
    if let Ok(Some(inside)) = tokio::time::timeout(CONNECT, connect(visit, &gate)).await {
        pass(&mut stream, &mut Uncut::new(inside), visit, &mut gate).await;
    }
}

async fn connect(visit: Visit, gate: &Gate) -> Option<TcpStream> {
    if gate.opens(visit).await { TcpStream::connect(visit.target).await.ok() } else { None }
}

/// Until an end breaks, which ends both (there is nobody to tell), or the visit may not go on.
async fn pass(stream: &mut Uncut, inside: &mut Uncut, visit: Visit, gate: &mut Gate) {
    tokio::select! {
        _ended = copy_bidirectional(&mut stream.stream, &mut inside.stream) => {
            (stream.is_over, inside.is_over) = (true, true);
        }
        () = gate.shuts(visit) => {
            tracing::info!(client = %visit.client, target = %visit.target, "cut: not allowed any more");
        }
    }
}

/// Closing with this option resets: the opener hears at once that nobody is there for it.
fn reset(stream: &TcpStream) {
    drop(stream.set_zero_linger());
}
