//! A kernel that keeps state, obeys the laws of the real one, and fails on demand. The tests hold both to them.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard, PoisonError};

use netd_config::LinkName;

use crate::object::{Key, NetnsId, Object, Objects, Step, Veth};
use crate::seam::{ApplyError, Kernel, KernelError, LinkFacts, Sandbox, Scope};

/// A bridge's ports (`BR_MAX_PORTS`).
const PORTS: usize = 1_023;

#[derive(Debug, Default)]
struct State {
    objects: Objects,
    dead: BTreeSet<NetnsId>,
    fail_at: Option<usize>,
    die_at: Option<usize>,
}

/// A kernel in memory.
#[derive(Debug, Default)]
pub struct FakeKernel {
    state: Mutex<State>,
}

impl FakeKernel {
    /// An empty kernel.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A sandbox by number.
    #[must_use]
    pub fn sandbox(&self, number: u64) -> Sandbox {
        Sandbox { id: NetnsId(number), fd: None }
    }

    /// The `step`th step from now on fails, counted from 0, and only that one.
    pub fn fail_at(&self, step: usize) {
        self.state().fail_at = Some(step);
    }

    /// The `step`th step from now on fails, counted from 0, and all after it: whoever takes steps has died.
    pub fn die_at(&self, step: usize) {
        self.state().die_at = Some(step);
    }

