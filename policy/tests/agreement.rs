//! Properties: the compiled maps, interpreted, say what the oracle says; and a change leaves what a fresh start would.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test program")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use netd_policy::{
    Action, Answer, Block, Change, Compiled, Compiler, Direction, Entry, Flow, Hook, ICMP, ICMPV6, Kind, Known, Labels,
    NAMESPACE_NAME, NamedPort, Namespaces, Node, Owner, Peer, Peers, Policy, PolicyId, PolicyName, Port, PortRange,
    Ports, Profile, Protocol, Reaches, Requirement, Rule, Sandbox, SandboxName, SandboxSelector, Selector, Source, TCP,
    Table, Test, Tier, Traffic, UDP, World, oracle,
};
use proptest::collection::{btree_map, btree_set, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

const NODES: [&str; 2] = ["n1", "n2"];
const NAMESPACES: [&str; 2] = ["a", "b"];
const NETWORKS: [&str; 2] = ["blue", "red"];
const BLOCKS: [&str; 7] =
    ["0.0.0.0/0", "10.4.0.0/16", "10.4.0.0/30", "10.4.0.2/32", "192.0.2.0/24", "::/0", "fd00::/126"];
const PORTS: [u16; 4] = [53, 80, 81, 443];
const NAMES: [&str; 2] = ["http", "dns"];

fn protocol() -> impl Strategy<Value = Protocol> {
    select(vec![Protocol::Tcp, Protocol::Udp, Protocol::Sctp])
}

fn labels() -> impl Strategy<Value = Labels> {
    let word = |words: &'static [&'static str]| select(words).prop_map(str::to_owned);
    btree_map(word(&["app", "tier"]), word(&["x", "y"]), 0..3)
}

fn selector() -> impl Strategy<Value = Selector> {
    let values = || btree_set(select(vec!["x", "y", "a"]).prop_map(str::to_owned), 1..3);
    let test = prop_oneof![
        values().prop_map(Test::In),
        values().prop_map(Test::NotIn),
        Just(Test::Exists),
        Just(Test::Absent)
    ];
    let key = select(vec!["app", "tier", NAMESPACE_NAME]).prop_map(str::to_owned);
    let requirement = (key, test).prop_map(|(key, test)| Requirement { key, test });
    btree_set(requirement, 0..3).prop_map(|requirements| Selector { requirements })
}

fn sandboxes() -> impl Strategy<Value = SandboxSelector> {
    let namespaces = prop_oneof![
        select(&NAMESPACES[..]).prop_map(|name| Namespaces::Named(name.to_owned())),
        selector().prop_map(Namespaces::Labelled)
    ];
    let networks =
        prop_oneof![4 => Just(BTreeSet::new()), 1 => btree_set(select(&NETWORKS[..]).prop_map(str::to_owned), 1..2)];
    (namespaces, selector(), networks).prop_map(|(namespaces, labels, networks)| SandboxSelector {
        namespaces,
        labels,
        networks,
    })
}

fn block() -> impl Strategy<Value = Block> {
    (select(&BLOCKS[..]), btree_set(select(&BLOCKS[..]), 0..3)).prop_map(|(cidr, holes)| {
        let cidr: ipnet::IpNet = cidr.parse().unwrap();
        let inside = |hole: &ipnet::IpNet| cidr.contains(hole) && *hole != cidr;
        let except = holes.iter().map(|hole| hole.parse().unwrap()).filter(inside).collect();
        Block { cidr, except }
    })
}

fn peers(nodes: bool) -> impl Strategy<Value = Peers> {
    let weight = u32::from(nodes);
    let peer = prop_oneof![
        3 => sandboxes().prop_map(Peer::Sandboxes),
        2 => block().prop_map(Peer::Block),
        weight => selector().prop_map(Peer::Nodes),
    ];
    prop_oneof![1 => Just(Peers::Any), 4 => vec(peer, 1..3).prop_map(Peers::Of)]
}

