//! Three nodes with a sandbox each, a fourth that may come, the store, and echoes between all; what can be cut, and what must
//! hold afterwards.
//!
//! ```text
//! n1  n2  n3  (n4)   e1  e2  e3        ports of the link: m1 m2 m3 m4 e1 e2 e3; what is cut is dropped between two of them
//!  └───┴───┴────┴─────┴───┴───┴── u0
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::time::{Duration, Instant};

use netd_api::blocking;

use crate::clock::is_guest;
use crate::rig::nodes::{Member, NETWORK, Nodes, Sandbox, soon};
use crate::store::Store;
use crate::traffic::{Flow, serve};

/// Whoever sets it, on a machine with nothing else to do, holds us to what is promised (`cargo xtask chaos`).
const STRICT: &str = "NETD_CHAOS_STRICT";
/// What is promised after a healing; a busy machine may be late.
const PROMISED: Duration = Duration::from_secs(2);
const LATEST: Duration = Duration::from_secs(60);

/// A block, and the number of the node that has it.
type Ways = BTreeSet<(String, usize)>;

pub(crate) struct World {
    pub(crate) store: Store,
    pub(crate) sandboxes: Vec<Sandbox>,
    pub(crate) flows: Vec<Flow>,
    pub(crate) nodes: Nodes,
    lease_seconds: u64,
    name: &'static str,
}

impl World {
    /// Three nodes; `lease_seconds` as in `netd.toml`.
    pub(crate) fn new(name: &'static str, lease_seconds: u64) -> Self {
        Self::with(name, lease_seconds, |_| Vec::new())
    }

