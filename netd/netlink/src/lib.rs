//! Executes rtnetlink messages: one send for many, one acknowledgement counted for each, the kernel's own words on an error.
//!
//! Not here: which messages. An answer that does not come is an error here, never success.

mod answer;
mod socket;

pub use answer::{Answer, answers};
pub use socket::{NetlinkError, Socket};
