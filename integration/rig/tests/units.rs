//! The units as they are shipped, under a live systemd: started, killed, hung, restarted, stopped. Needs root, and Debian's
//! packages.

use std::path::Path;
use std::time::Duration;

use netd_rig::{Guest, parts};

const ERRAND: &str = include_str!("errands/units.sh");
/// On a busy machine; a quiet one needs a fifth of it.
const LIMIT: Duration = Duration::from_secs(1_000);

#[test]
fn netd_lives_as_a_service() {
    let packaging = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../packaging");
    let places = format!("programs={}; packaging={}\n", parts::ours().unwrap().display(), packaging.display());
    let outcome = Guest::Debian.run_under_systemd(&(places + ERRAND), LIMIT).unwrap();
    let said: Vec<&str> = outcome.output.lines().filter_map(|line| line.strip_prefix("== ")).collect();
    assert_eq!(outcome.status, 0, "{}", outcome.output);
    let life = [
        "installed",
        "started: active, told by notify",
        "attached: 1, the page: here, sockets kept: 2",
        "killed: started again 1 time, attached: 1, sockets kept: 2",
        "stopped by a signal: the published port leads to its sandbox all the same",
        "the watchdog started it again, attached: 1, sockets kept: 2",
        "restarted: attached: 1, the page: here, sockets kept: 2",
        "shut down: the published port leads to its sandbox all the same, mode of /run/netd: 700",
        "detached while it was down: attached: 0, sockets kept: 0",
        "hook: active, without containerd",
        "a mistake in netd.toml: failed with 78, started again 0 times",
        "corrected: active",
        "forbidden by the units: 0",
        "colours in the journal: 0",
    ];
    assert_eq!(said, life, "{}", outcome.output);
}
