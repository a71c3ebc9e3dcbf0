//! Policies and world to maps that a kernel can look up, and to the few elements that one change costs.
//!
//! ```text
//! selectors, blocks, named ports ─▶ atoms        address ─▶ its atoms ─▶ class
//! subject class ─▶ its policies ─▶ row: peer class ─▶ profile (fallback, or a pair)
//! ```
//!
//! A change of sandboxes touches the rows of its classes; a change of policies compiles anew and keeps the numbers.
//! What policies mean is written a second time, without any of this, in `oracle.rs`.

mod atom;
mod classes;
mod compiled;
mod lasting;
mod profiles;
mod ranges;
mod rows;
mod rules;
mod standing;
mod table;

use std::collections::{BTreeMap, BTreeSet};
use std::mem;
use std::net::IpAddr;

pub use compiled::{AddressRange, Answer, ClassId, Compiled, Delta, Entry, PolicyId, Profile, ProfileId};
pub use table::{Change as TableChange, Table};

use crate::flow::Direction;
use crate::model::{Block, Policy, PolicyName};
use crate::world::{Node, Sandbox, SandboxName, World};

use atom::AtomId;
use classes::Classes;
use lasting::lasting;
use profiles::Profiles;
use ranges::Ranges;
use rows::{Ground, Output, Rows};
use rules::CompactPolicy;
use standing::Standing;

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// These are all policies now.
    Policies(Vec<Policy>),
    /// These are all nodes now.
    Nodes(BTreeMap<String, Node>),
    /// Other nodes' sandboxes are here now; see [`World::strangers`].
    Strangers(BTreeSet<Block>),
    /// This sandbox is new or changed.
    Sandbox(Sandbox),
    /// This sandbox is no more.
    Gone(SandboxName),
}

/// Keeps one node's [`Compiled`] current.
#[derive(Debug)]
pub struct Compiler {
    node: String,
    policies: Vec<Policy>,
    numbers: BTreeMap<PolicyName, PolicyId>,
    last_number: u32,
    world: World,
    /// Who has an address. Two may, for a moment.
    owners: BTreeMap<IpAddr, BTreeSet<SandboxName>>,
    /// Addresses that several sandboxes of this node have; see [`World::contested`].
    contested: BTreeSet<IpAddr>,
    held: BTreeMap<IpAddr, Held>,
    ranges: Ranges,
    ground: Ground,
    ingress: Rows,
    egress: Rows,
    output: Output,
}

/// The class of an address, and whether it is one of this node's sandboxes'.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Held {
    class: ClassId,
    subject: bool,
}

impl Compiler {
    /// A compiler for the node named `node`, with nothing in it.
    #[must_use]
    pub fn new(node: &str) -> Self {
        Self {
            node: node.to_owned(),
            policies: Vec::new(),
            numbers: BTreeMap::new(),
            last_number: 0,
            world: World::default(),
            owners: BTreeMap::new(),
            contested: BTreeSet::new(),
            held: BTreeMap::new(),
            ranges: Ranges::default(),
            ground: Ground::default(),
            ingress: Rows::new(Direction::Ingress),
            egress: Rows::new(Direction::Egress),
            output: Output::default(),
        }
    }

    /// What the kernel should hold now.
    #[must_use]
    pub fn compiled(&self) -> &Compiled {
        &self.output.tables
    }

    /// The policies in force.
    #[must_use]
    pub fn policies(&self) -> &[Policy] {
        &self.policies
    }

    /// Addresses of which no packet passes while there are policies, each with those who have it; see [`World::contested`].
    pub fn contested(&self) -> impl Iterator<Item = (IpAddr, impl Iterator<Item = &SandboxName>)> {
        self.contested.iter().map(|address| (*address, self.owners.get(address).into_iter().flatten()))
    }

    /// The world as it knows it.
    #[must_use]
    pub fn world(&self) -> &World {
        &self.world
    }

    /// Starts from all policies and the whole world at once.
    pub fn load(&mut self, policies: Vec<Policy>, world: World) -> Delta {
        self.policies = policies;
        self.world = world;
        self.owners.clear();
        for sandbox in self.world.sandboxes.values() {
            for address in sandbox.addresses.keys() {
                self.owners.entry(*address).or_default().insert(sandbox.name.clone());
            }
        }
        self.compile()
    }

