//! Attach and detach of one CNI stanza. The first stanza of a chain attaches; those that follow extend it.

use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use netd_api::Descriptors;
use netd_api::v1::{Call, Failure, FailureCode};
use netd_config::{
    CniResult, ConfigErrors, ContainerId, Dns, Document, IngressPolicy, Ipam, LinkName, NetworkName, Removal, Stanza,
    Tuning,
};
use netd_kernel::{Interface, Kernel, Key, LinkSettings, Object, Sandbox, Step};
use tokio::time::timeout;

use super::Service;
use crate::allowlist::AllowlistError;
use crate::attachment::{Attachment, AttachmentKey, Description, LabelState};
use crate::blocking::blocking;
use crate::directories;
use crate::ipam::{LeaseError, Reserved};
use crate::lifecycle::{LifecycleError, open_namespace};
use crate::node::{AttachError, Extension, Follower, Wanted, What, settings_of};
use crate::owner::OwnerError;
use crate::reply::{CUT, add_defaults, chain, config_failure, encode, failure, lifecycle_failure, refusal, result};
use crate::reservations::Holder;

pub(super) type Answer<T> = Result<T, Failure>;

/// How long a detach waits for a file system that does not answer.
const GIVE_BACK: Duration = Duration::from_secs(2);
/// host-local's, where the network names none.
const DATA_DIR: &str = "/var/lib/cni/networks";

/// One stanza to attach or check, and for whom.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked<'a> {
    pub(super) call: &'a Call,
    pub(super) descriptors: &'a Descriptors,
    /// An annotation named the network, not a CNI call; whoever read it has said what the container is.
    pub(super) extra: Option<&'a Description>,
}

