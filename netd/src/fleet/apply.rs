//! Makes the kernel have what the fleet wants, object by object: what it refuses keeps nothing else from standing. Blocking.

use std::collections::BTreeMap;

use netd_kernel::{Encapsulation, Hop, Kernel, Key, NextHop, Object, Objects, Part, Step, plan};

use crate::executor::{Executor, ExecutorError};
use crate::reply::chain;

/// What the kernel refused, and why.
pub(super) type Refused = BTreeMap<Key, String>;

/// A tunnel takes from everybody what its guard does not keep out.
const UNGUARDED: &str = "not made: the rules that let in peers only could not be made";

/// Whether the fleet says if this object is to be.
#[must_use]
pub fn is_fleets(key: &Key) -> bool {
    matches!(key.part(), Part::Fleet | Part::Ways)
}

/// The fleet's of all that was observed.
pub(super) fn fleets(observed: &Objects) -> Objects {
    observed.iter().filter(|(key, _)| is_fleets(key)).map(|(key, object)| (key.clone(), object.clone())).collect()
}

/// What guards the tunnels that stand, and lets in those that they lead to: for a ruleset that is made before the fleet is
/// heard of.
#[must_use]
pub fn guards(observed: &Objects) -> Objects {
    let guarding = |(key, object): (&Key, &Object)| match (key, object) {
        (_, Object::Tunnel(tunnel)) => vec![Key::Connected, Key::PeersOnly(tunnel.entrance)],
        (Key::FarEnd(peer), _) => vec![Key::Peer(*peer)],
        (_, Object::NextHop(NextHop { hop: Hop::Ipip(peer), .. })) => vec![Key::Peer((*peer).into())],
        _ => Vec::new(),
    };
    observed.iter().flat_map(guarding).map(|key| (key, Object::Set)).collect()
}

/// Takes the steps from `observed` to `desired`. What comes back stays as it was.
///
/// # Errors
/// The kernel cannot be asked at all.
pub(super) fn settle<K: Kernel>(
    executor: &Executor<K>,
    desired: &Objects,
    observed: &Objects,
) -> Result<Refused, ExecutorError> {
    let mut refused = Refused::new();
    let mut rest = plan(desired, observed);
    while !rest.is_empty() {
        let failed = match executor.enforce(&rest) {
            Ok(()) => break,
            Err(ExecutorError::Apply(failed)) => failed,
            Err(error) => return Err(error),
        };
        // Those of its kind were refused together: which of them, they say one by one.
        let (_, left) = rest.split_at(failed.number.min(rest.len() - 1));
        let end = left.iter().position(|step| !is_alike(step, &left[0])).unwrap_or(left.len());
        let (run, behind) = left.split_at(end);
        for step in run {
            one_by_one(executor, step, &mut refused);
        }
        rest = behind.iter().filter(|step| has_ground(step, &mut refused)).cloned().collect();
    }
    Ok(refused)
}

/// Whether what the object rests on was not refused. Of what leads by a tunnel, the tunnel tells.
fn has_ground(step: &Step, refused: &mut Refused) -> bool {
    let is_lost = rests_on(step).iter().any(|below| refused.contains_key(below));
    if is_lost && matches!(step.key(), Key::Tunnel(_)) {
        refused.insert(step.key().clone(), UNGUARDED.to_owned());
    }
    !is_lost
}

fn one_by_one<K: Kernel>(executor: &Executor<K>, step: &Step, refused: &mut Refused) {
    if let Err(error) = executor.enforce(std::slice::from_ref(step)) {
        let text = match &error {
            // The step is of no use to people.
            ExecutorError::Apply(error) | ExecutorError::Links(error) => chain(&error.source),
            ExecutorError::Observe(error) => chain(error),
            ExecutorError::NoRuleset => chain(&error),
        };
        refused.insert(step.key().clone(), text);
    }
}

fn is_alike(step: &Step, first: &Step) -> bool {
    std::mem::discriminant(step.key()) == std::mem::discriminant(first.key())
}

/// What has to be done first: without which there is no such object (the tunnel that it leads by, or what guards a tunnel), or
/// what is guarded by it for as long as that stands.
pub(super) fn rests_on(step: &Step) -> Vec<Key> {
    let by = |encapsulation: Option<Encapsulation>| encapsulation.map(Key::Tunnel).into_iter().collect();
    match step {
        Step::Create(Key::FarEnd(_), _) | Step::Replace(Key::FarEnd(_), _) => by(Some(Encapsulation::Vxlan)),
        Step::Create(_, Object::NextHop(NextHop { hop, .. }))
        | Step::Replace(_, Object::NextHop(NextHop { hop, .. })) => by(hop.encapsulation()),
        Step::Create(_, Object::Tunnel(tunnel)) | Step::Replace(_, Object::Tunnel(tunnel)) => {
            vec![Key::Connected, Key::PeersOnly(tunnel.entrance)]
        }
        Step::Delete(Key::PeersOnly(entrance)) => by(Some(entrance.encapsulation())),
        Step::Delete(Key::Connected) => [Encapsulation::Ipip, Encapsulation::Vxlan].map(Key::Tunnel).into(),
        Step::Create(..) | Step::Replace(..) | Step::Delete(_) => Vec::new(),
    }
}

#[cfg(test)]
mod tests;
