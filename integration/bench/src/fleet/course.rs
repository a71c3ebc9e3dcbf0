//! One fleet: underlay, store, real members and, where the case has them, simulated ones; and what is measured of it.

use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use ipnet::Ipv4Net;

use super::crowd::Crowd;
use super::ground::Ground;
use super::member::{Member, Setup};
use super::routes::{Routes, Table};
use super::store::{Octets, Store};
use super::watch::Watch;
use crate::samples::Samples;
use crate::say;

pub(super) const POOL: &str = "10.64.0.0/14";
const PREFIX: &str = "/netd";
const PATIENCE: Duration = Duration::from_secs(120);
/// How often what others noted is looked at; the times are theirs.
const PAUSE: Duration = Duration::from_millis(5);
/// The same, where to look costs something.
const LONG_PAUSE: Duration = Duration::from_millis(100);
/// After a join, what follows from it: acceptances, acknowledgements that are swept.
const REST: Duration = Duration::from_secs(1);
/// Real members that start at once while a fleet is made.
const AT_ONCE: usize = 8;
/// Addresses for the store, the crowd and all that join later.
const NEWCOMERS: usize = 128;
/// The lease of nodes that stay (netd's default), and of the one that flaps (seconds).
const LEASE: u64 = 10;
const SHORT_LEASE: u64 = 2;

/// What a case is.
#[derive(Debug, Clone)]
pub(super) struct Case {
    pub(super) name: &'static str,
    pub(super) encapsulation: &'static str,
    /// Members of etcd.
    pub(super) stores: usize,
    pub(super) real: usize,
    pub(super) simulated: usize,
}

/// A fleet.
#[derive(Debug)]
pub(super) struct Course<'a> {
    // In the order in which they end.
    pub(super) members: Vec<Member>,
    pub(super) crowd: Option<Crowd>,
    watch: Watch,
    routes: Routes,
    store: Store,
    ground: Ground,
    pub(super) case: Case,
    netd: &'a str,
}

/// What went over the store's link, and how long all daemons but one worked.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reading {
    at: Instant,
    octets: Octets,
    worked: Duration,
    store: Duration,
}

/// By the second, or in all.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Spent {
    pub(super) to_store: f64,
    pub(super) from_store: f64,
    pub(super) worked: f64,
    pub(super) store: f64,
}

impl<'a> Course<'a> {
    pub(super) fn new(case: Case, netd: &'a str, etcd: &Path) -> Result<Self> {
        let ground = Ground::new(case.real + case.simulated + NEWCOMERS)?;
        let store = Store::start(&ground, etcd, case.stores)?;
        let (watch, routes) = (Watch::start(&store, PREFIX)?, Routes::new()?);
        let crowd = if case.simulated > 0 { Some(Crowd::new(&ground, POOL)?) } else { None };
        Ok(Self { members: Vec::new(), crowd, watch, routes, store, ground, case, netd })
    }

    /// Nodes that are there, in all.
    pub(super) fn nodes(&self) -> usize {
        self.members.len() + self.crowd.as_ref().map_or(0, Crowd::count)
    }

