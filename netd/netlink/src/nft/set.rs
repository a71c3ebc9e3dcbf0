//! Sets, maps and their elements as requests, and how elements are read back. Which sets there are is the caller's.

use super::expression::{Expression, Verdict};
use super::request::{CREATE, Family, Request, SUBSYSTEM, request};
use crate::attributes::{Attributes, attribute, attributes};

const NEW_SET: u16 = SUBSYSTEM | 9;
const NEW_ELEMENT: u16 = SUBSYSTEM | 12;
const GET_ELEMENT: u16 = SUBSYSTEM | 13;
const DELETE_ELEMENT: u16 = SUBSYSTEM | 14;
const DESTROY_ELEMENT: u16 = SUBSYSTEM | 30;

/// Elements of one message: an attribute's length has 16 bits, and the largest element of ours takes under 100 octets.
const ELEMENTS_A_MESSAGE: usize = 500;

/// `NFT_DATA_VERDICT`: the type of a value that is a verdict.
const VERDICT: u32 = 0xffff_ff00;

/// A set, or with values a map. Types are those of `nft` (its numbers, concatenated by 6 bits), for display only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Set {
    /// Its name.
    pub name: &'static str,
    key: (u32, u32),
    data: Option<(u32, u32)>,
    has_ranges: bool,
    is_counted: bool,
    timeout_s: u32,
}

impl Set {
    /// A set whose keys have this type and length in octets.
    #[must_use]
    pub const fn of(name: &'static str, key: (u32, u32)) -> Self {
        Self { name, key, data: None, has_ranges: false, is_counted: false, timeout_s: 0 }
    }

    /// A map: type and length in octets of its keys and its values.
    #[must_use]
    pub const fn map(name: &'static str, key: (u32, u32), data: (u32, u32)) -> Self {
        Self { data: Some(data), ..Self::of(name, key) }
    }

    /// A map to verdicts.
    #[must_use]
    pub const fn verdicts(name: &'static str, key: (u32, u32)) -> Self {
        Self::map(name, key, (VERDICT, 0))
    }

    /// Its keys are ranges in the order of their octets: of a concatenation, the last part ranges.
    #[must_use]
    pub const fn of_ranges(self) -> Self {
        Self { has_ranges: true, ..self }
    }

    /// Each element counts the packets that find it.
    #[must_use]
    pub const fn counted(self) -> Self {
        Self { is_counted: true, ..self }
    }

    /// Elements vanish after so many seconds.
    #[must_use]
    pub const fn forgotten_after(self, seconds: u32) -> Self {
        Self { timeout_s: seconds, ..self }
    }

    /// Whether its elements have values.
    #[must_use]
    pub const fn is_map(&self) -> bool {
        self.data.is_some()
    }

    fn flags(&self) -> u32 {
        const INTERVAL: u32 = 4;
        const MAP: u32 = 8;
        const TIMEOUT: u32 = 16;
        let flag = |is_on: bool, flag| if is_on { flag } else { 0 };
        flag(self.has_ranges, INTERVAL) | flag(self.data.is_some(), MAP) | flag(self.timeout_s > 0, TIMEOUT)
    }
}

/// Makes a set. `id` is its number within the transaction.
#[must_use]
pub fn set(family: Family, table: &str, set: Set, id: u32) -> Request {
    /// `nft`'s types of names of interfaces, and of numbers.
    const IFNAME: u32 = 41;
    const MARK: u32 = 19;
    // `nft`'s own note on a set (libnftnl, `NFTNL_UDATA_SET_KEYBYTEORDER`): names count as written by this machine, or it
    // shows them empty; addresses as on the wire, or it shows them backwards.
    let order = if [IFNAME, MARK].contains(&set.key.0) { [0, 4, 1, 0, 0, 0] } else { [0, 4, 2, 0, 0, 0] };
    let mut body = Attributes::new().text(1, table).text(2, set.name).number(3, set.flags()).bytes(13, &order);
    body = body.number(4, set.key.0).number(5, set.key.1).number(10, id);
    if let Some((kind, length)) = set.data {
        body = body.number(6, kind).number(7, length);
    }
    if set.timeout_s > 0 {
        body = body.bytes(11, &(u64::from(set.timeout_s) * 1_000).to_be_bytes());
    }
    if set.is_counted {
        body = body.nested(17, Expression::counter().attributes());
    }
    request(NEW_SET, CREATE, family, body)
}

/// An element of a set or map: key and value, each part of a concatenation filled up to 4 octets.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Element {
    /// The key.
    pub key: Vec<u8>,
    /// The key ends a range: it is the first that is not in it.
    pub is_end: bool,
    /// The value; empty in a set.
    pub data: Vec<u8>,
}

impl Element {
    const INTERVAL_END: u32 = 1;