fn ports() -> impl Strategy<Value = Ports> {
    let port = prop_oneof![
        3 => (protocol(), select(&PORTS[..]), 0_u16..3).prop_map(|(protocol, first, more)| Port::Range(PortRange::of(protocol, first, first + more))),
        1 => protocol().prop_map(|protocol| Port::Range(PortRange::of(protocol, 0, u16::MAX))),
        2 => (option::of(protocol()), select(&NAMES[..])).prop_map(|(protocol, name)| Port::Named(protocol, name.to_owned())),
        1 => (any::<bool>(), option::of(select(vec![8_u8, 128])), option::of(0_u8..2)).prop_map(|(v6, kind, code)| Port::Range(PortRange::icmp(v6, kind, code))),
    ];
    prop_oneof![1 => Just(Ports::Any), 2 => vec(port, 1..3).prop_map(Ports::Of)]
}

fn rules(tier: Tier) -> impl Strategy<Value = Vec<Rule>> {
    let action = match tier {
        Tier::Namespaced => vec![Action::Accept],
        Tier::Admin(_) | Tier::Baseline(_) => vec![Action::Accept, Action::Deny, Action::Pass],
    };
    let rule = (select(action), peers(tier != Tier::Namespaced), ports());
    vec(rule, 0..3).prop_map(|rules| {
        let source = |line| Source { file: Arc::from("p.yaml"), line };
        let numbered = rules.into_iter().enumerate();
        numbered
            .map(|(line, (action, peers, ports))| Rule { name: None, source: source(line + 1), action, peers, ports })
            .collect()
    })
}

fn policy() -> impl Strategy<Value = Policy> {
    let tier = prop_oneof![
        (0_u16..3).prop_map(Tier::Admin),
        Just(Tier::Namespaced),
        Just(Tier::Namespaced),
        (0_u16..3).prop_map(Tier::Baseline)
    ];
    let parts = tier.prop_flat_map(|tier| (Just(tier), option::of(rules(tier)), option::of(rules(tier))));
    (parts, sandboxes(), "[a-f]", any::<bool>(), prop::bool::weighted(0.2)).prop_map(
        |((tier, ingress, egress), subject, name, log, audit)| {
            let kind = if tier == Tier::Namespaced { Kind::NetworkPolicy } else { Kind::ClusterNetworkPolicy };
            let name = PolicyName { kind, namespace: String::new(), name };
            let source = Source { file: Arc::from("p.yaml"), line: 1 };
            // Only peers are chosen by network.
            let subject = SandboxSelector { networks: BTreeSet::new(), ..subject };
            Policy { name, source, tier, subject, ingress, egress, log, audit }
        },
    )
}

fn policies() -> impl Strategy<Value = Vec<Policy>> {
    vec(policy(), 0..6).prop_map(|policies| {
        let by_name: BTreeMap<PolicyName, Policy> =
            policies.into_iter().map(|policy| (policy.name.clone(), policy)).collect();
        by_name.into_values().collect()
    })
}

fn sandbox() -> impl Strategy<Value = Sandbox> {
    let port = (select(&NAMES[..]), protocol(), select(&PORTS[..])).prop_map(|(name, protocol, number)| NamedPort {
        name: name.to_owned(),
        protocol,
        number,
    });
    let parts = (
        0_u8..5,
        select(&NAMESPACES[..]),
        labels(),
        labels(),
        btree_set(port, 0..3),
        select(&NODES[..]),
        any::<[bool; 2]>(),
        0_u8..8,
        option::weighted(0.4, known()),
    );
    parts.prop_map(|(number, namespace, labels, namespace_labels, ports, node, [blue, moved], other, known)| {
        let last = if moved { other } else { number };
        let network = NETWORKS[usize::from(blue)].to_owned();
        let addresses = [format!("10.4.0.{}", last + 1), format!("fd00::{}", last + 1)];
        Sandbox {
            name: SandboxName { namespace: namespace.to_owned(), name: format!("s{number}") },
            labels,
            namespace_labels,
            addresses: addresses.iter().map(|address| (address.parse().unwrap(), network.clone())).collect(),
            ports,
            node: node.to_owned(),
            known,
        }
    })
}

