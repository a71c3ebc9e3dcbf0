//! What one change costs, and that numbers stay. That it ends where a fresh start would is `agreement.rs`.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test program")]

use std::net::IpAddr;

use netd_policy::{
    Answer, Block, Change, Compiled, Compiler, Entry, Flow, Hook, Known, NamedPort, Policy, Profile, Protocol, Sandbox,
    SandboxName, Traffic, World, parse,
};

const EGRESS_BY_NAME: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: names, namespace: shop}
spec:
  podSelector: {matchLabels: {app: web}}
  policyTypes: [Egress]
  egress: [{ports: [{port: http}]}]
";
const DATABASE: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: db, namespace: shop}
spec:
  podSelector: {matchLabels: {app: db}}
  ingress: [{from: [{podSelector: {matchLabels: {app: api}}}], ports: [{port: 5432}]}]
";
const UNRELATED: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: a-first, namespace: lab}
spec:
  podSelector: {matchLabels: {app: web}}
  ingress: [{from: [{podSelector: {}}], ports: [{port: 80}]}]
";

fn policies(texts: &[&str]) -> Vec<Policy> {
    texts.iter().flat_map(|text| parse("p.yaml", text).unwrap()).collect()
}

fn sandbox(namespace: &str, app: &str, last: u8) -> Sandbox {
    Sandbox {
        name: SandboxName { namespace: namespace.to_owned(), name: format!("s{last}") },
        labels: [("app".to_owned(), app.to_owned())].into(),
        namespace_labels: [].into(),
        addresses: [(address(last), "blue".to_owned())].into(),
        ports: [].into(),
        node: "n1".to_owned(),
        known: None,
    }
}

fn address(last: u8) -> IpAddr {
    IpAddr::from([10, 4, 0, last])
}

fn compiler(texts: &[&str], sandboxes: Vec<Sandbox>) -> Compiler {
    let mut compiler = Compiler::new("n1");
    let sandboxes = sandboxes.into_iter().map(|sandbox| (sandbox.name.clone(), sandbox)).collect();
    compiler.load(policies(texts), World { sandboxes, ..World::default() });
    compiler
}

fn passes(compiler: &Compiler, from: u8, to: u8, port: u16) -> bool {
    let flow = Flow { from: address(from), to: address(to), traffic: Traffic::to(Protocol::Tcp, port) };
    compiler.compiled().interpret(Hook::Forward, flow).allowed()
}

#[test]
fn a_named_port_that_comes_later_is_found() {
    let mut compiler = compiler(&[EGRESS_BY_NAME], vec![sandbox("shop", "web", 1), sandbox("shop", "api", 2)]);
    assert!(!passes(&compiler, 1, 2, 8080));
    for number in [8080, 8081] {
        let ports = [NamedPort { name: "http".to_owned(), protocol: Protocol::Tcp, number }].into();
        compiler.update(Change::Sandbox(Sandbox { ports, ..sandbox("shop", "api", 2) }));
        assert!(passes(&compiler, 1, 2, number));
        assert!(!passes(&compiler, 1, 2, number + 1));
    }
}

#[test]
fn a_sandbox_like_another_costs_its_own_elements_only() {
    let first = vec![sandbox("shop", "db", 1), sandbox("shop", "api", 2)];
    let mut compiler = compiler(&[DATABASE], first);
    let peer = compiler.update(Change::Sandbox(sandbox("shop", "api", 3)));
    assert_eq!((peer.classes.len(), peer.len()), (1, 1));
    let subject = compiler.update(Change::Sandbox(sandbox("shop", "db", 4)));
    assert_eq!((subject.classes.len(), subject.ingress.len(), subject.itself.len(), subject.len()), (1, 1, 1, 3));
    let stranger = compiler.update(Change::Sandbox(sandbox("lab", "api", 5)));
    assert!(stranger.is_empty());
    let again = compiler.update(Change::Sandbox(sandbox("shop", "db", 4)));
    assert!(again.is_empty());
}

