//! Which ports get no multicast and no broadcast: it bears no sandbox's address, so no rule could ask who may send it there.
//! Those get no flood whose sandbox may not hear everything from everybody. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use netd_config::LinkName;
use netd_kernel::{Key, Object, Objects};
use netd_policy::{ClassId, Compiled, Delta, Profile, ProfileId, TCP};

use super::filters::Filters;
use super::objects::{Changes, Fate};

/// NoFlood ports, kept up by what changes.
#[derive(Debug, Default)]
pub(super) struct NoFlood {
    ports: Filters,
    /// Whether a class is denied anything, of those that policies are about.
    classes: BTreeMap<ClassId, bool>,
}

impl NoFlood {
    /// Whom to [`NoFlood::set`] anew after this change: who has another class, or one that is not denied what it was.
    pub(super) fn touched(&mut self, delta: &Delta, compiled: &Compiled) -> BTreeSet<IpAddr> {
        let (any, pairs) = (&delta.any_in, &delta.pairs_in);
        let subjects: BTreeSet<ClassId> = (any.removed.iter().chain(any.set.keys()))
            .chain(pairs.removed.iter().chain(pairs.set.keys()).map(|(subject, _)| subject))
            .copied()
            .collect();
        let turned: BTreeSet<ClassId> = subjects.into_iter().filter(|class| self.turn(*class, compiled)).collect();
        let mut touched: BTreeSet<IpAddr> =
            delta.classes.removed.iter().chain(delta.classes.set.keys()).copied().collect();
        if !turned.is_empty() {
            touched.extend(compiled.ingress.keys().filter(|address| turned.contains(&compiled.class(**address))));
        }
        touched
    }

    /// Classes have other numbers from now on.
    pub(super) fn forget(&mut self) {
        self.classes.clear();
    }

    /// Whether the class was known, and is not what it was.
    fn turn(&mut self, class: ClassId, compiled: &Compiled) -> bool {
        let is = is_denied_anything(compiled, class);
        let was = if compiled.any_in.contains_key(&class) {
            self.classes.insert(class, is)
        } else {
            self.classes.remove(&class)
        };
        was.is_some_and(|was| was != is)
    }

    /// This address is behind these ports now. Adds what that makes of ports to the changes.
    pub(super) fn set(
        &mut self,
        address: IpAddr,
        mut ports: BTreeSet<LinkName>,
        compiled: &Compiled,
        changes: &mut Changes,
    ) {
        if !(compiled.ingress.contains_key(&address) && is_denied_anything(compiled, compiled.class(address))) {
            ports.clear();
        }
        let old = self.ports.set(address, ports.clone());
        for link in old.symmetric_difference(&ports) {
            let fate = if self.ports.wants(link) { Fate::Set(Object::Set) } else { Fate::Gone };
            changes.insert(Key::NoFlood(link.clone()), fate);
        }
    }

    /// Everything that the kernel is to hold.
    pub(super) fn all(&self) -> Objects {
        self.ports.wanted().into_iter().map(|link| (Key::NoFlood(link), Object::Set)).collect()
    }
}

/// Who is isolated and has no profile is contested, and denied everything.
fn is_denied_anything(compiled: &Compiled, class: ClassId) -> bool {
    let denies = |profile: &ProfileId| compiled.profiles.get(profile).is_some_and(denies);
    let (first, last) = ((class, ClassId(0)), (class, ClassId(u32::MAX)));
    compiled.any_in.get(&class).is_none_or(denies)
        || compiled.pairs_in.range(first..=last).any(|(_, profile)| denies(profile))
}

/// TCP goes to one receiver only.
fn denies(profile: &Profile) -> bool {
    profile.0.iter().any(|entry| !entry.answer.allowed && entry.protocols != (TCP, TCP))
}
