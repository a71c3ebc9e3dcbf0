//! Answers as the caller expects them: CNI results, and failures with their code. No decision is made here.

pub(crate) use netd_api::chain;
use netd_api::v1::{Failure, FailureCode};
use netd_config::{CniResult, CniVersion, ConfigErrors, Dns, ResultInterface, ResultIp, Route};

use crate::attachment::{Attachment, Lease};
use crate::ipam::LeaseError;
use crate::lifecycle::LifecycleError;
use crate::node::{AttachError, ShareError};
use crate::owner::OwnerError;

/// What is said of a task that did not come to its end.
pub(crate) const CUT: &str =
    "a thread of netd ended unexpectedly; `journalctl -u netd -e` has its last words, and the request can be repeated";

/// The CNI result of an attachment, in the reference plugins' order: bridge, host end, sandbox end, the VLAN's gateway. `ptp` tells
/// no MTU.
#[must_use]
pub fn result(attachment: &Attachment, routes: &[Route], dns: &Dns) -> CniResult {
    let mut interfaces = Vec::new();
    if let Some(wiring) = &attachment.wiring {
        let link = |name: &str, mac: &str, sandbox: &str, mtu: Option<u32>| ResultInterface {
            name: name.to_owned(),
            mac: mac.to_owned(),
            mtu,
            sandbox: sandbox.to_owned(),
            ..ResultInterface::default()
        };
        let facts = &attachment.facts;
        let mtu = (facts.mtu > 0 && wiring.bridge.is_some()).then_some(facts.mtu);
        interfaces.extend(wiring.bridge.iter().map(|bridge| link(bridge.as_str(), &facts.bridge_mac, "", None)));
        interfaces.push(link(wiring.host_link.as_str(), &facts.host_mac, "", None));
        interfaces.push(link(attachment.key.interface.as_str(), &facts.mac, &attachment.netns_path, mtu));
    }
    let interface = interfaces.len().checked_sub(1).and_then(|last| u32::try_from(last).ok());
    if let Some(gateway) = attachment.wiring.as_ref().and_then(|wiring| wiring.gateway_link.as_ref()) {
        let (name, mac) = (gateway.link.to_string(), attachment.facts.gateway_mac.clone());
        interfaces.push(ResultInterface { name, mac, ..ResultInterface::default() });
    }
    let ips = attachment
        .leases
        .iter()
        .map(|lease| ResultIp { interface, address: lease.address, gateway: lease.gateway })
        .collect();
    CniResult { interfaces, ips, routes: routes.to_vec(), dns: dns.clone() }
}

/// Adds the default routes that a result of `isDefaultGateway` tells: one a family, by the first gateway of that family,
/// where none that is listed names its next hop (containernetworking/plugins, `calcGateways`).
pub fn add_defaults(routes: &mut Vec<Route>, leases: &[Lease]) {
    for gateway in leases.iter().filter_map(|lease| lease.gateway) {
        let default = Route::default_by(gateway);
        if !routes.iter().any(|route| route.gw.is_some() && route.dst == default.dst) {
            routes.push(default);
        }
    }
}

/// `result` as JSON text in the config's version.
#[must_use]
pub fn encode(result: &CniResult, version: CniVersion) -> Vec<u8> {
    result.to_json(version).to_string().into_bytes()
}

/// A failure with its whole chain of causes in the message.
#[must_use]
pub fn failure(code: FailureCode, error: &dyn std::error::Error) -> Failure {
    let message = chain(error);
    Failure { code: code.into(), message, ..Failure::default() }
}

