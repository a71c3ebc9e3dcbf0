//! The journal survives what it must and forgets what it must.

use std::fs;
use std::path::Path;
use std::thread;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use crate::attachment::Attachment;
use crate::frames;
use crate::node::tests::{WEB, wanted};
use crate::node::{Attached, Node};

use super::{Journal, JournalError, Record, read_records};

fn counters(records: &[Record]) -> Vec<u64> {
    let counter = |record: &Record| match record {
        Record::Counter(counter) => Some(*counter),
        Record::Put(_)
        | Record::Drain(_)
        | Record::Reaped(..)
        | Record::Guard(_)
        | Record::Estranged(_)
        | Record::Remembered(..)
        | Record::Assigned(..)
        | Record::Unassigned(_) => None,
    };
    records.iter().filter_map(counter).collect()
}

fn labelled(octets: usize) -> Record {
    let Attached::New { attachment, .. } = Node::new("nd").attach(wanted(WEB, "a", 1)).unwrap() else { panic!() };
    let labels = [("label".to_owned(), "x".repeat(octets))].into();
    Record::Put(Box::new(Attachment { labels, ..*attachment }))
}

#[test]
fn what_was_appended_is_there_after_a_crash() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    let (mut journal, records) = Journal::open(&path, "boot-1\n").unwrap();
    assert!(records.is_empty());
    for counter in 1..=3 {
        journal.append(&Record::Counter(counter)).unwrap();
    }
    drop(journal);
    assert_eq!(counters(&Journal::open(&path, "boot-1").unwrap().1), [1, 2, 3]);
}

#[test]
fn another_boot_starts_empty() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    let (mut journal, _) = Journal::open(&path, "boot-1").unwrap();
    journal.append(&Record::Counter(7)).unwrap();
    assert!(Journal::open(&path, "boot-2").unwrap().1.is_empty());
}

#[test]
fn a_cut_at_every_byte_loses_only_what_was_not_whole() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    let (mut journal, _) = Journal::open(&path, "b").unwrap();
    for counter in 1..=3 {
        journal.append(&Record::Counter(counter)).unwrap();
    }
    let whole = fs::read(&path).unwrap();
    let header = "netd-journal 1 b\n".len();
    let frame = (whole.len() - header) / 3;
    for end in header..whole.len() {
        fs::write(&path, &whole[..end]).unwrap();
        let (_, records) = Journal::open(&path, "b").unwrap();
        assert_eq!(counters(&records).len(), (end - header) / frame, "cut at {end}");
    }
}

#[test]
fn a_flipped_bit_stops_the_start_and_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    let (mut journal, _) = Journal::open(&path, "b").unwrap();
    for counter in 1..=3 {
        journal.append(&Record::Counter(counter)).unwrap();
    }
    let mut bytes = fs::read(&path).unwrap();
    let (header, frame) = ("netd-journal 1 b\n".len(), (bytes.len() - "netd-journal 1 b\n".len()) / 3);
    bytes[header + 2 * frame - 1] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let error = Journal::open(&path, "b").unwrap_err().to_string();
    let at = format!("is damaged at byte {} (record 2), and what follows cannot be left out", header + frame);
    assert!(error.contains(&at), "{error}");
    assert_eq!(fs::read(&path).unwrap(), bytes);
}

#[test]
fn what_could_not_be_read_back_is_not_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    let (mut journal, _) = Journal::open(&path, "b").unwrap();
    // As many published ports as an API request can name.
    journal.append(&labelled(4 << 20)).unwrap();
    let error = format!("{:?}", journal.append(&labelled(16 << 20)).unwrap_err());
    assert!(error.contains("is too large: at most 16777216"), "{error}");
    journal.append(&Record::Counter(1)).unwrap();
    drop(journal);
    let (_, records) = Journal::open(&path, "b").unwrap();
    assert_eq!(records, [labelled(4 << 20), Record::Counter(1)]);
}

/// Runs `work` where a file system of 64 KiB is mounted at `folder`.
fn where_room_is_scarce(folder: &Path, work: impl FnOnce() + Send) {
    let run = || {
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        let (none, private) = (None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE);
        mount(none, "/", none, private, none).unwrap();
        mount(Some("scarce"), folder, Some("tmpfs"), MsFlags::empty(), Some("size=64k")).unwrap();
        work();
    };
    thread::scope(|scope| scope.spawn(run).join().unwrap());
}

