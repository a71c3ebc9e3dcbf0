//! A node as the daemon makes it: netd itself, with a list of the two nodes, and an attachment as a door asks for it.

use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::course::{Site, Way, inside, underlay};
use crate::case::Api;
use crate::network::{INTERFACE, Writing};
use crate::node::Netd;

const PATIENCE: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(10);

/// Starts the daemon, attaches the sandbox, and waits for the way to the other node.
pub(super) fn make(program: &Path, site: &Site, way: Way) -> Result<Netd> {
    let netd = site.node.start_with(program, &settings(site.number, way))?;
    let added = Api::attach(&netd.socket, &site.node.data_dir(), Writing::One, &site.sandbox)?;
    let expected = inside(site.number, 2);
    ensure!(added.address == expected, "the sandbox has {}, not {expected} of the node's block", added.address);
    let (block, mtu) = (format!("{}/24", inside(site.peer(), 0)), format!("mtu {} ", way.mtu()));
    let start = Instant::now();
    while site.node.space.output(&format!("ip -4 route show {block}"))?.is_empty() {
        ensure!(start.elapsed() < PATIENCE, "netd makes no route to {block}; its log: {}", site.node.log()?);
        sleep(PAUSE);
    }
    let link = site.sandbox.space.output(&format!("ip link show {INTERFACE}"))?;
    ensure!(link.contains(&mtu), "the sandbox's packets are of another size than {mtu}by hand: {link}");
    Ok(netd)
}

fn settings(number: u8, way: Way) -> String {
    let nodes = [1, 2].map(|number| {
        format!("host-{number} = {{ address = \"{}\", blocks = [\"{}/24\"] }}\n", underlay(number), inside(number, 0))
    });
    format!(
        "[fleet]\nname = \"host-{number}\"\npools = [\"10.4.0.0/16\"]\nencapsulation = \"{}\"\n[fleet.nodes]\n{}",
        way.name(),
        nodes.concat()
    )
}
