//! Answers to people's questions about policies: whether a connection is allowed, why, and what would allow it. Pure; who is
//! meant is `ends`', the meaning itself `netd_policy::oracle`'s.

use std::net::IpAddr;

use netd_kernel::{LOGGED_ALLOW, LOGGED_AUDIT, LoggedPacket};
use netd_policy::oracle::{Decider, Ruling, Verdict, verdict};
use netd_policy::{Direction, Flow, ICMP, ICMPV6, Kind, Policy, Sandbox, TCP, Traffic, World};

use super::drops::Told;
use super::ends::{End, ExplainError, OUTSIDE_AT, of_link, short, told};
use super::ground::Ground;
use super::pairs::{Pair, pairs};
use super::published::NextHop;

/// What all these pairs of addresses have in common: whether a connection is allowed, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// Whether it is.
    pub allowed: bool,
    /// Who sends, with the address of the first pair.
    pub from: String,
    /// Who receives.
    pub to: String,
    /// Where it leads instead, in words; `None`: the port is not published.
    pub published: Option<String>,
    /// Egress of the sender, ingress of the receiver; where netd passes it on, also what stands in its own way.
    pub reasons: Vec<Reason>,
    /// What would allow it.
    pub remedy: Option<String>,
    /// Sender and receiver, as they were asked about; never empty.
    pub pairs: Vec<Pair>,
}

/// What decided in one direction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    /// Of whom.
    pub direction: Direction,
    /// What.
    pub allowed: bool,
    /// In words.
    pub rule: String,
    /// FILE:LINE; empty where no rule decided.
    pub place: String,
}

/// Whether `from` may send `traffic` to `to`, by every pair of addresses by which they meet: those with one answer together, in
/// the order of the addresses. An IPv6 link has none of its own where it has that of the family.
///
/// # Errors
/// See [`ExplainError`].
pub(crate) fn explain(
    ground: &Ground<'_>,
    (from, to): (&End, &End),
    traffic: Traffic,
) -> Result<Vec<Explanation>, ExplainError> {
    let pairs = pairs(ground, from, to);
    if pairs.is_empty() {
        return Err(ExplainError::Apart { from: from.to_string(), to: to.to_string() });
    }
    let of_links = |pair: &Pair| of_link(pair.1);
    let mut all: Vec<Explanation> = Vec::new();
    for pair in pairs.iter().copied().filter(|pair| !of_links(pair)) {
        let one = by_one(ground, (from, to), pair, traffic)?;
        match all.iter_mut().find(|known| known.says(&one)) {
            Some(known) => known.pairs.extend(one.pairs),
            None => all.push(one),
        }
    }
    let v6 = pairs.iter().any(|pair| pair.1.is_ipv6() && !of_links(pair));
    let same: Vec<Explanation> = all.iter().filter(|one| one.has(|pair| pair.1.is_ipv6() == v6)).cloned().collect();
    for pair in pairs.into_iter().filter(of_links) {
        let one = by_one(ground, (from, to), pair, traffic)?;
        if same.len() == 1 && same[0].says(&one) {
            continue;
        }
        match all.iter_mut().find(|known| known.says(&one)) {
            Some(known) => known.pairs.extend(one.pairs),
            None => all.push(one),
        }
    }
    Ok(all)
}

impl Explanation {
    /// Whether the other one has the same to say.
    fn says(&self, other: &Self) -> bool {
        let said = |one: &Self| (one.allowed, one.published.clone(), one.remedy.clone());
        said(self) == said(other) && self.reasons == other.reasons
    }

    fn has(&self, is: impl Fn(&Pair) -> bool) -> bool {
        self.pairs.iter().any(is)
    }
}

/// By one pair of addresses. What is led to a sandbox is judged there.
fn by_one(
    ground: &Ground<'_>,
    (from, to): (&End, &End),
    pair: Pair,
    traffic: Traffic,
) -> Result<Explanation, ExplainError> {
    let traffic = of_family(traffic, pair.1);
    let lead = ground.lead(pair.1, traffic);
    if lead.is_some() && other(&ground.world, pair.0).is_some() {
        return Err(ExplainError::ByItsNode { from: from.to_string(), port: format!("{to}:{}", traffic.port) });
    }
    let asked = Flow { from: pair.0, to: pair.1, traffic };
    let flow = lead.map_or(asked, |lead| led(asked, lead));
    let verdict = here(&ground.world, ground.policies, flow);
    let (mut allowed, mut reasons) = (verdict.allowed(), reasons(&verdict));
    let mut remedies: Vec<String> = remedy(&ground.world, &verdict, flow).into_iter().collect();
    for flow in lead.into_iter().filter(|lead| lead.is_proxied).flat_map(|_| by_netd(ground, asked, flow)) {
        let verdict = here(&ground.world, ground.policies, flow);
        allowed &= verdict.allowed();
        reasons.extend(self::reasons(&verdict).into_iter().filter(|reason| !reason.allowed));
        remedies.extend(remedy(&ground.world, &verdict, flow));
    }
    let ends = [(Direction::Egress, flow.from), (Direction::Ingress, flow.to)];
    reasons.extend(
        ends.into_iter().filter_map(|(direction, address)| Some(elsewhere(direction, other(&ground.world, address)?))),
    );
    Ok(Explanation {
        allowed,
        from: from.told(pair.0),
        to: format!("{}, {}", to.told(pair.1), spoken(traffic)),
        published: lead.map(|lead| published(&ground.world, to, traffic, lead)),
        reasons,
        remedy: (!remedies.is_empty()).then(|| remedies.join("; and ")),
        pairs: vec![pair],
    })
}

