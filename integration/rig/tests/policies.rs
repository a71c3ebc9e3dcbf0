//! The recipes for policies that Kubernetes users know, among pods, compose services and containers on one bridge; and what
//! netdctl says of them. Needs root.
#![expect(clippy::unwrap_used, reason = "helpers of tests stand outside of them")]

mod cast;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use cast::{Cast, EVERYBODY, NOBODY};
use netd_rig::{Answer, Place, Protocol, ask, parts};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(60);

/// Only `login` reaches `cart`.
const FROM_LOGIN: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: from-login, namespace: shop}
spec:
  podSelector: {matchLabels: {app: cart}}
  ingress:
  - from:
    - podSelector: {matchLabels: {app: login}}
";

#[test]
fn a_recipe_means_among_containers_what_it_means_in_kubernetes() {
    let cast = Cast::new();
    let recipes = [
        deny_all,
        allow_from_one_app,
        allow_a_whole_namespace,
        allow_the_same_namespace,
        deny_between_two_namespaces,
        egress_to_dns_only,
        egress_to_a_part_of_the_outside,
        a_port_by_its_name,
        of_compose_services_web_reaches_db,
        a_pod_and_a_container_on_one_bridge,
    ];
    for recipe in recipes {
        recipe(&cast);
        // Without it, all is as it was.
        cast.reached(&[("cart:80", EVERYBODY), ("db:80", EVERYBODY), ("dns:53/udp", EVERYBODY)]);
    }
}

fn deny_all(cast: &Cast) {
    let policy = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: deny-all, namespace: shop}
spec:
  podSelector: {}
  policyTypes: [Ingress, Egress]
";
    cast.under(
        policy,
        &[
            ("cart:80", NOBODY),
            ("login:80", NOBODY),
            ("db:80", &["audit", "dns", "web"]),
            ("outside:80", &["audit", "dns", "web", "db"]),
        ],
    );
}

fn allow_from_one_app(cast: &Cast) {
    cast.under(FROM_LOGIN, &[("cart:80", &["login"]), ("login:80", EVERYBODY), ("db:80", EVERYBODY)]);
}

fn allow_a_whole_namespace(cast: &Cast) {
    let policy = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: from-the-office, namespace: shop}
spec:
  podSelector: {matchLabels: {app: cart}}
  ingress:
  - from:
    - namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: office}}
";
    cast.under(policy, &[("cart:80", &["audit"]), ("login:80", EVERYBODY)]);
}

fn allow_the_same_namespace(cast: &Cast) {
    let policy = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: among-ourselves, namespace: shop}
spec:
  podSelector: {}
  ingress:
  - from:
    - podSelector: {}
";
    cast.under(policy, &[("cart:80", &["login"]), ("login:80", &["cart"]), ("audit:80", EVERYBODY)]);
}

fn deny_between_two_namespaces(cast: &Cast) {
    let policy = "
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: shop-and-office}
spec:
  tier: Admin
  priority: 10
  subject: {namespaces: {matchLabels: {kubernetes.io/metadata.name: shop}}}
  ingress:
  - {action: Deny, from: [{namespaces: {matchLabels: {kubernetes.io/metadata.name: office}}}]}
  egress:
  - {action: Deny, to: [{namespaces: {matchLabels: {kubernetes.io/metadata.name: office}}}]}
";
    cast.under(
        policy,
        &[("cart:80", &["login", "dns", "web", "db"]), ("audit:80", &["dns", "web", "db"]), ("db:80", EVERYBODY)],
    );
}

fn egress_to_dns_only(cast: &Cast) {
    let policy = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: dns-only, namespace: shop}
spec:
  podSelector: {matchLabels: {app: cart}}
  policyTypes: [Egress]
  egress:
  - to:
    - namespaceSelector: {}
      podSelector: {matchLabels: {k8s-app: kube-dns}}
    ports: [{port: 53, protocol: UDP}]
";
    cast.under(
        policy,
        &[
            ("dns:53/udp", EVERYBODY),
            ("dns:53", &["login", "audit", "web", "db"]),
            ("db:80", &["login", "audit", "dns", "web"]),
            ("outside:80", &["login", "audit", "dns", "web", "db"]),
            ("cart:80", EVERYBODY),
        ],
    );
}

fn egress_to_a_part_of_the_outside(cast: &Cast) {
    let policy = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: to-a-part, namespace: default}
