//! Policies among nodes, with the real binary, etcd and the real kernel: who is selected by labels on another node, what becomes
//! of it when labels, nodes and stores come and go, and whose an address is that is given again. Needs root.
#![expect(clippy::unwrap_used, reason = "helpers of tests stand outside of them")]

mod rig;

use std::fs;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use netd_api::blocking;
use rig::Space;
use rig::nodes::{Etcd, Member, NETWORK, Nodes, Sandbox, soon};
use rig::shop::{describe, echoes, open};

/// What comes about at once may take long on a busy machine.
const LONG: Duration = Duration::from_secs(30);

/// Soon over, in seconds, and not so soon that a machine that stands still for a moment ends it: whose lease is over is unknown,
/// and cut off.
const LEASE: u32 = 6;
/// Longer than that.
const BEYOND: Duration = Duration::from_secs(8);

/// Only who is `app=login` reaches `app=web`, at ports 80 and 7.
const FROM_LOGIN: &str = "apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: from-login, namespace: shop}
spec:
  podSelector: {matchLabels: {app: web}}
  ingress:
  - from: [{podSelector: {matchLabels: {app: login}}}]
    ports: [{port: 80}, {port: 7}]
";
/// And `app=web` reaches only that one.
const TO_LOGIN: &str = "apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: to-login, namespace: shop}
spec:
  podSelector: {matchLabels: {app: web}}
  policyTypes: [Egress]
  egress: [{to: [{podSelector: {matchLabels: {app: login}}}]}]
";

fn stored(lease: u32) -> String {
    let etcd = format!("etcd = {{ endpoints = ['{}'], lease_seconds = {lease} }}\n", Etcd::ENDPOINT);
    format!("pools = ['10.4.0.0/16', 'fd04::/48']\n{etcd}")
}

fn label(node: &Member, container: &str, app: &str) {
    describe(&node.client(), container, container, &[("app", app), ("nobody.asks", "secret")]);
}

fn obey(node: &Member, policies: &[&str]) {
    let folder = node.folder.path().join("policies");
    fs::create_dir_all(&folder).unwrap();
    let (draft, file) = (node.folder.path().join("draft"), folder.join("shop.yaml"));
    if policies.is_empty() {
        // There may be none yet.
        drop(fs::remove_file(file));
    } else {
        fs::write(&draft, policies.join("---\n")).unwrap();
        fs::rename(draft, file).unwrap();
    }
    let policies: Vec<String> = policies.iter().map(|text| (*text).to_owned()).collect();
    soon("in force", || {
        let listed = node.client().policies(&blocking::PoliciesRequest::new()).unwrap().policies;
        listed.into_iter().map(|policy| policy.text).collect::<Vec<_>>() == policies
    });
    // What is asked together with a change is answered before that is written.
    node.client().policies(&blocking::PoliciesRequest::new()).unwrap();
}

/// A shop with a container on each of three nodes: `web`, `login` and `other`. The first alone has policies.
struct Shop {
    nodes: Nodes,
    etcd: Etcd,
    web: Sandbox,
    login: Sandbox,
    other: Sandbox,
}

impl Shop {
    fn new(lease: u32, policies: &[&str]) -> Self {
        let mut nodes = Nodes::new(3);
        let etcd = nodes.etcd();
        nodes.start(&stored(lease));
        let made = |at: usize, name: &str| {
            let sandbox = nodes.all[at].attach(name);
            label(&nodes.all[at], name, name);
            [80, 81].into_iter().for_each(|port| sandbox.space.serve(port));
            sandbox.space.echo(7);
            sandbox
        };
        let (web, login, other) = (made(0, "web"), made(1, "login"), made(2, "other"));
        soon("the routes", || nodes.all.iter().all(|node| node.routes().matches(" via ").count() == 4));
        obey(&nodes.all[0], policies);
        let shop = Self { nodes, etcd, web, login, other };
        shop.knows(&["shop/login@n2", "shop/other@n3"]);
        shop
    }

    /// The first node knows these of others, and no more.
    #[track_caller]
    fn knows(&self, names: &[&str]) {
        soon(&format!("{names:?}"), || {
            let ends = self.nodes.all[0].client().reach(&blocking::ReachRequest::new()).unwrap().ends;
            ends.iter().filter(|end| end.contains('@')).eq(names)
        });
    }

