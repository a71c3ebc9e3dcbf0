//! The API: one method a request. It parses, asks the owner, has the kernel work done, and answers.

mod attach;
mod check;
mod describe;
mod fleet;
mod list;
mod networks;
mod page;
mod policies;
mod unmet;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use netd_api::v1::{
    self, AddPoolRequest, AddPoolResponse, ApplyPoliciesRequest, ApplyPoliciesResponse, AttachRequest, AttachResponse,
    CheckPeersRequest, CheckPeersResponse, CheckRequest, CheckResponse, DeletePolicyRequest, DeletePolicyResponse,
    DescribeRequest, DescribeResponse, DetachRequest, DetachResponse, DropsRequest, DropsResponse, FailureCode,
    FleetRequest, FleetResponse, GcRequest, GcResponse, ListRequest, ListResponse, NetworksRequest, NetworksResponse,
    PoliciesRequest, PoliciesResponse, ReachRequest, ReachResponse, ReleaseRequest, ReleaseResponse, RemoveNodeRequest,
    RemoveNodeResponse, ResyncRequest, ResyncResponse, StatusRequest, StatusResponse, TestPolicyRequest,
    TestPolicyResponse,
};
use netd_config::{Collection, Document};
use netd_kernel::Kernel;
use ttrpc::asynchronous::TtrpcContext;

use crate::allowlist::Allowlist;
use crate::attachment::{AttachmentKey, State};
use crate::lifecycle::Lifecycle;
use crate::networks::Networks;
use crate::reply::{config_failure, failure, lifecycle_failure};
use crate::reservations::Reservations;
use crate::resync::{self, Exclusivity};
use crate::runtime::{self, Runtime};
use attach::Asked;
pub use policies::PolicyDesk;
pub use unmet::Unmet;

/// What every request needs.
#[derive(Debug)]
pub struct Service<K> {
    /// What works on attachments.
    pub lifecycle: Lifecycle<K>,
    /// Host-local directories.
    pub reservations: Arc<Reservations>,
    /// The networks of the watched directories.
    pub networks: Networks,
    /// Who runs containers here.
    pub runtime: Runtime,
    /// Where policies come from and go to.
    pub desk: PolicyDesk,
    /// Who lacks a network that an annotation names.
    pub unmet: Unmet,
    /// Which sysctls containers may be given.
    pub sysctls: Allowlist,
    /// This instance's name.
    pub instance: String,
}

type Served<T> = ttrpc::Result<T>;

