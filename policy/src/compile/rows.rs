//! One direction's rows: for each subject class the profile of every peer class. Most peers share the row's fallback;
//! only the others are pairs.

use std::collections::{BTreeMap, BTreeSet};

use crate::flow::Direction;
use crate::world::NamedPort;

use super::atom::{AtomId, Atoms};
use super::classes::Classes;
use super::compiled::{ClassId, Compiled, ProfileId};
use super::profiles::Profiles;
use super::rules::{CompactPolicy, Other, profile};
use super::standing::Standing;
use super::table::Table;

/// What rows are made from.
#[derive(Debug, Default)]
pub(super) struct Ground {
    /// In the order in which they are asked.
    pub(super) policies: Vec<CompactPolicy>,
    /// The policies with this subject, by their place in `policies`.
    pub(super) by_subject: BTreeMap<AtomId, Vec<usize>>,
    pub(super) atoms: Atoms,
    pub(super) classes: Classes,
    /// Of which the rows that are made anew take over the numbers.
    pub(super) standing: Standing,
}

/// Where rows go.
#[derive(Debug, Default)]
pub(super) struct Output {
    pub(super) tables: Compiled,
    pub(super) profiles: Profiles,
}

/// All rows of a direction.
#[derive(Debug)]
pub(super) struct Rows {
    direction: Direction,
    rows: BTreeMap<ClassId, Row>,
    /// The rows that tell peers apart by this atom.
    users: BTreeMap<AtomId, BTreeSet<ClassId>>,
    /// The rows that tell peers apart by ports with this name.
    named: BTreeMap<String, BTreeSet<ClassId>>,
    /// The rows whose fallback is not for peers that no atom matches.
    inverted: BTreeSet<ClassId>,
}

#[derive(Debug)]
struct Row {
    policies: Vec<usize>,
    atoms: BTreeSet<AtomId>,
    /// Peer classes by those of their atoms that matter here. The empty set is always there: the world has it.
    groups: BTreeMap<Vec<AtomId>, Group>,
    fallback: ProfileId,
    host: Option<ProfileId>,
}

#[derive(Debug)]
struct Group {
    profile: ProfileId,
    members: usize,
}

impl Ground {
    /// The policies that select `class` and say something about `direction`, in their order.
    fn policies_of(&self, class: ClassId, direction: Direction) -> Vec<usize> {
        let subjects = self.classes.signature(class).iter().filter_map(|atom| self.by_subject.get(atom));
        let mut found: Vec<usize> = subjects.flatten().copied().collect();
        found.retain(|number| self.policies[*number].speaks(direction));
        found.sort_unstable();
        found
    }

    /// Whether any policy selects `class` in `direction`.
    pub(super) fn selects(&self, class: ClassId, direction: Direction) -> bool {
        let mut subjects = self.classes.signature(class).iter().filter_map(|atom| self.by_subject.get(atom));
        subjects.any(|policies| policies.iter().any(|number| self.policies[*number].speaks(direction)))
    }

    fn ports<'a>(&'a self, atoms: &'a [AtomId]) -> Vec<&'a NamedPort> {
        atoms.iter().filter_map(|atom| self.atoms.port(*atom)).collect()
    }
}

impl Rows {
    pub(super) fn new(direction: Direction) -> Self {
        Self {
            direction,
            rows: BTreeMap::new(),
            users: BTreeMap::new(),
            named: BTreeMap::new(),
            inverted: BTreeSet::new(),
        }
    }

    /// Makes the row of a subject that has none.
    pub(super) fn add(&mut self, subject: ClassId, ground: &Ground, output: &mut Output) {
        let policies = ground.policies_of(subject, self.direction);
        if policies.is_empty() {
            return;
        }
        let names: BTreeSet<&str> = self.port_names(&policies, ground);
        let mut atoms: BTreeSet<AtomId> =
            policies.iter().flat_map(|number| ground.policies[*number].peers(self.direction)).collect();
        atoms.extend(names.iter().flat_map(|name| ground.atoms.ports_named(name)));
        for atom in &atoms {
            self.users.entry(*atom).or_default().insert(subject);
        }
        for name in names {
            self.named.entry(name.to_owned()).or_default().insert(subject);
        }
        let row = self.row(subject, policies, atoms, ground, output);
        self.rows.insert(subject, row);
    }

