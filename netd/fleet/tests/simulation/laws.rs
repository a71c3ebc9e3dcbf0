//! What must never be, whatever happens.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use ipnet::IpNet;

use crate::protocol::{Charter, Claim, ClaimId, Hold, IncarnationId, InstanceId, Key, Memory, Phase, Record, Value};

use crate::machine::Machine;
use crate::store::Request;
use crate::world::World;

/// What was broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Law {
    /// No two nodes use one address.
    Double,
    /// What a node uses, its disk has as confirmed.
    Unsaved,
    /// Nobody loses a confirmed claim who did not give it up and was not removed: not from its disk,
    Lost,
    /// not from the store,
    Taken,
    /// and not in a store that was told what it may have forgotten.
    Forgotten,
    /// Nobody does anything in the store of another fleet.
    Stranger,
    /// A request that arrives twice is done once, but for one that only says who told or adopted what, or who is
    /// to seal a state: it does no harm.
    Twice,
    /// No incarnation begins for nothing.
    Needless,
    /// Once all faults have ended, it comes to rest,
    Restless,
    /// and whoever wishes a block has one, where one is free,
    Unserved,
    /// and nothing is left behind.
    Leftover,
    // What the reasons in PROTOCOL.md rest upon.
    /// What is firm, the disks of a majority of the witnesses know, and all there is when an incarnation opens.
    Unremembered,
    /// Nobody builds upon what is not firm.
    Hasty,
    /// Nobody claims what is claimed.
    Rival,
    /// A claim becomes narrower, and never wider,
    Wider,
    /// nor too small to be of use.
    Crumb,
    /// Nobody goes back to a charter of before, or begins one.
    Backwards,
    /// A pool that was added stays: on a disk, and in all that opens after it was in use.
    Poolless,
    /// Who tells in an incarnation has it on its disk,
    Unpromised,
    /// and has told all it remembers.
    Untold,
    /// When an incarnation opens, no majority is left that could acknowledge in one of before,
    Unheard,
}

/// What happened, and which law forbids it.
#[derive(Debug, Clone)]
pub(crate) struct Fault {
    pub(crate) law: Law,
    pub(crate) text: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.law, self.text)
    }
}

impl World {
    /// What was forgotten for good breaks some laws until all have met again.
    pub(crate) fn breaks(&mut self, law: Law, text: impl FnOnce() -> String) {
        let is_excused = self.is_lossy
            && matches!(
                law,
                Law::Double | Law::Taken | Law::Forgotten | Law::Unremembered | Law::Unheard | Law::Poolless
            );
        if self.fault.is_none() && !is_excused {
            self.fault = Some(Fault { law, text: text() });
        }
    }

    /// After each event.
    pub(crate) fn check(&mut self) -> Result<(), Fault> {
        self.check_uses();
        self.fault.take().map_or(Ok(()), Err)
    }

    fn check_uses(&mut self) {
        let uses = self.uses();
        for (at, (one, range)) in uses.iter().enumerate() {
            for (other, their) in &uses[at + 1..] {
                let is_removed = [*one, *other].iter().any(|at| self.removed.contains(&self.machines[*at].instance()));
                if one != other && !is_removed && (range.contains(their) || their.contains(range)) {
                    self.breaks(Law::Double, || format!("n{one} uses {range} and n{other} uses {their}"));
                }
            }
        }
    }

    /// Changes what a node remembers, and looks what becomes of its claims.
    pub(crate) fn change(&mut self, at: usize, change: impl FnOnce(&mut Machine)) {
        let before = self.machines[at].memory.clone();
        let held = self.machines[at].held();
        let is_excused = |id: &&ClaimId| self.is_excused(at, **id);
        let excused: BTreeSet<ClaimId> = held.keys().filter(is_excused).copied().collect();
        let machine = &mut self.machines[at];
        change(machine);
        machine.note_claims();
        let after = machine.held();
        let new = after.iter().filter(|(id, _)| !held.contains_key(id));
        let parts = new.clone().filter(|(id, _)| machine.memory.holdings[id].claimed.is_some()).count();
        self.tally.confirmed += new.count() as u64;
        self.tally.tenants += parts as u64;
        let is_kept = |id: &ClaimId, range: &IpNet| {
            after.get(id).is_some_and(|now| now == range || range.contains(now) && machine.kept.contains(&(*id, *now)))
        };
        let is_lost = |(id, range): &(&ClaimId, &IpNet)| !excused.contains(*id) && !is_kept(id, range);
        let lost = held.iter().find(is_lost).map(|(id, _)| *id);
        self.tally.parted +=
            held.iter().filter(|(id, range)| after.get(id).is_some_and(|now| now != *range)).count() as u64;
        let (known, now) = (number(&before), number(&machine.memory));
        let smallest = self.plan.pools()[0].smallest();
        if let Some(crumb) = after.values().find(|range| range.prefix_len() > smallest) {
            self.breaks(Law::Crumb, || format!("n{at} keeps {crumb}"));
        }
        if let Some(id) = lost {
            self.breaks(Law::Lost, || format!("n{at} loses {id}, which was confirmed, or some of it"));
        }
        if let Some(pool) = lost_pool(&before, &self.machines[at].memory) {
            self.breaks(Law::Poolless, || format!("n{at} forgets pool {pool}"));
        }
        if now < known {
            self.breaks(Law::Backwards, || format!("n{at} goes back from the charter {known}"));
        }
        self.check_disk(at);
    }

