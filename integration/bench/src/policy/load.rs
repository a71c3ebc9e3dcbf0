//! Ten thousand policies over a thousand sandboxes: until they are in the kernel, and until it knows of one sandbox more.

use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Result, ensure};

use super::rules::{APPS, app, namespace, town};
use super::town::Town;
use crate::network::Writing;
use crate::samples::Samples;
use crate::say;

pub(super) const CASE: &str = "policy";
/// Between two changes: what one loses is cut behind its answer, and the next would wait for that.
const REST: Duration = Duration::from_millis(30);

/// How much is loaded, and how often.
#[derive(Debug, Clone, Copy)]
pub(super) struct Size {
    pub(super) policies: usize,
    pub(super) sandboxes: usize,
    loads: usize,
    changes: usize,
}

pub(super) const FULL: Size = Size { policies: 10_000, sandboxes: 1_000, loads: 5, changes: 200 };
pub(super) const QUICK: Size = Size { policies: 1_000, sandboxes: 100, loads: 3, changes: 200 };

/// Elements of the kernel's sets while all is in force.
pub(super) type Held = usize;

pub(super) fn measure(netd: &Path, size: Size, samples: &mut Samples) -> Result<Held> {
    say(&format!("== {} policies, {} sandboxes", size.policies, size.sandboxes));
    let spaces = size.sandboxes / APPS;
    let mut people = Town::new(netd, Writing::Open)?;
    for number in 0..size.sandboxes {
        people.attach()?;
        people.describe(number, &namespace(number / APPS), &app(number % APPS))?;
    }
    let texts: Vec<String> = (0..spaces).map(|space| town(space, size.policies / spaces)).collect();
    for load in 0..size.loads {
        samples.note(CASE, "load", size.sandboxes, people.load(&texts, size.policies)?);
        if load + 1 < size.loads {
            samples.note(CASE, "unload", size.sandboxes, people.unload()?);
        }
    }
    let held = held(&people)?;
    ensure!(held >= size.sandboxes, "the kernel holds {held} elements only");
    change(&mut people, size, samples)?;
    for _ in 0..size.loads {
        samples.note(CASE, "restart", size.sandboxes, people.restart(netd)?);
    }
    Ok(held)
}

/// One more is attached, described, is somebody else, and goes.
fn change(people: &mut Town, size: Size, samples: &mut Samples) -> Result<()> {
    let newest = people.people.len();
    for turn in 0..size.changes {
        let (here, elsewhere) = (namespace(turn % 10), namespace((turn + 1) % 10));
        samples.note(CASE, "attach", size.sandboxes, people.attach()?.took);
        sleep(REST);
        samples.note(CASE, "add", size.sandboxes, people.describe(newest, &here, &app(turn % APPS))?);
        sleep(REST);
        samples.note(CASE, "relabel", size.sandboxes, people.describe(newest, &here, &app((turn + 1) % APPS))?);
        sleep(REST);
        samples.note(CASE, "move", size.sandboxes, people.describe(newest, &elsewhere, &app(turn % APPS))?);
        people.detach()?;
    }
    Ok(())
}

/// Who is who, who is isolated, which profile is whose, and the parts of profiles; a range is one.
const SETS: [(&str, &str); 7] = [
    ("map", "class4"),
    ("map", "block4"),
    ("set", "itself4"),
    ("set", "ingress4"),
    ("map", "pairs_in"),
    ("map", "any_in"),
    ("map", "profiles"),
];

/// Elements that are of policies, in all sets of netd's that these fill.
fn held(town: &Town) -> Result<Held> {
    let mut held = 0;
    for (kind, set) in SETS {
        let text = town.node.space.output(&format!("nft -j list {kind} inet netd {set}"))?;
        let value: serde_json::Value = serde_json::from_str(&text)?;
        let objects = value["nftables"].as_array().into_iter().flatten();
        held += objects.filter_map(|object| object[kind]["elem"].as_array()).map(Vec::len).sum::<usize>();
    }
    Ok(held)
}
