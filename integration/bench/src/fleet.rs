//! The bench `fleet`: how long a new node takes until all others route to it, what that costs them and the store, and what a
//! node costs that comes and goes.
//!
//! ```text
//! etcd ──┐                            fleet-vxlan, fleet-direct   real daemons, each in a namespace
//!        ├─ bridge, a namespace ─┬─── netd, netd, netd ...
//! bare ──┘                       └─── simulated: netd-fleet as it is, without daemon and kernel
//! watch                               fleet-1000: ten real daemons among them
//! ```

mod course;
mod crowd;
mod floor;
mod ground;
mod member;
mod report;
mod routes;
mod store;
mod watch;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use self::course::{Case, Course, Spent};
use self::report::{Cost, Report, median};
use crate::attach::Settings;
use crate::samples::Samples;
use crate::say;

/// How much of everything.
struct Size {
    real: usize,
    simulated: usize,
    observers: usize,
    stores: usize,
    joins: usize,
    restarts: u32,
    lapses: usize,
    idle: Duration,
}

const FULL: Size = Size {
    real: 200,
    simulated: 990,
    observers: 10,
    stores: 3,
    joins: 30,
    restarts: 10,
    lapses: 5,
    idle: Duration::from_secs(20),
};
const QUICK: Size = Size {
    real: 20,
    simulated: 90,
    observers: 5,
    stores: 1,
    joins: 6,
    restarts: 3,
    lapses: 1,
    idle: Duration::from_secs(5),
};
const RESTART_EVERY: Duration = Duration::from_secs(3);
const A_DAEMONS_MEMORY: &str = "a daemon's memory";

/// Runs the bench and writes `fleet.json` and `fleet-raw.json`.
///
/// # Errors
/// A node was not heard of by all others within two minutes: then there is no result.
pub fn run(settings: &Settings) -> Result<()> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    // A namespace and a socket for each real member, and a connection for each simulated one.
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    let size = if settings.quick { QUICK } else { FULL };
    let netd = settings.programs.netd.to_str().context("the path of netd is no text")?.to_owned();
    let etcd = settings.etcd.as_deref().context("the bench `fleet` needs --etcd PATH")?;
    let cases = chosen(&size, &settings.only)?;
    let mut bench = Bench { samples: Samples::of("nodes"), costs: Vec::new(), start: Instant::now() };
    let is_real = |case: &&Case| case.simulated == 0;
    let course = |case: &Case| Course::new(case.clone(), &netd, etcd);
    let mut courses = cases.iter().filter(is_real).map(course).collect::<Result<Vec<_>>>()?;
    if !courses.is_empty() {
        bench.real(&mut courses, &size)?;
    }
    drop(courses);
    for case in cases.iter().filter(|case| !is_real(case)) {
        bench.simulated(&mut course(case)?, &size)?;
    }
    let largest = cases.iter().map(|case| case.real + case.simulated).max().unwrap_or_default();
    floor::measure(largest, if settings.quick { 3 } else { 20 }, &mut bench.samples)?;
    let report = Report { settings, samples: &bench.samples, costs: bench.costs };
    report.write()?;
    report.say();
    Ok(())
}

/// The cases to measure; names, none: all.
fn chosen(size: &Size, only: &[String]) -> Result<Vec<Case>> {
    let case = |name, encapsulation, (stores, real, simulated)| Case { name, encapsulation, stores, real, simulated };
    let mut cases = vec![
        case("real-vxlan", "vxlan", (size.stores, size.real, 0)),
        case("real-direct", "direct", (size.stores, size.real, 0)),
        case("simulated", "vxlan", (size.stores, size.observers, size.simulated)),
    ];
    if let Some(unknown) = only.iter().find(|name| !cases.iter().any(|case| case.name == name.as_str())) {
        let known: Vec<&str> = cases.iter().map(|case| case.name).collect();
        bail!("no case is called {unknown}; there are {}", known.join(", "));
    }
    cases.retain(|case| only.is_empty() || only.iter().any(|name| name == case.name));
    Ok(cases)
}

struct Bench {
    samples: Samples,
    costs: Vec<Cost>,
    start: Instant,
}

impl Bench {
    fn tell(&self, what: &str) {
        say(&format!("== {what} ({:.0} s)", self.start.elapsed().as_secs_f64()));
    }

