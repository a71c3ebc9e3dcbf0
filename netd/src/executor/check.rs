//! What of an attachment is not in the kernel as it was made, in words. Reads only; to mend is resync's.

use netd_config::{LinkName, Tuning};
use netd_kernel::{Interface, Kernel, Key, Object, Objects, Sandbox};

use super::{Executor, ExecutorError};
use crate::attachment::{Attachment, Facts};
use crate::desired;
use crate::node::settings_of;

type Faults = Result<Vec<String>, ExecutorError>;

impl<K: Kernel> Executor<K> {
    /// Whatever is not as it was made: links, the sandbox's interface, and what the node's rules and routes hold of it. What
    /// somebody added to the interface is no fault.
    ///
    /// # Errors
    /// See [`ExecutorError`]; a link that is gone is one.
    pub fn faults(&self, attachment: &Attachment, sandbox: &Sandbox) -> Faults {
        let mut faults = changed(&attachment.facts, &self.facts(attachment, sandbox)?);
        for (key, object) in desired::own(attachment) {
            if let (Key::Interface(_, name), Object::Interface(wanted)) = (key, object) {
                faults.extend(self.faults_inside(&name, &wanted, sandbox)?);
            }
        }
        let mut held = desired::ruled(attachment);
        held.extend(desired::routed(attachment));
        held.extend(fence(attachment));
        faults.extend(self.not_held(&held)?);
        Ok(faults)
    }

    /// What does not lead to the attachment of the ports that it publishes.
    ///
    /// # Errors
    /// See [`ExecutorError`].
    pub fn unpublished(&self, attachment: &Attachment) -> Faults {
        let is_port = |key: &Key| matches!(key, Key::Published(_));
        self.not_held(&desired::ruled(attachment).into_iter().filter(|(key, _)| is_port(key)).collect())
    }

    /// What does not fence the attachment off that should.
    ///
    /// # Errors
    /// See [`ExecutorError`].
    pub fn not_fenced(&self, attachment: &Attachment) -> Faults {
        self.not_held(&fence(attachment))
    }

    /// What of a `tuning` stanza does not hold inside the sandbox.
    ///
    /// # Errors
    /// See [`ExecutorError`].
    pub fn untuned(&self, interface: &LinkName, tuning: &Tuning, sandbox: &Sandbox) -> Faults {
        let named = |name: &String| name.replace("IFNAME", interface.as_str());
        let wanted = Interface {
            addresses: Vec::new(),
            routes: Vec::new(),
            sysctls: tuning.sysctl.iter().map(|(name, value)| (named(name), value.clone())).collect(),
            settings: settings_of(tuning),
            quick_link_local: false,
        };
        Ok(lacks(interface, self.kernel.lacking(interface, &wanted, sandbox)?))
    }

    fn faults_inside(&self, name: &LinkName, wanted: &Interface, sandbox: &Sandbox) -> Faults {
        Ok(lacks(name, self.kernel.lacking(name, wanted, sandbox)?))
    }

    fn not_held(&self, wanted: &Objects) -> Faults {
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        let found = self.observe()?;
        let gone = wanted.iter().filter(|(key, object)| found.get(key) != Some(object));
        Ok(gone.map(|(key, _)| format!("the node lacks {}", told(key))).collect())
    }
}

fn lacks(interface: &LinkName, what: Vec<String>) -> Vec<String> {
    what.into_iter().map(|what| format!("{interface} lacks {what}")).collect()
}

fn fence(attachment: &Attachment) -> Objects {
    let fenced = attachment.wiring.iter().filter(|wiring| wiring.fenced);
    fenced.map(|wiring| (Key::Fenced(wiring.home().clone()), Object::Set)).collect()
}

fn told(key: &Key) -> String {
    if let Key::Published(publication) = key {
        format!("published port {publication}")
    } else if let Key::Masquerade(address, home) = key {
        format!("the masquerade of {address} on {home}")
    } else if let Key::Fenced(home) = key {
        format!("ingressPolicy's fence of {home}")
    } else if let Key::SandboxRoute(link, address) = key {
        format!("the route to {address} by {link}")
    } else {
        format!("{key:?}")
    }
}

/// A gateway's link that was made again has another MAC.
fn changed(then: &Facts, now: &Facts) -> Vec<String> {
    let macs = [
        ("the interface", &then.mac, &now.mac),
        ("its host end", &then.host_mac, &now.host_mac),
        ("the bridge", &then.bridge_mac, &now.bridge_mac),
    ];
    let other = macs.into_iter().filter(|(_, then, now)| then != now);
    let mut faults: Vec<String> =
        other.map(|(what, then, now)| format!("{what} has MAC {now} instead of {then}")).collect();
    let mtu = (then.mtu != now.mtu).then(|| format!("the interface has MTU {} instead of {}", now.mtu, then.mtu));
    faults.extend(mtu);
    faults
}
