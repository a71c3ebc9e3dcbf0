//! Tales of many steps, of what single faults seldom come to: stores that forgot each other, and who remembers what when they
//! meet.

use std::collections::BTreeSet;

use ipnet::IpNet;

use crate::laws::Fault;
use crate::machine::Machine;
use crate::protocol::{ClaimId, Hold, Key};
use crate::store::Request;
use crate::world::{LEASE, World};

/// Who has what of a block.
#[derive(Debug, Clone, Copy)]
struct Tenant {
    at: usize,
    id: ClaimId,
    block: IpNet,
    range: IpNet,
}

impl World {
    /// Some nodes go on while the others are cut off, the store is set back to before that, and others have their turn, and
    /// so on: a store that remembers now this, now that.
    pub(crate) fn fork(&mut self) -> Result<(), Fault> {
        let mut copies = vec![self.store.copy()];
        for _ in 0..2 + self.chance.below(4) {
            let few = 2 + self.chance.below(2);
            let (some, others): (Vec<usize>, Vec<usize>) =
                (0..self.machines.len()).partition(|_| self.chance.once_in(few));
            self.part(&some, &others)?;
            if self.chance.once_in(2) {
                copies.push(self.store.copy());
            }
            if self.chance.once_in(10) {
                let at = self.chance.below(self.machines.len());
                self.destroy(at);
            }
            let copy = self.chance.one(&copies).filter(|copy| self.is_within_limits(*copy));
            if let Some(copy) = copy.filter(|_| !self.chance.once_in(3)) {
                self.set_back_to(copy);
            }
        }
        if self.chance.once_in(2) {
            self.machines.iter_mut().for_each(|machine| machine.is_cut_off = false);
        }
        Ok(())
    }

    /// Pools are added, each in a store that forgot some that were before; then all meet, perhaps in one of those.
    pub(crate) fn annex(&mut self) -> Result<(), Fault> {
        let all: Vec<usize> = (0..self.machines.len()).collect();
        let mut copies = vec![self.store.copy()];
        for _ in 0..2 + self.chance.below(3) {
            let few = 2 + self.chance.below(3);
            let (others, some): (Vec<usize>, Vec<usize>) = all.iter().partition(|_| self.chance.once_in(few));
            if let Some(at) = self.chance.one(&some).filter(|_| !self.chance.once_in(4)) {
                self.grow(at);
            }
            self.part(&some, &others)?;
            if self.chance.once_in(2) {
                some.iter().for_each(|at| self.crash(*at));
            }
            copies.push(self.store.copy());
            // Mostly to before all of it.
            let copy = if self.chance.once_in(2) { copies.first().copied() } else { self.chance.one(&copies) };
            let copy = copy.filter(|copy| self.is_within_limits(*copy));
            if let Some(copy) = copy.filter(|_| !self.chance.once_in(3)) {
                self.set_back_to(copy);
            }
        }
        self.machines.iter_mut().for_each(|machine| machine.is_cut_off = false);
        let steps = self.chance.below(30 * all.len());
        self.go_on(&all, steps)
    }

    /// One change of witnesses follows the other, each known to some nodes only; then the store is set back, mostly far.
    pub(crate) fn lineage(&mut self) -> Result<(), Fault> {
        let mut copies = vec![self.store.copy()];
        for _ in 0..1 + self.chance.below(4) {
            if self.chance.once_in(4) {
                let (at, other) = (self.chance.below(self.machines.len()), self.chance.below(self.machines.len()));
                if self.chance.once_in(2) {
                    self.destroy(other);
                }
                self.remove(at);
            }
            self.some_go_on(&mut copies)?;
        }
        for _ in 0..1 + self.chance.below(3) {
            let copy = self.chance.below(copies.len()).min(self.chance.below(copies.len()));
            if self.is_within_limits(copies[copy]) {
                self.set_back_to(copies[copy]);
            }
            self.some_go_on(&mut copies)?;
        }
        Ok(())
    }

