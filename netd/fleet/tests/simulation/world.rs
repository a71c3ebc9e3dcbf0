//! A fleet in one thread: every event is drawn from a seed, and after each one no address may be used by two nodes.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use netd_fleet::{Action, ClaimId, Hold, InstanceId, Key, Memory, NodeName, Plan, Pool, Value, Wish};

use crate::chance::Chance;
use crate::machine::{Machine, Running, Work};
use crate::store::{Request, Store};
use crate::variant::Variant;

const POOL: &str = "pool";
const MOST_MACHINES: usize = 8;
const LEASE: i64 = 60;

#[derive(Debug, Clone)]
enum Message {
    Ask { from: usize, number: u64, request: Request },
    Answer { to: usize, number: u64 },
    List { from: usize, number: u64 },
    Listed { to: usize, number: u64, content: BTreeMap<Key, Value>, revision: u64, reign: u64 },
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

/// What may happen. The order is that of the weights.
#[derive(Debug, Clone, Copy)]
enum Event {
    Decide,
    Deliver,
    Hear,
    Write,
    Renew,
    Work,
    Calm,
    Ambush,
    Lose,
    Repeat,
    Tire,
    Crash,
    Start,
    Destroy,
    Replace,
    Cut,
    Join,
    Copy,
    SetBack,
    Compact,
    Wish,
    Remove,
    Jump,
    Expire,
}

const EVENTS: [(Event, usize); 24] = [
    (Event::Decide, 60),
    (Event::Deliver, 70),
    (Event::Hear, 60),
    (Event::Write, 40),
    (Event::Renew, 10),
    (Event::Work, 60),
    (Event::Calm, 2),
    (Event::Ambush, 1),
    (Event::Lose, 2),
    (Event::Repeat, 3),
    (Event::Tire, 6),
    (Event::Crash, 2),
    (Event::Start, 6),
    (Event::Destroy, 1),
    (Event::Replace, 1),
    (Event::Cut, 3),
    (Event::Join, 5),
    (Event::Copy, 2),
    (Event::SetBack, 1),
    (Event::Compact, 1),
    (Event::Wish, 6),
    (Event::Remove, 1),
    (Event::Jump, 1),
    (Event::Expire, 3),
];
/// Events that nothing works without.
const ESSENTIAL: usize = 7;

/// What happened in one schedule, or in many.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tally {
    pub(crate) schedules: u64,
    pub(crate) events: u64,
    pub(crate) confirmed: u64,
    pub(crate) set_back: u64,
    /// Stores set back that forgot something in use.
    pub(crate) forgotten: u64,
    pub(crate) settled: u64,
    pub(crate) disputes: u64,
    pub(crate) repeated: u64,
    pub(crate) settled_down: u64,
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
        self.repeated += other.repeated;
        self.settled_down += other.settled_down;
    }
}

pub(crate) struct World {
    variant: Variant,
    chance: Chance,
    store: Store,
    machines: Vec<Machine>,
    messages: Vec<Message>,
    leases: BTreeMap<InstanceId, i64>,
    removed: BTreeSet<InstanceId>,
    now: i64,
    number: u64,
    pub(crate) tally: Tally,
    pub(crate) story: Vec<String>,
    is_told: bool,
}

impl World {
    pub(crate) fn new(seed: u64, variant: Variant, is_told: bool) -> Self {
        let mut chance = Chance::new(seed);
        let count = 2 + chance.below(4);
        let mut world = Self {
            variant,
            chance,
            store: Store::default(),
            machines: Vec::new(),
            messages: Vec::new(),
            leases: BTreeMap::new(),
            removed: BTreeSet::new(),
            now: 0,
            number: 0,
            tally: Tally { schedules: 1, ..Tally::default() },
            story: Vec::new(),
            is_told,
        };
        (0..count).for_each(|at| world.add(&format!("n{at}")));
        world
    }

    fn add(&mut self, name: &str) {
        let instance = InstanceId::new(self.chance.wide());
        let blocks = BTreeMap::from([(POOL.to_owned(), self.chance.below(3))]);
        let wish = Wish { plan: Some(plan()), blocks, ..Wish::default() };
        self.machines.push(Machine::new(Memory::new(instance, NodeName::new(name).unwrap()), wish));
    }

    /// Runs `events` of them.
    ///
    /// # Errors
    /// What must not be.
    pub(crate) fn run(&mut self, events: usize) -> Result<(), String> {
        let weights = self.weights();
        for _ in 0..events {
            let (event, _) = EVENTS[self.chance.weighted(&weights)];
            self.happen(event)?;
        }
        Ok(())
    }

