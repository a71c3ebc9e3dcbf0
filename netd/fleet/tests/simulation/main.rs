//! The protocol under every fault at once, from seeds. `NETD_FLEET_SCHEDULES=N` runs more of them, `NETD_FLEET_SEED=S` tells
//! one.

#![expect(clippy::unwrap_used, clippy::unwrap_in_result, reason = "a fault of the simulation ends it")]

mod chance;
mod machine;
mod store;
mod variant;
mod world;

use std::thread;

use variant::Variant;
use world::{Tally, World};

/// In the suite.
const SCHEDULES: u64 = 2_000;
/// A broken variant must be found within so many.
const PATIENCE: u64 = 20_000;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().unwrap())
}

fn play(seed: u64, variant: Variant, is_told: bool) -> Result<Tally, (String, Vec<String>)> {
    let mut world = World::new(seed, variant, is_told);
    let events = 200 + usize::try_from(seed % 7).unwrap() * 150;
    let end = |world: &mut World| if variant == Variant::Sound { world.settle_down() } else { Ok(()) };
    match world.run(events).and_then(|()| end(&mut world)) {
        Ok(()) => Ok(world.tally),
        Err(fault) => Err((fault, world.story)),
    }
}

fn play_many(seeds: impl Iterator<Item = u64>) -> Tally {
    let mut tally = Tally::default();
    for seed in seeds {
        match play(seed, Variant::Sound, false) {
            Ok(one) => tally.add(&one),
            Err((fault, _)) => panic!("seed {seed}: {fault}; NETD_FLEET_SEED={seed} tells it"),
        }
    }
    tally
}

#[test]
fn no_address_is_used_by_two_nodes() {
    if let Some(seed) = number("NETD_FLEET_SEED") {
        if let Err((fault, story)) = play(seed, Variant::Sound, true) {
            panic!("{}\n{fault}", story.join("\n"));
        }
        return;
    }
    let schedules = number("NETD_FLEET_SCHEDULES").unwrap_or(SCHEDULES);
    let half = thread::spawn(move || play_many((0..schedules).step_by(2)));
    let mut tally = play_many((1..schedules).step_by(2));
    tally.add(&half.join().unwrap());
    println!("{tally:?}");
    // What never happened was not shown.
    assert_eq!(tally.schedules, schedules);
    assert!(tally.confirmed > schedules, "{tally:?}");
    assert!(tally.forgotten > 0 && tally.settled > 0 && tally.disputes > 0 && tally.repeated > 0, "{tally:?}");
    assert!(2 * tally.settled_down > schedules, "{tally:?}");
}

/// The first schedule in which a broken variant gives an address to two nodes.
fn found(variant: Variant) -> u64 {
    let is_double = |seed: &u64| {
        let fault = play(*seed, variant, false).err().map(|(fault, _)| fault);
        fault.is_some_and(|fault| fault.contains(" uses "))
    };
    let found = (0..PATIENCE).find(is_double);
    found.unwrap_or_else(|| panic!("{variant:?} was not found in {PATIENCE} schedules"))
}

macro_rules! broken {
    ($($name:ident: $variant:ident),+ $(,)?) => {$(
        #[test]
        fn $name() {
            let seed = found(Variant::$variant);
            println!("{:?}: found in schedule {seed}", Variant::$variant);
        }
    )+};
}

broken! {
    a_claim_that_ends_with_its_lease_is_found: EndsWithTheLease,
    an_unnoticed_set_back_is_found: NoIncarnation,
    a_claim_without_witnesses_is_found: NoWitnesses,
    a_block_used_before_it_is_confirmed_is_found: UsedUnconfirmed,
    a_node_known_by_its_name_only_is_found: ByName,
}
