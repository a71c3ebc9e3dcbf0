//! What must never be, whatever happens.

use std::collections::BTreeSet;
use std::fmt;

use ipnet::IpNet;

use crate::protocol::{Charter, ClaimId, Hold, IncarnationId, InstanceId, Key, Memory, Phase, Record, Value};

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
    /// A request that arrives twice is done once.
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
    /// What is firm, the disks of a majority of the witnesses know.
    Unremembered,
    /// Nobody builds upon what is not firm.
    Hasty,
    /// Nobody claims a block that is claimed.
    Rival,
    /// Nobody goes back to a charter of before, or begins one.
    Backwards,
    /// Who tells in an incarnation has it on its disk,
    Unpromised,
    /// and has told all it remembers.
    Untold,
    /// When an incarnation opens, no majority is left that could acknowledge in one of before,
    Unheard,
    /// and all that was told is firm.
    Open,
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
            && matches!(law, Law::Double | Law::Taken | Law::Forgotten | Law::Unremembered | Law::Unheard);
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
        let confirmed = self.machines[at].confirmed();
        let is_excused = |id: &ClaimId| self.is_excused(at, *id);
        let excused: BTreeSet<ClaimId> = confirmed.iter().copied().filter(is_excused).collect();
        let machine = &mut self.machines[at];
        change(machine);
        let after = machine.confirmed();
        self.tally.confirmed += after.difference(&confirmed).count() as u64;
        let lost = confirmed.difference(&after).find(|id| !excused.contains(*id)).copied();
        let (known, now) = (number(&before), number(&machine.memory));
        if let Some(id) = lost {
            self.breaks(Law::Lost, || format!("n{at} loses {id}, which was confirmed"));
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
        let Some(block) = machine.memory.holdings.get(&id).map(|holding| holding.block) else { return false };
        let known = machine.memory.table.get(&block);
        let then = known.map_or(0, |record| record.epoch);
        let is_seen = known.is_some_and(|record| !record.claims.contains_key(&id));
        let view = machine.running.as_ref().and_then(|running| running.view.as_ref());
        let seen = view.and_then(|view| view.blocks.get(&block));
        let is_later = |record: &Record| record.epoch > then || record.claims.len() > 1;
        let holds = |other: &Machine| {
            other.instance() != machine.instance()
                && other.memory.holdings.values().any(|one| one.block == block && one.state == Hold::Confirmed)
        };
        is_seen
            || seen.into_iter().chain(self.store.record(&Key::Block(block))).any(is_later)
            || self.machines.iter().any(holds)
    }

    fn check_disk(&mut self, at: usize) {
        let disk = self.machines[at].disk();
        let is_saved = |id: &ClaimId| disk.holdings.get(id).is_some_and(|holding| holding.state == Hold::Confirmed);
        let unsaved = self.machines[at].confirmed().into_iter().find(|id| !is_saved(id));
        if let Some(id) = unsaved {
            self.breaks(Law::Unsaved, || format!("n{at} uses {id}, of which its disk knows nothing"));
        }
    }

    /// Claims that are in use somewhere, or were when their node was destroyed.
    fn in_use(&self) -> BTreeSet<ClaimId> {
        let kept = self.machines.iter().filter(|machine| !self.removed.contains(&machine.instance()));
        kept.flat_map(Machine::confirmed).collect()
    }

    /// Before the store does something.
    pub(crate) fn judge(&mut self, number: u64, request: &Request) {
        if !request.is_ack() && !self.done.insert(number) {
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

    fn judge_record(&mut self, key: &Key, now: &Record) {
        let taken = self.missing(key, now);
        if !taken.is_empty() {
            let in_use = self.in_use();
            if let Some(id) = taken.intersection(&in_use).next().copied() {
                self.breaks(Law::Taken, || format!("{id} is taken out of the store while it is in use"));
            }
        }
        let before = self.store.record(key);
        let is_rival = before.is_some_and(|before| {
            !before.claims.is_empty() && now.claims.keys().any(|id| !before.claims.contains_key(id))
        });
        let number = self.store.charter().map_or(0, |charter| charter.number);
        let is_hasty =
            before.is_some_and(|before| before.epoch != now.epoch && !before.sealed && before.incarnation >= number);
        let is_sealed = now.sealed && before.is_none_or(|before| !before.sealed);
        if !self.store.charter().is_some_and(Charter::is_open) {
            return;
        }
        if is_rival {
            self.breaks(Law::Rival, || format!("{key:?} is claimed twice"));
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
        let is_needless = before.id != now.id && before.witnesses == now.witnesses && !is_declared;
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

    fn missing(&self, key: &Key, now: &Record) -> BTreeSet<ClaimId> {
        let before = self.store.record(key).into_iter().flat_map(|record| record.claims.keys());
        before.filter(|id| !now.claims.contains_key(id)).copied().collect()
    }

    /// After a charter was written.
    pub(crate) fn judge_office(&mut self) {
        let Some(charter) = self.store.charter().filter(|charter| charter.is_open()) else { return };
        let (number, id, witnesses) = (charter.number, charter.id, charter.witnesses.clone());
        let unknown = self
            .store
            .records()
            .find(|(key, record)| (record.sealed || record.incarnation < number) && !self.is_remembered(key, record));
        if let Some(key) = unknown.map(|(key, _)| *key) {
            self.breaks(Law::Unremembered, || format!("{key:?} is firm, and no majority remembers it"));
        }
        self.offices.insert((number, id), witnesses);
    }

    /// After an incarnation opened. Of one that had begun before the store was set back, whoever remembers what came later
    /// begins the next.
    pub(crate) fn judge_opening(&mut self, id: IncarnationId) {
        let number = self.store.charter().map_or(0, |charter| charter.number);
        let is_open = |record: &Record| !record.sealed && record.incarnation >= number;
        let open = self.store.records().find(|(_, record)| is_open(record)).map(|(key, _)| *key);
        if let Some(key) = open {
            self.breaks(Law::Open, || format!("{number} opens, and {key:?} is not firm"));
        }
        if self.begun != Some(id) {
            return;
        }
        let known: BTreeSet<ClaimId> =
            self.store.records().flat_map(|(_, record)| record.claims.keys().copied()).collect();
        if let Some(id) = self.in_use().into_iter().find(|id| !known.contains(id)) {
            self.breaks(Law::Forgotten, || format!("the store opens without {id}, which is in use"));
        }
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

/// A later state, or of the same epoch one with all of its claims.
fn has_all_of(one: &Record, other: &Record) -> bool {
    let has_claims = || other.claims.keys().all(|id| one.claims.contains_key(id));
    one.epoch > other.epoch || one.epoch == other.epoch && has_claims()
}

fn number(memory: &Memory) -> u64 {
    memory.charter.as_ref().map_or(0, |charter| charter.number)
}
