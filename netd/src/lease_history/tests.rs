//! What a boot takes away, what it leaves, and what becomes of a file that is old, torn or somebody else's.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::{HEADER, Kept, LONGEST, LeaseHistory, PastLease, keep};
use crate::attachment::AttachmentKey;
use crate::journal::{Journal, Record};
use crate::node::tests::{WEB, wanted};
use crate::node::{Attached, Node};
use crate::owner;

const NOW: Duration = Duration::from_secs(1_800_000_000);

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + NOW
}

fn key(container: &str) -> AttachmentKey {
    wanted(WEB, container, 1).key
}

fn kept(held: &[(&str, &str)], remembered: &[(&str, &str)]) -> Kept {
    let of = |(container, address): &(&str, &str)| (key(container), vec![address.parse().unwrap()]);
    Kept { held: held.iter().map(of).collect(), remembered: remembered.iter().map(of).collect() }
}

fn names(last: &[PastLease]) -> Vec<&str> {
    last.iter().map(|one| one.key.container.as_str()).collect()
}

fn reopen(folder: &Path, after: Duration) -> (LeaseHistory, Vec<PastLease>) {
    LeaseHistory::open(folder, now() + after)
}

#[tokio::test]
async fn a_node_of_another_boot_gives_each_its_address_again_and_none_twice() {
    let folder = tempfile::tempdir().unwrap();
    let boot = |id: &str| {
        let (journal, records) = Journal::open(&folder.path().join("journal"), id).unwrap();
        let mut node = Node::replay("nd", records);
        let (file, last) = LeaseHistory::open(folder.path(), SystemTime::now());
        node.recall(last);
        (owner::start(node, journal), file)
    };
    let attach = async |owner: &owner::OwnerHandle, container: &str| {
        let attached = owner.attach(wanted(WEB, container, 1)).await.unwrap();
        let (Attached::New { attachment, .. } | Attached::Already(attachment)) = attached;
        attachment.leases[0].address.addr().to_string()
    };
    let (first, file) = boot("boot-1");
    let mut before = BTreeMap::new();
    for container in ["a", "b", "c"] {
        before.insert(container, attach(&first, container).await);
    }
    first.drain(key("b")).await.unwrap();
    // Told to end at once, it writes once more.
    keep(first.clone(), file, std::future::ready(())).await;

    let (second, _) = boot("boot-2");
    let new = attach(&second, "new").await;
    assert!(!before.values().any(|address| *address == new), "{new} is somebody's");
    for container in ["c", "b", "a"] {
        assert_eq!(attach(&second, container).await, before[container], "{container}");
    }
}

#[tokio::test]
async fn what_this_boot_knows_is_newer_than_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let (mut file, _) = reopen(folder.path(), Duration::ZERO);
    file.write(&kept(&[("a", "10.4.0.9")], &[("b", "10.4.0.8")]), now()).unwrap();
    let mut node = Node::replay("nd", vec![Record::Remembered(key("b"), "10.4.0.7".parse().unwrap())]);
    node.recall(reopen(folder.path(), Duration::ZERO).1);
    let found: BTreeMap<_, _> = node.kept().remembered.into_iter().collect();
    assert_eq!(found[&key("b")], vec!["10.4.0.7".parse::<IpAddr>().unwrap()]);
    assert_eq!(found[&key("a")], vec!["10.4.0.9".parse::<IpAddr>().unwrap()]);
}

#[test]
fn what_nobody_comes_back_for_is_forgotten_and_a_boot_does_not_make_it_younger() {
    let folder = tempfile::tempdir().unwrap();
    let (mut file, _) = reopen(folder.path(), Duration::ZERO);
    file.write(&kept(&[("held", "10.4.0.2")], &[("left", "10.4.0.3")]), now()).unwrap();
    let day = Duration::from_secs(24 * 60 * 60);
    let (mut file, last) = reopen(folder.path(), LONGEST - day);
    assert_eq!(names(&last), ["left", "held"]);
    file.write(&kept(&[("held", "10.4.0.2")], &[("left", "10.4.0.3")]), now() + LONGEST - day).unwrap();
    assert_eq!(names(&reopen(folder.path(), LONGEST).1), ["held"]);
    // A clock that was behind says nothing.
    assert_eq!(names(&LeaseHistory::open(folder.path(), SystemTime::UNIX_EPOCH).1), ["left", "held"]);
}

#[test]
fn a_torn_file_gives_what_is_whole_and_another_versions_gives_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("leases");
    let (mut file, _) = reopen(folder.path(), Duration::ZERO);
    file.write(&kept(&[], &[("a", "10.4.0.2"), ("b", "10.4.0.3"), ("c", "10.4.0.4")]), now()).unwrap();
    let whole = std::fs::read(&path).unwrap();
    let frame = (whole.len() - HEADER.len()) / 3;
    for end in 0..whole.len() {
        std::fs::write(&path, &whole[..end]).unwrap();
        let expected = end.saturating_sub(HEADER.len()) / frame;
        assert_eq!(reopen(folder.path(), Duration::ZERO).1.len(), expected, "cut at {end}");
    }
    let mut flipped = whole.clone();
    flipped[HEADER.len() + frame + 12] ^= 1;
    std::fs::write(&path, flipped).unwrap();
    assert_eq!(names(&reopen(folder.path(), Duration::ZERO).1), ["a"]);
    std::fs::write(&path, [b"netd-leases 2\n", &whole[HEADER.len()..]].concat()).unwrap();
    let (mut file, last) = reopen(folder.path(), Duration::ZERO);
    assert!(last.is_empty());
    file.write(&kept(&[("a", "10.4.0.2")], &[]), now()).unwrap();
    assert_eq!(names(&reopen(folder.path(), Duration::ZERO).1), ["a"]);
}

#[test]
fn a_folder_that_cannot_be_written_is_told_with_its_key_and_costs_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("file"), "").unwrap();
    let (mut file, last) = LeaseHistory::open(&folder.path().join("file"), now());
    assert!(last.is_empty());
    let error = file.write(&Kept::default(), now()).unwrap_err().to_string();
    assert!(error.contains("/file/leases; leases do not outlive this boot") && error.contains("state_dir"), "{error}");
}

proptest::proptest! {
    #[test]
    fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..512)) {
        drop(super::read_leases(&[HEADER, &bytes].concat()));
    }
}
