//! Which stanza tells what of the node's rules is gone, on the real kernel in namespaces of the test's own. Needs root. Since
//! 6.9 only netd itself can take its rules away, so the test does it by netd's own hand.

use std::collections::BTreeSet;
use std::fs::File;
use std::sync::{Arc, mpsc};

use netd_config::{Document, LinkName, PortMapping, Protocol};
use netd_kernel::{Kernel, Key, LinuxKernel, Object, Step};
use nix::sched::{CloneFlags, unshare};

use super::{faults, is_published};
use crate::attachment::{Attachment, State};
use crate::desired;
use crate::executor::Executor;
use crate::node::tests::wanted;
use crate::node::{Attached, Node};

const PORTS: &str = r#""runtimeConfig":{"portMappings":[{"hostPort":8080,"containerPort":80},{"hostPort":53,"containerPort":53,
    "protocol":"udp","hostIP":"192.0.2.1"}]}"#;
const BRIDGE: &str = r#"{"cniVersion":"1.0.0","name":"web","type":"bridge","bridge":"br0","isGateway":true,"ipMasq":true,
    "ipam":{"type":"host-local","ranges":[[{"subnet":"10.4.0.0/24"}]]},"ingressPolicy":"same-bridge","#;
const PTP: &str = r#"{"cniVersion":"1.0.0","name":"web","type":"ptp","ipMasq":true,
    "ipam":{"type":"host-local","ranges":[[{"subnet":"10.6.0.0/24"}]]},"ingressPolicy":"isolated","#;

/// A namespace that lives as long as what is returned.
fn space() -> (File, mpsc::Sender<()>) {
    let (opened, fd) = mpsc::channel();
    let (keep, end) = mpsc::channel::<()>();
    std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap_or_else(|error| panic!("this test needs root (unshare: {error})"));
        opened.send(File::open("/proc/thread-self/ns/net").unwrap()).unwrap();
        assert!(end.recv().is_err());
    });
    (fd.recv().unwrap(), keep)
}

struct Rig {
    kernel: Arc<LinuxKernel>,
    executor: Executor<LinuxKernel>,
    attachment: Attachment,
    main: String,
    netns: File,
    _keep: mpsc::Sender<()>,
}

impl Rig {
    fn attach(main: &str) -> Self {
        let kernel = Arc::new(LinuxKernel::new("netd", "nd").unwrap());
        let executor = Executor::new(Arc::clone(&kernel), BTreeSet::new());
        let ((netns, keep), main) = (space(), format!("{main}{PORTS}}}"));
        let sandbox = executor.identify(netns.try_clone().unwrap().into()).unwrap();
        let mut node = Node::new("nd");
        let Attached::New { attachment, .. } = node.attach(wanted(&main, "web", sandbox.id.0)).unwrap() else {
            panic!()
        };
        let facts = executor.wire(&attachment, &sandbox).unwrap();
        let attachment = Attachment { state: State::Attached, facts, ..*attachment };
        Self { kernel, executor, attachment, main, netns, _keep: keep }
    }

