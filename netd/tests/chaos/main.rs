//! What may happen to a fleet on a real etcd of three members, one scenario each: no address is given twice, routes are right
//! soon after all is healed, and what the nodes' sandboxes say to each other meanwhile is not lost. Needs root, `ip`, `nft`.
//!
//! Each says how long the routes took; two seconds are promised, and more are borne with on a busy machine.
#![expect(clippy::unwrap_used, reason = "helpers of tests stand outside of them")]

mod clock;
#[path = "../rig/mod.rs"]
mod rig;
mod store;
mod traffic;
mod world;

use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::clock::Clock;
use crate::rig::nodes::soon;
use crate::store::PORTS;
use crate::world::World;

/// `netd.toml`'s own; and one that is over within a test, and that a machine which stands still for a moment does not end.
const LONG: u64 = 10;
const SHORT: u64 = 5;
/// In an emulator. Ten years are over in all of them.
const IN_A_GUEST: u64 = 60;

/// What comes to light after everything is right.
const LEAST: Duration = Duration::from_secs(1);
/// Longer than a short lease.
const AWAY: Duration = Duration::from_secs(7);
/// Within a long one.
const A_WHILE: Duration = Duration::from_secs(3);

#[test]
fn a_member_dies_and_the_leader_dies_and_nobody_notices() {
    let mut world = World::new("a member dies", LONG);
    world.store.kill(0);
    let begin = Instant::now();
    // It comes while the member is away.
    world.start(3);
    world.right_meanwhile(begin, "a member died and a node came");
    world.attach(0, "second");
    world.store.launch(0);
    world.right("the member is back");
    let leader = world.store.leads(&world.nodes);
    let begin = Instant::now();
    world.store.kill(leader);
    world.nodes.all[3].kill();
    world.start(3);
    world.attach(3, "first");
    world.right_meanwhile(begin, "the leader died and a node came again");
    world.store.launch(leader);
    world.right("the leader is back");
    world.no_address_is_given_twice();
    world.nothing_is_lost();
}

#[test]
fn all_members_die_and_nodes_go_on_with_what_they_have() {
    let mut world = World::new("all members die", SHORT);
    world.store.kill_all();
    sleep(AWAY);
    world.nodes.all[1].kill();
    world.start(1);
    world.attach_all("meanwhile");
    // A new node has to wait.
    world.start(3);
    world.no_address_is_given_twice();
    world.nothing_is_lost();
    let begin = Instant::now();
    world.store.launch_all();
    soon("the members agree", || world.store.leader(&world.nodes).is_some());
    world.say(&format!("the members agree {} ms after they are back", begin.elapsed().as_millis()));
    world.right("the members agree");
    world.attach(3, "first");
    world.no_address_is_given_twice();
    world.nothing_is_lost();
}

#[test]
fn a_member_is_cut_off_from_the_others_and_so_is_the_leader() {
    let mut world = World::new("a member is cut off", LONG);
    let leader = world.store.leads(&world.nodes);
    for (at, first) in [((leader + 1) % 3, true), (leader, false)] {
        let others: Vec<&str> = PORTS.into_iter().filter(|port| *port != PORTS[at]).collect();
        world.cut(&[PORTS[at]], &others);
        sleep(A_WHILE);
        let begin = Instant::now();
        if first {
            world.start(3);
        } else {
            world.nodes.all[3].kill();
            world.start(3);
        }
        // Its peers are on either side: all of them come to where the majority is.
        world.right_meanwhile(begin, "a node came meanwhile");
        world.attach(3, if first { "first" } else { "second" });
        world.heal();
        world.right("the members meet again");
    }
    world.no_address_is_given_twice();
    world.nothing_is_lost();
}

/// Not for as long as its lease lasts. Others change meanwhile, and the members forget what it has not heard.
#[test]
fn a_node_is_cut_off_from_the_store_for_a_while() {
    let mut world = World::new("a node is cut off from the store", 2 * LONG);
    for (number, away) in (1..).zip([1_500, 3_200, 5_000]) {
        world.cut(&["m1"], &PORTS);
        let begin = Instant::now();
        world.grow(1, number);
        world.store.stir(&world.nodes);
        world.store.compact(&world.nodes);
        world.attach(0, &format!("after-{number}"));
        assert!(world.wrong().is_some_and(|text| text.starts_with("n1 ")), "it cannot have heard: {:?}", world.wrong());
        sleep(Duration::from_millis(away).saturating_sub(begin.elapsed()));
        world.heal();
        world.right(&format!("{away} ms without the store"));
    }
    world.no_address_is_given_twice();
    world.nothing_is_lost();
}