#[async_trait::async_trait]
impl<K: Kernel + 'static> netd_api::server::Netd for Service<K> {
    async fn attach(&self, context: &TtrpcContext, request: AttachRequest) -> Served<AttachResponse> {
        let call = request.call.unwrap_or_default();
        let descriptors = netd_api::descriptors(context);
        let mut response = AttachResponse::new();
        match self.attach_call(Asked { call: &call, descriptors: &descriptors, extra: None }).await {
            Ok(result) => response.result = result,
            Err(failed) => {
                tracing::warn!(
                    container = call.container_id,
                    plugin = call.plugin,
                    error = failed.message,
                    "attach failed"
                );
                response.failure = Some(failed).into();
            }
        }
        Ok(response)
    }

    async fn detach(&self, context: &TtrpcContext, request: DetachRequest) -> Served<DetachResponse> {
        let call = request.call.unwrap_or_default();
        let descriptors = netd_api::descriptors(context);
        let mut response = DetachResponse::new();
        if let Err(failed) = self.detach_call(&call, &descriptors).await {
            tracing::warn!(
                container = call.container_id,
                plugin = call.plugin,
                error = failed.message,
                "detach failed"
            );
            response.failure = Some(failed).into();
        }
        Ok(response)
    }

    async fn check(&self, context: &TtrpcContext, request: CheckRequest) -> Served<CheckResponse> {
        let call = request.call.unwrap_or_default();
        let descriptors = netd_api::descriptors(context);
        let mut response = CheckResponse::new();
        response.failure =
            self.check_call(Asked { call: &call, descriptors: &descriptors, extra: None }).await.err().into();
        Ok(response)
    }

    async fn describe(&self, context: &TtrpcContext, request: DescribeRequest) -> Served<DescribeResponse> {
        let descriptors = netd_api::descriptors(context);
        Ok(self.describe_call(&request, &descriptors).await.unwrap_or_else(|failed| {
            let (container, door) = (&request.container_id, &request.source);
            tracing::warn!(container, door, error = failed.message, "describe failed");
            let mut response = DescribeResponse::new();
            response.failure = Some(failed).into();
            response
        }))
    }

    async fn release(&self, _: &TtrpcContext, request: ReleaseRequest) -> Served<ReleaseResponse> {
        let mut response = ReleaseResponse::new();
        match self.let_go(&request.container_id).await {
            Ok(removed) => response.removed = removed,
            Err(failed) => response.failure = Some(failed).into(),
        }
        Ok(response)
    }

    async fn status(&self, _: &TtrpcContext, request: StatusRequest) -> Served<StatusResponse> {
        let mut response = StatusResponse::new();
        env!("CARGO_PKG_VERSION").clone_into(&mut response.version);
        self.instance.clone_into(&mut response.instance);
        if !request.config.is_empty()
            && let Err(errors) = Document::parse(&request.config, "", "")
        {
            response.failure = Some(config_failure(&errors)).into();
        }
        let networks = self.networks.snapshot();
        response.networks = networks.networks().count() as u64;
        let bridges = networks.networks().filter_map(|network| network.bridge().cloned());
        response.firewalls = self.lifecycle.coexist.firewalls(bridges.collect());
        match self.lifecycle.owner.tally().await {
            Ok(tally) => {
                response.attachments = tally.attachments as u64;
                response.draining = tally.draining as u64;
                response.leases = tally.leases as u64;
                response.journal_bytes = tally.journal_bytes;
                response.published_ports = tally.published_ports as u64;
                response.warnings = runtime::missed(&tally.unlabelled, SystemTime::now());
                response.warnings.extend(tally.misnamed_ports);
                response
                    .warnings
                    .extend(self.lifecycle.policies.troubles().iter().map(|one| format!("policies: {one}")));
                response.warnings.extend(self.lifecycle.fleet.warnings());
                response.warnings.extend(tally.strays.iter().map(stray));
                response.warnings.extend(self.unmet().await.into_values());
            }
            Err(error) => response.failure = Some(failure(FailureCode::NOT_AVAILABLE, &error)).into(),
        }
        Ok(response)
    }

    async fn list(&self, _: &TtrpcContext, request: ListRequest) -> Served<ListResponse> {
        let snapshot = self.lifecycle.owner.snapshot().await.unwrap_or_default();
        Ok(list::answer(&snapshot, &self.unmet().await, &request))
    }

    async fn gc(&self, _: &TtrpcContext, request: GcRequest) -> Served<GcResponse> {
        let mut response = GcResponse::new();
        match self.collect(&request).await {
            Ok(collected) => {
                response.removed = collected.removed;
                response.failure = collected.failure().into();
            }
            Err(failed) => response.failure = Some(failed).into(),
        }
        Ok(response)
    }

    async fn policies(&self, _: &TtrpcContext, request: PoliciesRequest) -> Served<PoliciesResponse> {
        Ok(self
            .policies_call(request)
            .await
            .unwrap_or_else(|failed| PoliciesResponse { failure: Some(failed).into(), ..PoliciesResponse::new() }))
    }

    async fn apply_policies(&self, _: &TtrpcContext, request: ApplyPoliciesRequest) -> Served<ApplyPoliciesResponse> {
        Ok(self.apply_call(request).await.unwrap_or_else(|failed| ApplyPoliciesResponse {
            failure: Some(failed).into(),
            ..ApplyPoliciesResponse::new()
        }))
    }

    async fn delete_policy(&self, _: &TtrpcContext, request: DeletePolicyRequest) -> Served<DeletePolicyResponse> {
        let failure = self.delete_call(request).await.err().into();
        Ok(DeletePolicyResponse { failure, ..DeletePolicyResponse::new() })
    }

    async fn test_policy(&self, _: &TtrpcContext, request: TestPolicyRequest) -> Served<TestPolicyResponse> {
        Ok(self
            .test_call(request)
            .await
            .unwrap_or_else(|failed| TestPolicyResponse { failure: Some(failed).into(), ..TestPolicyResponse::new() }))
    }

    async fn reach(&self, _: &TtrpcContext, request: ReachRequest) -> Served<ReachResponse> {
        Ok(self
            .reach_call(request)
            .await
            .unwrap_or_else(|failed| ReachResponse { failure: Some(failed).into(), ..ReachResponse::new() }))
    }

    async fn drops(&self, _: &TtrpcContext, request: DropsRequest) -> Served<DropsResponse> {
        Ok(self
            .drops_call(request)
            .await
            .unwrap_or_else(|failed| DropsResponse { failure: Some(failed).into(), ..DropsResponse::new() }))
    }

    async fn fleet(&self, _: &TtrpcContext, _: FleetRequest) -> Served<FleetResponse> {
        Ok(self
            .fleet_call()
            .await
            .unwrap_or_else(|failed| FleetResponse { failure: Some(failed).into(), ..FleetResponse::new() }))
    }

    async fn check_peers(&self, _: &TtrpcContext, request: CheckPeersRequest) -> Served<CheckPeersResponse> {
        let mut response = CheckPeersResponse::new();
        match self.check_peers_call(request).await {
            Ok(peers) => response.peers = peers,
            Err(failed) => response.failure = Some(failed).into(),
        }
        Ok(response)
    }

    async fn remove_node(&self, _: &TtrpcContext, request: RemoveNodeRequest) -> Served<RemoveNodeResponse> {
        Ok(self
            .remove_node_call(request)
            .await
            .unwrap_or_else(|failed| RemoveNodeResponse { failure: Some(failed).into(), ..RemoveNodeResponse::new() }))
    }

    async fn add_pool(&self, _: &TtrpcContext, request: AddPoolRequest) -> Served<AddPoolResponse> {
        Ok(self
            .add_pool_call(request)
            .await
            .unwrap_or_else(|failed| AddPoolResponse { failure: Some(failed).into(), ..AddPoolResponse::new() }))
    }

    async fn networks(&self, _: &TtrpcContext, _: NetworksRequest) -> Served<NetworksResponse> {
        let mut response = NetworksResponse::new();
        match self.listed_networks().await {
            Ok(networks) => response.networks = networks,
            Err(failed) => response.failure = Some(failed).into(),
        }
        Ok(response)
    }

    async fn resync(&self, _: &TtrpcContext, request: ResyncRequest) -> Served<ResyncResponse> {
        let mut response = ResyncResponse::new();
        if !request.dry_run
            && let Ok(snapshot) = self.lifecycle.owner.snapshot().await
        {
            let living = request.sandboxes.iter().cloned().collect();
            self.runtime.hear(&request.source, &living, &snapshot.attachments);
        }
        match resync::run(&self.lifecycle, Exclusivity::Shared, request.dry_run).await {
            Ok(steps) => response.steps = steps,
            Err(error) => response.failure = Some(failure(FailureCode::INTERNAL, &error)).into(),
        }
        Ok(response)
    }
}

