//! The laws of veth pairs: both ends, and what stands on them and goes with them.

use std::collections::BTreeSet;

use netd_config::LinkName;

use super::{PORTS, State, with_addresses};
use crate::object::{Interface, Key, Object, Port, Veth};
use crate::seam::{KernelError, Sandbox};

impl State {
    /// The sandbox end comes with the host end, without addresses.
    pub(super) fn veth(&mut self, name: &LinkName, veth: &Veth, sandbox: Option<&Sandbox>) -> Result<(), KernelError> {
        self.admit(name, veth, sandbox)?;
        let (netns, inside) = veth.peer.clone();
        self.objects.insert(Key::Veth(name.clone()), Object::Veth(veth.clone()));
        self.objects.insert(Key::Interface(netns, inside), Object::Interface(with_addresses(Vec::new())));
        self.fit_bridges();
        Ok(())
    }

    fn admit(&self, name: &LinkName, veth: &Veth, sandbox: Option<&Sandbox>) -> Result<(), KernelError> {
        let (netns, inside) = &veth.peer;
        if sandbox.is_none_or(|sandbox| sandbox.id != *netns) || self.dead.contains(netns) {
            return Err(KernelError::NotFound("the sandbox's namespace".to_owned()));
        }
        if let Some(bridge) = &veth.bridge
            && !self.objects.contains_key(&Key::Bridge(bridge.clone()))
        {
            return Err(KernelError::NotFound(format!("bridge {bridge}")));
        }
        let node = [Key::Veth(name.clone()), Key::Bridge(name.clone()), Key::GatewayLink(name.clone())];
        let taken = node.into_iter().chain([Key::Interface(*netns, inside.clone())]);
        if taken.into_iter().any(|key| self.objects.contains_key(&key)) {
            return Err(KernelError::Exists(format!("link {name} or interface {inside}")));
        }
        let is_port = |object: &&Object| {
            matches!(object, Object::Veth(port) if port.bridge == veth.bridge)
                || matches!(object, Object::GatewayLink(link) if link.bridge == veth.bridge)
        };
        if let Some(bridge) = &veth.bridge
            && self.objects.values().filter(is_port).count() >= PORTS
        {
            return Err(KernelError::Full(bridge.clone()));
        }
        Ok(())
    }

    /// Of a veth only its bridge port changes; of one that is shut, nothing but that.
    pub(super) fn port(&mut self, key: &Key, wanted: &Veth) -> Result<(), KernelError> {
        let Some(Object::Veth(veth)) = self.objects.get_mut(key) else {
            return Err(KernelError::NotFound(format!("{key:?}")));
        };
        veth.port = wanted.port;
        if wanted.port == Port::Open {
            (veth.hairpin, veth.isolated) = (wanted.hairpin, wanted.isolated);
            if veth.bridge.is_some() && wanted.vlans.is_some() {
                veth.vlans.clone_from(&wanted.vlans);
            }
        }
        Ok(())
    }

    /// Adds what is missing, takes nothing away. `anew`: none of it may be there.
    pub(super) fn interface(
        &mut self,
        key: &Key,
        wanted: &Interface,
        sandbox: Option<&Sandbox>,
        anew: bool,
    ) -> Result<(), KernelError> {
        let Key::Interface(netns, name) = key else { return Ok(()) };
        if sandbox.is_none_or(|sandbox| sandbox.id != *netns) || self.dead.contains(netns) {
            return Err(KernelError::NotFound("the sandbox's namespace".to_owned()));
        }
        let found = match self.objects.get(key) {
            Some(Object::Interface(found)) => found.clone(),
            _ if name.as_str() == "lo" => with_addresses(Vec::new()),
            _ => return Err(KernelError::NotFound(format!("interface {name}"))),
        };
        if anew && wanted.addresses.iter().any(|address| found.addresses.contains(address)) {
            return Err(KernelError::Exists(format!("an address of interface {name}")));
        }
        let mut interface = wanted.clone();
        interface.addresses.extend(found.addresses.iter().filter(|one| !wanted.addresses.contains(one)));
        interface.addresses.sort();
        interface.settings.mac = wanted.settings.mac.or(found.settings.mac);
        interface.settings.mtu = wanted.settings.mtu.or(found.settings.mtu);
        self.objects.insert(key.clone(), Object::Interface(interface));
        Ok(())
    }

    /// What stands on a host end, or leads by it. To an address there is one way.
    pub(super) fn beside(&mut self, link: &LinkName, key: &Key) -> Result<(), KernelError> {
        if !self.objects.contains_key(&Key::Veth(link.clone())) {
            return Err(KernelError::NotFound(format!("link {link}")));
        }
        if let Key::SandboxRoute(_, to) = key
            && self
                .objects
                .keys()
                .any(|found| matches!(found, Key::SandboxRoute(by, other) if other == to && by != link))
        {
            return Err(KernelError::Exists(format!("a route to {to}")));
        }
        self.objects.insert(key.clone(), Object::Set);
        Ok(())
    }

    /// Gateways and ways go with their links.
    pub(super) fn close_ways(&mut self) {
        let veths: BTreeSet<LinkName> = self
            .objects
            .keys()
            .filter_map(|key| if let Key::Veth(name) = key { Some(name.clone()) } else { None })
            .collect();
        let is_lost =
            |key: &Key| matches!(key, Key::Gateway(link, _) | Key::SandboxRoute(link, _) if !veths.contains(link));
        self.objects.retain(|key, _| !is_lost(key));
    }

    /// IPv4 routes die with the last IPv4 address of a link (`fib_inetaddr_event`, net/ipv4/fib_frontend.c).
    pub(super) fn disable_ipv4(&mut self, link: &LinkName) {
        let is_left = |key: &Key| matches!(key, Key::Gateway(on, address) if on == link && address.is_ipv4());
        if !self.objects.keys().any(is_left) {
            let dies = |key: &Key| matches!(key, Key::SandboxRoute(by, to) if by == link && to.is_ipv4());
            self.objects.retain(|key, _| !dies(key));
        }
    }
}
