//! Which classes keep their numbers when all policies are compiled anew.

use std::collections::{BTreeMap, BTreeSet};

use super::atom::AtomId;
use super::compiled::ClassId;

/// Those whose former holders are all of one class again. `former`: the class of each, and its atoms now; `None`: it is gone, or
/// apart. The number of any other would mean something else to a packet that was looked up by it before.
pub(super) fn lasting<'a>(former: impl Iterator<Item = (ClassId, Option<&'a [AtomId]>)>) -> BTreeSet<ClassId> {
    let mut meanings: BTreeMap<ClassId, Option<&[AtomId]>> = BTreeMap::new();
    for (class, atoms) in former {
        let meaning = meanings.entry(class).or_insert(atoms);
        if *meaning != atoms {
            *meaning = None;
        }
    }
    meanings.into_iter().filter_map(|(class, meaning)| meaning.map(|_| class)).collect()
}
