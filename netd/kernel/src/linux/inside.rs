//! A sandbox's inside, for the length of one request: it is entered once, and from then on worked on from outside, by a
//! netlink socket. What is worked there is the caller's.
//!
//! Sysctls need a second entry, and grow dearer with the number of namespaces: all their directories of one name are in
//! one chain of the kernel's directory cache (`proc_sys_compare`, fs/proc/proc_sysctl.c). So they are for what netlink
//! cannot say.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard, PoisonError};

use netd_netlink::Socket;

use super::namespace::{self, Entrant};
use crate::object::NetnsId;

/// What was opened inside.
#[derive(Debug)]
pub(crate) struct Inside {
    namespace: OwnedFd,
    socket: Mutex<Socket>,
}

impl Inside {
    /// Enters the namespace, and tells `done` which one it is.
    pub(super) fn enter(
        entrant: &Entrant,
        namespace: OwnedFd,
        done: impl FnOnce(io::Result<(NetnsId, Self)>) + Send + 'static,
    ) -> io::Result<()> {
        let open = || {
            let socket = Socket::open()?;
            Ok::<_, io::Error>((namespace::cookie(&socket)?, socket))
        };
        let of = |(namespace, opened): (OwnedFd, io::Result<(NetnsId, Socket)>)| {
            let (id, socket) = opened?;
            Ok((id, Self { namespace, socket: Mutex::new(socket) }))
        };
        entrant.start_within(namespace, open, move |entered| done(entered.and_then(of)))
    }

    pub(super) fn namespace(&self) -> &OwnedFd {
        &self.namespace
    }

    pub(super) fn socket(&self) -> MutexGuard<'_, Socket> {
        self.socket.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes a sysctl given with dots. A kernel without IPv6 has none of its switches, and nothing for them to switch.
    pub(super) fn write_sysctl(&self, entrant: &Entrant, name: &str, value: &str) -> io::Result<()> {
        let (path, text) = (format!("/proc/sys/{}", path_of(name)), value.to_owned());
        let (_, written) = entrant.within(self.namespace.try_clone()?, || std::fs::write(path, text))?;
        match written {
            Err(error) if error.kind() == io::ErrorKind::NotFound && name.starts_with("net.ipv6.") => Ok(()),
            written => written,
        }
    }
}

/// Dots are slashes, but an interface's name may have dots of its own.
fn path_of(name: &str) -> String {
    for prefix in ["net.ipv4.conf.", "net.ipv6.conf."] {
        if let Some((interface, switch)) = name.strip_prefix(prefix).and_then(|rest| rest.rsplit_once('.')) {
            return format!("{}{interface}/{switch}", prefix.replace('.', "/"));
        }
    }
    name.replace('.', "/")
}

#[cfg(test)]
mod tests {
    use super::path_of;

    #[test]
    fn dots_are_slashes_but_in_an_interfaces_name() {
        assert_eq!(path_of("net.core.somaxconn"), "net/core/somaxconn");
        assert_eq!(path_of("net.ipv4.conf.eth0.7.forwarding"), "net/ipv4/conf/eth0.7/forwarding");
    }
}
