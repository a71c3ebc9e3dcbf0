//! A fleet in one thread: what a schedule says happens, one event after the other. What must never be is `laws`'.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::protocol::{Action, IncarnationId, InstanceId, Key, Memory, NodeName, Plan, Pool, Wish};
use ipnet::IpNet;

use crate::chance::Chance;
use crate::driver::Driver;
use crate::laws::Fault;
use crate::machine::{Machine, Running, Work};
use crate::schedule::{Event, Schedule, Step};
use crate::store::{Change, Content, Request, Store};

pub(crate) const POOL: &str = "pool";
pub(crate) const MOST_MACHINES: usize = 8;
pub(crate) const LEASE: i64 = 60;
/// Requests of before, any of which may arrive once more.
const PAST: usize = 40;

#[derive(Debug, Clone)]
pub(crate) enum Message {
    Ask { from: usize, number: u64, request: Request },
    Answer { to: usize, number: u64 },
    List { from: usize, number: u64 },
    Listed { to: usize, number: u64, content: Content, revision: u64, reign: u64 },
}

impl Message {
    fn number(&self) -> u64 {
        match self {
            Self::Ask { number, .. }
            | Self::Answer { number, .. }
            | Self::List { number, .. }
            | Self::Listed { number, .. } => *number,
        }
    }
}

/// What happened in one schedule, or in many.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) schedules: u64,
    pub(crate) events: u64,
    pub(crate) confirmed: u64,
    pub(crate) set_back: u64,
    /// Stores set back that forgot something in use.
    pub(crate) forgotten: u64,
    pub(crate) settled: u64,
    pub(crate) disputes: u64,
    pub(crate) late: u64,
    /// Claims that became narrower, and claims to parts that were confirmed.
    pub(crate) parted: u64,
    pub(crate) tenants: u64,
    /// Incarnations that opened with a pool more.
    pub(crate) grown: u64,
    pub(crate) settled_down: u64,
    /// Rounds until nobody had anything left to do, at most.
    pub(crate) rounds: u64,
}

impl Tally {
    pub(crate) fn add(&mut self, other: &Self) {
        self.schedules += other.schedules;
        self.events += other.events;
        self.confirmed += other.confirmed;
        self.set_back += other.set_back;
        self.forgotten += other.forgotten;
        self.settled += other.settled;
        self.disputes += other.disputes;
        self.late += other.late;
        self.parted += other.parted;
        self.tenants += other.tenants;
        self.grown += other.grown;
        self.settled_down += other.settled_down;
        self.rounds = self.rounds.max(other.rounds);
    }
}

pub(crate) struct World {
    pub(crate) driver: Driver,
    pub(crate) chance: Chance,
    pub(crate) plan: Plan,
    /// Pools that may be added. Not all of them fit together, in some worlds.
    pub(crate) spare: Vec<Pool>,
    /// Pools of all incarnations that ever opened.
    pub(crate) grown: BTreeSet<String>,
    pub(crate) store: Store,
    pub(crate) machines: Vec<Machine>,
    pub(crate) messages: Vec<Message>,
    pub(crate) past: VecDeque<(u64, Request)>,
    /// Requests that this store did.
    pub(crate) done: BTreeSet<u64>,
    /// By the store's clock.
    pub(crate) leases: BTreeMap<InstanceId, i64>,
    pub(crate) removed: BTreeSet<InstanceId>,
    /// The incarnation that began since the store was last set back.
    pub(crate) begun: Option<IncarnationId>,
    incarnations: BTreeSet<IncarnationId>,
    /// The witnesses of every incarnation that was ever open.
    pub(crate) offices: BTreeMap<(u64, IncarnationId), BTreeSet<InstanceId>>,
    /// Something may have been forgotten for good.
    pub(crate) is_lossy: bool,
    pub(crate) now: i64,
    number: u64,
    /// The first law that was broken where no result can be returned.
    pub(crate) fault: Option<Fault>,
    pub(crate) tally: Tally,
    pub(crate) story: Option<Vec<String>>,
    /// Of all that happened.
    pub(crate) digest: u64,
}