    fn test(&self, from: &str, to: &str) -> blocking::TestPolicyResponse {
        let mut request = blocking::TestPolicyRequest::new();
        (request.from, request.to, request.protocol, request.port) = (from.to_owned(), to.to_owned(), 6, 80);
        self.nodes.all[0].client().test_policy(&request).unwrap()
    }
}

/// Over both families.
#[track_caller]
fn reaches(from: &Sandbox, to: &Sandbox, port: u16, expected: bool) {
    for (address, own) in [(format!("{}:{port}", to.v4), &from.v4), (format!("[{}]:{port}", to.v6), &from.v6)] {
        let heard = if expected { from.space.hears_in_the_end(&address) } else { from.space.hears(&address) };
        let is_so = if expected { heard.as_ref() == Ok(own) } else { heard.is_err() };
        assert!(is_so, "{} to {address}, which is to pass: {expected}; heard {heard:?}", from.v4);
    }
}

/// Once this node has heard who that is.
#[track_caller]
fn reaches_soon(from: &Sandbox, to: &Sandbox) {
    soon("it is heard of", || from.space.hears(&format!("{}:80", to.v4)).is_ok());
    reaches(from, to, 80, true);
}

#[test]
fn labels_on_another_node_let_pass_and_a_change_of_them_closes() {
    let shop = Shop::new(10, &[FROM_LOGIN, TO_LOGIN]);
    let Shop { nodes, web, login, other, .. } = &shop;
    reaches(login, web, 80, true);
    reaches(login, web, 81, false);
    reaches(other, web, 80, false);
    reaches(web, login, 81, true);
    reaches(web, other, 81, false);
    reaches(other, login, 81, true);
    // People are told both ends.
    let allowed = shop.test("login@n2", "web");
    assert!(allowed.allowed && allowed.from.starts_with("shop/login@n2 ("), "{allowed:?}");
    let denied = shop.test("other", "web");
    assert!(!denied.allowed && denied.remedy.contains("shop/other@n3"), "{denied:?}");
    let back = shop.test("web", "shop/login");
    assert!(back.allowed && back.reasons.iter().any(|one| one.rule.contains("node n2's to say")), "{back:?}");
    let matrix = nodes.all[0].client().reach(&blocking::ReachRequest::new()).unwrap();
    let name = |at: u32| matrix.ends[usize::try_from(at).unwrap()].as_str();
    let ways = matrix.pairs.iter().map(|pair| (name(pair.from), name(pair.to), pair.ports.as_str()));
    let ways: Vec<_> = ways.filter(|way| way.0.contains('@') || way.1.contains('@')).collect();
    let expected = [
        ("shop/login@n2", "shop/web", "tcp/7 tcp/80"),
        ("shop/other@n3", "shop/web", "none"),
        ("shop/web", "shop/login@n2", "all"),
        ("shop/web", "shop/other@n3", "none"),
    ];
    assert_eq!(ways.into_iter().collect::<std::collections::BTreeSet<_>>(), expected.into());
    soon("denied packets are told", || {
        let drops = nodes.all[0].client().drops(&blocking::DropsRequest::new()).unwrap().drops;
        drops.iter().any(|one| one.from.starts_with("shop/other@n3") && one.to.starts_with("shop/web"))
    });
    for node in &nodes.all {
        soon("all is well", || node.warnings().is_empty());
        assert_eq!(node.resync(true), Vec::<String>::new());
    }
    // Nobody is told what nobody asks for.
    let file = nodes.all[0].folder.path().join("run/others.json");
    soon("it is noted", || fs::read_to_string(&file).is_ok_and(|known| known.contains("login")));
    let known = fs::read_to_string(file).unwrap();
    assert!(!known.contains("secret") && !known.contains("nobody.asks"), "{known}");
    // Relabelled: what it has open is cut at once, and nothing new begins.
    let mut flow = open(&login.space, &format!("{}:7", web.v4));
    let begin = Instant::now();
    label(&nodes.all[1], "login", "guest");
    while echoes(&mut flow) {
        assert!(begin.elapsed() < LONG, "a flow goes on that is not allowed any more");
    }
    eprintln!("cut {:?} after the change on the other node", begin.elapsed());
    reaches(login, web, 80, false);
    label(&nodes.all[2], "other", "login");
    reaches_soon(other, web);
    // Without policies nobody asks, and nobody is told of.
    obey(&nodes.all[0], &[]);
    shop.knows(&[]);
}

