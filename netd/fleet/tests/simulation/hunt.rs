//! How many schedules it takes to find a broken rule. A simulation that finds nothing wrong with these shows nothing.
//! `NETD_FLEET_RULE=TEXT` hunts for those that say so (`A|B`: either), and tells how each is found.

use std::thread;

use crate::driver::Driver;
use crate::laws::Law;
use crate::schedule::Schedule;
use crate::story;

/// In the suite. What is known to be deep need not be found by it.
const PATIENCE: u64 = 2_000;
/// Where the hunts begin; the suite has the first only.
const BASES: [u64; 5] = [0, 1 << 32, 2 << 32, 3 << 32, 4 << 32];

pub(crate) struct Hunted {
    pub(crate) rule: &'static str,
    pub(crate) driver: Driver,
    /// Breaks it, for this thread.
    pub(crate) prepare: Box<dyn Fn() + Send + Sync>,
}

/// A rule, the schedules it took, and the law that was broken; none: it was not found.
type Found = (&'static str, Option<(u64, Law)>);

/// Finds each of them, and prints how.
pub(crate) fn hunt_all(rules: &[Hunted], deep: &[&str]) {
    let every = |first: usize| rules.iter().skip(first).step_by(2).collect::<Vec<_>>();
    let found = thread::scope(|scope| {
        let half = scope.spawn(|| hunt_some(&every(1)));
        let mut found = hunt_some(&every(0));
        found.extend(half.join().unwrap());
        found
    });
    let missed = found.into_iter().filter(|(rule, found)| found.is_none() && !deep.contains(rule));
    let missed: Vec<_> = missed.map(|(rule, _)| rule).collect();
    assert!(missed.is_empty(), "not found: {missed:#?}");
}

fn hunt_some(rules: &[&Hunted]) -> Vec<Found> {
    let wanted = std::env::var("NETD_FLEET_RULE").ok();
    let is_wanted =
        |one: &&&Hunted| wanted.as_ref().is_none_or(|wanted| wanted.split('|').any(|wanted| one.rule.contains(wanted)));
    rules.iter().filter(is_wanted).map(|hunted| (hunted.rule, hunt(hunted, wanted.is_some()))).collect()
}

/// The median of all hunts.
fn hunt(hunted: &Hunted, is_told: bool) -> Option<(u64, Law)> {
    (hunted.prepare)();
    let schedules = story::number("NETD_FLEET_SCHEDULES");
    let (bases, patience) = schedules.map_or((&BASES[..1], PATIENCE), |schedules| (&BASES[..], schedules));
    let mut counts: Vec<_> = bases.iter().map(|base| first(hunted.driver, *base, patience)).collect();
    counts.sort_unstable();
    let (count, found) = counts[counts.len() / 2];
    let law = found.map_or_else(|| "not found".to_owned(), |(law, _)| format!("{law:?}"));
    story::say(&format!("{count:>7}  {law:<12} {}", hunted.rule));
    let (law, seed) = found?;
    if is_told {
        let short = story::shortened(Schedule::drawn(seed), hunted.driver);
        story::say(&story::tale(&short, hunted.driver));
    }
    Some((count, law))
}

/// How many schedules it took, and which law was broken, by which seed.
fn first(driver: Driver, base: u64, patience: u64) -> (u64, Option<(Law, u64)>) {
    let law = |seed: u64| story::play(&Schedule::drawn(seed), driver).err().map(|fault| fault.law);
    let found = (0..patience).find_map(|count| law(base + count).map(|law| (count + 1, Some((law, base + count)))));
    found.unwrap_or((patience, None))
}
