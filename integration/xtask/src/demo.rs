//! The demo: two pods and two containers on a node of their own, their network shown, and that nothing is left of it. What a
//! failure of it means, the whole-node tests say more exactly.

mod nodes;
mod programs;

use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use netd_rig::{
    Bed, Container, Cri, Ctr, Expect, Inventory, Nerdctl, OUTSIDE_V4, Place, Plugins, Pod, PodWish, Probe, Protocol,
    Release, Web,
};

use self::programs::Programs;
use crate::say;

const USAGE: &str = "usage: cargo xtask demo [--plugins official] | demo nodes [vxlan | direct | ipip]\n  --plugins official  the official CNI plugins in netd's place, to compare";
/// What a server outside of the pods serves, and under which port of the node it is published.
const PORT: u16 = 80;
const PUBLISHED: u16 = 8080;

pub(crate) fn run(arguments: &[String]) -> Result<()> {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    if let [first, rest @ ..] = &words[..]
        && *first == "nodes"
    {
        return nodes::run(rest);
    }
    let programs = match words[..] {
        [] => Programs::of_netd()?,
        ["--plugins", "official"] => Programs::official()?,
        _ => bail!(USAGE),
    };
    let start = Instant::now();
    let bed = Bed::start(Release::V2_4, &Plugins::Folder(programs.plugins.clone()))?;
    let version = Release::V2_4.version();
    say(&format!("\n== node {}: containerd {version} with NRI, up in {:.1?}", bed.node.v4, start.elapsed()));
    let _daemons = programs.start(&bed.node)?;
    say(&format!("== networks by {}", programs.title));
    come_and_go(&bed).context("the first pod failed")?;
    let before = Inventory::of(&bed.node)?;

    let guests = Guests::start(&bed)?;
    guests.show()?;
    say("\n== who reaches whom (rows ask; a column answers its name, and from which address it was asked)");
    say(&guests.probe(&bed)?);
    programs.show_status(&bed.node)?;

    say("== removed");
    guests.remove()?;
    drop(guests);
    show_what_is_left(&bed, &before)?;
    programs.show_status(&bed.node)
}

/// A first pod brings the network itself, which outlives its sandboxes: its bridge, and what the firewall says of that.
fn come_and_go(bed: &Bed) -> Result<()> {
    let cri = Cri::new(&bed.node)?;
    let first = cri.run_pod(&PodWish { name: "first", ..PodWish::default() })?;
    cri.remove_pod(&first.id)
}

/// The pods and containers of the demo, and their clients.
struct Guests<'bed> {
    cri: Cri<'bed>,
    nerdctl: Nerdctl<'bed>,
    ctr: Ctr<'bed>,
    pods: [Pod; 2],
    served: Container,
    plain: Container,
}

impl<'bed> Guests<'bed> {
    fn start(bed: &'bed Bed) -> Result<Self> {
        let cri = Cri::new(&bed.node)?;
        let real = Nerdctl::real(&bed.node);
        let nerdctl = real.map_or_else(|| Nerdctl::like(&bed.node), Ok)?;
        let ctr = Ctr::new(&bed.node, &bed.containerd);
        let pod = |name| cri.run_pod(&PodWish { name, labels: &[("app", name)], ..PodWish::default() });
        let pods = [pod("pod-a")?, pod("pod-b")?];
        let serve = format!("echo httpd of container-c > /www/index.html; exec httpd -f -p {PORT} -h /www");
        let published = format!("{PUBLISHED}:{PORT}");
        let served = nerdctl.run(&["-p", &published], &["/bin/sh", "-c", &serve])?;
        let plain = ctr.run("container-d", &["/bin/sleep", "infinity"])?;
        Ok(Self { cri, nerdctl, ctr, pods, served, plain })
    }

    /// Each with its name and its place.
    fn all(&self) -> [(&'static str, &Place); 4] {
        let [a, b] = &self.pods;
        [
            ("pod-a", &a.place),
            ("pod-b", &b.place),
            ("container-c", &self.served.place),
            ("container-d", &self.plain.place),
        ]
    }

    fn show(&self) -> Result<()> {
        let like = format!("{} run -p {PUBLISHED}:{PORT}", self.nerdctl.name());
        let makers = ["CRI RunPodSandbox", "CRI RunPodSandbox", &like, "ctr run --cni"];
        for ((name, place), maker) in self.all().into_iter().zip(makers) {
            say(&format!("   {name:12} {maker:28} {}", address(place)?));
        }
        Ok(())
    }

    fn probe(&self, bed: &Bed) -> Result<String> {
        let mut probe = Probe::new();
        let mut webs = Vec::new();
        // Beside what the containers serve themselves, on a port that none of them uses.
        let beside = PORT + 1;
        for (name, place) in self.all() {
            webs.push(Web::start(place, name, beside)?);
            let to = SocketAddr::new(address(place)?, beside);
            probe = probe.from(name, place).to(name, Protocol::Tcp, to, Expect::said(&format!("{name} ")));
            // The outside knows no way to the addresses of sandboxes.
            probe = probe.except("outside", name, Expect::Refused);
        }
        let outside = Expect::said(&format!("outside {}", bed.node.v4));
        let published = SocketAddr::new(bed.node.v4.into(), PUBLISHED);
        probe
            .from("node", &bed.node.place)
            .from("outside", &bed.underlay.place)
            .to("outside", Protocol::Tcp, SocketAddr::new(OUTSIDE_V4.into(), 80), outside)
            .except("outside", "outside", Expect::said(&format!("outside {OUTSIDE_V4}")))
            .to(&format!("node:{PUBLISHED}"), Protocol::Tcp, published, Expect::said("httpd of container-c"))
            .check()
    }

    fn remove(&self) -> Result<()> {
        self.pods.iter().try_for_each(|pod| self.cri.remove_pod(&pod.id))?;
        self.nerdctl.remove(&self.served.id)?;
        self.ctr.remove(&self.plain.id)
    }
}

fn show_what_is_left(bed: &Bed, before: &Inventory) -> Result<()> {
    let left = Inventory::left(&bed.node, before)?;
    say(&format!("== left of them on the node\n{left}"));
    if left.has_traces() {
        bail!("something is left, see above");
    }
    Ok(())
}

/// The IPv4 address of a sandbox's `eth0`.
fn address(place: &Place) -> Result<IpAddr> {
    let text = place.output(Command::new("ip").args(["-4", "-oneline", "addr", "show", "eth0"]), "")?;
    let word = text.split_whitespace().nth(3).and_then(|word| word.split('/').next());
    word.context("eth0 has no IPv4 address")?.parse().context("cannot read the address of eth0")
}
