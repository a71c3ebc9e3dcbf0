//! Attach, detach and check of one CNI stanza. The first stanza of a chain attaches; those that follow extend it.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use netd_api::Descriptors;
use netd_api::v1::{Call, Failure, FailureCode};
use netd_config::{
    CniResult, ConfigErrors, ContainerId, Dns, Document, Firewall, IngressPolicy, Ipam, LinkName, Route, Stanza,
};
use netd_kernel::{Interface, Kernel, Key, Object, Sandbox, Step};

use super::Service;
use crate::attachment::{AttachmentKey, State};
use crate::ipam::Reserved;
use crate::node::{AttachError, Attached, Wanted, What};
use crate::owner::OwnerError;
use crate::reply::{config_failure, encode, failure, refusal, result};

type Answer<T> = Result<T, Failure>;

impl<K: Kernel + 'static> Service<K> {
    pub(super) async fn attach_call(&self, call: &Call, descriptors: &Descriptors) -> Answer<Vec<u8>> {
        let document = parse(call)?;
        let key = key_of(call, &document)?;
        let version = document.cni_version;
        match document.stanza.clone() {
            Stanza::Bridge(bridge) => {
                if bridge.ip_masq {
                    return Err(unenforced(&key, "ipMasq"));
                }
                if bridge.ingress_policy != IngressPolicy::Open || !bridge.ports.is_empty() {
                    return Err(unenforced(&key, "ingressPolicy and portMappings"));
                }
                let ipam = bridge.ipam.clone();
                let result =
                    self.attach_new(call, descriptors, key, What::Bridge(bridge.clone()), &ipam, bridge.dns).await?;
                Ok(encode(&result, version))
            }
            Stanza::HostLocal(ipam) => {
                let ipam = Ipam::HostLocal(ipam);
                let what = What::Addresses(ipam.clone());
                Ok(encode(&self.attach_new(call, descriptors, key, what, &ipam, None).await?, version))
            }
            Stanza::Static(ipam) => {
                let ipam = Ipam::Static(ipam);
                let what = What::Addresses(ipam.clone());
                Ok(encode(&self.attach_new(call, descriptors, key, what, &ipam, None).await?, version))
            }
            Stanza::Loopback => self.attach_loopback(call, descriptors, &document).await,
            Stanza::Portmap(portmap) if portmap.ports.is_empty() => Ok(encode(&previous(&document)?, version)),
            Stanza::Portmap(_) => Err(unenforced(&key, "portMappings")),
            Stanza::Firewall(Firewall { ingress_policy: IngressPolicy::Open, .. }) => {
                Ok(encode(&previous(&document)?, version))
            }
            Stanza::Firewall(_) => Err(unenforced(&key, "ingressPolicy")),
            Stanza::Tuning(tuning) if tuning.is_empty() => Ok(encode(&previous(&document)?, version)),
            Stanza::Tuning(_) => Err(unenforced(&key, "tuning's settings")),
            Stanza::NotYet { kind } => Err(refusal(
                FailureCode::UNSUPPORTED_FIELD,
                format!(
                    "cannot attach {key}: netd does not run plugin type {kind:?} yet; use the official plugin for it"
                ),
            )),
        }
    }

    async fn attach_new(
        &self,
        call: &Call,
        descriptors: &Descriptors,
        key: AttachmentKey,
        what: What,
        ipam: &Ipam,
        dns: Option<Dns>,
    ) -> Answer<CniResult> {
        let sandbox = self.sandbox(call, descriptors).await?;
        let reserved = self.reserved(&key, ipam, descriptors)?;
        let wanted = Wanted { key, netns: sandbox.id, netns_path: call.netns_path.clone(), what, reserved };
        let attachment = match self.owner.attach(wanted).await.map_err(owner_failure)? {
            Attached::Already(attachment) => *attachment,
            Attached::New { attachment, replaces } => {
                if let Some(replaced) = replaces {
                    self.reap_behind(*replaced);
                }
                self.wire(*attachment, sandbox).await?
            }
        };
        Ok(result(&attachment, &routes_of(ipam, &attachment), &dns.unwrap_or_default()))
    }

    async fn wire(
        &self,
        attachment: crate::attachment::Attachment,
        sandbox: Sandbox,
    ) -> Answer<crate::attachment::Attachment> {
        let (executor, wanted) = (Arc::clone(&self.executor), attachment.clone());
        let wired = tokio::task::spawn_blocking(move || executor.wire(&wanted, &sandbox)).await;
        let failed = match wired {
            Ok(Ok(facts)) => {
                let attachment = self.owner.wired(attachment.key, facts).await.map_err(owner_failure)?;
                tracing::info!(key = %attachment.key, leases = ?attachment.leases, "attached");
                return Ok(attachment);
            }
            Ok(Err(error)) => failure(FailureCode::INTERNAL, &error),
            Err(error) => refusal(FailureCode::INTERNAL, format!("the worker died: {error}")),
        };
        let message = format!("cannot attach {}: {}", attachment.key, failed.message);
        self.remove(attachment.key, true).await?;
        Err(refusal(FailureCode::INTERNAL, message))
    }

    /// Raises `lo`; the kernel gives it its addresses.
    async fn attach_loopback(&self, call: &Call, descriptors: &Descriptors, document: &Document) -> Answer<Vec<u8>> {
        let sandbox = self.sandbox(call, descriptors).await?;
        let name = LinkName::new("lo").map_err(|error| failure(FailureCode::INTERNAL, &error))?;
        let lo = Interface { addresses: Vec::new(), routes: Vec::new(), sysctls: std::collections::BTreeMap::new() };
        let steps = vec![Step::Create(Key::Interface(sandbox.id, name), Object::Interface(lo))];
        let executor = Arc::clone(&self.executor);
        let raised = tokio::task::spawn_blocking(move || executor.raise(&steps, &sandbox)).await;
        match raised {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(failure(FailureCode::INTERNAL, &error)),
            Err(error) => return Err(refusal(FailureCode::INTERNAL, format!("the worker died: {error}"))),
        }
        let result = match &document.prev_result {
            Some(previous) => previous.clone(),
            None => CniResult::loopback(&call.netns_path),
        };
        Ok(encode(&result, document.cni_version))
    }

    pub(super) async fn detach_call(&self, call: &Call, alive: bool) -> Answer<()> {
        let document = parse(call)?;
        match document.stanza {
            Stanza::Bridge(_) | Stanza::HostLocal(_) | Stanza::Static(_) => {
                self.remove(key_of(call, &document)?, alive).await
            }
            // What they asked for is part of the attachment, and goes with it.
            Stanza::Loopback | Stanza::Portmap(_) | Stanza::Firewall(_) | Stanza::Tuning(_) | Stanza::NotYet { .. } => {
                Ok(())
            }
        }
    }

    pub(super) async fn check_call(&self, call: &Call, descriptors: &Descriptors) -> Answer<()> {
        let document = parse(call)?;
        let key = key_of(call, &document)?;
        let Stanza::Bridge(_) = document.stanza else { return Ok(()) };
        let sandbox = self.sandbox(call, descriptors).await?;
        let snapshot = self.owner.snapshot().await.map_err(owner_failure)?;
        let found = snapshot.attachments.into_iter().find(|found| found.key == key && found.state == State::Attached);
        let Some(attachment) = found.filter(|found| found.netns == sandbox.id) else {
            return Err(refusal(FailureCode::UNKNOWN_SANDBOX, format!("{key} is not attached to this sandbox")));
        };
        let (executor, expected) = (Arc::clone(&self.executor), attachment.facts.clone());
        let facts = tokio::task::spawn_blocking(move || {
            let wanted = crate::desired::own(&attachment);
            let facts = executor.facts(&attachment, &sandbox)?;
            Ok::<_, crate::executor::ExecutorError>((wanted, executor.observe_interface(&attachment, &sandbox)?, facts))
        });
        match facts.await {
            Ok(Ok((wanted, observed, facts))) => {
                let same = observed.iter().all(|(key, object)| wanted.get(key) == Some(object));
                if same && facts == expected {
                    Ok(())
                } else {
                    Err(refusal(
                        FailureCode::CONFLICT,
                        format!("{key} is not as it was attached; `netdctl resync` repairs it"),
                    ))
                }
            }
            Ok(Err(error)) => Err(failure(FailureCode::CONFLICT, &error)),
            Err(error) => Err(refusal(FailureCode::INTERNAL, format!("the worker died: {error}"))),
        }
    }

    /// The sandbox, by the descriptor that the door sent or by the path in netd's own mount namespace.
    async fn sandbox(&self, call: &Call, descriptors: &Descriptors) -> Answer<Sandbox> {
        let invalid = |why: String| {
            refusal(FailureCode::INVALID_NETNS, format!("cannot use network namespace {:?}: {why}", call.netns_path))
        };
        let fd = match &descriptors.sandbox_netns {
            Some(fd) => fd.try_clone(),
            None => File::open(&call.netns_path).map(OwnedFd::from),
        };
        let fd = fd.map_err(|error| invalid(error.to_string()))?;
        let executor = Arc::clone(&self.executor);
        let identified = tokio::task::spawn_blocking(move || executor.identify(fd)).await;
        match identified {
            Ok(Ok(sandbox)) => Ok(sandbox),
            Ok(Err(error)) => Err(invalid(error.to_string())),
            Err(error) => Err(invalid(error.to_string())),
        }
    }

    fn reserved(&self, key: &AttachmentKey, ipam: &Ipam, descriptors: &Descriptors) -> Answer<Reserved> {
        let Ipam::HostLocal(host_local) = ipam else { return Ok(Reserved::new()) };
        let path = host_local.data_dir.as_deref().unwrap_or("/var/lib/cni/networks");
        self.reservations.read(descriptors.ipam_dir.as_ref(), path, key.network.as_str()).map_err(|error| {
            refusal(
                FailureCode::INPUT_OUTPUT,
                format!(
                    "cannot read the reservations in {path}/{}: {error}; make it readable or remove it",
                    key.network
                ),
            )
        })
    }

    fn reap_behind(&self, gone: crate::attachment::Attachment) {
        let (owner, executor) = (self.owner.clone(), Arc::clone(&self.executor));
        tokio::spawn(async move {
            if let Err(error) = crate::resync::reap(&owner, &executor, gone).await {
                tracing::warn!(%error, "cannot delete a link; resync tries again");
            }
        });
    }
}

