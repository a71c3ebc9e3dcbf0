//! Tables, chains and rules as requests of a transaction. Sets are `set`'s.

use super::expression::{Expression, Hook};
use crate::attributes::{Attributes, attribute};

pub(super) const SUBSYSTEM: u16 = 10 << 8;
const NEW_TABLE: u16 = SUBSYSTEM;
const GET_TABLE: u16 = SUBSYSTEM | 1;
const DELETE_TABLE: u16 = SUBSYSTEM | 2;
const NEW_CHAIN: u16 = SUBSYSTEM | 3;
const NEW_RULE: u16 = SUBSYSTEM | 6;
const GET_RULE: u16 = SUBSYSTEM | 7;

/// `NFNL_MSG_BATCH_BEGIN` and `..._END`: what stands between is one transaction.
pub const BATCH_BEGIN: u16 = 0x10;
/// See [`BATCH_BEGIN`].
pub const BATCH_END: u16 = 0x11;

/// The table belongs to the socket that made it: nobody else may change it (Linux 5.12).
pub const TABLE_OWNER: u32 = 2;
/// An owned table outlives its socket, and the next owner takes it over (Linux 6.9).
pub const TABLE_PERSIST: u32 = 4;

pub(super) const CREATE: u16 = 0x400;
const APPEND: u16 = 0x800;
/// What becomes of a packet that no rule of a base chain ends (`NF_ACCEPT`).
const ACCEPT: u32 = 1;

/// The family of a table (`NFPROTO_*`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// IPv4 and IPv6.
    Inet = 1,
    /// IPv4.
    Ipv4 = 2,
    /// Frames on a bridge.
    Bridge = 7,
    /// IPv6.
    Ipv6 = 10,
}

/// One request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    pub(crate) family: u8,
    /// Beside the family: a group of the packet log.
    pub(crate) resource: u16,
    pub(crate) body: Attributes,
}

impl Request {
    /// Its attributes.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        self.body.as_bytes()
    }
}

pub(super) fn request(kind: u16, flags: u16, family: Family, body: Attributes) -> Request {
    Request { kind, flags, family: family as u8, resource: 0, body }
}

/// Makes a table, or takes over one whose owner is gone. `mark` is kept with it and read back by [`read_userdata`].
#[must_use]
pub fn table(family: Family, name: &str, flags: u32, mark: &[u8]) -> Request {
    request(NEW_TABLE, CREATE, family, Attributes::new().text(1, name).number(2, flags).bytes(6, mark))
}

/// Asks for a table.
#[must_use]
pub fn get_table(family: Family, name: &str) -> Request {
    request(GET_TABLE, 0, family, Attributes::new().text(1, name))
}

/// Deletes a table and all in it.
#[must_use]
pub fn delete_table(family: Family, name: &str) -> Request {
    request(DELETE_TABLE, 0, family, Attributes::new().text(1, name))
}

/// What a base chain does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChainKind {
    /// Lets through or not.
    Filter,
    /// Changes addresses; sees the first packet of a connection only.
    Nat,
}

/// A base chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chain {
    /// Its name.
    pub name: &'static str,
    /// What it does.
    pub kind: ChainKind,
    /// Where.
    pub hook: Hook,
    /// Lower goes first.
    pub priority: i32,
}

/// Makes a base chain that lets through what no rule ends.
#[must_use]
pub fn chain(family: Family, table: &str, chain: Chain) -> Request {
    let hook = Attributes::new().number(1, chain.hook as u32).number(2, chain.priority.cast_unsigned());
    let kind = match chain.kind {
        ChainKind::Filter => "filter",
        ChainKind::Nat => "nat",
    };
    let body = Attributes::new().text(1, table).text(3, chain.name).nested(4, &hook).number(5, ACCEPT).text(7, kind);
    request(NEW_CHAIN, CREATE, family, body)
}

/// Makes a chain that packets reach by a jump only.
#[must_use]
pub fn inner_chain(family: Family, table: &str, chain: &str) -> Request {
    request(NEW_CHAIN, CREATE, family, Attributes::new().text(1, table).text(3, chain))
}

/// Appends a rule to a chain.
#[must_use]
pub fn rule(family: Family, table: &str, chain: &str, expressions: &[Expression]) -> Request {
    request(NEW_RULE, CREATE | APPEND, family, rule_body(table, chain, expressions))
}

pub(super) fn rule_body(table: &str, chain: &str, expressions: &[Expression]) -> Attributes {
    let list = expressions.iter().fold(Attributes::new(), |list, one| list.nested(1, one.attributes()));
    Attributes::new().text(1, table).text(2, chain).nested(4, &list)
}

/// Asks for the rules of a table.
#[must_use]
pub fn get_rules(family: Family, table: &str) -> Request {
    request(GET_RULE, 0, family, Attributes::new().text(1, table))
}

/// The mark of a table in the answer to [`get_table`]. `body` follows the netfilter header.
#[must_use]
pub fn read_userdata(body: &[u8]) -> Option<&[u8]> {
    attribute(body, 6)
}
