//! The kernel's answers. It is no enemy, but other versions of it speak otherwise.

use netd_netlink::nft::{read_element, read_userdata};
use netd_netlink::{Answer, answers, attribute, attributes};

use super::{Verdict, promise, shape};

const HEADERS: usize = 20;

pub(super) fn datagram(input: &[u8]) -> Verdict {
    let read = answers(input);
    let mut octets = 0;
    let mut shapes = Vec::new();
    for answer in &read {
        match answer {
            Answer::Object { message, interrupted, .. } => {
                octets += message.len();
                shapes.push((0, *interrupted, walk(message.get(HEADERS..).unwrap_or_default(), 4).min(64)));
            }
            Answer::Ack { errno, text, .. } => shapes.push((1, *errno == 0, text.len().min(2))),
            Answer::Done { errno, interrupted, .. } => shapes.push((2, *interrupted, usize::from(*errno == 0))),
        }
    }
    promise(octets <= input.len(), || format!("{octets} octets of {} read", input.len()))?;
    shapes.truncate(6);
    Ok(shape(shapes))
}

pub(super) fn elements(input: &[u8]) -> Verdict {
    let read = read_element(input);
    let octets: usize = read.iter().map(|element| element.key.len() + element.data.len()).sum();
    promise(octets <= input.len(), || format!("{octets} octets of {} read", input.len()))?;
    let mark = read_userdata(input).map_or(0, <[u8]>::len);
    let lengths: Vec<_> = read.iter().take(4).map(|element| (element.key.len(), element.data.len())).collect();
    Ok(shape((lengths, mark.min(9), attribute(input, 3).is_some())))
}

/// Attributes within attributes; how many there are.
fn walk(bytes: &[u8], depth: usize) -> usize {
    if depth == 0 {
        return 0;
    }
    attributes(bytes).map(|(_, value)| 1 + walk(value, depth - 1)).sum()
}
