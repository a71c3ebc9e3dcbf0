//! What goes wrong, and what operators do.

use std::collections::BTreeSet;

use ipnet::IpNet;

use crate::protocol::{
    Charter, ClaimId, FleetId, Hold, IncarnationId, InstanceId, Key, Phase, Record, Value, View, decide,
};

use crate::chance::Chance;
use crate::laws::{Fault, Law};
use crate::machine::Work;
use crate::schedule::Event;
use crate::store::Request;
use crate::world::{MOST_MACHINES, Message, POOL, World};

impl World {
    /// All goes well for some nodes, for a while.
    pub(crate) fn calm(&mut self) -> Result<(), Fault> {
        let some: Vec<usize> = (0..self.machines.len()).filter(|_| !self.chance.once_in(4)).collect();
        let steps = self.chance.below(40 * some.len() + 1);
        self.go_on(&some, steps)
    }

    pub(crate) fn dawn(&mut self) -> Result<(), Fault> {
        let all: Vec<usize> = (0..self.machines.len()).collect();
        let steps = self.chance.below(60 * all.len());
        self.go_on(&all, steps)
    }

    pub(crate) fn go_on(&mut self, some: &[usize], steps: usize) -> Result<(), Fault> {
        for _ in 0..steps {
            let Some(at) = self.chance.one(some) else { return Ok(()) };
            match self.chance.below(61) {
                0 => self.wish(at),
                60 => self.part_one(at),
                1..=3 => self.write(at),
                4..=7 => drop(self.decide_one(at)),
                8..=10 => self.hear_some(at),
                11..=14 => self.deliver(),
                _ => self.advance(at),
            }
            self.check()?;
        }
        Ok(())
    }

    pub(crate) fn want(&mut self, at: usize, count: usize) {
        self.want_of(at, POOL, count);
    }

    fn want_of(&mut self, at: usize, pool: &str, count: usize) {
        let machine = &mut self.machines[at];
        machine.wish.blocks.insert(pool.to_owned(), count);
        let most = machine.most.entry(pool.to_owned()).or_default();
        *most = count.max(*most);
    }

    /// An operator adds a pool by this node, and some nodes use it as soon as they can.
    pub(crate) fn grow(&mut self, at: usize) {
        let pool = self.spare[self.chance.below(self.spare.len())].clone();
        for other in 0..self.machines.len() {
            if other == at || self.chance.once_in(2) {
                let count = 1 + self.chance.below(2);
                self.want_of(other, &pool.name, count);
            }
        }
        self.machines[at].wish.add.push(pool);
    }

    pub(crate) fn disturb(&mut self, event: Event) {
        if self.messages.is_empty() {
            return;
        }
        let at = self.chance.below(self.messages.len());
        if event == Event::Lose {
            self.messages.swap_remove(at);
        } else if matches!(self.messages[at], Message::Ask { .. }) {
            self.messages.push(self.messages[at].clone());
        }
    }

    /// A request of before arrives once more, whoever sent it; mostly one that the store would do.
    pub(crate) fn late(&mut self) {
        let would_do = |(_, request): &&(u64, Request)| !request.is_ack() && self.store.would_do(request);
        let mut some: Vec<(u64, Request)> = self.past.iter().filter(would_do).cloned().collect();
        if some.is_empty() || self.chance.once_in(4) {
            some = self.past.iter().cloned().collect();
        }
        if some.is_empty() {
            return;
        }
        let (number, request) = some.swap_remove(self.chance.below(some.len()));
        self.tally.late += u64::from(self.store.would_do(&request));
        self.commit(number, &request);
    }

    /// Waits no longer for an answer, and sees anew what there is; its watch may have been lost just so.
    pub(crate) fn tire(&mut self, at: usize) {
        let Some(running) = &mut self.machines[at].running else { return };
        if matches!(running.work, Work::Awaiting(_) | Work::Idle) {
            running.work = Work::Idle;
            running.view = None;
        }
    }

    /// Mostly while something is being written to disk.
    pub(crate) fn crash_one(&mut self, at: usize) {
        let saving: Vec<usize> = (0..self.machines.len()).filter(|at| self.machines[*at].is_saving()).collect();
        let at = self.chance.one(&saving).filter(|_| !self.chance.once_in(4)).unwrap_or(at);
        self.crash(at);
    }

    pub(crate) fn crash(&mut self, at: usize) {
        let is_written = self.chance.once_in(2);
        self.change(at, |machine| machine.crash(is_written));
    }

