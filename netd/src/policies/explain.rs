//! Answers to people's questions about policies: who is meant, whether a connection is allowed, why, and what would allow
//! it. Pure; the meaning itself is `netd_policy::oracle`'s.

use std::net::IpAddr;

use netd_kernel::{LOGGED_ALLOW, LOGGED_AUDIT, LoggedPacket};
use netd_policy::oracle::{Decider, Ruling, Verdict, verdict};
use netd_policy::{Direction, Flow, ICMP, ICMPV6, Kind, Policy, Sandbox, SandboxName, Traffic, World};
use thiserror::Error;

use super::drops::Told;

/// The question cannot be answered.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ExplainError {
    /// Nobody.
    #[error("{0:?} is no sandbox, address or \"node\"; `netdctl sandbox ls` lists the sandboxes")]
    Nobody(String),
    /// Several.
    #[error("{what:?} may mean {}; write namespace/name", candidates.join(", "))]
    Several {
        /// What was asked for.
        what: String,
        /// Who may be meant.
        candidates: Vec<String>,
    },
    /// No packet goes from one to the other.
    #[error("{from} and {to} have no address of the same family: nothing passes, whatever the policies say")]
    Apart {
        /// One end.
        from: String,
        /// The other.
        to: String,
    },
}

/// One end of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// A sandbox.
    Sandbox(SandboxName),
    /// The node with this name.
    Node(String),
    /// An address, whoever has it.
    Address(IpAddr),
}

/// Whether a connection is allowed, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// Whether it is.
    pub allowed: bool,
    /// Who sends, with the address that was looked at.
    pub from: String,
    /// Who receives.
    pub to: String,
    /// Egress of the sender, ingress of the receiver.
    pub reasons: Vec<Reason>,
    /// What would allow it.
    pub remedy: Option<String>,
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

impl End {
    /// Whom `text` means: an address, `node` (the one called `here`), or a sandbox by name or namespace/name.
    ///
    /// # Errors
    /// See [`ExplainError`].
    pub fn find(world: &World, here: &str, text: &str) -> Result<Self, ExplainError> {
        if let Ok(address) = text.parse() {
            return Ok(Self::Address(address));
        }
        if text == "node" {
            return Ok(Self::Node(here.to_owned()));
        }
        let called = |name: &str, full: &str| name == text || full == text;
        let is = |name: &&SandboxName| called(&name.name, &name.to_string());
        let mut found: Vec<&SandboxName> = world.sandboxes.keys().filter(is).collect();
        if found.is_empty() {
            // Made again while the one before it ended.
            let again = |name: &&SandboxName| {
                let plain = |text: &str| text.split('~').next().unwrap_or_default().to_owned();
                called(&plain(&name.name), &plain(&name.to_string()))
            };
            found = world.sandboxes.keys().filter(again).collect();
        }
        if found.is_empty() {
            // Of another node, without saying of which.
            let others = world.sandboxes.values().filter(|sandbox| sandbox.known.is_some());
            let bare =
                |sandbox: &Sandbox| short(&sandbox.name).trim_end_matches(&format!("@{}", sandbox.node)).to_owned();
            let is = |sandbox: &&Sandbox| bare(sandbox) == text || bare(sandbox).split('/').next_back() == Some(text);
            found = others.filter(is).map(|sandbox| &sandbox.name).collect();
        }
        match found.as_slice() {
            [] => Err(ExplainError::Nobody(text.to_owned())),
            [one] => Ok(Self::Sandbox((*one).clone())),
            several => Err(ExplainError::Several {
                what: text.to_owned(),
                candidates: several.iter().map(ToString::to_string).collect(),
            }),
        }
    }

    fn addresses(&self, world: &World) -> Vec<IpAddr> {
        match self {
            Self::Sandbox(name) => world.sandboxes.get(name).map(|one| given(one).collect()),
            Self::Node(name) => world.nodes.get(name).map(|one| one.addresses.iter().copied().collect()),
            Self::Address(address) => Some(vec![*address]),
        }
        .unwrap_or_default()
    }

    fn told(&self, address: IpAddr) -> String {
        match self {
            Self::Sandbox(name) => format!("{} ({address})", short(name)),
            Self::Node(name) => format!("node {name} ({address})"),
            Self::Address(address) => address.to_string(),
        }
    }
}

/// The addresses that a sandbox is reached at from everywhere. Those of its links are treated as these.
pub(super) fn given(sandbox: &Sandbox) -> impl Iterator<Item = IpAddr> {
    let is_of_link = |address: &IpAddr| matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local());
    sandbox.addresses.keys().copied().filter(move |address| !is_of_link(address))
}

/// A container that nobody has a record of is in no namespace.
pub(super) fn short(name: &SandboxName) -> String {
    if name.namespace.is_empty() { name.name.clone() } else { name.to_string() }
}

