//! What a door says of a sandbox: kept with its attachments, and the occasion to make them whole and to attach the extra
//! networks that an annotation names. A container without an attachment of ours is never touched.

use netd_api::Descriptors;
use netd_api::v1::{Call, DescribeRequest, DescribeResponse, Failure, FailureCode};
use netd_config::Network;
use netd_kernel::Kernel;
use serde_json::Value;

use super::Service;
use super::attach::{Answer, Asked, owner_failure};
use crate::attachment::{Attachment, Description, LabelState, State};
use crate::reply::{failure, lifecycle_failure, refusal};

/// Names of networks, separated by commas; they become `net1`, `net2` and so on, in their order.
const EXTRA_NETWORKS: &str = "netd.io/networks";
/// Each is a link, a lease and rules: one annotation is not to empty a pool.
const MOST_EXTRA: usize = 16;

impl<K: Kernel + 'static> Service<K> {
    pub(super) async fn describe_call(
        &self,
        request: &DescribeRequest,
        descriptors: &Descriptors,
    ) -> Answer<DescribeResponse> {
        let mut response = DescribeResponse::new();
        let said = said(request);
        let attachments = self.keep(request, &said).await?;
        response.attachments = u32::try_from(attachments.len()).unwrap_or(u32::MAX);
        let is_silent = descriptors.sandbox_netns.is_none() && request.netns_path.is_empty();
        if attachments.is_empty() || is_silent {
            return Ok(response);
        }
        let call = call_of(request);
        let asked = Asked { call: &call, descriptors, extra: Some(&said) };
        let sandbox = self.sandbox(asked).await?;
        let is_of = |one: &&Attachment| one.state == State::Attached && one.netns == sandbox.id;
        let ours: Vec<&Attachment> = attachments.iter().filter(is_of).collect();
        for attachment in &ours {
            let mended = self.lifecycle.mend(attachment.key.clone(), self.sandbox(asked).await?).await;
            response.repaired += u32::from(mended.map_err(|error| lifecycle_failure(&error))?);
        }
        if ours.iter().any(|attachment| !attachment.extra) {
            let attached = self.attach_extra(request, asked).await;
            let failure = attached.as_ref().err().map(|failure| failure.message.as_str());
            self.unmet.tell(&request.container_id, failure);
            response.networks = attached?;
            response.attachments = u32::try_from(self.keep(request, &said).await?.len()).unwrap_or(u32::MAX);
        }
        Ok(response)
    }

    /// Gives all attachments of the container what the door knows of it.
    async fn keep(&self, request: &DescribeRequest, said: &Description) -> Answer<Vec<Attachment>> {
        let described = self.lifecycle.describe(request.container_id.clone(), said.clone()).await;
        described.map_err(|error| owner_failure(&error))
    }

    /// The first that fails ends it; what was attached before goes with the container.
    async fn attach_extra(&self, request: &DescribeRequest, asked: Asked<'_>) -> Answer<Vec<String>> {
        let text = request.annotations.get(EXTRA_NETWORKS).map(String::as_str).unwrap_or_default();
        let names: Vec<&str> = text.split(',').map(str::trim).filter(|name| !name.is_empty()).collect();
        if names.len() > MOST_EXTRA {
            return Err(too_many(request, names.len()));
        }
        let mut attached = Vec::new();
        for (index, name) in names.into_iter().enumerate() {
            let network = self.networks.lookup(name).ok_or_else(|| unknown(request, name))?;
            self.run_chain(&network, &format!("net{}", index + 1), asked).await?;
            attached.push(name.to_owned());
        }
        Ok(attached)
    }

    /// As libcni does: each stanza gets the result of the one before it.
    async fn run_chain(&self, network: &Network, interface: &str, asked: Asked<'_>) -> Answer<()> {
        let mut call = asked.call.clone();
        interface.clone_into(&mut call.interface);
        let mut result: Option<Value> = None;
        for document in network.documents() {
            call.config = with_result(&document, result).map_err(|error| failure(FailureCode::INTERNAL, &error))?;
            let answer = self.attach_call(Asked { call: &call, ..asked }).await?;
            let read = serde_json::from_slice(&answer).map_err(|error| failure(FailureCode::INTERNAL, &error))?;
            result = Some(read);
        }
        Ok(())
    }
}

fn said(request: &DescribeRequest) -> Description {
    Description {
        name: request.name.clone(),
        namespace: request.namespace.clone(),
        labels: request.labels.clone().into_iter().collect(),
        image: String::new(),
        state: LabelState::Known { source: request.source.clone() },
    }
}

fn with_result(document: &[u8], result: Option<Value>) -> serde_json::Result<Vec<u8>> {
    let mut document: Value = serde_json::from_slice(document)?;
    if let (Some(result), Some(map)) = (result, document.as_object_mut()) {
        map.insert("prevResult".to_owned(), result);
    }
    serde_json::to_vec(&document)
}

fn call_of(request: &DescribeRequest) -> Call {
    let mut call = Call::new();
    call.container_id.clone_from(&request.container_id);
    call.netns_path.clone_from(&request.netns_path);
    call
}

fn too_many(request: &DescribeRequest, count: usize) -> Failure {
    let message = format!(
        "cannot attach {} to the {count} networks that its annotation {EXTRA_NETWORKS} names: {MOST_EXTRA} are the most; \
         name fewer",
        request.container_id
    );
    refusal(FailureCode::INVALID_CONFIG, message)
}

fn unknown(request: &DescribeRequest, name: &str) -> Failure {
    let message = format!(
        "cannot attach {} to network {name:?}, which its annotation {EXTRA_NETWORKS} names: no file in the network \
         directories describes it; add one, or correct the annotation",
        request.container_id
    );
    refusal(FailureCode::INVALID_CONFIG, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::tests::service;

    #[tokio::test]
    async fn an_annotation_names_so_many_networks_and_no_more() {
        let folder = tempfile::tempdir().unwrap();
        let (service, _) = service(folder.path());
        for (count, expected) in [(16, "no file"), (17, "17 networks"), (100_000, "100000 networks")] {
            let mut request = DescribeRequest::new();
            request.annotations.insert(EXTRA_NETWORKS.to_owned(), vec!["a"; count].join(","));
            let (call, descriptors) = (call_of(&request), Descriptors::default());
            let asked = Asked { call: &call, descriptors: &descriptors, extra: None };
            let failure = service.attach_extra(&request, asked).await.unwrap_err();
            assert_eq!(failure.code.enum_value(), Ok(FailureCode::INVALID_CONFIG));
            assert!(failure.message.contains(expected), "{failure:?}");
        }
    }
}