    fn setup(&self, lease_seconds: u64) -> Setup<'a> {
        let (netd, encapsulation) = (self.netd, self.case.encapsulation);
        Setup { netd, pool: POOL, encapsulation, endpoints: self.store.endpoints(), lease_seconds }
    }

    fn add(&mut self) -> Result<usize> {
        let number = self.members.len();
        let member = Member::new(&self.ground, u32::try_from(number + 1)?)?;
        let heard = self.routes.listen(&member.node.space)?;
        anyhow::ensure!(heard == number, "a namespace is not listened to");
        self.members.push(member);
        Ok(number)
    }

    /// So many real members, all with routes to all.
    pub(super) fn grow(&mut self, to: usize) -> Result<()> {
        while self.members.len() < to {
            for _ in 0..AT_ONCE.min(to - self.members.len()) {
                let number = self.add()?;
                let setup = self.setup(LEASE);
                self.members[number].start(&setup)?;
            }
            self.settle()?;
        }
        Ok(())
    }

    /// So many simulated members, each with a block, and known to all.
    pub(super) fn gather(&mut self, to: usize) -> Result<()> {
        let crowd = self.crowd.as_mut().context("no crowd")?;
        let start = Instant::now();
        while crowd.count() < to {
            for _ in 0..(to / 20).max(1).min(to - crowd.count()) {
                crowd.join(self.ground.address(), self.store.endpoints())?;
            }
            let batch = Instant::now();
            until_every(
                LONG_PAUSE,
                || Ok(crowd.settled() == crowd.count()),
                || format!("{} of {} have blocks; {}", crowd.settled(), crowd.count(), crowd.standing()),
            )?;
            let (count, took) = (crowd.count(), start.elapsed().as_secs_f64());
            let (last, standing) = (batch.elapsed().as_secs_f64(), crowd.standing());
            say(&format!("   {count} simulated after {took:.1} s ({last:.1} s for the last); {standing}"));
        }
        self.settle()
    }

    /// Until everybody knows everybody.
    pub(super) fn settle(&self) -> Result<()> {
        let others = self.nodes() - 1;
        let fewest = |tables: &[Table]| tables.iter().map(peers).min().unwrap_or_default();
        until_every(
            LONG_PAUSE,
            || {
                let is_routed = self.routes.look(fewest)? >= others;
                Ok(is_routed && self.crowd.as_ref().is_none_or(|crowd| crowd.know(others)))
            },
            || {
                let routes = self.routes.look(fewest).unwrap_or_default();
                let known = self.crowd.as_ref().and_then(Crowd::fewest_peers);
                let standing = self.crowd.as_ref().map(Crowd::standing).unwrap_or_default();
                format!(
                    "of {others} others the least is {routes} routes, {known:?} in a mirror; {} are known; {standing}",
                    self.watch.count()
                )
            },
        )
    }

    /// How often simulated members lost the store, in all.
    pub(super) fn lost(&self) -> usize {
        self.crowd.as_ref().map_or(0, Crowd::lost)
    }

    pub(super) fn resident_kb(&self) -> Result<Vec<u64>> {
        self.members.iter().map(Member::resident_kb).collect()
    }

    /// Memory of all of the store's members.
    pub(super) fn store_kb(&self) -> Result<u64> {
        Ok(self.store.cost()?.0)
    }

    /// What was spent until now; the daemons but the last, which may be one that flaps.
    pub(super) fn reading(&self) -> Result<Reading> {
        let others = self.members.len().saturating_sub(1);
        let worked = self.members.iter().take(others).map(Member::worked).sum::<Result<Duration>>()?;
        Ok(Reading { at: Instant::now(), octets: self.store.octets()?, worked, store: self.store.cost()?.1 })
    }

    /// What the fleet spends in a second while nothing happens.
    pub(super) fn idle(&self, window: Duration) -> Result<Spent> {
        let before = self.reading()?;
        sleep(window);
        let seconds = window.as_secs_f64();
        let spent = self.reading()?.since(&before, &Spent::default());
        Ok(spent.divided(seconds))
    }

    /// A daemon starts that was never there; how long it takes until its route stands on every other node.
    pub(super) fn join(&mut self, idle: &Spent, samples: &mut Samples) -> Result<Spent> {
        let number = self.add()?;
        let (name, setup) = (self.members[number].name.clone(), self.setup(LEASE));
        if let Some(crowd) = &self.crowd {
            crowd.expect(&name)?;
        }
        let before = self.reading()?;
        let begin = Instant::now();
        self.members[number].start(&setup)?;
        let known = self.until_known(&name)?;
        self.until_seen((number, &name), known.1)?;
        self.note(samples, (number, &name), (begin, known))?;
        sleep(REST);
        // The newcomer's own work is its own.
        Ok(self.reading()?.since(&before, idle))
    }

    /// The same with one that is simulated.
    pub(super) fn join_simulated(&mut self, idle: &Spent, samples: &mut Samples) -> Result<Spent> {
        let crowd = self.crowd.as_mut().context("no crowd")?;
        crowd.expect(&format!("simulated-{:04}", crowd.count() + 1))?;
        let (address, endpoints) = (self.ground.address(), self.store.endpoints());
        let before = self.reading()?;
        let begin = Instant::now();
        let name = self.crowd.as_mut().context("no crowd")?.join(address, endpoints)?;
        let known = self.until_known(&name)?;
        self.until_seen((usize::MAX, &name), known.1)?;
        self.note(samples, (usize::MAX, &name), (begin, known))?;
        sleep(REST);
        Ok(self.reading()?.since(&before, idle))
    }

    fn until_known(&self, name: &str) -> Result<(Instant, Ipv4Net)> {
        until(|| Ok(self.watch.known(name).is_some()), || format!("{name} has no block"))?;
        self.watch.known(name).context("it is known")
    }

    /// Until this newcomer is known to all others, and they to it.
    fn until_seen(&self, (newcomer, name): (usize, &str), block: Ipv4Net) -> Result<()> {
        let others = self.nodes() - 1;
        let mirrors = self.crowd.as_ref().map_or(0, Crowd::count) - usize::from(name.starts_with("simulated"));
        let is_there = |(number, table): (usize, &Table)| {
            if number == newcomer { peers(table) >= others } else { table.since.contains_key(&block) }
        };
        until(
            || {
                let is_routed = self.routes.look(|tables| tables.iter().enumerate().all(is_there))?;
                Ok(is_routed && self.crowd.as_ref().is_none_or(|crowd| crowd.sightings(name).len() >= mirrors))
            },
            || format!("{name} is not known everywhere"),
        )
    }

    fn note(
        &self,
        samples: &mut Samples,
        (newcomer, name): (usize, &str),
        (begin, (known, block)): (Instant, (Instant, Ipv4Net)),
    ) -> Result<()> {
        let (case, nodes) = (self.case.name, self.case.real + self.case.simulated);
        let on_each = self.routes.look(|tables| {
            let others = tables.iter().enumerate().filter(|(number, _)| *number != newcomer);
            others.filter_map(|(_, table)| table.since.get(&block).copied()).collect::<Vec<_>>()
        })?;
        let who = if newcomer == usize::MAX { SIMULATED } else { REAL };
        samples.note(case, who.known, nodes, known - begin);
        for at in &on_each {
            samples.note(case, who.route, nodes, *at - begin);
            samples.note(case, who.route_after_known, nodes, at.saturating_duration_since(known));
        }
        let last = on_each.iter().max().context("no route to it anywhere")?;
        samples.note(case, who.last, nodes, *last - begin);
        let own = self.routes.look(|tables| tables.get(newcomer).and_then(last_route))?;
        own.into_iter().for_each(|at| samples.note(case, "newcomer-has-all-routes", nodes, at - begin));
        let sightings = self.crowd.as_ref().map(|crowd| crowd.sightings(name)).unwrap_or_default();
        sightings.iter().for_each(|at| samples.note(case, who.mirror, nodes, *at - begin));
        sightings.iter().max().into_iter().for_each(|at| samples.note(case, who.mirror_last, nodes, *at - begin));
        Ok(())
    }

    /// The last member's daemon is killed and started again at once: it keeps its lease's time and its block. Says how many
    /// routes to it were lost meanwhile.
    pub(super) fn restart(&mut self, times: u32, every: Duration) -> Result<usize> {
        let number = self.members.len() - 1;
        let block = self.block_of(number)?;
        let begin = Instant::now();
        for time in 1..=times {
            self.members[number].kill();
            let setup = self.setup(LEASE);
            self.members[number].start(&setup)?;
            sleep((begin + every * time).saturating_duration_since(Instant::now()));
        }
        self.routes.look(|tables| {
            let lost = |table: &&Table| table.gone.get(&block).is_some_and(|at| *at > begin);
            tables.iter().enumerate().filter(|(at, _)| *at != number).filter(|(_, table)| lost(table)).count()
        })
    }

    /// The last member goes, its lease ends, and it comes back.
    pub(super) fn lapse(&mut self, samples: &mut Samples) -> Result<()> {
        let (case, nodes, number) = (self.case.name, self.case.real + self.case.simulated, self.members.len() - 1);
        let block = self.block_of(number)?;
        let others = |tables: &[Table], has: bool| {
            tables
                .iter()
                .enumerate()
                .filter(|(at, table)| *at != number && table.since.contains_key(&block) == has)
                .count()
        };
        let all = self.members.len() - 1;
        let begin = Instant::now();
        self.members[number].kill();
        self.until_all(|tables| others(tables, false) == all)?;
        let gone = self.when(number, |table| table.gone.get(&block).copied())?;
        gone.iter().for_each(|at| samples.note(case, "killed-to-route-gone", nodes, *at - begin));
        let begin = Instant::now();
        let setup = self.setup(SHORT_LEASE);
        self.members[number].start(&setup)?;
        self.until_all(|tables| others(tables, true) == all)?;
        let back = self.when(number, |table| table.since.get(&block).copied())?;
        back.iter().for_each(|at| samples.note(case, "started-to-route-back", nodes, *at - begin));
        sleep(REST);
        Ok(())
    }

    /// The last member flaps with a short lease from now on.
    pub(super) fn shorten(&mut self) -> Result<()> {
        let number = self.members.len() - 1;
        self.members[number].kill();
        let setup = self.setup(SHORT_LEASE);
        self.members[number].start(&setup)?;
        // The lease from before must not end in between.
        sleep(Duration::from_secs(LEASE) + REST);
        self.settle()
    }

    fn until_all(&self, is_so: impl Fn(&[Table]) -> bool) -> Result<()> {
        until(|| self.routes.look(&is_so), || "a route did not come or go".to_owned())
    }

    fn when(&self, but: usize, at: impl Fn(&Table) -> Option<Instant>) -> Result<Vec<Instant>> {
        self.routes.look(|tables| {
            tables.iter().enumerate().filter(|(number, _)| *number != but).filter_map(|(_, table)| at(table)).collect()
        })
    }

    fn block_of(&self, number: usize) -> Result<Ipv4Net> {
        let name = &self.members.get(number).context("no such member")?.name;
        Ok(self.watch.known(name).context("it has no block")?.1)
    }
}