    fn row(
        &mut self,
        subject: ClassId,
        policies: Vec<usize>,
        atoms: BTreeSet<AtomId>,
        ground: &Ground,
        output: &mut Output,
    ) -> Row {
        let members = members(&atoms, ground);
        let touched: usize = members.values().map(Vec::len).sum();
        let mut groups = BTreeMap::new();
        let mut weights: BTreeMap<ProfileId, usize> = BTreeMap::new();
        let untouched = ground.classes.count() - touched;
        let sizes = members.iter().map(|(key, classes)| (key.clone(), classes.len(), classes.first().copied()));
        for (key, size, like) in sizes.chain([(Vec::new(), untouched, Some(ClassId::WORLD))]) {
            let profile = self.profile((subject, like), &policies, Other::Peer(&key), ground, output);
            *weights.entry(profile).or_default() += size;
            groups.insert(key, Group { profile, members: size });
        }
        let base = groups[&Vec::new()].profile;
        let standing = ground.standing.fallback(self.direction, subject);
        let fallback = heaviest(&weights, standing.into_iter().chain([base])).unwrap_or(base);
        output.profiles.hold(fallback);
        self.any(&mut output.tables).insert(subject, fallback);
        for (key, classes) in members.iter().filter(|(key, _)| groups[*key].profile != fallback) {
            for class in classes {
                self.pairs(&mut output.tables).insert((subject, *class), groups[key].profile);
            }
        }
        if base != fallback {
            self.inverted.insert(subject);
            for class in
                ground.classes.all().filter(|class| subset(&atoms, ground.classes.signature(*class)).is_empty())
            {
                self.pairs(&mut output.tables).insert((subject, class), base);
            }
        }
        let named = policies.iter().any(|number| ground.policies[*number].names_own_node(self.direction));
        let host = named.then(|| self.profile((subject, None), &policies, Other::OwnNode, ground, output));
        if let Some(host) = host {
            self.host(&mut output.tables).insert(subject, host);
        }
        Row { policies, atoms, groups, fallback, host }
    }

    /// Takes a subject's row away.
    pub(super) fn remove(&mut self, subject: ClassId, output: &mut Output) {
        let Some(row) = self.rows.remove(&subject) else { return };
        for atom in &row.atoms {
            if let Some(users) = self.users.get_mut(atom) {
                users.remove(&subject);
            }
        }
        for rows in self.named.values_mut() {
            rows.remove(&subject);
        }
        self.inverted.remove(&subject);
        let pairs = self.pairs(&mut output.tables);
        let keys: Vec<_> =
            pairs.range((subject, ClassId(0))..=(subject, ClassId(u32::MAX))).map(|(key, _)| *key).collect();
        for key in keys {
            pairs.remove(&key);
        }
        self.any(&mut output.tables).remove(&subject);
        self.host(&mut output.tables).remove(&subject);
        let used = row.groups.values().map(|group| group.profile).chain([row.fallback]).chain(row.host);
        used.for_each(|profile| output.profiles.release(profile, &mut output.tables));
    }

    /// Adds a new class to the rows that tell it from others.
    pub(super) fn join(&mut self, peer: ClassId, ground: &Ground, output: &mut Output) {
        let signature = ground.classes.signature(peer);
        for subject in self.concerned(signature) {
            let Some(mut row) = self.rows.remove(&subject) else { continue };
            let key = subset(&row.atoms, signature);
            let profile = match row.groups.get(&key) {
                Some(group) => group.profile,
                None => {
                    let profile = self.profile((subject, Some(peer)), &row.policies, Other::Peer(&key), ground, output);
                    row.groups.insert(key.clone(), Group { profile, members: 0 });
                    profile
                }
            };
            if let Some(group) = row.groups.get_mut(&key) {
                group.members += 1;
            }
            if profile != row.fallback {
                self.pairs(&mut output.tables).insert((subject, peer), profile);
            }
            self.rows.insert(subject, row);
        }
    }

    /// Takes a class that comes to its end out of all rows.
    pub(super) fn leave(&mut self, peer: ClassId, ground: &Ground, output: &mut Output) {
        let signature = ground.classes.signature(peer);
        for subject in self.concerned(signature) {
            self.pairs(&mut output.tables).remove(&(subject, peer));
            let Some(row) = self.rows.get_mut(&subject) else { continue };
            let key = subset(&row.atoms, signature);
            let Some(group) = row.groups.get_mut(&key).filter(|_| !key.is_empty()) else { continue };
            group.members -= 1;
            if group.members == 0 {
                output.profiles.release(group.profile, &mut output.tables);
                row.groups.remove(&key);
            }
        }
    }