    /// Whether a claim may go: given up, taken by an operator; or, where something was forgotten for good, another's now.
    fn is_excused(&self, at: usize, id: ClaimId) -> bool {
        let machine = &self.machines[at];
        machine.wish.give_up.contains(&id)
            || self.removed.contains(&machine.instance())
            || self.is_lossy && self.is_anothers(machine, id)
    }

    fn is_anothers(&self, machine: &Machine, id: ClaimId) -> bool {
        let Some(own) = machine.memory.holdings.get(&id) else { return false };
        let block = own.block;
        let then = machine.claimed_at.get(&id).copied().unwrap_or(0);
        let known = machine.memory.table.get(&block);
        let is_seen = known.is_some_and(|record| record.epoch > then && !record.claims.contains_key(&id));
        let view = machine.running.as_ref().and_then(|running| running.view.as_ref());
        let seen = view.and_then(|view| view.blocks.get(&block));
        let is_later = |record: &Record| record.epoch > then || record.is_disputed(id);
        let meets = |range: &IpNet| range.contains(&own.range()) || own.range().contains(range);
        let holds = |other: &Machine| other.instance() != machine.instance() && other.held().values().any(&meets);
        is_seen
            || seen.into_iter().chain(self.store.record(&Key::Block(block))).any(is_later)
            || self.machines.iter().any(holds)
    }

    fn check_disk(&mut self, at: usize) {
        let disk = self.machines[at].disk();
        let is_saved = |id: &ClaimId, range: &IpNet| {
            let saved = disk.holdings.get(id).filter(|holding| holding.state == Hold::Confirmed);
            saved.is_some_and(|holding| holding.range() == *range)
        };
        let unsaved = self.machines[at].held().into_iter().find(|(id, range)| !is_saved(id, range));
        if let Some((id, _)) = unsaved {
            self.breaks(Law::Unsaved, || format!("n{at} uses {id}, of which its disk knows nothing"));
        }
    }

    /// Claims that are in use somewhere, or were when their node was destroyed, with what is used.
    fn in_use(&self) -> BTreeMap<ClaimId, IpNet> {
        let kept = self.machines.iter().filter(|machine| !self.removed.contains(&machine.instance()));
        kept.flat_map(Machine::held).collect()
    }

    /// Before the store does something.
    pub(crate) fn judge(&mut self, number: u64, request: &Request) {
        if !request.is_ack() && !self.says_again(request) && !self.done.insert(number) {
            self.breaks(Law::Twice, || format!("it does again: {}", crate::story::txn(&request.txn)));
        }
        for (key, value) in &request.txn.put {
            match value {
                Value::Record(now) => self.judge_record(key, now),
                Value::Charter(now) => self.judge_charter(request.from, now),
                Value::Ack => {}
            }
        }
    }

    fn says_again(&self, request: &Request) -> bool {
        if let [(key @ Key::Block(_), Value::Record(now))] = &request.txn.put[..] {
            let is_same = |before: &Record| Record { author: now.author, ..before.clone() } == *now;
            return self.store.record(key).is_some_and(is_same);
        }
        let [(Key::Charter, Value::Charter(now))] = &request.txn.put[..] else { return false };
        let Some(before) = self.store.charter().filter(|before| before.id == now.id) else { return false };
        let (Phase::Settling(before), Phase::Settling(now)) = (&before.phase, &now.phase) else { return false };
        let has_more = || before.merged.is_subset(&now.merged) && before.adopted.is_subset(&now.adopted);
        before.told != now.told || has_more()
    }

