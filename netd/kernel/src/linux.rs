//! The real kernel, by rtnetlink, nf_tables, setns and sysctl. No fork, no exec. Which steps are needed is `plan`'s question.

mod coexist;
mod echo;
mod fabric;
mod flows;
mod inside;
mod interface;
mod lacking;
mod messages;
mod namespace;
mod observe;
mod ruleset;
mod sandbox_route;
mod sysctls;
pub(crate) mod underlay;
mod vlan;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use netd_config::LinkName;
use netd_netlink::conntrack::{self, End};
use netd_netlink::nft::{Changes, Others};
use netd_netlink::{Link, NetlinkError, Socket};
use netlink_packet_core::{NLM_F_CREATE, NLM_F_ECHO, NLM_F_EXCL, NLM_F_REPLACE};

use crate::object::{Bridge, Flow, Interface, Key, Mac, Object, Objects, Port, Step, Veth};
use crate::seam::{ApplyError, Kernel, KernelError, LinkFacts, Sandbox, Scope};
pub(crate) use inside::Inside;
use namespace::Entrant;
use ruleset::Ruleset;

pub use coexist::{Coexistence, Firewall, Obstacle, OurLink, Passage};
pub use echo::{Asker, Echo};
pub use ruleset::{LOG_GROUP, LOGGED_ALLOW, LOGGED_AUDIT, LOGGED_DENY, read_elements};

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
    entrant: Entrant,
    tunnels: fabric::Names,
    flows: flows::Flows,
    link_prefix: String,
    has_ipv6: bool,
}

impl LinuxKernel {
    /// Opens the kernel of the calling thread's network namespace. Sysctls are those of the thread that applies.
    /// The nftables tables bear the name `instance`; links that start with `link_prefix` are ports of sandboxes.
    ///
    /// # Errors
    /// The kernel's; `EPERM` where another netd of this instance lives.
    pub fn new(instance: &str, link_prefix: &str) -> io::Result<Self> {
        let has_ipv6 = Path::new("/proc/sys/net/ipv6").exists();
        let ruleset = Ruleset::open(instance, link_prefix)?;
        let tunnels = fabric::Names::new(link_prefix)?;
        let (socket, flows, link_prefix) = (Mutex::new(Socket::open()?), flows::Flows::open()?, link_prefix.to_owned());
        Ok(Self { socket, ruleset, entrant: Entrant::start()?, tunnels, flows, link_prefix, has_ipv6 })
    }

    /// Tells who takes parts of our tables away, from now on, in the calling thread's network namespace. `None` where the
    /// kernel lets nobody else (Linux 6.9).
    ///
    /// # Errors
    /// The kernel's.
    pub fn changes(&self) -> io::Result<Option<Changes>> {
        self.ruleset.changes()
    }

    /// Tells that others change their tables, from now on, in the calling thread's network namespace.
    ///
    /// # Errors
    /// The kernel's.
    pub fn others(&self) -> io::Result<Others> {
        self.ruleset.others()
    }

