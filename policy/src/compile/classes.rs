//! Classes: sets of atoms with a number each, and how many addresses have them. Who has which atoms is `compile.rs`.

use std::collections::{BTreeMap, BTreeSet};

use super::atom::AtomId;
use super::compiled::{ClassId, next_number};

/// A class's atoms, sorted.
pub(super) type Signature = Vec<AtomId>;

#[derive(Debug)]
struct Class {
    signature: Signature,
    /// Addresses and ranges in it.
    uses: usize,
    /// Addresses of this node's sandboxes in it.
    subjects: usize,
}

/// All classes that something is in. The world is not counted: it is always there.
#[derive(Debug, Default)]
pub(super) struct Classes {
    ids: BTreeMap<Signature, ClassId>,
    classes: BTreeMap<ClassId, Class>,
    with: BTreeMap<AtomId, BTreeSet<ClassId>>,
    next: u32,
}

/// What a step made of a class.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Turn {
    /// It came, or went, as a peer.
    pub(super) peer: bool,
    /// It came, or went, as a subject.
    pub(super) subject: bool,
}

impl Classes {
    /// Classes of a new compilation; numbers go on where `old` ended, and behind `last`.
    pub(super) fn after(old: &Self, last: u32) -> Self {
        Self { next: old.next.max(last), ..Self::default() }
    }

    /// Puts one more address into the class with `signature`. A new class gets the number `kept`, if that is free.
    pub(super) fn enter(&mut self, signature: &[AtomId], kept: Option<ClassId>, subject: bool) -> (ClassId, Turn) {
        if signature.is_empty() {
            return (ClassId::WORLD, Turn::default());
        }
        let known = self.ids.get(signature).copied();
        let id = known.unwrap_or_else(|| self.create(signature, kept));
        let mut turn = Turn { peer: known.is_none(), subject: false };
        if let Some(class) = self.classes.get_mut(&id) {
            class.uses += 1;
            class.subjects += usize::from(subject);
            turn.subject = subject && class.subjects == 1;
        }
        (id, turn)
    }

    /// Takes one address out. What came to an end is still here until [`Classes::forget`].
    pub(super) fn leave(&mut self, id: ClassId, subject: bool) -> Turn {
        let Some(class) = self.classes.get_mut(&id) else { return Turn::default() };
        class.uses -= 1;
        class.subjects -= usize::from(subject);
        Turn { peer: class.uses == 0, subject: subject && class.subjects == 0 }
    }

    pub(super) fn forget(&mut self, id: ClassId) {
        let Some(class) = self.classes.remove(&id) else { return };
        for atom in &class.signature {
            if let Some(classes) = self.with.get_mut(atom) {
                classes.remove(&id);
            }
        }
        self.ids.remove(&class.signature);
    }

    pub(super) fn signature(&self, id: ClassId) -> &[AtomId] {
        self.classes.get(&id).map_or(&[], |class| &class.signature)
    }

    /// The class of addresses with these atoms, if there are any.
    pub(super) fn find(&self, signature: &[AtomId]) -> ClassId {
        self.ids.get(signature).copied().unwrap_or(ClassId::WORLD)
    }

    pub(super) fn with(&self, atom: AtomId) -> impl Iterator<Item = ClassId> {
        self.with.get(&atom).into_iter().flatten().copied()
    }

    /// All classes, the world first.
    pub(super) fn all(&self) -> impl Iterator<Item = ClassId> {
        std::iter::once(ClassId::WORLD).chain(self.classes.keys().copied())
    }

    /// How many there are, with the world.
    pub(super) fn count(&self) -> usize {
        1 + self.classes.len()
    }

    pub(super) fn subjects(&self) -> Vec<ClassId> {
        self.classes.iter().filter(|(_, class)| class.subjects > 0).map(|(id, _)| *id).collect()
    }

    fn create(&mut self, signature: &[AtomId], kept: Option<ClassId>) -> ClassId {
        let Self { classes, next, .. } = self;
        let free = |id: &ClassId| *id != ClassId::WORLD && !classes.contains_key(id);
        let new = || ClassId(next_number(next, |number| classes.contains_key(&ClassId(number))));
        let id = kept.filter(free).unwrap_or_else(new);
        self.ids.insert(signature.to_vec(), id);
        self.classes.insert(id, Class { signature: signature.to_vec(), uses: 0, subjects: 0 });
        for atom in signature {
            self.with.entry(*atom).or_default().insert(id);
        }
        id
    }
}
