//! All faults end: whoever lives gets what it wants, and then nobody has anything left to do. First without an operator, then
//! with one who says which nodes are gone.

use std::collections::BTreeSet;

use crate::protocol::{Charter, Hold, InstanceId, Key, Phase, Plan, Pool, Record, WITNESSES};
use ipnet::IpNet;

use crate::laws::{Fault, Law};
use crate::machine::Machine;
use crate::world::World;

/// Every node has one turn in each. The most that was ever needed is in the tally.
const ROUNDS: u64 = 200;

impl World {
    /// # Errors
    /// What does not come to rest, or is left behind.
    pub(crate) fn heal(&mut self) -> Result<(), Fault> {
        let disputes = self.store.records().filter(|(_, record)| is_disputed(record)).count();
        self.tally.disputes += disputes as u64;
        self.tell(|| "all faults end".to_owned());
        for at in 0..self.machines.len() {
            self.machines[at].is_cut_off = false;
            self.start(at);
        }
        self.meet_all();
        if self.comes_to_rest()? && !self.is_split() {
            self.is_served(|world, record| world.is_left_behind(record))?;
            self.is_undisputed()?;
        }
        if !self.operate() || !self.comes_to_rest()? || self.member().is_none() || self.is_split() {
            return Ok(());
        }
        self.tally.settled_down += 1;
        self.is_served(|_, _| false)?;
        self.is_clean()?;
        // Whoever was removed and lives has heard of it by now, and a dispute of what was forgotten is over.
        self.removed.clear();
        self.is_lossy = false;
        self.check()
    }

    /// Only who lives is there.
    fn meet_all(&mut self) {
        self.leases.clear();
        (0..self.machines.len()).for_each(|at| self.renew(at));
        let present: BTreeSet<InstanceId> = self.leases.keys().copied().collect();
        self.machines.iter_mut().for_each(|machine| machine.wish.present.clone_from(&present));
    }

    /// An operator says who is gone; and, where no store forgot anything, that nobody is to wait for them. Whether there is a
    /// node to say it to.
    fn operate(&mut self) -> bool {
        self.tell(|| "an operator removes who is gone".to_owned());
        let Some(at) = self.member() else { return false };
        self.remove(at);
        if self.tally.set_back == 0 || self.is_lossy {
            self.abandon(at);
        }
        true
    }

    /// A node that lives and was not removed.
    fn member(&self) -> Option<usize> {
        let removed = self.store.charter().map(|charter| charter.removed.clone()).unwrap_or_default();
        self.machines.iter().position(|machine| !machine.is_destroyed && !removed.contains(&machine.instance()))
    }

    /// Whether it could: with enough witnesses.
    fn comes_to_rest(&mut self) -> Result<bool, Fault> {
        if !self.is_stuck() {
            self.rest()?;
        }
        Ok(!self.is_stuck())
    }

    fn rest(&mut self) -> Result<(), Fault> {
        for round in 0..ROUNDS {
            let mut acted = false;
            for at in 0..self.machines.len() {
                self.now += 1;
                acted |= self.advance_one(at);
                while let Some(message) = self.messages.pop() {
                    acted = true;
                    self.take(message);
                }
                acted |= self.wake(at);
                self.check()?;
            }
            if !acted {
                self.tally.rounds = self.tally.rounds.max(round);
                return Ok(());
            }
        }
        if self.is_stuck() { Ok(()) } else { Err(self.unrest()) }
    }

    /// Nobody waits for ever for an answer.
    fn wake(&mut self, at: usize) -> bool {
        let waits = self.machines[at].running.is_some() && !self.machines[at].is_idle();
        if waits && !self.machines[at].is_saving() {
            self.tire(at);
        }
        waits
    }

    fn unrest(&self) -> Fault {
        let next = |machine: &Machine| format!("{}: {:?}", machine.instance(), machine.decide(1));
        let next: Vec<String> = self.machines.iter().filter(|machine| !machine.is_destroyed).map(next).collect();
        Fault { law: Law::Restless, text: format!("it does not come to rest; next would be {}", next.join("\n")) }
    }

    /// Too few witnesses are left of those that the store, or a node that lives, has to ask.
    fn is_stuck(&self) -> bool {
        let alive: Vec<&Machine> = self.machines.iter().filter(|machine| !machine.is_destroyed).collect();
        let instances: BTreeSet<InstanceId> = alive.iter().map(|machine| machine.instance()).collect();
        let abandoned: BTreeSet<InstanceId> =
            alive.iter().flat_map(|machine| machine.wish.abandon.iter().copied()).collect();
        let answers = |set: &BTreeSet<InstanceId>| {
            let asked: BTreeSet<InstanceId> = set.difference(&abandoned).copied().collect();
            asked.is_empty() || 2 * asked.intersection(&instances).count() > asked.len()
        };
        let is_answered = |charter: &Charter| {
            let told = match &charter.phase {
                Phase::Open => true,
                Phase::Settling(settling) => settling.need.iter().all(answers),
            };
            told && answers(&charter.witnesses)
        };
        let mut known = alive.iter().filter_map(|machine| machine.memory.charter.as_ref()).chain(self.store.charter());
        alive.is_empty() || !known.all(is_answered)
    }

    /// Pools that do not fit together were added in stores that forgot each other. Who knows one of them does nothing in the
    /// store of another, until an operator removes it.
    fn is_split(&self) -> bool {
        let alive = self.machines.iter().filter(|machine| !machine.is_destroyed);
        let known = alive.filter_map(|machine| machine.memory.charter.as_ref()).chain(self.store.charter());
        let all = known.map(|charter| &charter.plan).try_fold(Plan::default(), |all, plan| all.united(plan));
        all.is_err()
    }

