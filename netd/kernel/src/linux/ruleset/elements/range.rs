//! Ranges as elements: a start, and an end that is the first key behind it.

use std::net::IpAddr;

use netd_netlink::nft::Element;

use super::read_address;

/// A range is two elements; one without an end goes on to the last key there is.
pub(super) fn range(set: &'static str, start: Element, end: Option<Vec<u8>>) -> Vec<(&'static str, Element)> {
    let end = end.map(|key| (set, Element { key, data: Vec::new(), is_end: true }));
    [(set, start)].into_iter().chain(end).collect()
}

/// Each start with the key of its end, in the order of keys.
pub(super) fn ranges(elements: &[Element]) -> Vec<(&Element, Option<&Element>)> {
    let mut sorted: Vec<&Element> = elements.iter().filter(|element| !element.key.is_empty()).collect();
    // Where one range ends and the next one starts at the same key, the end is first.
    sorted.sort_by_key(|element| (&element.key, !element.is_end));
    let end_of = |at: usize| sorted.get(at + 1).copied().filter(|next| next.is_end);
    let starts = sorted.iter().enumerate().filter(|(_, element)| !element.is_end);
    starts.map(|(at, start)| (*start, end_of(at))).collect()
}

/// The address behind this one; the last has none.
pub(super) fn behind(address: IpAddr) -> Option<Vec<u8>> {
    match address {
        IpAddr::V4(v4) => Some(v4.to_bits().checked_add(1)?.to_be_bytes().into()),
        IpAddr::V6(v6) => Some(v6.to_bits().checked_add(1)?.to_be_bytes().into()),
    }
}

/// First and last address of a range.
pub(super) fn read_addresses(wide: bool, start: &Element, end: Option<&Element>) -> Option<(IpAddr, IpAddr)> {
    let first = read_address(&start.key, wide)?.0;
    let end = end.map(|end| read_address(&end.key, wide).map(|(address, _)| address));
    let last = match end {
        None if wide => IpAddr::from([0xff; 16]),
        None => IpAddr::from([0xff; 4]),
        Some(end) => before(end?)?,
    };
    Some((first, last))
}

fn before(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(v4) => Some(IpAddr::V4(v4.to_bits().checked_sub(1)?.into())),
        IpAddr::V6(v6) => Some(IpAddr::V6(v6.to_bits().checked_sub(1)?.into())),
    }
}