/// What went wrong with a request, with the code that its caller can act on.
#[must_use]
pub fn lifecycle_failure(error: &LifecycleError) -> Failure {
    let code = match error {
        LifecycleError::Owner(OwnerError::Stopping) => FailureCode::TRY_AGAIN,
        LifecycleError::Owner(OwnerError::Journal(_)) => FailureCode::INPUT_OUTPUT,
        LifecycleError::Owner(OwnerError::Attach(error)) => match error {
            AttachError::Lease(LeaseError::SpokenFor { .. }) => FailureCode::TRY_AGAIN,
            AttachError::Lease(_) | AttachError::NoAddress(_) | AttachError::BridgeFull { .. } => {
                FailureCode::EXHAUSTED
            }
            AttachError::Share(error) => match error {
                ShareError::NoBlock { is_transient: true, .. } | ShareError::Full { is_transient: true, .. } => {
                    FailureCode::TRY_AGAIN
                }
                ShareError::NoBlock { .. } | ShareError::Full { .. } | ShareError::Beyond { .. } => {
                    FailureCode::EXHAUSTED
                }
                ShareError::Mixed { .. } => FailureCode::INVALID_CONFIG,
            },
            AttachError::NoGateway { .. } => FailureCode::INVALID_CONFIG,
            AttachError::BridgeAddress { .. } | AttachError::PortTaken { .. } => FailureCode::CONFLICT,
            AttachError::Foreign { .. } => FailureCode::UNSUPPORTED_FIELD,
            AttachError::Gone(_) => FailureCode::TRY_AGAIN,
            AttachError::Name { .. } => FailureCode::INTERNAL,
        },
        LifecycleError::Port(_) => FailureCode::CONFLICT,
        LifecycleError::Tombstone { .. } => FailureCode::INPUT_OUTPUT,
        LifecycleError::Kernel { .. }
        | LifecycleError::Policy { .. }
        | LifecycleError::Executor(_)
        | LifecycleError::Cut(_) => FailureCode::INTERNAL,
    };
    failure(code, error)
}

/// A failure that needs no cause.
#[must_use]
pub fn refusal(code: FailureCode, message: impl Into<String>) -> Failure {
    Failure { code: code.into(), message: message.into(), ..Failure::default() }
}

/// What is wrong with a document, all of it.
#[must_use]
pub fn config_failure(errors: &ConfigErrors) -> Failure {
    let code = match errors.code() {
        1 => FailureCode::INCOMPATIBLE_VERSION,
        2 => FailureCode::UNSUPPORTED_FIELD,
        4 => FailureCode::BAD_ENVIRONMENT,
        6 => FailureCode::UNDECODABLE,
        _ => FailureCode::INVALID_CONFIG,
    };
    failure(code, errors)
}

#[cfg(test)]
mod tests {
    use netd_config::Route;

    use super::add_defaults;
    use crate::attachment::Lease;

    #[test]
    fn each_family_has_one_default_route_with_a_next_hop() {
        let lease = |address: &str, gateway: &str| Lease {
            address: address.parse().unwrap(),
            gateway: Some(gateway.parse().unwrap()),
        };
        let leases =
            [lease("10.4.0.2/24", "10.4.0.1"), lease("10.5.0.2/24", "10.5.0.1"), lease("fd00:4::2/64", "fd00:4::1")];
        let told = |mut routes: Vec<Route>| {
            add_defaults(&mut routes, &leases);
            let hop = |route: &Route| route.gw.map_or_else(|| "-".to_owned(), |gateway| gateway.to_string());
            routes.iter().map(|route| format!("{} {}", route.dst, hop(route))).collect::<Vec<_>>().join(", ")
        };
        assert_eq!(told(Vec::new()), "0.0.0.0/0 10.4.0.1, ::/0 fd00:4::1");
        let listed = Route::default_by("10.4.0.7".parse().unwrap());
        assert_eq!(told(vec![listed.clone()]), "0.0.0.0/0 10.4.0.7, ::/0 fd00:4::1");
        let bare = Route { gw: None, ..listed };
        assert_eq!(told(vec![bare]), "0.0.0.0/0 -, 0.0.0.0/0 10.4.0.1, ::/0 fd00:4::1");
    }
}