    /// No step fails on demand any more.
    pub fn heal(&self) {
        let mut state = self.state();
        (state.fail_at, state.die_at) = (None, None);
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
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kernel for FakeKernel {
    fn observe(&self, scope: Scope<'_>) -> Result<Objects, KernelError> {
        let state = self.state();
        let seen = |key: &Key| match (scope, key) {
            (Scope::Sandbox(sandbox, name), Key::Interface(netns, found)) => *netns == sandbox.id && found == name,
            (Scope::Node, key) => !matches!(key, Key::Interface(..)),
            (Scope::Forwarding, key) => matches!(key, Key::Forwarding(_)),
            (Scope::Sandbox(..), _) => false,
        };
        Ok(state
            .objects
            .iter()
            .filter(|(key, _)| seen(key))
            .map(|(key, object)| (key.clone(), object.clone()))
            .collect())
    }

    fn apply(&self, steps: &[Step], sandbox: Option<&Sandbox>) -> Result<(), ApplyError> {
        let mut state = self.state();
        for (number, step) in steps.iter().enumerate() {
            state.take(step, sandbox).map_err(|source| ApplyError { number, step: format!("{step:?}"), source })?;
        }
        Ok(())
    }

    fn forget(&self, _: IpAddr) -> Result<(), KernelError> {
        Ok(())
    }

    fn forget_port(&self, _: u16) -> Result<(), KernelError> {
        Ok(())
    }

    fn identify(&self, fd: OwnedFd) -> Result<Sandbox, KernelError> {
        Err(KernelError::NotFound(format!("a network namespace behind {fd:?} (the fake kernel has none)")))
    }

    fn attached(
        &self,
        host_link: &LinkName,
        bridge: &LinkName,
        interface: &LinkName,
        sandbox: &Sandbox,
    ) -> Result<LinkFacts, KernelError> {
        let state = self.state();
        for key in
            [Key::Bridge(bridge.clone()), Key::Veth(host_link.clone()), Key::Interface(sandbox.id, interface.clone())]
        {
            if !state.objects.contains_key(&key) {
                return Err(KernelError::NotFound(format!("{key:?}")));
            }
        }
        let is_port = |object: &Object| matches!(object, Object::Veth(veth) if veth.bridge.as_ref() == Some(bridge));
        if !state.objects.get(&Key::Veth(host_link.clone())).is_some_and(is_port) {
            return Err(KernelError::NotFound(format!("port {host_link} of bridge {bridge}")));
        }
        let mac = |last: u64| format!("02:00:00:00:00:{:02x}", last & 0xff);
        Ok(LinkFacts { mac: mac(sandbox.id.0), host_mac: mac(1), bridge_mac: mac(2), mtu: 1_500 })
    }
}

impl State {
    fn take(&mut self, step: &Step, sandbox: Option<&Sandbox>) -> Result<(), KernelError> {
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
        match step {
            Step::Create(key, object) => self.create(key, object, sandbox),
            Step::Replace(key, object) => {
                let found = self.objects.get_mut(key).ok_or_else(|| KernelError::NotFound(format!("{key:?}")))?;
                object.clone_into(found);
                if *key == Key::Ruleset {
                    self.objects.retain(|key, _| !is_element(key));
                }
                Ok(())
            }
            Step::Delete(key) => {
                self.delete(key);
                Ok(())
            }
        }
    }

    fn create(&mut self, key: &Key, object: &Object, sandbox: Option<&Sandbox>) -> Result<(), KernelError> {
        if let Some(found) = self.objects.get(key) {
            // Forwarding is on or off, an existing bridge is adopted, and an element may be added again with the same
            // value; any other object is somebody's.
            return match (key, found) {
                (Key::Forwarding(_), _) => Ok(()),
                (Key::Bridge(_) | Key::Ruleset, _) => {
                    self.objects.insert(key.clone(), object.clone());
                    Ok(())
                }
                (key, found) if is_element(key) && found == object => Ok(()),
                (Key::Admitted(_) | Key::Fenced(_) | Key::Masquerade(..) | Key::Published(_), _) => {
                    Err(KernelError::Exists(format!("{key:?}")))
                }
                (Key::Veth(_) | Key::Interface(..), _) => Err(KernelError::Exists(format!("{key:?}"))),
            };
        }
        match (key, object) {
            (Key::Veth(_), Object::Veth(veth)) => self.admit_veth(veth, sandbox)?,
            (Key::Interface(netns, name), _) => {
                let is_host_end =
                    |object: &Object| matches!(object, Object::Veth(veth) if veth.peer == (*netns, name.clone()));
                if name.as_str() != "lo" && !self.objects.values().any(is_host_end) {
                    return Err(KernelError::NotFound(format!("interface {name}")));
                }
            }
            (key, _) if is_element(key) && !self.objects.contains_key(&Key::Ruleset) => {
                return Err(KernelError::NotFound("the ruleset".to_owned()));
            }
            _ => {}
        }
        self.objects.insert(key.clone(), object.clone());
        Ok(())
    }

    fn admit_veth(&self, veth: &Veth, sandbox: Option<&Sandbox>) -> Result<(), KernelError> {
        if sandbox.is_none_or(|sandbox| sandbox.id != veth.peer.0) || self.dead.contains(&veth.peer.0) {
            return Err(KernelError::NotFound("the sandbox's namespace".to_owned()));
        }
        let taken = |object: &Object| matches!(object, Object::Veth(other) if other.peer == veth.peer);
        if self.objects.values().any(taken) {
            return Err(KernelError::Exists(format!("interface {}", veth.peer.1)));
        }
        let Some(bridge) = &veth.bridge else { return Ok(()) };
        if !self.objects.contains_key(&Key::Bridge(bridge.clone())) {
            return Err(KernelError::NotFound(format!("bridge {bridge}")));
        }
        let is_port = |object: &&Object| matches!(object, Object::Veth(port) if port.bridge.as_ref() == Some(bridge));
        if self.objects.values().filter(is_port).count() >= PORTS {
            return Err(KernelError::Full(bridge.clone()));
        }
        Ok(())
    }

    fn delete(&mut self, key: &Key) {
        let gone = self.objects.remove(key);
        // The sandbox end goes with the host end.
        if let Some(Object::Veth(veth)) = gone {
            self.objects.remove(&Key::Interface(veth.peer.0, veth.peer.1));
        }
        // Ports of a deleted bridge stay, without it.
        if let Key::Bridge(name) = key {
            for object in self.objects.values_mut() {
                match object {
                    Object::Veth(veth) if veth.bridge.as_ref() == Some(name) => veth.bridge = None,
                    Object::Veth(_)
                    | Object::Bridge(_)
                    | Object::Ruleset(_)
                    | Object::Forwarding { .. }
                    | Object::Set
                    | Object::Target(_)
                    | Object::Interface(_) => {}
                }
            }
        }
    }
}

/// An element of the ruleset's sets.
fn is_element(key: &Key) -> bool {
    matches!(key, Key::Admitted(_) | Key::Fenced(_) | Key::Masquerade(..) | Key::Published(_))
}

impl fmt::Display for FakeKernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (key, object) in &self.state().objects {
            writeln!(f, "{key:?} = {object:?}")?;
        }
        Ok(())
    }
}
