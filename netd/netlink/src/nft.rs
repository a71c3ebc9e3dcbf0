//! nf_tables over netlink (linux/netfilter/nf_tables.h): tables, chains, rules, sets and their elements as requests.
//!
//! Not here: which rules. The kernel takes a transaction whole or not at all ([`crate::Socket::transact`]).

mod changes;
mod expression;
mod request;

pub use changes::{Change, Changes};
pub use expression::{Expression, Hook, Meta, Register, Status, Verdict};
pub use request::{
    BATCH_BEGIN, BATCH_END, Chain, ChainKind, Element, Family, Request, Set, TABLE_OWNER, TABLE_PERSIST, chain,
    delete_elements, delete_table, destroy_elements, elements, get_element, get_elements, get_rules, get_table,
    read_element, read_userdata, rule, set, table,
};