#[test]
fn another_policy_leaves_the_numbers_of_others_alone() {
    let sandboxes = vec![sandbox("shop", "db", 1), sandbox("shop", "api", 2), sandbox("lab", "web", 3)];
    let mut compiler = compiler(&[DATABASE], sandboxes);
    let before = compiler.compiled().clone();
    let delta = compiler.update(Change::Policies(policies(&[UNRELATED, DATABASE])));
    let after = compiler.compiled();
    for last in [1, 2] {
        assert_eq!(before.class(address(last)), after.class(address(last)));
    }
    assert!(before.profiles.iter().all(|(id, profile)| after.profiles.get(id) == Some(profile)));
    assert!(delta.classes.removed.is_empty() && delta.pairs_in.removed.is_empty() && delta.profiles.removed.is_empty());
    assert_eq!(delta.classes.set.keys().collect::<Vec<_>>(), [&address(3)]);
    let back = compiler.update(Change::Policies(policies(&[DATABASE])));
    assert!(back.classes.set.is_empty() && back.profiles.set.is_empty());
}

/// A packet may have been looked up by the old class and not yet by the pair.
#[test]
fn a_class_that_falls_apart_leaves_its_number_to_nobody() {
    let both = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: both, namespace: shop}
spec: {podSelector: {matchLabels: {app: web}}, ingress: [{ports: [{port: 80}]}]}
";
    let tier = |name: &str, port: u16| {
        format!(
            "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {{name: {name}, namespace: shop}}
spec: {{podSelector: {{matchLabels: {{tier: {name}}}}}, ingress: [{{ports: [{{port: {port}}}]}}]}}
"
        )
    };
    let of_tier = |last: u8, tier: &str| {
        let mut sandbox = sandbox("shop", "web", last);
        sandbox.labels.insert("tier".to_owned(), tier.to_owned());
        sandbox
    };
    let mut compiler = compiler(&[both], vec![of_tier(1, "front"), of_tier(2, "back")]);
    let classes = |compiler: &Compiler| [1, 2].map(|last| compiler.compiled().class(address(last)));
    let [one, other] = classes(&compiler);
    assert_eq!(one, other);
    compiler.update(Change::Policies(policies(&[&tier("front", 80), &tier("back", 81)])));
    let [front, back] = classes(&compiler);
    assert!(front != back && front != one && back != one, "{one:?} {front:?} {back:?}");
    // Whom nothing tells apart, both keep theirs.
    compiler.update(Change::Policies(policies(&[&tier("front", 82), &tier("back", 83)])));
    assert_eq!(classes(&compiler), [front, back]);
}

#[test]
fn a_number_that_is_free_is_not_given_to_others() {
    let mut compiler = compiler(&[DATABASE], vec![sandbox("shop", "db", 1), sandbox("shop", "api", 2)]);
    let (class, gone) = (compiler.compiled().class(address(2)), sandbox("shop", "api", 2).name);
    compiler.update(Change::Gone(gone));
    compiler.update(Change::Sandbox(sandbox("shop", "api", 3)));
    assert!(compiler.compiled().class(address(3)) > class);
}

/// As netd reads it from the kernel, where nobody says who decides.
fn read_back(compiler: &Compiler) -> Compiled {
    let mut compiled = compiler.compiled().clone();
    let unsaid = |entry: &Entry| Entry { answer: Answer { by: None, ..entry.answer }, ..*entry };
    let bare = |profile: &Profile| Profile(profile.0.iter().map(unsaid).collect());
    compiled.profiles = compiled.profiles.iter().map(|(id, profile)| (*id, bare(profile))).collect();
    compiled
}

#[test]
fn a_new_compiler_goes_on_with_the_numbers_that_stand() {
    let sandboxes = || vec![sandbox("shop", "db", 1), sandbox("shop", "api", 2), sandbox("lab", "web", 3)];
    let mut old = compiler(&[DATABASE, UNRELATED], sandboxes());
    for texts in [&[][..], &[UNRELATED], &[DATABASE, UNRELATED]] {
        old.update(Change::Policies(policies(texts)));
    }
    let go_on = |old: &Compiler, texts: &[&str]| {
        let mut next = Compiler::new("n1");
        sandboxes().into_iter().for_each(|sandbox| drop(next.update(Change::Sandbox(sandbox))));
        next.go_on_from(read_back(old));
        next.update(Change::Policies(policies(texts)));
        next
    };
    let next = go_on(&old, &[DATABASE, UNRELATED]);
    let (stood, stands) = (old.compiled(), next.compiled());
    assert_eq!(*stood.classes, *stands.classes);
    assert_eq!((&*stood.pairs_in, &*stood.any_in), (&*stands.pairs_in, &*stands.any_in));
    let fresh = compiler(&[DATABASE, UNRELATED], sandboxes());
    assert_ne!(*stood.classes, *fresh.compiled().classes, "numbers by chance");
    // What is other gets numbers that nothing had.
    let changed = DATABASE.replace("5432", "5433");
    let other = go_on(&old, &[&changed, UNRELATED]);
    assert_eq!(*other.compiled().classes, *stood.classes);
    let last = stood.profiles.keys().max().unwrap();
    let new = other.compiled().profiles.keys().filter(|id| !stood.profiles.contains_key(id));
    assert_eq!(new.map(|id| id > last).collect::<Vec<_>>(), [true]);
    assert!(passes(&other, 2, 1, 5433) && !passes(&other, 2, 1, 5432) && !passes(&other, 3, 1, 5433));
}