    /// Makes rows with ports of this name tell peers apart by a new atom.
    pub(super) fn learn(&mut self, name: &str, atom: AtomId) {
        for subject in self.named.get(name).into_iter().flatten() {
            if let Some(row) = self.rows.get_mut(subject) {
                row.atoms.insert(atom);
                self.users.entry(atom).or_default().insert(*subject);
            }
        }
    }

    fn concerned(&self, signature: &[AtomId]) -> BTreeSet<ClassId> {
        let users = signature.iter().filter_map(|atom| self.users.get(atom)).flatten();
        users.chain(&self.inverted).copied().collect()
    }

    /// Names of ports tell peers apart only where the peer is the destination.
    fn port_names<'a>(&self, policies: &[usize], ground: &'a Ground) -> BTreeSet<&'a str> {
        match self.direction {
            Direction::Ingress => BTreeSet::new(),
            Direction::Egress => {
                policies.iter().flat_map(|number| ground.policies[*number].port_names(Direction::Egress)).collect()
            }
        }
    }

    /// `like`: a class of the other end; none of the node.
    fn profile(
        &self,
        (subject, like): (ClassId, Option<ClassId>),
        policies: &[usize],
        other: Other<'_>,
        ground: &Ground,
        output: &mut Output,
    ) -> ProfileId {
        let destination = match (self.direction, other) {
            (Direction::Ingress, _) => ground.classes.signature(subject),
            (Direction::Egress, Other::Peer(atoms)) => atoms,
            (Direction::Egress, Other::OwnNode) => &[],
        };
        let policies: Vec<&CompactPolicy> = policies.iter().map(|number| &ground.policies[*number]).collect();
        let profile = profile(&policies, self.direction, other, &ground.ports(destination));
        let standing = ground.standing.profile(self.direction, subject, like);
        let standing = standing.filter(|id| ground.standing.is(*id, &profile));
        output.profiles.take(profile, standing, &mut output.tables)
    }

    fn pairs<'a>(&self, tables: &'a mut Compiled) -> &'a mut Table<(ClassId, ClassId), ProfileId> {
        match self.direction {
            Direction::Ingress => &mut tables.pairs_in,
            Direction::Egress => &mut tables.pairs_out,
        }
    }

    fn any<'a>(&self, tables: &'a mut Compiled) -> &'a mut Table<ClassId, ProfileId> {
        match self.direction {
            Direction::Ingress => &mut tables.any_in,
            Direction::Egress => &mut tables.any_out,
        }
    }

    fn host<'a>(&self, tables: &'a mut Compiled) -> &'a mut Table<ClassId, ProfileId> {
        match self.direction {
            Direction::Ingress => &mut tables.host_in,
            Direction::Egress => &mut tables.host_out,
        }
    }
}

/// One that most peers share, if it can be one of `rather`.
fn heaviest(weights: &BTreeMap<ProfileId, usize>, mut rather: impl Iterator<Item = ProfileId>) -> Option<ProfileId> {
    let most = weights.values().max()?;
    rather.find(|id| weights.get(id) == Some(most)).or_else(|| {
        let mut all = weights.iter();
        all.find(|(_, weight)| *weight == most).map(|(id, _)| *id)
    })
}

/// The classes that any of `atoms` matches, by those that do.
fn members(atoms: &BTreeSet<AtomId>, ground: &Ground) -> BTreeMap<Vec<AtomId>, Vec<ClassId>> {
    let mut touched: Vec<(ClassId, AtomId)> =
        atoms.iter().flat_map(|atom| ground.classes.with(*atom).map(move |class| (class, *atom))).collect();
    touched.sort_unstable();
    let mut members: BTreeMap<Vec<AtomId>, Vec<ClassId>> = BTreeMap::new();
    for of_one in touched.chunk_by(|one, next| one.0 == next.0) {
        members.entry(of_one.iter().map(|(_, atom)| *atom).collect()).or_default().push(of_one[0].0);
    }
    members
}

fn subset(atoms: &BTreeSet<AtomId>, signature: &[AtomId]) -> Vec<AtomId> {
    signature.iter().filter(|atom| atoms.contains(atom)).copied().collect()
}