    /// The fleets of daemons alone, in turns.
    fn real(&mut self, courses: &mut [Course<'_>], size: &Size) -> Result<()> {
        for to in [1, size.real / 2, size.real] {
            for course in &mut *courses {
                self.tell(&format!("{}: {to} real", course.case.name));
                course.grow(to)?;
            }
            // What was needed for a moment is given back by then, and first looks are over.
            std::thread::sleep(size.idle);
            courses.iter().try_for_each(|course| self.weigh(course))?;
        }
        let idle = courses.iter().map(|course| self.idle(course, size)).collect::<Result<Vec<_>>>()?;
        self.tell("joins");
        for _ in 0..size.joins {
            for (course, idle) in courses.iter_mut().zip(&idle) {
                let spent = course.join(idle, &mut self.samples)?;
                self.spent(course, "a join", &spent);
            }
        }
        for (course, idle) in courses.iter_mut().zip(&idle) {
            self.flap(course, idle, size)?;
        }
        Ok(())
    }

    /// A fleet of simulated members, with some daemons in it.
    fn simulated(&mut self, course: &mut Course<'_>, size: &Size) -> Result<()> {
        let name = course.case.name;
        self.tell(&format!("{name}: {} real", course.case.real));
        course.grow(course.case.real)?;
        self.weigh(course)?;
        self.tell(&format!("{name}: {} simulated", course.case.simulated));
        course.gather(course.case.simulated)?;
        std::thread::sleep(size.idle);
        self.weigh(course)?;
        self.cost(course, "times that a simulated node lost the store", "times", course.lost() as f64);
        let idle = self.idle(course, size)?;
        self.tell("joins");
        for _ in 0..size.joins {
            let spent = course.join_simulated(&idle, &mut self.samples)?;
            self.spent(course, "a record", &spent);
            let spent = course.join(&idle, &mut self.samples)?;
            self.spent(course, "a join", &spent);
        }
        self.cost(course, "times that a simulated node lost the store", "times", course.lost() as f64);
        self.flap(course, &idle, size)
    }

    fn flap(&mut self, course: &mut Course<'_>, idle: &Spent, size: &Size) -> Result<()> {
        let name = course.case.name;
        self.tell(&format!("{name}: one node restarts every {RESTART_EVERY:?}"));
        let before = course.reading()?;
        let lost = course.restart(size.restarts, RESTART_EVERY)?;
        let spent = course.reading()?.since(&before, idle).divided(f64::from(size.restarts));
        self.spent(course, "a restart", &spent);
        self.cost(course, "nodes that lost the route by restarts", "nodes", lost as f64);
        self.tell(&format!("{name}: one node's lease ends and comes back"));
        course.shorten()?;
        for _ in 0..size.lapses {
            let before = course.reading()?;
            course.lapse(&mut self.samples)?;
            let spent = course.reading()?.since(&before, idle);
            self.spent(course, "a lease lost and back", &spent);
        }
        Ok(())
    }

    fn idle(&mut self, course: &Course<'_>, size: &Size) -> Result<Spent> {
        let idle = course.idle(size.idle)?;
        self.spent(course, "a second of nothing", &idle);
        Ok(idle)
    }

    fn weigh(&mut self, course: &Course<'_>) -> Result<()> {
        let resident: Vec<f64> = course.resident_kb()?.into_iter().map(|kb| kb as f64 / 1024.0).collect();
        let (case, nodes) = (course.case.name, course.nodes());
        let first = self.costs.iter().find(|cost| cost.case == case && cost.what == A_DAEMONS_MEMORY);
        let more = first.map(|first| (median(&resident) - median(&first.found)) / (nodes - first.nodes).max(1) as f64);
        if let Some(more) = more {
            let what = format!("{A_DAEMONS_MEMORY} for each peer");
            self.costs.push(Cost { case, what, nodes, unit: "kB", found: vec![more * 1024.0] });
        }
        let store = vec![course.store_kb()? as f64 / 1024.0];
        for (what, found) in [(A_DAEMONS_MEMORY, resident), ("the store's memory", store)] {
            self.costs.push(Cost { case, what: what.to_owned(), nodes, unit: "MB", found });
        }
        Ok(())
    }

    fn spent(&mut self, course: &Course<'_>, by: &str, spent: &Spent) {
        let others = course.members.len().saturating_sub(1).max(1) as f64;
        let words: [(&str, &'static str, f64); 4] = [
            ("to the store", "kB", spent.to_store / 1e3),
            ("from the store", "kB", spent.from_store / 1e3),
            ("one other daemon's work", "ms", spent.worked * 1e3 / others),
            ("the store's work", "ms", spent.store * 1e3),
        ];
        for (what, unit, found) in words {
            self.cost(course, &format!("{what}, {by}"), unit, found);
        }
    }

    fn cost(&mut self, course: &Course<'_>, what: &str, unit: &'static str, found: f64) {
        let (case, nodes) = (course.case.name, course.case.real + course.case.simulated);
        match self.costs.iter_mut().find(|cost| cost.case == case && cost.what == what && cost.nodes == nodes) {
            Some(cost) => cost.found.push(found),
            None => self.costs.push(Cost { case, what: what.to_owned(), nodes, unit, found: vec![found] }),
        }
    }
}