const FROM_A_BLOCK: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: db, namespace: shop}
spec:
  podSelector: {matchLabels: {app: db}}
  ingress: [{from: [{ipBlock: {cidr: 10.4.0.0/24}}], ports: [{port: 80}]}]
";
const BUT_TESTS: &str = "
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: tests}
spec:
  tier: Admin
  priority: 1
  subject: {pods: {namespaceSelector: {}, podSelector: {matchLabels: {app: db}}}}
  ingress: [{action: Deny, from: [{pods: {namespaceSelector: {}, podSelector: {matchLabels: {app: test}}}}]}]
";

/// Who has no element of his own is looked up by his block's class. Where he is somebody else after a restart, no packet of his
/// that was looked up before is judged as one of the block is now.
#[test]
fn a_new_compiler_keeps_no_number_by_which_somebody_else_was_looked_up() {
    let sandboxes = || vec![sandbox("shop", "db", 1), sandbox("shop", "test", 2)];
    let old = compiler(&[FROM_A_BLOCK], sandboxes());
    let class = old.compiled().class(address(2));
    assert_eq!((class, old.compiled().classes.get(&address(2))), (old.compiled().class(address(9)), None));
    let changed = FROM_A_BLOCK.replace("port: 80", "port: 81");
    for (texts, is_kept) in [(&[FROM_A_BLOCK][..], true), (&[&changed], true), (&[&changed, BUT_TESTS], false)] {
        let mut next = Compiler::new("n1");
        sandboxes().into_iter().for_each(|sandbox| drop(next.update(Change::Sandbox(sandbox))));
        next.go_on_from(read_back(&old));
        next.update(Change::Policies(policies(texts)));
        assert_eq!(next.compiled().class(address(9)) == class, is_kept, "{texts:?}");
        assert_ne!(next.compiled().class(address(2)) == class, !is_kept);
        assert_eq!(passes(&next, 2, 1, 81), texts.len() == 1 && texts[0] != FROM_A_BLOCK);
    }
}

#[test]
fn what_is_new_is_told_from_what_is_another() {
    let mut compiler = compiler(&[DATABASE], vec![sandbox("shop", "db", 1), sandbox("shop", "api", 2)]);
    let new = compiler.update(Change::Sandbox(sandbox("shop", "api", 3)));
    assert_eq!((new.classes.set.len(), new.classes.changed.len()), (1, 0));
    let other = compiler.update(Change::Sandbox(sandbox("shop", "db", 3)));
    assert_eq!((other.classes.set.len(), other.classes.changed.len()), (1, 1));
    let anew = compiler.update(Change::Policies(policies(&[&DATABASE.replace("5432", "5433")])));
    assert_eq!((anew.pairs_in.set.len(), anew.pairs_in.changed.len()), (1, 1), "{anew:?}");
    assert_eq!((anew.profiles.set.len(), anew.profiles.changed.len()), (1, 0), "{anew:?}");
}

#[test]
fn an_address_that_changes_hands_follows_its_owner() {
    let mut compiler = compiler(&[DATABASE], vec![sandbox("shop", "db", 1), sandbox("shop", "web", 2)]);
    assert!(!passes(&compiler, 2, 1, 5432));
    let heir = Sandbox {
        name: SandboxName { namespace: "shop".to_owned(), name: "z".to_owned() },
        ..sandbox("shop", "api", 2)
    };
    compiler.update(Change::Sandbox(heir));
    assert!(!passes(&compiler, 2, 1, 5432), "two have the address: the first keeps it");
    compiler.update(Change::Gone(sandbox("shop", "web", 2).name));
    assert!(passes(&compiler, 2, 1, 5432));
}

const FROM_API: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: db, namespace: shop}
spec:
  podSelector: {matchLabels: {app: db}}
  ingress: [{from: [{podSelector: {matchExpressions: [{key: tier, operator: NotIn, values: [test]}]}}]}]
