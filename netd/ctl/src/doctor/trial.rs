//! Tries kernel features in a network namespace of its own, which goes with the thread that made it. The node's own
//! namespace is not touched.

use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Command, Stdio};

use nix::sched::{CloneFlags, unshare};

use super::kernel::VLANS;

/// Feature, program, arguments, standard input.
type Trial = (&'static str, &'static str, &'static [&'static str], &'static str);

const TRIALS: [Trial; 12] = [
    ("veth", "ip", &["link", "add", "trial0", "type", "veth", "peer", "name", "trial1"], ""),
    ("bridge", "ip", &["link", "add", "trial2", "type", "bridge"], ""),
    (VLANS, "ip", &["link", "add", "trial3", "type", "bridge", "vlan_filtering", "1"], ""),
    ("nf_tables inet", "nft", &["-f", "-"], "table inet trial { chain c { type filter hook forward priority 0; }; }"),
    ("nft ct", "nft", &["-f", "-"], "table inet trial { chain state { ct state established accept; }; }"),
    (
        "nft reject",
        "nft",
        &["-f", "-"],
        "table inet trial { chain refused { meta l4proto tcp reject with tcp reset; reject with icmpx type admin-prohibited; }; }",
    ),
    ("nft log", "nft", &["-f", "-"], "table inet trial { chain logged { log group 1; }; }"),
    ("nft limit", "nft", &["-f", "-"], "table inet trial { chain limited { limit rate 10/second accept; }; }"),
    (
        "nft nat",
        "nft",
        &["-f", "-"],
        "table inet trial { chain published { type nat hook prerouting priority -100; tcp dport 1 dnat ip to 192.0.2.1:1; }; }",
    ),
    (
        "nft masquerade",
        "nft",
        &["-f", "-"],
        "table inet trial { chain leaving { type nat hook postrouting priority 100; masquerade; }; }",
    ),
    ("nft fib", "nft", &["-f", "-"], "table inet trial { chain local { fib daddr type local accept; }; }"),
    (
        "nf_tables bridge",
        "nft",
        &["-f", "-"],
        "table bridge trial { chain c { type filter hook forward priority 0; }; }",
    ),
];

/// What the kernel did, by feature. Empty without root; a feature whose program is missing is left out.
pub(super) fn run() -> BTreeMap<&'static str, bool> {
    let worker = std::thread::spawn(|| {
        // Programs started from this thread are in its namespace.
        if unshare(CloneFlags::CLONE_NEWNET).is_err() {
            return BTreeMap::new();
        }
        TRIALS.iter().filter_map(|trial| Some((trial.0, attempt(trial)?))).collect()
    });
    worker.join().unwrap_or_default()
}

fn attempt((_, program, arguments, input): &Trial) -> Option<bool> {
    let mut command = Command::new(program);
    command.args(*arguments).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().ok()?;
    let fed = child.stdin.take()?.write_all(input.as_bytes());
    let done = child.wait().ok()?.success();
    fed.ok()?;
    Some(done)
}

#[cfg(test)]
mod tests {
    use super::run;

    /// Interfaces of the namespace that the test runs in.
    fn links() -> Vec<String> {
        let text = std::fs::read_to_string("/proc/self/net/dev").unwrap();
        text.lines().skip(2).filter_map(|line| Some(line.trim().split_once(':')?.0.to_owned())).collect()
    }

    #[test]
    fn a_trial_leaves_nothing_behind() {
        let before = links();
        let tried = run();
        assert_eq!(links(), before);
        assert_eq!(tried.len(), super::TRIALS.len(), "this test needs root, and Debian's iproute2 and nftables");
        let needed = || tried.iter().filter(|(feature, _)| **feature != crate::doctor::kernel::VLANS);
        assert!(needed().all(|(_, done)| *done), "no kernel without these runs the tests of netd: {tried:?}");
    }
}