fn led(asked: Flow, lead: NextHop) -> Flow {
    let traffic = Traffic { port: lead.target.port(), ..asked.traffic };
    Flow { to: lead.target.ip(), traffic, ..asked }
}

/// What netd's proxy needs besides the sandboxes' own leave: to the node's socket, and from the node to the sandbox.
fn by_netd(ground: &Ground<'_>, asked: Flow, led: Flow) -> [Flow; 2] {
    let own = ground.world.nodes.get(ground.here).into_iter().flat_map(|node| &node.addresses).copied();
    let from = own.filter(|own| own.is_ipv4() == led.to.is_ipv4()).min().unwrap_or(asked.to);
    [asked, Flow { from, ..led }]
}

fn published(world: &World, to: &End, asked: Traffic, lead: NextHop) -> String {
    let name = match world.owner(lead.target.ip()) {
        netd_policy::Owner::Sandbox(sandbox) => short(&sandbox.name),
        netd_policy::Owner::Node(..) | netd_policy::Owner::Outside => lead.target.ip().to_string(),
    };
    let spoken = if asked.protocol == TCP { String::new() } else { format!(" ({})", spoken(asked)) };
    format!("{to}:{}{spoken} is published, leads to {name}:{}", asked.port, lead.target.port())
}

/// What this node says. What is about a sandbox of another is that node's to say.
fn here(world: &World, policies: &[Policy], flow: Flow) -> Verdict {
    let mut verdict = verdict(world, policies, flow);
    for (ruling, address) in [(&mut verdict.egress, flow.from), (&mut verdict.ingress, flow.to)] {
        if other(world, address).is_some() {
            *ruling = Ruling { allowed: true, by: Decider::NoSubject, log: false, audit: None };
        }
    }
    verdict
}

/// The sandbox of another node that has this address.
fn other(world: &World, address: IpAddr) -> Option<&Sandbox> {
    match world.owner(address) {
        netd_policy::Owner::Sandbox(sandbox) => Some(sandbox).filter(|sandbox| sandbox.known.is_some()),
        netd_policy::Owner::Node(..) | netd_policy::Owner::Outside => None,
    }
}

fn elsewhere(direction: Direction, sandbox: &Sandbox) -> Reason {
    let name = short(&sandbox.name);
    let rule = format!("what is about {name} is node {}'s to say: ask there", sandbox.node);
    Reason { direction, allowed: true, rule, place: String::new() }
}

/// An echo request is another one in IPv6.
fn of_family(traffic: Traffic, destination: IpAddr) -> Traffic {
    const ECHO: (u16, u16) = (8 << 8, 128 << 8);
    match (traffic.protocol, traffic.port) {
        (ICMP, port) if port == ECHO.0 && destination.is_ipv6() => Traffic { protocol: ICMPV6, port: ECHO.1 },
        _ => traffic,
    }
}

/// The reasons of a verdict, the sender's first. An end that is no sandbox has none.
#[must_use]
pub fn reasons(verdict: &Verdict) -> Vec<Reason> {
    let both = [(Direction::Egress, &verdict.egress), (Direction::Ingress, &verdict.ingress)];
    let asked = both.into_iter().filter(|(_, ruling)| ruling.by != Decider::NoSubject);
    asked.map(|(direction, ruling)| reason(direction, ruling)).collect()
}

fn reason(direction: Direction, ruling: &Ruling) -> Reason {
    let (rule, place) = decided(&ruling.by);
    Reason { direction, allowed: ruling.allowed, rule, place }
}

/// Who decided, in words, and where that is written.
fn decided(by: &Decider) -> (String, String) {
    match by {
        Decider::NoSubject => ("it is no sandbox".to_owned(), String::new()),
        Decider::Exempt => ("policies are not asked about this".to_owned(), String::new()),
        Decider::Default => ("no policy is about it".to_owned(), String::new()),
        Decider::Contested => {
            ("several sandboxes have its address, and no rule can tell which it is".to_owned(), String::new())
        }
        Decider::Rule { policy, name, source } => {
            let named = name.as_ref().map_or_else(String::new, |name| format!(", rule {name:?}"));
            (format!("{policy}{named}"), source.to_string())
        }
        Decider::Isolated { policy, source } => {
            (format!("{policy} selects it, and no rule of any policy allows this"), source.to_string())
        }
    }
}

