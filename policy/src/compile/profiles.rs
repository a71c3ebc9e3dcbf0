//! Profiles that are in use, each once, with a number that stays while anything refers to it.

use std::collections::BTreeMap;

use super::compiled::{Compiled, Profile, ProfileId};

#[derive(Debug, Default)]
pub(super) struct Profiles {
    ids: BTreeMap<Profile, ProfileId>,
    uses: BTreeMap<ProfileId, usize>,
    next: u32,
}

impl Profiles {
    /// Profiles of a new compilation: the same content gets the same number as in `old`.
    pub(super) fn after(old: Self) -> Self {
        Self { ids: old.ids, uses: BTreeMap::new(), next: old.next }
    }

    /// Forgets the numbers that nothing took over.
    pub(super) fn settle(&mut self) {
        self.ids.retain(|_, id| self.uses.contains_key(id));
    }

    pub(super) fn take(&mut self, profile: Profile, tables: &mut Compiled) -> ProfileId {
        let id = self.ids.get(&profile).copied().unwrap_or_else(|| {
            self.next += 1;
            self.ids.insert(profile.clone(), ProfileId(self.next));
            ProfileId(self.next)
        });
        let uses = self.uses.entry(id).or_default();
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