fn parse(call: &Call) -> Answer<Document> {
    Document::parse(&call.config, &call.cni_args, &call.plugin).map_err(|errors: ConfigErrors| config_failure(&errors))
}

fn key_of(call: &Call, document: &Document) -> Answer<AttachmentKey> {
    let bad = |error| failure(FailureCode::BAD_ENVIRONMENT, &error);
    Ok(AttachmentKey {
        network: document.name.clone(),
        container: ContainerId::new(call.container_id.clone()).map_err(bad)?,
        interface: LinkName::new(call.interface.clone()).map_err(bad)?,
    })
}

fn previous(document: &Document) -> Answer<CniResult> {
    document.prev_result.clone().ok_or_else(|| {
        refusal(FailureCode::INVALID_CONFIG, "Required prevResult missing: this plugin follows another in a chain")
    })
}

/// Routes of the result: those of the IPAM section, with the gateway filled in where the section leaves it out.
fn routes_of(ipam: &Ipam, _: &crate::attachment::Attachment) -> Vec<Route> {
    ipam.routes().to_vec()
}

/// Fail closed: what would not be enforced is refused, never accepted in silence.
fn unenforced(key: &AttachmentKey, what: &str) -> Failure {
    refusal(
        FailureCode::UNSUPPORTED_FIELD,
        format!(
            "cannot attach {key}: {what} is not enforced by this netd yet; remove it from the network, or use the official plugins for it"
        ),
    )
}

fn owner_failure(error: OwnerError) -> Failure {
    let code = match &error {
        OwnerError::Attach(AttachError::Busy(_)) | OwnerError::Stopping => FailureCode::TRY_AGAIN,
        OwnerError::Attach(AttachError::BridgeAddress { .. }) => FailureCode::CONFLICT,
        OwnerError::Attach(_) => FailureCode::EXHAUSTED,
        OwnerError::Journal(_) => FailureCode::INPUT_OUTPUT,
    };
    failure(code, &error)
}
