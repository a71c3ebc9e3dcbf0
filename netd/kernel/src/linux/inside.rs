//! A sandbox's inside, for the length of one request: it is entered once, and from then on worked on from outside, by a
//! netlink socket. What is worked there is the caller's.
//!
//! Sysctls need a second entry, and grow dearer with the number of namespaces: all their directories of one name are in
//! one chain of the kernel's directory cache (`proc_sys_compare`, fs/proc/proc_sysctl.c). So they are for what netlink
//! cannot say.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard, PoisonError};

use netd_config::LinkName;
use netd_netlink::{Link, Socket};

use super::namespace::{self, Entrant};
use crate::object::NetnsId;
use crate::seam::LinkFacts;

/// What was opened inside.
#[derive(Debug)]
pub(crate) struct Inside {
    namespace: OwnedFd,
    socket: Mutex<Socket>,
    made: Mutex<Made>,
}

/// What this request made and therefore knows, so that nobody has to read it back.
#[derive(Debug, Default)]
pub(super) struct Made {
    /// The host end, its bridge, and the MACs of both.
    pub(super) host: Option<(LinkName, Option<LinkName>, String, String)>,
    /// The sandbox end's name, and what the kernel told of it when it was made.
    pub(super) end: Option<(LinkName, Link)>,
    /// The sandbox end, its MAC and its MTU.
    pub(super) interface: Option<(LinkName, String, u32)>,
}

impl Made {
    /// Of an attachment, if it was made whole.
    pub(super) fn facts(&self, host: &LinkName, bridge: Option<&LinkName>, interface: &LinkName) -> Option<LinkFacts> {
        let (made_host, made_bridge, host_mac, bridge_mac) = self.host.as_ref()?;
        let (made_interface, mac, mtu) = self.interface.as_ref()?;
        let is_it = made_host == host && made_bridge.as_ref() == bridge && made_interface == interface;
        let (mac, host_mac, bridge_mac) = (mac.clone(), host_mac.clone(), bridge_mac.clone());
        is_it.then_some(LinkFacts { mac, host_mac, bridge_mac, mtu: *mtu })
    }
}

impl Inside {
    /// Enters the namespace, and says which one it is.
    pub(super) fn enter(entrant: &Entrant, namespace: OwnedFd) -> io::Result<(NetnsId, Self)> {
        let open = || {
            let socket = Socket::open()?;
            Ok::<_, io::Error>((namespace::cookie(&socket)?, socket))
        };
        let (id, socket) = entrant.visit(&namespace, open)??;
        Ok((id, Self { namespace, socket: Mutex::new(socket), made: Mutex::default() }))
    }

    pub(super) fn namespace(&self) -> &OwnedFd {
        &self.namespace
    }

    pub(super) fn socket(&self) -> MutexGuard<'_, Socket> {
        self.socket.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn made(&self) -> MutexGuard<'_, Made> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes a sysctl given with dots. A kernel without IPv6 has none of its switches, and nothing for them to switch.
    pub(super) fn write_sysctl(&self, entrant: &Entrant, name: &str, value: &str) -> io::Result<()> {
        let (path, text) = (format!("/proc/sys/{}", path_of(name)), value.to_owned());
        let written = entrant.within(self.namespace.try_clone()?, || std::fs::write(path, text))?;
        match written {
            Err(error) if error.kind() == io::ErrorKind::NotFound && name.starts_with("net.ipv6.") => Ok(()),
            written => written,
        }
    }

    /// The text of a sysctl given with dots; `None` where this kernel has none of that name.
    pub(super) fn read_sysctl(&self, entrant: &Entrant, name: &str) -> io::Result<Option<String>> {
        let path = format!("/proc/sys/{}", path_of(name));
        let read = entrant.within(self.namespace.try_clone()?, || std::fs::read_to_string(path))?;
        match read {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            read => read.map(Some),
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