    fn socket(&self) -> MutexGuard<'_, Socket> {
        self.socket.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, step: &Step, sandbox: Option<&Sandbox>) -> Result<(), KernelError> {
        match step {
            Step::Create(Key::Bridge(name), Object::Bridge(bridge))
            | Step::Replace(Key::Bridge(name), Object::Bridge(bridge)) => self.bridge(name, bridge),
            Step::Create(Key::GatewayLink(name), Object::GatewayLink(link))
            | Step::Replace(Key::GatewayLink(name), Object::GatewayLink(link)) => self.gateway_link(name, link),
            Step::Delete(Key::GatewayLink(name)) => self.delete_gateway_link(name),
            Step::Create(Key::Veth(name), Object::Veth(veth)) => self.veth(name, veth, sandbox),
            Step::Replace(Key::Veth(name), Object::Veth(veth)) => self.port(name, veth),
            Step::Create(Key::Interface(id, name), Object::Interface(interface)) => {
                let sandbox = sandbox.filter(|sandbox| sandbox.id == *id).ok_or_else(no_sandbox)?;
                self.configure(name, interface, sandbox, CREATE)
            }
            // What is there stays; what is missing or different is set.
            Step::Replace(Key::Interface(id, name), Object::Interface(interface)) => {
                let sandbox = sandbox.filter(|sandbox| sandbox.id == *id).ok_or_else(no_sandbox)?;
                self.configure(name, interface, sandbox, NLM_F_CREATE | NLM_F_REPLACE)
            }
            Step::Create(Key::Filtered(name), Object::Set) | Step::Replace(Key::Filtered(name), Object::Set) => {
                self.filter(name)
            }
            Step::Delete(Key::Filtered(name)) => self.unfilter(name),
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
        let has_ipv6 = bridge.addresses.iter().any(|address| address.addr().is_ipv6());
        if has_ipv6 && !self.has_ipv6 {
            return Err(KernelError::NoIpv6);
        }
        let mut socket = self.socket();
        let action = || format!("create bridge {name}");
        match socket.execute(vec![(messages::bridge(name, bridge), CREATE)]) {
            Ok(()) => {}
            Err(NetlinkError::Refused { source, .. }) if source.raw_os_error() == Some(libc::EEXIST) => {
                let link = socket.fetch(messages::by_name(name)).map_err(|error| refused(action(), error))?;
                if !observe::is_bridge(&link) {
                    return Err(KernelError::NotABridge(name.clone()));
                }
                if bridge.vlan_filtering && !observe::filters_vlans(&link) {
                    let done = socket.execute(vec![(messages::filter_vlans(name), 0)]);
                    done.map_err(|error| unmade(name, bridge, action(), error))?;
                }
            }
            Err(error) => return Err(unmade(name, bridge, action(), error)),
        }
        let link = socket.fetch(messages::by_name(name)).map_err(|error| refused(action(), error))?;
        sysctls::set(name, &sysctls::OF_BRIDGE)?;
        // One that is not up is new, or a netd ended over it.
        if has_ipv6 && !observe::is_up(&link) {
            sysctls::set(name, &sysctls::WITH_IPV6)?;
        }
        // A bridge that was given its MAC keeps it when a port with a lower one comes or goes.
        let index = observe::index(&link);
        let mut batch = vec![(messages::pin(index, bridge, &observe::mac_octets(&link)), 0)];
        batch.extend(bridge.addresses.iter().map(|address| (messages::bridge_address(index, *address), NLM_F_CREATE)));
        match socket.execute(batch) {
            Err(NetlinkError::Refused { source, .. }) if source.raw_os_error() == Some(libc::EEXIST) => Ok(()),
            // What the kernel answers where IPv6 is switched off (`inet6_addr_add`, net/ipv6/addrconf.c).
            Err(NetlinkError::Refused { source, .. }) if has_ipv6 && source.raw_os_error() == Some(libc::EACCES) => {
                Err(KernelError::Ipv6Off(name.clone()))
            }
            done => done.map_err(|error| refused(format!("give bridge {name} its addresses"), error)),
        }
    }

    /// A kernel without `br_netfilter` takes the switch, and does nothing.
    fn filter(&self, name: &LinkName) -> Result<(), KernelError> {
        existing(&mut self.socket(), name)?;
        if !Path::new("/proc/sys/net/bridge/bridge-nf-call-iptables").exists() {
            return Err(KernelError::Unfilterable(name.clone()));
        }
        let path = FILTER_TAGGED;
        fs::write(path, "1").map_err(|source| KernelError::Refused { action: format!("write {path}"), source })?;
        let filtered = self.socket().execute(vec![(messages::filter(name, true), 0)]);
        filtered.map_err(|error| refused(format!("filter bridge {name}"), error))
    }

    fn unfilter(&self, name: &LinkName) -> Result<(), KernelError> {
        match self.socket().execute(vec![(messages::filter(name, false), 0)]) {
            Err(NetlinkError::Refused { source, .. }) if source.raw_os_error() == Some(libc::ENODEV) => Ok(()),
            done => done.map_err(|error| refused(format!("filter bridge {name} no more"), error)),
        }
    }

    fn veth(&self, name: &LinkName, veth: &Veth, sandbox: Option<&Sandbox>) -> Result<(), KernelError> {
        let sandbox = sandbox.filter(|sandbox| sandbox.id == veth.peer.0).ok_or_else(no_sandbox)?;
        let inside = sandbox.inside.as_ref().ok_or_else(no_sandbox)?;
        let mac = a_mac();
        let mut socket = self.socket();
        let bridge = veth.bridge.as_ref().map(|bridge| existing(&mut socket, bridge)).transpose()?;
        let bridge_mac = bridge.as_ref().map(|bridge| observe::in_words(&bridge.mac)).unwrap_or_default();
        let message = messages::veth(name, veth, mac, bridge.map(|bridge| bridge.index), inside.namespace());
        let mark = messages::mark(name, veth, self.has_ipv6);
        let mut batch = vec![(message, CREATE | NLM_F_ECHO), (mark, 0)];
        let raised = (veth.port != Port::Down).then(|| (messages::up_by_name(name), 0));
        let vlans = veth.vlans.as_ref().filter(|_| veth.bridge.is_some());
        if vlans.is_none() {
            batch.extend(raised.clone());
        }
        let exists = || KernelError::Exists(format!("link {name} or interface {}", veth.peer.1));
        // One send, so that no crash leaves a link without its mark. But the kernel goes on after a refusal, and a link of
        // that name that is somebody else's must not get the mark: nothing is sent where one stands.
        if existing(&mut socket, name).is_ok() {
            return Err(exists());
        }
        let made = socket.create_link(batch);
        drop(socket);
        let made = made.map_err(|error| match (&error, &veth.bridge) {
            (NetlinkError::Refused { source, .. }, _) if source.raw_os_error() == Some(libc::EEXIST) => exists(),
            (NetlinkError::Refused { source, .. }, Some(bridge)) if source.raw_os_error() == Some(libc::EXFULL) => {
                KernelError::Full(bridge.clone())
            }
            _ => refused(format!("create veth {name}"), error),
        })?;
        if let Some(vlans) = vlans {
            // No packet of its passes in another VLAN.
            let mut socket = self.socket();
            let batch = vlan::port(index(&mut socket, name)?, vlans).into_iter().chain(raised).collect();
            socket.execute(batch).map_err(|error| refused(format!("put {name} into its VLANs"), error))?;
        }
        inside.made().end = made.and_then(|host| other_end(&host, veth)).map(|end| (veth.peer.1.clone(), end));
        inside.made().host = Some((name.clone(), veth.bridge.clone(), observe::in_words(&mac), bridge_mac));
        if veth.port == Port::Closed { self.port(name, veth) } else { Ok(()) }
    }

    fn configure(
        &self,
        name: &LinkName,
        interface: &Interface,
        sandbox: &Sandbox,
        flags: u16,
    ) -> Result<(), KernelError> {
        let inside = sandbox.inside.as_ref().ok_or_else(no_sandbox)?;
        let quick_link_local = interface.quick_link_local && self.has_ipv6;
        let interface = Interface { quick_link_local, ..interface.clone() };
        interface::configure(name, &interface, (inside, &self.entrant), flags)
    }

    fn port(&self, name: &LinkName, veth: &Veth) -> Result<(), KernelError> {
        let mut socket = self.socket();
        let batch = match veth.port {
            Port::Open => {
                let mut batch = vec![(messages::port(name, veth), 0)];
                if let Some(vlans) = veth.vlans.as_ref().filter(|_| veth.bridge.is_some()) {
                    batch.extend(vlan::port(index(&mut socket, name)?, vlans));
                }
                batch.push((messages::up_by_name(name), 0));
                batch
            }
            Port::Closed => vec![(messages::shut(index(&mut socket, name)?), 0)],
            Port::Down => vec![(messages::down_by_name(name), 0)],
        };
        socket.execute(batch).map_err(|error| refused(format!("set the bridge port {name}"), error))
    }

    /// Deletes links together, by a group that only they are in: the kernel waits for its readers once, not once a link.
    fn delete_all(&self, steps: &[Step]) -> Result<(), KernelError> {
        let names =
            steps.iter().filter_map(|step| if let Step::Delete(Key::Veth(name)) = step { Some(name) } else { None });
        let mut socket = self.socket();
        let mut left = 0;
        for name in names {
            match socket.execute(vec![(messages::condemn(name), 0)]) {
                Ok(()) => left += 1,
                Err(NetlinkError::Refused { source, .. }) if source.raw_os_error() == Some(libc::ENODEV) => {}
                Err(error) => return Err(refused(format!("delete link {name}"), error)),
            }
        }
        if left == 0 {
            return Ok(());
        }
        match socket.execute(vec![(messages::delete_condemned(), 0)]) {
            Err(NetlinkError::Refused { source, .. }) if source.raw_os_error() == Some(libc::ENODEV) => Ok(()),
            done => done.map_err(|error| refused(format!("delete {left} links"), error)),
        }
    }

    fn delete(&self, name: &LinkName) -> Result<(), KernelError> {
        match self.socket().execute(vec![(messages::delete(name), 0)]) {
            Err(NetlinkError::Refused { source, .. }) if source.raw_os_error() == Some(libc::ENODEV) => Ok(()),
            done => done.map_err(|error| refused(format!("delete link {name}"), error)),
        }
    }

    /// A bridge that is gone has no neighbours.
    fn forget_neighbour(&self, address: IpAddr, bridge: &LinkName) -> Result<(), KernelError> {
        let mut socket = self.socket();
        let Ok(index) = index(&mut socket, bridge) else { return Ok(()) };
        match socket.execute(vec![(messages::forget_neighbour(index, address), 0)]) {
            Err(NetlinkError::Refused { source, .. }) if source.raw_os_error() == Some(libc::ENOENT) => Ok(()),
            done => done.map_err(|error| refused(format!("forget neighbour {address} on {bridge}"), error)),
        }
    }
}

