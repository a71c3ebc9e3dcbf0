//! What the kernel and the tombstones' directory say is heard at once. In a namespace of the test's own; needs root.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use netd_kernel::{Change, Changes, Notice, Notices, Others};
use nix::sched::{CloneFlags, unshare};

use super::{Ears, Heard, Word, listen};

fn ip(line: &str) {
    assert!(Command::new("ip").args(line.split(' ')).status().unwrap().success(), "ip {line}");
}

fn ears(changes: Option<Changes>, tombstones: &Path) -> Ears<'_> {
    Ears { notices: Notices::open().unwrap(), changes, others: Others::open("netd").unwrap(), tombstones }
}

fn next(heard: &mut Heard) -> Word {
    let begin = Instant::now();
    loop {
        if let Ok(word) = heard.words.try_recv() {
            return word;
        }
        assert!(begin.elapsed() < Duration::from_secs(30), "nothing is heard");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Of a table that nobody owns, as every table of an older kernel is.
#[test]
fn who_takes_rules_away_is_heard_and_that_others_changed_theirs_and_elements_are_not() {
    let tested = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).unwrap_or_else(|error| panic!("this test needs root (unshare: {error})"));
        let folder = tempfile::tempdir().unwrap();
        let changes = Some(Changes::open("netd").unwrap());
        let mut heard = listen(ears(changes, folder.path())).unwrap();
        let nft = |line: &str| {
            let mut child = Command::new("nft").arg(line).spawn().unwrap();
            assert!(child.wait().unwrap().success(), "nft {line}");
            Word::Rules(Change::By(child.id(), "nft".to_owned()))
        };
        nft("add table inet other { chain c { accept; }; }");
        assert_eq!(next(&mut heard), Word::Others);
        nft("add table inet netd { set s { type mark; elements = { 1, 2 }; }; chain c { accept; }; }");
        nft("delete element inet netd s { 1 }");
        nft("delete table inet other");
        assert_eq!(next(&mut heard), Word::Others);
        let flushed_a_chain = nft("flush chain inet netd c");
        let flushed_all = nft("flush ruleset");
        assert_eq!([next(&mut heard), next(&mut heard)], [flushed_a_chain, flushed_all]);
        assert!(heard.words.try_recv().is_err());
    });
    tested.join().unwrap();
}

#[test]
fn a_link_that_goes_is_heard_once_and_a_port_that_leaves_its_bridge_is_not() {
    let tested = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).unwrap_or_else(|error| panic!("this test needs root (unshare: {error})"));
        let folder = tempfile::tempdir().unwrap();
        let mut heard = listen(ears(None, folder.path())).unwrap();
        for line in [
            "link add br0 type bridge",
            "link add nd0 type veth peer name nd1",
            "link set nd0 master br0",
            "link set nd0 nomaster",
            "link set nd0 master br0",
            "link set nd0 up",
            "link del nd1",
            "link del br0",
        ] {
            ip(line);
        }
        let gone = |name: &str| Word::Link(Notice::Gone(name.to_owned()));
        let mut words = vec![next(&mut heard), next(&mut heard), next(&mut heard)];
        words.sort_by_key(|word| format!("{word:?}"));
        assert_eq!(words, [gone("br0"), gone("nd0"), gone("nd1")]);
        std::fs::write(folder.path().join("draft"), "{}").unwrap();
        std::fs::rename(folder.path().join("draft"), folder.path().join("a.json")).unwrap();
        assert_eq!(next(&mut heard), Word::Tombstone);
    });
    tested.join().unwrap();
}
