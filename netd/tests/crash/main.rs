//! netd is killed with signal 9 at random moments under load, and started again. Needs root, `ip` and `nft`.
//!
//! ```text
//! clients ──attach, extend, repeat, move, detach, kill sandboxes──▶ netd   (node's namespace, real kernel)
//! a round: load ─▶ kill -9 ─▶ start ─▶ (kill -9 while it starts ─▶ start) ─▶ quiet ─▶ resync ─▶ is it as was told?
//! ```
//!
//! `NETD_CRASH_KILLS` kills (25 by default); `NETD_CRASH_SEED` repeats a run's choices, though not its timing.
#![expect(clippy::unwrap_used, clippy::unwrap_in_result, reason = "helpers of tests stand outside of them")]

mod client;
mod daemon;
mod ledger;
mod namespace;
mod random;
mod verdict;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::time::{Duration, Instant, SystemTime};

use client::{Client, Slot};
use daemon::Node;
use ledger::Ledger;
use random::Random;
use verdict::Facts;

const CLIENTS: u16 = 4;
/// The kernel takes a dead namespace apart behind the back of all.
const SETTLING: Duration = Duration::from_secs(15);

/// What happens at least once in so many kills; where there was too little of it, rounds go on.
const ENOUGH: [(&str, u64); 8] = [
    ("attached", 1),
    ("detached", 1),
    ("extended", 1),
    ("repeated", 1),
    ("moved", 3),
    ("sandboxes killed", 3),
    ("attaches cut off", 3),
    ("detaches cut off", 6),
];

/// Clients at work, and how to make them pause.
struct Load {
    clients: Vec<Mutex<Client>>,
    /// Held while a client acts; taken wholly for quiet.
    gate: RwLock<()>,
    over: AtomicBool,
}

impl Load {
    fn work(&self, at: usize) {
        while !self.over.load(Ordering::Relaxed) {
            // A failed check poisons the gate; what it found is told by then.
            let Ok(_open) = self.gate.read() else { break };
            self.clients[at].lock().unwrap().act();
        }
    }
}

/// Ends the load also where a check fails, or the threads would go on.
struct Over<'a>(&'a Load);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.over.store(true, Ordering::Relaxed);
    }
}

struct Rounds {
    node: Node,
    ledger: Arc<Ledger>,
    random: Random,
    seed: u64,
    /// How many there are to be.
    asked: u64,
    kills: u64,
    longest: Duration,
}

impl Rounds {
    /// One round; everything must be as the clients were told.
    fn round(&mut self, load: &Load) {
        std::thread::sleep(Duration::from_millis(20 + self.random.below(150)));
        let start = Instant::now();
        self.kill();
        if self.random.percent(25) {
            // In the middle of its start, that is, of its first resync.
            std::thread::sleep(Duration::from_millis(self.random.below(40)));
            self.kill();
        }
        self.node.until_it_answers();
        let _quiet = load.gate.write().unwrap();
        self.check(load);
        self.longest = self.longest.max(start.elapsed());
    }

    fn kill(&mut self) {
        self.node.kill();
        self.kills += 1;
    }

    fn check(&self, load: &Load) {
        let clients: Vec<_> = load.clients.iter().map(|client| client.lock().unwrap()).collect();
        let slots: Vec<&Slot> = clients.iter().flat_map(|client| &client.slots).collect();
        // Before anything is repaired: a crash and a restart are nothing that a sandbox should feel.
        let dead = verdict::dead_ways(&self.node, &slots);
        let wrongs = [self.ledger.wrongs(), dead].concat();
        if !wrongs.is_empty() {
            self.fail(&wrongs.join("\n"));
        }
        self.settle(&verdict::expected(&slots));
        let dead = verdict::dead_ways(&self.node, &slots);
        if !dead.is_empty() {
            self.fail(&format!("after a resync:\n{}", dead.join("\n")));
        }
    }

    /// Once the kernel has taken apart what died, one resync is enough, but for a namespace that goes just then: then two.
    fn settle(&self, expected: &Facts) {
        within(SETTLING, || expected.contains(&verdict::links(&self.node)));
        for turn in ["one resync did", "two resyncs did"] {
            self.node.door().resync();
            if within(SETTLING, || verdict::found(&self.node) == *expected) {
                return self.ledger.count(turn);
            }
        }
        let found = verdict::found(&self.node);
        let missing: Vec<_> = expected.difference(&found).collect();
        let left: Vec<_> = found.difference(expected).collect();
        self.fail(&format!("missing: {missing:#?}\nleft over: {left:#?}"));
    }

    /// What happened too rarely: a run in which hardly anybody got through shows nothing.
    fn too_rare(&self) -> Vec<&'static str> {
        let counts = self.ledger.counts();
        let is_rare = |(what, kills_each): &(&str, u64)| counts.of(what) < self.asked / kills_each;
        ENOUGH.iter().filter(|enough| is_rare(enough)).map(|(what, _)| *what).collect()
    }

    /// On a busy machine clients take few steps between two kills: then there are more kills.
    fn go_on(&self) -> bool {
        let most = 4 * self.asked + 25;
        self.kills < self.asked || self.kills < most && !self.too_rare().is_empty()
    }

    fn fail(&self, what: &str) -> ! {
        let Self { seed, kills, .. } = self;
        panic!(
            "after {kills} kills (NETD_CRASH_SEED={seed}):\n{what}\n{}\nnetd said:\n{}",
            self.node.picture(),
            self.node.log()
        );
    }

    /// All goes, and one more netd finds nothing to keep.
    fn finish(&mut self, load: &Load) {
        load.clients.iter().for_each(|client| client.lock().unwrap().clear());
        self.check(load);
        self.kill();
        self.node.until_it_answers();
        self.check(load);
    }
}

/// Whether it comes about.
fn within(patience: Duration, is_so: impl Fn() -> bool) -> bool {
    let start = Instant::now();
    loop {
        if is_so() {
            return true;
        }
        if start.elapsed() > patience {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")))
}

#[test]
fn killed_at_random_moments_netd_keeps_what_it_told_and_leaks_nothing() {
    let seed = number("NETD_CRASH_SEED").unwrap_or_else(|| {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        u64::from(now.subsec_nanos())
    });
    let asked = number("NETD_CRASH_KILLS").unwrap_or(25);
    println!("NETD_CRASH_SEED={seed}");
    let (node, ledger) = (Node::start(), Arc::new(Ledger::default()));
    let client = |name| {
        let random = Random::new(seed ^ (u64::from(name) + 1) << 32);
        Mutex::new(Client::new(name, node.door(), Arc::clone(&ledger), random))
    };
    let clients = (0..CLIENTS).map(client).collect();
    let load = Load { clients, gate: RwLock::new(()), over: AtomicBool::new(false) };
    let mut rounds = Rounds { node, ledger, random: Random::new(seed), seed, asked, kills: 0, longest: Duration::ZERO };
    let start = Instant::now();
    std::thread::scope(|scope| {
        let over = Over(&load);
        for at in 0..load.clients.len() {
            let load = &load;
            scope.spawn(move || load.work(at));
        }
        while rounds.go_on() {
            rounds.round(&load);
        }
        drop(over);
    });
    rounds.finish(&load);
    let counts = rounds.ledger.counts();
    assert!(rounds.too_rare().is_empty(), "{} kills, too rarely {:?}: {counts}", rounds.kills, rounds.too_rare());
    println!(
        "{} kills in {:.1} s, longest round {} ms: {counts}",
        rounds.kills,
        start.elapsed().as_secs_f64(),
        rounds.longest.as_millis()
    );
}
