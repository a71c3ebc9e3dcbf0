//! Kernel work on behalf of requests. Everything here blocks: it runs on the blocking pool, never on the owner's task.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

use netd_kernel::{ApplyError, Kernel, KernelError, Key, Object, Objects, Port, Sandbox, Scope, Step, plan};
use thiserror::Error;

use crate::attachment::{Attachment, Facts};
use crate::desired;

/// Why kernel work failed.
#[derive(Debug, Error)]
pub enum ExecutorError {
    /// A step failed; what came before it was taken back.
    #[error("the kernel refused")]
    Apply(#[from] ApplyError),
    /// The kernel could not be read.
    #[error("cannot read the kernel's state")]
    Observe(#[from] KernelError),
}

/// Applies steps; knows which shared objects stand.
#[derive(Debug)]
pub struct Executor<K> {
    kernel: Arc<K>,
    standing: Mutex<Objects>,
}

impl<K: Kernel> Executor<K> {
    /// An executor that assumes no shared object stands.
    pub fn new(kernel: Arc<K>) -> Self {
        Self { kernel, standing: Mutex::new(Objects::new()) }
    }

    /// Which namespace a descriptor is.
    ///
    /// # Errors
    /// The descriptor is no network namespace.
    pub fn identify(&self, fd: OwnedFd) -> Result<Sandbox, KernelError> {
        self.kernel.identify(fd)
    }

    /// Makes all objects of an attachment. On an error nothing of its own is left.
    ///
    /// # Errors
    /// See [`ExecutorError`].
    pub fn wire(&self, attachment: &Attachment, sandbox: &Sandbox) -> Result<Facts, ExecutorError> {
        self.ensure(desired::shared(attachment))?;
        let steps = plan(&desired::own(attachment), &Objects::new());
        let wired = self.kernel.apply(&steps, Some(sandbox)).map_err(ExecutorError::from);
        wired.and_then(|()| self.facts(attachment, sandbox)).inspect_err(|_| {
            // The first error is the one to report; what this one leaves behind, resync takes away.
            drop(self.unlink(attachment));
        })
    }

    /// Raises the loopback link of a sandbox.
    ///
    /// # Errors
    /// See [`ExecutorError`].
    pub fn raise(&self, steps: &[Step], sandbox: &Sandbox) -> Result<(), ExecutorError> {
        Ok(self.kernel.apply(steps, Some(sandbox))?)
    }

    /// Lets no packet pass any more; cheap. The link itself goes later, by [`Executor::unlink`].
    ///
    /// # Errors
    /// See [`ExecutorError`].
    pub fn close(&self, attachment: &Attachment) -> Result<(), ExecutorError> {
        let steps: Vec<Step> =
            desired::drained(attachment).into_iter().map(|(key, object)| Step::Replace(key, object)).collect();
        Ok(self.kernel.apply(&steps, None)?)
    }

    /// Deletes the link. Gone already is success.
    ///
    /// # Errors
    /// See [`ExecutorError`].
    pub fn unlink(&self, attachment: &Attachment) -> Result<(), ExecutorError> {
        let steps: Vec<Step> = desired::drained(attachment).into_keys().map(Step::Delete).collect();
        Ok(self.kernel.apply(&steps, None)?)
    }

    /// What the kernel made of an attachment; an error if it is not whole.
    ///
    /// # Errors
    /// See [`ExecutorError`].
    pub fn facts(&self, attachment: &Attachment, sandbox: &Sandbox) -> Result<Facts, ExecutorError> {
        let Some(wiring) = &attachment.wiring else { return Ok(Facts::default()) };
        let links = self.kernel.attached(&wiring.host_link, &wiring.bridge, &attachment.key.interface, sandbox)?;
        Ok(Facts { mac: links.mac, host_mac: links.host_mac, bridge_mac: links.bridge_mac, mtu: links.mtu })
    }

    /// The node's objects that are ours, as the kernel has them.
    ///
    /// # Errors
    /// See [`ExecutorError`].
    pub fn observe(&self) -> Result<Objects, ExecutorError> {
        Ok(self.kernel.observe(Scope::Node)?)
    }

    /// Whether the sandbox end is as it should be.
    ///
    /// # Errors
    /// See [`ExecutorError`].
    pub fn observe_interface(&self, attachment: &Attachment, sandbox: &Sandbox) -> Result<Objects, ExecutorError> {
        Ok(self.kernel.observe(Scope::Sandbox(sandbox, &attachment.key.interface))?)
    }

    /// Takes steps of a resync, and forgets what is believed to stand.
    ///
    /// # Errors
    /// See [`ExecutorError`].
    pub fn repair(&self, steps: &[Step]) -> Result<(), ExecutorError> {
        let mut standing = self.standing.lock().unwrap_or_else(PoisonError::into_inner);
        standing.clear();
        Ok(self.kernel.apply(steps, None)?)
    }

    /// Makes shared objects stand. Two attaches that need the same new bridge meet here, one after the other.
    fn ensure(&self, wanted: Objects) -> Result<(), ExecutorError> {
        let mut standing = self.standing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut united = standing.clone();
        desired::merge(&mut united, wanted);
        if united == *standing {
            return Ok(());
        }
        let steps = plan(&united, &standing);
        self.kernel.apply(&steps, None)?;
        *standing = united;
        Ok(())
    }
}

/// Whether `object` is a veth that is shut.
#[must_use]
pub fn is_closed(key: &Key, object: &Object) -> bool {
    matches!((key, object), (Key::Veth(_), Object::Veth(veth)) if veth.port == Port::Closed)
}
