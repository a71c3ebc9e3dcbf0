//! Who reaches whom, now and as it would be. Pure; what may pass between two addresses is `netd_policy`'s to say.

use std::collections::BTreeSet;
use std::net::IpAddr;

use netd_api::v1::{ReachResponse, Reachable};
use netd_policy::{Compiler, Policy, Reaches, World};

use super::enforcer::Force;
use super::explain::{given, short};

/// More than these, and nobody reads it.
const MOST: usize = 300;
/// Stand for everybody whom no policy names (RFC 5737, RFC 3849).
const OUTSIDE: [&str; 2] = ["203.0.113.1", "2001:db8:ffff::1"];

/// One end, with the addresses it is reached at.
struct End {
    name: String,
    addresses: BTreeSet<IpAddr>,
    /// What is about it is this node's to say.
    is_own: bool,
}

/// All ways between sandboxes, the node and the rest of the world; with `then`, also as they would be with these policies in
/// the place of those that have their names.
pub(crate) fn reach(force: &Force, then: Option<Vec<Policy>>) -> Result<ReachResponse, String> {
    let world = force.compiler.world();
    let ends = ends(world, force.node());
    if ends.len() > MOST {
        return Err(format!(
            "{} ends are too many for a matrix (at most {MOST}); ask for two of them: `netdctl policy test FROM TO:PORT`",
            ends.len()
        ));
    }
    let own = world.nodes.get(force.node()).map(|node| node.addresses.clone()).unwrap_or_default();
    let after = then.map(|then| compiled_with(force, then));
    let mut now = Reaches::new(force.compiler.compiled(), &own);
    let mut later = after.as_ref().map(|after| Reaches::new(after.compiled(), &own));
    let mut response = ReachResponse::new();
    for (from, to, pair) in pairs(&ends) {
        let mut way = Reachable { from, to, ..Reachable::new() };
        way.ports = now.between(pair.0, pair.1).to_string();
        way.ports_after =
            later.as_mut().map_or_else(|| way.ports.clone(), |one| one.between(pair.0, pair.1).to_string());
        response.pairs.push(way);
    }
    response.ends = ends.into_iter().map(|end| end.name).collect();
    Ok(response)
}

fn ends(world: &World, here: &str) -> Vec<End> {
    let sandbox = |sandbox: &netd_policy::Sandbox| End {
        name: short(&sandbox.name),
        addresses: given(sandbox).collect(),
        is_own: sandbox.known.is_none(),
    };
    let node = world.nodes.get(here).map(|node| node.addresses.clone()).unwrap_or_default();
    let outside = OUTSIDE.iter().filter_map(|address| address.parse().ok()).collect();
    let others = [("node", node), ("outside", outside)];
    let others = others.into_iter().map(|(name, addresses)| End { name: name.to_owned(), addresses, is_own: false });
    world.sandboxes.values().map(sandbox).chain(others).collect()
}

/// Every two ends of which a sandbox of this node is one, with an address of each: by IPv4 where both have it.
fn pairs(ends: &[End]) -> Vec<(u32, u32, (IpAddr, IpAddr))> {
    let mut pairs = Vec::new();
    for (at, from) in ends.iter().enumerate() {
        for (to_at, to) in ends.iter().enumerate() {
            if at == to_at || !(from.is_own || to.is_own) {
                continue;
            }
            let numbers = u32::try_from(at).ok().zip(u32::try_from(to_at).ok());
            if let (Some((from_at, to_at)), Some(pair)) = (numbers, meeting(from, to)) {
                pairs.push((from_at, to_at, pair));
            }
        }
    }
    pairs
}

fn meeting(from: &End, to: &End) -> Option<(IpAddr, IpAddr)> {
    let of = |end: &End, v4: bool| end.addresses.iter().copied().find(|address| address.is_ipv4() == v4);
    [true, false].into_iter().find_map(|v4| Some((of(from, v4)?, of(to, v4)?)))
}

fn compiled_with(force: &Force, then: Vec<Policy>) -> Compiler {
    let is_replaced = |policy: &&Policy| !then.iter().any(|new| new.name == policy.name);
    let kept: Vec<Policy> = force.compiler.policies().iter().filter(is_replaced).cloned().collect();
    let mut compiler = Compiler::new(force.node());
    compiler.load(kept.into_iter().chain(then).collect(), force.compiler.world().clone());
    compiler
}
