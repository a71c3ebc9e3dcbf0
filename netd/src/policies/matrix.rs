//! Who reaches whom, now and as it would be. Pure.

use netd_api::v1::ReachResponse;
use netd_policy::Policy;

use super::enforcer::Force;

/// All ways between sandboxes, the node and the rest of the world; with `then`, also as they would be with these policies.
pub(crate) fn reach(_force: &Force, _then: Option<Vec<Policy>>) -> ReachResponse {
    ReachResponse::new()
}