    /// Nodes claim the same blocks, each in a store that forgot the others' claims; then they meet, perhaps more than once.
    pub(crate) fn rivals(&mut self) -> Result<(), Fault> {
        let all: Vec<usize> = (0..self.machines.len()).collect();
        if self.chance.once_in(2) {
            self.set_back();
            self.until_settling(&all)?;
        }
        let mut copies = vec![self.store.copy()];
        let rounds = 2 + self.chance.below(2);
        for round in 1..=rounds {
            for at in 0..self.machines.len() {
                self.want(at, 1 + at % 2);
            }
            let (some, others): (Vec<usize>, Vec<usize>) =
                (0..self.machines.len()).partition(|_| self.chance.once_in(2));
            self.part(&some, &others)?;
            copies.push(self.store.copy());
            if self.is_within_limits(copies[0]) && round < rounds {
                self.set_back_to(copies[0]);
            }
        }
        match self.chance.below(6) {
            0 | 1 => self.destroy_one_with_claims(),
            2 => {
                let at = self.chance.below(self.machines.len());
                self.remove_living(at);
            }
            _ => {}
        }
        for _ in 0..1 + self.chance.below(3) {
            let copy = self.chance.one(&copies).filter(|copy| self.is_within_limits(*copy));
            if let Some(copy) = copy.filter(|_| self.chance.once_in(2)) {
                self.set_back_to(copy);
            }
            self.machines.iter_mut().for_each(|machine| machine.is_cut_off = false);
            let steps = self.chance.below(30 * all.len());
            self.go_on(&all, steps)?;
        }
        Ok(())
    }

    /// Nodes give up parts of their blocks, and others claim them, in stores that forgot some of it; then they meet.
    pub(crate) fn tenants(&mut self) -> Result<(), Fault> {
        let all: Vec<usize> = (0..self.machines.len()).collect();
        let mut copies = vec![self.store.copy()];
        for _ in 0..2 + self.chance.below(4) {
            for at in 0..self.machines.len() {
                let count = 1 + self.chance.below(2);
                self.want(at, count);
                if self.chance.once_in(2) {
                    self.part_one(at);
                }
            }
            let few = 2 + self.chance.below(3);
            let (others, some): (Vec<usize>, Vec<usize>) =
                (0..self.machines.len()).partition(|_| self.chance.once_in(few));
            self.part(&some, &others)?;
            copies.push(self.store.copy());
            match self.chance.below(6) {
                0 => self.destroy_one_with_claims(),
                1 => some.iter().for_each(|at| self.crash(*at)),
                _ => {}
            }
            let copy = self.chance.one(&copies).filter(|copy| self.is_within_limits(*copy));
            if let Some(copy) = copy.filter(|_| self.chance.once_in(2)) {
                self.set_back_to(copy);
            }
        }
        if self.chance.once_in(2) {
            self.fall_out(&all)?;
        }
        self.machines.iter_mut().for_each(|machine| machine.is_cut_off = false);
        let steps = self.chance.below(30 * all.len());
        self.go_on(&all, steps)
    }

    /// Two who share a block change their claims to it, each in a store that forgot what the other did.
    fn fall_out(&mut self, all: &[usize]) -> Result<(), Fault> {
        self.machines.iter_mut().for_each(|machine| machine.is_cut_off = false);
        let smallest = self.plan.pools()[0].smallest();
        for _ in 0..4 {
            let Some((one, other)) = self.neighbours(smallest) else {
                let at = self.chance.below(self.machines.len());
                self.part_one(at);
                self.go_on(all, 30 * all.len())?;
                continue;
            };
            let copy = self.store.copy();
            if !self.is_within_limits(copy) {
                return Ok(());
            }
            let (some, others): (Vec<usize>, Vec<usize>) =
                (0..self.machines.len()).partition(|at| *at == one.at || *at != other.at && self.chance.once_in(2));
            self.narrow(one.at, one.id, one.range);
            self.part(&some, &others)?;
            self.set_back_to(copy);
            if self.chance.once_in(2) && other.range.prefix_len() < smallest {
                self.narrow(other.at, other.id, other.range);
            } else {
                self.machines[other.at].wish.give_up.insert(other.id);
            }
            return self.part(&others, &some);
        }
        Ok(())
    }