impl World {
    pub(crate) fn new(salt: u64, driver: Driver, is_told: bool) -> Self {
        let mut chance = Chance::new(salt);
        let count = [2, 3, 3, 4, 5, 5][chance.below(6)];
        let plan = plan([28, 27, 27, 26][chance.below(4)]);
        let spare = spare(chance.once_in(2));
        let mut world = Self {
            driver,
            chance,
            plan,
            spare,
            grown: BTreeSet::new(),
            store: Store::default(),
            machines: Vec::new(),
            messages: Vec::new(),
            past: VecDeque::new(),
            done: BTreeSet::new(),
            leases: BTreeMap::new(),
            removed: BTreeSet::new(),
            begun: None,
            incarnations: BTreeSet::new(),
            offices: BTreeMap::new(),
            is_lossy: false,
            now: 0,
            number: 0,
            fault: None,
            tally: Tally { schedules: 1, ..Tally::default() },
            story: is_told.then(Vec::new),
            digest: 0,
        };
        (0..count).for_each(|at| world.add(&format!("n{at}")));
        world
    }

    pub(crate) fn add(&mut self, name: &str) {
        let instance = InstanceId::new(self.chance.wide());
        let blocks = BTreeMap::from([(POOL.to_owned(), self.chance.below(3))]);
        let wish = Wish { plan: Some(self.plan.clone()), blocks, ..Wish::default() };
        self.machines.push(Machine::new(Memory::new(instance, NodeName::new(name).unwrap()), wish));
        self.renew(self.machines.len() - 1);
    }

    /// Does all of it, and lets it come to rest.
    ///
    /// # Errors
    /// The first law that was broken.
    pub(crate) fn play(&mut self, schedule: &Schedule) -> Result<(), Fault> {
        schedule.steps.iter().try_for_each(|step| self.happen(*step))?;
        self.chance = Chance::new(schedule.salt);
        self.heal()
    }

    fn happen(&mut self, Step { event, salt }: Step) -> Result<(), Fault> {
        self.chance = Chance::new(salt);
        self.now += 1;
        self.tally.events += 1;
        let at = self.chance.below(self.machines.len());
        self.tell(|| format!("{event:?} n{at}"));
        match event {
            Event::Dawn => self.dawn()?,
            Event::Decide => self.decide(at),
            Event::Deliver => self.deliver(),
            Event::Hear => self.hear_some(at),
            Event::Write => self.write(at),
            Event::Renew => self.renew(at),
            Event::Work => self.advance(at),
            Event::Calm => self.calm()?,
            Event::Fork => self.fork()?,
            Event::Oblivion => self.oblivion()?,
            Event::Rivals => self.rivals()?,
            Event::Tenants => self.tenants()?,
            Event::Echo => self.echo()?,
            Event::Lineage => self.lineage()?,
            Event::Lose | Event::Repeat => self.disturb(event),
            Event::Late => self.late(),
            Event::Tire => self.tire(at),
            Event::Crash => self.crash_one(at),
            Event::Start => self.start(at),
            Event::Destroy => self.destroy_one(at),
            Event::Replace => self.replace(at),
            Event::Cut => self.machines[at].is_cut_off = true,
            Event::Join => self.machines[at].is_cut_off = false,
            Event::Copy => drop(self.store.copy()),
            Event::SetBack => self.set_back(),
            Event::Empty => self.empty(),
            Event::Compact => self.store.compact(),
            Event::Wish => self.wish(at),
            Event::Part => self.part_one(at),
            Event::Remove => self.remove(at),
            Event::RemoveLiving => self.remove_living(at),
            Event::Abandon => self.abandon(at),
            Event::Jump => self.jump(at),
            Event::Expire => self.expire(at),
            Event::Stray => self.stray(at),
            Event::Grow => self.grow(at),
            Event::Annex => self.annex()?,
        }
        self.mix();
        self.check()
    }

    fn mix(&mut self) {
        let state = [self.store.revision(), self.number, self.messages.len() as u64, self.chance.number()];
        for number in state {
            self.digest = (self.digest.rotate_left(5) ^ number).wrapping_mul(0x517c_c1b7_2722_0a95);
        }
    }

    pub(crate) fn tell(&mut self, what: impl FnOnce() -> String) {
        let now = self.now;
        if let Some(story) = &mut self.story {
            story.push(format!("{now:5} {}", what()));
        }
    }