#[test]
fn what_is_known_outlives_the_store_and_goes_with_its_node() {
    let mut shop = Shop::new(LEASE, &[FROM_LOGIN]);
    let mut flow = open(&shop.login.space, &format!("{}:7", shop.web.v4));
    shop.etcd.kill();
    soon("it is told", || shop.nodes.all[0].warnings().iter().any(|text| text.contains("the store does not answer")));
    std::thread::sleep(BEYOND);
    let holds = |shop: &Shop| {
        reaches(&shop.login, &shop.web, 80, true);
        reaches(&shop.other, &shop.web, 80, false);
    };
    holds(&shop);
    // Also when netd is another.
    shop.nodes.all[0].kill();
    shop.nodes.all[0].start();
    holds(&shop);
    assert!(echoes(&mut flow), "an allowed flow was cut");
    // Nobody knows of whoever comes now.
    let late = shop.nodes.all[2].attach("late");
    label(&shop.nodes.all[2], "late", "login");
    reaches(&late, &shop.web, 80, false);
    let Nodes { underlay, .. } = &shop.nodes;
    shop.etcd.start(underlay);
    shop.knows(&["shop/late@n3", "shop/login@n2", "shop/other@n3"]);
    reaches(&late, &shop.web, 80, true);
    holds(&shop);
    assert!(echoes(&mut flow), "an allowed flow was cut");
    // A node that is gone has no sandboxes, and has them again.
    shop.nodes.all[1].kill();
    shop.knows(&["shop/late@n3", "shop/other@n3"]);
    shop.nodes.all[1].start();
    shop.knows(&["shop/late@n3", "shop/login@n2", "shop/other@n3"]);
    holds(&shop);
    reaches(&late, &shop.web, 80, true);
}

#[test]
fn what_is_known_is_kept_for_the_next_netd_as_soon_as_it_can_be_written() {
    let shop = Shop::new(10, &[FROM_LOGIN]);
    let file = shop.nodes.all[0].folder.path().join("run/others.json");
    // Nothing takes the place of a directory.
    soon("a directory", || fs::remove_file(&file).and_then(|()| fs::create_dir(&file)).is_ok());
    label(&shop.nodes.all[1], "login", "guest");
    soon("it is heard of", || shop.login.space.hears(&format!("{}:80", shop.web.v4)).is_err());
    std::thread::sleep(Duration::from_millis(300));
    fs::remove_dir(&file).unwrap();
    soon("it is kept", || fs::read_to_string(&file).is_ok_and(|text| text.contains("guest")));
}

fn signal(node: &Member, signal: &str) {
    let pid = node.pid().to_string();
    assert!(std::process::Command::new("kill").args([signal, &pid]).status().unwrap().success());
}

/// The link of the one before may still be about to be deleted.
fn ask(node: &Member, container: &str, address: &str) -> Result<Sandbox, blocking::Failure> {
    let begin = Instant::now();
    loop {
        match node.attach_to(NETWORK, container, address) {
            Err(failure) if failure.message.contains("it is held by") && begin.elapsed() < LONG => {
                std::thread::sleep(Duration::from_millis(20));
            }
            other => return other,
        }
    }
}