    /// A kernel holds these tables already, by an earlier compiler's numbers; who says what is not known there. The next time
    /// that all policies are compiled, classes and profiles that are the same keep those numbers, and no other gets one of
    /// them.
    pub fn go_on_from(&mut self, standing: Compiled) {
        self.ground.standing = Standing::new(standing);
    }

    /// Takes one change in.
    pub fn update(&mut self, change: Change) -> Delta {
        match change {
            Change::Policies(policies) => {
                self.policies = policies;
                self.compile()
            }
            Change::Nodes(nodes) => {
                self.world.nodes = nodes;
                self.compile()
            }
            Change::Strangers(blocks) => {
                self.world.strangers = blocks;
                self.compile()
            }
            Change::Sandbox(sandbox) => {
                let name = sandbox.name.clone();
                self.replace(&name, Some(sandbox));
                self.output.tables.take_change()
            }
            Change::Gone(name) => {
                self.replace(&name, None);
                self.output.tables.take_change()
            }
        }
    }

    fn replace(&mut self, name: &SandboxName, sandbox: Option<Sandbox>) {
        let old = self.world.sandboxes.remove(name);
        if let Some(old) = &old {
            for address in old.addresses.keys() {
                if let Some(owners) = self.owners.get_mut(address) {
                    owners.remove(name);
                }
            }
        }
        let addresses: BTreeSet<IpAddr> =
            [&old, &sandbox].into_iter().flatten().flat_map(|one| one.addresses.keys()).copied().collect();
        if let Some(sandbox) = sandbox {
            for address in sandbox.addresses.keys() {
                self.owners.entry(*address).or_default().insert(name.clone());
            }
            self.world.sandboxes.insert(name.clone(), sandbox);
        }
        for address in addresses {
            self.refresh(address);
        }
    }

    /// Compiles everything anew. Classes, profiles and policies keep their numbers as far as they can.
    fn compile(&mut self) -> Delta {
        let mut old = mem::take(&mut self.output);
        let standing = mem::take(&mut self.ground.standing);
        let (last_class, last_profile) = standing.last();
        let mut kept = standing.classes();
        let held = mem::take(&mut self.held).into_iter().filter(|(_, held)| held.class != ClassId::WORLD);
        kept.extend(held.map(|(at, held)| (at, held.class)));
        self.output.profiles = Profiles::after(mem::take(&mut old.profiles), last_profile);
        let classes = Classes::after(&self.ground.classes, last_class);
        self.ground = Ground { classes, standing, ..Ground::default() };
        self.ingress = Rows::new(Direction::Ingress);
        self.egress = Rows::new(Direction::Egress);
        self.read_policies();
        self.ranges = Ranges::new(self.ground.atoms.blocks(&self.world.strangers));
        let nodes = self.world.nodes.values().flat_map(|node| node.addresses.iter());
        let addresses: BTreeSet<IpAddr> = self.owners.keys().chain(nodes).copied().collect();
        let (contested, single): (BTreeSet<_>, BTreeSet<_>) =
            addresses.into_iter().partition(|address| self.is_contested(*address));
        let classed: Vec<(IpAddr, Vec<AtomId>)> =
            single.into_iter().filter_map(|address| Some((address, self.atoms_at(address)?.0))).collect();
        for (address, _) in &classed {
            if let Some(class) = self.ground.standing.class(*address) {
                kept.entry(*address).or_insert(class);
            }
        }
        let lasting = self.lasting(&kept, &classed, &old.tables);
        self.place_ranges(&old.tables, &lasting);
        for (address, signature) in classed {
            self.place(address, signature, kept.get(&address).copied().filter(|class| lasting.contains(class)));
        }
        contested.iter().for_each(|address| self.close(*address));
        self.contested = contested;
        for subject in self.ground.classes.subjects() {
            self.ingress.add(subject, &self.ground, &mut self.output);
            self.egress.add(subject, &self.ground, &mut self.output);
        }
        self.output.profiles.settle();
        if !self.policies.is_empty() {
            self.ground.standing = Standing::default();
        }
        self.output.tables.change_from(&old.tables)
    }

