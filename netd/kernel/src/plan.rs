//! The steps from one state to another. Pure; what a step does is the kernel's.

use crate::object::{Key, Object, Objects, Port, Step};

/// The steps that make `observed` into `desired`.
///
/// Order: what closes first (sandbox links away, ports shut), then bridges and what passes their rules, then deletions
/// upwards, then creations and changes downwards in [`Key`]'s order; what others may have been led by goes last. So nothing
/// is reachable before all it depends on stands, or after some of it went; what changes in the ruleset stands together,
/// which makes it one transaction; and a route that becomes another's is never away.
#[must_use]
pub fn plan(desired: &Objects, observed: &Objects) -> Vec<Step> {
    let gone = |which: &dyn Fn(&Key) -> bool| -> Vec<Step> {
        let gone = observed.keys().rev().filter(|key| !desired.contains_key(*key) && which(key));
        gone.cloned().map(Step::Delete).collect()
    };
    let closing =
        desired.iter().filter(|(key, object)| shuts(object) && observed.get(*key).is_some_and(|is| is != *object));
    let mut steps = gone(&|key| matches!(key, Key::Interface(..)));
    steps.extend(closing.map(|(key, object)| Step::Replace(key.clone(), object.clone())));
    steps.extend(made(desired, observed, is_ground));
    steps.extend(gone(&|key| !matches!(key, Key::Interface(..)) && !goes_last(key)));
    steps.extend(made(desired, observed, |key| !is_ground(key)));
    steps.extend(gone(&goes_last));
    steps
}

fn made(desired: &Objects, observed: &Objects, which: impl Fn(&Key) -> bool) -> Vec<Step> {
    let step = |(key, object): (&Key, &Object)| match observed.get(key) {
        None => Some(Step::Create(key.clone(), object.clone())),
        Some(found) if found != object && !shuts(object) => Some(Step::Replace(key.clone(), object.clone())),
        Some(_) => None,
    };
    desired.iter().filter(|(key, _)| which(key)).filter_map(step).collect()
}

/// What stands below the ruleset.
fn is_ground(key: &Key) -> bool {
    matches!(key, Key::Bridge(_) | Key::GatewayLink(_) | Key::Filtered(_))
}

/// Routes that are changed lead by the old tunnel until then, and while that stands, so does what guards it.
fn goes_last(key: &Key) -> bool {
    let guards = matches!(key, Key::Ruleset | Key::Connected | Key::PeersOnly(_));
    is_ground(key) || guards || matches!(key, Key::Tunnel(_) | Key::FarEnd(_))
}

fn shuts(object: &Object) -> bool {
    matches!(object, Object::Veth(veth) if matches!(veth.port, Port::Closed | Port::Down))
}
