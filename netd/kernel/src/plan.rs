//! The steps from one state to another. Pure; what a step does is the kernel's.

use crate::object::{Key, Object, Objects, Port, Step};

/// The steps that make `observed` into `desired`.
///
/// Order: what closes first (sandbox links away, ports shut), then deletions upwards, then creations and changes
/// downwards in [`Key`]'s order. So nothing is reachable before all it depends on stands, or after some of it went.
#[must_use]
pub fn plan(desired: &Objects, observed: &Objects) -> Vec<Step> {
    let gone = |key: &&Key| !desired.contains_key(*key);
    let closing =
        desired.iter().filter(|(key, object)| shuts(object) && observed.get(*key).is_some_and(|is| is != *object));
    let mut steps: Vec<Step> = observed
        .keys()
        .rev()
        .filter(gone)
        .filter(|key| matches!(key, Key::Interface(..)))
        .cloned()
        .map(Step::Delete)
        .collect();
    steps.extend(closing.map(|(key, object)| Step::Replace(key.clone(), object.clone())));
    steps.extend(
        observed.keys().rev().filter(gone).filter(|key| !matches!(key, Key::Interface(..))).cloned().map(Step::Delete),
    );
    for (key, object) in desired {
        match observed.get(key) {
            None => steps.push(Step::Create(key.clone(), object.clone())),
            Some(found) if found != object && !shuts(object) => steps.push(Step::Replace(key.clone(), object.clone())),
            Some(_) => {}
        }
    }
    steps
}

fn shuts(object: &Object) -> bool {
    matches!(object, Object::Veth(veth) if matches!(veth.port, Port::Closed | Port::Down))
}
