//! Work inside other network namespaces, on one thread that does nothing else: no other thread is ever moved.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;

use nix::sched::{CloneFlags, setns};

use crate::object::NetnsId;

/// `SO_NETNS_COOKIE` (asm-generic/socket.h, Linux 5.14).
const SO_NETNS_COOKIE: libc::c_int = 71;

type Job = Box<dyn FnOnce(&File) -> io::Result<()> + Send>;

/// The thread that enters namespaces. It comes back from each before the next; if it cannot, it ends, and another begins.
#[derive(Debug)]
pub(super) struct Entrant {
    home: Arc<File>,
    jobs: Mutex<mpsc::Sender<Job>>,
}

impl Entrant {
    /// One whose home is the calling thread's namespace.
    pub(super) fn start() -> io::Result<Self> {
        let home = Arc::new(File::open("/proc/thread-self/ns/net")?);
        let jobs = Mutex::new(begin(Arc::clone(&home))?);
        Ok(Self { home, jobs })
    }

    /// Runs `work` in a namespace, and gives both back.
    pub(super) fn within<T: Send + 'static>(
        &self,
        namespace: OwnedFd,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<(OwnedFd, T)> {
        let (done, outcome) = mpsc::channel();
        // Whoever asked waits for this.
        self.start_within(namespace, work, move |worked| drop(done.send(worked)))?;
        outcome.recv().unwrap_or_else(|_| Err(io::Error::other("the namespace's worker died")))
    }

    /// Runs `work` in a namespace, then `done` at home, without waiting for either.
    pub(super) fn start_within<T: 'static>(
        &self,
        namespace: OwnedFd,
        work: impl FnOnce() -> T + Send + 'static,
        done: impl FnOnce(io::Result<(OwnedFd, T)>) + Send + 'static,
    ) -> io::Result<()> {
        self.send(Box::new(move |home| {
            let entered = setns(namespace.as_fd(), CloneFlags::CLONE_NEWNET);
            let worked = entered.map(|()| (namespace, work()));
            let back = setns(home.as_fd(), CloneFlags::CLONE_NEWNET);
            done(worked.map_err(io::Error::from));
            Ok(back?)
        }))
    }

    fn send(&self, job: Job) -> io::Result<()> {
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        let Err(mpsc::SendError(job)) = jobs.send(job) else { return Ok(()) };
        *jobs = begin(Arc::clone(&self.home))?;
        jobs.send(job).map_err(|_| io::Error::other("the namespace's worker died"))
    }
}

fn begin(home: Arc<File>) -> io::Result<mpsc::Sender<Job>> {
    let (jobs, inbox) = mpsc::channel::<Job>();
    let work = move || -> io::Result<()> {
        setns(home.as_fd(), CloneFlags::CLONE_NEWNET)?;
        inbox.into_iter().try_for_each(|job| job(&home))
    };
    thread::Builder::new().name("netns".to_owned()).spawn(work)?;
    Ok(jobs)
}

/// The identity of the namespace that a socket was opened in.
pub(super) fn cookie(socket: &impl AsRawFd) -> io::Result<NetnsId> {
    let mut cookie = 0_u64;
    let mut length = libc::socklen_t::try_from(size_of::<u64>()).map_err(io::Error::other)?;
    #[expect(unsafe_code, reason = "nix has no wrapper for SO_NETNS_COOKIE")]
    // SAFETY: the kernel writes at most `length` octets to `cookie`; both outlive the call.
    let done = unsafe {
        let value = (&raw mut cookie).cast();
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, SO_NETNS_COOKIE, value, &raw mut length)
    };
    if done == 0 { Ok(NetnsId(cookie)) } else { Err(io::Error::last_os_error()) }
}