    /// Two that share a block, the first of whom has a part that can be halved.
    fn neighbours(&mut self, smallest: u8) -> Option<(Tenant, Tenant)> {
        let of = |(at, machine): (usize, &Machine)| {
            let one = |(id, range): (&ClaimId, &IpNet)| Tenant {
                at,
                id: *id,
                block: machine.memory.holdings[id].block,
                range: *range,
            };
            machine.held().iter().map(one).collect::<Vec<_>>()
        };
        let alive = self.machines.iter().enumerate().filter(|(_, machine)| !machine.is_destroyed);
        let all: Vec<Tenant> = alive.flat_map(of).collect();
        let pairs = all.iter().flat_map(|one| all.iter().map(move |other| (*one, *other)));
        let is_pair = |(one, other): &(Tenant, Tenant)| {
            one.at != other.at && one.block == other.block && one.range.prefix_len() < smallest
        };
        let pairs: Vec<_> = pairs.filter(is_pair).collect();
        self.chance.one(&pairs)
    }

    /// Stops somewhere while the store is told what it forgot.
    fn until_settling(&mut self, all: &[usize]) -> Result<(), Fault> {
        self.machines.iter_mut().for_each(|machine| machine.is_cut_off = false);
        for _ in 0..30 * all.len() {
            let is_settling = self.store.charter().is_some_and(|charter| !charter.is_open());
            if is_settling && self.chance.once_in(6) {
                return Ok(());
            }
            self.go_on(all, 1)?;
        }
        Ok(())
    }

    fn destroy_one_with_claims(&mut self) {
        let claims = |at: &usize| &self.machines[*at].memory.holdings;
        let has_some = |at: &usize| !claims(at).is_empty();
        // What it asked for may be another's.
        let asks = |at: &usize| claims(at).values().any(|holding| holding.state == Hold::Pending);
        let (some, asking): (Vec<usize>, Vec<usize>) =
            ((0..self.machines.len()).filter(has_some).collect(), (0..self.machines.len()).filter(asks).collect());
        let one = self.chance.one(&asking).filter(|_| !self.chance.once_in(3));
        if let Some(at) = one.or_else(|| self.chance.one(&some)) {
            self.destroy(at);
        }
    }

    /// Some claim blocks, begin an incarnation and settle it, and the store is set back to before that. There their requests for the
    /// charter arrive once more, in their order, and others go on with what they find.
    pub(crate) fn echo(&mut self) -> Result<(), Fault> {
        let (some, others): (Vec<usize>, Vec<usize>) = (0..self.machines.len()).partition(|_| self.chance.once_in(2));
        let copy = self.store.copy();
        if !self.is_within_limits(copy) {
            return Ok(());
        }
        let mut requests = self.settled_by(&some, &others)?;
        if self.chance.once_in(4) {
            let steps = self.chance.below(20 * others.len() + 1);
            self.go_on(&others, steps)?;
        }
        self.set_back_to(copy);
        self.cut_off(&others, &some);
        if self.chance.once_in(2) {
            requests.truncate(self.chance.below(requests.len() + 1));
        }
        let few = 2 + self.chance.below(6);
        for (number, request) in requests {
            if !self.chance.once_in(8) {
                self.tally.late += u64::from(self.store.would_do(&request));
                self.commit(number, &request);
                self.check()?;
            }
            if self.chance.once_in(few) {
                self.go_on(&others, 1)?;
            }
        }
        others.iter().for_each(|at| self.want(*at, 2));
        let steps = self.chance.below(60 * others.len() + 1);
        self.go_on(&others, steps)?;
        self.machines.iter_mut().for_each(|machine| machine.is_cut_off = false);
        Ok(())
    }

