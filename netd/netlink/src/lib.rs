//! Executes netlink messages: one send for many, the last one's acknowledgement awaited and every refusal
//! heard, the kernel's own words on an error.
//!
//! Links, addresses and routes come as netlink-packet-route's messages; nf_tables, conntrack and the packet log are
//! encoded here.
//! Not here: which messages. An answer that does not come is an error here, never success.

mod answer;
mod attributes;
pub mod conntrack;
mod filter;
mod link;
pub mod nft;
mod notices;
mod packet_log;
mod socket;

pub use answer::{Answer, answers};
pub use attributes::{Attributes, attribute, attributes};
pub use link::Link;
pub use notices::{Notice, Notices};
pub use packet_log::{LoggedPacket, PacketLog};
pub use socket::{NetlinkError, Socket, decode};