fn known() -> impl Strategy<Value = Known> {
    let keys = || labels().prop_map(|labels| labels.into_keys().collect());
    let ports = btree_set(select(&NAMES[..]).prop_map(str::to_owned), 0..3);
    (keys(), keys(), any::<bool>(), ports).prop_map(|(labels, namespace_labels, networks, ports)| Known {
        labels,
        namespace_labels,
        networks,
        ports,
    })
}

fn nodes() -> impl Strategy<Value = BTreeMap<String, Node>> {
    (labels(), labels()).prop_map(|(one, two)| {
        let node = |labels, last: u8| {
            let addresses = [format!("192.0.2.{last}"), format!("2001:db8::{last}")];
            Node { labels, addresses: addresses.iter().map(|address| address.parse().unwrap()).collect() }
        };
        BTreeMap::from([("n1".to_owned(), node(one, 1)), ("n2".to_owned(), node(two, 2))])
    })
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        6 => sandbox().prop_map(Change::Sandbox),
        2 => (0_u8..5, select(&NAMESPACES[..])).prop_map(|(number, namespace)| Change::Gone(SandboxName { namespace: namespace.to_owned(), name: format!("s{number}") })),
        1 => policies().prop_map(Change::Policies),
        1 => nodes().prop_map(Change::Nodes),
        1 => btree_set(block(), 0..3).prop_map(Change::Strangers),
    ]
}

fn addresses() -> Vec<IpAddr> {
    let four = (1..=5)
        .map(|last| format!("10.4.0.{last}"))
        .chain(["192.0.2.1", "192.0.2.2", "198.51.100.1"].map(str::to_owned));
    let six = (1..=5)
        .map(|last| format!("fd00::{last}"))
        .chain(["2001:db8::1", "2001:db8::2", "2001:db9::1"].map(str::to_owned));
    four.chain(six).map(|address| address.parse().unwrap()).collect()
}

fn traffic() -> Vec<Traffic> {
    let mut all: Vec<Traffic> = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp]
        .into_iter()
        .flat_map(|protocol| [0, 53, 80, 82, 443, 65535].map(|port| Traffic::to(protocol, port)))
        .collect();
    all.extend([
        Traffic::icmp(ICMP, 8, 0),
        Traffic::icmp(ICMP, 3, 1),
        Traffic::icmp(ICMPV6, 128, 0),
        Traffic::icmp(ICMPV6, 135, 0),
    ]);
    all.push(Traffic { protocol: 47, port: 0 });
    all
}

/// What both nodes' kernels say, as whether it passes, who decides and what is audited, for each end.
fn interpreted(compilers: &[Compiler; 2], flow: Flow) -> [Said; 2] {
    let world = compilers[0].world();
    let end = |direction| {
        let (address, peer) = match direction {
            Direction::Egress => (flow.from, world.owner(flow.to)),
            Direction::Ingress => (flow.to, world.owner(flow.from)),
        };
        let subject = match world.owner(address) {
            Owner::Sandbox(sandbox) => Some(sandbox),
            Owner::Node(..) | Owner::Outside => world.contested(address),
        };
        let Some(sandbox) = subject else { return Said::default() };
        let number = usize::from(sandbox.node != NODES[0]);
        let hook = match (peer, direction) {
            (Owner::Node(name, _), Direction::Egress) if name == sandbox.node => Hook::Input,
            (Owner::Node(name, _), Direction::Ingress) if name == sandbox.node => Hook::Output,
            _ => Hook::Forward,
        };
        let compiled = compilers[number].compiled();
        let answers = compiled.interpret(hook, flow);
        let answer = match direction {
            Direction::Egress => answers.egress,
            Direction::Ingress => answers.ingress,
        };
        let name = |id| compiled.policies[&id].clone();
        answer.map_or_else(Said::default, |answer| Said {
            denied: !answer.allowed,
            by: answer.by.map(name),
            log: answer.log,
            audit: answer.audit.map(name),
        })
    };
    [end(Direction::Egress), end(Direction::Ingress)]
}