/// Longer than its lease: others take their routes to it away, and have them again.
#[test]
fn a_node_is_cut_off_from_the_store_for_longer_than_its_lease() {
    let mut world = World::new("a node is cut off for longer than its lease", SHORT);
    world.cut(&["m1"], &PORTS);
    soon("its routes are gone", || !world.nodes.all[1].routes().contains("via 192.0.2.1 "));
    world.attach(0, "meanwhile");
    world.attach(1, "meanwhile");
    sleep(AWAY);
    world.heal();
    world.right("it reaches the store again");
    world.no_address_is_given_twice();
    world.nothing_is_lost_but(|from, to| from == 1 || to == 1);
}

/// Each node's presence ends in the store. Whoever is the first to come back must not take the others for gone.
#[test]
fn all_nodes_are_cut_off_from_the_store_for_longer_than_their_leases() {
    let mut world = World::new("all nodes are cut off from the store", SHORT);
    for round in 0..3 {
        world.cut(&["m1", "m2", "m3"], &PORTS);
        world.attach_all(&format!("meanwhile-{round}"));
        sleep(AWAY);
        world.heal();
        world.right("they reach the store again");
        world.no_address_is_given_twice();
        sleep(LEAST);
    }
    world.nothing_is_lost();
}

#[test]
fn nodes_are_cut_off_from_each_other_and_from_the_store() {
    let mut world = World::new("nodes are cut off from each other", LONG);
    let before: Vec<String> = world.nodes.all[..3].iter().map(|node| node.routes()).collect();
    world.cut(&["m1"], &["m2"]);
    sleep(A_WHILE);
    world.heal();
    let healed = Instant::now();
    world.right("two nodes meet again");
    world.nothing_is_lost_but(|from, to| from + to == 3);
    let first = world.flows.iter().filter_map(|flow| flow.answered_since(healed)).max().unwrap();
    world.say(&format!("the last echo is back {} ms after the healing", (first - healed).as_millis()));
    assert_eq!(world.nodes.all[..3].iter().map(|node| node.routes()).collect::<Vec<_>>(), before);
    world.restart_count();
    // One from everything.
    let rest: Vec<&str> = ["m2", "m3"].into_iter().chain(PORTS).collect();
    world.cut(&["m1"], &rest);
    sleep(A_WHILE);
    world.heal();
    world.right("a node meets all again");
    world.attach(0, "second");
    world.no_address_is_given_twice();
    world.nothing_is_lost_but(|from, to| from == 1 || to == 1);
}

/// By `strace`, which makes the leader wait at each `fdatasync`; and the leader stands still as a whole.
#[test]
fn the_leader_has_a_slow_disk_or_stands_still() {
    let mut world = World::new("a slow disk", LONG);
    let leader = world.store.leads(&world.nodes);
    let slow = world.store.slow(&world.nodes, leader, Duration::from_millis(700));
    world.start(3);
    world.attach_all("meanwhile");
    sleep(A_WHILE);
    drop(slow);
    world.right("the disk is well");
    world.attach(3, "first");
    let leader = world.store.leads(&world.nodes);
    world.store.halt(leader);
    world.nodes.all[3].kill();
    world.start(3);
    world.attach(3, "second");
    sleep(A_WHILE);
    world.store.go_on(leader);
    world.right("the leader goes on");
    world.no_address_is_given_twice();
    world.nothing_is_lost();
}

#[test]
fn a_node_crashes_and_has_its_blocks_again() {
    let mut world = World::new("a node crashes", SHORT);
    // Before anybody takes it for gone.
    world.nodes.all[2].kill();
    world.start(2);
    world.right("netd is killed and started");
    world.nothing_is_lost();
    let block = world.sandboxes[2].result["ips"][0]["gateway"].clone();
    world.nodes.all[2].kill();
    soon("its routes are gone", || world.wrong().is_none());
    world.start(2);
    world.right("netd is started after its lease");
    assert_eq!(world.attach(2, "second").result["ips"][0]["gateway"], block);
    world.no_address_is_given_twice();
    world.nothing_is_lost_but(|from, to| from == 3 || to == 3);
}