    /// Some schedules have no faults of one kind, others many.
    fn weights(&mut self) -> Vec<usize> {
        let chance = &mut self.chance;
        let weigh = |(at, (_, weight)): (usize, &(Event, usize))| {
            if at < ESSENTIAL { 2 * *weight } else { weight * [0, 1, 2, 6][chance.below(4)] }
        };
        EVENTS.iter().enumerate().map(weigh).collect()
    }

    fn happen(&mut self, event: Event) -> Result<(), String> {
        self.now += 1;
        self.tally.events += 1;
        let at = self.chance.below(self.machines.len());
        match event {
            Event::Decide => self.decide(at),
            Event::Deliver => self.deliver(),
            Event::Hear => {
                self.hear(at);
            }
            Event::Write => self.write(at),
            Event::Renew => self.renew(at),
            Event::Work => self.advance(at),
            Event::Calm => self.calm()?,
            Event::Ambush => self.ambush()?,
            Event::Lose | Event::Repeat => self.disturb(event),
            Event::Tire => self.tire(at),
            Event::Crash => self.crash(at),
            Event::Start => self.start(at),
            Event::Destroy => self.destroy(at),
            Event::Replace => self.replace(at),
            Event::Cut => self.machines[at].is_cut_off = true,
            Event::Join => self.machines[at].is_cut_off = false,
            Event::Copy => self.store.copy(),
            Event::SetBack => self.set_back(),
            Event::Compact => self.store.compact(),
            Event::Wish => self.wish(at),
            Event::Remove => self.remove(at),
            Event::Jump => self.machines[at].offset += i64::try_from(self.chance.below(400)).unwrap() - 200,
            Event::Expire => self.expire(at),
        }
        if self.is_told {
            let used = self.uses();
            self.story.push(format!("{} {event:?} n{at}: {used:?}", self.now));
        }
        self.check()
    }

    fn decide(&mut self, at: usize) {
        if !self.machines[at].is_idle() {
            return;
        }
        let present = self.present();
        let fresh = self.chance.wide();
        let machine = &mut self.machines[at];
        machine.wish.present = present;
        let has_view = machine.running.as_ref().is_some_and(|running| running.view.is_some());
        if !has_view {
            self.ask_for_all(at);
            return;
        }
        match self.variant.decide(&self.machines[at], fresh) {
            Some(Action::Save(memory)) => self.work(at, Work::Saving(memory)),
            Some(Action::Commit(txn)) => {
                let Some(running) = &self.machines[at].running else { return };
                let Some(view) = &running.view else { return };
                let request = Request::of(&txn, view);
                let number = self.send(at, |from, number| Message::Ask { from, number, request });
                self.work(at, Work::Awaiting(number));
            }
            None => {}
        }
    }

    fn work(&mut self, at: usize, work: Work) {
        if let Some(running) = &mut self.machines[at].running {
            running.work = work;
        }
    }

    fn present(&self) -> BTreeSet<InstanceId> {
        let up = self.machines.iter().filter(|machine| machine.running.is_some() && !machine.is_cut_off);
        up.map(|machine| machine.disk.instance).collect()
    }

    fn send(&mut self, from: usize, message: impl FnOnce(usize, u64) -> Message) -> u64 {
        self.number += 1;
        if !self.machines[from].is_cut_off {
            self.messages.push(message(from, self.number));
        }
        self.number
    }

    fn ask_for_all(&mut self, at: usize) {
        let number = self.send(at, |from, number| Message::List { from, number });
        self.work(at, Work::Awaiting(number));
    }