#[derive(Debug, Default, PartialEq)]
struct Said {
    denied: bool,
    by: Option<PolicyName>,
    log: bool,
    audit: Option<PolicyName>,
}

fn asked(world: &World, policies: &[Policy], flow: Flow) -> [Said; 2] {
    let verdict = oracle::verdict(world, policies, flow);
    [verdict.egress, verdict.ingress].map(|ruling| Said {
        denied: !ruling.allowed,
        by: ruling.by.policy().cloned(),
        log: ruling.log,
        audit: ruling.audit.as_ref().and_then(|by| by.policy()).cloned(),
    })
}

fn agree(compilers: &[Compiler; 2]) -> Result<(), TestCaseError> {
    let (world, policies) = (compilers[0].world(), compilers[0].policies());
    for from in addresses() {
        for to in addresses().into_iter().filter(|to| to.is_ipv4() == from.is_ipv4()) {
            for traffic in traffic() {
                let flow = Flow { from, to, traffic };
                prop_assert_eq!(interpreted(compilers, flow), asked(world, policies, flow), "{:?}", flow);
            }
        }
    }
    Ok(())
}

/// Traffic around every port that a policy may name, without what no reach speaks of.
fn edges(is_v6: bool) -> Vec<Traffic> {
    let ports: BTreeSet<u16> =
        PORTS.into_iter().flat_map(|port| [port - 1, port, port + 1]).chain([0, 65535]).collect();
    let ported = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];
    let with_ports = ported.into_iter().flat_map(|protocol| ports.iter().map(move |port| Traffic::to(protocol, *port)));
    let icmp = if is_v6 { ICMPV6 } else { ICMP };
    let kinds = [0, 3, 7, 8, 9, 127, 128, 129, 138, 142, 144, 255];
    let messages = kinds.into_iter().flat_map(|kind| [0, 1, u8::MAX].map(|code| Traffic::icmp(icmp, kind, code)));
    let others = [0, 2, 47, 59, 255].map(|protocol| Traffic { protocol, port: 0 });
    let all = with_ports.chain(messages).chain(others);
    all.filter(|traffic| !traffic.keeps_link()).collect()
}

/// The reaches of both nodes together are what the oracle allows.
fn reach_agrees(compilers: &[Compiler; 2]) -> Result<(), TestCaseError> {
    let (world, policies) = (compilers[0].world(), compilers[0].policies());
    let mut reaches =
        [0, 1].map(|number: usize| Reaches::new(compilers[number].compiled(), &world.nodes[NODES[number]].addresses));
    let edges = [false, true].map(edges);
    for from in addresses() {
        for to in addresses().into_iter().filter(|to| to.is_ipv4() == from.is_ipv4()) {
            let both = reaches.each_mut().map(|reaches| reaches.between(from, to));
            for traffic in edges[usize::from(from.is_ipv6())].iter().copied() {
                let flow = Flow { from, to, traffic };
                let reached = both.iter().all(|reach| reach.contains(traffic));
                prop_assert_eq!(reached, oracle::verdict(world, policies, flow).allowed(), "{:?}: {:?}", flow, both);
            }
        }
    }
    Ok(())
}

