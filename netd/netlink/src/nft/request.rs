//! Requests of a transaction, and how the kernel's objects are read back.

use super::expression::{Expression, Hook, Verdict};
use crate::attributes::{Attributes, attribute, attributes};

const SUBSYSTEM: u16 = 10 << 8;
const NEW_TABLE: u16 = SUBSYSTEM;
const GET_TABLE: u16 = SUBSYSTEM | 1;
const DELETE_TABLE: u16 = SUBSYSTEM | 2;
const NEW_CHAIN: u16 = SUBSYSTEM | 3;
const NEW_RULE: u16 = SUBSYSTEM | 6;
const GET_RULE: u16 = SUBSYSTEM | 7;
const NEW_SET: u16 = SUBSYSTEM | 9;
const NEW_ELEMENT: u16 = SUBSYSTEM | 12;
const GET_ELEMENT: u16 = SUBSYSTEM | 13;
const DELETE_ELEMENT: u16 = SUBSYSTEM | 14;
const DESTROY_ELEMENT: u16 = SUBSYSTEM | 30;

/// `NFNL_MSG_BATCH_BEGIN` and `..._END`: what stands between is one transaction.
pub const BATCH_BEGIN: u16 = 0x10;
/// See [`BATCH_BEGIN`].
pub const BATCH_END: u16 = 0x11;

/// The table belongs to the socket that made it: nobody else may change it (Linux 5.12).
pub const TABLE_OWNER: u32 = 2;
/// An owned table outlives its socket, and the next owner takes it over (Linux 6.9).
pub const TABLE_PERSIST: u32 = 4;

const CREATE: u16 = 0x400;
const APPEND: u16 = 0x800;
/// Elements of one message: an attribute's length has 16 bits, and the largest element of ours takes under 100 octets.
const ELEMENTS_A_MESSAGE: usize = 500;

/// The family of a table (`NFPROTO_*`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// IPv4 and IPv6.
    Inet = 1,
    /// Frames on a bridge.
    Bridge = 7,
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

fn request(kind: u16, flags: u16, family: Family, body: Attributes) -> Request {
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
    let body = Attributes::new()
        .text(1, table)
        .text(3, chain.name)
        .nested(4, &hook)
        .number(5, Verdict::Accept as u32)
        .text(7, kind);
    request(NEW_CHAIN, CREATE, family, body)
}

/// Appends a rule to a chain.
#[must_use]
pub fn rule(family: Family, table: &str, chain: &str, expressions: &[Expression]) -> Request {
    let list = expressions.iter().fold(Attributes::new(), |list, one| list.nested(1, one.attributes()));
    let body = Attributes::new().text(1, table).text(2, chain).nested(4, &list);
    request(NEW_RULE, CREATE | APPEND, family, body)
}

/// Asks for the rules of a table.
#[must_use]
pub fn get_rules(family: Family, table: &str) -> Request {
    request(GET_RULE, 0, family, Attributes::new().text(1, table))
}

/// A set, or with `data` a map. Types are those of `nft` (its numbers, concatenated by 6 bits), for display only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Set {
    /// Its name.
    pub name: &'static str,
    /// Type and length in octets of a key.
    pub key: (u32, u32),
    /// Type and length in octets of a value.
    pub data: Option<(u32, u32)>,
}

/// Makes a set. `id` is its number within the transaction.
#[must_use]
pub fn set(family: Family, table: &str, set: Set, id: u32) -> Request {
    const MAP: u32 = 8;
    /// `nft`'s type of names of interfaces.
    const IFNAME: u32 = 41;
    // `nft`'s own note on a set (libnftnl, `NFTNL_UDATA_SET_KEYBYTEORDER`): names count as written by this machine, or it
    // shows them empty; addresses as on the wire, or it shows them backwards.
    let order = if set.key.0 == IFNAME { [0, 4, 1, 0, 0, 0] } else { [0, 4, 2, 0, 0, 0] };
    let flags = if set.data.is_some() { MAP } else { 0 };
    let mut body = Attributes::new().text(1, table).text(2, set.name).number(3, flags).bytes(13, &order);
    body = body.number(4, set.key.0).number(5, set.key.1).number(10, id);
    if let Some((kind, length)) = set.data {
        body = body.number(6, kind).number(7, length);
    }
    request(NEW_SET, CREATE, family, body)
}

/// An element of a set or map: key and value, each part of a concatenation filled up to 4 octets.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Element {
    /// The key.
    pub key: Vec<u8>,
    /// The value; empty in a set.
    pub data: Vec<u8>,
}

fn listed(kind: u16, flags: u16, family: Family, table: &str, set: &str, elements: &[Element]) -> Vec<Request> {
    let one = |list: Attributes, element: &Element| {
        let mut body = Attributes::new().nested(1, &Attributes::new().bytes(1, &element.key));
        if !element.data.is_empty() {
            body = body.nested(2, &Attributes::new().bytes(1, &element.data));
        }
        list.nested(1, &body)
    };
    elements
        .chunks(ELEMENTS_A_MESSAGE)
        .map(|chunk| {
            let list = chunk.iter().fold(Attributes::new(), one);
            request(kind, flags, family, Attributes::new().text(1, table).text(2, set).nested(3, &list))
        })
        .collect()
}

/// Adds elements. One that is there with the same value is no error.
#[must_use]
pub fn elements(family: Family, table: &str, set: &str, list: &[Element]) -> Vec<Request> {
    listed(NEW_ELEMENT, CREATE, family, table, set, list)
}

/// Takes elements away. One that is absent is an error, and the transaction fails.
#[must_use]
pub fn delete_elements(family: Family, table: &str, set: &str, list: &[Element]) -> Vec<Request> {
    listed(DELETE_ELEMENT, 0, family, table, set, list)
}

/// Takes elements away. One that is absent is no error (Linux 6.3).
#[must_use]
pub fn destroy_elements(family: Family, table: &str, set: &str, list: &[Element]) -> Vec<Request> {
    listed(DESTROY_ELEMENT, 0, family, table, set, list)
}

/// Asks for the elements of a set.
#[must_use]
pub fn get_elements(family: Family, table: &str, set: &str) -> Request {
    request(GET_ELEMENT, 0, family, Attributes::new().text(1, table).text(2, set))
}

/// Asks for one element, by its key. An absent one is a refusal (`ENOENT`).
#[must_use]
pub fn get_element(family: Family, table: &str, set: &str, element: &Element) -> Request {
    let list = Attributes::new().nested(1, &Attributes::new().nested(1, &Attributes::new().bytes(1, &element.key)));
    request(GET_ELEMENT, 0, family, Attributes::new().text(1, table).text(2, set).nested(3, &list))
}

/// The elements that one message of the answer to [`get_elements`] lists. `body` follows the netfilter header.
#[must_use]
pub fn read_element(body: &[u8]) -> Vec<Element> {
    let value = |bytes| attribute(bytes, 1).map(<[u8]>::to_vec).unwrap_or_default();
    let element = |(_, bytes): (u16, _)| Element {
        key: attribute(bytes, 1).map(value).unwrap_or_default(),
        data: attribute(bytes, 2).map(value).unwrap_or_default(),
    };
    attribute(body, 3).map(|list| attributes(list).map(element).collect()).unwrap_or_default()
}

/// The mark of a table in the answer to [`get_table`]. `body` follows the netfilter header.
#[must_use]
pub fn read_userdata(body: &[u8]) -> Option<&[u8]> {
    attribute(body, 6)
}