    /// They go on alone, and then with others to be seen, so that there are more witnesses; what they ask for of the charter.
    fn settled_by(&mut self, some: &[usize], others: &[usize]) -> Result<Vec<(u64, Request)>, Fault> {
        self.leases.clear();
        self.cut_off(some, others);
        some.iter().for_each(|at| self.want(*at, 1));
        let mut asked: Vec<(u64, Request)> = Vec::new();
        let (alone, all) = (self.chance.below(30 * some.len() + 1), self.chance.below(60 * some.len() + 1));
        for step in 0..all {
            if step == alone {
                let until = self.now + LEASE;
                let seen = others.iter().map(|at| self.machines[*at].instance());
                self.leases.extend(seen.map(|instance| (instance, until)));
            }
            self.go_on(some, 1)?;
            let last = asked.last().map_or(0, |(number, _)| *number);
            let writes = |request: &Request| request.txn.put.iter().any(|(key, _)| *key == Key::Charter);
            let new = self.past.iter().filter(|(number, request)| *number > last && writes(request));
            asked.extend(new.cloned());
        }
        Ok(asked)
    }

    /// All witnesses are gone, and the store is set back; an operator says that nobody is to wait for them. One comes back
    /// later.
    pub(crate) fn oblivion(&mut self) -> Result<(), Fault> {
        let copy = self.store.copy();
        let all: Vec<usize> = (0..self.machines.len()).collect();
        if !self.is_within_limits(copy) {
            return Ok(());
        }
        for at in 0..self.machines.len() {
            let count = 1 + self.chance.below(2);
            self.want(at, count);
        }
        let before: BTreeSet<ClaimId> = self.machines.iter().flat_map(|machine| machine.held().into_keys()).collect();
        self.go_on(&all, 40 * all.len())?;
        let witnesses = self.store.charter().map(|charter| charter.witnesses.clone()).unwrap_or_default();
        let is_witness = |machine: &Machine| witnesses.contains(&machine.instance());
        // Best one of whom nobody waits to be told, and who has what the copy does not know.
        let has_new = |machine: &Machine| machine.held().keys().any(|id| !before.contains(id));
        let is_apart = |machine: &Machine| !is_witness(machine) && !machine.is_destroyed && has_new(machine);
        let apart: Vec<usize> = all.iter().copied().filter(|at| is_apart(&self.machines[*at])).collect();
        let any = self.chance.below(all.len());
        let late = self.chance.one(&apart).unwrap_or(any);
        self.machines[late].is_cut_off = true;
        let is_all = self.chance.once_in(2);
        for at in all.iter().filter(|at| **at != late) {
            if is_all || is_witness(&self.machines[*at]) {
                self.destroy(*at);
            }
        }
        self.set_back_to(copy);
        let rest: Vec<usize> = (0..self.machines.len()).filter(|at| *at != late).collect();
        let is_sated = self.chance.once_in(2);
        for at in &rest {
            self.abandon(*at);
            if is_sated {
                self.want(*at, 0);
            }
        }
        self.go_on(&rest, 60 * rest.len())?;
        self.machines[late].is_cut_off = false;
        Ok(())
    }

    fn some_go_on(&mut self, copies: &mut Vec<usize>) -> Result<(), Fault> {
        let (some, others): (Vec<usize>, Vec<usize>) = (0..self.machines.len()).partition(|_| !self.chance.once_in(3));
        self.part(&some, &others)?;
        if !self.chance.once_in(3) {
            copies.push(self.store.copy());
        }
        match self.chance.below(8) {
            0..=2 => some.iter().for_each(|at| self.crash(*at)),
            3 => {
                let at = self.chance.below(self.machines.len());
                self.destroy(at);
            }
            _ => {}
        }
        Ok(())
    }

    fn part(&mut self, some: &[usize], others: &[usize]) -> Result<(), Fault> {
        self.cut_off(some, others);
        let steps = if self.chance.once_in(2) { 60 * some.len() } else { self.chance.below(20 * some.len() + 1) };
        self.go_on(some, steps)
    }

    fn cut_off(&mut self, some: &[usize], others: &[usize]) {
        others.iter().for_each(|at| self.machines[*at].is_cut_off = true);
        if self.chance.once_in(2) {
            // The others have been away for long.
            self.leases.clear();
        }
        for at in some {
            self.machines[*at].is_cut_off = false;
            self.start(*at);
            self.tire(*at);
            self.renew(*at);
            if self.chance.once_in(2) {
                let count = self.chance.below(4);
                self.want(*at, count);
            }
        }
    }
}
