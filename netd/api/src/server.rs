//! The daemon's end of the socket. What a request means is the service's business; how it is read is `connection`'s.
//!
//! A connection has a thread of its own: the one that was woken by the caller does all that he asks for and answers him,
//! and nobody else has to be woken in between.

mod connection;
mod places;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs::Permissions;
use std::io;
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use nix::sys::socket::shutdown;
use tokio::runtime::Handle;

pub use crate::generated::netd_ttrpc::Netd;
use crate::generated::netd_ttrpc::create_netd;
use connection::Services;
use places::Places;

/// Out of descriptors, accepting again at once would only spin.
const PAUSE: Duration = Duration::from_millis(100);
/// So many threads stay when nobody calls: to start one takes as long as a short call, and one that has answered waits for
/// its caller to hang up before it hears the next.
const KEPT: usize = 4;

thread_local! {
    static IS_A_CALLERS: Cell<bool> = const { Cell::new(false) };
}

/// Whether the calling thread serves one connection and nothing else: what blocks may run on it, and nobody but its caller
/// waits for that.
#[must_use]
pub fn is_on_a_callers_thread() -> bool {
    IS_A_CALLERS.get()
}

/// A service on its socket. It ends with this value, and its connections with it; a call that is being served is finished.
#[derive(Debug)]
pub struct Server(Arc<Door>);

/// What the threads share.
struct Door {
    listener: UnixListener,
    services: Services,
    runtime: Handle,
    /// Threads that wait for a connection, or are about to.
    waiting: AtomicUsize,
    places: Places,
    connections: Mutex<Connections>,
}

#[derive(Debug, Default)]
struct Connections {
    is_over: bool,
    last: u64,
    open: BTreeMap<u64, Arc<UnixStream>>,
}

impl std::fmt::Debug for Door {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Door").field("listener", &self.listener).finish_non_exhaustive()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let mut connections = self.0.connections();
        connections.is_over = true;
        // Whoever waits for a caller, or for a call, hears of it; who has gone already need not.
        shutdown(self.0.listener.as_raw_fd(), nix::sys::socket::Shutdown::Both).ok();
        for stream in connections.open.values() {
            stream.shutdown(Shutdown::Read).ok();
        }
    }
}

/// A socket at which callers may wait already, and nobody serves yet.
#[derive(Debug)]
pub struct Bound(UnixListener);

/// Binds the socket `path`, which only root may open. A socket left by a dead netd is replaced. Who calls from now on waits until
/// it is served, or until this value is gone.
///
/// # Errors
/// The socket cannot be bound, somebody listens on it, or the path is something other than a socket.
pub fn bind(path: &Path) -> io::Result<Bound> {
    if let Ok(found) = std::fs::symlink_metadata(path)
        && found.file_type().is_socket()
    {
        if UnixStream::connect(path).is_ok() {
            return Err(io::Error::new(io::ErrorKind::AddrInUse, "a netd that lives listens there"));
        }
        std::fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, Permissions::from_mode(0o700))?;
    Ok(Bound(listener))
}

impl Bound {
    /// Serves `service` to whoever waits, and to who comes. To be called on a runtime of several threads, whose tasks are driven
    /// while calls wait for them.
    ///
    /// # Errors
    /// There is no thread to be had.
    pub fn serve(self, service: Arc<dyn Netd + Send + Sync>) -> io::Result<Server> {
        let door = Arc::new(Door {
            listener: self.0,
            services: create_netd(service),
            runtime: Handle::current(),
            waiting: AtomicUsize::new(0),
            places: Places::default(),
            connections: Mutex::default(),
        });
        let server = Server(Arc::clone(&door));
        for _ in 0..KEPT {
            Door::open(&door)?;
        }
        Ok(server)
    }
}

impl Door {
    /// One more thread that waits for callers.
    fn open(door: &Arc<Self>) -> io::Result<()> {
        let waiter = Arc::clone(door);
        door.waiting.fetch_add(1, Ordering::SeqCst);
        let started = thread::Builder::new().name("caller".to_owned()).spawn(move || Self::wait(&waiter));
        started.map(drop).inspect_err(|_| {
            door.waiting.fetch_sub(1, Ordering::SeqCst);
        })
    }

    /// Serves one caller after another, for as long as not enough others wait.
    fn wait(door: &Arc<Self>) {
        IS_A_CALLERS.set(true);
        loop {
            let Some(stream) = door.next() else { return };
            if door.waiting.fetch_sub(1, Ordering::SeqCst) == 1 {
                // Without another the next caller waits for this one's end.
                Self::open(door).ok();
            }
            door.serve(stream);
            if door.waiting.fetch_add(1, Ordering::SeqCst) >= KEPT {
                door.waiting.fetch_sub(1, Ordering::SeqCst);
                return;
            }
        }
    }

    /// The next caller; `None`: the service is over.
    fn next(&self) -> Option<UnixStream> {
        loop {
            match self.listener.accept() {
                Ok((stream, _)) => return Some(stream),
                Err(_) if self.connections().is_over => return None,
                Err(_) => thread::sleep(PAUSE),
            }
        }
    }

    fn serve(&self, stream: UnixStream) {
        let stream = Arc::new(stream);
        let Some(number) = self.connections().add(&stream) else { return };
        // A stranger, or a caller that is done: there is nobody to tell.
        drop(connection::converse(&stream, (&self.services, &self.places), &self.runtime));
        self.connections().open.remove(&number);
    }

    fn connections(&self) -> MutexGuard<'_, Connections> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Connections {
    fn add(&mut self, stream: &Arc<UnixStream>) -> Option<u64> {
        if self.is_over {
            return None;
        }
        self.last += 1;
        self.open.insert(self.last, Arc::clone(stream));
        Some(self.last)
    }
}
