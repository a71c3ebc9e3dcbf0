//! The configuration files as the API shows them, with how many are attached. What a file means is `networks`'.

use std::collections::BTreeMap;

use netd_api::v1::{Failure, FailureCode, Network};
use netd_config::{LinkName, NetworkName};
use netd_kernel::Kernel;

use super::Service;
use crate::networks::Entry;
use crate::reply::failure;

impl<K: Kernel + 'static> Service<K> {
    pub(super) async fn listed_networks(&self) -> Result<Vec<Network>, Failure> {
        let unavailable = |error| failure(FailureCode::NOT_AVAILABLE, &error);
        let mut attached: BTreeMap<NetworkName, u32> = BTreeMap::new();
        for attachment in self.lifecycle.owner.snapshot().await.map_err(unavailable)?.attachments {
            *attached.entry(attachment.key.network).or_default() += 1;
        }
        Ok(self.networks.snapshot().entries.iter().map(|entry| listed(entry, &attached)).collect())
    }
}

fn listed(entry: &Entry, attached: &BTreeMap<NetworkName, u32>) -> Network {
    let mut listed = Network::new();
    entry.name.clone_into(&mut listed.name);
    entry.file.clone_into(&mut listed.file);
    entry.cni_version.clone_into(&mut listed.cni_version);
    entry.types.clone_into(&mut listed.types);
    entry.unknown_keys.clone_into(&mut listed.unknown_keys);
    entry.unheeded_keys.clone_into(&mut listed.unheeded_keys);
    entry.text.clone_into(&mut listed.config);
    listed.error = entry.error.clone().unwrap_or_default();
    if let Some(network) = &entry.network {
        listed.mode = network.mode().map(|mode| mode.to_string()).unwrap_or_default();
        listed.bridge = network.bridge().map_or_else(String::new, LinkName::to_string);
        listed.subnets = network.subnets().iter().map(ToString::to_string).collect();
        listed.attachments = attached.get(&network.name).copied().unwrap_or_default();
    }
    listed
}
