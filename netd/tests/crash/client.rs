//! A door's caller under load: attaches, extends, repeats, moves, detaches and kills its own few sandboxes at random, and
//! remembers what it was told. A call that netd's death cut off is repeated, or given up as a runtime gives it up.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::daemon::{CallFailure, Door};
use crate::ledger::Ledger;
use crate::namespace::{Sandbox, WEB};
use crate::random::Random;

/// Sandboxes of one client.
const SLOTS: u16 = 4;
/// What netd may take from its death to its next answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// A container that was told that it is attached.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) sandbox: Sandbox,
    pub(crate) addresses: Vec<IpAddr>,
    /// Published, TCP.
    pub(crate) port: Option<u16>,
    pub(crate) fenced: bool,
}

/// A place for a container.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) container: String,
    /// On the routed network, not on the bridge.
    pub(crate) routed: bool,
    /// On the node; nobody else's.
    port: u16,
    pub(crate) told: Option<Told>,
}

/// The request is given up: the caller will never know.
#[derive(Debug)]
struct GivenUp;

/// One thread's worth of load.
#[derive(Debug)]
pub(crate) struct Client {
    name: u16,
    generation: u16,
    door: Door,
    ledger: Arc<Ledger>,
    random: Random,
    pub(crate) slots: Vec<Slot>,
}

impl Client {
    pub(crate) fn new(name: u16, door: Door, ledger: Arc<Ledger>, random: Random) -> Self {
        let slot = |at| Slot {
            container: format!("c{name}-{at}"),
            routed: at % 2 == 1,
            port: first_port(name) + at,
            told: None,
        };
        Self { name, generation: SLOTS, door, ledger, random, slots: (0..SLOTS).map(slot).collect() }
    }

    /// Does one thing to one sandbox.
    pub(crate) fn act(&mut self) {
        let at = usize::try_from(self.random.below(self.slots.len() as u64)).unwrap();
        match (self.slots[at].told.take(), self.random.below(10)) {
            (None, 0) => self.abandon(),
            (None, _) => self.attach(at, Sandbox::new()),
            (Some(told), 0..3) => self.detach(at, Some(&told.sandbox)),
            (Some(told), 3) => {
                drop(told);
                self.detach(at, None);
            }
            (Some(told), 4) => self.die(at, told),
            (Some(_), 5) => {
                // As nerdctl restarts a container: DEL without a namespace, then ADD of the same name.
                self.detach(at, None);
                self.attach(at, Sandbox::new());
            }
            (Some(told), 6) => {
                // The same name in another sandbox, without a detach.
                self.ledger.give_back(&self.slots[at].container);
                self.ledger.count("moved");
                self.attach(at, Sandbox::new());
                drop(told);
            }
            (Some(told), _) => self.repeat(at, told),
        }
    }

    /// Takes everything away.
    pub(crate) fn clear(&mut self) {
        for at in 0..self.slots.len() {
            if let Some(told) = self.slots[at].told.take() {
                self.detach(at, Some(&told.sandbox));
            }
        }
    }

    fn attach(&mut self, at: usize, sandbox: Sandbox) {
        let port = self.random.percent(60).then_some(self.slots[at].port);
        let fenced = self.random.percent(30);
        match self.chain(at, &sandbox, port, fenced) {
            Ok(addresses) => {
                self.ledger.count("attached");
                self.slots[at].told = Some(Told { sandbox, addresses, port, fenced });
            }
            Err(GivenUp) if self.random.percent(50) => self.detach(at, Some(&sandbox)),
            Err(GivenUp) => {
                self.ledger.give_back(&self.slots[at].container);
                self.ledger.count("given up without a detach");
                self.rename(at);
            }
        }
    }

    /// All stanzas of a chain, as libcni sends them.
    fn chain(&mut self, at: usize, sandbox: &Sandbox, port: Option<u16>, fenced: bool) -> Result<Vec<IpAddr>, GivenUp> {
        let routed = self.slots[at].routed;
        let first = self.stanza(at, sandbox, &network(routed))?;
        let addresses = addresses(&first);
        let links = if routed { 2 } else { 3 };
        if addresses.len() != 2 || first["interfaces"].as_array().map(Vec::len) != Some(links) {
            self.ledger.wrong(format!("{} was told of half an attachment: {first}", self.slots[at].container));
        }
        for address in &addresses {
            self.ledger.claim(&self.slots[at].container, *address);
        }
        for mut stanza in port.map(portmap).into_iter().chain(fenced.then(firewall)) {
            stanza["name"] = network(routed)["name"].clone();
            stanza["prevResult"] = first.clone();
            self.stanza(at, sandbox, &stanza)?;
            self.ledger.count("extended");
        }
        Ok(addresses)
    }

