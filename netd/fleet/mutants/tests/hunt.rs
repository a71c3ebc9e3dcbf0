//! Every rule of the protocol, broken, must be found by the simulation: its schedules, faults and laws are the same.

#![expect(clippy::unwrap_used, clippy::unwrap_in_result, reason = "a fault of the simulation ends it")]

extern crate netd_fleet_mutants as protocol;

#[path = "../../tests/simulation/chance.rs"]
mod chance;
#[path = "../../tests/simulation/driver.rs"]
mod driver;
#[path = "../../tests/simulation/faults.rs"]
mod faults;
#[path = "../../tests/simulation/heal.rs"]
mod heal;
#[path = "../../tests/simulation/hunt.rs"]
mod hunt;
#[path = "../../tests/simulation/laws.rs"]
mod laws;
#[path = "../../tests/simulation/machine.rs"]
mod machine;
#[path = "../../tests/simulation/schedule.rs"]
mod schedule;
#[path = "../../tests/simulation/store.rs"]
mod store;
#[path = "../../tests/simulation/story.rs"]
mod story;
#[path = "../../tests/simulation/tales.rs"]
mod tales;
#[path = "../../tests/simulation/world.rs"]
#[expect(dead_code, reason = "many schedules are counted in the simulation")]
mod world;

use driver::Driver;
use hunt::{Hunted, hunt_all};
use protocol::{DEEP, MUTANTS, break_rule};
use schedule::Schedule;

#[test]
fn every_broken_rule_is_found() {
    let hunted = MUTANTS.iter().enumerate().map(|(number, mutant)| Hunted {
        rule: mutant.rule,
        driver: Driver::Sound,
        prepare: Box::new(move || break_rule(Some(number))),
    });
    let drivers = driver::BROKEN.iter().map(|(rule, driver)| Hunted {
        rule,
        driver: *driver,
        prepare: Box::new(|| break_rule(None)),
    });
    hunt_all(&drivers.chain(hunted).collect::<Vec<_>>(), DEEP);
}

#[test]
fn every_rule_that_may_be_missed_is_there() {
    let unknown: Vec<_> = DEEP.iter().filter(|rule| !MUTANTS.iter().any(|mutant| mutant.rule == **rule)).collect();
    assert!(unknown.is_empty(), "there are no such rules any more: {unknown:?}");
}

/// What is found above is not found by the copying.
#[test]
fn with_no_rule_broken_the_copy_is_sound() {
    for seed in 0..100 {
        story::play(&Schedule::drawn(seed), Driver::Sound).unwrap();
    }
}
