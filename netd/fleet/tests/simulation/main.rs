//! The protocol under every fault at once, from seeds. `NETD_FLEET_SCHEDULES=N` runs more of them, from
//! `NETD_FLEET_FIRST=S` on, `NETD_FLEET_SEED=S` tells one.

#![expect(clippy::unwrap_used, clippy::unwrap_in_result, reason = "a fault of the simulation ends it")]

extern crate netd_fleet as protocol;

mod chance;
#[expect(dead_code, reason = "what is broken is hunted in netd-fleet-mutants")]
mod driver;
mod faults;
mod heal;
mod laws;
mod machine;
mod schedule;
mod store;
mod story;
mod tales;
mod world;

use std::thread;

use driver::Driver;
use schedule::Schedule;
use world::Tally;

/// In the suite.
const SCHEDULES: u64 = 2_000;
/// Played twice.
const TWICE: u64 = 100;

fn play_many(seeds: impl Iterator<Item = u64>) -> Tally {
    let mut tally = Tally::default();
    for seed in seeds {
        let schedule = Schedule::drawn(seed);
        match story::play(&schedule, Driver::Sound) {
            Ok((one, _)) => tally.add(&one),
            Err(fault) => {
                let short = story::shortened(schedule, Driver::Sound);
                panic!("seed {seed}: {fault}\n{}", story::tale(&short, Driver::Sound));
            }
        }
    }
    tally
}

#[test]
fn no_law_is_broken() {
    if let Some(seed) = story::number("NETD_FLEET_SEED") {
        story::say(&story::tale(&Schedule::drawn(seed), Driver::Sound));
        return;
    }
    let schedules = story::number("NETD_FLEET_SCHEDULES").unwrap_or(SCHEDULES);
    let first = story::number("NETD_FLEET_FIRST").unwrap_or(0);
    let half = thread::spawn(move || play_many((first..first + schedules).step_by(2)));
    let mut tally = play_many((first + 1..first + schedules).step_by(2));
    tally.add(&half.join().unwrap());
    story::say(&format!("{tally:?}"));
    // What never happened was not shown.
    assert_eq!(tally.schedules, schedules);
    assert!(tally.confirmed > schedules, "{tally:?}");
    assert!(tally.forgotten > 0 && tally.settled > 0 && tally.disputes > 0 && tally.late > 0, "{tally:?}");
    assert!(tally.parted > schedules / 2 && tally.tenants > schedules / 4, "{tally:?}");
    assert!(tally.grown > schedules / 4, "{tally:?}");
    assert!(2 * tally.settled_down > schedules, "{tally:?}");
}

#[test]
fn a_seed_tells_the_same_always() {
    for seed in 0..TWICE {
        let play = || story::play(&Schedule::drawn(seed), Driver::Sound).unwrap();
        assert_eq!(play(), play(), "seed {seed}");
    }
}