    fn stanza(&mut self, at: usize, sandbox: &Sandbox, config: &Value) -> Result<Value, GivenUp> {
        let (start, mut whole) = (Instant::now(), true);
        loop {
            match self.door.attach(sandbox, &self.slots[at].container, config) {
                Ok(result) => return Ok(result),
                Err(CallFailure::Refused(message)) => {
                    self.ledger.wrong(format!("{} was refused: {message}", self.slots[at].container));
                    return Err(GivenUp);
                }
                Err(CallFailure::Cut) => {
                    if std::mem::replace(&mut whole, false) {
                        self.ledger.count("attaches cut off");
                        if self.random.percent(25) {
                            return Err(GivenUp);
                        }
                    }
                    wait(start);
                }
            }
        }
    }

    fn detach(&mut self, at: usize, sandbox: Option<&Sandbox>) {
        self.ledger.give_back(&self.slots[at].container);
        let (start, mut whole) = (Instant::now(), true);
        loop {
            match self.door.detach(sandbox, &self.slots[at].container, &network(self.slots[at].routed)) {
                Ok(()) => break self.ledger.count("detached"),
                Err(CallFailure::Refused(message)) => {
                    break self.ledger.wrong(format!("{} cannot go: {message}", self.slots[at].container));
                }
                Err(CallFailure::Cut) => {
                    if std::mem::replace(&mut whole, false) {
                        self.ledger.count("detaches cut off");
                    }
                    wait(start);
                }
            }
        }
    }

    /// The same request again has the same answer.
    fn repeat(&mut self, at: usize, told: Told) {
        if let Ok(result) = self.stanza(at, &told.sandbox, &network(self.slots[at].routed)) {
            self.ledger.count("repeated");
            if addresses(&result) != told.addresses {
                let container = &self.slots[at].container;
                self.ledger.wrong(format!("{container} has {:?} and was told {result}", told.addresses));
            }
        }
        self.slots[at].told = Some(told);
    }

    /// The sandbox goes without a detach, and its name does not come back.
    fn die(&mut self, at: usize, told: Told) {
        self.ledger.give_back(&self.slots[at].container);
        self.ledger.count("sandboxes killed");
        drop(told);
        self.rename(at);
    }

    /// The sandbox dies while it is being attached, and nobody hears the answer.
    fn abandon(&mut self) {
        self.generation += 1;
        let container = format!("c{}-lost-{}", self.name, self.generation);
        let (door, sandbox, routed) = (self.door.clone(), Sandbox::new(), self.random.percent(50));
        let attach = move || drop(door.attach(&sandbox, &container, &network(routed)));
        drop(std::thread::spawn(attach).join());
        self.ledger.count("sandboxes killed");
    }

    /// Another container, with a port of its own: what the old one published is free only when its death was seen.
    fn rename(&mut self, at: usize) {
        self.generation += 1;
        self.slots[at].container = format!("c{}-{at}-{}", self.name, self.generation);
        self.slots[at].port = first_port(self.name) + self.generation;
    }
}

/// Clients have 8,000 ports each, below those that the kernel gives out.
fn first_port(client: u16) -> u16 {
    assert!(client < 4);
    500 + client * 8_000
}

fn wait(since: Instant) {
    assert!(since.elapsed() < PATIENCE, "netd did not come back");
    std::thread::sleep(Duration::from_millis(2));
}

fn network(routed: bool) -> Value {
    if routed { ptp() } else { bridge() }
}

fn ptp() -> Value {
    json!({
        "cniVersion": "1.0.0", "name": "routed", "type": "ptp", "ipMasq": true,
        "ipam": {
            "type": "host-local", "dataDir": "/nonexistent",
            "ranges": [[{"subnet": "10.6.0.0/24"}], [{"subnet": "fd00:6::/64"}]],
            "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]
        }
    })
}

fn bridge() -> Value {
    json!({
        "cniVersion": "1.0.0", "name": "web", "type": "bridge", "bridge": "br0", "isGateway": true, "ipMasq": true,
        "ipam": {
            "type": "host-local", "dataDir": "/nonexistent",
            "ranges": [[{"subnet": "10.4.0.0/24"}], [{"subnet": "fd00:4::/64"}]],
            "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]
        }
    })
}

fn portmap(port: u16) -> Value {
    let mapping = json!({"hostPort": port, "containerPort": WEB, "protocol": "tcp"});
    json!({
        "cniVersion": "1.0.0", "name": "web", "type": "portmap", "capabilities": {"portMappings": true},
        "runtimeConfig": {"portMappings": [mapping]}
    })
}

fn firewall() -> Value {
    json!({"cniVersion": "1.0.0", "name": "web", "type": "firewall", "ingressPolicy": "same-bridge"})
}

fn addresses(result: &Value) -> Vec<IpAddr> {
    let ips = result["ips"].as_array().into_iter().flatten();
    ips.filter_map(|ip| ip["address"].as_str()?.split('/').next()?.parse().ok()).collect()
}
