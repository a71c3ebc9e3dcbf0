//! flannel's configuration: what netd is told to read of it, netd takes.

use netd_config::{NodeConfig, PoolConfig};
use netdctl::flannel::{FlannelError, Translation, translate};

use super::{Verdict, promise, shape};

pub(super) const TOKENS: &[&str] = &[
    "Network",
    "IPv6Network",
    "SubnetLen",
    "IPv6SubnetLen",
    "SubnetMin",
    "SubnetMax",
    "IPv6SubnetMin",
    "IPv6SubnetMax",
    "EnableIPv4",
    "EnableIPv6",
    "EnableNFTables",
    "Backend",
    "Type",
    "VNI",
    "Port",
    "GBP",
    "DirectRouting",
    "MacPrefix",
    "vxlan",
    "host-gw",
    "ipip",
    "udp",
    "10.244.0.0/16",
    "10.244.16.0",
    "0.0.0.0/0",
    "255.255.255.255/32",
    "fd04::/48",
    "fd04::8:0:0:0:0",
    "::/0",
    "::ffff:10.0.0.0/104",
    "{",
    "}",
    ",",
    ":",
    "null",
    "true",
    "false",
    "18446744073709551615",
    "\\n",
    "\\u001b",
    "\"",
];

pub(super) fn net_conf(input: &[u8]) -> Verdict {
    match translate(&String::from_utf8_lossy(input), &["http://192.0.2.1:2379".to_owned()]) {
        Ok(translation) => section(&translation),
        Err(error) => {
            let text = error.to_string();
            promise(!text.chars().any(char::is_control), || format!("a terminal would obey: {text:?}"))?;
            Ok(shape(kind(error)))
        }
    }
}

fn section(Translation { settings, notes }: &Translation) -> Verdict {
    let read = NodeConfig::parse("netd.toml", settings);
    let fleet = read.map_err(|error| format!("netd does not take it: {error}\n{settings}"))?.fleet;
    promise(fleet.is_on() && !fleet.pools.is_empty(), || format!("no fleet: {settings}"))?;
    let is_within = |pool: &PoolConfig| pool.reserved.iter().all(|part| pool.range.contains(part));
    promise(fleet.pools.iter().all(is_within), || format!("reserved beyond the pool: {settings}"))?;
    let pools = fleet.pools.iter().map(|pool| {
        let by = format!("{:?}", fleet.encapsulation_of(pool));
        (pool.range.addr().is_ipv4(), pool.reserved.len().min(3), by)
    });
    Ok(shape((notes.len().min(5), pools.collect::<Vec<_>>())))
}

fn kind(error: FlannelError) -> (u8, String) {
    match error {
        FlannelError::Empty => (0, String::new()),
        FlannelError::Json(error) => (1, format!("{:?}", error.classify())),
        FlannelError::Value { key, .. } => (2, key),
        FlannelError::NoNetwork(key) => (3, key.to_owned()),
        FlannelError::NoFamily => (4, String::new()),
        FlannelError::Backend(_) => (5, String::new()),
        FlannelError::Refused(_) => (6, String::new()),
    }
}
