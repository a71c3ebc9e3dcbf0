//! nf_tables over netlink (linux/netfilter/nf_tables.h): tables, chains, rules, sets and their elements as requests.
//!
//! Not here: which rules. The kernel takes a transaction whole or not at all ([`crate::Socket::transact`]).

mod changes;
mod expression;
mod foreign;
mod others;
mod request;
mod set;

pub use changes::{Change, Changes};
pub use expression::{Expression, Hook, Meta, Refusal, Register, Status, Verdict};
pub use foreign::{
    ListedBase, ListedChain, ListedRule, Position, delete_chain, delete_rule, empty_chain, get_chain_rules, get_chains,
    put_rule, read_chain, read_rule,
};
pub use others::{Deafness, Others};
pub use request::{
    BATCH_BEGIN, BATCH_END, Chain, ChainKind, Family, Request, TABLE_OWNER, TABLE_PERSIST, chain, delete_table,
    get_rules, get_table, inner_chain, read_userdata, rule, table,
};
pub use set::{
    Element, Set, catch_all, delete_elements, destroy_elements, elements, get_element, get_elements, read_counted,
    read_element, set, verdicts,
};