impl<K: Kernel + 'static> Service<K> {
    pub(super) async fn attach_call(&self, asked: Asked<'_>) -> Answer<Vec<u8>> {
        let document = parse(asked.call)?;
        let key = key_of(asked.call, &document.name)?;
        let result = match document.stanza.clone() {
            Stanza::Bridge(bridge) => {
                let (ipam, dns) = (bridge.ipam.clone(), bridge.dns.clone());
                self.attach_new(asked, key, What::Bridge(bridge), &ipam, dns).await?
            }
            Stanza::Ptp(ptp) => {
                let (ipam, dns) = (ptp.ipam.clone(), ptp.dns.clone());
                self.attach_new(asked, key, What::Routed(ptp), &ipam, dns).await?
            }
            Stanza::HostLocal(ipam) => self.attach_addresses(asked, key, Ipam::HostLocal(ipam)).await?,
            Stanza::Static(ipam) => self.attach_addresses(asked, key, Ipam::Static(ipam)).await?,
            Stanza::Loopback => self.attach_loopback(asked, &document).await?,
            Stanza::Portmap(portmap) if portmap.ports.is_empty() => previous(&document)?,
            Stanza::Portmap(portmap) => self.follow(asked, &document, key, Extension::Ports(portmap.ports)).await?,
            Stanza::Firewall(firewall) if firewall.ingress_policy == IngressPolicy::Open => previous(&document)?,
            Stanza::Firewall(firewall) => {
                self.follow(asked, &document, key, Extension::Ingress(firewall.ingress_policy)).await?
            }
            Stanza::Tuning(tuning) if tuning.is_empty() => previous(&document)?,
            Stanza::Tuning(tuning) => self.tune(asked, &document, key, tuning).await?,
            Stanza::NotYet { kind } => {
                let message = format!(
                    "cannot attach {key}: netd does not run plugin type {kind:?} yet; use the official plugin for it"
                );
                return Err(refusal(FailureCode::UNSUPPORTED_FIELD, message));
            }
        };
        Ok(encode(&result, document.cni_version))
    }

    async fn attach_addresses(&self, asked: Asked<'_>, key: AttachmentKey, ipam: Ipam) -> Answer<CniResult> {
        self.attach_new(asked, key, What::Addresses(ipam.clone()), &ipam, None).await
    }

    async fn attach_new(
        &self,
        asked: Asked<'_>,
        key: AttachmentKey,
        what: What,
        ipam: &Ipam,
        dns: Option<Dns>,
    ) -> Answer<CniResult> {
        let sandbox = self.sandbox(asked).await?;
        let (reserved, theirs) = self.reserved(&key, ipam, asked.descriptors).await?;
        let given = name_servers(ipam).await?;
        let (label_state, answer) = self.ask_for_labels(asked);
        let netns_path = asked.call.netns_path.clone();
        let is_default = matches!(&what, What::Bridge(bridge) if bridge.is_default_gateway);
        let wanted =
            Wanted { key, netns: sandbox.id, netns_path, what, reserved, label_state, extra: asked.extra.is_some() };
        let attached = self.lifecycle.attach_asking(wanted, sandbox, answer).await;
        let attachment = attached.map_err(|error| held(&error, &theirs))?;
        if attachment.is_pending() {
            self.runtime.ask_again(&self.lifecycle, attachment.key.container.as_str());
        }
        let mut routes = match self.lifecycle.fleet.share() {
            Some(share) => share.borrow().routes(ipam.routes(), &attachment.leases),
            None => ipam.routes().to_vec(),
        };
        if is_default {
            add_defaults(&mut routes, &attachment.leases);
        }
        Ok(result(&attachment, &routes, &dns.unwrap_or(given)))
    }

    /// A later stanza of the chain. Its result is the one before it: what it adds is on the node.
    async fn follow(
        &self,
        asked: Asked<'_>,
        document: &Document,
        key: AttachmentKey,
        extension: Extension,
    ) -> Answer<CniResult> {
        let mut result = previous(document)?;
        let sandbox = self.sandbox(asked).await?;
        let is_first = self.lifecycle.owner.one(key.clone()).await.map_err(|error| owner_failure(&error))?.is_none();
        let addresses = addresses_of(&result, asked.call.interface.as_str());
        let follower = Follower { key, netns: sandbox.id, netns_path: asked.call.netns_path.clone(), addresses };
        let extended = self.lifecycle.extend(follower, extension, sandbox).await;
        let attachment = extended.map_err(|error| lifecycle_failure(&error))?;
        if is_first {
            self.describe_behind(asked);
        }
        retell(&mut result, &attachment);
        Ok(result)
    }

    /// Asks containerd what the container is, while the kernel works. Returns what is recorded until it has answered.
    fn ask_for_labels(
        &self,
        asked: Asked<'_>,
    ) -> (LabelState, impl Future<Output = Option<Description>> + Send + 'static) {
        let said = asked.extra.cloned();
        let question = match &said {
            Some(_) => None,
            None => self.runtime.question(&asked.call.container_id, &asked.call.cni_args),
        };
        let state = match (&said, &question) {
            (Some(said), _) => said.awaited(SystemTime::now()),
            (None, Some(question)) => question.pending(SystemTime::now()),
            (None, None) => LabelState::None,
        };
        let answer = question.map(|question| tokio::spawn(question.ask()));
        let answer = async {
            match answer {
                Some(answer) => answer.await.ok(),
                None => said,
            }
        };
        (state, answer)
    }

    /// Another plugin made the interface, and published ports are all there is: they need no label to work.
    fn describe_behind(&self, asked: Asked<'_>) {
        let (_, answer) = self.ask_for_labels(asked);
        let (lifecycle, container) = (self.lifecycle.clone(), asked.call.container_id.clone());
        tokio::spawn(async move {
            if let Some(description) = answer.await
                && let Err(error) = lifecycle.describe(container, description).await
            {
                tracing::debug!(%error, "labels not recorded");
            }
        });
    }

    /// `tuning` also follows other plugins: then it is done and nothing is recorded, since it ends with the sandbox.
    async fn tune(
        &self,
        asked: Asked<'_>,
        document: &Document,
        key: AttachmentKey,
        tuning: Tuning,
    ) -> Answer<CniResult> {
        self.sysctls.permits(tuning.sysctl.keys()).map_err(|error| sysctl_failure(&key, &error))?;
        let known = self.lifecycle.owner.one(key.clone()).await.map_err(|error| owner_failure(&error))?;
        if known.is_some_and(|known| known.wiring.is_some()) {
            return self.follow(asked, document, key, Extension::Tuning(tuning)).await;
        }
        let result = previous(document)?;
        let named = |name: &String| name.replace("IFNAME", key.interface.as_str());
        let sysctls = tuning.sysctl.iter().map(|(name, value)| (named(name), value.clone())).collect();
        let settings = settings_of(&tuning);
        let interface =
            Interface { addresses: Vec::new(), routes: Vec::new(), sysctls, settings, quick_link_local: false };
        self.within(asked, key.interface, |key| Step::Replace(key, Object::Interface(interface))).await?;
        Ok(result)
    }

    /// Raises `lo`; the kernel gives it its addresses.
    async fn attach_loopback(&self, asked: Asked<'_>, document: &Document) -> Answer<CniResult> {
        let name = LinkName::new("lo").map_err(|error| failure(FailureCode::INTERNAL, &error))?;
        let (addresses, routes, settings) = (Vec::new(), Vec::new(), LinkSettings::default());
        let lo = Interface {
            addresses,
            routes,
            sysctls: std::collections::BTreeMap::new(),
            settings,
            quick_link_local: false,
        };
        self.within(asked, name, |key| Step::Create(key, Object::Interface(lo))).await?;
        Ok(document.prev_result.clone().unwrap_or_else(|| CniResult::loopback(&asked.call.netns_path)))
    }

    /// Takes one step on an interface that is already in the sandbox.
    async fn within(&self, asked: Asked<'_>, name: LinkName, step: impl FnOnce(Key) -> Step) -> Answer<()> {
        let sandbox = self.sandbox(asked).await?;
        let steps = vec![step(Key::Interface(sandbox.id, name))];
        let executor = Arc::clone(&self.lifecycle.executor);
        match blocking(move || executor.within(&steps, &sandbox)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(failure(FailureCode::INTERNAL, &error)),
            Err(error) => Err(refusal(FailureCode::INTERNAL, format!("{CUT}: {error}"))),
        }
    }

    pub(super) async fn detach_call(&self, call: &Call, descriptors: &Descriptors) -> Answer<()> {
        let alive = descriptors.sandbox_netns.is_some();
        let asked = Removal::parse(&call.config, &call.plugin).map_err(|errors| config_failure(&errors))?;
        let key = key_of(call, &asked.name)?;
        let is_first = match asked.kind.as_str() {
            "bridge" | "netd" | "ptp" | "host-local" | "static" => true,
            // What they asked for is part of the attachment and goes with it, unless another plugin made the interface.
            "portmap" | "firewall" | "isolation" | "tuning" => {
                let known = self.lifecycle.owner.one(key.clone()).await.map_err(|error| owner_failure(&error))?;
                known.map_or_else(
                    || self.lifecycle.is_left_open(&key),
                    |known| known.wiring.is_none() && known.leases.is_empty(),
                )
            }
            // Netd made nothing for any other.
            _ => false,
        };
        if is_first {
            self.lifecycle.detach(key.clone(), alive).await.map_err(|error| lifecycle_failure(&error))?;
            self.give_back(call, descriptors, key).await;
        }
        Ok(())
    }

    /// The sandbox, by the descriptor that the door sent or by the path in netd's own mount namespace.
    pub(super) async fn sandbox(&self, asked: Asked<'_>) -> Answer<Sandbox> {
        let invalid = |why: String| {
            refusal(
                FailureCode::INVALID_NETNS,
                format!("cannot use network namespace {:?}: {why}", asked.call.netns_path),
            )
        };
        let fd = match &asked.descriptors.sandbox_netns {
            Some(fd) => fd.try_clone(),
            None => {
                let path = asked.call.netns_path.clone();
                let opened = blocking(move || open_namespace(&path)).await;
                opened.map_err(io::Error::other).flatten().map(OwnedFd::from)
            }
        };
        let fd = fd.map_err(|error| invalid(error.to_string()))?;
        let identified = self.lifecycle.executor.identify(fd);
        identified.map_err(|error| invalid(failure(FailureCode::INVALID_NETNS, &error).message))
    }

    /// What is reserved for others, and each address that is asked for among them, with its file and container. What
    /// host-local holds for this very attachment is its own: it ran before the node moved over to netd.
    async fn reserved(
        &self,
        key: &AttachmentKey,
        ipam: &Ipam,
        descriptors: &Descriptors,
    ) -> Answer<(Reserved, Vec<String>)> {
        let Ipam::HostLocal(host_local) = ipam else { return Ok((Reserved::new(), Vec::new())) };
        let (path, network) = (host_local.data_dir.as_deref().unwrap_or(DATA_DIR), key.network.as_str());
        let directory = || descriptors.ipam_dir.as_ref().map(OwnedFd::try_clone).transpose();
        let unreadable = |error: io::Error| {
            refusal(
                FailureCode::INPUT_OUTPUT,
                format!("cannot read the reservations in {path}/{network}: {error}; make it readable or remove it"),
            )
        };
        let opened = directory().map_err(unreadable)?;
        let found = self.reservations.find(opened, path, network, SystemTime::now()).await;
        let mut reserved = found.map_err(unreadable)?;
        let conflicts: Vec<IpAddr> =
            host_local.requested.iter().copied().filter(|address| reserved.contains(address)).collect();
        if conflicts.is_empty() {
            return Ok((reserved, Vec::new()));
        }
        let opened = directory().map_err(unreadable)?;
        let holders = self.reservations.holders(opened, path, network, conflicts).await.map_err(unreadable)?;
        let (own, theirs): (Vec<_>, Vec<_>) = holders.into_iter().partition(|(_, holder)| holder.is(key));
        for (address, _) in &own {
            reserved.remove(address);
        }
        let told = |(address, holder): (IpAddr, Holder)| {
            format!("{path}/{network}/{address}, of container {:?}", holder.container)
        };
        Ok((reserved, theirs.into_iter().map(told).collect()))
    }

    /// What the official host-local reserved for an attachment that is detached now. Only where the door has handed over the
    /// data directory; what cannot be removed, or not soon, is no reason to keep the container.
    async fn give_back(&self, call: &Call, descriptors: &Descriptors, key: AttachmentKey) {
        let Some(Ok(directory)) = descriptors.ipam_dir.as_ref().map(OwnedFd::try_clone) else { return };
        let released = timeout(GIVE_BACK, self.reservations.release(directory, key, SystemTime::now())).await;
        match released.unwrap_or_else(|late| Err(late.into())) {
            Ok(0) => {}
            Ok(count) => tracing::info!(container = call.container_id, count, "reservations of host-local given back"),
            Err(error) => {
                tracing::warn!(container = call.container_id, %error, "a reservation of host-local stays; remove its file");
            }
        }
    }
}

