//! The fleet as the API shows it. What is known of it is `fleet`'s.

use std::sync::Arc;

use netd_api::v1::{
    AddPoolRequest, AddPoolResponse, CheckPeersRequest, Failure, FailureCode, FleetResponse, PeerCheck,
    RemoveNodeRequest, RemoveNodeResponse,
};
use netd_kernel::Kernel;

use super::Service;
use crate::reply::{failure, refusal};

impl<K: Kernel + 'static> Service<K> {
    pub(super) async fn fleet_call(&self) -> Result<FleetResponse, Failure> {
        let usage = self.lifecycle.owner.usage().await;
        let usage = usage.map_err(|error| failure(FailureCode::NOT_AVAILABLE, &error))?;
        Ok(self.lifecycle.fleet.told(&usage).await)
    }

    pub(super) async fn remove_node_call(&self, request: RemoveNodeRequest) -> Result<RemoveNodeResponse, Failure> {
        let removed = self.lifecycle.fleet.remove(&request).await;
        removed.map_err(|error| failure(error.code(), &error))
    }

    pub(super) async fn add_pool_call(&self, request: AddPoolRequest) -> Result<AddPoolResponse, Failure> {
        let added = self.lifecycle.fleet.add_pool(&request.pool).await;
        added.map_err(|error| failure(error.code(), &error))
    }

    pub(super) async fn check_peers_call(&self, request: CheckPeersRequest) -> Result<Vec<PeerCheck>, Failure> {
        let (executor, fleet) = (Arc::clone(&self.lifecycle.executor), self.lifecycle.fleet.clone());
        if !fleet.is_on() {
            let text = "this node is part of no fleet; name one in [fleet] of netd.toml";
            return Err(refusal(FailureCode::NOT_AVAILABLE, text));
        }
        let name = request.name.clone();
        let checked = tokio::task::spawn_blocking(move || Ok(fleet.check(&request.name, &executor.observe()?)));
        let checked: Result<_, crate::executor::ExecutorError> =
            checked.await.map_err(|error| failure(FailureCode::INTERNAL, &error))?;
        let checks = checked.map_err(|error| failure(FailureCode::INTERNAL, &error))?;
        if checks.is_empty() && !name.is_empty() {
            let text = format!("there is no peer {name}; `netdctl node ls` lists them");
            return Err(refusal(FailureCode::UNKNOWN_SANDBOX, text));
        }
        Ok(checks)
    }
}