    /// One decision; whether there was something to do.
    pub(crate) fn decide_one(&mut self, at: usize) -> bool {
        if !self.machines[at].is_idle() {
            return false;
        }
        let fresh = self.chance.wide();
        if self.machines[at].running.as_ref().is_some_and(|running| running.view.is_none()) {
            self.ask_for_all(at);
            return true;
        }
        let action = self.driver.decide(&self.machines[at], fresh);
        match action {
            Some(Action::Save(memory)) => {
                let what = |memory: &Memory| format!("      n{at} remembers {}", crate::story::memory(memory));
                self.tell(|| what(&memory));
                self.save(at, memory);
            }
            Some(Action::Commit(txn)) => {
                let running = self.machines[at].running.as_ref();
                let Some(request) = running.and_then(|running| running.request(at, txn, self.driver)) else {
                    return false;
                };
                self.judge_wanted(at, &request);
                let number = self.send(at, |from, number| Message::Ask { from, number, request });
                self.work(at, Work::Awaiting(number));
            }
            None => return false,
        }
        true
    }

    fn decide(&mut self, at: usize) {
        self.decide_one(at);
    }

    fn save(&mut self, at: usize, memory: Box<Memory>) {
        if self.driver == Driver::DiskLater {
            let machine = &mut self.machines[at];
            let before = std::mem::replace(&mut machine.memory, *memory);
            machine.durable.get_or_insert(before);
        } else {
            self.work(at, Work::Saving(memory));
        }
    }

    pub(crate) fn work(&mut self, at: usize, work: Work) {
        if let Some(running) = &mut self.machines[at].running {
            running.work = work;
        }
    }

    fn send(&mut self, from: usize, message: impl FnOnce(usize, u64) -> Message) -> u64 {
        self.number += 1;
        if !self.machines[from].is_cut_off {
            let message = message(from, self.number);
            if let Message::Ask { request, .. } = &message {
                self.past.push_back((self.number, request.clone()));
                if self.past.len() > PAST {
                    self.past.pop_front();
                }
            }
            self.messages.push(message);
        }
        self.number
    }

    fn ask_for_all(&mut self, at: usize) {
        let number = self.send(at, |from, number| Message::List { from, number });
        self.work(at, Work::Awaiting(number));
    }

    pub(crate) fn deliver(&mut self) {
        if self.messages.is_empty() {
            return;
        }
        let at = self.chance.below(self.messages.len());
        let message = self.messages.swap_remove(at);
        self.take(message);
    }

    pub(crate) fn take(&mut self, message: Message) {
        match message {
            Message::Ask { from, number, request } => {
                self.commit(number, &request);
                self.answer(Message::Answer { to: from, number }, from);
            }
            Message::List { from, number } => {
                let (content, revision, reign) =
                    (self.store.content().clone(), self.store.revision(), self.store.reign);
                self.answer(Message::Listed { to: from, number, content, revision, reign }, from);
            }
            Message::Answer { to, number } => {
                if self.awaits(to, number) {
                    self.work(to, Work::Idle);
                }
            }
            Message::Listed { to, number, content, revision, reign } => {
                if !self.awaits(to, number) {
                    return;
                }
                self.work(to, Work::Idle);
                let is_late = self.driver == Driver::WatchBegunLate && reign == self.store.reign;
                let revision = if is_late { self.store.revision() } else { revision };
                if let Some(running) = &mut self.machines[to].running {
                    running.listed(content, revision, reign);
                }
                self.meet(to);
            }
        }
    }

    /// The store does what it is asked, if nothing has changed that it rests on.
    pub(crate) fn commit(&mut self, number: u64, request: &Request) {
        if !self.store.would_do(request) {
            return;
        }
        self.judge(number, request);
        let before = self.store.charter().map(|charter| (charter.id, charter.is_open()));
        self.store.commit(&request.txn);
        if self.story.is_some() {
            let what = format!("      n{} writes {}", request.from, crate::story::txn(&request.txn));
            self.tell(|| what);
        }
        let after = self.store.charter().map(|charter| (charter.id, charter.is_open()));
        if request.txn.put.iter().any(|(key, _)| *key == Key::Charter) {
            self.judge_office();
        }
        match (before, after) {
            (Some((id, false)), Some((_, true))) => {
                self.tally.settled += 1;
                self.judge_opening(id);
            }
            // Not one that late requests play once more.
            (_, Some((id, false))) if self.incarnations.insert(id) => self.begun = Some(id),
            (None | Some(_), None | Some(_)) => {}
        }
    }

    fn answer(&mut self, message: Message, to: usize) {
        if !self.machines[to].is_cut_off {
            self.messages.push(message);
        }
    }

    fn awaits(&self, at: usize, number: u64) -> bool {
        let running = self.machines[at].running.as_ref().filter(|_| !self.machines[at].is_cut_off);
        running.is_some_and(|running| matches!(running.work, Work::Awaiting(awaited) if awaited == number))
    }

