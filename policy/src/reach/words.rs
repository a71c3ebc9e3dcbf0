//! A reach in words: `all`, `none`, `tcp/80 tcp/8000-8080 udp/53 icmp`, `all but tcp/22`. Exact, and short where it can be.

use std::fmt;

use crate::flow::{ICMP, ICMPV6, SCTP, TCP, Traffic, UDP};

use super::{Range, Reach, whole};

const WITH_PORTS: [(u8, &str); 3] = [(TCP, "tcp"), (UDP, "udp"), (SCTP, "sctp")];

impl fmt::Display for Reach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rest = Self::all(self.is_v6).without(self);
        if rest.is_none() {
            return f.write_str("all");
        }
        if self.is_none() {
            return f.write_str("none");
        }
        if others(&rest).is_empty() {
            return write!(f, "all but {}", words(&rest).join(" "));
        }
        f.write_str(&words(self).join(" "))
    }
}

fn words(reach: &Reach) -> Vec<String> {
    let all = Reach::all(reach.is_v6);
    let icmp = if reach.is_v6 { ICMPV6 } else { ICMP };
    let mut words = Vec::new();
    for (protocol, name) in WITH_PORTS {
        words.extend(parts(reach, &all, protocol).into_iter().map(|part| match part {
            None => name.to_owned(),
            Some((first, last)) => format!("{name}/{}", range(u32::from(first), u32::from(last))),
        }));
    }
    words.extend(parts(reach, &all, icmp).into_iter().map(|part| part.map_or_else(|| "icmp".to_owned(), messages)));
    let others = others(reach);
    if others.len() == self::others(&all).len() {
        words.push("other".to_owned());
    } else {
        words.extend(others.iter().map(|protocol| format!("protocol/{protocol}")));
    }
    words
}

/// The ranges of a protocol's ports; `None` is the whole protocol.
fn parts(reach: &Reach, all: &Reach, protocol: u8) -> Vec<Option<(u16, u16)>> {
    let (mine, every) = (of_protocol(reach, protocol), of_protocol(all, protocol));
    if mine == every {
        return vec![None];
    }
    let port = |number: u32| u16::try_from(number & u32::from(u16::MAX)).unwrap_or_default();
    mine.into_iter().map(|(first, last)| Some((port(first), port(last)))).collect()
}

fn of_protocol(reach: &Reach, protocol: u8) -> Vec<Range> {
    let (least, most) = whole(protocol);
    let inside = reach.ranges.iter().filter(|(first, last)| *first <= most && *last >= least);
    inside.map(|(first, last)| ((*first).max(least), (*last).min(most))).collect()
}

/// Protocols without ports, types or a name that are in it.
fn others(reach: &Reach) -> Vec<u8> {
    let named = |protocol: &u8| matches!(*protocol, TCP | UDP | SCTP | ICMP | ICMPV6);
    let is_in = |protocol: &u8| reach.contains(Traffic { protocol: *protocol, port: 0 });
    (0..=u8::MAX).filter(|protocol| !named(protocol) && is_in(protocol)).collect()
}

/// `8`, `3-4`, `3:1`, `3:1-4:7`: types, with the code where not all are meant.
fn messages((first, last): (u16, u16)) -> String {
    let ([kind, code], [last_kind, last_code]) = (first.to_be_bytes(), last.to_be_bytes());
    if (code, last_code) == (0, u8::MAX) {
        return format!("icmp/{}", range(u32::from(kind), u32::from(last_kind)));
    }
    if first == last { format!("icmp/{kind}:{code}") } else { format!("icmp/{kind}:{code}-{last_kind}:{last_code}") }
}

fn range(first: u32, last: u32) -> String {
    if first == last { first.to_string() } else { format!("{first}-{last}") }
}

#[cfg(test)]
mod tests {
    use super::super::{LAST, number};
    use super::{ICMP, ICMPV6, Reach, SCTP, TCP, UDP, whole};

    fn written(is_v6: bool, ranges: &[(u32, u32)]) -> String {
        let mut ranges = ranges.to_vec();
        ranges.sort_unstable();
        Reach::all(is_v6).narrowed(&ranges).to_string()
    }

    #[test]
    fn what_is_in_it_is_written_shortly() {
        let of = |protocol, first, last| (number(protocol, first), number(protocol, last));
        let table = [
            (written(false, &[(0, LAST)]), "all"),
            (written(true, &[(0, LAST)]), "all"),
            (written(false, &[]), "none"),
            (written(false, &[whole(ICMPV6)]), "none"),
            (written(true, &[of(ICMPV6, 135 << 8, 135 << 8)]), "none"),
            (
                written(false, &[of(TCP, 80, 80), of(TCP, 8000, 8080), of(UDP, 53, 53), whole(ICMP)]),
                "tcp/80 tcp/8000-8080 udp/53 icmp",
            ),
            (written(true, &[whole(ICMPV6), whole(SCTP)]), "sctp icmp"),
            (
                written(false, &[of(ICMP, 8 << 8, (8 << 8) | 255), of(ICMP, (3 << 8) | 1, (3 << 8) | 1)]),
                "icmp/3:1 icmp/8",
            ),
            (
                written(false, &[of(ICMP, 3 << 8, (4 << 8) | 255), of(ICMP, (8 << 8) | 1, (9 << 8) | 2)]),
                "icmp/3-4 icmp/8:1-9:2",
            ),
            (written(false, &[(0, number(TCP, 21)), (number(TCP, 23), LAST)]), "all but tcp/22"),
            (written(true, &[(0, whole(UDP).0 - 1), (whole(UDP).1 + 1, LAST)]), "all but udp"),
            (written(false, &[whole(47), whole(50)]), "protocol/47 protocol/50"),
            (written(false, &[whole(TCP), (whole(UDP).0, number(UDP, 9))]), "tcp udp/0-9"),
        ];
        for (written, wanted) in table {
            assert_eq!(written, wanted);
        }
    }
}
