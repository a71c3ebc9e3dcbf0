//! The real kernel, by rtnetlink, nf_tables, setns and sysctl. No fork, no exec. Which steps are needed is `plan`'s question.

mod messages;
mod namespace;
mod observe;
mod ruleset;

use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use netd_config::LinkName;
use netd_netlink::conntrack::{self, End};
use netd_netlink::{NetlinkError, Socket};
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use nix::net::if_::if_nametoindex;

use crate::object::{Bridge, Family, Interface, Key, Object, Objects, Port, Step, Veth};
use crate::seam::{ApplyError, Kernel, KernelError, LinkFacts, Sandbox, Scope};
use ruleset::Ruleset;

const CREATE: u16 = NLM_F_CREATE | NLM_F_EXCL;

/// The one ruleset that every node of ours has; what varies are elements of its sets.
#[must_use]
pub fn fixed_ruleset() -> (Key, Object) {
    (Key::Ruleset, Object::Ruleset(*ruleset::MARK))
}

/// The kernel of the namespace that it was made in.
#[derive(Debug)]
pub struct LinuxKernel {
    socket: Mutex<Socket>,
    ruleset: Ruleset,
}

impl LinuxKernel {
    /// Opens the kernel of the calling thread's network namespace. Sysctls are those of the thread that applies.
    /// The nftables tables bear the name `instance`; links that start with `link_prefix` are ports of sandboxes.
    ///
    /// # Errors
    /// The kernel's; `EPERM` where another netd of this instance lives.
    pub fn new(instance: &str, link_prefix: &str) -> io::Result<Self> {
        Ok(Self { socket: Mutex::new(Socket::open()?), ruleset: Ruleset::open(instance, link_prefix)? })
    }

    fn socket(&self) -> MutexGuard<'_, Socket> {
        self.socket.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, step: &Step, sandbox: Option<&Sandbox>) -> Result<(), KernelError> {
        match step {
            Step::Create(Key::Bridge(name), Object::Bridge(bridge))
            | Step::Replace(Key::Bridge(name), Object::Bridge(bridge)) => self.bridge(name, bridge),
            Step::Create(Key::Veth(name), Object::Veth(veth)) => self.veth(name, veth, sandbox),
            Step::Replace(Key::Veth(name), Object::Veth(veth)) => self.port(name, veth),
            Step::Create(Key::Interface(id, name), Object::Interface(interface)) => {
                let sandbox = sandbox.filter(|sandbox| sandbox.id == *id).ok_or_else(no_sandbox)?;
                self::interface(name, interface, sandbox, CREATE)
            }
            // What is there stays; what is missing or different is set.
            Step::Replace(Key::Interface(id, name), Object::Interface(interface)) => {
                let sandbox = sandbox.filter(|sandbox| sandbox.id == *id).ok_or_else(no_sandbox)?;
                self::interface(name, interface, sandbox, NLM_F_CREATE | NLM_F_REPLACE)
            }
            Step::Delete(Key::Veth(name) | Key::Bridge(name)) => self.delete(name),
            // The sandbox end goes with the host end.
            Step::Delete(Key::Interface(..)) => Ok(()),
            // The ruleset's steps go another way; an object that does not fit its key is nobody's.
            Step::Create(..) | Step::Replace(..) | Step::Delete(_) => {
                let source = io::ErrorKind::Unsupported.into();
                Err(KernelError::Refused { action: format!("take the step {step:?}"), source })
            }
        }
    }

    /// Creates the bridge, or adopts one that is there; adds what is missing, takes nothing away.
    fn bridge(&self, name: &LinkName, bridge: &Bridge) -> Result<(), KernelError> {
        let mut socket = self.socket();
        let action = || format!("create bridge {name}");
        match socket.execute(vec![(messages::bridge(name, bridge), CREATE)]) {
            Ok(()) => {}
            Err(NetlinkError::Refused { source, .. }) if source.raw_os_error() == Some(libc::EEXIST) => {
                let link = socket.fetch(messages::by_name(name)).map_err(|error| refused(action(), error))?;
                if !observe::is_bridge(&link) {
                    return Err(KernelError::NotABridge(name.clone()));
                }
            }
            Err(error) => return Err(refused(action(), error)),
        }
        let link = socket.fetch(messages::by_name(name)).map_err(|error| refused(action(), error))?;
        bridge_sysctls(name)?;
        // A bridge that was given its MAC keeps it when a port with a lower one comes or goes.
        let index = index(name)?;
        let mut batch = vec![(messages::pin(index, bridge, &observe::mac_octets(&link)), 0)];
        batch.extend(bridge.addresses.iter().map(|address| (messages::address(index, *address), NLM_F_CREATE)));
        let failed = |error| refused(format!("give bridge {name} its addresses"), error);
        match socket.execute(batch) {
            Err(NetlinkError::Refused { source, .. }) if source.raw_os_error() == Some(libc::EEXIST) => Ok(()),
            done => done.map_err(failed),
        }
    }

    fn veth(&self, name: &LinkName, veth: &Veth, sandbox: Option<&Sandbox>) -> Result<(), KernelError> {
        let sandbox = sandbox.filter(|sandbox| sandbox.id == veth.peer.0).ok_or_else(no_sandbox)?;
        let fd = sandbox.fd.as_ref().ok_or_else(no_sandbox)?;
        let bridge = veth.bridge.as_ref().map(index).transpose()?;
        let message = messages::veth(name, veth, bridge, fd);
        self.socket().execute(vec![(message, CREATE), (messages::mark(name, veth), 0)]).map_err(|error| {
            match (&error, &veth.bridge) {
                (NetlinkError::Refused { source, .. }, _) if source.raw_os_error() == Some(libc::EEXIST) => {
                    KernelError::Exists(format!("link {name} or interface {}", veth.peer.1))
                }
                (NetlinkError::Refused { source, .. }, Some(bridge)) if source.raw_os_error() == Some(libc::EXFULL) => {
                    KernelError::Full(bridge.clone())
                }
                _ => refused(format!("create veth {name}"), error),
            }
        })?;
        if veth.hairpin || veth.isolated || veth.port == Port::Closed { self.port(name, veth) } else { Ok(()) }
    }

    fn port(&self, name: &LinkName, veth: &Veth) -> Result<(), KernelError> {
        let index = index(name)?;
        let message = match veth.port {
            Port::Open => messages::port(index, veth),
            Port::Closed => messages::shut(index),
        };
        self.socket().execute(vec![(message, 0)]).map_err(|error| refused(format!("set the bridge port {name}"), error))
    }

    fn delete(&self, name: &LinkName) -> Result<(), KernelError> {
        match self.socket().execute(vec![(messages::delete(name), 0)]) {
            Err(NetlinkError::Refused { source, .. }) if source.raw_os_error() == Some(libc::ENODEV) => Ok(()),
            done => done.map_err(|error| refused(format!("delete link {name}"), error)),
        }
    }
}

