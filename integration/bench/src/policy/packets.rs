//! What each packet pays: the same pair of sandboxes under no table, netd's rules, and linear ones, in turns.

use std::path::Path;

use anyhow::{Result, bail};

use super::parts::PARTS;
use super::path::{Course, Way};
use super::probe::{OPS, STREAM};
use crate::attach::Settings;
use crate::network::Writing;
use crate::samples::Samples;
use crate::say;

pub(super) const NONE: &str = "no-table";
/// The same again: what differs between the two is the measurement's own.
pub(super) const AGAIN: &str = "no-table-again";
pub(super) const NETD: &str = "netd";
pub(super) const LINEAR: &str = "iptables";
pub(super) const BRIDGE_NONE: &str = "bridge-no-table";
pub(super) const BRIDGE_AGAIN: &str = "bridge-no-table-again";
pub(super) const BRIDGE: &str = "bridge";
/// With `br_netfilter`, that is, and ten rules.
pub(super) const FILTERED: &str = "bridge-filtered";
pub(super) const RULES: [usize; 4] = [0, 10, 1_000, 100_000];

/// Exchanges of which the median is one sample; a stream is one by itself.
const EXCHANGES: usize = 50;

/// Of the named cases; without names, of all.
pub(super) fn measure(settings: &Settings, only: &[String], samples: &mut Samples) -> Result<()> {
    say("== packets");
    let mut courses = courses(&settings.programs.netd, only)?;
    let rounds = if settings.quick { 60 } else { 600 };
    for _ in 0..rounds {
        for course in &mut courses {
            for op in OPS {
                let mut took = Vec::new();
                for _ in 0..if op == STREAM { 1 } else { EXCHANGES } {
                    took.push(course.pair.measure(op)?);
                }
                took.sort_unstable();
                let median = took.get(took.len() / 2).copied().unwrap_or_default();
                samples.note(&case(course.name, course.rules), op, 2, median);
            }
        }
        courses.rotate_left(1);
    }
    Ok(())
}

/// How a case is called in the results.
pub(super) fn case(name: &str, rules: usize) -> String {
    if rules == 0 { name.to_owned() } else { format!("{name}-{rules}") }
}

fn courses(netd: &Path, only: &[String]) -> Result<Vec<Course>> {
    let mut plan = vec![(NONE, Writing::Open, Way::Bare), (AGAIN, Writing::Open, Way::Bare)];
    plan.extend(RULES.map(|rules| (NETD, Writing::Open, Way::Netd(rules))));
    plan.extend(RULES.into_iter().filter(|rules| *rules > 0).map(|rules| (LINEAR, Writing::Open, Way::Linear(rules))));
    plan.extend(PARTS.map(|(name, text)| (name, Writing::Open, Way::Table(text))));
    plan.extend([BRIDGE_NONE, BRIDGE_AGAIN].map(|name| (name, Writing::One, Way::Bare)));
    plan.push((BRIDGE, Writing::One, Way::Netd(0)));
    plan.push((FILTERED, Writing::One, Way::Netd(10)));
    keep(&mut plan, only)?;
    let lay = |(name, writing, way)| {
        say(&format!("   {name}: {way:?}"));
        Course::new(netd, name, writing, way)
    };
    plan.into_iter().map(lay).collect()
}

/// Keeps the named cases; without names, all.
fn keep(plan: &mut Vec<(&'static str, Writing, Way)>, only: &[String]) -> Result<()> {
    let name = |(name, _, way): &(&str, Writing, Way)| case(name, way.rules());
    let known: Vec<String> = plan.iter().map(name).collect();
    if let Some(unknown) = only.iter().find(|name| !known.contains(name)) {
        bail!("no case is called {unknown}; there are {}", known.join(", "));
    }
    plan.retain(|one| only.is_empty() || only.contains(&name(one)));
    Ok(())
}