";
const NO_TESTS: &str = "
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: tests}
spec:
  tier: Admin
  priority: 1
  subject: {pods: {namespaceSelector: {}, podSelector: {matchLabels: {app: web}}}}
  ingress: [{action: Deny, from: [{pods: {namespaceSelector: {}, podSelector: {matchLabels: {tier: test}}}}]}]
";

/// On another node, of which only these keys are known.
fn elsewhere(app: &str, last: u8, keys: &[&str]) -> Sandbox {
    let known = Known { labels: keys.iter().map(|key| (*key).to_owned()).collect(), ..Known::default() };
    Sandbox { node: "n2".to_owned(), known: Some(known), ..sandbox("shop", app, last) }
}

#[test]
fn one_of_another_node_is_a_peer_and_never_a_subject() {
    let mut compiler = compiler(&[DATABASE], vec![sandbox("shop", "db", 1)]);
    compiler.update(Change::Sandbox(elsewhere("api", 2, &["app"])));
    compiler.update(Change::Sandbox(elsewhere("db", 3, &["app"])));
    assert!(passes(&compiler, 2, 1, 5432) && !passes(&compiler, 3, 1, 5432));
    assert!(passes(&compiler, 1, 3, 80), "what is said of it is its own node's to enforce");
    assert_eq!(compiler.compiled().ingress.keys().collect::<Vec<_>>(), [&address(1)]);
    compiler.update(Change::Sandbox(elsewhere("web", 2, &["app"])));
    assert!(!passes(&compiler, 2, 1, 5432));
}

#[test]
fn nobody_passes_by_a_label_that_is_not_known_to_be_absent() {
    let mut compiler = compiler(&[FROM_API], vec![sandbox("shop", "db", 1)]);
    compiler.update(Change::Sandbox(elsewhere("api", 2, &["app"])));
    assert!(!passes(&compiler, 2, 1, 80));
    compiler.update(Change::Sandbox(elsewhere("api", 2, &["app", "tier"])));
    assert!(passes(&compiler, 2, 1, 80));
}

#[test]
fn a_rule_that_denies_sandboxes_denies_who_may_be_one() {
    let mut compiler = compiler(&[NO_TESTS], vec![sandbox("shop", "web", 1)]);
    assert!(passes(&compiler, 2, 1, 80), "the outside");
    let block = Block { cidr: "10.4.0.0/24".parse().unwrap(), except: ["10.4.0.8/29".parse().unwrap()].into() };
    compiler.update(Change::Strangers([block].into()));
    assert!(!passes(&compiler, 2, 1, 80) && passes(&compiler, 9, 1, 80));
    compiler.update(Change::Sandbox(elsewhere("api", 2, &["app"])));
    assert!(!passes(&compiler, 2, 1, 80));
    compiler.update(Change::Sandbox(elsewhere("api", 2, &["tier"])));
    assert!(passes(&compiler, 2, 1, 80));
    compiler.update(Change::Gone(sandbox("shop", "api", 2).name));
    assert!(!passes(&compiler, 2, 1, 80));
}

const NO_METRICS: &str = "
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: metrics}
spec:
  tier: Admin
  priority: 1
  subject: {pods: {namespaceSelector: {}, podSelector: {matchLabels: {app: web}}}}
  egress:
  - {action: Deny, to: [{namespaces: {}}], protocols: [{destinationNamedPort: metrics}]}
  - {action: Deny, to: [{networks: [198.51.100.0/24]}], protocols: [{destinationNamedPort: metrics}]}
";

#[test]
fn a_rule_that_denies_a_port_by_name_denies_all_where_its_number_is_not_known() {
    let mut compiler = compiler(&[NO_METRICS], vec![sandbox("shop", "web", 1)]);
    assert!(passes(&compiler, 1, 2, 9100), "the outside has no names");
    compiler.update(Change::Strangers([Block { cidr: "10.4.0.0/24".parse().unwrap(), except: [].into() }].into()));
    assert!(!passes(&compiler, 1, 2, 9100) && !passes(&compiler, 1, 2, 80));
    let known = |names: &[&str], numbers: &[u16]| {
        let mut one = elsewhere("api", 2, &["app"]);
        let known = one.known.as_mut().unwrap();
        known.ports = names.iter().map(|name| (*name).to_owned()).collect();
        let port = |number: &u16| NamedPort { name: "metrics".to_owned(), protocol: Protocol::Tcp, number: *number };
        one.ports = numbers.iter().map(port).collect();
        Change::Sandbox(one)
    };
    // Its node has not heard yet that somebody asks for that name.
    compiler.update(known(&["http"], &[]));
    assert!(!passes(&compiler, 1, 2, 9100) && !passes(&compiler, 1, 2, 80));
    compiler.update(known(&["metrics"], &[9100]));
    assert!(!passes(&compiler, 1, 2, 9100) && passes(&compiler, 1, 2, 80));
    compiler.update(known(&["metrics"], &[]));
    assert!(passes(&compiler, 1, 2, 9100));
}