/// Nothing refers to what is not there, and nothing is there that nothing refers to.
fn is_tidy(compiler: &Compiler) -> Result<(), TestCaseError> {
    let compiled = compiler.compiled();
    let any: BTreeSet<_> = [&compiled.any_in, &compiled.any_out, &compiled.host_in, &compiled.host_out]
        .into_iter()
        .flat_map(|map| map.values())
        .copied()
        .collect();
    let pairs = [&compiled.pairs_in, &compiled.pairs_out].into_iter().flat_map(|map| map.values()).copied();
    let used: BTreeSet<_> = pairs.chain(any).collect();
    let kept: BTreeSet<_> = compiled.profiles.keys().copied().collect();
    prop_assert_eq!(used, kept);
    let classes: BTreeSet<_> = compiled.classes.values().chain(compiled.blocks.values()).copied().collect();
    for (subject, peer) in compiled.pairs_in.keys().chain(compiled.pairs_out.keys()) {
        prop_assert!(classes.contains(subject), "{:?}", subject);
        prop_assert!(classes.contains(peer) || peer.0 == 0, "{:?}", peer);
    }
    for profile in compiled.profiles.values() {
        let all: u64 = profile
            .0
            .iter()
            .map(|entry| {
                let wide = |first: u32, last: u32| u64::from(last - first + 1);
                wide(entry.protocols.0.into(), entry.protocols.1.into())
                    * wide(entry.ports.0.into(), entry.ports.1.into())
            })
            .sum();
        prop_assert_eq!(all, 256 * 65536);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, max_shrink_iters: 2000, ..ProptestConfig::default() })]

    #[test]
    fn maps_and_oracle_agree_after_any_changes(
        policies in policies(),
        nodes in nodes(),
        changes in vec(change(), 0..12),
    ) {
        let mut compilers = NODES.map(Compiler::new);
        let mut copies = [Mirror::default(), Mirror::default()];
        let world = World { nodes, ..World::default() };
        for (compiler, copy) in compilers.iter_mut().zip(&mut copies) {
            copy.take(&compiler.load(policies.clone(), world.clone()));
            for change in &changes {
                copy.take(&compiler.update(change.clone()));
            }
            prop_assert_eq!(&*copy, &Mirror::of(compiler));
            is_tidy(compiler)?;
        }
        agree(&compilers)?;
        let fresh = [0, 1].map(|number| {
            let mut fresh = Compiler::new(NODES[number]);
            fresh.load(compilers[number].policies().to_vec(), compilers[number].world().clone());
            fresh
        });
        for (old, new) in compilers.iter().zip(&fresh) {
            prop_assert_eq!(old.compiled().ingress.keys().collect::<Vec<_>>(), new.compiled().ingress.keys().collect::<Vec<_>>());
            prop_assert_eq!(old.compiled().itself.keys().collect::<Vec<_>>(), new.compiled().itself.keys().collect::<Vec<_>>());
            prop_assert_eq!(old.compiled().classes.keys().collect::<Vec<_>>(), new.compiled().classes.keys().collect::<Vec<_>>());
        }
        agree(&fresh)?;
    }
}

/// What can be read back of it from a kernel: of a profile, not who says so.
fn read_back(compiled: &Compiled) -> Compiled {
    fn copy<K: Ord + Copy, V: Copy>(table: &Table<K, V>) -> Table<K, V> {
        table.iter().map(|(key, value)| (*key, *value)).collect()
    }
    Compiled {
        classes: copy(&compiled.classes),
        blocks: copy(&compiled.blocks),
        pairs_in: copy(&compiled.pairs_in),
        pairs_out: copy(&compiled.pairs_out),
        any_in: copy(&compiled.any_in),
        any_out: copy(&compiled.any_out),
        host_in: copy(&compiled.host_in),
        host_out: copy(&compiled.host_out),
        profiles: compiled.profiles.iter().map(|(id, profile)| (*id, Profile(bare(profile)))).collect(),
        ..Compiled::default()
    }
}

