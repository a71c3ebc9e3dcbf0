//! Policy, spoof guard and tunnels with real packets, by kernel objects alone. Needs root, and fails without.
#![expect(clippy::unwrap_used, reason = "helpers of tests stand outside of them")]

mod carried;
mod discovery;
mod ends;
mod fabric;
mod fleet;
mod frames;
mod node;
mod outside;
mod policy;
mod protocols;
mod published;
mod raw;
mod space;
mod spoof;