    /// Often one that wrote what nobody has sealed yet.
    pub(crate) fn destroy_one(&mut self, at: usize) {
        let wrote = |at: &usize| {
            let is_its = |record: &Record| !record.sealed && record.author == self.machines[*at].instance();
            !self.machines[*at].is_destroyed && self.store.records().any(|(_, record)| is_its(record))
        };
        let authors: Vec<usize> = (0..self.machines.len()).filter(wrote).collect();
        let at = self.chance.one(&authors).filter(|_| self.chance.once_in(2)).unwrap_or(at);
        self.destroy(at);
    }

    /// The node is gone, its disk and its sandboxes with it; sometimes another is built under its name.
    pub(crate) fn destroy(&mut self, at: usize) {
        if self.machines[at].is_destroyed {
            return;
        }
        self.crash(at);
        self.machines[at].is_destroyed = true;
        if self.can_add() && !self.chance.once_in(3) {
            let name = self.machines[at].memory.name.to_string();
            self.add(&name);
        }
    }

    /// Another is built under its name, while it lives on somewhere.
    pub(crate) fn replace(&mut self, at: usize) {
        if !self.can_add() || self.machines[at].is_destroyed {
            return;
        }
        self.machines[at].is_cut_off = true;
        let name = self.machines[at].memory.name.to_string();
        self.add(&name);
        let last = self.machines.len() - 1;
        self.machines[last].memory.instance = self.driver.identity(&self.machines[at], &self.machines[last]);
    }

    /// A fresh node that finds an emptied store first is beyond the limits.
    fn can_add(&self) -> bool {
        self.machines.len() < MOST_MACHINES && (self.store.charter().is_some() || self.store.reign == 0)
    }

    pub(crate) fn set_back(&mut self) {
        if self.store.copies() == 0 {
            return;
        }
        // Mostly a late one: an early one knows little.
        let late = self.store.copies().saturating_sub(1 + self.chance.below(3));
        let any = self.chance.below(self.store.copies());
        let copy = if self.chance.once_in(3) { any } else { late };
        if !self.is_within_limits(copy) {
            return;
        }
        self.set_back_to(copy);
    }

    pub(crate) fn set_back_to(&mut self, copy: usize) {
        self.store.set_back(copy);
        self.note_set_back();
    }

    fn note_set_back(&mut self) {
        self.tally.set_back += 1;
        self.begun = None;
        self.done.clear();
        self.note_loss();
        self.tell(|| "      the store was set back".to_owned());
        let is_known =
            |block, id: &ClaimId| self.store.record(&Key::Block(block)).is_some_and(|one| one.claims.contains_key(id));
        let used = self.machines.iter().flat_map(|machine| &machine.memory.holdings);
        let forgotten =
            used.filter(|(id, holding)| holding.state == Hold::Confirmed && !is_known(holding.block, id)).count();
        self.tally.forgotten += u64::from(forgotten > 0);
    }

    /// A copy from before the fleet was founded, or of another founding, names nobody who could remember.
    pub(crate) fn is_within_limits(&self, copy: usize) -> bool {
        self.store.charter_of_copy(copy).is_some()
    }

    /// Nothing is left in the store; only those find it who know the fleet.
    pub(crate) fn empty(&mut self) {
        let Some(fleet) = self.store.charter().map(|charter| charter.fleet) else { return };
        let knows = |at: usize| self.machines[at].disk().charter.as_ref().is_some_and(|charter| charter.fleet == fleet);
        if !(0..self.machines.len()).all(|at| self.machines[at].is_destroyed || knows(at)) {
            return;
        }
        let founds = |(key, value): &(Key, Value)| match value {
            Value::Charter(charter) => *key == Key::Charter && charter.fleet != fleet,
            Value::Record(_) | Value::Ack => false,
        };
        self.past.retain(|(_, request)| !request.txn.put.iter().any(founds));
        self.messages.retain(|message| match message {
            Message::Ask { request, .. } => !request.txn.put.iter().any(founds),
            Message::Answer { .. } | Message::List { .. } | Message::Listed { .. } => true,
        });
        self.store.empty();
        self.note_set_back();
    }

    pub(crate) fn wish(&mut self, at: usize) {
        let count = self.chance.below(4);
        let give_up = self.chance.once_in(2);
        self.want(at, count);
        let machine = &mut self.machines[at];
        let held: Vec<ClaimId> = machine.memory.holdings.keys().copied().collect();
        if let Some(id) = self.chance.one(&held).filter(|_| give_up) {
            machine.wish.give_up.insert(id);
            machine.wish.blocks.values_mut().for_each(|count| *count = 0);
        }
    }

    /// It is to keep a half of what it holds.
    pub(crate) fn part_one(&mut self, at: usize) {
        let held: Vec<(ClaimId, IpNet)> = self.machines[at].held().into_iter().collect();
        let Some((id, range)) = self.chance.one(&held).filter(|(_, range)| range.prefix_len() < 32) else { return };
        self.narrow(at, id, range);
    }

