//! Hostile input for every place where netd reads what others wrote, on stable Rust.
//!
//! ```text
//! corpus/TARGET/* ─▶ pool ─▶ mutated (seeded) ─▶ target ─▶ a panic, a broken promise, a second of silence = finding
//!                     ▲                            │
//!                     └── inputs of a new shape ◀──┘
//! ```
//!
//! The pool grows by what a target says of an input (which mistakes, which objects), not by coverage of code: that needs a
//! nightly compiler. Not here: what the readers should answer; golden files beside each reader say that.

mod corpus;
mod engine;
mod mutation;
mod random;
mod targets;

pub use corpus::corpus;
pub use engine::{Finding, Report, fuzz};
pub use targets::{TARGETS, Target, Verdict};