    fn read_policies(&mut self) {
        self.policies.sort_by(|one, other| (one.tier, &one.name).cmp(&(other.tier, &other.name)));
        let old = mem::take(&mut self.numbers);
        let own = self.world.nodes.get(&self.node);
        for policy in &self.policies {
            let id = old.get(&policy.name).copied().unwrap_or_else(|| {
                self.last_number += 1;
                PolicyId(self.last_number)
            });
            self.numbers.insert(policy.name.clone(), id);
            self.output.tables.policies.insert(id, policy.name.clone());
            let compact = CompactPolicy::new(policy, id, own, &mut self.ground.atoms);
            self.ground.by_subject.entry(compact.subject).or_default().push(self.ground.policies.len());
            self.ground.policies.push(compact);
        }
    }

    fn lasting(
        &self,
        kept: &BTreeMap<IpAddr, ClassId>,
        classed: &[(IpAddr, Vec<AtomId>)],
        old: &Compiled,
    ) -> BTreeSet<ClassId> {
        let addresses: BTreeMap<IpAddr, &[AtomId]> =
            classed.iter().map(|(at, atoms)| (*at, atoms.as_slice())).collect();
        let ranges: BTreeMap<AddressRange, &[AtomId]> = self.ranges.iter().collect();
        let of_addresses = kept.iter().map(|(address, class)| (*class, addresses.get(address).copied()));
        let blocks = old.blocks.iter().chain(self.ground.standing.blocks());
        let of_ranges = blocks.map(|(range, class)| (*class, ranges.get(range).copied()));
        lasting(of_addresses.chain(of_ranges))
    }

    fn place_ranges(&mut self, old: &Compiled, lasting: &BTreeSet<ClassId>) {
        for (range, atoms) in self.ranges.iter() {
            let kept = old.blocks.get(&range).copied().or_else(|| self.ground.standing.block(&range));
            let kept = kept.filter(|class| lasting.contains(class));
            let (class, _) = self.ground.classes.enter(atoms, kept, false);
            self.output.tables.blocks.insert(range, class);
        }
    }

    /// Puts an address into its class while there are no rows yet.
    fn place(&mut self, address: IpAddr, signature: Vec<AtomId>, kept: Option<ClassId>) {
        let subject = self.is_subject(address);
        let (class, _) = self.ground.classes.enter(&signature, kept, subject);
        self.hold(address, Held { class, subject });
    }

    /// Puts an address into the class that it belongs to now.
    fn refresh(&mut self, address: IpAddr) {
        self.unlink_itself(address);
        let old = self.held.get(&address).copied();
        if self.is_contested(address) {
            self.contested.insert(address);
            self.held.remove(&address);
            self.close(address);
            if let Some(old) = old {
                self.leave(old);
            }
            return;
        }
        self.contested.remove(&address);
        let new = self.atoms_at(address).map(|(signature, new_ports)| {
            for atom in new_ports {
                self.learn(atom);
            }
            let subject = self.is_subject(address);
            Held { class: self.enter(&signature, subject), subject }
        });
        match new {
            Some(held) => self.hold(address, held),
            None => self.drop_address(address),
        }
        if let Some(old) = old {
            self.leave(old);
        }
    }

    fn enter(&mut self, signature: &[AtomId], subject: bool) -> ClassId {
        let (class, turn) = self.ground.classes.enter(signature, None, subject);
        for rows in [&mut self.ingress, &mut self.egress] {
            if turn.peer {
                rows.join(class, &self.ground, &mut self.output);
            }
            if turn.subject {
                rows.add(class, &self.ground, &mut self.output);
            }
        }
        class
    }

    fn leave(&mut self, held: Held) {
        let turn = self.ground.classes.leave(held.class, held.subject);
        for rows in [&mut self.ingress, &mut self.egress] {
            if turn.subject {
                rows.remove(held.class, &mut self.output);
            }
            if turn.peer {
                rows.leave(held.class, &self.ground, &mut self.output);
            }
        }
        if turn.peer {
            self.ground.classes.forget(held.class);
        }
    }

    fn learn(&mut self, atom: AtomId) {
        let Some(port) = self.ground.atoms.port(atom) else { return };
        self.ingress.learn(&port.name, atom);
        self.egress.learn(&port.name, atom);
    }

    fn hold(&mut self, address: IpAddr, held: Held) {
        let Held { class, subject } = held;
        let tables = &mut self.output.tables;
        self.held.insert(address, held);
        if class == self.ground.classes.find(self.ranges.at(address)) {
            tables.classes.remove(&address);
        } else {
            tables.classes.insert(address, class);
        }
        for (isolated, direction) in
            [(&mut tables.ingress, Direction::Ingress), (&mut tables.egress, Direction::Egress)]
        {
            if subject && self.ground.selects(class, direction) {
                isolated.insert(address, ());
            } else {
                isolated.remove(&address);
            }
        }
        self.link_itself(address);
    }