/// Who has this address, in words.
#[must_use]
pub fn told(world: &World, address: IpAddr) -> String {
    match world.owner(address) {
        netd_policy::Owner::Sandbox(sandbox) => format!("{} ({address})", short(&sandbox.name)),
        netd_policy::Owner::Node(name, _) => format!("node {name} ({address})"),
        netd_policy::Owner::Outside => address.to_string(),
    }
}

/// Whether `from` may send `traffic` to `to`. By IPv4 where both have it.
///
/// # Errors
/// See [`ExplainError`].
pub fn explain(
    world: &World,
    policies: &[Policy],
    (from, to): (&End, &End),
    traffic: Traffic,
) -> Result<Explanation, ExplainError> {
    let (senders, receivers) = (from.addresses(world), to.addresses(world));
    let pair = |is_v4: bool| {
        let of = |all: &[IpAddr]| all.iter().copied().find(|address| address.is_ipv4() == is_v4);
        Some((of(&senders)?, of(&receivers)?))
    };
    let apart = || ExplainError::Apart { from: name(from), to: name(to) };
    let (source, destination) = pair(true).or_else(|| pair(false)).ok_or_else(apart)?;
    let flow = Flow { from: source, to: destination, traffic: of_family(traffic, destination) };
    let verdict = here(world, policies, flow);
    let (from, to) = (from.told(source), format!("{}, {}", to.told(destination), spoken(flow.traffic)));
    let mut reasons = reasons(&verdict);
    let ends = [(Direction::Egress, flow.from), (Direction::Ingress, flow.to)];
    reasons
        .extend(ends.into_iter().filter_map(|(direction, address)| Some(elsewhere(direction, other(world, address)?))));
    Ok(Explanation { allowed: verdict.allowed(), remedy: remedy(world, &verdict, flow), reasons, from, to })
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

fn name(end: &End) -> String {
    match end {
        End::Sandbox(name) => short(name),
        End::Node(name) => format!("node {name}"),
        End::Address(address) => address.to_string(),
    }
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
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use netd_policy::{Known, Node, Protocol, Sandbox, SandboxName, Traffic, World};

    use netd_kernel::{LOGGED_ALLOW, LOGGED_AUDIT, LOGGED_DENY, LoggedPacket};

    use super::{End, ExplainError, explain, told, told_of};

    fn world() -> World {
        let sandbox = |namespace: &str, name: &str, address: &str| {
            let name = SandboxName { namespace: namespace.to_owned(), name: name.to_owned() };
            let sandbox = Sandbox {
                name: name.clone(),
                labels: BTreeMap::from([("app".to_owned(), name.name.clone())]),
                namespace_labels: BTreeMap::new(),
                addresses: BTreeMap::from([(address.parse().unwrap(), "net".to_owned())]),
                ports: BTreeSet::new(),
                node: "here".to_owned(),
                known: None,
            };
            (name, sandbox)
        };
        let node = Node { addresses: BTreeSet::from(["192.0.2.1".parse().unwrap()]), ..Node::default() };
        World {
            sandboxes: BTreeMap::from([
                sandbox("shop", "cart", "10.4.0.2"),
                sandbox("shop", "login", "10.4.0.3"),
                sandbox("other", "login", "10.4.0.4"),
                sandbox("", "lone", "fd00::5"),
                sandbox("pods", "web~4f", "10.4.0.6"),
            ]),
            nodes: BTreeMap::from([("here".to_owned(), node)]),
            ..World::default()
        }
    }

    fn find(text: &str) -> Result<End, ExplainError> {
        End::find(&world(), "here", text)
    }

    #[test]
    fn an_end_is_found_by_what_people_call_it() {
        let sandbox = |namespace: &str, name: &str| {
            Ok(End::Sandbox(SandboxName { namespace: namespace.to_owned(), name: name.to_owned() }))
        };
        assert_eq!(find("cart"), sandbox("shop", "cart"));
        assert_eq!(find("other/login"), sandbox("other", "login"));
        assert_eq!(find("10.4.0.2"), Ok(End::Address("10.4.0.2".parse().unwrap())));
        assert_eq!(find("node"), Ok(End::Node("here".to_owned())));
        assert_eq!(find("web"), sandbox("pods", "web~4f"));
        assert_eq!(find("pods/web"), sandbox("pods", "web~4f"));
        assert_eq!(find("nobody"), Err(ExplainError::Nobody("nobody".to_owned())));
        assert!(find("login").unwrap_err().to_string().contains("other/login, shop/login"));
        assert_eq!(told(&world(), "10.4.0.2".parse().unwrap()), "shop/cart (10.4.0.2)");
        assert_eq!(told(&world(), "192.0.2.1".parse().unwrap()), "node here (192.0.2.1)");
        assert_eq!(told(&world(), "192.0.2.9".parse().unwrap()), "192.0.2.9");
    }

    #[test]
    fn a_denial_names_the_policy_and_what_would_allow_it() {
        let text = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: closed, namespace: shop}\n\
                    spec: {podSelector: {matchLabels: {app: cart}}}\n";
        let policies = netd_policy::parse("shop.yaml", text).unwrap();
        let ask = |from: &str, to: &str| {
            let ends = (find(from).unwrap(), find(to).unwrap());
            explain(&world(), &policies, (&ends.0, &ends.1), Traffic::to(Protocol::Tcp, 80))
        };
        let denied = ask("shop/login", "cart").unwrap();
        assert!(!denied.allowed);
        assert_eq!(
            (denied.from.as_str(), denied.to.as_str()),
            ("shop/login (10.4.0.3)", "shop/cart (10.4.0.2), tcp/80")
        );
        assert_eq!(denied.reasons[0].rule, "no policy is about it");
        assert_eq!(denied.reasons[1].place, "shop.yaml:1");
        assert_eq!(
            denied.remedy.unwrap(),
            "an ingress rule of a NetworkPolicy that selects shop/cart, from namespace shop podSelector app=login \
             (shop/login), port tcp/80"
        );
        let allowed = ask("cart", "shop/login").unwrap();
        assert_eq!((allowed.allowed, allowed.remedy), (true, None));
        assert!(ask("cart", "lone").unwrap_err().to_string().contains("no address of the same family"));
        assert!(ask("192.0.2.9", "cart").unwrap().remedy.unwrap().contains("ipBlock 192.0.2.9/32"));
    }

    #[test]
    fn a_logged_packet_is_told_by_what_the_kernel_said_of_it() {
        let policy = |name: &str, annotations: &str, spec: &str| {
            format!(
                "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n\
                 metadata: {{name: {name}, namespace: shop, annotations: {{{annotations}}}}}\nspec: {spec}\n"
            )
        };
        let cart = "{podSelector: {matchLabels: {app: cart}}, policyTypes: [Ingress]}";
        let login = "{podSelector: {matchLabels: {app: login}}, policyTypes: [Egress]}";
        let by = |texts: &[String], prefix: &str| {
            let policies = netd_policy::parse("shop.yaml", &texts.join("---\n")).unwrap();
            let packet = LoggedPacket {
                prefix: prefix.to_owned(),
                input: 0,
                source: "10.4.0.3".parse().unwrap(),
                destination: "10.4.0.2".parse().unwrap(),
                protocol: 6,
                ports: Some((1, 80)),
            };
            told_of(&world(), &policies, &packet).by
        };
        let both = [policy("in", "", cart), policy("out", "", login)];
        assert!(by(&both, LOGGED_DENY).starts_with("NetworkPolicy shop/in "), "the one that counted it");
        // One end would deny, the other denies: two packets of the log, each of its own.
        let staged = [policy("in", "netd/audit: \"true\"", cart), policy("out", "", login)];
        assert!(by(&staged, LOGGED_AUDIT).starts_with("would be denied (audit): NetworkPolicy shop/in "));
        assert!(by(&staged, LOGGED_DENY).starts_with("NetworkPolicy shop/out "));
        assert_eq!(by(&both, LOGGED_ALLOW), "policies have changed since");
    }

    #[test]
    fn one_of_another_node_is_named_with_it_and_judged_there() {
        let mut world = world();
        let far = Sandbox {
            name: SandboxName { namespace: "shop".to_owned(), name: "till@n2".to_owned() },
            labels: BTreeMap::from([("app".to_owned(), "till".to_owned())]),
            namespace_labels: BTreeMap::new(),
            addresses: BTreeMap::from([("10.4.9.2".parse().unwrap(), String::new())]),
            ports: BTreeSet::new(),
            node: "n2".to_owned(),
            known: Some(Known { labels: BTreeSet::from(["app".to_owned()]), ..Known::default() }),
        };
        world.sandboxes.insert(far.name.clone(), far);
        for text in ["till", "shop/till", "till@n2", "shop/till@n2"] {
            assert!(
                matches!(End::find(&world, "here", text), Ok(End::Sandbox(name)) if name.name == "till@n2"),
                "{text}"
            );
        }
        assert!(End::find(&world, "here", "till@n3").is_err());
        let text = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: all, namespace: shop}\n\
                    spec: {podSelector: {}, ingress: [{from: [{podSelector: {matchLabels: {app: till}}}]}]}\n";
        let policies = netd_policy::parse("shop.yaml", text).unwrap();
        let ask = |from: &str, to: &str| {
            let [from, to] = [from, to].map(|text| End::find(&world, "here", text).unwrap());
            explain(&world, &policies, (&from, &to), Traffic::to(Protocol::Tcp, 80)).unwrap()
        };
        let there = ask("cart", "till");
        assert!(there.allowed, "{there:?}");
        assert_eq!(there.reasons[1].rule, "what is about shop/till@n2 is node n2's to say: ask there");
        assert!(ask("till", "cart").allowed && !ask("shop/login", "cart").allowed);
    }
}
