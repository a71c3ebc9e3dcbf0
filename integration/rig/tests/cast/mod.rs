//! The cast of policy scenarios: pods of three namespaces and two compose services on one bridge, and the outside. Each says
//! its name to whom it lets in.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::Command;
use std::time::Duration;

use netd_rig::{
    Bed, Container, Cri, Daemon, Expect, Nerdctl, OUTSIDE_V4, Place, Plugins, Pod, PodWish, Probe, Program, Protocol,
    Release, Web, parts, until,
};
use serde_json::Value;

/// Of those who ask.
pub(crate) const EVERYBODY: &[&str] = &["login", "cart", "audit", "dns", "web", "db"];
pub(crate) const NOBODY: &[&str] = &[];

const PATIENCE: Duration = Duration::from_secs(60);
const SLEEP: [&str; 2] = ["/bin/sleep", "infinity"];
/// Where the outside answers, too.
const PARTNER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 10);

/// Who plays.
pub(crate) struct Cast {
    actors: Vec<Actor>,
    _hook: Daemon,
    pub(crate) bed: Bed,
}

pub(crate) struct Actor {
    pub(crate) name: &'static str,
    pub(crate) place: Place,
    pub(crate) address: IpAddr,
    _webs: [Web; 3],
}

impl Cast {
    /// All of them, and no policy.
    pub(crate) fn new() -> Self {
        let bed = Bed::start(Release::V2_4, &Plugins::Netd).unwrap();
        bed.underlay.place.ip(&format!("addr add {PARTNER}/32 dev lo")).unwrap();
        let hook = Daemon::start(&bed.node, Program::new("netd-hook", &parts::ours().unwrap().join("netd-hook"), &[]));
        let hook = hook.unwrap();
        until("netd-hook to be heard", PATIENCE, || Ok(hook.log().contains("synchronized").then_some(()))).unwrap();
        let pod =
            |name, namespace, labels| Actor::pod(&bed, &PodWish { name, namespace, labels, ..PodWish::default() });
        let actors = vec![
            pod("login", "shop", &[("app", "login")]),
            pod("cart", "shop", &[("app", "cart"), ("netd/port.http", "8080")]),
            pod("audit", "office", &[("app", "audit")]),
            pod("dns", "kube-system", &[("k8s-app", "kube-dns")]),
            Actor::service(&bed, "web"),
            Actor::service(&bed, "db"),
        ];
        Self { actors, _hook: hook, bed }
    }

    pub(crate) fn actor(&self, name: &str) -> &Actor {
        self.actors.iter().find(|actor| actor.name == name).unwrap()
    }

    /// With these policies in force, exactly those reach: one row `NAME:PORT` or `NAME:PORT/udp` and who does. The policies
    /// are gone afterwards.
    pub(crate) fn under(&self, policies: &str, reached: &[(&str, &[&str])]) {
        let names = self.apply(policies);
        self.reached(reached);
        names.iter().for_each(|(namespace, name)| self.delete(namespace, name));
    }

    /// Puts policies in force; gives their namespaces and names.
    pub(crate) fn apply(&self, policies: &str) -> Vec<(String, String)> {
        let file = "/run/recipe.yaml";
        self.bed.node.write(file, policies).unwrap();
        let names: Value = serde_json::from_str(&self.netdctl(&["-o", "json", "policy", "apply", "-f", file])).unwrap();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        names.as_array().unwrap().iter().map(|name| (text(&name["namespace"]), text(&name["name"]))).collect()
    }

    /// Takes a policy back.
    pub(crate) fn delete(&self, namespace: &str, name: &str) {
        self.netdctl(&["policy", "delete", "-n", namespace, name]);
    }

    /// Exactly those reach, apart from each himself and the node, who always do. Everybody else is refused by an answer.
    pub(crate) fn reached(&self, reached: &[(&str, &[&str])]) {
        let everybody = self.actors.iter().map(|actor| (actor.name, &actor.place));
        let askers = everybody.chain([("node", &self.bed.node.place)]);
        let mut probe = askers.fold(Probe::new(), |probe, (name, place)| probe.from(name, place));
        for (what, who) in reached {
            let (whom, protocol, to) = self.target(what);
            let said = Expect::said(if whom == "partner" { "outside " } else { whom });
            probe = probe.to(what, protocol, to, Expect::Refused);
            let own =
                if self.actors.iter().any(|actor| actor.name == whom) { vec![whom, "node"] } else { vec!["node"] };
            for name in who.iter().copied().chain(own) {
                probe = probe.except(name, what, said.clone());
            }
        }
        probe.check().unwrap();
    }

    fn target<'what>(&self, what: &'what str) -> (&'what str, Protocol, SocketAddr) {
        let (whom, port) = what.split_once(':').unwrap();
        let (port, protocol) = port.strip_suffix("/udp").map_or((port, Protocol::Tcp), |port| (port, Protocol::Udp));
        let address = match whom {
            "outside" => OUTSIDE_V4.into(),
            "partner" => PARTNER.into(),
            _ => self.actor(whom).address,
        };
        (whom, protocol, (address, port.parse().unwrap()).into())
    }

    pub(crate) fn netdctl(&self, arguments: &[&str]) -> String {
        self.bed.node.output(Command::new(parts::ours().unwrap().join("netdctl")).args(arguments)).unwrap()
    }
}

impl Actor {
    fn pod(bed: &Bed, wish: &PodWish<'static>) -> Self {
        let Pod { place, addresses, .. } = Cri::new(&bed.node).unwrap().run_pod(wish).unwrap();
        Self::on_stage(wish.name, place, addresses[0].parse().unwrap())
    }

    /// A service of the compose project `blog`.
    fn service(bed: &Bed, name: &'static str) -> Self {
        let service = format!("com.docker.compose.service={name}");
        let flags = ["--name", name, "--label", "com.docker.compose.project=blog", "--label", &service];
        let Container { place, .. } = Nerdctl::like(&bed.node).unwrap().run(&flags, &SLEEP).unwrap();
        let text = place.output(Command::new("ip").args(["-4", "-oneline", "addr", "show", "eth0"]), "").unwrap();
        let (address, _) = text.split_whitespace().nth(3).unwrap().split_once('/').unwrap();
        let address = address.parse().unwrap();
        Self::on_stage(name, place, address)
    }

    fn on_stage(name: &'static str, place: Place, address: IpAddr) -> Self {
        let webs = [53, 80, 8080].map(|port| Web::start(&place, name, port).unwrap());
        Self { name, place, address, _webs: webs }
    }
}