    /// The same; `environment` for netd of a node by its number.
    pub(crate) fn with(
        name: &'static str,
        lease_seconds: u64,
        environment: impl Fn(&Member) -> Vec<(&'static str, String)>,
    ) -> Self {
        let mut nodes = Nodes::new(4);
        nodes.underlay.command("nft add table bridge chaos");
        nodes.underlay.command("nft add chain bridge chaos cut { type filter hook forward priority 0 ; }");
        let store = Store::new(&nodes);
        for node in &mut nodes.all {
            node.environment = environment(node);
        }
        let mut world = Self { store, sandboxes: Vec::new(), flows: Vec::new(), nodes, lease_seconds, name };
        (0..3).for_each(|at| world.start(at));
        world.attach_all("first");
        world.right("the start");
        for from in 0..3 {
            for to in (0..3).filter(|to| *to != from) {
                world.flows.push(Flow::begin(&world.sandboxes[from], &world.sandboxes[to]));
            }
        }
        soon("all are answered", || {
            world.flows.iter().all(|flow| flow.answered_since(Instant::now() - PROMISED).is_some())
        });
        // What the first packets found out, they found out by being lost.
        world.restart_count();
        world
    }

    /// Begins to count anew.
    pub(crate) fn restart_count(&mut self) {
        let pairs: Vec<(usize, usize)> =
            self.flows.iter().map(|flow| (self.of(&flow.from), self.of(&flow.to))).collect();
        self.flows =
            pairs.into_iter().map(|(from, to)| Flow::begin(&self.sandboxes[from], &self.sandboxes[to])).collect();
    }

    fn of(&self, address: &str) -> usize {
        self.sandboxes.iter().position(|sandbox| sandbox.v4 == address).unwrap()
    }

    /// Starts netd on a node.
    pub(crate) fn start(&mut self, at: usize) {
        let settings = self.settings();
        let node = &mut self.nodes.all[at];
        node.write(&settings);
        node.start();
    }

    /// The same under another node's name.
    pub(crate) fn start_as(&mut self, at: usize, name: &str) {
        let settings = self.settings();
        let node = &mut self.nodes.all[at];
        node.write(&settings);
        let text = fs::read_to_string(node.settings()).unwrap();
        fs::write(node.settings(), text.replace(&format!("name = 'n{}'", node.number), &format!("name = '{name}'")))
            .unwrap();
        node.start();
    }

    /// The machine is gone with its disk, and another one stands in its place.
    pub(crate) fn lose(&mut self, at: usize) {
        let (number, gone) = (self.nodes.all[at].number, self.sandboxes[at].v4.clone());
        self.flows.retain(|flow| flow.from != gone && flow.to != gone);
        self.nodes.all[at].kill();
        self.nodes.underlay.command(&format!("ip link del m{number}"));
        self.nodes.add(number, 0);
        let new = self.nodes.all.pop().unwrap();
        // The sandboxes of the old one are kept, and with them their addresses.
        drop(std::mem::replace(&mut self.nodes.all[at], new));
    }

    fn settings(&self) -> String {
        let (endpoints, lease) = (self.store.endpoints(), self.lease_seconds);
        format!(
            "pools = ['10.4.0.0/16', 'fd04::/48']\netcd = {{ endpoints = [{endpoints}], lease_seconds = {lease} }}\n"
        )
    }

    /// A sandbox more on a node.
    pub(crate) fn attach(&mut self, at: usize, container: &str) -> &Sandbox {
        let sandbox = self.nodes.all[at].attach(container);
        serve(&sandbox);
        self.sandboxes.push(sandbox);
        self.sandboxes.last().unwrap()
    }

    /// One on each of the first three nodes.
    pub(crate) fn attach_all(&mut self, container: &str) {
        for at in 0..3 {
            self.attach(at, container);
        }
    }

    /// A network more on a node: that takes a block more of each family, which the others must hear of.
    pub(crate) fn grow(&mut self, at: usize, number: usize) {
        let network = NETWORK.replace("\"name\":\"bridge\"", &format!("\"name\":\"more{number}\""));
        let network = network.replace("\"br0\"", &format!("\"br{number}\""));
        self.sandboxes.push(self.nodes.all[at].attach_in_time(&network, &format!("more-{number}")));
    }

    /// Drops what goes between these ports of the link, both ways.
    pub(crate) fn cut(&self, some: &[&str], others: &[&str]) {
        let (some, others) = (some.join(","), others.join(","));
        for (from, to) in [(&some, &others), (&others, &some)] {
            self.nodes
                .underlay
                .command(&format!("nft add rule bridge chaos cut iifname {{{from}}} oifname {{{to}}} drop"));
        }
    }

    pub(crate) fn heal(&self) {
        self.nodes.underlay.command("nft flush chain bridge chaos cut");
    }

    /// From now on until every running node hears the store, and has a route to each block of every other running one, and to no other block; says
    /// how long that took.
    #[track_caller]
    pub(crate) fn right(&self, since: &str) {
        let took = self.right_meanwhile(Instant::now(), since);
        let is_kept = took <= PROMISED;
        assert!(is_kept || is_guest() || std::env::var_os(STRICT).is_none(), "{}: {took:?} after {since}", self.name);
        if !is_kept {
            self.say("that was later than promised");
        }
    }

    /// The same while not all is healed: nothing is promised then but that it comes about.
    #[track_caller]
    pub(crate) fn right_meanwhile(&self, begin: Instant, since: &str) -> Duration {
        while let Some(wrong) = self.wrong() {
            assert!(begin.elapsed() < LATEST, "{} after {since}: {wrong}", self.name);
            std::thread::sleep(Duration::from_millis(10));
        }
        let took = begin.elapsed();
        self.say(&format!("routes right {} ms after {since}", took.as_millis()));
        took
    }

    pub(crate) fn say(&self, text: &str) {
        // Past the harness, which keeps `eprintln!` to itself.
        std::io::stderr().write_all(format!("chaos: {}: {text}\n", self.name).as_bytes()).unwrap();
    }

    /// What is not as it should be.
    pub(crate) fn wrong(&self) -> Option<String> {
        let running: Vec<&Member> = self.nodes.all.iter().filter(|node| node.runs()).collect();
        if let Some(away) = running.iter().find(|node| !node.fleet().connected) {
            return Some(format!("n{} does not reach the store", away.number));
        }
        let own: BTreeMap<usize, BTreeSet<String>> = running.iter().map(|node| (node.number, own(node))).collect();
        if let Some((number, _)) = own.iter().find(|(_, blocks)| blocks.len() < 2) {
            return Some(format!("n{number} has no blocks yet"));
        }
        running.iter().find_map(|node| {
            let others = own.iter().filter(|(number, _)| **number != node.number);
            let wanted: Ways = others.flat_map(|(of, all)| all.iter().map(|one| (one.clone(), *of))).collect();
            let found = ways(node);
            (found != wanted).then(|| format!("n{} has {found:?}, and should have {wanted:?}", node.number))
        })
    }

    /// No address is anybody else's, whether its node runs or not; and no block is.
    #[track_caller]
    pub(crate) fn no_address_is_given_twice(&self) {
        let mut holders: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for sandbox in &self.sandboxes {
            for address in [&sandbox.v4, &sandbox.v6] {
                let new = holders.insert(address.clone(), BTreeSet::new()).is_none();
                assert!(new, "{}: {address} was given twice", self.name);
            }
        }
        for node in self.nodes.all.iter().filter(|node| node.runs()) {
            for attachment in node.client().list(&blocking::ListRequest::new()).unwrap().attachments {
                for address in attachment.addresses {
                    let address = address.split('/').next().unwrap_or_default().to_owned();
                    holders.entry(address).or_default().insert(format!("n{}", node.number));
                }
            }
        }
        let shared: Vec<_> = holders.iter().filter(|(_, nodes)| nodes.len() > 1).collect();
        assert!(shared.is_empty(), "{}: {shared:?}", self.name);
        let all: Vec<String> = self.nodes.all.iter().filter(|node| node.runs()).flat_map(own).collect();
        assert_eq!(
            all.iter().collect::<BTreeSet<_>>().len(),
            all.len(),
            "{}: a block of two nodes: {all:?}",
            self.name
        );
    }

    /// What was asked before now was answered, all of it.
    #[track_caller]
    pub(crate) fn nothing_is_lost(&self) {
        self.nothing_is_lost_but(|_, _| false);
    }

    /// The same, but for echoes between nodes that were cut off from each other, by their numbers. Those are answered again.
    #[track_caller]
    pub(crate) fn nothing_is_lost_but(&self, is_cut: impl Fn(usize, usize) -> bool) {
        let mut asked = 0;
        for flow in &self.flows {
            let (from, to) = (self.of(&flow.from) + 1, self.of(&flow.to) + 1);
            if is_cut(from, to) {
                let now = Instant::now();
                soon("the echo is back", || flow.answered_since(now).is_some());
            } else {
                assert_eq!(flow.lost(), 0, "{}: n{from} to n{to}, of {}", self.name, flow.count());
                asked += flow.count();
            }
        }
        self.say(&format!("{asked} echoes, none lost"));
    }
}

/// A node's own blocks.
fn own(node: &Member) -> BTreeSet<String> {
    node.fleet().blocks.into_iter().filter(|one| one.state == "here").map(|one| one.block).collect()
}

/// Where its routes lead.
fn ways(node: &Member) -> Ways {
    let routes = node.routes();
    let lines = routes.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let led = lines.filter_map(|words| {
        let to = words.iter().skip_while(|word| **word != "via").nth(1)?;
        Some(((*words.first()?).to_owned(), number_of(to)?))
    });
    led.collect()
}

/// The node whose address this is, as a tunnel or as a link has it.
fn number_of(via: &str) -> Option<usize> {
    match via.rsplit_once(':') {
        Some((_, last)) => usize::from_str_radix(last, 16).ok().map(|number| number & 0xff),
        None => via.rsplit_once('.')?.1.parse().ok(),
    }
}