/// What the old one had stays its own.
#[test]
fn a_node_is_lost_with_its_disk_and_replaced_under_its_name() {
    let mut world = World::new("a node is replaced under its name", SHORT);
    let block = world.sandboxes[2].result["ips"][0]["gateway"].clone();
    world.lose(2);
    world.start(2);
    soon("it is told", || world.nodes.all[2].warnings().iter().any(|text| text.contains("another node is called n3")));
    soon("the old one's lease is over", || world.nodes.all[2].warnings().is_empty());
    world.right("the lease of the one before it is over");
    assert_ne!(world.attach(2, "new").result["ips"][0]["gateway"], block);
    let told = world.nodes.all[0].fleet();
    let old = told.blocks.iter().filter(|one| one.node == "n3" && one.state == "absent").count();
    assert_eq!(old, 2, "{told:?}");
    world.no_address_is_given_twice();
    world.nothing_is_lost();
}

/// Two that live: the second is told, is nobody's peer, and has blocks of its own.
#[test]
fn a_node_takes_the_name_of_one_that_lives() {
    let mut world = World::new("a second node of one name", SHORT);
    world.start_as(3, "n3");
    soon("it is told", || world.nodes.all[3].warnings().iter().any(|text| text.contains("another node is called n3")));
    sleep(AWAY);
    let second = world.attach(3, "second").v4.clone();
    assert!(world.sandboxes[..3].iter().all(|sandbox| sandbox.v4 != second));
    assert!(world.nodes.all[..2].iter().all(|node| !node.routes().contains("via 192.0.2.4 ")));
    world.no_address_is_given_twice();
    world.nothing_is_lost();
    world.nodes.all[2].kill();
    soon("it has the name", || world.nodes.all[3].warnings().is_empty());
    world.right("the lease of the first one of the name is over");
}

/// netd's clock alone, on two of three nodes; etcd reads the kernel's past any library. The next test is about all clocks.
#[test]
fn clocks_of_nodes_jump() {
    let mut world = World::with("clocks of nodes jump", SHORT, |node| Clock::of(node).environment());
    let years = |node: &rig::nodes::Member| Clock::years(node);
    world.attach_all("before");
    let now = years(&world.nodes.all[0]);
    for (round, days) in (0..).zip([3_650, -3_650, 0]) {
        Clock::of(&world.nodes.all[0]).jump(days);
        Clock::of(&world.nodes.all[1]).jump(-days);
        let begin = Instant::now();
        world.grow(0, 2 * round + 1);
        world.grow(1, 2 * round + 2);
        world.right_meanwhile(begin, &format!("clocks jumped to {days} and {} days from now", -days));
        assert_eq!(years(&world.nodes.all[0]), now + i64::from(days / 365), "its clock did not jump");
        sleep(AWAY);
        world.right_meanwhile(Instant::now(), "a while with such clocks");
    }
    Clock::of(&world.nodes.all[0]).jump(3_650);
    world.nodes.all[0].kill();
    world.start(0);
    world.right("netd is started with a wrong clock");
    world.attach_all("after");
    world.no_address_is_given_twice();
    world.nothing_is_lost();
}

/// Of nodes and members, as the machine's own does: that needs a machine of its own.
#[test]
#[ignore = "sets the clock of its machine; runs in the guest of Debian's kernel"]
fn all_clocks_jump() {
    assert!(clock::is_guest(), "run it by the rig's tests of guests");
    let mut world = World::new("all clocks jump", IN_A_GUEST);
    for (number, days) in (1..).zip([3_650, -7_300, 3_650]) {
        clock::set_by(days);
        let begin = Instant::now();
        world.grow(0, number);
        world.right_meanwhile(begin, &format!("all clocks jumped by {days} days"));
        sleep(A_WHILE);
        world.right_meanwhile(Instant::now(), "a while with such clocks");
    }
    clock::set_by(-1);
    world.store.kill(0);
    world.store.launch(0);
    world.nodes.all[2].kill();
    world.start(2);
    world.attach_all("after");
    world.right("a member and netd are started a day ago");
    world.no_address_is_given_twice();
    world.nothing_is_lost();
}