impl Kernel for LinuxKernel {
    fn observe(&self, scope: Scope<'_>) -> Result<Objects, KernelError> {
        let failed = |error| refused("read the node's links".to_owned(), error);
        match scope {
            Scope::Node => {
                let mut objects = self.observe(Scope::Wiring)?;
                objects.extend(self.observe(Scope::Policies)?);
                Ok(objects)
            }
            Scope::Wiring => {
                let mut objects = observe::node(&mut self.socket(), &self.tunnels).map_err(failed)?;
                objects.extend(self.ruleset.observe().map_err(failed)?);
                sysctls::observe(&mut objects);
                Ok(objects)
            }
            Scope::Filters => observe::filtered(&mut self.socket()).map_err(failed),
            Scope::Policies => {
                let mut objects = self.observe(Scope::Filters)?;
                objects.extend(self.ruleset.observe_policies().map_err(failed)?);
                Ok(objects)
            }
            Scope::Forwarding => {
                let mut objects = Objects::new();
                sysctls::observe(&mut objects);
                Ok(objects)
            }
            Scope::Ruleset => {
                let mark = self.ruleset.mark().map_err(|error| refused("read the ruleset".to_owned(), error))?;
                Ok(mark.map(|mark| (Key::Ruleset, Object::Ruleset(mark))).into_iter().collect())
            }
            Scope::Sandbox(sandbox, name) => {
                let inside = sandbox.inside.as_ref().ok_or_else(no_sandbox)?;
                let found = observe::interface(&mut inside.socket(), name);
                let found = found.map_err(|error| refused(format!("read interface {name} of the sandbox"), error))?;
                let key = Key::Interface(sandbox.id, name.clone());
                Ok(found.map(|interface| (key, Object::Interface(interface))).into_iter().collect())
            }
        }
    }