impl Kernel for LinuxKernel {
    fn observe(&self, scope: Scope<'_>) -> Result<Objects, KernelError> {
        let failed = |error| refused("read the node's links".to_owned(), error);
        match scope {
            Scope::Node => {
                let mut objects = observe::node(&mut self.socket()).map_err(failed)?;
                objects.extend(self.ruleset.observe().map_err(failed)?);
                observe_forwarding(&mut objects);
                Ok(objects)
            }
            Scope::Forwarding => {
                let mut objects = Objects::new();
                observe_forwarding(&mut objects);
                Ok(objects)
            }
            Scope::Sandbox(sandbox, name) => {
                let fd = sandbox.fd.as_ref().ok_or_else(no_sandbox)?;
                let found = namespace::within(fd.as_fd(), || observe::interface(&mut Socket::open()?, name));
                let found = found.and_then(|found| found).map_err(|source| KernelError::Refused {
                    action: format!("read interface {name} of the sandbox"),
                    source,
                })?;
                let key = Key::Interface(sandbox.id, name.clone());
                Ok(found.map(|interface| (key, Object::Interface(interface))).into_iter().collect())
            }
        }
    }

    fn apply(&self, steps: &[Step], sandbox: Option<&Sandbox>) -> Result<(), ApplyError> {
        let mut number = 0;
        for run in steps.chunk_by(|one, next| ruleset::is_ours(one) && ruleset::is_ours(next)) {
            let done = match run {
                [step] if !ruleset::is_ours(step) => self.take(step, sandbox),
                run => self.ruleset.apply(run).and_then(|()| run.iter().try_for_each(switch_forwarding)),
            };
            done.map_err(|source| ApplyError { number, step: format!("{run:?}"), source })?;
            number += run.len();
        }
        Ok(())
    }

    fn forget(&self, address: IpAddr) -> Result<(), KernelError> {
        self.ruleset.forget(&[conntrack::forget(address, End::Opener), conntrack::forget(address, End::Answerer)])
    }

    fn forget_port(&self, port: u16) -> Result<(), KernelError> {
        self.ruleset.forget(&conntrack::forget_udp_port(port))
    }

    fn identify(&self, fd: OwnedFd) -> Result<Sandbox, KernelError> {
        let id = namespace::within(fd.as_fd(), namespace::cookie).and_then(|cookie| cookie);
        let id =
            id.map_err(|source| KernelError::Refused { action: "enter the network namespace".to_owned(), source })?;
        Ok(Sandbox { id, fd: Some(fd) })
    }

