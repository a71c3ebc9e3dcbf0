//! The laws of bridges: what is adopted, what their ports do to them, and the links of their VLANs' gateways.

use std::collections::BTreeMap;

use ipnet::IpNet;
use netd_config::LinkName;

use super::{MTU, State};
use crate::object::{Bridge, GatewayLink, Key, Object, Port, Veth};
use crate::seam::KernelError;

impl State {
    /// One that is there is adopted: what is missing is added, nothing is taken away.
    pub(super) fn bridge(&mut self, name: &LinkName, wanted: &Bridge) -> Result<(), KernelError> {
        if [Key::Veth(name.clone()), Key::GatewayLink(name.clone())].iter().any(|key| self.objects.contains_key(key)) {
            return Err(KernelError::NotABridge(name.clone()));
        }
        if wanted.vlan_filtering && self.lacks_vlan_filtering {
            return Err(KernelError::NoVlanFiltering(name.clone()));
        }
        let key = Key::Bridge(name.clone());
        let mut bridge = wanted.clone();
        if let Some(Object::Bridge(found)) = self.objects.get(&key) {
            add(&mut bridge.addresses, &found.addresses);
            bridge.mtu = found.mtu;
            bridge.promisc |= found.promisc;
            bridge.vlan_filtering |= found.vlan_filtering;
        }
        bridge.addresses.sort();
        self.objects.insert(key, Object::Bridge(bridge));
        Ok(())
    }

    /// One of ours that is there is adopted as a bridge is, and its other end is put where it belongs.
    pub(super) fn gateway_link(&mut self, name: &LinkName, wanted: &GatewayLink) -> Result<(), KernelError> {
        if [Key::Veth(name.clone()), Key::Bridge(name.clone())].iter().any(|key| self.objects.contains_key(key)) {
            return Err(KernelError::NotOurGateway(name.clone()));
        }
        match &wanted.bridge {
            Some(bridge) if self.objects.contains_key(&Key::Bridge(bridge.clone())) => {}
            Some(bridge) => return Err(KernelError::NotFound(format!("link {bridge}"))),
            None => return Err(KernelError::NotFound(format!("the bridge of link {name}"))),
        }
        let key = Key::GatewayLink(name.clone());
        let mut link = wanted.clone();
        if let Some(Object::GatewayLink(found)) = self.objects.get(&key) {
            add(&mut link.addresses, &found.addresses);
            link.mtu = found.mtu;
        }
        link.addresses.sort();
        self.objects.insert(key, Object::GatewayLink(link));
        self.fit_bridges();
        Ok(())
    }

    /// A bridge takes the smallest MTU of its ports whenever one comes or goes (`br_mtu_auto_adjust`, net/bridge/br_if.c).
    pub(super) fn fit_bridges(&mut self) {
        let mut smallest: BTreeMap<LinkName, u32> = BTreeMap::new();
        for object in self.objects.values() {
            if let Object::Veth(Veth { bridge: Some(bridge), mtu, .. })
            | Object::GatewayLink(GatewayLink { bridge: Some(bridge), mtu, .. }) = object
            {
                let known = smallest.entry(bridge.clone()).or_insert(u32::MAX);
                *known = mtu.unwrap_or(MTU).min(*known);
            }
        }
        for (key, object) in &mut self.objects {
            if let (Key::Bridge(name), Object::Bridge(bridge)) = (key, object) {
                match (smallest.get(name), self.ports.contains(name)) {
                    (Some(mtu), _) => {
                        bridge.mtu = Some(*mtu);
                        self.ports.insert(name.clone());
                    }
                    (None, true) => {
                        bridge.mtu = Some(MTU);
                        self.ports.remove(name);
                    }
                    (None, false) => {}
                }
            }
        }
    }

    pub(super) fn delete_bridge(&mut self, name: &LinkName) {
        self.objects.remove(&Key::Bridge(name.clone()));
        self.objects.remove(&Key::Filtered(name.clone()));
        self.ports.remove(name);
        self.objects.values_mut().for_each(|object| orphan(object, name));
    }

    /// What can be read back of a port's VLANs: nothing, where its bridge does not look at them.
    pub(super) fn tells_vlans(&self, veth: &Veth) -> bool {
        let bridge = veth.bridge.as_ref().and_then(|name| self.objects.get(&Key::Bridge(name.clone())));
        matches!(bridge, Some(Object::Bridge(bridge)) if bridge.vlan_filtering)
    }
}

fn add(addresses: &mut Vec<IpNet>, found: &[IpNet]) {
    let more: Vec<IpNet> = found.iter().filter(|one| !addresses.contains(one)).copied().collect();
    addresses.extend(more);
}

/// Ports of a deleted bridge stay, without it.
fn orphan(object: &mut Object, bridge: &LinkName) {
    if let Object::Veth(veth) = object
        && veth.bridge.as_ref() == Some(bridge)
    {
        (veth.bridge, veth.hairpin, veth.isolated, veth.port) = (None, false, false, Port::Open);
        veth.vlans = None;
    } else if let Object::GatewayLink(link) = object
        && link.bridge.as_ref() == Some(bridge)
    {
        (link.bridge, link.vlan) = (None, 0);
    }
}