/// What is noted of a newcomer.
struct Ops {
    known: &'static str,
    route: &'static str,
    route_after_known: &'static str,
    last: &'static str,
    mirror: &'static str,
    mirror_last: &'static str,
}

const REAL: Ops = Ops {
    known: "join-to-bare-watch",
    route: "join-to-route",
    route_after_known: "bare-watch-to-route",
    last: "join-to-last-route",
    mirror: "join-to-mirror",
    mirror_last: "join-to-last-mirror",
};
const SIMULATED: Ops = Ops {
    known: "record-to-bare-watch",
    route: "record-to-route",
    route_after_known: "bare-watch-to-route-of-record",
    last: "record-to-last-route",
    mirror: "record-to-mirror",
    mirror_last: "record-to-last-mirror",
};

impl Reading {
    /// What was spent since, less what would have been spent anyway.
    pub(super) fn since(&self, before: &Self, idle: &Spent) -> Spent {
        let seconds = (self.at - before.at).as_secs_f64();
        let octets = |now: u64, then: u64| now.saturating_sub(then) as f64;
        Spent {
            to_store: octets(self.octets.to_store, before.octets.to_store) - idle.to_store * seconds,
            from_store: octets(self.octets.from_store, before.octets.from_store) - idle.from_store * seconds,
            worked: self.worked.saturating_sub(before.worked).as_secs_f64() - idle.worked * seconds,
            store: self.store.saturating_sub(before.store).as_secs_f64() - idle.store * seconds,
        }
    }
}

impl Spent {
    pub(super) fn divided(self, by: f64) -> Self {
        let Self { to_store, from_store, worked, store } = self;
        Self { to_store: to_store / by, from_store: from_store / by, worked: worked / by, store: store / by }
    }
}

/// Routes to blocks, and not the one that keeps the rest of the pool from leaving.
fn peers(table: &Table) -> usize {
    table.since.keys().filter(|to| to.prefix_len() == 26).count()
}

fn last_route(table: &Table) -> Option<Instant> {
    table.since.iter().filter(|(to, _)| to.prefix_len() == 26).map(|(_, at)| *at).max()
}

fn until(is_so: impl Fn() -> Result<bool>, what: impl Fn() -> String) -> Result<()> {
    until_every(PAUSE, is_so, what)
}

fn until_every(pause: Duration, is_so: impl Fn() -> Result<bool>, what: impl Fn() -> String) -> Result<()> {
    let start = Instant::now();
    while !is_so()? {
        if start.elapsed() > PATIENCE {
            bail!("after {PATIENCE:?}: {}", what());
        }
        sleep(pause);
    }
    Ok(())
}
