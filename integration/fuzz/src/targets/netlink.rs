//! The kernel's answers. It is no enemy, but other versions of it speak otherwise.

use netd_kernel::read_elements;
use netd_netlink::nft::{read_chain, read_counted, read_element, read_rule, read_userdata};
use netd_netlink::{Answer, Link, LoggedPacket, Notice, answers, attribute, attributes, conntrack, decode};

use super::{Verdict, promise, shape};

pub(super) const TOKENS: &[&str] = &[
    "\u{8}\0\u{1}\0",
    "\u{4}\0\u{3}\0",
    "\u{8}\0\u{4}\0",
    "\u{5}\0\u{1}\0\u{1}\0\0\0",
    "\u{14}\0\u{3}\0",
    "nd00000001\0",
    "br0\0",
];
pub(super) const SETS: &[&str] = &[
    "bridges\0",
    "fenced\0",
    "ports4\0",
    "host_ports6\0",
    "home4\0",
    "home6\0",
    "class4\0",
    "block4\0",
    "block6\0",
    "profiles\0",
    "pairs_in\0",
    "any_out\0",
    "itself6\0",
    "leased4\0",
    "port_macs\0",
    "inside4\0",
    "inside6\0",
    "asked\0",
    "tunnel_ports\0",
    "peers4\0",
    "entrances6\0",
    "ipip_entrances\0",
    "\u{8}\0\u{3}\0\0\0\0\u{1}",
    "\u{8}\0\u{1}\0",
];
pub(super) const CHAINS: &[&str] = &[
    "filter\0",
    "FORWARD\0",
    "counter\0",
    "immediate\0",
    "match\0",
    "comment\0",
    "\u{8}\0\u{5}\0\0\0\0\0",
    "\u{c}\0\u{3}\0\0\0\0\0\0\0\0\u{1}",
    "\u{8}\0\u{1}\0",
];
const HEADERS: usize = 20;
/// Netlink's header and the link's own.
const OF_A_LINK: usize = 32;

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

/// The name of a set, a zero, and a list of its elements: never more objects than elements, and the same in any order of them.
pub(super) fn sets(input: &[u8]) -> Verdict {
    let at = input.iter().position(|octet| *octet == 0).unwrap_or(input.len());
    let (set, body) = (String::from_utf8_lossy(&input[..at]), input.get(at + 1..).unwrap_or_default());
    let elements = read_element(body);
    let objects = read_elements(&set, &elements);
    promise(objects.len() <= elements.len(), || format!("{} objects of {} elements", objects.len(), elements.len()))?;
    let kinds: Vec<_> = objects.keys().take(6).map(std::mem::discriminant).collect();
    Ok(shape((kinds, elements.len().min(6))))
}

pub(super) fn link(input: &[u8]) -> Verdict {
    let Some(link) = Link::read(input) else {
        promise(input.len() < OF_A_LINK, || "a whole message is no link".to_owned())?;
        return Ok(0);
    };
    promise(input.len() >= OF_A_LINK && link.mac.len() <= input.len() - OF_A_LINK, || format!("too much: {link:?}"))?;
    Ok(shape((link.mac.len().min(9), link.mtu.leading_zeros(), link.controller.is_some())))
}

/// What netlink-packet-route makes of them.
pub(super) fn objects(input: &[u8]) -> Verdict {
    let kind = |answer: &Answer| match answer {
        Answer::Object { message, .. } => match decode(message) {
            Ok(Some(object)) => (2, format!("{object:?}").len() / 64),
            Ok(None) => (1, 0),
            Err(_) => (0, 0),
        },
        Answer::Ack { .. } | Answer::Done { .. } => (3, 0),
    };
    Ok(shape(answers(input).iter().take(6).map(kind).collect::<Vec<_>>()))
}

pub(super) fn notices(input: &[u8]) -> Verdict {
    let kind = |notice: Notice| match notice {
        Notice::Gone(name) => (1, name.len().min(16)),
        Notice::Unrouted { to, .. } => (2, usize::from(to.prefix_len())),
        Notice::Lost => (3, 0),
    };
    let read: Vec<_> = answers(input).iter().take(6).map(|answer| Notice::read(answer).map(kind)).collect();
    Ok(shape(read))
}

pub(super) fn chains(input: &[u8]) -> Verdict {
    let (chain, rule) = (read_chain(input), read_rule(input));
    let octets = chain.as_ref().map_or(0, |chain| chain.table.len() + chain.name.len())
        + rule.as_ref().map_or(0, |rule| rule.comment.len());
    // What is no UTF-8 takes three octets where it had one.
    promise(octets <= 6 * input.len(), || format!("{octets} octets of {} read", input.len()))?;
    let base = chain.map(|chain| chain.base.map(|base| (base.hook.min(6), base.drops)));
    let counted: Vec<bool> = read_counted(input).iter().take(4).map(|(_, packets)| *packets > 0).collect();
    Ok(shape((base, rule.map(|rule| (rule.comment.len().min(9), rule.is_end)), counted)))
}

/// A flow is asked for, and forgotten, by what was read of it: that reads the same again.
pub(super) fn flows(input: &[u8]) -> Verdict {
    let by_id = conntrack::forget_one(&conntrack::all(), input).is_some();
    let Some((opened, answered)) = conntrack::read(input) else { return Ok(shape(by_id)) };
    let request = conntrack::forget_flow(&opened);
    let twice = [request.body(), request.body()].map(|body| attribute(body, 1).unwrap_or_default().to_vec());
    let body = netd_netlink::Attributes::new().nested_bytes(1, &twice[0]).nested_bytes(2, &twice[1]);
    let again = conntrack::read(body.as_bytes());
    promise(again == Some((opened, opened)), || format!("{opened:?} became {again:?}"))?;
    Ok(shape((opened.protocol, opened.source.0.is_ipv4(), answered.destination.0.is_ipv4(), by_id)))
}

pub(super) fn packets(input: &[u8]) -> Verdict {
    let kind = |packet: LoggedPacket| (packet.protocol, packet.source.is_ipv4(), packet.ports.is_some());
    let read: Vec<_> = answers(input).iter().take(4).map(|answer| LoggedPacket::read(answer).map(kind)).collect();
    Ok(shape(read))
}

/// Attributes within attributes; how many there are.
fn walk(bytes: &[u8], depth: usize) -> usize {
    if depth == 0 {
        return 0;
    }
    attributes(bytes).map(|(_, value)| 1 + walk(value, depth - 1)).sum()
}
