//! A schedule that breaks a law, as short as it can be made by leaving events out, told.

use crate::driver::Driver;
use crate::laws::Fault;
use crate::protocol::{Claim, Key, Memory, Phase, Record, Txn, Value};
use crate::schedule::Schedule;
use crate::world::{Tally, World};

#[expect(clippy::print_stderr, reason = "a test's own report")]
pub(crate) fn say(line: &str) {
    eprintln!("{line}");
}

pub(crate) fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().unwrap())
}

/// Plays one schedule.
pub(crate) fn play(schedule: &Schedule, driver: Driver) -> Result<(Tally, u64), Fault> {
    let mut world = World::new(schedule.salt, driver, false);
    world.play(schedule)?;
    Ok((world.tally, world.digest))
}

/// The shortest schedule found that breaks a law still: halves are left out, then quarters, and so on.
pub(crate) fn shortened(mut schedule: Schedule, driver: Driver) -> Schedule {
    let mut length = schedule.steps.len() / 2;
    while length > 0 {
        let mut start = 0;
        let before = schedule.steps.len();
        while start < schedule.steps.len() {
            let mut shorter = schedule.clone();
            let end = (start + length).min(shorter.steps.len());
            shorter.steps.drain(start..end);
            if play(&shorter, driver).is_err() {
                schedule = shorter;
            } else {
                start += length;
            }
        }
        if length > 1 || schedule.steps.len() == before {
            length /= 2;
        }
    }
    schedule
}

/// What happens in it, and how it ends.
pub(crate) fn tale(schedule: &Schedule, driver: Driver) -> String {
    let mut world = World::new(schedule.salt, driver, true);
    let end = world.play(schedule);
    let mut lines = world.story.unwrap_or_default();
    lines.push(end.map_or_else(|fault| fault.to_string(), |()| "it ends well".to_owned()));
    lines.join("\n")
}

pub(crate) fn txn(txn: &Txn) -> String {
    let puts = txn.put.iter().map(|(key, value)| put(key, value));
    puts.chain(txn.delete.iter().map(|key| format!("no {key:?}"))).collect::<Vec<_>>().join(", ")
}

pub(crate) fn memory(memory: &Memory) -> String {
    let charter = memory.charter.as_ref().map_or(0, |charter| charter.number);
    let table = memory.table.iter().map(|(block, record)| format!("{block}: {}", told(record)));
    let holdings =
        memory.holdings.iter().map(|(id, one)| format!("{:.4} {:?} {}", id.to_string(), one.state, one.range()));
    let (table, holdings) = (table.collect::<Vec<_>>().join(", "), holdings.collect::<Vec<_>>().join(", "));
    format!("charter {charter}; {table}; holds {holdings}")
}

fn put(key: &Key, value: &Value) -> String {
    match (key, value) {
        (Key::Block(block), Value::Record(record)) => format!("{block}: {}", told(record)),
        (Key::Ack(ack), _) => format!("{:.4} remembers {:.4}", ack.witness.to_string(), ack.record.to_string()),
        (_, Value::Charter(charter)) => {
            let phase = match &charter.phase {
                Phase::Open => "open".to_owned(),
                Phase::Settling(settling) => {
                    format!("told by {}, adopted by {}", settling.merged.len(), settling.adopted.len())
                }
            };
            let (number, pools) = (charter.number, charter.plan.pools().len());
            format!("charter {number} of {} witnesses, {pools} pools, {phase}", charter.witnesses.len())
        }
        (key, value) => format!("{key:?}: {value:?}"),
    }
}

fn told(record: &Record) -> String {
    let part = |claim: &Claim| claim.part.map_or_else(String::new, |part| format!(" to {part}"));
    let claims =
        record.claims.iter().map(|(id, claim)| format!("{:.4} of {}{}", id.to_string(), claim.name, part(claim)));
    let claims = claims.collect::<Vec<_>>().join(" and ");
    let sealed = if record.sealed { "sealed, " } else { "" };
    format!("{sealed}{:.4}, epoch {}, [{claims}]", record.id.to_string(), record.epoch)
}
