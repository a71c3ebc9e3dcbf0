//! Profiles that are in use, each once, with a number that stays while anything refers to it.

use std::collections::BTreeMap;

use super::compiled::{Compiled, Profile, ProfileId, next_number};

#[derive(Debug, Default)]
pub(super) struct Profiles {
    ids: BTreeMap<Profile, ProfileId>,
    uses: BTreeMap<ProfileId, usize>,
    next: u32,
}

impl Profiles {
    /// Profiles of a new compilation: the same content gets the same number as in `old`, unless a kernel holds profiles
    /// already, up to the number `standing`; other content gets one behind both.
    pub(super) fn after(old: Self, standing: u32) -> Self {
        let ids = if standing == 0 { old.ids } else { BTreeMap::new() };
        Self { ids, uses: BTreeMap::new(), next: old.next.max(standing) }
    }

    /// Forgets the numbers that nothing took over.
    pub(super) fn settle(&mut self) {
        self.ids.retain(|_, id| self.uses.contains_key(id));
    }

    /// One more refers to the profile. Where it has no number yet, it gets the one that it stands by, unless another has it.
    pub(super) fn take(&mut self, profile: Profile, standing: Option<ProfileId>, tables: &mut Compiled) -> ProfileId {
        let Self { ids, uses, next } = self;
        let id = ids.get(&profile).copied().unwrap_or_else(|| {
            let new = || ProfileId(next_number(next, |number| uses.contains_key(&ProfileId(number))));
            let id = standing.filter(|id| !uses.contains_key(id)).unwrap_or_else(new);
            ids.insert(profile.clone(), id);
            id
        });
        let uses = uses.entry(id).or_default();
        if *uses == 0 {
            tables.profiles.insert(id, profile);
        }
        *uses += 1;
        id
    }

    /// Refers once more to a profile in use.
    pub(super) fn hold(&mut self, id: ProfileId) {
        *self.uses.entry(id).or_default() += 1;
    }

    pub(super) fn release(&mut self, id: ProfileId, tables: &mut Compiled) {
        let Some(uses) = self.uses.get_mut(&id) else { return };
        *uses -= 1;
        if *uses == 0 {
            self.uses.remove(&id);
            if let Some(profile) = tables.profiles.remove(&id) {
                self.ids.remove(&profile);
            }
        }
    }
}