impl<K: Kernel + 'static> Service<K> {
    /// CNI's GC: detaches every attachment of the network that the caller does not list, as many as it can. Of extra ones no
    /// caller knows.
    async fn collect(&self, request: &GcRequest) -> Result<Collected, v1::Failure> {
        let internal = |error| failure(FailureCode::INTERNAL, &error);
        let (network, valid) = if request.network.is_empty() {
            let read = Collection::parse(&request.config).map_err(|errors| config_failure(&errors))?;
            (read.name.to_string(), read.valid)
        } else {
            let ids = request.valid.iter().map(|id| (id.container_id.clone(), id.interface.clone()));
            (request.network.clone(), ids.collect())
        };
        let snapshot = self.lifecycle.owner.snapshot().await.map_err(internal)?;
        let is_valid = |key: &AttachmentKey| valid.contains(&(key.container.to_string(), key.interface.to_string()));
        let mut collected = Collected::default();
        for attachment in snapshot.attachments {
            let is_callers = attachment.key.network.as_str() == network && !attachment.extra;
            // What is being wired is somebody's who has it in no list yet.
            if is_callers && attachment.state == State::Attached && !is_valid(&attachment.key) {
                match self.lifecycle.detach_exactly(attachment).await {
                    Ok(was_there) => collected.removed += u32::from(was_there),
                    Err(error) => collected.failures.push(lifecycle_failure(&error)),
                }
            }
        }
        Ok(collected)
    }

    /// What living sandboxes lack of what their annotations name.
    async fn unmet(&self) -> BTreeMap<String, String> {
        if self.unmet.is_empty() {
            return BTreeMap::new();
        }
        let snapshot = self.lifecycle.owner.snapshot().await.unwrap_or_default();
        let living: BTreeSet<&str> = snapshot.attachments.iter().map(|one| one.key.container.as_str()).collect();
        self.unmet.of(|container| living.contains(container))
    }

    /// Detaches every attachment of a container whose sandbox is gone.
    async fn let_go(&self, container: &str) -> Result<u32, v1::Failure> {
        let internal = |error| failure(FailureCode::INTERNAL, &error);
        let mut removed = 0;
        for attachment in self.lifecycle.owner.of(container.to_owned()).await.map_err(internal)? {
            let gone = self.lifecycle.detach_exactly(attachment).await;
            removed += u32::from(gone.map_err(|error| lifecycle_failure(&error))?);
        }
        Ok(removed)
    }
}

/// What a GC came to.
#[derive(Debug, Default)]
struct Collected {
    removed: u32,
    failures: Vec<v1::Failure>,
}

impl Collected {
    /// All failures in one, with the first one's code.
    fn failure(self) -> Option<v1::Failure> {
        let messages: Vec<String> = self.failures.iter().map(|failure| failure.message.clone()).collect();
        let first = self.failures.into_iter().next()?;
        Some(v1::Failure { message: messages.join("; "), ..first })
    }
}

fn stray((key, address): &(AttachmentKey, IpAddr)) -> String {
    format!(
        "fleet: {key} has {address}, which is not of this node's blocks: other nodes do not reach it. Restart its container"
    )
}

#[cfg(test)]
mod tests;
