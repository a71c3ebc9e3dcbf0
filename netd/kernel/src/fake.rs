//! A kernel that keeps state, obeys the laws of the real one, and fails on demand. The tests hold both to them.

mod bridges;
mod fabric;
mod veths;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard, PoisonError};

use netd_config::LinkName;

use ipnet::IpNet;

use crate::object::{
    Bridge, Flow, GatewayLink, Interface, Key, LinkSettings, NetnsId, Object, Objects, Part, Step, Veth,
};
use crate::seam::{ApplyError, Kernel, KernelError, LinkFacts, Sandbox, Scope, told_route};

/// A bridge's ports (`BR_MAX_PORTS`).
const PORTS: usize = 1_023;
/// Octets, of a link that nobody gave another.
const MTU: u32 = 1_500;

#[derive(Debug, Default)]
struct State {
    objects: Objects,
    dead: BTreeSet<NetnsId>,
    /// Bridges that have ports.
    ports: BTreeSet<LinkName>,
    fail_at: Option<usize>,
    die_at: Option<usize>,
    is_blind: bool,
    refused: BTreeSet<Key>,
    lacks_vlan_filtering: bool,
    flows: BTreeSet<Flow>,
}

/// A kernel in memory.
#[derive(Debug, Default)]
pub struct FakeKernel {
    state: Mutex<State>,
    reading: Mutex<()>,
}

impl FakeKernel {
    /// An empty kernel.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Built without `CONFIG_BRIDGE_VLAN_FILTERING`.
    #[must_use]
    pub fn without_vlan_filtering() -> Self {
        let kernel = Self::new();
        kernel.state().lacks_vlan_filtering = true;
        kernel
    }

    /// A sandbox by number.
    #[must_use]
    pub fn sandbox(&self, number: u64) -> Sandbox {
        Sandbox { id: NetnsId(number), inside: None }
    }

    /// The `step`th step from now on fails, counted from 0, and only that one.
    pub fn fail_at(&self, step: usize) {
        self.state().fail_at = Some(step);
    }

    /// The `step`th step from now on fails, counted from 0, and all after it: whoever takes steps has died.
    pub fn die_at(&self, step: usize) {
        self.state().die_at = Some(step);
    }

    /// Every step on this object fails from now on.
    pub fn refuse(&self, key: Key) {
        self.state().refused.insert(key);
    }

    /// It cannot be read from now on.
    pub fn blind(&self) {
        self.state().is_blind = true;
    }

    /// No step fails on demand any more, and it can be read.
    pub fn heal(&self) {
        let mut state = self.state();
        state.is_blind = false;
        (state.fail_at, state.die_at) = (None, None);
        state.refused.clear();
    }

    /// A flow is opened.
    pub fn open(&self, flow: Flow) {
        self.state().flows.insert(flow);
    }