#[test]
fn a_write_that_failed_half_way_spoils_no_later_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    where_room_is_scarce(folder.path(), || {
        let (mut journal, _) = Journal::open(&path, "b").unwrap();
        journal.append(&Record::Counter(1)).unwrap();
        let other = folder.path().join("other");
        fs::write(&other, vec![0; 48 << 10]).unwrap();
        let before = fs::metadata(&path).unwrap().len();
        journal.append(&labelled(20 << 10)).unwrap_err();
        assert_eq!(fs::metadata(&path).unwrap().len(), before);
        journal.rewrite(&[labelled(20 << 10)]).unwrap_err();
        assert!(!path.with_extension("next").exists(), "it would keep the file system full");
        fs::remove_file(&other).unwrap();
        journal.append(&Record::Counter(2)).unwrap();
        drop(journal);
        assert_eq!(counters(&Journal::open(&path, "b").unwrap().1), [1, 2]);
    });
}

#[test]
fn what_cannot_be_made_smaller_is_not_rewritten_at_every_record() {
    let folder = tempfile::tempdir().unwrap();
    let (mut journal, _) = Journal::open(&folder.path().join("journal"), "b").unwrap();
    let alive: Vec<Record> = (0..10_000).map(Record::Counter).collect();
    alive.iter().for_each(|record| journal.append(record).unwrap());
    journal.rewrite(&alive).unwrap();
    journal.append(&Record::Counter(1)).unwrap();
    assert!(!journal.is_bloated());
}

#[test]
fn a_journal_of_another_version_is_refused_and_kept() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    fs::write(&path, "netd-journal 9 b\nwhatever").unwrap();
    let error = Journal::open(&path, "b").unwrap_err();
    assert!(matches!(error, JournalError::Version { ref found, .. } if found == "9"));
    assert_eq!(fs::read(&path).unwrap(), b"netd-journal 9 b\nwhatever");
}

#[test]
fn of_another_boot_any_version_is_over() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    fs::write(&path, "netd-journal 9 a\nwhatever").unwrap();
    assert!(Journal::open(&path, "b").unwrap().1.is_empty());
    // One that does not say its boot may be of this one.
    fs::write(&path, "netd-journal 9\nwhatever").unwrap();
    assert!(matches!(Journal::open(&path, "b"), Err(JournalError::Version { .. })));
}

#[test]
fn a_record_of_the_first_netd_is_read_with_what_was_added_since() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    let Attached::New { attachment, .. } = Node::new("nd").attach(wanted(WEB, "a", 1)).unwrap() else { panic!() };
    let mut old = serde_json::to_value(Record::Put(attachment.clone())).unwrap();
    let fields = old["Put"].as_object_mut().unwrap();
    for added in ["namespace", "image", "label_state", "quarantined", "extra"] {
        fields.shift_remove(added).unwrap();
    }
    fields["wiring"].as_object_mut().unwrap().shift_remove("quick_link_local").unwrap();
    let content = [b"netd-journal 1 boot\n".to_vec(), frames::encode(&old).unwrap()].concat();
    fs::write(&path, content).unwrap();
    let mut expected = *attachment;
    expected.wiring.as_mut().unwrap().quick_link_local = false;
    assert_eq!(Journal::open(&path, "boot").unwrap().1, [Record::Put(Box::new(expected))]);
}

#[test]
fn compaction_keeps_exactly_what_it_is_given() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    let (mut journal, _) = Journal::open(&path, "b").unwrap();
    for counter in 0..5_000 {
        journal.append(&Record::Counter(counter)).unwrap();
    }
    assert!(journal.is_bloated());
    journal.rewrite(&[Record::Counter(5_000)]).unwrap();
    assert!(!journal.is_bloated());
    journal.append(&Record::Counter(5_001)).unwrap();
    assert_eq!(counters(&Journal::open(&path, "b").unwrap().1), [5_000, 5_001]);
}

proptest::proptest! {
    #[test]
    fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..512)) {
        drop(read_records(&bytes));
    }
}

#[test]
fn a_whole_record_of_another_netd_stops_the_start_and_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    let (mut journal, _) = Journal::open(&path, "boot").unwrap();
    journal.append(&Record::Counter(1)).unwrap();
    drop(journal);
    let payload = br#"{"Later":7}"#;
    let mut content = fs::read(&path).unwrap();
    content.extend(u32::try_from(payload.len()).unwrap().to_le_bytes());
    content.extend(crc32fast::hash(payload).to_le_bytes());
    content.extend(payload);
    fs::write(&path, &content).unwrap();
    let error = Journal::open(&path, "boot").unwrap_err().to_string();
    assert!(
        error.contains("a record that this netd does not understand (number 2): start the netd that wrote it"),
        "{error}"
    );
    assert_eq!(fs::read(&path).unwrap(), content);
}