    /// There could be more of them.
    fn lacks_witnesses(&self, charter: &Charter) -> bool {
        let is_free = |machine: &&Machine| {
            let instance = machine.instance();
            !machine.is_destroyed && ![&charter.removed, &charter.witnesses].iter().any(|set| set.contains(&instance))
        };
        let free = self.machines.iter().filter(is_free).count();
        let more = 2 - (charter.witnesses.len() + 1) % 2;
        free >= more && charter.witnesses.len() + more <= WITNESSES
    }

    fn is_served(&self, is_left: impl Fn(&Self, &Record) -> bool) -> Result<(), Fault> {
        let pools = self.store.charter().map(|charter| charter.plan.pools().to_vec()).unwrap_or_default();
        pools.iter().try_for_each(|pool| self.is_served_of(pool, &is_left))
    }

    fn is_served_of(&self, pool: &Pool, is_left: &impl Fn(&Self, &Record) -> bool) -> Result<(), Fault> {
        let is_free = |block: &IpNet| {
            let record = self.store.record(&Key::Block(*block));
            record.is_none_or(|record| !record.free(*block).is_empty() && !is_left(self, record))
        };
        let free = pool.range.subnets(pool.block).unwrap().filter(is_free).count();
        let is_part = |machine: &Machine| machine.running.is_some() && !self.removed.contains(&machine.instance());
        for (at, machine) in self.machines.iter().enumerate().filter(|(_, machine)| is_part(machine)) {
            let held = machine.confirmed_in(pool);
            let wanted = machine.wish.blocks.get(&pool.name).copied().unwrap_or(0);
            if held < wanted && free > 0 {
                let text = format!("n{at} wants {wanted} blocks of {} and has {held}, and {free} are free", pool.name);
                return Err(Fault { law: Law::Unserved, text });
            }
        }
        Ok(())
    }

    /// Whoever lives and has a block confirmed has no rival left.
    fn is_undisputed(&self) -> Result<(), Fault> {
        let alive = self.machines.iter().filter(|machine| !machine.is_destroyed);
        let confirmed: BTreeSet<_> = alive.flat_map(Machine::confirmed).collect();
        let is_contested =
            |record: &Record| record.claims.keys().any(|id| confirmed.contains(id) && record.is_disputed(*id));
        match self.store.records().find(|(_, record)| is_contested(record)) {
            Some((key, _)) => Err(Fault { law: Law::Leftover, text: format!("{key:?} is in dispute") }),
            None => Ok(()),
        }
    }

    /// Freed by a node that is gone, and not removed: nobody seals it.
    fn is_left_behind(&self, record: &Record) -> bool {
        let is_old = self.store.charter().is_some_and(|charter| record.incarnation < charter.number);
        !(record.sealed || is_old)
            && self.machines.iter().any(|machine| machine.is_destroyed && machine.instance() == record.author)
    }

    /// What the store says is what the nodes hold, and nothing else.
    fn is_clean(&self) -> Result<(), Fault> {
        let left = |text: String| Err(Fault { law: Law::Leftover, text });
        let parts = |record: &Record| record.claims.iter().map(|(id, claim)| (*id, claim.part)).collect::<Vec<_>>();
        let claimed: BTreeSet<_> = self.store.records().flat_map(|(_, record)| parts(record)).collect();
        let alive = self.machines.iter().filter(|machine| !machine.is_destroyed);
        let holdings: Vec<_> = alive.flat_map(|machine| &machine.memory.holdings).collect();
        let held: BTreeSet<_> = holdings.iter().map(|(id, holding)| (**id, holding.part)).collect();
        if let Some((id, _)) = holdings.iter().find(|(_, holding)| holding.state != Hold::Confirmed) {
            return left(format!("{id} is neither confirmed nor given up"));
        }
        if claimed != held {
            return left(format!("the store knows {claimed:?}, and the nodes hold {held:?}"));
        }
        if let Some((key, _)) = self.store.records().find(|(_, record)| is_disputed(record)) {
            return left(format!("{key:?} is in dispute"));
        }
        let dead = self.store.charter().filter(|charter| {
            let stay = charter.witnesses.difference(&charter.removed).count();
            stay > 0 && stay < charter.witnesses.len()
        });
        if let Some(dead) = dead {
            return left(format!("one of {:?} is removed, and witnesses still", dead.witnesses));
        }
        let pools = self.store.charter().map(|charter| charter.plan.pools().to_vec()).unwrap_or_default();
        let most = |machine: &Machine, pool: &Pool| machine.most.get(&pool.name).copied().unwrap_or(0);
        let has_more = |machine: &&Machine| pools.iter().any(|pool| machine.confirmed_in(pool) > most(machine, pool));
        if let Some(machine) = self.machines.iter().find(has_more) {
            return left(format!("{} has more blocks than it ever wished", machine.instance()));
        }
        if let Some(charter) = self.store.charter().filter(|charter| self.lacks_witnesses(charter)) {
            return left(format!("{:?} are too few witnesses", charter.witnesses));
        }
        let gone = self.gone();
        let is_swept = |key: &&Key| !matches!(key, Key::Ack(ack) if !gone.contains(&ack.witness));
        match self.store.content().keys().find(|key| !is_swept(key)) {
            Some(key) => left(format!("nobody waits for {key:?}")),
            None => Ok(()),
        }
    }
}

fn is_disputed(record: &Record) -> bool {
    record.claims.keys().any(|id| record.is_disputed(*id))
}