    fn judge_record(&mut self, key: &Key, now: &Record) {
        let taken = self.missing(key, now);
        let is_open = self.store.charter().is_some_and(Charter::is_open);
        // A claim that was lost and made again later may be missing in the states between: the opening tells.
        let is_told = !is_open && self.store.record(key).is_some_and(|before| before.epoch < now.epoch);
        if !taken.is_empty() && !is_told {
            let in_use = self.in_use();
            let is_left = |id: &ClaimId, used: &IpNet| now.claims.get(id).is_some_and(|claim| covers(claim, used));
            let gone = in_use.iter().find(|(id, used)| taken.contains(*id) && !is_left(id, used));
            if let Some(id) = gone.map(|(id, _)| *id) {
                self.breaks(Law::Taken, || format!("{id} is taken out of the store while it is in use"));
            }
        }
        let before = self.store.record(key);
        let is_rival = before.is_some_and(|before| {
            let mut new = now.claims.iter().filter(|(id, _)| !before.claims.contains_key(id));
            new.any(|(_, claim)| before.claims.values().any(|other| other.meets(claim)))
        });
        let is_wider = before.is_some_and(|before| {
            let mut known = now.claims.iter().filter_map(|(id, claim)| Some((claim, before.claims.get(id)?)));
            known.any(|(claim, before)| !is_within(claim, before))
        });
        let is_hasty = before.is_some_and(|before| before.epoch != now.epoch && !before.sealed);
        let is_sealed = now.sealed && before.is_none_or(|before| !before.sealed);
        if !is_open {
            return;
        }
        if is_rival {
            self.breaks(Law::Rival, || format!("{key:?} is claimed twice"));
        }
        if is_wider {
            self.breaks(Law::Wider, || format!("a claim of {key:?} becomes wider"));
        }
        if is_hasty {
            self.breaks(Law::Hasty, || format!("{key:?} changes before it is firm"));
        }
        if is_sealed && !self.is_remembered(key, now) {
            self.breaks(Law::Unremembered, || format!("{key:?} is sealed, and no majority remembers it"));
        }
    }

    fn judge_charter(&mut self, from: usize, now: &Charter) {
        let Some(before) = self.store.charter() else { return };
        let is_declared = self.machines.iter().any(|machine| !machine.wish.abandon.is_empty());
        let is_other = before.witnesses != now.witnesses || before.plan != now.plan;
        let is_needless = before.id != now.id && !is_other && !is_declared;
        if is_needless && self.tally.set_back == 0 {
            let number = now.number;
            self.breaks(Law::Needless, || format!("incarnation {number} begins, and nothing was forgotten"));
        }
        let Phase::Settling(settling) = &now.phase else { return };
        let disk = self.machines[from].disk();
        let has_told = |charter: &Charter| match &charter.phase {
            Phase::Open => false,
            Phase::Settling(settling) => charter.id == now.id && settling.merged.contains(&disk.instance),
        };
        if has_told(now) && !self.store.charter().is_some_and(has_told) {
            let is_promised =
                disk.charter.as_ref().is_some_and(|known| known.number > now.number || known.id == now.id);
            let is_told = |(block, known): (&IpNet, &Record)| {
                self.store.record(&Key::Block(*block)).is_some_and(|record| has_all_of(record, known))
            };
            let is_all = disk.table.iter().all(is_told);
            if !is_promised {
                self.breaks(Law::Unpromised, || format!("n{from} tells, and its disk does not know {}", now.number));
            }
            if !is_all && self.begun == Some(now.id) {
                self.breaks(Law::Untold, || format!("n{from} says that it told all; merged {:?}", settling.merged));
            }
        }
    }

    /// Of a charter that a node asks for.
    pub(crate) fn judge_wanted(&mut self, at: usize, request: &Request) {
        let known = number(&self.machines[at].memory);
        let is_back = |(_, value): &(Key, Value)| match value {
            Value::Charter(charter) => charter.number < known,
            Value::Record(_) | Value::Ack => false,
        };
        if request.txn.put.iter().any(is_back) {
            self.breaks(Law::Backwards, || format!("n{at} begins an incarnation before {known}"));
        }
    }

    fn is_remembered(&self, key: &Key, record: &Record) -> bool {
        let Key::Block(block) = key else { return true };
        let Some(charter) = self.store.charter() else { return false };
        let knows = |machine: &&Machine| machine.disk().table.get(block).is_some_and(|known| has_all_of(known, record));
        let those: BTreeSet<_> = self.machines.iter().filter(knows).map(Machine::instance).collect();
        2 * charter.witnesses.intersection(&those).count() > charter.witnesses.len()
    }

    /// Claims that are not there any more, or not as they were.
    fn missing(&self, key: &Key, now: &Record) -> BTreeSet<ClaimId> {
        let before = self.store.record(key).into_iter().flat_map(|record| &record.claims);
        let is_other = |id: &ClaimId, claim: &Claim| now.claims.get(id).is_none_or(|now| now.part != claim.part);
        before.filter(|(id, claim)| is_other(id, claim)).map(|(id, _)| *id).collect()
    }

