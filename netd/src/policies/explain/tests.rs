//! Who is meant, whether a connection is allowed, and why.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use netd_config::PortMapping;
use netd_kernel::{LOGGED_ALLOW, LOGGED_AUDIT, LOGGED_DENY, LoggedPacket};
use netd_policy::{Known, Node, Policy, Protocol, Sandbox, SandboxName, Traffic, World};

use super::{End, ExplainError, Explanation, explain, told, told_of};
use crate::attachment::Attachment;
use crate::node::tests::{WEB, wanted};
use crate::node::{Attached, Node as OwnNode};
use crate::policies::ground::Ground;
use crate::policies::pairs::families;
use crate::ports::tests::attachment;

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
        let ground = Ground::of(Cow::Owned(world()), &policies, "here", &[]);
        explain(&ground, (&ends.0, &ends.1), Traffic::to(Protocol::Tcp, 80)).map(|mut all| all.remove(0))
    };
    let denied = ask("shop/login", "cart").unwrap();
    assert!(!denied.allowed);
    assert_eq!((denied.from.as_str(), denied.to.as_str()), ("shop/login (10.4.0.3)", "shop/cart (10.4.0.2), tcp/80"));
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
        assert!(matches!(End::find(&world, "here", text), Ok(End::Sandbox(name)) if name.name == "till@n2"), "{text}");
    }
    assert!(End::find(&world, "here", "till@n3").is_err());
    let text = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: all, namespace: shop}\n\
                spec: {podSelector: {}, ingress: [{from: [{podSelector: {matchLabels: {app: till}}}]}]}\n";
    let policies = netd_policy::parse("shop.yaml", text).unwrap();
    let ask = |from: &str, to: &str| {
        let [from, to] = [from, to].map(|text| End::find(&world, "here", text).unwrap());
        let ground = Ground::of(Cow::Borrowed(&world), &policies, "here", &[]);
        explain(&ground, (&from, &to), Traffic::to(Protocol::Tcp, 80)).unwrap().remove(0)
    };
    let there = ask("cart", "till");
    assert!(there.allowed, "{there:?}");
    assert_eq!(there.reasons[1].rule, "what is about shop/till@n2 is node n2's to say: ask there");
    assert!(ask("till", "cart").allowed && !ask("shop/login", "cart").allowed);
}

const CLOSED: &str = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: closed, namespace: shop}\n\
                      spec: {podSelector: {matchLabels: {app: cart}}, ingress: [{from: [{podSelector: {matchLabels: {app: \
                      login}}}], ports: [{port: 80}]}]}\n";

/// `world` and both addresses of every sandbox of `shop`, and of the node.
fn dual() -> World {
    let mut world = world();
    for (name, sandbox) in world.sandboxes.iter_mut().filter(|(name, _)| name.namespace == "shop") {
        let (last, network) = (if name.name == "cart" { 2 } else { 3 }, "net".to_owned());
        sandbox.addresses.insert(format!("fd00::{last}").parse().unwrap(), network.clone());
        sandbox.addresses.insert(format!("fe80::{last}").parse().unwrap(), network);
    }
    let own = ["192.0.2.1", "192.0.2.7", "2001:db8::1", "127.0.0.1", "fe80::1"].map(|address| address.parse().unwrap());
    world.nodes.get_mut("here").unwrap().addresses = own.into();
    world
}

fn asked(
    (world, policies, attachments): (&World, &[Policy], &[Attachment]),
    from: &str,
    to: &str,
    port: u16,
) -> Result<Vec<Explanation>, ExplainError> {
    let ground = Ground::of(Cow::Borrowed(world), policies, "here", attachments);
    let [from, to] = [from, to].map(|text| End::find(world, "here", text).unwrap());
    explain(&ground, (&from, &to), Traffic::to(Protocol::Tcp, port))
}

/// Whether it is, by which families, and by how many pairs.
fn said(all: &[Explanation]) -> Vec<(bool, String, usize)> {
    all.iter().map(|one| (one.allowed, families(&one.pairs).join(" "), one.pairs.len())).collect()
}

#[test]
fn every_pair_of_addresses_is_asked_and_those_that_agree_are_told_together() {
    let policies = netd_policy::parse("shop.yaml", CLOSED).unwrap();
    let world = dual();
    let ask = |policies: &[Policy], from, to, port| said(&asked((&world, policies, &[]), from, to, port).unwrap());
    let both = |allowed| vec![(allowed, "IPv4 IPv6".to_owned(), 2)];
    assert_eq!(ask(&policies, "shop/login", "cart", 80), both(true));
    assert_eq!(ask(&policies, "shop/login", "cart", 81), both(false));
    assert_eq!(ask(&policies, "outside", "cart", 80), both(false));
    assert_eq!(ask(&policies, "node", "cart", 81), both(true));
    assert_eq!(ask(&policies, "cart", "node", 22), vec![(true, "IPv4 IPv6".to_owned(), 3)], "not by 127.0.0.1");
    assert_eq!(ask(&policies, "other/login", "cart", 80), vec![(false, "IPv4".to_owned(), 1)]);
    // A block is of one family.
    let block = CLOSED.replace("{podSelector: {matchLabels: {app: login}}}", "{ipBlock: {cidr: 10.4.0.0/24}}");
    let policies = netd_policy::parse("shop.yaml", &block).unwrap();
    let each = [(true, "IPv4".to_owned(), 1), (false, "IPv6".to_owned(), 1)];
    assert_eq!(ask(&policies, "shop/login", "cart", 80), each);
    let links = block.replace("10.4.0.0/24", "fd00::/8");
    let policies = netd_policy::parse("shop.yaml", &links).unwrap();
    let each = [(false, "IPv4 IPv6 link-local".to_owned(), 2), (true, "IPv6".to_owned(), 1)];
    assert_eq!(ask(&policies, "shop/login", "cart", 80), each, "the link's makes a difference");
}

