//! The daemon: who holds which address, which kernel objects that means, and how they come about.
//!
//! ```text
//! door ═ttrpc═▶ server ─▶ owner (Node: pure, serial, journaled) ─▶ executor (kernel work, parallel) ─▶ answer
//! ```
//!
//! Not here: parsing of configuration (netd-config), netlink (netd-kernel), the wire contract (netd-api).

pub mod allowlist;
pub mod attachment;
mod blocking;
pub mod census;
pub mod coexist;
pub mod containerd;
pub mod desired;
mod directories;
pub mod executor;
mod few;
pub mod fleet;
mod frames;
pub mod identity;
pub mod ipam;
pub mod journal;
pub mod lease_history;
pub mod lifecycle;
pub mod networks;
pub mod node;
pub mod owner;
pub mod policies;
pub mod ports;
pub mod reaper;
pub mod reply;
pub mod reservations;
pub mod resync;
pub mod runtime;
pub mod server;
pub mod tombstones;
pub mod turns;
pub mod watch;
pub mod watchdog;
mod whole_file;
