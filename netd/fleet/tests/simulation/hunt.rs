//! How many schedules it takes to find a broken rule. A simulation that finds nothing wrong with these shows nothing.
//! `NETD_FLEET_RULE=TEXT` hunts for those that say so (`A|B`: either), and tells how each is found.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use crate::driver::Driver;
use crate::laws::Law;
use crate::schedule::Schedule;
use crate::story;

const RULE: &str = "NETD_FLEET_RULE";
const SCHEDULES: &str = "NETD_FLEET_SCHEDULES";
/// In the suite. What is known to be deep is not hunted for in it.
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
    let is_suite = [RULE, SCHEDULES].iter().all(|name| std::env::var_os(name).is_none());
    let rules: Vec<&Hunted> = rules.iter().filter(|one| !is_suite || !deep.contains(&one.rule)).collect();
    let next = AtomicUsize::new(0);
    let found = thread::scope(|scope| {
        let other = scope.spawn(|| hunt_some(&rules, &next));
        let mut found = hunt_some(&rules, &next);
        found.extend(other.join().unwrap());
        found
    });
    let missed = found.into_iter().filter(|(rule, found)| found.is_none() && !deep.contains(rule));
    let missed: Vec<_> = missed.map(|(rule, _)| rule).collect();
    assert!(missed.is_empty(), "not found: {missed:#?}");
}

/// One after the other, as long as there is one that nobody hunts for yet.
fn hunt_some(rules: &[&Hunted], next: &AtomicUsize) -> Vec<Found> {
    let wanted = std::env::var(RULE).ok();
    let is_wanted =
        |one: &&Hunted| wanted.as_ref().is_none_or(|wanted| wanted.split('|').any(|wanted| one.rule.contains(wanted)));
    let taken = std::iter::from_fn(|| rules.get(next.fetch_add(1, Ordering::Relaxed)).copied());
    taken.filter(is_wanted).map(|hunted| (hunted.rule, hunt(hunted, wanted.is_some()))).collect()
}

/// The median of all hunts.
fn hunt(hunted: &Hunted, is_told: bool) -> Option<(u64, Law)> {
    (hunted.prepare)();
    let schedules = story::number(SCHEDULES);
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
