//! CHECK of one CNI stanza: whether what it asked for is still so. What the kernel lacks, the executor says.

use std::net::Ipv4Addr;
use std::sync::Arc;

use netd_api::v1::FailureCode;
use netd_config::{IngressPolicy, LinkName, PortMapping, Stanza};
use netd_kernel::{Kernel, Sandbox};

use super::Service;
use super::attach::{Answer, Asked, key_of, owner_failure, parse, previous};
use crate::attachment::{Attachment, AttachmentKey, State};
use crate::blocking::blocking;
use crate::executor::{Executor, ExecutorError};
use crate::reply::{CUT, failure, refusal};

impl<K: Kernel + 'static> Service<K> {
    /// Each stanza is asked for what is its own. The record says what should be; of the result that the caller gives back only
    /// its being there is looked at.
    pub(super) async fn check_call(&self, asked: Asked<'_>) -> Answer<()> {
        let document = parse(asked.call)?;
        let key = key_of(asked.call, &document.name)?;
        // As in the reference, host-local does not ask for it.
        if !matches!(document.stanza, Stanza::Loopback | Stanza::NotYet { .. } | Stanza::HostLocal(_)) {
            drop(previous(&document)?);
        }
        if !has_own(&document.stanza) {
            return Ok(());
        }
        let sandbox = self.sandbox(asked).await?;
        // `tuning` may follow an interface of another plugin's, and is recorded nowhere then.
        let is_recorded = !matches!(document.stanza, Stanza::Tuning(_));
        let found = if is_recorded { Some(self.attached(&key, &sandbox).await?) } else { None };
        let (executor, stanza) = (Arc::clone(&self.lifecycle.executor), document.stanza);
        let (name, interface) = (key.to_string(), key.interface);
        let look = move || faults(&executor, &stanza, found.as_ref(), (&interface, &sandbox));
        let look = blocking(look);
        match look.await {
            Ok(Ok(faults)) if faults.is_empty() => Ok(()),
            Ok(Ok(faults)) => Err(refusal(
                FailureCode::CONFLICT,
                format!(
                    "{name} is not as it was attached: {}; detach the container and attach it again (`netdctl resync` mends \
                     what is the node's)",
                    faults.join("; ")
                ),
            )),
            Ok(Err(error)) => Err(failure(FailureCode::CONFLICT, &error)),
            Err(error) => Err(refusal(FailureCode::INTERNAL, format!("{CUT}: {error}"))),
        }
    }

    async fn attached(&self, key: &AttachmentKey, sandbox: &Sandbox) -> Answer<Attachment> {
        let found = self.lifecycle.owner.one(key.clone()).await.map_err(|error| owner_failure(&error))?;
        let found = found.filter(|found| found.state == State::Attached && found.netns == sandbox.id);
        let unknown = || refusal(FailureCode::UNKNOWN_SANDBOX, format!("{key} is not attached to this sandbox"));
        found.ok_or_else(unknown)
    }
}

/// What is not so any more of what the stanza asked for.
fn faults<K: Kernel>(
    executor: &Executor<K>,
    stanza: &Stanza,
    found: Option<&Attachment>,
    (interface, sandbox): (&LinkName, &Sandbox),
) -> Result<Vec<String>, ExecutorError> {
    match (stanza, found) {
        (Stanza::Tuning(tuning), _) => executor.untuned(interface, tuning, sandbox),
        (Stanza::Portmap(portmap), Some(found)) => {
            Ok([unasked(&portmap.ports, found), executor.unpublished(found)?].concat())
        }
        (Stanza::Firewall(_), Some(found)) => Ok([unfenced(found), executor.not_fenced(found)?].concat()),
        (Stanza::Bridge(_) | Stanza::Ptp(_), Some(found)) => executor.faults(found, sandbox),
        // Of what is another plugin's only the addresses are netd's, and recorded.
        (_, _) => Ok(Vec::new()),
    }
}

/// Whether an attach made anything for it.
fn has_own(stanza: &Stanza) -> bool {
    match stanza {
        Stanza::Portmap(portmap) => !portmap.ports.is_empty(),
        Stanza::Firewall(firewall) => firewall.ingress_policy != IngressPolicy::Open,
        Stanza::Tuning(tuning) => !tuning.is_empty(),
        Stanza::Bridge(_) | Stanza::Ptp(_) | Stanza::HostLocal(_) | Stanza::Static(_) => true,
        Stanza::Loopback | Stanza::NotYet { .. } => false,
    }
}

fn unasked(ports: &[PortMapping], found: &Attachment) -> Vec<String> {
    let others = ports.iter().filter(|port| !is_published(port, &found.ports));
    others.map(|port| format!("port {}/{} was not published", port.host, port.protocol)).collect()
}

/// Earlier netds recorded other places for a host address of zeros: all of both families for `::` and for `0.0.0.0`, later those
/// of IPv4 for the latter, which is all of both today.
fn is_published(port: &PortMapping, recorded: &[PortMapping]) -> bool {
    let at = |host_ip| recorded.contains(&PortMapping { host_ip, ..port.clone() });
    match port.host_ip {
        None => at(None) || at(Some(Ipv4Addr::UNSPECIFIED.into())),
        Some(address) => at(Some(address)) || (address.is_unspecified() && at(None)),
    }
}

fn unfenced(found: &Attachment) -> Vec<String> {
    let is_fenced = found.wiring.as_ref().is_some_and(|wiring| wiring.fenced);
    Vec::from_iter((!is_fenced).then(|| "it was attached without ingressPolicy".to_owned()))
}

#[cfg(test)]
mod tests;