    fn apply(&self, steps: &[Step], sandbox: Option<&Sandbox>) -> Result<(), ApplyError> {
        let mut number = 0;
        for run in steps.chunk_by(goes_with) {
            let done = match run {
                run if run.iter().all(fabric::is_ours) => fabric::apply(&mut self.socket(), &self.tunnels, run),
                [step] if !ruleset::is_ours(step) && !sandbox_route::is_ours(step) => self.take(step, sandbox),
                run if run.iter().all(sandbox_route::is_ours) => sandbox_route::apply(&mut self.socket(), run),
                run if run.iter().all(ruleset::is_ours) => {
                    self.ruleset.apply(run).and_then(|()| run.iter().try_for_each(sysctls::switch_on))
                }
                run => self.delete_all(run),
            };
            done.map_err(|source| ApplyError { number, step: told(run), source })?;
            number += run.len();
        }
        Ok(())
    }

    fn forget(&self, address: IpAddr, bridge: Option<&LinkName>) -> Result<(), KernelError> {
        bridge.map_or(Ok(()), |bridge| self.forget_neighbour(address, bridge))?;
        if address.is_ipv6() {
            return self.flows.forget(address);
        }
        self.ruleset.forget(&[conntrack::forget(address, End::Opener), conntrack::forget(address, End::Answerer)])
    }