    fn write(&self) -> Attributes {
        let mut body = Attributes::new().nested(1, &Attributes::new().bytes(1, &self.key));
        if !self.data.is_empty() {
            body = body.nested(2, &Attributes::new().bytes(1, &self.data));
        }
        if self.is_end { body.number(3, Self::INTERVAL_END) } else { body }
    }

    fn read(bytes: &[u8]) -> Self {
        let value = |kind| attribute(bytes, kind).and_then(|value| attribute(value, 1)).unwrap_or_default().to_vec();
        Self { key: value(1), is_end: flags(bytes) & Self::INTERVAL_END != 0, data: value(2) }
    }
}

fn flags(element: &[u8]) -> u32 {
    attribute(element, 3).and_then(|flags| flags.first_chunk()).map_or(0, |flags| u32::from_be_bytes(*flags))
}

fn listed(kind: u16, family: Family, table: &str, set: &str, elements: &[Attributes]) -> Vec<Request> {
    let flags = if kind == NEW_ELEMENT { CREATE } else { 0 };
    elements
        .chunks(ELEMENTS_A_MESSAGE)
        .map(|chunk| {
            let list = chunk.iter().fold(Attributes::new(), |list, element| list.nested(1, element));
            request(kind, flags, family, Attributes::new().text(1, table).text(2, set).nested(3, &list))
        })
        .collect()
}

fn written(list: &[Element]) -> Vec<Attributes> {
    list.iter().map(Element::write).collect()
}

/// Adds elements. One that is there with the same value is no error.
#[must_use]
pub fn elements(family: Family, table: &str, set: &str, list: &[Element]) -> Vec<Request> {
    listed(NEW_ELEMENT, family, table, set, &written(list))
}

/// Takes elements away. One that is absent is an error, and the transaction fails.
#[must_use]
pub fn delete_elements(family: Family, table: &str, set: &str, list: &[Element]) -> Vec<Request> {
    listed(DELETE_ELEMENT, family, table, set, &written(list))
}

/// Takes elements away. One that is absent is no error (Linux 6.3).
#[must_use]
pub fn destroy_elements(family: Family, table: &str, set: &str, list: &[Element]) -> Vec<Request> {
    listed(DESTROY_ELEMENT, family, table, set, &written(list))
}

/// A value for all keys that have none of their own. It is read back as an element without a key.
#[must_use]
pub fn catch_all(family: Family, table: &str, map: &str, data: &[u8]) -> Vec<Request> {
    let data = Attributes::new().bytes(1, data);
    listed(NEW_ELEMENT, family, table, map, &[of_all_keys().nested(2, &data)])
}

/// The elements of a map to verdicts; `rest` is the verdict for all other keys.
#[must_use]
pub fn verdicts(
    family: Family,
    table: &str,
    map: &str,
    list: &[(u32, Verdict)],
    rest: Option<Verdict>,
) -> Vec<Request> {
    let keyed = |key: &u32| Attributes::new().nested(1, &Attributes::new().bytes(1, &key.to_ne_bytes()));
    let mut elements: Vec<_> = list.iter().map(|(key, verdict)| keyed(key).nested(2, &verdict.data())).collect();
    elements.extend(rest.map(|verdict| of_all_keys().nested(2, &verdict.data())));
    listed(NEW_ELEMENT, family, table, map, &elements)
}

fn of_all_keys() -> Attributes {
    const CATCH_ALL: u32 = 2;
    Attributes::new().number(3, CATCH_ALL)
}

/// Asks for the elements of a set.
#[must_use]
pub fn get_elements(family: Family, table: &str, set: &str) -> Request {
    request(GET_ELEMENT, 0, family, Attributes::new().text(1, table).text(2, set))
}

/// Asks for one element, by its key. An absent one is a refusal (`ENOENT`).
#[must_use]
pub fn get_element(family: Family, table: &str, set: &str, element: &Element) -> Request {
    let list = Attributes::new().nested(1, &Element { data: Vec::new(), ..element.clone() }.write());
    request(GET_ELEMENT, 0, family, Attributes::new().text(1, table).text(2, set).nested(3, &list))
}

fn list(body: &[u8]) -> impl Iterator<Item = &[u8]> {
    attribute(body, 3).into_iter().flat_map(attributes).map(|(_, element)| element)
}

/// The elements that one message of the answer to [`get_elements`] lists. `body` follows the netfilter header.
#[must_use]
pub fn read_element(body: &[u8]) -> Vec<Element> {
    list(body).map(Element::read).collect()
}

/// As [`read_element`], each with the packets that it has counted.
#[must_use]
pub fn read_counted(body: &[u8]) -> Vec<(Element, u64)> {
    list(body).map(|element| (Element::read(element), packets(element).unwrap_or_default())).collect()
}

fn packets(element: &[u8]) -> Option<u64> {
    let counter = attribute(attribute(element, 7)?, 2)?;
    Some(u64::from_be_bytes(*attribute(counter, 2)?.first_chunk()?))
}
