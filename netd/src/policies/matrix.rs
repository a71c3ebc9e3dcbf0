//! Who reaches whom, now and as it would be. Pure; what may pass between two addresses is `netd_policy`'s to say. A published port is
//! no way of its own: who comes by it is judged as one who comes to its sandbox.

use netd_api::v1::{AddressPair, ReachResponse, Reachable, ReachedBy};
use netd_policy::{Compiler, Policy, Reaches};

use super::ends::{End, OUTSIDE};
use super::enforcer::Force;
use super::ground::Ground;
use super::pairs::{Pair, families, pairs};

/// More than these, and nobody reads it.
const MOST: usize = 300;

/// All ways between sandboxes, the node and the rest of the world; with `then`, also as they would be with these policies in
/// the place of those that have their names.
pub(crate) fn reach(force: &Force, ground: &Ground<'_>, then: Option<Vec<Policy>>) -> Result<ReachResponse, String> {
    let ends = ends(ground);
    if ends.len() > MOST {
        return Err(format!(
            "{} ends are too many for a matrix (at most {MOST}); ask for two of them: `netdctl policy test FROM TO:PORT`",
            ends.len()
        ));
    }
    let own = ground.world.nodes.get(ground.here).map(|node| node.addresses.clone()).unwrap_or_default();
    let after = then.map(|then| compiled_with(force, ground, then));
    let mut now = Reaches::new(force.compiler.compiled(), &own);
    let mut later = after.as_ref().map(|after| Reaches::new(after.compiled(), &own));
    let mut response = ReachResponse::new();
    for (at, to_at, pairs) in meetings(ground, &ends) {
        let between = |(from, to): Pair| {
            let ports = now.between(from, to).to_string();
            let after = later.as_mut().map_or_else(|| ports.clone(), |one| one.between(from, to).to_string());
            (ports, after)
        };
        response.pairs.extend(way((at, to_at), alike(pairs, between)));
    }
    response.ends = ends.into_iter().map(|(name, _)| name).collect();
    Ok(response)
}

/// What passes, now and then.
type Ports = (String, String);

/// By name. Whoever is of another node is told as such by his name.
fn ends(ground: &Ground<'_>) -> Vec<(String, End)> {
    let sandboxes = ground.world.sandboxes.keys().cloned().map(End::Sandbox).map(|end| (end.to_string(), end));
    let node = ("node".to_owned(), End::Node(ground.here.to_owned()));
    sandboxes.chain([node, (OUTSIDE.to_owned(), End::Outside)]).collect()
}

/// Every two ends of which a sandbox of this node is one, and by which addresses they meet.
fn meetings(ground: &Ground<'_>, ends: &[(String, End)]) -> Vec<(u32, u32, Vec<Pair>)> {
    let is_own = |end: &End| {
        let End::Sandbox(name) = end else { return false };
        ground.world.sandboxes.get(name).is_some_and(|sandbox| sandbox.known.is_none())
    };
    let mut all = Vec::new();
    for (at, (_, from)) in (0..).zip(ends) {
        for (to_at, (_, to)) in (0..).zip(ends) {
            if at != to_at && (is_own(from) || is_own(to)) {
                all.push((at, to_at, pairs(ground, from, to)));
            }
        }
    }
    all.retain(|(.., pairs)| !pairs.is_empty());
    all
}

/// Those pairs together that reach the same.
fn alike(pairs: Vec<Pair>, mut between: impl FnMut(Pair) -> Ports) -> Vec<(Ports, Vec<Pair>)> {
    let mut all: Vec<(Ports, Vec<Pair>)> = Vec::new();
    for pair in pairs {
        let ports = between(pair);
        match all.iter_mut().find(|(known, _)| *known == ports) {
            Some((_, known)) => known.push(pair),
            None => all.push((ports, vec![pair])),
        }
    }
    all
}

fn way((from, to): (u32, u32), all: Vec<(Ports, Vec<Pair>)>) -> Option<Reachable> {
    let (ports, ports_after) = all.first()?.0.clone();
    let by = if all.len() > 1 { all.into_iter().map(by).collect() } else { Vec::new() };
    Some(Reachable { from, to, ports, ports_after, by, ..Reachable::new() })
}

fn by(((ports, ports_after), pairs): (Ports, Vec<Pair>)) -> ReachedBy {
    ReachedBy { families: families(&pairs), pairs: told(&pairs), ports, ports_after, ..ReachedBy::new() }
}

/// As the API has them.
pub(crate) fn told(pairs: &[Pair]) -> Vec<AddressPair> {
    let told = |(from, to): &Pair| AddressPair { from: from.to_string(), to: to.to_string(), ..AddressPair::new() };
    pairs.iter().map(told).collect()
}

fn compiled_with(force: &Force, ground: &Ground<'_>, then: Vec<Policy>) -> Compiler {
    let is_replaced = |policy: &&Policy| !then.iter().any(|new| new.name == policy.name);
    let kept: Vec<Policy> = ground.policies.iter().filter(is_replaced).cloned().collect();
    let mut compiler = Compiler::new(force.node());
    compiler.load(kept.into_iter().chain(then).collect(), ground.world.clone().into_owned());
    compiler
}
