//! Installs and builds what whole-node tests and the demo need, ahead of them, so that waiting has its reason on the screen.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::Result;
use netd_rig::{Release, parts};

use crate::say;

pub(crate) fn run() -> Result<()> {
    say("== parts");
    parts::packages()?;
    for release in Release::ALL {
        part(|| parts::containerd(release))?;
    }
    part(parts::runc)?;
    part(parts::cni_plugins)?;
    part(parts::clients)?;
    part(parts::etcd)?;
    part(parts::strace)?;
    part(parts::faketime)?;
    part(parts::images)?;
    part(parts::user_mode_linux)?;
    part(parts::debian_kernel)
}

fn part(make: impl FnOnce() -> Result<PathBuf>) -> Result<()> {
    let start = Instant::now();
    let path = make()?;
    say(&format!("{} ({:.1?})", path.display(), start.elapsed()));
    Ok(())
}