    fn forget_port(&self, port: u16) -> Result<(), KernelError> {
        self.ruleset.forget(&conntrack::forget_udp_port(port))
    }

    fn flows(&self, addresses: &BTreeSet<IpAddr>) -> Result<Vec<Flow>, KernelError> {
        self.ruleset.flows(addresses)
    }

    fn cut(&self, flows: &[Flow]) -> Result<(), KernelError> {
        self.ruleset.cut(flows)
    }

    fn counts(&self) -> Result<BTreeMap<Key, u64>, KernelError> {
        self.ruleset.counts().map_err(|error| refused("read counters".to_owned(), error))
    }

    fn identify(&self, fd: OwnedFd) -> Result<Sandbox, KernelError> {
        let (id, inside) = Inside::enter(&self.entrant, fd).map_err(cannot_enter)?;
        Ok(Sandbox { id, inside: Some(inside) })
    }

    fn attached(
        &self,
        host_link: &LinkName,
        bridge: Option<&LinkName>,
        interface: &LinkName,
        sandbox: &Sandbox,
    ) -> Result<LinkFacts, KernelError> {
        let inside = sandbox.inside.as_ref().ok_or_else(no_sandbox)?;
        if let Some(facts) = inside.made().facts(host_link, bridge, interface) {
            return Ok(facts);
        }
        let mut socket = self.socket();
        let mut here = |name: &LinkName| existing(&mut socket, name);
        let host_end = here(host_link)?;
        let mut bridge_mac = String::new();
        if bridge.is_none() && host_end.controller.is_some() {
            return Err(KernelError::NotFound(format!("link {host_link} outside of bridges")));
        }
        if let Some(bridge) = bridge {
            let controller = here(bridge)?;
            if host_end.controller != Some(controller.index) {
                return Err(KernelError::NotFound(format!("port {host_link} of bridge {bridge}")));
            }
            bridge_mac = observe::in_words(&controller.mac);
        }
        let host_mac = observe::in_words(&host_end.mac);
        let link = inside.socket().link(messages::by_name(interface));
        let link = link.map_err(|_| KernelError::NotFound(format!("interface {interface}")))?;
        Ok(LinkFacts { mac: observe::in_words(&link.mac), host_mac, bridge_mac, mtu: link.mtu })
    }

