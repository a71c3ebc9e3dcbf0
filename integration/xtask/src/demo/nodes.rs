//! The demo of many nodes: three hosts with a container each become one network by a few lines of `netd.toml`.

use std::time::Instant;

use anyhow::{Result, bail};
use netd_rig::{Fleet, Meeting, Programs, Shop};

use super::programs::DIST;
use crate::{dist, say};

const USAGE: &str = "usage: cargo xtask demo nodes [vxlan | direct | ipip]";

pub(super) fn run(arguments: &[&str]) -> Result<()> {
    let encapsulation = match arguments {
        [] => "vxlan",
        [one @ ("vxlan" | "direct" | "ipip")] => one,
        _ => bail!(USAGE),
    };
    let programs = programs()?;
    let start = Instant::now();
    let fleet = Fleet::start(&programs, 3, Meeting::Etcd, encapsulation)?;
    say(&format!(
        "\n== three hosts with containerd and netd, and an etcd, up in {:.1?}; in netd.toml of each:",
        start.elapsed()
    ));
    say(&fleet.hosts[0].settings);
    let shop = Shop::open(&fleet)?;
    for (name, host, address) in shop.addresses() {
        say(&format!("   {name:6} on {host}  {address}"));
    }
    shop.on_the_wire()?;
    say("\n== who reaches whom (rows ask; a column answers its name, and from which address it was asked)");
    say(&shop.ask()?);
    say("== on the wire between the hosts");
    for packet in shop.on_the_wire()? {
        say(&format!("   {packet}"));
    }
    for command in [&["node", "ls"][..], &["block", "ls"], &["peer", "check"]] {
        say(&format!(
            "\n== netdctl {} on {}\n{}",
            command.join(" "),
            fleet.hosts[0].name,
            fleet.hosts[0].netdctl(command)?
        ));
    }
    shop.close()
}

/// As `cargo xtask dist` lays them out.
fn programs() -> Result<Programs> {
    dist::run()?;
    let dist = std::env::current_dir()?.join(DIST);
    Ok(Programs { netd: dist.join("netd"), ctl: dist.join("netdctl"), client: dist.join("cni/netd-cni") })
}
