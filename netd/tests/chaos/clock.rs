//! Clocks that jump: netd's own by a library that stands before the kernel's, and a guest's. Never the machine's.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use netd_rig::parts;

use crate::rig::nodes::Member;

/// What netd of one node takes the time to be; time passes as ever.
pub(crate) struct Clock {
    file: PathBuf,
}

impl Clock {
    pub(crate) fn of(node: &Member) -> Self {
        Self { file: node.folder.path().join("clock") }
    }

    /// What netd is started with, so that its clock is this one, and right at first.
    pub(crate) fn environment(&self) -> Vec<(&'static str, String)> {
        self.jump(0);
        let library = parts::faketime().unwrap();
        vec![
            ("LD_PRELOAD", library.display().to_string()),
            ("FAKETIME_TIMESTAMP_FILE", self.file.display().to_string()),
            ("FAKETIME_NO_CACHE", "1".to_owned()),
            // A clock that is set is not the one that durations are measured by, and files keep their times.
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
            ("NO_FAKE_STAT", "1".to_owned()),
        ]
    }

    /// So many days from the right time.
    pub(crate) fn jump(&self, days: i32) {
        let draft = self.file.with_extension("draft");
        fs::write(&draft, format!("{days:+}d\n")).unwrap();
        fs::rename(draft, &self.file).unwrap();
    }

    /// The year in which netd said the last thing that it said.
    pub(crate) fn years(node: &Member) -> i64 {
        let log = fs::read_to_string(node.log()).unwrap();
        log.lines().rev().find_map(|line| line.get(..4)?.parse().ok()).unwrap()
    }
}

/// A guest is started with these words, and nothing else is.
pub(crate) fn is_guest() -> bool {
    fs::read_to_string("/proc/cmdline").unwrap().contains("netd_exchange=")
}

/// Sets the clock of this machine, if it is a guest.
pub(crate) fn set_by(days: i32) {
    assert!(is_guest(), "this is no guest: its clock is not to be set");
    let output = Command::new("date").args(["-s", &format!("{days:+} days")]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