/// As it is on a bridge: the address of its MAC.
fn bridged(container: &str, netns: u64, network: &str) -> Attachment {
    let wanted = wanted(&WEB.replace("br0", network), container, netns);
    let Attached::New { attachment, .. } = OwnNode::new("nd").attach(wanted).unwrap() else { panic!() };
    *attachment
}

#[test]
fn neighbours_alone_meet_by_the_addresses_of_their_link() {
    let sandbox = |name: &str, address| {
        let name = SandboxName { namespace: "shop".to_owned(), name: name.to_owned() };
        let mut sandbox = world().sandboxes.into_values().next().unwrap();
        (sandbox.name, sandbox.addresses) = (name.clone(), BTreeMap::from([(address, "net".to_owned())]));
        (name, sandbox)
    };
    let [mut one, mut other] = [bridged("a", 1, "br0"), bridged("b", 2, "br0")];
    for (attachment, mac) in [(&mut one, [2, 0, 0, 0, 0, 1]), (&mut other, [2, 0, 0, 0, 0, 2])] {
        attachment.wiring.as_mut().unwrap().mac = Some(mac);
    }
    let [at, at_other] = [&one, &other].map(|one| one.link_local().unwrap());
    let world = World { sandboxes: [sandbox("one", at), sandbox("other", at_other)].into(), ..World::default() };
    let meet = |attachments: &[Attachment]| asked((&world, &[], attachments), "one", "other", 80);
    assert_eq!(said(&meet(&[one.clone(), other.clone()]).unwrap()), [(true, "IPv6 link-local".to_owned(), 1)]);
    other.wiring.as_mut().unwrap().bridge = Some(netd_config::LinkName::new("br1").unwrap());
    assert!(matches!(meet(&[one, other]), Err(ExplainError::Apart { .. })));
}

#[test]
fn a_published_port_is_followed_to_its_sandbox_and_judged_there_by_the_senders_own_address() {
    let policies = netd_policy::parse("shop.yaml", CLOSED).unwrap();
    let mut world = dual();
    let mut cart = attachment("cart", &[(8080, netd_config::Protocol::Tcp)]);
    cart.foreign = vec!["10.4.0.2".parse().unwrap()];
    let alone = PortMapping { host: 8081, host_ip: Some("192.0.2.7".parse().unwrap()), ..cart.ports[0].clone() };
    cart.ports.push(alone);
    let cart = [cart];
    let ask = |from, to, port| asked((&world, &policies, &cart), from, to, port).unwrap();
    for (from, allowed) in [("shop/login", true), ("outside", false), ("node", true), ("cart", true)] {
        let told = ask(from, "node", 8080);
        // By IPv6 netd itself passes it on.
        assert_eq!(said(&told), [(allowed, "IPv4 IPv6".to_owned(), 3)], "{from}: {told:?}");
        let published = "node here:8080 is published, leads to shop/cart:80";
        assert_eq!(told[0].published.as_deref(), Some(published), "{from}");
    }
    let outside = &ask("outside", "192.0.2.1", 8080)[0];
    assert_eq!(
        (outside.published.as_deref(), outside.to.as_str()),
        (Some("192.0.2.1:8080 is published, leads to shop/cart:80"), "192.0.2.1, tcp/8080")
    );
    assert!(
        outside.remedy.as_ref().unwrap().ends_with("from an ipBlock that has its address, port tcp/80"),
        "{outside:?}"
    );
    // One address of the node leads there, the others to the node itself.
    let told = ask("outside", "node", 8081);
    assert_eq!(said(&told), [(true, "IPv4 IPv6".to_owned(), 2), (false, "IPv4".to_owned(), 1)], "{told:?}");
    assert_eq!(ask("outside", "node", 22)[0].published, None);
    let (_, mut far) = world.sandboxes.first_key_value().map(|(name, one)| (name.clone(), one.clone())).unwrap();
    (far.name.name, far.known) = ("till@n2".to_owned(), Some(Known::default()));
    far.addresses = BTreeMap::from([("10.4.9.2".parse().unwrap(), String::new())]);
    world.sandboxes.insert(far.name.clone(), far);
    let error = asked((&world, &policies, &cart), "till@n2", "node", 8080).unwrap_err();
    assert!(matches!(error, ExplainError::ByItsNode { .. }), "{error}");
    assert!(asked((&world, &policies, &cart), "till@n2", "node", 22).is_ok());
}