spec:
  podSelector: {matchLabels: {com.docker.compose.service: web}}
  policyTypes: [Egress]
  egress:
  - to:
    - ipBlock: {cidr: 198.51.100.0/24, except: [198.51.100.64/26]}
";
    cast.under(
        policy,
        &[
            ("partner:80", EVERYBODY),
            ("outside:80", &["login", "cart", "audit", "dns", "db"]),
            ("db:80", &["login", "cart", "audit", "dns"]),
        ],
    );
}

/// `cart` has the label `netd/port.http=8080`.
fn a_port_by_its_name(cast: &Cast) {
    let policy = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: http, namespace: shop}
spec:
  podSelector: {matchLabels: {app: cart}}
  ingress:
  - from:
    - namespaceSelector: {}
    ports: [{port: http}]
";
    cast.under(policy, &[("cart:8080", EVERYBODY), ("cart:80", NOBODY)]);
}

fn of_compose_services_web_reaches_db(cast: &Cast) {
    let policy = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web-to-db, namespace: default}
spec:
  podSelector:
    matchLabels: {com.docker.compose.project: blog, com.docker.compose.service: db}
  ingress:
  - from:
    - podSelector:
        matchLabels: {com.docker.compose.project: blog, com.docker.compose.service: web}
    ports: [{port: 80}]
";
    cast.under(policy, &[("db:80", &["web"]), ("db:8080", NOBODY), ("web:80", EVERYBODY), ("cart:80", EVERYBODY)]);
}

fn a_pod_and_a_container_on_one_bridge(cast: &Cast) {
    let policies = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: db-from-login, namespace: default}
spec:
  podSelector: {matchLabels: {com.docker.compose.service: db}}
  ingress:
  - from:
    - namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: shop}}
      podSelector: {matchLabels: {app: login}}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: cart-from-web, namespace: shop}
spec:
  podSelector: {matchLabels: {app: cart}}
  ingress:
  - from:
    - namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: default}}
      podSelector: {matchLabels: {netd/name: web}}
";
    cast.under(policies, &[("db:80", &["login"]), ("cart:80", &["web"]), ("web:80", EVERYBODY)]);
}

#[test]
fn a_denied_packet_is_told_within_a_second_and_all_that_is_asked_agrees_with_it() {
    let cast = Cast::new();
    cast.apply(FROM_LOGIN);
    let told = Follower::start(&cast);
    let cart = cast.actor("cart").address;
    for (name, is_allowed) in [("login", true), ("audit", false), ("db", false), ("node", true)] {
        let before = counted(&cast);
        let place = if name == "node" { &cast.bed.node.place } else { &cast.actor(name).place };
        let is_heard = matches!(ask(place, Protocol::Tcp, (cart, 80).into()).unwrap(), Answer::Said(_));
        let verdict = verdict(&cast, name, "cart:80");
        assert_eq!((is_heard, verdict["allowed"].as_bool()), (is_allowed, Some(is_allowed)), "{name}: {verdict}");
        let after = counted(&cast);
        if is_allowed {
            // The node is judged by nobody.
            let connections = u64::from(name != "node");
            assert_eq!((after.0 - before.0, after.1 - before.1), (connections, 0), "{name}");
            continue;
        }
        assert_eq!((after.0 - before.0, after.1 - before.1), (0, 1), "{name}");
        let line = told.lines.recv_timeout(PATIENCE).unwrap();
        let reason = verdict["reasons"].as_array().unwrap().iter().find(|reason| reason["allowed"] == false).unwrap();
        let said = ["from", "to", "rule", "place"].map(|key| {
            let whole = if key == "from" || key == "to" { &verdict[key] } else { &reason[key] };
            whole.as_str().unwrap().to_owned()
        });
        assert!(line.contains(" tcp 80 from ") && line.contains("from-login"), "{line}");
        assert!(line.contains(&said[0]) && line.contains(&said[2]) && line.contains(&said[3]), "{line} {said:?}");
        assert!(line.contains("to shop/cart "), "{line}");
    }
    assert!(told.lines.try_recv().is_err(), "told of what was not denied");
    // A busy machine may let something else be slow once.
    let is_told_in_time = || {
        let answer = ask(&cast.actor("audit").place, Protocol::Tcp, (cart, 80).into()).unwrap();
        let denied = Instant::now();
        assert!(!matches!(answer, Answer::Said(_)), "{answer:?}");
        told.lines.recv_timeout(PATIENCE).unwrap();
        denied.elapsed() < Duration::from_secs(1)
    };
    assert!((0..5).any(|_| is_told_in_time()), "each of five took longer");
}

