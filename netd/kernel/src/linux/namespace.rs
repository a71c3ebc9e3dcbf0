//! Work inside another network namespace, on a thread that ends with it: no other thread is ever moved.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::thread;

use nix::sched::{CloneFlags, setns};

use crate::object::NetnsId;

/// `SO_NETNS_COOKIE` (asm-generic/socket.h, Linux 5.14).
const SO_NETNS_COOKIE: libc::c_int = 71;

/// Runs `work` in the namespace `fd`.
pub(super) fn within<T: Send>(fd: BorrowedFd<'_>, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let worker = thread::Builder::new().name("netns".to_owned()).spawn_scoped(scope, || {
            setns(fd, CloneFlags::CLONE_NEWNET)?;
            Ok(work())
        })?;
        worker.join().unwrap_or_else(|_| Err(io::Error::other("the namespace's worker panicked")))
    })
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