    pub(crate) fn narrow(&mut self, at: usize, id: ClaimId, range: IpNet) {
        let halves: Vec<IpNet> = range.subnets(range.prefix_len() + 1).unwrap().collect();
        let half = halves[self.chance.below(halves.len())];
        let machine = &mut self.machines[at];
        machine.kept.insert((id, half));
        machine.wish.keep.insert(id, half);
    }

    /// Nodes that are gone, and of which nobody else has the identity.
    pub(crate) fn gone(&self) -> BTreeSet<InstanceId> {
        let gone = self.machines.iter().filter(|machine| machine.is_destroyed).map(|machine| machine.instance());
        gone.filter(|one| self.is_alone(*one)).collect()
    }

    fn is_alone(&self, instance: InstanceId) -> bool {
        self.machines.iter().filter(|machine| machine.instance() == instance).count() == 1
    }

    /// An operator removes nodes that are destroyed, by telling another.
    pub(crate) fn remove(&mut self, at: usize) {
        let gone = self.gone();
        self.removed.extend(&gone);
        self.machines[at].wish.remove.extend(gone);
    }

    /// An operator takes a node for gone that lives.
    pub(crate) fn remove_living(&mut self, at: usize) {
        let other = self.chance.below(self.machines.len());
        let instance = self.machines[other].instance();
        if other != at && self.is_alone(instance) {
            self.removed.insert(instance);
            self.machines[at].wish.remove.insert(instance);
        }
    }

    /// An operator says that the memory of destroyed witnesses is not to be waited for.
    pub(crate) fn abandon(&mut self, at: usize) {
        let gone = self.gone();
        self.machines[at].wish.abandon.extend(gone);
        self.note_loss();
    }

    /// What only those knew who are declared gone, a store that was set back has forgotten: unless any majority of the witnesses
    /// has a node in common with any majority of the rest.
    fn note_loss(&mut self) {
        let declared = self.machines.iter().flat_map(|machine| machine.wish.abandon.iter().copied());
        let abandoned: BTreeSet<InstanceId> = declared.collect();
        let is_lost = |set: &BTreeSet<InstanceId>| {
            let gone = set.intersection(&abandoned).count();
            let rest = set.len() - gone;
            gone > 0 && (rest == 0 || (set.len() / 2 + 1).saturating_sub(gone) + rest / 2 < rest)
        };
        let known =
            self.machines.iter().filter_map(|machine| machine.memory.charter.as_ref()).chain(self.store.charter());
        let is_any = known.flat_map(asked).chain(self.offices.values().cloned()).any(|set| is_lost(&set));
        self.is_lossy |= self.tally.set_back > 0 && is_any;
    }

    /// The clock of a node, or of the store.
    pub(crate) fn jump(&mut self, at: usize) {
        let by = i64::try_from(self.chance.below(400)).unwrap() - 200;
        if self.chance.once_in(2) {
            self.machines[at].offset += by;
        } else {
            self.leases.values_mut().for_each(|until| *until += by);
        }
    }

    pub(crate) fn expire(&mut self, at: usize) {
        let instance = self.machines[at].instance();
        let is_over = self.leases.get(&instance).is_none_or(|until| *until < self.now);
        if is_over {
            self.leases.remove(&instance);
            self.driver.expire(&mut self.store, instance);
        }
    }

    /// It is shown the store of another fleet for a moment, and must do nothing there.
    pub(crate) fn stray(&mut self, at: usize) {
        let machine = &self.machines[at];
        let Some(charter) = machine.memory.charter.as_ref().filter(|_| machine.running.is_some()) else { return };
        let view = View { charter: Some(foreign(charter, &mut self.chance)), ..View::default() };
        let action = decide(&machine.memory, &view, &machine.wish, self.chance.wide());
        if let Some(action) = action {
            self.breaks(Law::Stranger, || format!("n{at} does something in the store of another fleet: {action:?}"));
        }
    }
}

fn asked(charter: &Charter) -> BTreeSet<BTreeSet<InstanceId>> {
    let mut sets = match &charter.phase {
        Phase::Open => BTreeSet::new(),
        Phase::Settling(settling) => settling.need.clone(),
    };
    sets.insert(charter.witnesses.clone());
    sets
}

fn foreign(known: &Charter, chance: &mut Chance) -> Charter {
    let witness = InstanceId::new(chance.wide());
    Charter {
        fleet: FleetId::new(chance.wide()),
        number: (known.number + 1).saturating_sub(u64::try_from(chance.below(3)).unwrap()),
        id: IncarnationId::new(chance.wide()),
        witnesses: BTreeSet::from([witness]),
        ..known.clone()
    }
}