    /// The stanzas that tell a fault, with what they tell.
    fn told(&self) -> Vec<(&'static str, String)> {
        let follower =
            |kind: &str, more: &str| format!(r#"{{"cniVersion":"1.0.0","name":"web","type":"{kind}",{more}}}"#);
        let stanzas = [
            ("main", self.main.clone()),
            ("portmap", follower("portmap", PORTS)),
            ("firewall", follower("firewall", r#""ingressPolicy":"same-bridge""#)),
            ("tuning", follower("tuning", r#""sysctl":{"net.ipv4.ip_forward":"0"}"#)),
        ];
        // As another request: what the attach knows of what it made is not asked.
        let sandbox = self.executor.identify(self.netns.try_clone().unwrap().into()).unwrap();
        let eth0 = LinkName::new("eth0").unwrap();
        let told = |(name, text): (&'static str, String)| {
            let stanza = Document::parse(text.as_bytes(), "", name).unwrap().stanza;
            let faults = faults(&self.executor, &stanza, Some(&self.attachment), (&eth0, &sandbox)).unwrap();
            (!faults.is_empty()).then(|| (name, faults.join("; ")))
        };
        stanzas.into_iter().filter_map(told).collect()
    }

    /// Takes each object away that `is` one of, alone, and puts it back.
    fn without(&self, is: impl Fn(&Key) -> bool, expected: &[(&str, &str)]) {
        let mut all = desired::own(&self.attachment);
        all.extend(desired::shared(&self.attachment, &BTreeSet::new()));
        let (key, object): (Key, Object) = all.into_iter().find(|(key, _)| is(key)).unwrap();
        assert_eq!(self.told(), [], "before {key:?} is gone");
        self.kernel.apply(&[Step::Delete(key.clone())], None).unwrap();
        let told = self.told();
        let is_it = told.len() == expected.len()
            && told.iter().zip(expected).all(|(told, expected)| told.0 == expected.0 && told.1.contains(expected.1));
        assert!(is_it, "without {key:?}: {told:?}");
        self.kernel.apply(&[Step::Create(key, object)], None).unwrap();
    }
}

/// In a namespace of the test's own.
fn on_a_node(test: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).unwrap_or_else(|error| panic!("this test needs root (unshare: {error})"));
        test();
    });
    thread.join().unwrap();
}

fn is_port(at: &str) -> impl Fn(&Key) -> bool {
    move |key| matches!(key, Key::Published(publication) if publication.to_string() == at)
}

#[test]
fn what_an_earlier_netd_recorded_of_a_host_address_of_zeros_is_published_still() {
    let port = |host: u16, host_ip: Option<&str>| PortMapping {
        host,
        container: 80,
        protocol: Protocol::Tcp,
        host_ip: host_ip.map(|text| text.parse().unwrap()),
    };
    let (all, v4, v6) = (None, Some("0.0.0.0"), Some("::"));
    let (one, other) = (Some("192.0.2.1"), Some("192.0.2.2"));
    // What is asked for today, what is recorded, and whether that is it.
    let table = [
        (all, all, true),
        (all, v4, true),
        (all, v6, false),
        (all, one, false),
        (v4, all, true),
        (v4, v6, false),
        (v6, all, true),
        (v6, v6, true),
        (v6, v4, false),
        (one, one, true),
        (one, all, false),
        (one, other, false),
    ];
    for (asked, recorded, expected) in table {
        assert_eq!(is_published(&port(80, asked), &[port(80, recorded)]), expected, "{asked:?} {recorded:?}");
        assert!(!is_published(&port(81, asked), &[port(80, recorded)]));
    }
}

#[test]
fn each_of_a_bridges_rules_is_told_by_its_own_stanza() {
    on_a_node(|| {
        let rig = Rig::attach(BRIDGE);
        let (one, other) = ("the node lacks published port 0.0.0.0:8080/tcp", "published port 192.0.2.1:53/udp");
        rig.without(is_port("0.0.0.0:8080/tcp"), &[("main", one), ("portmap", one)]);
        rig.without(is_port("192.0.2.1:53/udp"), &[("main", other), ("portmap", other)]);
        let masquerade = "the node lacks the masquerade of 10.4.0.2 on br0";
        rig.without(|key| matches!(key, Key::Masquerade(..)), &[("main", masquerade)]);
        let fence = "the node lacks ingressPolicy's fence of br0";
        rig.without(|key| matches!(key, Key::Fenced(_)), &[("main", fence), ("firewall", fence)]);
        rig.without(|key| matches!(key, Key::Guarded(_)), &[("main", "the node lacks Guarded(")]);
    });
}

#[test]
fn each_of_a_routed_links_rules_is_told_by_its_own_stanza() {
    on_a_node(|| {
        let rig = Rig::attach(PTP);
        rig.without(
            |key| matches!(key, Key::SandboxRoute(..)),
            &[("main", "the node lacks the route to 10.6.0.2 by nd")],
        );
        let fence = "the node lacks ingressPolicy's fence of nd";
        rig.without(|key| matches!(key, Key::Fenced(_)), &[("main", fence), ("firewall", fence)]);
    });
}

#[test]
fn what_was_never_asked_for_is_told() {
    on_a_node(|| {
        let mut rig = Rig::attach(BRIDGE);
        rig.attachment.ports.truncate(1);
        rig.attachment.wiring.as_mut().unwrap().fenced = false;
        let told = rig.told();
        let expected =
            [("portmap", "port 53/udp was not published"), ("firewall", "it was attached without ingressPolicy")];
        assert_eq!(told, expected.map(|(name, text)| (name, text.to_owned())));
    });
}