    /// Whoever reads flows has them when this is dropped.
    pub fn hold_readers(&self) -> impl Sized + '_ {
        self.reading.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The namespace dies, and takes its interfaces and with them their host ends.
    pub fn kill_sandbox(&self, id: NetnsId) {
        let mut state = self.state();
        state.dead.insert(id);
        state.objects.retain(|key, object| match (key, object) {
            (Key::Interface(netns, _), _) => *netns != id,
            (Key::Veth(_), Object::Veth(veth)) => veth.peer.0 != id,
            _ => true,
        });
        state.close_ways();
        state.fit_bridges();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kernel for FakeKernel {
    fn observe(&self, scope: Scope<'_>) -> Result<Objects, KernelError> {
        let state = self.state();
        if state.is_blind {
            let source = std::io::ErrorKind::Other.into();
            return Err(KernelError::Refused { action: "read the node".to_owned(), source });
        }
        let seen = |key: &Key| match (scope, key) {
            (Scope::Sandbox(sandbox, name), Key::Interface(netns, found)) => *netns == sandbox.id && found == name,
            (Scope::Node, key) => !matches!(key, Key::Interface(..)),
            (Scope::Wiring, key) => !matches!(key, Key::Interface(..)) && !key.is_of_policy(),
            (Scope::Filters, key) => matches!(key, Key::Filtered(_)),
            (Scope::Policies, key) => *key == Key::Ruleset || key.is_of_policy(),
            (Scope::Forwarding, key) => matches!(key, Key::Forwarding(_)),
            (Scope::Ruleset, key) => *key == Key::Ruleset,
            (Scope::Sandbox(..), _) => false,
        };
        let objects = state.objects.iter().filter(|(key, _)| seen(key));
        let mut objects: Objects = objects.map(|(key, object)| (key.clone(), state.readable(object))).collect();
        if let Scope::Sandbox(sandbox, name) = scope
            && name.as_str() == "lo"
        {
            let lo = Key::Interface(sandbox.id, name.clone());
            objects.entry(lo).or_insert_with(|| Object::Interface(with_addresses(Vec::new())));
        }
        Ok(objects)
    }

    fn apply(&self, steps: &[Step], sandbox: Option<&Sandbox>) -> Result<(), ApplyError> {
        let mut state = self.state();
        let mut number = 0;
        // What stands together of the ruleset's is one transaction.
        for run in steps.chunk_by(|one, next| is_ruled(one) && is_ruled(next)) {
            let before = is_ruled(&run[0]).then(|| state.objects.clone());
            let done = run.iter().try_for_each(|step| state.take(step, sandbox));
            if let (Err(_), Some(before)) = (&done, before) {
                state.objects = before;
            }
            done.map_err(|source| ApplyError { number, step: format!("{run:?}"), source })?;
            number += run.len();
        }
        Ok(())
    }

    fn forget(&self, address: IpAddr, _: Option<&LinkName>) -> Result<(), KernelError> {
        self.state().flows.retain(|flow| flow.opener.0 != address && flow.answerer.0 != address);
        Ok(())
    }

    fn forget_port(&self, _: u16) -> Result<(), KernelError> {
        Ok(())
    }

    fn flows(&self, addresses: &BTreeSet<IpAddr>) -> Result<Vec<Flow>, KernelError> {
        let is_at =
            |flow: &&Flow| [flow.opener, flow.answerer, flow.asked].iter().any(|end| addresses.contains(&end.0));
        let flows = self.state().flows.iter().filter(is_at).copied().collect();
        drop(self.hold_readers());
        Ok(flows)
    }

    fn cut(&self, flows: &[Flow]) -> Result<(), KernelError> {
        let mut state = self.state();
        if !flows.is_empty() {
            state.needs_ruleset()?;
        }
        state.flows.retain(|flow| !flows.contains(flow));
        Ok(())
    }

    /// No packet passes here.
    fn counts(&self) -> Result<BTreeMap<Key, u64>, KernelError> {
        let state = self.state();
        state.needs_ruleset()?;
        let counted = state.objects.keys().filter(|key| matches!(key, Key::Pair(..) | Key::Span(_)));
        Ok(counted.map(|key| (key.clone(), 0)).collect())
    }

    fn identify(&self, fd: OwnedFd) -> Result<Sandbox, KernelError> {
        Err(KernelError::NotFound(format!("a network namespace behind {fd:?} (the fake kernel has none)")))
    }

    fn attached(
        &self,
        host_link: &LinkName,
        bridge: Option<&LinkName>,
        interface: &LinkName,
        sandbox: &Sandbox,
    ) -> Result<LinkFacts, KernelError> {
        let state = self.state();
        let find = |key: Key| state.objects.get(&key).ok_or_else(|| KernelError::NotFound(format!("{key:?}")));
        if let Some(bridge) = bridge {
            find(Key::Bridge(bridge.clone()))?;
        }
        let (Object::Veth(veth), Object::Interface(inside)) =
            (find(Key::Veth(host_link.clone()))?, find(Key::Interface(sandbox.id, interface.clone()))?)
        else {
            return Err(KernelError::NotFound(format!("link {host_link}")));
        };
        if veth.bridge.as_ref() != bridge {
            return Err(KernelError::NotFound(format!("link {host_link} at bridge {bridge:?}")));
        }
        let mac = |last: u64| [2, 0, 0, 0, 0, u8::try_from(last & 0xff).unwrap_or_default()];
        let text = |mac: [u8; 6]| mac.map(|octet| format!("{octet:02x}")).join(":");
        let own = inside.settings.mac.or(veth.peer_mac).unwrap_or_else(|| mac(sandbox.id.0));
        let mtu = inside.settings.mtu.or(veth.mtu).unwrap_or(MTU);
        let bridge_mac = bridge.map(|_| text(mac(2))).unwrap_or_default();
        Ok(LinkFacts { mac: text(own), host_mac: text(mac(1)), bridge_mac, mtu })
    }

    fn lacking(&self, interface: &LinkName, wanted: &Interface, sandbox: &Sandbox) -> Result<Vec<String>, KernelError> {
        let state = self.state();
        let key = Key::Interface(sandbox.id, interface.clone());
        let Some(Object::Interface(has)) = state.objects.get(&key) else {
            return Err(KernelError::NotFound(format!("interface {interface}")));
        };
        let gone = wanted.addresses.iter().filter(|address| !has.addresses.contains(address));
        let mut lacking: Vec<String> = gone.map(|address| format!("address {address}")).collect();
        lacking.extend(wanted.routes.iter().filter(|route| !has.routes.contains(route)).map(told_route));
        let sysctls = wanted.sysctls.iter().filter(|(key, value)| has.sysctls.get(*key) != Some(value));
        lacking.extend(sysctls.map(|(key, value)| format!("sysctl {key} {value}")));
        lacking.extend((wanted.settings != has.settings).then(|| format!("settings {:?}", wanted.settings)));
        Ok(lacking)
    }

    fn mac(&self, link: &LinkName) -> Result<String, KernelError> {
        let keys = [Key::Bridge(link.clone()), Key::GatewayLink(link.clone()), Key::Veth(link.clone())];
        let is_there = keys.iter().any(|key| self.state().objects.contains_key(key));
        is_there.then(|| "02:00:00:00:00:03".to_owned()).ok_or_else(|| KernelError::NotFound(format!("link {link}")))
    }
}

fn with_addresses(addresses: Vec<IpNet>) -> Interface {
    let (routes, sysctls, settings) = (Vec::new(), BTreeMap::new(), LinkSettings::default());
    Interface { addresses, routes, sysctls, settings, quick_link_local: false }
}

impl State {
    /// What can be read back: no MAC that was asked for, of an interface its addresses alone, and VLANs where they count.
    fn readable(&self, object: &Object) -> Object {
        match object {
            Object::Veth(veth) => Object::Veth(Veth {
                peer_mac: None,
                mtu: veth.mtu.or(Some(MTU)),
                vlans: veth.vlans.clone().filter(|_| self.tells_vlans(veth)),
                ..veth.clone()
            }),
            Object::Bridge(bridge) => Object::Bridge(Bridge { mtu: bridge.mtu.or(Some(MTU)), ..bridge.clone() }),
            Object::GatewayLink(link) => {
                Object::GatewayLink(GatewayLink { mtu: link.mtu.or(Some(MTU)), ..link.clone() })
            }
            Object::Interface(interface) => Object::Interface(with_addresses(interface.addresses.clone())),
            Object::Ruleset(_)
            | Object::Forwarding { .. }
            | Object::Set
            | Object::Class(_)
            | Object::Decision(_)
            | Object::Profile(_)
            | Object::Tunnel(_)
            | Object::NextHop(_)
            | Object::Target(_) => object.clone(),
        }
    }

    fn take(&mut self, step: &Step, sandbox: Option<&Sandbox>) -> Result<(), KernelError> {
        self.fault()?;
        if self.refused.contains(step.key()) {
            return Err(KernelError::Injected(0));
        }
        match step {
            Step::Create(Key::Bridge(name), Object::Bridge(bridge))
            | Step::Replace(Key::Bridge(name), Object::Bridge(bridge)) => self.bridge(name, bridge),
            Step::Create(Key::GatewayLink(name), Object::GatewayLink(link))
            | Step::Replace(Key::GatewayLink(name), Object::GatewayLink(link)) => self.gateway_link(name, link),
            Step::Create(Key::Ruleset, object) if self.objects.get(&Key::Ruleset) == Some(object) => Ok(()),
            Step::Create(key @ Key::Ruleset, object) | Step::Replace(key @ Key::Ruleset, object) => {
                self.demolish();
                self.objects.insert(key.clone(), object.clone());
                Ok(())
            }
            Step::Create(key, Object::Forwarding { guarded }) | Step::Replace(key, Object::Forwarding { guarded }) => {
                self.forward(key, *guarded)
            }
            Step::Create(Key::Veth(name), Object::Veth(veth)) => self.veth(name, veth, sandbox),
            Step::Replace(key @ Key::Veth(_), Object::Veth(veth)) => self.port(key, veth),
            Step::Create(key @ Key::Interface(..), Object::Interface(interface)) => {
                self.interface(key, interface, sandbox, true)
            }
            Step::Replace(key @ Key::Interface(..), Object::Interface(interface)) => {
                self.interface(key, interface, sandbox, false)
            }
            Step::Create(key @ (Key::Gateway(link, _) | Key::SandboxRoute(link, _)), Object::Set)
            | Step::Replace(key @ (Key::Gateway(link, _) | Key::SandboxRoute(link, _)), Object::Set) => {
                self.beside(link, key)
            }
            Step::Create(key @ Key::Filtered(name), Object::Set)
            | Step::Replace(key @ Key::Filtered(name), Object::Set) => {
                if !self.objects.contains_key(&Key::Bridge(name.clone())) {
                    return Err(KernelError::NotFound(format!("link {name}")));
                }
                self.objects.insert(key.clone(), Object::Set);
                Ok(())
            }
            Step::Create(key @ (Key::Tunnel(_) | Key::FarEnd(_) | Key::Route(_)), object) => {
                self.fabric(key, object, true)
            }
            Step::Replace(key @ (Key::Tunnel(_) | Key::FarEnd(_) | Key::Route(_)), object) => {
                self.fabric(key, object, false)
            }
            Step::Create(key, object) if key.part().is_elements() => match self.objects.get(key) {
                Some(found) if found != object => Err(KernelError::Exists(format!("{key:?}"))),
                _ => self.element(key, object),
            },
            Step::Replace(key, object) if key.part().is_elements() => self.element(key, object),
            Step::Create(..) | Step::Replace(..) => {
                let source = std::io::ErrorKind::Unsupported.into();
                Err(KernelError::Refused { action: format!("take the step {step:?}"), source })
            }
            Step::Delete(key) => {
                self.delete(key);
                Ok(())
            }
        }
    }

    fn fault(&mut self) -> Result<(), KernelError> {
        if let Some(left) = self.fail_at.as_mut() {
            if *left == 0 {
                self.fail_at = None;
                return Err(KernelError::Injected(0));
            }
            *left -= 1;
        }
        if let Some(left) = self.die_at.as_mut() {
            if *left == 0 {
                return Err(KernelError::Injected(0));
            }
            *left -= 1;
        }
        Ok(())
    }

    /// It is never switched off, and a guard stays.
    fn forward(&mut self, key: &Key, guarded: bool) -> Result<(), KernelError> {
        if guarded {
            self.needs_ruleset()?;
        }
        let was_guarded = self.objects.get(key) == Some(&Object::Forwarding { guarded: true });
        self.objects.insert(key.clone(), Object::Forwarding { guarded: guarded || was_guarded });
        Ok(())
    }

    fn element(&mut self, key: &Key, object: &Object) -> Result<(), KernelError> {
        self.needs_ruleset()?;
        if let Key::Inside(net) = key {
            self.lies_apart(net)?;
        }
        self.objects.insert(key.clone(), object.clone());
        Ok(())
    }

    fn needs_ruleset(&self) -> Result<(), KernelError> {
        let stands = self.objects.contains_key(&Key::Ruleset);
        stands.then_some(()).ok_or_else(|| KernelError::NotFound("the ruleset".to_owned()))
    }

    fn delete(&mut self, key: &Key) {
        match key {
            Key::Ruleset => self.demolish(),
            Key::Forwarding(_) | Key::Interface(..) => {}
            Key::Veth(_) => {
                if let Some(Object::Veth(veth)) = self.objects.remove(key) {
                    self.objects.remove(&Key::Interface(veth.peer.0, veth.peer.1));
                    self.close_ways();
                    self.fit_bridges();
                }
            }
            Key::Bridge(name) => self.delete_bridge(name),
            Key::GatewayLink(_) => {
                self.objects.remove(key);
                self.fit_bridges();
            }
            Key::Filtered(_)
            | Key::DropSilently(_)
            | Key::Isolated(..)
            | Key::NoFlood(_)
            | Key::Guarded(_)
            | Key::Trunk(_)
            | Key::Hairpin(..)
            | Key::Class(_)
            | Key::Block(..)
            | Key::Span(_)
            | Key::Pair(..)
            | Key::PortMac(..)
            | Key::PortAddress(..)
            | Key::Admitted(_)
            | Key::Fenced(_)
            | Key::Connected
            | Key::Peer(_)
            | Key::PeersOnly(_)
            | Key::Inside(_)
            | Key::Masquerade(..)
            | Key::Published(_)
            | Key::FarEnd(_)
            | Key::Route(_)
            | Key::SandboxRoute(..) => {
                self.objects.remove(key);
            }
            Key::Tunnel(encapsulation) => self.delete_tunnel(*encapsulation),
            Key::Gateway(link, address) => {
                self.objects.remove(key);
                if address.is_ipv4() {
                    self.disable_ipv4(link);
                }
            }
        }
    }

    /// Elements go with the ruleset, and so do the guards.
    fn demolish(&mut self) {
        self.objects.retain(|key, _| *key != Key::Ruleset && !key.part().is_elements());
        for object in self.objects.values_mut() {
            if let Object::Forwarding { guarded } = object {
                *guarded = false;
            }
        }
    }
}

/// A step of the ruleset: taken in one transaction with its neighbours.
fn is_ruled(step: &Step) -> bool {
    let part = step.key().part();
    part == Part::Skeleton || part.is_elements()
}

impl fmt::Display for FakeKernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (key, object) in &self.state().objects {
            writeln!(f, "{key:?} = {object:?}")?;
        }
        Ok(())
    }
}
