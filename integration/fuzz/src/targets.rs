//! What is fuzzed: each reader with the promises that hold for any input. The reader's right answers are its own tests'.

mod config;
mod flannel;
mod fleet;
mod frames;
mod journal;
mod netlink;
mod policy;

use std::hash::{DefaultHasher, Hash, Hasher};

/// A shape of the answer, by which new ones are told from known ones; or the promise that was broken.
pub type Verdict = Result<u64, String>;

/// A reader.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Its name, and that of its corpus.
    pub name: &'static str,
    /// Words of its format.
    pub tokens: &'static [&'static str],
    /// Reads an input.
    pub read: fn(&[u8]) -> Verdict,
}

/// All readers of what others wrote.
pub const TARGETS: [Target; 23] = [
    Target { name: "conflist", tokens: config::TOKENS, read: config::conflist },
    Target { name: "document", tokens: config::TOKENS, read: config::document },
    Target { name: "result", tokens: config::TOKENS, read: config::result },
    Target { name: "settings", tokens: config::SETTINGS_TOKENS, read: config::settings },
    Target { name: "journal", tokens: &["\0\0\0\0", "{}", "\u{1}\0\0\0"], read: journal::bytes },
    Target { name: "records", tokens: journal::TOKENS, read: journal::records },
    Target { name: "leases", tokens: journal::TOKENS, read: journal::leases },
    Target { name: "netlink", tokens: &["\u{10}\0\0\0", "\u{14}\0\0\0", "\u{4}\0\u{1}\0"], read: netlink::datagram },
    Target { name: "elements", tokens: netlink::TOKENS, read: netlink::elements },
    Target { name: "sets", tokens: netlink::SETS, read: netlink::sets },
    Target { name: "link", tokens: netlink::TOKENS, read: netlink::link },
    Target { name: "objects", tokens: netlink::TOKENS, read: netlink::objects },
    Target { name: "notices", tokens: netlink::TOKENS, read: netlink::notices },
    Target { name: "chains", tokens: netlink::CHAINS, read: netlink::chains },
    Target { name: "flows", tokens: netlink::TOKENS, read: netlink::flows },
    Target { name: "packets", tokens: netlink::TOKENS, read: netlink::packets },
    Target { name: "policy", tokens: policy::TOKENS, read: policy::file },
    Target { name: "frames", tokens: frames::TOKENS, read: frames::socket },
    Target { name: "messages", tokens: &["\0\0\0\0", "\u{1}"], read: frames::messages_of_grpc },
    Target { name: "fleet", tokens: fleet::TOKENS, read: fleet::values },
    Target { name: "flannel", tokens: flannel::TOKENS, read: flannel::net_conf },
    Target { name: "tombstone", tokens: journal::TOKENS, read: journal::tombstone },
    Target { name: "containerd", tokens: journal::CONTAINERD, read: journal::containerd },
];

/// A shape of anything that can be hashed.
fn shape(of: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    of.hash(&mut hasher);
    hasher.finish()
}

fn promise(kept: bool, what: impl FnOnce() -> String) -> Result<(), String> {
    if kept { Ok(()) } else { Err(what()) }
}
