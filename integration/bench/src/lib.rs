//! What an attach and a detach cost, by every way to ask for them, against the kernel's own floor in the same run; and what
//! policies cost (`policy`): to load, to follow a change, and for each packet; and what a packet between nodes does (`tunnel`);
//! and what a node that joins a fleet costs (`fleet`).
//!
//! ```text
//! plan ─▶ field (a case on a node of its own, with its sandboxes) ─▶ samples ─▶ report, attach.json
//!           case: cni-chain, netd-cni, netd-cni-one, netd-api, kernel-floor
//! ```
//!
//! Every namespace is made here and ends with this process. Nothing is made or pooled ahead of a clock but the sandbox's empty
//! namespace, and on each node the first attachment, which makes what all share (bridge, ruleset).

mod aim;
pub mod attach;
pub mod case;
pub mod dump;
mod field;
pub mod fleet;
mod leash;
pub mod network;
pub mod node;
mod packet;
pub mod policy;
mod record;
mod report;
mod samples;
pub mod space;
pub mod tunnel;

/// Tells a waiting person, or the one who reads the result.
#[expect(clippy::print_stdout, reason = "the one place where the bench speaks")]
pub fn say(line: &str) {
    println!("{line}");
}