/// The first node is held where it knows the old one; nobody gets the address while it might let him pass.
#[test]
fn an_address_is_nobody_elses_while_any_node_takes_it_for_the_old_ones() {
    let mut shop = Shop::new(20, &[FROM_LOGIN]);
    let (first, second) = (&shop.nodes.all[0], &shop.nodes.all[1]);
    let address = shop.login.v4.clone();
    let asked = format!("IP={address}");
    signal(first, "-STOP");
    second.detach("login");
    let failure = ask(second, "heir", &asked).map(|sandbox| sandbox.v4).unwrap_err();
    assert!(failure.message.contains("other nodes may still take it for container login's"), "{failure:?}");
    assert_eq!(netd_api::cni_code(failure.code.enum_value().unwrap()), 11);
    // Its own container has it again.
    let again = second.attach_to(NETWORK, "login", &asked).unwrap();
    assert_eq!(again.v4, address);
    second.detach("login");
    signal(first, "-CONT");
    let begin = Instant::now();
    let heir = ask(second, "heir", &asked).unwrap();
    eprintln!("the address is another's after {:?}", begin.elapsed());
    assert_eq!(heir.v4, address);
    reaches(&heir, &shop.web, 80, false);
    label(second, "heir", "other");
    reaches(&heir, &shop.web, 80, false);
    label(second, "heir", "login");
    reaches_soon(&heir, &shop.web);
    // Without the store nobody can be told; another netd knows that, too.
    shop.etcd.kill();
    soon("it is told", || second.warnings().iter().any(|text| text.contains("the store does not answer")));
    second.detach("heir");
    shop.nodes.all[1].kill();
    shop.nodes.all[1].start();
    let second = &shop.nodes.all[1];
    let failure = ask(second, "third", &asked).map(|sandbox| sandbox.v4).unwrap_err();
    assert!(failure.message.contains("container heir's"), "{failure:?}");
    let third = second.attach("third");
    assert_ne!(third.v4, address);
    reaches(&third, &shop.web, 80, false);
}

/// Tries to connect on and on, until it is over; how often that worked.
fn knock(from: &Sandbox, to: &Sandbox, over: &Arc<AtomicBool>) -> std::thread::JoinHandle<usize> {
    let (address, over) = (format!("{}:80", to.v4).parse().unwrap(), Arc::clone(over));
    from.space.run(move || {
        std::thread::spawn(move || {
            let mut count = 0;
            while !over.load(Ordering::Relaxed) {
                count += usize::from(TcpStream::connect_timeout(&address, Duration::from_millis(50)).is_ok());
                std::thread::sleep(Duration::from_millis(2));
            }
            count
        })
    })
}

/// Its kernel still holds what it knew when it went, and the store has lost what it needs.
#[test]
fn a_node_that_was_away_takes_nobody_for_the_one_before_and_cuts_nobody() {
    let mut shop = Shop::new(LEASE, &[FROM_LOGIN]);
    let cousin = shop.nodes.all[2].attach("cousin");
    label(&shop.nodes.all[2], "cousin", "login");
    reaches_soon(&cousin, &shop.web);
    let mut flow = open(&cousin.space, &format!("{}:7", shop.web.v4));
    // What holds is noted a moment later; a netd that dies in between leaves an older note.
    let file = shop.nodes.all[0].folder.path().join("run/others.json");
    soon("it is noted", || fs::read_to_string(&file).is_ok_and(|known| known.contains("cousin")));
    shop.nodes.all[0].kill();
    let routes =
        |shop: &Shop, count| shop.nodes.all[1..].iter().all(|node| node.routes().matches(" via ").count() == count);
    soon("it is gone", || routes(&shop, 2));
    let second = &shop.nodes.all[1];
    second.detach("login");
    let heir = ask(second, "heir", &format!("IP={}", shop.login.v4)).unwrap();
    label(second, "heir", "other");
    let over = Arc::new(AtomicBool::new(false));
    let knocking = knock(&heir, &shop.web, &over);
    shop.nodes.all[0].start();
    soon("it is back", || routes(&shop, 4));
    shop.knows(&["shop/cousin@n3", "shop/heir@n2", "shop/other@n3"]);
    over.store(true, Ordering::Relaxed);
    let taken = knocking.join().unwrap();
    assert_eq!(
        (taken, echoes(&mut flow)),
        (0, true),
        "taken for the one who had its address before; and a flow that is allowed"
    );
    label(&shop.nodes.all[1], "heir", "login");
    reaches_soon(&heir, &shop.web);
}

/// These nodes do not reach the store, and the others do.
fn cut_off(underlay: &Space, nodes: &[usize]) {
    for line in [
        "nft add table inet cut",
        "nft add chain inet cut in { type filter hook input priority 0 ; }",
        "nft flush chain inet cut in",
    ] {
        underlay.command(line);
    }
    for node in nodes {
        underlay.command(&format!("nft add rule inet cut in ip saddr 192.0.2.{node} tcp dport 2379 drop"));
    }
}

