//! Work inside other network namespaces. What takes its time has one thread that does nothing else; what is a few system
//! calls is done by whoever asks, who is back before anything else can run on that thread.

use std::fs::File;
use std::io::{self, Write as _};
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

    /// Runs `work` in a namespace, on a thread of its own. The caller waits for it.
    pub(super) fn within<T: Send + 'static>(
        &self,
        namespace: OwnedFd,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<T> {
        let (done, outcome) = mpsc::channel();
        self.send(Box::new(move |home| {
            let entered = setns(namespace.as_fd(), CloneFlags::CLONE_NEWNET);
            let worked = entered.map(|()| work());
            let back = setns(home.as_fd(), CloneFlags::CLONE_NEWNET);
            // Whoever asked waits for this.
            drop(done.send(worked.map_err(io::Error::from)));
            Ok(back?)
        }))?;
        outcome.recv().unwrap_or_else(|_| Err(io::Error::other("the namespace's worker died")))
    }

    /// Runs `work`, a few system calls, in a namespace on the calling thread, which is of the home namespace: to have
    /// another thread woken costs more than the visit.
    pub(super) fn visit<T>(&self, namespace: &OwnedFd, work: impl FnOnce() -> T) -> io::Result<T> {
        let _return = Return(&self.home);
        setns(namespace.as_fd(), CloneFlags::CLONE_NEWNET)?;
        Ok(work())
    }

    fn send(&self, job: Job) -> io::Result<()> {
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        let Err(mpsc::SendError(job)) = jobs.send(job) else { return Ok(()) };
        *jobs = begin(Arc::clone(&self.home))?;
        jobs.send(job).map_err(|_| io::Error::other("the namespace's worker died"))
    }
}

/// Goes home when it is dropped, whatever happened.
struct Return<'a>(&'a File);

impl Drop for Return<'_> {
    fn drop(&mut self) {
        if let Err(error) = setns(self.0.as_fd(), CloneFlags::CLONE_NEWNET) {
            // What runs on this thread next would work on the node, and be in a sandbox.
            drop(writeln!(io::stderr(), "cannot come back from a sandbox's network namespace: {error}"));
            std::process::abort();
        }
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
