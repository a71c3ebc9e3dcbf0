//! A sandbox's inside, for the length of one request: it is entered once, and from then on worked on from outside, by a
//! netlink socket and by descriptors of its sysctl directories. What is worked there is the caller's.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use netd_netlink::Socket;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;

use super::namespace;
use crate::object::NetnsId;

/// What was opened inside.
#[derive(Debug)]
pub(crate) struct Inside {
    namespace: OwnedFd,
    socket: Mutex<Socket>,
    /// `/proc/sys/net/ipv4/conf` and `/proc/sys/net/ipv6/conf`. A directory found in a namespace stays that namespace's
    /// (`sysctl_follow_link`, fs/proc/proc_sysctl.c).
    conf: [Option<OwnedFd>; 2],
}

impl Inside {
    /// Enters the namespace, and says which one it is.
    pub(super) fn enter(namespace: OwnedFd) -> io::Result<(NetnsId, Self)> {
        let opened = namespace::within(namespace.as_fd(), || {
            let conf = ["/proc/sys/net/ipv4/conf", "/proc/sys/net/ipv6/conf"].map(directory);
            let [v4, v6] = conf;
            let socket = Socket::open()?;
            Ok::<_, io::Error>((namespace::cookie(&socket)?, socket, [v4?, v6?]))
        });
        let (id, socket, conf) = opened??;
        Ok((id, Self { namespace, socket: Mutex::new(socket), conf }))
    }

    pub(super) fn namespace(&self) -> &OwnedFd {
        &self.namespace
    }

    pub(super) fn socket(&self) -> MutexGuard<'_, Socket> {
        self.socket.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes a sysctl given with dots. A kernel without IPv6 has none of its switches, and nothing for them to switch.
    pub(super) fn write_sysctl(&self, name: &str, value: &str) -> io::Result<()> {
        for (prefix, directory) in ["net.ipv4.conf.", "net.ipv6.conf."].into_iter().zip(&self.conf) {
            // An interface's name may have dots of its own.
            if let Some((interface, switch)) = name.strip_prefix(prefix).and_then(|rest| rest.rsplit_once('.')) {
                let Some(directory) = directory else { return Ok(()) };
                let path = format!("{interface}/{switch}");
                let file = openat(directory, path.as_str(), OFlag::O_WRONLY | OFlag::O_CLOEXEC, Mode::empty())?;
                return File::from(file).write_all(value.as_bytes());
            }
        }
        let path = format!("/proc/sys/{}", name.replace('.', "/"));
        namespace::within(self.namespace.as_fd(), || std::fs::write(path, value))?
    }
}

/// `None`: the kernel has no such protocol.
fn directory(path: &str) -> io::Result<Option<OwnedFd>> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    match nix::fcntl::open(path, flags, Mode::empty()) {
        Ok(directory) => Ok(Some(directory)),
        Err(nix::errno::Errno::ENOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
