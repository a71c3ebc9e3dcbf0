//! Chains of other programs, and rules of ours in them. Which chains and which rules is the caller's question.

use super::expression::Expression;
use super::request::{CREATE, Family, Request, SUBSYSTEM, request, rule_body};
use crate::attributes::{Attributes, attribute, attributes};

const GET_CHAIN: u16 = SUBSYSTEM | 4;
const DELETE_CHAIN: u16 = SUBSYSTEM | 5;
const NEW_RULE: u16 = SUBSYSTEM | 6;
const GET_RULE: u16 = SUBSYSTEM | 7;
const DELETE_RULE: u16 = SUBSYSTEM | 8;

/// A chain as the kernel lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedChain {
    /// Its table.
    pub table: String,
    /// Its name.
    pub name: String,
    /// `None`: packets reach it by a jump only.
    pub base: Option<ListedBase>,
}

/// Where a base chain is hooked, and what becomes of a packet that no rule of it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListedBase {
    /// See [`super::Hook`]; other families have other hooks.
    pub hook: u32,
    /// By policy.
    pub drops: bool,
}

/// A rule as the kernel lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedRule {
    /// Its number in the table.
    pub handle: u64,
    /// Empty where there is none.
    pub comment: String,
    /// It sends every packet back: what stands behind it meets none.
    pub is_end: bool,
}

/// Where in a chain a rule goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Position {
    /// Ahead of all.
    First,
    /// Behind all.
    Last,
    /// Ahead of the rule with this handle.
    Before(u64),
}

/// Asks for all chains of a family.
#[must_use]
pub fn get_chains(family: Family) -> Request {
    request(GET_CHAIN, 0, family, Attributes::new())
}

/// Asks for the rules of one chain.
#[must_use]
pub fn get_chain_rules(family: Family, table: &str, chain: &str) -> Request {
    request(GET_RULE, 0, family, Attributes::new().text(1, table).text(2, chain))
}

/// Puts a rule in a chain, with a comment as `nft` and `iptables` show it.
#[must_use]
pub fn put_rule(
    family: Family,
    (table, chain): (&str, &str),
    position: Position,
    expressions: &[Expression],
    comment: &str,
) -> Request {
    const APPEND: u16 = 0x800;
    // `NFTNL_UDATA_RULE_COMMENT`, its length, and the text with its terminating zero (libnftnl/udata.h).
    let mut mark = vec![0, u8::try_from(comment.len() + 1).unwrap_or(u8::MAX)];
    mark.extend(comment.bytes().take(usize::from(u8::MAX) - 1).chain([0]));
    let body = rule_body(table, chain, expressions);
    let (flags, body) = match position {
        Position::First => (CREATE, body),
        Position::Last => (CREATE | APPEND, body),
        Position::Before(handle) => (CREATE, body.bytes(6, &handle.to_be_bytes())),
    };
    request(NEW_RULE, flags, family, body.bytes(7, &mark))
}

/// Deletes one rule.
#[must_use]
pub fn delete_rule(family: Family, table: &str, chain: &str, handle: u64) -> Request {
    let body = Attributes::new().text(1, table).text(2, chain).bytes(3, &handle.to_be_bytes());
    request(DELETE_RULE, 0, family, body)
}

/// Deletes all rules of a chain.
#[must_use]
pub fn empty_chain(family: Family, table: &str, chain: &str) -> Request {
    request(DELETE_RULE, 0, family, Attributes::new().text(1, table).text(2, chain))
}

/// Deletes a chain without rules that no rule jumps to.
#[must_use]
pub fn delete_chain(family: Family, table: &str, chain: &str) -> Request {
    request(DELETE_CHAIN, 0, family, Attributes::new().text(1, table).text(3, chain))
}

/// A chain in the answer to [`get_chains`]. `body` follows the netfilter header.
#[must_use]
pub fn read_chain(body: &[u8]) -> Option<ListedChain> {
    let base = || {
        let hook = number(attribute(attribute(body, 4)?, 1)?)?;
        Some(ListedBase { hook, drops: attribute(body, 5).and_then(number) == Some(0) })
    };
    Some(ListedChain { table: text(attribute(body, 1)?), name: text(attribute(body, 3)?), base: base() })
}

/// A rule in the answer to [`get_chain_rules`]. `body` follows the netfilter header.
#[must_use]
pub fn read_rule(body: &[u8]) -> Option<ListedRule> {
    let handle = u64::from_be_bytes(*attribute(body, 3)?.first_chunk()?);
    let expressions = attribute(body, 4).unwrap_or_default();
    let comment = attribute(body, 7).and_then(comment).or_else(|| matched_comment(expressions)).unwrap_or_default();
    Some(ListedRule { handle, comment, is_end: is_return(expressions) })
}

/// iptables makes a match of it, that always matches (`struct xt_comment_info`).
fn matched_comment(expressions: &[u8]) -> Option<String> {
    attributes(expressions).find_map(|(_, expression)| {
        let data = attribute(expression, 2).filter(|_| attribute(expression, 1) == Some(b"match\0"))?;
        let info = attribute(data, 3).filter(|_| attribute(data, 1) == Some(b"comment\0"))?;
        info.split(|octet| *octet == 0).next().map(text)
    })
}

/// The text among the parts of a rule's user data, each a type, a length and a value.
fn comment(mut parts: &[u8]) -> Option<String> {
    loop {
        let (&[kind, length], rest) = parts.split_first_chunk()?;
        let value = rest.get(..usize::from(length))?;
        if kind == 0 {
            return Some(text(value));
        }
        parts = rest.get(usize::from(length)..)?;
    }
}

/// Nothing but a counter ahead of a return.
fn is_return(expressions: &[u8]) -> bool {
    const RETURN: u32 = (-5_i32).cast_unsigned();
    let verdict = |data: &[u8]| number(attribute(attribute(attribute(data, 2)?, 2)?, 1)?);
    let mut returns = false;
    for (_, expression) in attributes(expressions) {
        match attribute(expression, 1) {
            Some(b"counter\0") => {}
            Some(b"immediate\0") => returns = attribute(expression, 2).and_then(verdict) == Some(RETURN),
            _ => return false,
        }
    }
    returns
}

fn number(value: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(*value.first_chunk()?))
}

fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value).trim_end_matches('\0').to_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{comment, read_chain, read_rule};

    #[test]
    fn a_comment_is_found_among_other_parts() {
        assert_eq!(comment(b"\x01\x02ab\x00\x04abc\0"), Some("abc".to_owned()));
        assert_eq!(comment(b"\x01\x02ab"), None);
        assert_eq!(comment(b"\x00\x09abc"), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_safe(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            prop_assert!(read_chain(&bytes).is_none_or(|chain| chain.name.len() <= 3 * bytes.len()));
            prop_assert!(read_rule(&bytes).is_none_or(|rule| rule.comment.len() <= 3 * bytes.len()));
        }
    }
}