/// Somebody of this node had the address before it was a peer's.
#[test]
fn an_address_of_this_node_stays_a_subject_whatever_others_say() {
    let own = Sandbox { name: SandboxName { namespace: "z".to_owned(), name: "z".to_owned() }, ..sandbox("", "db", 1) };
    let mut compiler = compiler(&[&DATABASE.replace("shop", "z")], vec![own]);
    assert!(!passes(&compiler, 2, 1, 5432));
    compiler.update(Change::Sandbox(elsewhere("web", 1, &["app"])));
    assert!(!passes(&compiler, 2, 1, 5432));
}

/// Two sandboxes that chose one MAC on two bridges have one link-local address; or one network stands twice.
#[test]
fn an_address_that_two_sandboxes_have_is_closed_until_one_has_it() {
    let (web, mut twin) = (sandbox("shop", "db", 2), sandbox("lab", "api", 3));
    twin.addresses.insert(address(2), "red".to_owned());
    let others = [sandbox("shop", "api", 4), sandbox("shop", "web", 5)];
    let mut all = vec![web.clone()];
    all.extend(others);
    let mut compiler = compiler(&[DATABASE], all);
    let isolated = |compiler: &Compiler| {
        let compiled = compiler.compiled();
        [&compiled.ingress, &compiled.egress].map(|table| table.keys().copied().collect::<Vec<_>>())
    };
    let before = isolated(&compiler);
    let agree = |compiler: &Compiler, passes: &[(u8, u8)]| {
        let (compiled, world) = (compiler.compiled(), compiler.world());
        let node = [].into();
        let mut reaches = netd_policy::Reaches::new(compiled, &node);
        for from in 2..=6 {
            for to in (2..=6).filter(|to| *to != from) {
                let traffic = Traffic::to(Protocol::Tcp, 5432);
                let flow = Flow { from: address(from), to: address(to), traffic };
                let told = netd_policy::oracle::verdict(world, compiler.policies(), flow).allowed();
                assert_eq!(compiled.interpret(Hook::Forward, flow).allowed(), told, "{flow:?}");
                assert_eq!(reaches.between(flow.from, flow.to).contains(traffic), told, "{flow:?}");
                if from == 2 || to == 2 {
                    assert_eq!(told, passes.contains(&(from, to)), "{flow:?}");
                }
            }
        }
    };
    agree(&compiler, &[(2, 3), (2, 4), (2, 5), (2, 6), (4, 2)]);
    compiler.update(Change::Sandbox(twin.clone()));
    assert_eq!(compiler.contested().map(|(at, names)| (at, names.count())).collect::<Vec<_>>(), [(address(2), 2)]);
    agree(&compiler, &[]);
    // From the start, and by changes.
    let fresh = self::compiler(&[DATABASE], compiler.world().sandboxes.values().cloned().collect());
    assert_eq!(isolated(&fresh), isolated(&compiler));
    assert!(
        !fresh.compiled().classes.contains_key(&address(2)) && !compiler.compiled().classes.contains_key(&address(2))
    );
    // The one that is left is what it is, whichever that may be.
    compiler.update(Change::Gone(twin.name.clone()));
    assert_eq!(compiler.contested().count(), 0);
    assert_eq!(isolated(&compiler), before);
    agree(&compiler, &[(2, 3), (2, 4), (2, 5), (2, 6), (4, 2)]);
    compiler.update(Change::Sandbox(twin));
    compiler.update(Change::Gone(web.name));
    agree(&compiler, &[(2, 3), (2, 4), (2, 5), (2, 6), (4, 2), (3, 2), (5, 2), (6, 2)]);
    compiler.update(Change::Policies(Vec::new()));
    assert_eq!(isolated(&compiler), [Vec::<IpAddr>::new(), Vec::new()]);
}