fn bare(profile: &Profile) -> Vec<Entry> {
    let mut entries = Vec::new();
    for entry in &profile.0 {
        let (first, last) = entry.protocols;
        let whole = entry.ports == (0, u16::MAX);
        let runs = if whole { vec![(first, last)] } else { (first..=last).map(|one| (one, one)).collect() };
        let Answer { allowed, audit, log, .. } = entry.answer;
        let audit = audit.map(|_| PolicyId(7)).filter(|_| allowed);
        let answer = Answer { allowed, by: None, audit, log: log && allowed && audit.is_none() };
        entries.extend(runs.into_iter().map(|protocols| Entry { protocols, answer, ..*entry }));
    }
    entries
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, max_shrink_iters: 2000, ..ProptestConfig::default() })]

    #[test]
    fn who_goes_on_from_what_stands_says_the_same_and_changes_little(
        policies in policies(),
        nodes in nodes(),
        changes in vec(change(), 0..12),
    ) {
        let mut compilers = NODES.map(Compiler::new);
        for compiler in &mut compilers {
            compiler.load(policies.clone(), World { nodes: nodes.clone(), ..World::default() });
            changes.iter().for_each(|change| drop(compiler.update(change.clone())));
        }
        let go_on = |old: &Compiler, node| {
            let mut next = Compiler::new(node);
            next.go_on_from(read_back(old.compiled()));
            next.load(old.policies().to_vec(), old.world().clone());
            next
        };
        let next = [0, 1].map(|number| go_on(&compilers[number], NODES[number]));
        next.iter().try_for_each(is_tidy)?;
        agree(&next)?;
        // What was compiled at once stands to the last number.
        for (old, node) in next.iter().zip(NODES) {
            let (next, old) = (go_on(old, node), read_back(old.compiled()));
            let next = read_back(next.compiled());
            prop_assert_eq!(format!("{:?}", next), format!("{:?}", old));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 50, max_shrink_iters: 500, ..ProptestConfig::default() })]

    #[test]
    fn reach_and_oracle_agree_at_every_edge(policies in policies(), nodes in nodes(), sandboxes in vec(sandbox(), 0..6)) {
        let sandboxes = sandboxes.into_iter().map(|sandbox| (sandbox.name.clone(), sandbox)).collect();
        let world = World { nodes, sandboxes, ..World::default() };
        let compilers = NODES.map(|node| {
            let mut compiler = Compiler::new(node);
            compiler.load(policies.clone(), world.clone());
            compiler
        });
        reach_agrees(&compilers)?;
    }
}

macro_rules! mirror {
    ($($name:ident),*) => {
        /// What a kernel holds that was told deltas only.
        #[derive(Debug, Default, PartialEq)]
        struct Mirror { text: BTreeMap<(&'static str, String), String> }

        impl Mirror {
            fn take(&mut self, delta: &netd_policy::Delta) {
                $(
                    for key in &delta.$name.removed {
                        assert!(self.text.remove(&(stringify!($name), format!("{key:?}"))).is_some(), "removes what is not there");
                    }
                    for (key, value) in &delta.$name.set {
                        let old = self.text.insert((stringify!($name), format!("{key:?}")), format!("{value:?}"));
                        assert_ne!(old, Some(format!("{value:?}")), "sets what is there");
                    }
                )*
            }

            fn of(compiler: &Compiler) -> Self {
                let mut text = BTreeMap::new();
                $(text.extend(compiler.compiled().$name.iter().map(|(key, value)| ((stringify!($name), format!("{key:?}")), format!("{value:?}"))));)*
                Self { text }
            }
        }
    };
}

mirror!(
    classes, blocks, ingress, egress, itself, pairs_in, pairs_out, any_in, any_out, host_in, host_out, profiles,
    policies
);

#[test]
fn probes_are_of_all_kinds() {
    let protocols: BTreeSet<u8> = traffic().iter().map(|traffic| traffic.protocol).collect();
    assert!(protocols.is_superset(&BTreeSet::from([TCP, UDP, ICMP, ICMPV6, 47])));
}