#[test]
fn who_is_back_first_keeps_what_those_told_who_come_later() {
    // Within one lease of its coming back, the first one shows what it kept.
    const LEASE: u32 = 8;
    let shop = Shop::new(LEASE, &[FROM_LOGIN]);
    let Shop { nodes, web, login, other, .. } = &shop;
    let mut flow = open(&login.space, &format!("{}:7", web.v4));
    cut_off(&nodes.underlay, &[1, 2, 3]);
    // All leases end.
    std::thread::sleep(Duration::from_secs(2 * u64::from(LEASE)));
    cut_off(&nodes.underlay, &[2, 3]);
    soon("it is back", || nodes.all[0].warnings().is_empty());
    let over = Arc::new(AtomicBool::new(false));
    let knocking = knock(other, web, &over);
    std::thread::sleep(Duration::from_millis(500));
    assert!(echoes(&mut flow), "an allowed flow was cut");
    reaches(login, web, 80, true);
    cut_off(&nodes.underlay, &[]);
    soon("they are back", || nodes.all[1..].iter().all(|node| node.warnings().is_empty()));
    // Until who has not come is given up, and longer.
    std::thread::sleep(Duration::from_secs(2 * u64::from(LEASE)));
    shop.knows(&["shop/login@n2", "shop/other@n3"]);
    assert!(echoes(&mut flow), "an allowed flow was cut");
    over.store(true, Ordering::Relaxed);
    assert_eq!(knocking.join().unwrap(), 0);
    // Whoever is never back is given up, and whoever goes is forgotten.
    nodes.all[1].detach("login");
    let heir = ask(&nodes.all[1], "heir", &format!("IP={}", login.v4)).unwrap();
    reaches(&heir, web, 80, false);
}

/// It may let pass whom it has not forgotten.
#[test]
fn a_node_that_is_there_and_does_not_forget_is_waited_for_and_named() {
    let shop = Shop::new(LEASE, &[FROM_LOGIN]);
    let (first, second) = (&shop.nodes.all[0], &shop.nodes.all[1]);
    // What it keeps for the next netd cannot be written: nothing takes the place of a directory.
    let file = first.folder.path().join("run/others.json");
    soon("a directory", || fs::remove_file(&file).and_then(|()| fs::create_dir(&file)).is_ok());
    second.detach("login");
    let says = |node: &Member, text: &str| node.warnings().iter().any(|warning| warning.contains(text));
    soon("it says so", || says(first, "does not hold here (cannot write"));
    soon("it is named", || says(second, "node n1 does not say that it has forgotten"));
    // As long as a node is waited for that comes late, and longer.
    std::thread::sleep(2 * BEYOND);
    let asked = format!("IP={}", shop.login.v4);
    let failure = ask(second, "heir", &asked).map(|sandbox| sandbox.v4).unwrap_err();
    assert!(failure.message.contains("other nodes may still take it for container login's"), "{failure:?}");
    fs::remove_dir(&file).unwrap();
    soon("nobody is named", || first.warnings().is_empty() && second.warnings().is_empty());
    assert_eq!(ask(second, "heir", &asked).unwrap().v4, shop.login.v4);
}

/// Where a list says who the nodes are, nobody tells labels, and that is said.
#[test]
fn a_list_tells_no_labels_and_ip_blocks_hold() {
    let mut nodes = Nodes::new(2);
    let node = |number: u32| {
        format!(
            "n{number} = {{ address = '192.0.2.{number}', blocks = ['10.4.{number}.0/24', 'fd04:0:0:{number}::/64'] }}\n"
        )
    };
    nodes.start(&format!("pools = ['10.4.0.0/16', 'fd04::/48']\n[fleet.nodes]\n{}{}", node(1), node(2)));
    let (web, login) = (nodes.all[0].attach("web"), nodes.all[1].attach("login"));
    web.space.serve(80);
    label(&nodes.all[0], "web", "web");
    label(&nodes.all[1], "login", "login");
    obey(&nodes.all[0], &[FROM_LOGIN]);
    reaches(&login, &web, 80, false);
    soon("it is said", || nodes.all[0].warnings().iter().any(|text| text.contains("matched by ipBlock alone")));
    let block = "{ipBlock: {cidr: 10.4.2.0/24}}, {ipBlock: {cidr: 'fd04:0:0:2::/64'}}";
    obey(&nodes.all[0], &[&FROM_LOGIN.replace("{podSelector: {matchLabels: {app: login}}}", block)]);
    reaches(&login, &web, 80, true);
    soon("it is not said", || nodes.all[0].warnings().is_empty());
}