/// A failed attach; where the official host-local holds an address that was asked for, with its file.
fn held(error: &LifecycleError, theirs: &[String]) -> Failure {
    let mut failure = lifecycle_failure(error);
    let is_held =
        matches!(error, LifecycleError::Owner(OwnerError::Attach(AttachError::Lease(LeaseError::Held { .. }))));
    if is_held && !theirs.is_empty() {
        failure.message += &format!(
            " (host-local's reservation: {}; remove the file where that container is gone for good)",
            theirs.join("; ")
        );
    }
    failure
}

pub(super) fn parse(call: &Call) -> Answer<Document> {
    Document::parse(&call.config, &call.cni_args, &call.plugin).map_err(|errors: ConfigErrors| config_failure(&errors))
}

pub(super) fn key_of(call: &Call, network: &NetworkName) -> Answer<AttachmentKey> {
    let bad = |error| failure(FailureCode::BAD_ENVIRONMENT, &error);
    Ok(AttachmentKey {
        network: network.clone(),
        container: ContainerId::new(call.container_id.clone()).map_err(bad)?,
        interface: LinkName::new(call.interface.clone()).map_err(bad)?,
    })
}

pub(super) fn previous(document: &Document) -> Answer<CniResult> {
    document.prev_result.clone().ok_or_else(|| {
        refusal(
            FailureCode::INVALID_CONFIG,
            "Required prevResult missing: the caller gives what the plugins before it answered",
        )
    })
}

