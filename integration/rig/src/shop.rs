//! A UI, a login and a cart, a container each, each on a host of its own, and each with a server. They are what a fleet is tried
//! with: who reaches whom, under which address, and how it travels.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::{Container, Expect, Fleet, Host, OUTSIDE_V4, Place, Probe, Protocol, Seen, Web, Wire, until};

const PORT: u16 = 80;
const TCP: u8 = 6;
/// For etcd to agree upon a node's first block, and for its way to reach the others, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// The containers of a fleet of three nodes.
#[derive(Debug)]
pub struct Shop<'fleet> {
    fleet: &'fleet Fleet,
    parts: Vec<Part>,
    wire: Wire,
}

#[derive(Debug)]
struct Part {
    name: &'static str,
    address: Ipv4Addr,
    container: Container,
    _web: Web,
}

impl<'fleet> Shop<'fleet> {
    /// Names of the containers, by the number of their host.
    pub const NAMES: [&'static str; 3] = ["ui", "login", "cart"];

    /// Starts the containers, and waits until they reach each other.
    ///
    /// # Errors
    /// They do not start, or do not reach each other in time: the text is the table of who reaches whom.
    pub fn open(fleet: &'fleet Fleet) -> Result<Self> {
        let parts = fleet.hosts.iter().zip(Self::NAMES).map(|(host, name)| -> Result<Part> {
            // ctr keeps what it began of a container that had no network: it is not asked twice.
            patiently(&format!("{} to have its first block", host.name), || has_block(host))?;
            let container = host.ctr().run(name, &["/bin/sleep", "infinity"])?;
            let address = address(&container.place)?;
            Ok(Part { name, address, _web: Web::start(&container.place, name, PORT)?, container })
        });
        let shop = Self { fleet, parts: parts.collect::<Result<_>>()?, wire: Wire::of(&fleet.underlay.place)? };
        patiently("the nodes to have ways to each other", || shop.ask())?;
        Ok(shop)
    }

    /// Who has which address, on which host.
    #[must_use]
    pub fn addresses(&self) -> Vec<(&'static str, &str, Ipv4Addr)> {
        let hosts = self.fleet.hosts.iter().map(|host| host.name.as_str());
        self.parts.iter().zip(hosts).map(|(part, host)| (part.name, host, part.address)).collect()
    }

    /// Everybody asks everybody, and must be seen by the address that it has; by the outside, as its node. Returns the table.
    ///
    /// # Errors
    /// An answer is another one: the text is the table.
    pub fn ask(&self) -> Result<String> {
        let mut probe = Probe::new();
        for part in &self.parts {
            let to = SocketAddr::new(part.address.into(), PORT);
            probe = probe.from(part.name, &part.container.place).to(part.name, Protocol::Tcp, to, Expect::Silent);
        }
        probe = probe.to("outside", Protocol::Tcp, SocketAddr::new(OUTSIDE_V4.into(), PORT), Expect::Silent);
        for (asking, host) in self.parts.iter().zip(&self.fleet.hosts) {
            for asked in &self.parts {
                let seen = Expect::said(&format!("{} {}\n", asked.name, asking.address));
                probe = probe.except(asking.name, asked.name, seen);
            }
            probe = probe.except(asking.name, "outside", Expect::said(&format!("outside {}\n", host.node.v4)));
        }
        probe.check()
    }

    /// What has passed on the underlay between the containers since this was asked last.
    ///
    /// # Errors
    /// The kernel's.
    pub fn on_the_wire(&self) -> Result<BTreeSet<Seen>> {
        let is_ours = |address: Ipv4Addr| self.parts.iter().any(|part| part.address == address);
        let seen = self.wire.seen()?.into_iter();
        Ok(seen.filter(|one| one.protocol == TCP && (is_ours(one.from) || is_ours(one.to))).collect())
    }

    /// Removes the containers.
    ///
    /// # Errors
    /// One cannot be removed.
    pub fn close(self) -> Result<()> {
        self.fleet.hosts.iter().zip(&self.parts).try_for_each(|(host, part)| host.ctr().remove(&part.container.id))
    }
}

fn has_block(host: &Host) -> Result<()> {
    let blocks = host.netdctl(&["block", "ls"])?;
    ensure!(blocks.contains(&host.name), "it has none; {}'s log:\n{}\n{blocks}", host.name, host.netd.daemon.log());
    Ok(())
}

/// Tries until it works; out of patience, the last error is the one to tell.
fn patiently<T>(what: &str, mut work: impl FnMut() -> Result<T>) -> Result<T> {
    let mut last = None;
    let waited = until(what, PATIENCE, || Ok(work().map_err(|error| last = Some(error)).ok()));
    waited.map_err(|error| last.unwrap_or(error)).with_context(|| format!("waited for {what}"))
}

/// Of `eth0`.
fn address(place: &Place) -> Result<Ipv4Addr> {
    let text = place.output(Command::new("ip").args(["-4", "-oneline", "addr", "show", "eth0"]), "")?;
    let word = text.split_whitespace().nth(3).and_then(|word| word.split('/').next());
    word.context("eth0 has no IPv4 address")?.parse().context("cannot read the address of eth0")
}