/// What would have to be written.
fn remedy(world: &World, verdict: &Verdict, flow: Flow) -> Option<String> {
    let sandbox = |address| world.sandboxes.values().find(|one| one.addresses.contains_key(&address));
    let both = [
        (&verdict.egress, "egress", flow.from, ("to", flow.to)),
        (&verdict.ingress, "ingress", flow.to, ("from", flow.from)),
    ];
    let needed =
        both.into_iter().filter(|(ruling, ..)| !ruling.allowed).map(|(ruling, direction, subject, (word, peer))| {
            let subject = sandbox(subject).map_or_else(String::new, |one| short(&one.name));
            match &ruling.by {
                Decider::Contested => "another subnet or MAC for one of those who have its address".to_owned(),
                Decider::Rule { policy, source, .. } => {
                    let earlier = if policy.kind == Kind::NetworkPolicy {
                        ""
                    } else {
                        ", or one of a lower priority number before it"
                    };
                    format!("another rule in {source} ({policy}){earlier}")
                }
                Decider::Isolated { .. } | Decider::NoSubject | Decider::Exempt | Decider::Default => format!(
                    "an {direction} rule of a NetworkPolicy that selects {subject}, {word} {}, port {}",
                    selected(world, peer, sandbox(peer)),
                    spoken(flow.traffic)
                ),
            }
        });
    let needed: Vec<String> = needed.collect();
    (!needed.is_empty()).then(|| needed.join("; and "))
}

fn selected(world: &World, address: IpAddr, sandbox: Option<&Sandbox>) -> String {
    let Some(sandbox) = sandbox else {
        return match world.owner(address) {
            netd_policy::Owner::Node(name, _) => format!("node {name}"),
            netd_policy::Owner::Sandbox(_) | netd_policy::Owner::Outside if OUTSIDE_AT.contains(&address) => {
                "an ipBlock that has its address".to_owned()
            }
            netd_policy::Owner::Sandbox(_) | netd_policy::Owner::Outside => {
                format!("ipBlock {}", ipnet::IpNet::from(address))
            }
        };
    };
    let labels = sandbox.labels.iter().filter(|(key, _)| !key.starts_with("netd/"));
    let labels: Vec<String> = labels.map(|(key, value)| format!("{key}={value}")).take(3).collect();
    let labels = if labels.is_empty() { String::new() } else { format!(" podSelector {}", labels.join(",")) };
    format!("namespace {}{labels} ({})", sandbox.name.namespace, short(&sandbox.name))
}

/// What a packet carries.
#[must_use]
pub fn traffic_of(packet: &LoggedPacket) -> Traffic {
    let port = match (packet.protocol, packet.ports) {
        (ICMP | ICMPV6, Some((kind, code))) => kind << 8 | code,
        (_, Some((_, destination))) => destination,
        (_, None) => 0,
    };
    Traffic { protocol: packet.protocol, port }
}

/// What is known of a logged packet: its ends, and the rule.
#[must_use]
pub fn told_of(world: &World, policies: &[Policy], packet: &LoggedPacket) -> Told {
    let flow = Flow { from: packet.source, to: packet.destination, traffic: traffic_of(packet) };
    let verdict = here(world, policies, flow);
    // The order in which the kernel asks.
    let rulings = [&verdict.ingress, &verdict.egress];
    let found = match packet.prefix.as_str() {
        LOGGED_AUDIT => ("would be denied (audit): ", rulings.iter().find_map(|one| one.audit.as_ref())),
        LOGGED_ALLOW => ("allowed (log): ", rulings.iter().find(|one| one.allowed && one.log).map(|one| &one.by)),
        _ => ("", rulings.iter().find(|one| !one.allowed).map(|one| &one.by)),
    };
    let (rule, place) = match found {
        (word, Some(by)) => {
            let (rule, place) = decided(by);
            (format!("{word}{rule}"), place)
        }
        (_, None) => ("policies have changed since".to_owned(), String::new()),
    };
    Told { from: told(world, packet.source), to: told(world, packet.destination), by: rule, place }
}

/// As people write it.
#[must_use]
pub fn spoken(traffic: Traffic) -> String {
    let Traffic { protocol, port } = traffic;
    match protocol {
        6 => format!("tcp/{port}"),
        17 => format!("udp/{port}"),
        132 => format!("sctp/{port}"),
        ICMP | ICMPV6 => {
            let [kind, code] = port.to_be_bytes();
            format!("icmp type {kind} code {code}")
        }
        other => format!("protocol {other}"),
    }
}

#[cfg(test)]
mod tests;
