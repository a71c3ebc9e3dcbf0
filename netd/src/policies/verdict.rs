//! Whether a flow that goes on would be let begin now. Pure.

use std::collections::BTreeSet;
use std::net::IpAddr;

use netd_kernel::Flow;
use netd_policy::{Compiled, Flow as Asked, Hook, Traffic};

/// Says it for a flow between sandboxes, the node (its `own` addresses) and everybody else, as the rules would see its first
/// packet: behind the translation of its destination.
pub(super) fn allows(compiled: &Compiled, own: &BTreeSet<IpAddr>, flow: &Flow) -> bool {
    let (from, to) = (flow.opener.0, flow.answerer.0);
    let hook = match (own.contains(&from), own.contains(&to)) {
        (true, _) => Hook::Output,
        (false, true) => Hook::Input,
        (false, false) => Hook::Forward,
    };
    let traffic = Traffic { protocol: flow.protocol, port: flow.answerer.1 };
    compiled.interpret(hook, Asked { from, to, traffic }).allowed()
}