    /// All goes well for one node, for a moment; whether it did something.
    pub(crate) fn advance_one(&mut self, at: usize) -> bool {
        let mut acted = self.machines[at].is_saving();
        self.write(at);
        self.hear_all(at);
        acted |= self.decide_one(at);
        let last = self.number;
        for _ in 0..2 {
            let is_its = |message: &Message| message.number() == last;
            let Some(at) = self.messages.iter().position(is_its) else { return acted };
            let message = self.messages.swap_remove(at);
            self.take(message);
            acted = true;
        }
        acted
    }

    pub(crate) fn advance(&mut self, at: usize) {
        self.advance_one(at);
    }

    pub(crate) fn hear_some(&mut self, at: usize) {
        let (fleet, acks) = [(true, true), (true, false), (false, true)][self.chance.below(3)];
        if fleet {
            self.hear(at, false);
        }
        if acks {
            self.hear(at, true);
        }
    }

    pub(crate) fn hear_all(&mut self, at: usize) {
        while self.hear(at, false) {}
        while self.hear(at, true) {}
    }

    /// The next that one of its two watches tells; whether there was something.
    fn hear(&mut self, at: usize, is_acks: bool) -> bool {
        if self.machines[at].is_cut_off {
            return false;
        }
        let (me, driver, store) = (self.machines[at].instance(), self.driver, &self.store);
        let Some(running) = &mut self.machines[at].running else { return false };
        if running.view.is_none() {
            return false;
        }
        let is_watched = running.reign == store.reign || driver == Driver::WatchResumed;
        let seen = if is_acks { running.seen_acks } else { running.seen };
        let is_told = store.tells(seen) || driver == Driver::WatchCompacted;
        if !is_watched || !is_told {
            // What it saw so far is worth nothing.
            running.view = None;
            return false;
        }
        let first = store.after(seen).next().map(|change| change.revision);
        let mut changes: Vec<Change> =
            store.after(seen).take_while(|change| Some(change.revision) == first).cloned().collect();
        if driver == Driver::HalfRevisions && changes.len() > 1 && !is_acks && self.chance.once_in(2) {
            changes.truncate(1);
        }
        let any = !changes.is_empty();
        if is_acks {
            running.heard_acks(changes, me)
        } else {
            running.heard(changes)
        }
        if any && !is_acks {
            self.meet(at);
        }
        any
    }

    /// Sees who is there.
    fn meet(&mut self, at: usize) {
        self.machines[at].wish.present = self.leases.keys().copied().collect();
    }

    pub(crate) fn write(&mut self, at: usize) {
        if self.machines[at].is_saving() {
            self.change(at, Machine::written);
        }
    }

    pub(crate) fn renew(&mut self, at: usize) {
        let machine = &mut self.machines[at];
        if machine.running.is_some() && !machine.is_cut_off {
            machine.renewed = self.now + machine.offset;
            self.leases.insert(machine.instance(), self.now + LEASE);
        }
    }

    pub(crate) fn start(&mut self, at: usize) {
        let machine = &mut self.machines[at];
        if machine.running.is_none() && !machine.is_destroyed {
            machine.running = Some(Running::default());
        }
    }

    pub(crate) fn uses(&self) -> Vec<(usize, IpNet)> {
        let one = |(at, machine): (usize, &Machine)| {
            let ranges = self.driver.used(machine, self.now, LEASE);
            ranges.into_iter().map(move |range| (at, range)).collect::<Vec<_>>()
        };
        self.machines.iter().enumerate().flat_map(one).collect()
    }
}

/// One pool; its blocks can be halved twice.
fn plan(length: u8) -> Plan {
    Plan::new(vec![pool(POOL, &format!("10.0.0.0/{length}"), 28)]).unwrap()
}

/// With rivals, of which one has all of another's addresses in other blocks, and one is called as another.
fn spare(with_rivals: bool) -> Vec<Pool> {
    let fitting = [pool("second", "10.0.1.0/27", 28), pool("third", "10.0.2.0/28", 28)];
    let rivals = [pool("rival", "10.0.1.0/26", 27), pool("third", "10.0.3.0/28", 28)];
    fitting.into_iter().chain(rivals.into_iter().filter(|_| with_rivals)).collect()
}

fn pool(name: &str, range: &str, block: u8) -> Pool {
    let (reserved, labels) = (BTreeSet::new(), BTreeMap::new());
    Pool { name: name.to_owned(), range: range.parse().unwrap(), block, reserved, labels }
}