    fn deliver(&mut self) {
        if self.messages.is_empty() {
            return;
        }
        let at = self.chance.below(self.messages.len());
        let message = self.messages.swap_remove(at);
        self.take(message);
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Ask { from, number, request } => {
                let before = self.incarnation();
                self.store.commit(&request);
                if before != self.incarnation() {
                    self.tally.settled += 1;
                }
                self.answer(Message::Answer { to: from, number }, from);
            }
            Message::List { from, number } => {
                let (content, revision, reign) = (self.store.content(), self.store.revision(), self.store.reign);
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
                if let Some(running) = &mut self.machines[to].running {
                    running.listed(content, revision, reign);
                }
            }
        }
    }

    fn incarnation(&self) -> Option<(u64, bool)> {
        match self.store.content().get(&Key::Charter) {
            Some(Value::Charter(charter)) => charter.is_open().then_some((charter.number, true)),
            Some(Value::Record(_) | Value::Ack) | None => None,
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

    /// All goes well for one node, for a moment.
    fn advance(&mut self, at: usize) {
        self.write(at);
        while self.hear(at) {}
        self.decide(at);
        let last = self.number;
        for _ in 0..2 {
            let is_its = |message: &Message| message.number() == last;
            let Some(at) = self.messages.iter().position(is_its) else { return };
            let message = self.messages.swap_remove(at);
            self.take(message);
        }
    }

    /// All goes well for some nodes, for a while.
    fn calm(&mut self) -> Result<(), String> {
        let some: Vec<usize> = (0..self.machines.len()).filter(|_| !self.chance.once_in(4)).collect();
        self.go_on(&some)
    }

    fn go_on(&mut self, some: &[usize]) -> Result<(), String> {
        for _ in 0..30 {
            some.iter().for_each(|at| self.advance(*at));
            self.check()?;
        }
        Ok(())
    }

    /// Some nodes go on while the others are cut off; then the store is set back to before that, and it is the turn of
    /// the others.
    fn ambush(&mut self) -> Result<(), String> {
        self.store.copy();
        let (some, others): (Vec<usize>, Vec<usize>) = (0..self.machines.len()).partition(|_| self.chance.once_in(2));
        self.part(&some, &others)?;
        let copy = self.store.copies() - 1;
        if self.is_within_limits(copy) {
            self.set_back_to(copy);
        }
        self.part(&others, &some)
    }

    fn part(&mut self, some: &[usize], others: &[usize]) -> Result<(), String> {
        others.iter().for_each(|at| self.machines[*at].is_cut_off = true);
        for at in some {
            self.machines[*at].is_cut_off = false;
            self.start(*at);
            self.tire(*at);
            let count = self.chance.below(4);
            self.machines[*at].wish.blocks.insert(POOL.to_owned(), count);
        }
        self.go_on(some)
    }

    /// Whether there was something to hear.
    fn hear(&mut self, at: usize) -> bool {
        if self.machines[at].is_cut_off {
            return false;
        }
        let Some(running) = &mut self.machines[at].running else { return false };
        if running.view.is_none() {
            return false;
        }
        let changes = (running.reign == self.store.reign).then(|| self.store.after(running.seen)).flatten();
        let any = changes.as_ref().is_some_and(|changes| !changes.is_empty());
        match changes {
            Some(changes) => running.heard(changes),
            // The watch ended: what it saw so far is worth nothing.
            None => running.view = None,
        }
        any
    }

    fn write(&mut self, at: usize) {
        let before = self.machines[at].disk.holdings.clone();
        self.machines[at].written();
        self.note(at, &before);
    }

    fn note(&mut self, at: usize, before: &BTreeMap<ClaimId, netd_fleet::Holding>) {
        for (id, holding) in &self.machines[at].disk.holdings {
            let was = before.get(id).is_some_and(|was| was.state == Hold::Confirmed);
            if holding.state == Hold::Confirmed && !was {
                self.tally.confirmed += 1;
            }
        }
    }

    fn renew(&mut self, at: usize) {
        let machine = &mut self.machines[at];
        if machine.running.is_some() && !machine.is_cut_off {
            machine.renewed = self.now + machine.offset;
            self.leases.insert(machine.disk.instance, self.now + LEASE);
        }
    }

    fn disturb(&mut self, event: Event) {
        if self.messages.is_empty() {
            return;
        }
        let at = self.chance.below(self.messages.len());
        if matches!(event, Event::Lose) {
            self.messages.swap_remove(at);
        } else if matches!(self.messages[at], Message::Ask { .. }) {
            self.tally.repeated += 1;
            self.messages.push(self.messages[at].clone());
        }
    }

    /// Waits no longer for an answer; what became of the request it must see.
    fn tire(&mut self, at: usize) {
        let Some(running) = &mut self.machines[at].running else { return };
        if matches!(running.work, Work::Awaiting(_)) {
            running.work = Work::Idle;
            running.view = None;
        }
    }

    fn crash(&mut self, at: usize) {
        let before = self.machines[at].disk.holdings.clone();
        let is_written = self.chance.once_in(2);
        self.machines[at].crash(is_written);
        self.note(at, &before);
    }

    fn start(&mut self, at: usize) {
        let machine = &mut self.machines[at];
        if machine.running.is_none() && !machine.is_destroyed {
            machine.running = Some(Running::default());
        }
    }

    /// The node is gone, its disk and its sandboxes with it; sometimes another is built under its name.
    fn destroy(&mut self, at: usize) {
        if self.machines[at].is_destroyed {
            return;
        }
        self.crash(at);
        self.machines[at].is_destroyed = true;
        if self.machines.len() < MOST_MACHINES && !self.chance.once_in(3) {
            let name = self.machines[at].disk.name.to_string();
            self.add(&name);
        }
    }

    /// Another is built under its name, while it lives on somewhere.
    fn replace(&mut self, at: usize) {
        if self.machines.len() >= MOST_MACHINES || self.machines[at].is_destroyed {
            return;
        }
        self.machines[at].is_cut_off = true;
        let name = self.machines[at].disk.name.to_string();
        self.add(&name);
        let last = self.machines.len() - 1;
        self.machines[last].disk.instance = self.variant.identity(&self.machines[at], &self.machines[last]);
    }

    fn set_back(&mut self) {
        if self.store.copies() == 0 {
            return;
        }
        // Mostly a late one: an early one knows little.
        let late = self.store.copies().saturating_sub(1 + self.chance.below(3));
        let any = self.chance.below(self.store.copies());
        let copy = if self.chance.once_in(4) { any } else { late };
        if !self.is_within_limits(copy) {
            return;
        }
        self.set_back_to(copy);
    }

    fn set_back_to(&mut self, copy: usize) {
        self.store.set_back(copy);
        self.tally.set_back += 1;
        let content = self.store.content();
        let is_known = |block: &IpNet, id: &ClaimId| match content.get(&Key::Block(*block)) {
            Some(Value::Record(record)) => record.claims.contains_key(id),
            Some(Value::Charter(_) | Value::Ack) | None => false,
        };
        let used = self.machines.iter().flat_map(|machine| &machine.disk.holdings);
        let forgotten = used.filter(|(id, holding)| holding.state == Hold::Confirmed && !is_known(&holding.block, id));
        self.tally.forgotten += u64::from(forgotten.count() > 0);
    }

    /// A copy from before the fleet was founded, or of another founding, names nobody who could remember.
    fn is_within_limits(&self, copy: usize) -> bool {
        self.store.charter_of_copy(copy).is_some()
    }

    fn wish(&mut self, at: usize) {
        let count = self.chance.below(4);
        let give_up = self.chance.once_in(2);
        let machine = &mut self.machines[at];
        machine.wish.blocks.insert(POOL.to_owned(), count);
        let held: Vec<ClaimId> = machine.disk.holdings.keys().copied().collect();
        if let Some(id) = self.chance.one(&held).filter(|_| give_up) {
            machine.wish.give_up.insert(id);
            machine.wish.blocks.insert(POOL.to_owned(), 0);
        }
    }

    /// An operator removes a node that is destroyed, by telling another.
    fn remove(&mut self, at: usize) {
        let gone = self.machines.iter().filter(|machine| machine.is_destroyed).map(|machine| machine.disk.instance);
        let gone: BTreeSet<InstanceId> = gone.filter(|one| self.is_alone(*one)).collect();
        self.removed.extend(&gone);
        self.machines[at].wish.remove.extend(gone);
    }

    /// Nobody else has this identity.
    fn is_alone(&self, instance: InstanceId) -> bool {
        self.machines.iter().filter(|machine| machine.disk.instance == instance).count() == 1
    }

    fn expire(&mut self, at: usize) {
        let instance = self.machines[at].disk.instance;
        let is_over = self.leases.get(&instance).is_none_or(|until| *until < self.now);
        if is_over {
            self.variant.expire(&mut self.store, instance);
        }
    }

    fn uses(&self) -> Vec<(usize, IpNet)> {
        let one = |(at, machine): (usize, &Machine)| {
            let ranges = self.variant.used(machine, self.now, LEASE);
            ranges.into_iter().map(move |range| (at, range)).collect::<Vec<_>>()
        };
        self.machines.iter().enumerate().flat_map(one).collect()
    }

    fn check(&mut self) -> Result<(), String> {
        let uses = self.uses();
        for (at, (one, range)) in uses.iter().enumerate() {
            for (other, their) in &uses[at + 1..] {
                if one != other && (range.contains(their) || their.contains(range)) {
                    let disks = [*one, *other].map(|at| &self.machines[at].disk.holdings);
                    return Err(format!(
                        "n{one} uses {range} and n{other} uses {their}: {disks:?} {:?}",
                        self.store.content()
                    ));
                }
            }
        }
        Ok(())
    }

    /// All faults end: whoever lives gets what it wants, and then nobody has anything left to do.
    ///
    /// # Errors
    /// What does not come to rest.
    pub(crate) fn settle_down(&mut self) -> Result<(), String> {
        let disputes = self.store.content().into_values().filter(is_disputed).count();
        self.tally.disputes += u64::try_from(disputes).unwrap();
        for at in 0..self.machines.len() {
            self.machines[at].is_cut_off = false;
            self.start(at);
        }
        for _ in 0..3_000 {
            if self.is_at_rest() {
                self.tally.settled_down += 1;
                return self.is_served();
            }
            (0..self.machines.len()).try_for_each(|at| self.turn(at))?;
        }
        if self.has_witnesses() { Err(self.unrest()) } else { Ok(()) }
    }

    fn unrest(&self) -> String {
        let next = |machine: &Machine| format!("{}: {:?}", machine.disk.instance, machine.decide(1));
        let next: Vec<String> = self.machines.iter().map(next).collect();
        format!("it does not come to rest: {:#?}\n{}", self.store.content(), next.join("\n"))
    }

    fn turn(&mut self, at: usize) -> Result<(), String> {
        self.now += 1;
        self.write(at);
        while self.hear(at) {}
        self.decide(at);
        while let Some(message) = self.messages.pop() {
            self.take(message);
            self.check()?;
        }
        self.tire(at);
        self.check()
    }

    fn is_at_rest(&self) -> bool {
        let rests = |machine: &Machine| match &machine.running {
            None => true,
            Some(running) => {
                let is_current = running.reign == self.store.reign && running.seen == self.store.revision();
                machine.is_idle() && running.view.is_some() && is_current && machine.decide(1).is_none()
            }
        };
        self.messages.is_empty() && self.machines.iter().all(rests)
    }

    /// A majority of the witnesses lives that the store knows.
    fn has_witnesses(&self) -> bool {
        let alive: BTreeSet<_> =
            self.machines.iter().filter(|machine| !machine.is_destroyed).map(|machine| machine.disk.instance).collect();
        let content = self.store.content();
        let Some(Value::Charter(charter)) = content.get(&Key::Charter) else { return true };
        let lives = |set: &BTreeSet<InstanceId>| 2 * set.intersection(&alive).count() > set.len();
        let needed = match &charter.phase {
            netd_fleet::Phase::Open => true,
            netd_fleet::Phase::Settling(settling) => settling.need.iter().all(lives),
        };
        needed && lives(&charter.witnesses)
    }

    fn is_served(&self) -> Result<(), String> {
        if !self.has_witnesses() {
            return Ok(());
        }
        let content = self.store.content();
        let taken = |block: &IpNet| {
            matches!(content.get(&Key::Block(*block)),
                Some(Value::Record(record)) if !record.claims.is_empty() || self.is_left_behind(record))
        };
        let free = plan().pools()[0].range.subnets(30).unwrap().filter(|block| !taken(block)).count();
        for (at, machine) in self.machines.iter().enumerate().filter(|(_, machine)| machine.running.is_some()) {
            let held = machine.disk.holdings.values().filter(|one| one.state == Hold::Confirmed);
            let wanted = machine.wish.blocks.get(POOL).copied().unwrap_or(0);
            if held.count() < wanted && free > 0 {
                let holdings = &machine.disk.holdings;
                return Err(format!(
                    "n{at} has not what it wants, and {free} blocks are free: {content:#?}\n{holdings:#?}"
                ));
            }
        }
        Ok(())
    }

    /// Freed by a node that is gone, and not removed: nobody seals it.
    fn is_left_behind(&self, record: &netd_fleet::Record) -> bool {
        !record.sealed
            && self.machines.iter().any(|machine| machine.is_destroyed && machine.disk.instance == record.author)
    }
}

fn is_disputed(value: &Value) -> bool {
    match value {
        Value::Record(record) => record.claims.len() > 1,
        Value::Charter(_) | Value::Ack => false,
    }
}

fn plan() -> Plan {
    let pool = Pool {
        name: POOL.to_owned(),
        range: "10.0.0.0/28".parse().unwrap(),
        block: 30,
        reserved: BTreeSet::new(),
        labels: BTreeMap::new(),
    };
    Plan::new(vec![pool]).unwrap()
}
