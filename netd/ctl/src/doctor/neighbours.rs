//! The kernel's tables of neighbours (who on a link has which hardware address). All namespaces of a node share one a family,
//! and a packet to somebody for whom it has no room is dropped.

use std::fmt;

use super::{Finding, Place};

/// A table, by what the kernel says of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Table {
    pub(crate) family: Family,
    /// `gc_thresh3`: it takes no more than so many, but for permanent ones.
    pub(crate) most: u64,
    pub(crate) entries: u64,
    /// How often it was full since the node's boot.
    pub(crate) fulls: u64,
}

/// Whose neighbours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "ipv4",
            Self::V6 => "ipv6",
        })
    }
}

/// Those that can be read: a namespace beside the node's own shows none.
pub(super) fn gather(place: &Place) -> Vec<Table> {
    let table = |(family, statistics): (Family, &str)| {
        let most = place.text(&format!("/proc/sys/net/{family}/neigh/default/gc_thresh3"))?.trim().parse().ok()?;
        let (entries, fulls) = count(&place.text(&format!("/proc/net/stat/{statistics}"))?)?;
        Some(Table { family, most, entries, fulls })
    };
    [(Family::V4, "arp_cache"), (Family::V6, "ndisc_cache")].into_iter().filter_map(table).collect()
}

/// Reads /proc/net/stat/*_cache (`neigh_stat_seq_show`, net/core/neighbour.c): names, then a line for each processor in
/// hexadecimal digits. Entries are the whole table's in every line; how often it was full is each processor's own.
pub(super) fn count(statistics: &str) -> Option<(u64, u64)> {
    let mut lines = statistics.lines();
    let names: Vec<&str> = lines.next()?.split_whitespace().collect();
    let place = |name: &str| names.iter().position(|one| *one == name);
    let (entries, fulls) = (place("entries")?, place("table_fulls")?);
    let rows: Vec<Vec<u64>> = lines
        .map(|line| line.split_whitespace().map_while(|field| u64::from_str_radix(field, 16).ok()).collect())
        .collect();
    let most = rows.iter().filter_map(|row| row.get(entries)).max()?;
    Some((*most, rows.iter().filter_map(|row| row.get(fulls)).sum()))
}

/// `attachments` is how many netd holds.
pub(super) fn check(tables: &[Table], attachments: u64) -> Vec<Finding> {
    tables.iter().map(|table| judge(table, attachments)).collect()
}

fn judge(table: &Table, attachments: u64) -> Finding {
    let Table { family, most, entries, fulls } = table;
    let object = format!("net.{family}.neigh.default.gc_thresh3");
    // The node knows each container that speaks, and each container its gateway.
    let expected = attachments.saturating_mul(2).max(*entries);
    let wanted = expected.saturating_mul(4).max(8_192).next_power_of_two();
    let remedy = format!(
        "set net.{family}.neigh.default.gc_thresh3={wanted} and gc_thresh2={} (now by `sysctl -w`, for good in /etc/sysctl.d)",
        wanted / 2
    );
    // The count goes on after somebody has made room.
    if *fulls > 0 && *most < wanted {
        let meaning = format!(
            "{most}: the table of neighbours was full {fulls} times since boot, and packets to somebody new were dropped then"
        );
        return Finding::problem(object, meaning, remedy);
    }
    // Beyond half of it (`gc_thresh2` by default) the kernel looks for what it can forget with each new one.
    if expected.saturating_mul(2) > *most {
        let meaning =
            format!("{most}, with {entries} neighbours and {attachments} attachments: the table may become full");
        return Finding::warning(object, meaning, remedy);
    }
    Finding::ok(object, format!("{most}, {entries} used"))
}