    fn lacking(&self, interface: &LinkName, wanted: &Interface, sandbox: &Sandbox) -> Result<Vec<String>, KernelError> {
        let inside = sandbox.inside.as_ref().ok_or_else(no_sandbox)?;
        lacking::lacking(interface, wanted, (inside, &self.entrant))
    }

    fn mac(&self, link: &LinkName) -> Result<String, KernelError> {
        Ok(observe::in_words(&existing(&mut self.socket(), link)?.mac))
    }
}

/// Without it, what bears a VLAN's tag gets past the rules. It is of all bridges of the node, and stays on: others that meet the
/// rules may rely on it.
const FILTER_TAGGED: &str = "/proc/sys/net/bridge/bridge-nf-filter-vlan-tagged";

/// Steps for people, who do not read a hundred thousand.
fn told(run: &[Step]) -> String {
    const MOST: usize = 3;
    match run.len().checked_sub(MOST) {
        None | Some(0) => format!("{run:?}"),
        Some(more) => format!("{:?} and {more} more", &run[..MOST]),
    }
}

/// Steps that are taken as one: the ruleset's in a transaction, ways with one send, deletions of links at the price of one.
fn goes_with(one: &Step, next: &Step) -> bool {
    let deletes: fn(&Step) -> bool = |step| matches!(step, Step::Delete(Key::Veth(_)));
    [ruleset::is_ours, fabric::is_ours, sandbox_route::is_ours, deletes].iter().any(|is| is(one) && is(next))
}

/// A link's number. To ask for a name otherwise (`SIOCGIFINDEX`) has the kernel look for a module where there is none
/// (`dev_load`, net/core/dev_ioctl.c): a program started for each look.
fn index(socket: &mut Socket, name: &LinkName) -> Result<u32, KernelError> {
    existing(socket, name).map(|link| link.index)
}

fn existing(socket: &mut Socket, name: &LinkName) -> Result<Link, KernelError> {
    socket.link(messages::by_name(name)).map_err(|_| KernelError::NotFound(format!("link {name}")))
}

/// The other end of a pair, as far as it follows from this one: both have the MTU that was asked for, or the kernel's. None
/// where its MAC is the kernel's to choose.
fn other_end(host: &Link, veth: &Veth) -> Option<Link> {
    let (index, mac) = (host.other_end?, veth.peer_mac?.to_vec());
    Some(Link { index, mac, mtu: host.mtu, controller: None, other_end: Some(host.index) })
}

/// One that nobody else is likely to have, of the sort that everybody may give (IEEE 802, 8.4).
fn a_mac() -> Mac {
    let [a, b, c, d, e, f, ..] = RandomState::new().build_hasher().finish().to_ne_bytes();
    [a & 0xfc | 0x02, b, c, d, e, f]
}

fn cannot_enter(source: io::Error) -> KernelError {
    KernelError::Refused { action: "enter the network namespace".to_owned(), source }
}

/// Why a bridge could not be made, or changed.
fn unmade(name: &LinkName, bridge: &Bridge, action: String, error: NetlinkError) -> KernelError {
    match &error {
        NetlinkError::Refused { source, .. }
            if bridge.vlan_filtering && source.raw_os_error() == Some(libc::EOPNOTSUPP) =>
        {
            KernelError::NoVlanFiltering(name.clone())
        }
        NetlinkError::Refused { .. } | NetlinkError::Socket { .. } | NetlinkError::Restless => refused(action, error),
    }
}

fn no_sandbox() -> KernelError {
    KernelError::NotFound("the sandbox's namespace".to_owned())
}

fn refused(action: String, error: NetlinkError) -> KernelError {
    KernelError::Refused { action, source: io::Error::other(error) }
}