    /// No rule can tell whose it is: it has no class, and who is asked about without one is denied.
    fn close(&mut self, address: IpAddr) {
        let is_closed = !self.policies.is_empty()
            && own(&self.owners, &self.world, address).next().is_some_and(|first| first.node == self.node);
        let tables = &mut self.output.tables;
        tables.classes.remove(&address);
        for isolated in [&mut tables.ingress, &mut tables.egress] {
            if is_closed {
                isolated.insert(address, ());
            } else {
                isolated.remove(&address);
            }
        }
    }

    fn is_contested(&self, address: IpAddr) -> bool {
        own(&self.owners, &self.world, address).nth(1).is_some()
    }

    fn drop_address(&mut self, address: IpAddr) {
        self.held.remove(&address);
        self.owners.remove(&address);
        self.output.tables.classes.remove(&address);
        self.output.tables.ingress.remove(&address);
        self.output.tables.egress.remove(&address);
    }

    /// The atoms of an address that has a name, sorted, and those among them that are new.
    fn atoms_at(&mut self, address: IpAddr) -> Option<(Vec<AtomId>, Vec<AtomId>)> {
        let owner = owner(&self.owners, &self.world, address);
        let (mut atoms, new) = match owner {
            Some(sandbox) => self.ground.atoms.of_sandbox(sandbox, address),
            None => {
                let node = self.world.nodes.values().find(|node| node.addresses.contains(&address))?;
                (self.ground.atoms.of_node(node), Vec::new())
            }
        };
        let of_range = self.ranges.at(address).iter().filter(|atom| !self.ground.atoms.is_doubt(**atom));
        atoms.extend(of_range);
        Some((atoms.into_iter().collect(), new))
    }

    fn is_subject(&self, address: IpAddr) -> bool {
        self.owner(address).is_some_and(|sandbox| sandbox.node == self.node)
    }

    /// All of a sandbox's addresses are restricted alike: no subject is chosen by network.
    fn link_itself(&mut self, address: IpAddr) {
        let Some(sandbox) = self.owner(address) else { return };
        let same = |other: &&IpAddr| other.is_ipv4() == address.is_ipv4();
        let own = |other: &&IpAddr| self.owner(**other).is_some_and(|owner| owner.name == sandbox.name);
        let others: Vec<IpAddr> = sandbox.addresses.keys().filter(same).filter(own).copied().collect();
        let tables = &mut self.output.tables;
        if tables.ingress.contains_key(&address) || tables.egress.contains_key(&address) {
            for other in others {
                tables.itself.insert((address, other), ());
                tables.itself.insert((other, address), ());
            }
        }
    }

    fn unlink_itself(&mut self, address: IpAddr) {
        let itself = &mut self.output.tables.itself;
        let (least, most) = (IpAddr::from([0; 4]), IpAddr::from([u8::MAX; 16]));
        let others: Vec<IpAddr> =
            itself.range((address, least)..=(address, most)).map(|((_, other), ())| *other).collect();
        for other in others {
            itself.remove(&(address, other));
            itself.remove(&(other, address));
        }
    }

    fn owner(&self, address: IpAddr) -> Option<&Sandbox> {
        owner(&self.owners, &self.world, address)
    }
}

/// See [`World::owner`].
fn owner<'a>(
    owners: &BTreeMap<IpAddr, BTreeSet<SandboxName>>,
    world: &'a World,
    address: IpAddr,
) -> Option<&'a Sandbox> {
    let mut own = own(owners, world, address);
    match (own.next(), own.next()) {
        (Some(_), Some(_)) => None,
        (Some(own), None) => Some(own),
        (None, _) => owners.get(&address)?.iter().find_map(|name| world.sandboxes.get(name)),
    }
}

/// This node's.
fn own<'a>(
    owners: &BTreeMap<IpAddr, BTreeSet<SandboxName>>,
    world: &'a World,
    address: IpAddr,
) -> impl Iterator<Item = &'a Sandbox> {
    let names = owners.get(&address).into_iter().flatten();
    names.filter_map(|name| world.sandboxes.get(name)).filter(|one| one.known.is_none())
}