fn sysctl_failure(key: &AttachmentKey, error: &AllowlistError) -> Failure {
    let code = match error {
        AllowlistError::Denied { .. } => FailureCode::INVALID_CONFIG,
        AllowlistError::Unreadable { .. } | AllowlistError::Pattern { .. } => FailureCode::INPUT_OUTPUT,
    };
    refusal(code, format!("cannot tune {key}: {}", chain(error)))
}

/// Name servers of an IPAM section.
async fn name_servers(ipam: &Ipam) -> Answer<Dns> {
    const LONGEST: u64 = 64 << 10;
    let Some(path) = ipam.resolv_conf().map(str::to_owned) else { return Ok(ipam.dns()) };
    let file = path.clone();
    let read = blocking(move || directories::text(Path::new(&file), LONGEST, "resolv.conf")).await;
    let read = read.map_err(|error| refusal(FailureCode::INTERNAL, format!("{CUT}: {error}")))?;
    let unreadable = |error: String| refusal(FailureCode::INPUT_OUTPUT, format!("{path} (resolvConf): {error}"));
    read.map(|text| Dns::of_resolv_conf(&String::from_utf8_lossy(&text))).map_err(unreadable)
}

/// The addresses that a result gives to the sandbox's interface. One without an interface is taken to be its.
fn addresses_of(result: &CniResult, interface: &str) -> Vec<IpAddr> {
    let is_of = |index: u32| {
        let found = usize::try_from(index).ok().and_then(|index| result.interfaces.get(index));
        found.is_some_and(|found| found.name == interface && !found.sandbox.is_empty())
    };
    let ours = result.ips.iter().filter(|ip| ip.interface.is_none_or(is_of));
    ours.map(|ip| ip.address.addr()).collect()
}

/// `tuning` may have changed the MAC of the sandbox end.
fn retell(result: &mut CniResult, attachment: &Attachment) {
    let interface = attachment.key.interface.as_str();
    for link in result.interfaces.iter_mut().filter(|link| link.name == interface && !link.sandbox.is_empty()) {
        if !attachment.facts.mac.is_empty() {
            attachment.facts.mac.clone_into(&mut link.mac);
        }
    }
}

pub(super) fn owner_failure(error: &OwnerError) -> Failure {
    failure(FailureCode::TRY_AGAIN, error)
}
