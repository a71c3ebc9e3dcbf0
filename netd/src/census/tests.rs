//! What a list may free, and when.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use netd_kernel::NetnsId;

use super::{Census, GRACE};
use crate::attachment::{Attachment, LabelState, State};
use crate::node::tests::{WEB, wanted};
use crate::node::{Attached, Node};

const SECOND: Duration = Duration::from_secs(1);

/// Addresses alone, described by `source`.
fn addresses(container: &str, source: &str) -> Attachment {
    let Attached::New { attachment, .. } = Node::new("nd").attach(wanted(WEB, container, 1)).unwrap() else { panic!() };
    let label_state = LabelState::Known { source: source.to_owned() };
    Attachment { wiring: None, state: State::Attached, label_state, ..*attachment }
}

fn list(ids: &[&str]) -> BTreeSet<String> {
    ids.iter().map(|id| (*id).to_owned()).collect()
}

fn overdue(census: &Census, attachments: &[Attachment], now: Instant) -> Vec<String> {
    census.overdue(attachments, now).iter().map(|one| one.key.container.to_string()).collect()
}

#[test]
fn who_stays_missing_is_overdue_after_the_grace_and_not_before() {
    let (census, all, start) = (Census::default(), [addresses("gone", "c"), addresses("here", "c")], Instant::now());
    census.hear("c", &list(&["here"]), &all, start);
    census.hear("c", &list(&["here"]), &all, start + SECOND);
    assert!(overdue(&census, &all, start + GRACE - SECOND).is_empty());
    assert_eq!(overdue(&census, &all, start + GRACE), ["gone"]);
    // Seen again, it starts anew.
    census.hear("c", &list(&["gone", "here"]), &all, start + GRACE);
    assert!(overdue(&census, &all, start + 3 * GRACE).is_empty());
    census.hear("c", &list(&["here"]), &all, start + 3 * GRACE);
    assert!(overdue(&census, &all, start + 3 * GRACE).is_empty());
}

#[test]
fn an_empty_list_says_nothing_about_any() {
    let (census, all, start) = (Census::default(), [addresses("a", "c")], Instant::now());
    census.hear("c", &list(&[]), &all, start);
    assert!(overdue(&census, &all, start + 2 * GRACE).is_empty());
    // After one, the grace begins anew.
    census.hear("c", &list(&["other"]), &all, start);
    census.hear("c", &list(&[]), &all, start + SECOND);
    census.hear("c", &list(&["other"]), &all, start + GRACE);
    assert!(overdue(&census, &all, start + GRACE).is_empty());
    assert_eq!(overdue(&census, &all, start + 2 * GRACE), ["a"]);
}

#[test]
fn a_list_speaks_of_its_own_containers_without_a_link_only() {
    let linked = |one: Attachment| {
        let Attached::New { attachment, .. } = Node::new("nd").attach(wanted(WEB, "linked", 1)).unwrap() else {
            panic!()
        };
        Attachment { wiring: attachment.wiring, ..one }
    };
    let state = |state| Attachment { label_state: state, ..addresses("other", "c") };
    let pending = LabelState::Pending { source: "c".to_owned(), due: std::time::SystemTime::UNIX_EPOCH };
    let table = [
        ("another's", addresses("a", "nri")),
        ("nobody's", state(LabelState::None)),
        ("not known yet", state(pending)),
        ("with a link", linked(addresses("a", "c"))),
        ("being wired", Attachment { state: State::Wiring, ..addresses("a", "c") }),
    ];
    for (what, attachment) in table {
        let (census, all, start) = (Census::default(), [attachment], Instant::now());
        census.hear("c", &list(&["x"]), &all, start);
        assert!(overdue(&census, &all, start + 2 * GRACE).is_empty(), "{what}");
    }
}

#[test]
fn a_container_that_was_attached_anew_is_another() {
    let (census, start) = (Census::default(), Instant::now());
    let before = addresses("a", "c");
    census.hear("c", &list(&["x"]), std::slice::from_ref(&before), start);
    let anew = [Attachment { netns: NetnsId(2), ..before }];
    assert!(overdue(&census, &anew, start + GRACE).is_empty());
    census.hear("c", &list(&["x"]), &anew, start + GRACE);
    assert!(overdue(&census, &anew, start + GRACE).is_empty());
}