/// What `netdctl policy test` answers. A denied way is its exit status 1.
fn verdict(cast: &Cast, from: &str, to: &str) -> Value {
    let mut netdctl = Command::new(parts::ours().unwrap().join("netdctl"));
    let output = cast.bed.node.place.outcome(netdctl.args(["-o", "json", "policy", "test", from, to]), "").unwrap();
    let verdict: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(output.status.success(), verdict["allowed"].as_bool().unwrap(), "{verdict}");
    verdict
}

/// Connections that `from-login` allowed, and packets that it denied.
fn counted(cast: &Cast) -> (u64, u64) {
    let policies: Value = serde_json::from_str(&cast.netdctl(&["-o", "json", "policy", "ls"])).unwrap();
    let policy = &policies["policies"][0];
    assert_eq!(policy["name"], "from-login");
    (policy["allowed"].as_u64().unwrap(), policy["denied"].as_u64().unwrap())
}

/// `netdctl drops --follow`, line by line.
struct Follower {
    child: Child,
    lines: Receiver<String>,
}

impl Follower {
    fn start(cast: &Cast) -> Self {
        let mut netdctl = Command::new(parts::ours().unwrap().join("netdctl"));
        netdctl.args(["drops", "--follow"]).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = cast.bed.node.place.spawn(&mut netdctl).unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = channel();
        thread::spawn(move || output.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Self { child, lines }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.child.kill().and_then(|()| self.child.wait()).unwrap();
    }
}

/// Of this kernel, whose tables have owners. What an older one leaves open, and for how long, is for the guest to show.
#[test]
fn somebody_elses_flush_of_the_ruleset_opens_nothing_and_cuts_nothing() {
    const FLUSHES: usize = 30;
    let cast = Cast::new();
    cast.apply(FROM_LOGIN);
    let cart = cast.actor("cart");
    let nft = |arguments: &str| cast.bed.node.output(Command::new("nft").args(arguments.split(' '))).unwrap();
    let mut kept = echoed(&cart.place, &cast.actor("login").place, (cart.address, 7).into());
    let is_over = AtomicBool::new(false);
    let denied = &cast.actor("audit").place;
    let (opened, tried) = thread::scope(|scope| {
        let trying = scope.spawn(|| attempts(denied, (cart.address, 80).into(), &is_over));
        for _ in 0..FLUSHES {
            nft("add table inet somebody");
            nft("flush ruleset");
            assert!(!nft("list tables").contains("somebody"), "nothing was flushed");
            echo(&mut kept);
        }
        is_over.store(true, Ordering::Relaxed);
        trying.join().unwrap()
    });
    assert_eq!(opened, 0, "of {tried} attempts");
    assert!(tried > FLUSHES, "only {tried} attempts during {FLUSHES} flushes");
    cast.reached(&[("cart:80", &["login"]), ("db:80", EVERYBODY)]);
}

/// How many of all attempts to connect were let in, until it is over.
fn attempts(place: &Place, to: SocketAddr, is_over: &AtomicBool) -> (usize, usize) {
    let run = || {
        let (mut opened, mut tried) = (0, 0);
        while !is_over.load(Ordering::Relaxed) {
            opened += usize::from(TcpStream::connect_timeout(&to, Duration::from_secs(1)).is_ok());
            tried += 1;
        }
        (opened, tried)
    };
    place.run(run).unwrap()
}

/// A connection from `asker` to an echo at `at`, which lies in `server`.
fn echoed(server: &Place, asker: &Place, at: SocketAddr) -> TcpStream {
    let listener = server.run(|| TcpListener::bind(at).unwrap()).unwrap();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut octet = [0];
        while stream.read_exact(&mut octet).and_then(|()| stream.write_all(&octet)).is_ok() {}
    });
    let stream = asker.run(|| TcpStream::connect(at).unwrap()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream
}

fn echo(stream: &mut TcpStream) {
    stream.write_all(b"x").unwrap();
    stream.read_exact(&mut [0]).unwrap();
}