    fn attached(
        &self,
        host_link: &LinkName,
        bridge: &LinkName,
        interface: &LinkName,
        sandbox: &Sandbox,
    ) -> Result<LinkFacts, KernelError> {
        let mut socket = self.socket();
        let mut here = |name: &LinkName| {
            socket.fetch(messages::by_name(name)).map_err(|_| KernelError::NotFound(format!("link {name}")))
        };
        let (port, controller) = (here(host_link)?, here(bridge)?);
        if !observe::is_port(&port, &controller) {
            return Err(KernelError::NotFound(format!("port {host_link} of bridge {bridge}")));
        }
        let (host_mac, bridge_mac) = (observe::mac(&port), observe::mac(&controller));
        let fd = sandbox.fd.as_ref().ok_or_else(no_sandbox)?;
        let inside = namespace::within(fd.as_fd(), || {
            Socket::open()?.fetch(messages::by_name(interface)).map_err(io::Error::other)
        });
        let link = inside.and_then(|link| link).map_err(|_| KernelError::NotFound(format!("interface {interface}")))?;
        Ok(LinkFacts { mac: observe::mac(&link), host_mac, bridge_mac, mtu: observe::mtu(&link) })
    }
}

/// Sysctls first, then addresses, then links up, then routes: no packet before all stands.
fn interface(name: &LinkName, interface: &Interface, sandbox: &Sandbox, flags: u16) -> Result<(), KernelError> {
    let fd = sandbox.fd.as_ref().ok_or_else(no_sandbox)?;
    let done = namespace::within(fd.as_fd(), || {
        let index = if_nametoindex(name.as_str())?;
        for (key, value) in &interface.sysctls {
            // A kernel without IPv6 has none of its switches, and nothing for them to switch.
            let path = format!("/proc/sys/{}", key.replace('.', "/"));
            match fs::write(&path, value) {
                Err(error) if error.kind() == io::ErrorKind::NotFound && key.starts_with("net.ipv6.") => {}
                written => written?,
            }
        }
        let addresses = interface.addresses.iter().map(|address| (messages::address(index, *address), flags));
        let mut batch: Vec<_> = addresses.collect();
        batch.extend([(messages::up(1), 0), (messages::settings(index, &interface.settings), 0)]);
        batch.extend(interface.routes.iter().map(|route| (messages::route(index, route), flags)));
        Socket::open()?.execute(batch).map_err(io::Error::other)
    });
    done.and_then(|done| done).map_err(|source| match source.raw_os_error() {
        Some(libc::ENODEV) => KernelError::NotFound(format!("interface {name}")),
        _ => KernelError::Refused { action: format!("configure interface {name}"), source },
    })
}

fn switch(family: Family) -> &'static str {
    match family {
        Family::V4 => "/proc/sys/net/ipv4/ip_forward",
        Family::V6 => "/proc/sys/net/ipv6/conf/all/forwarding",
    }
}

/// Set before the bridge goes up. The node takes no router's word from its sandboxes; its own link-local address works at
/// once (the first packet to a sandbox would wait for it, 1 to 2 s); replies may come by another way than the routes say;
/// and 127/8 reaches published ports (the ruleset drops it from everywhere else).
fn bridge_sysctls(name: &LinkName) -> Result<(), KernelError> {
    const SWITCHES: [(&str, &str, &str); 4] = [
        ("ipv4", "route_localnet", "1"),
        ("ipv4", "rp_filter", "2"),
        ("ipv6", "accept_ra", "0"),
        ("ipv6", "accept_dad", "0"),
    ];
    for (version, switch, value) in SWITCHES {
        let path = format!("/proc/sys/net/{version}/conf/{name}/{switch}");
        match fs::write(&path, value) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && version == "ipv6" => {}
            written => written.map_err(|source| KernelError::Refused { action: format!("write {path}"), source })?,
        }
    }
    Ok(())
}

/// The switch decides whether it is on, the guard's element (if it was seen) whether it is guarded.
fn observe_forwarding(objects: &mut Objects) {
    for family in [Family::V4, Family::V6] {
        let key = Key::Forwarding(family);
        if is_forwarding(family) {
            objects.entry(key).or_insert(Object::Forwarding { guarded: false });
        } else {
            objects.remove(&key);
        }
    }
}

fn is_forwarding(family: Family) -> bool {
    fs::read_to_string(switch(family)).is_ok_and(|text| text.trim() == "1")
}

/// On, once its guard stands. It is never switched off: others may count on it.
fn switch_forwarding(step: &Step) -> Result<(), KernelError> {
    let (Step::Create(Key::Forwarding(family), _) | Step::Replace(Key::Forwarding(family), _)) = step else {
        return Ok(());
    };
    if is_forwarding(*family) {
        return Ok(());
    }
    fs::write(switch(*family), "1")
        .map_err(|source| KernelError::Refused { action: format!("switch {} on", switch(*family)), source })
}

fn index(name: &LinkName) -> Result<u32, KernelError> {
    if_nametoindex(name.as_str()).map_err(|_| KernelError::NotFound(format!("link {name}")))
}

fn no_sandbox() -> KernelError {
    KernelError::NotFound("the sandbox's namespace".to_owned())
}

fn refused(action: String, error: NetlinkError) -> KernelError {
    KernelError::Refused { action, source: io::Error::other(error) }
}