    /// After a charter was written.
    pub(crate) fn judge_office(&mut self) {
        let Some(charter) = self.store.charter().filter(|charter| charter.is_open()) else { return };
        let (number, id, witnesses) = (charter.number, charter.id, charter.witnesses.clone());
        let unknown = self.store.records().find(|(key, record)| record.sealed && !self.is_remembered(key, record));
        if let Some(key) = unknown.map(|(key, _)| *key) {
            self.breaks(Law::Unremembered, || format!("{key:?} is firm, and no majority remembers it"));
        }
        self.offices.insert((number, id), witnesses);
    }

    /// Whoever had a block of a pool that is not there any more would go on with addresses that a pool added later may have.
    fn judge_pools(&mut self) {
        let Some(now) = self.store.charter().map(pools) else { return };
        if let Some(pool) = self.grown.difference(&now).next().cloned() {
            self.breaks(Law::Poolless, || format!("the store opens without pool {pool}"));
        }
        self.tally.grown += u64::from(!self.grown.is_empty() && !self.grown.is_superset(&now));
        self.grown.extend(now);
    }

    /// After an incarnation opened. Of one that had begun before the store was set back, whoever remembers what came later
    /// begins the next.
    pub(crate) fn judge_opening(&mut self, id: IncarnationId) {
        if self.begun != Some(id) {
            return;
        }
        let unknown = self.store.records().find(|(key, record)| !self.is_remembered(key, record));
        if let Some(key) = unknown.map(|(key, _)| *key) {
            self.breaks(Law::Unremembered, || format!("the store opens, and no majority remembers {key:?}"));
        }
        let known: BTreeMap<ClaimId, Claim> =
            self.store.records().flat_map(|(_, record)| record.claims.clone()).collect();
        let is_there = |id: &ClaimId, used: &IpNet| known.get(id).is_some_and(|claim| covers(claim, used));
        if let Some((id, _)) = self.in_use().into_iter().find(|(id, used)| !is_there(id, used)) {
            self.breaks(Law::Forgotten, || format!("the store opens without {id}, which is in use"));
        }
        self.judge_pools();
        let opened = self.store.charter().map_or(0, |charter| charter.number);
        let abandoned: BTreeSet<_> =
            self.machines.iter().flat_map(|machine| machine.wish.abandon.iter().copied()).collect();
        let may_acknowledge = |(before, witnesses): (u64, &BTreeSet<InstanceId>)| {
            let has_left =
                |machine: &&Machine| machine.disk().charter.as_ref().is_some_and(|charter| charter.number > before);
            let left = self.machines.iter().filter(has_left).map(Machine::instance);
            let silent: BTreeSet<_> = left.chain(abandoned.iter().copied()).collect();
            2 * witnesses.difference(&silent).count() > witnesses.len()
        };
        let before = self.offices.iter().map(|((number, _), witnesses)| (*number, witnesses));
        let unheard = before.filter(|(number, _)| *number < opened).find(|office| may_acknowledge(*office));
        if let Some(number) = unheard.map(|(number, _)| number) {
            self.breaks(Law::Unheard, || format!("{opened} opens, and {number} has a majority still"));
        }
    }
}

fn pools(charter: &Charter) -> BTreeSet<String> {
    let pools = charter.plan.pools().iter();
    pools.map(|pool| format!("{} ({}, blocks of /{})", pool.name, pool.range, pool.block)).collect()
}

fn lost_pool(before: &Memory, after: &Memory) -> Option<String> {
    let [before, after] = [before, after].map(|memory| memory.charter.as_ref().map(pools).unwrap_or_default());
    before.difference(&after).next().cloned()
}

/// A later state, or of the same epoch one with all of its claims.
fn has_all_of(one: &Record, other: &Record) -> bool {
    let has_claims =
        || other.claims.iter().all(|(id, claim)| one.claims.get(id).is_some_and(|own| is_within(own, claim)));
    one.epoch > other.epoch || one.epoch == other.epoch && has_claims()
}

/// Whether a claim is one to all of this range, which is of its block.
fn covers(claim: &Claim, range: &IpNet) -> bool {
    claim.part.is_none_or(|part| part.contains(range))
}

fn is_within(inner: &Claim, outer: &Claim) -> bool {
    outer.part.is_none_or(|outer| inner.part.is_some_and(|inner| outer.contains(&inner)))
}

fn number(memory: &Memory) -> u64 {
    memory.charter.as_ref().map_or(0, |charter| charter.number)
}
