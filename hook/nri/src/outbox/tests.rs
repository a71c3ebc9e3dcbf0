//! Words leave in order, once, and as soon as they may.

use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

use super::{Errand, Outbox, Outcome, RELEASE_ATTEMPTS, Word};
use crate::pod::Pod;

/// An outbox with a clock of its own.
struct Bench {
    outbox: Outbox,
    now: Instant,
}

impl Bench {
    fn new() -> Self {
        Self { outbox: Outbox::default(), now: Instant::now() }
    }

    fn ran(&mut self, id: &str) -> Receiver<Outcome> {
        let (listener, outcome) = sync_channel(1);
        self.outbox.ran(pod(id), self.now, listener);
        outcome
    }

    fn take(&mut self) -> Option<Errand> {
        self.outbox.take(self.now)
    }

    /// Takes the next errand, ends it so, and says what it was.
    fn carry(&mut self, outcome: &Outcome) -> Option<(String, Word)> {
        let errand = self.take()?;
        self.outbox.settle(&errand, outcome, self.now);
        Some((errand.container, errand.word))
    }

    fn carried(&mut self, outcome: &Outcome) -> String {
        let carried = self.carry(outcome);
        carried.map_or_else(
            || "nothing".to_owned(),
            |(container, word)| match word {
                Word::Describe(_) => format!("describe {container}"),
                Word::Release => format!("release {container}"),
                Word::Resync(living) => format!("resync {}", living.join(" ")),
            },
        )
    }

    fn pass(&mut self, millis: u64) {
        self.now += Duration::from_millis(millis);
    }
}

fn pod(id: &str) -> Pod {
    Pod { id: id.to_owned(), netns: Some(format!("/run/netns/{id}").into()), ..Pod::default() }
}

#[test]
fn a_word_is_told_once_and_its_listener_hears_it() {
    let mut bench = Bench::new();
    let outcome = bench.ran("a");
    assert_eq!(bench.carried(&Outcome::Told), "describe a");
    assert_eq!(outcome.recv(), Ok(Outcome::Told));
    assert_eq!(bench.carried(&Outcome::Told), "nothing");
    assert_eq!(bench.outbox.next_due(), None);
}

#[test]
fn a_refused_word_waits_longer_each_time_and_holds_up_no_other() {
    let mut bench = Bench::new();
    let outcome = bench.ran("a");
    assert_eq!(bench.carried(&Outcome::Refused), "describe a");
    assert_eq!(outcome.recv(), Ok(Outcome::Refused));
    bench.outbox.synchronized(vec![pod("a"), pod("b")], bench.now);
    assert_eq!(bench.carried(&Outcome::Refused), "describe a");
    assert_eq!(bench.carried(&Outcome::Told), "describe b");
    assert_eq!(bench.carried(&Outcome::Told), "resync a b");
    for wait in [100, 200, 400] {
        bench.pass(wait - 1);
        assert_eq!(bench.carried(&Outcome::Told), "nothing");
        bench.pass(1);
        assert_eq!(bench.carried(&Outcome::Refused), "describe a");
    }
}

#[test]
fn a_word_that_can_never_be_taken_is_dropped() {
    let mut bench = Bench::new();
    drop(bench.ran("a"));
    assert_eq!(bench.carried(&Outcome::Rejected), "describe a");
    bench.pass(60_000);
    assert_eq!(bench.carried(&Outcome::Told), "nothing");
}

#[test]
fn while_netd_is_away_only_new_pods_ask_and_all_words_go_when_it_is_back() {
    let mut bench = Bench::new();
    bench.outbox.synchronized(["a", "b", "c"].map(pod).to_vec(), bench.now);
    assert_eq!(bench.carried(&Outcome::Absent), "describe a");
    assert_eq!(bench.carried(&Outcome::Told), "nothing", "the others wait with it");
    let outcome = bench.ran("d");
    assert_eq!(bench.carried(&Outcome::Absent), "describe d", "a new pod does not wait");
    assert_eq!(outcome.recv(), Ok(Outcome::Absent));
    bench.pass(100);
    assert_eq!(bench.outbox.next_due(), Some(bench.now));
    let told: Vec<String> = (0..6).map(|_| bench.carried(&Outcome::Told)).collect();
    assert_eq!(told, ["describe a", "describe b", "describe c", "describe d", "resync a b c d", "nothing"]);
}

#[test]
fn words_of_one_pod_stay_in_order_even_when_the_first_is_on_its_way() {
    let mut bench = Bench::new();
    drop(bench.ran("a"));
    let describe = bench.take().unwrap();
    bench.outbox.removed("a".to_owned(), bench.now);
    assert_eq!(bench.take(), None);
    bench.outbox.settle(&describe, &Outcome::Absent, bench.now);
    bench.pass(100);
    assert_eq!(bench.carried(&Outcome::Told), "release a", "the description is out of date");
    assert_eq!(bench.carried(&Outcome::Told), "nothing");
}

#[test]
fn a_stopped_pod_is_described_no_more() {
    let mut bench = Bench::new();
    drop(bench.ran("waiting"));
    bench.outbox.stopped("waiting");
    drop(bench.ran("under way"));
    let errand = bench.take().unwrap();
    bench.outbox.stopped("under way");
    bench.outbox.settle(&errand, &Outcome::Refused, bench.now);
    bench.pass(60_000);
    assert_eq!(bench.carried(&Outcome::Told), "nothing");
}

#[test]
fn a_release_is_given_up_for_netd_frees_dead_sandboxes_itself() {
    let mut bench = Bench::new();
    bench.outbox.removed("a".to_owned(), bench.now);
    for _ in 0..RELEASE_ATTEMPTS {
        assert_eq!(bench.carried(&Outcome::Absent), "release a");
        bench.pass(1_000);
    }
    assert_eq!(bench.carried(&Outcome::Told), "nothing");
}

#[test]
fn a_resync_comes_after_the_descriptions_and_lists_who_lives_then() {
    let mut bench = Bench::new();
    let host = Pod { netns: None, ..pod("host") };
    bench.outbox.synchronized(vec![pod("a"), pod("b"), host], bench.now);
    let first = bench.take().unwrap();
    assert_eq!(bench.carried(&Outcome::Told), "describe b");
    assert_eq!(bench.take(), None, "a description is on its way");
    assert_eq!(bench.outbox.next_due(), None, "nothing to wake up for");
    drop(bench.ran("new"));
    bench.outbox.removed("b".to_owned(), bench.now);
    bench.outbox.settle(&first, &Outcome::Told, bench.now);
    assert_eq!(bench.carried(&Outcome::Told), "describe new");
    assert_eq!(bench.carried(&Outcome::Told), "release b");
    assert_eq!(bench.carried(&Outcome::Told), "resync a host new");
    assert_eq!(bench.carried(&Outcome::Told), "nothing");
}

#[test]
fn a_list_forgets_the_dead_and_a_broken_connection_forgets_the_list() {
    let mut bench = Bench::new();
    drop(bench.ran("dead"));
    bench.outbox.synchronized(vec![pod("a")], bench.now);
    bench.outbox.disconnected();
    assert_eq!(bench.carried(&Outcome::Told), "describe a");
    assert_eq!(bench.carried(&Outcome::Told), "nothing");
}
