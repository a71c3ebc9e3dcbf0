//! netd beside other firewalls, each the real one from Debian's packages: what is told, what `coexist = "insert"` lets pass and what
//! it keeps shut, and that it stands again after a reload and leaves nothing. Needs root.
#![expect(clippy::unwrap_used, reason = "helpers of tests stand outside of them")]

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use netd_rig::{
    Answer, Bed, Cri, Daemon, Node, OUTSIDE_V4, Place, Plugins, Pod, PodWish, Program, Protocol, Release, Web, ask,
    parts, until,
};
use serde_json::Value;

const SOON: Duration = Duration::from_secs(60);
const REPORT: &str = "";
const INSERT: &str = "coexist = \"insert\"\n";

/// A node with netd, and a pod that serves port 80, published as 8080.
struct Scene {
    pod: Pod,
    _web: Web,
    bed: Bed,
}

impl Scene {
    fn new() -> Self {
        let bed = Bed::start(Release::V2_4, &Plugins::Netd).unwrap();
        let wish = PodWish { name: "web", ports: &[(8080, 80)], ..PodWish::default() };
        let pod = Cri::new(&bed.node).unwrap().run_pod(&wish).unwrap();
        let web = Web::start(&pod.place, "web", 80).unwrap();
        // Whoever knows the way to the pod's address may send there; a firewall's drop is all that stands between.
        bed.underlay.place.ip(&format!("route add 10.4.0.0/24 via {}", bed.node.v4)).unwrap();
        Self { pod, _web: web, bed }
    }

    fn restart(&mut self, settings: &str) {
        self.bed.node.write("/etc/netd/netd.toml", settings).unwrap();
        let netd = self.bed.netd.as_mut().unwrap();
        netd.daemon.terminate().unwrap();
        netd.daemon.start_again().unwrap();
        netd.wait(&self.bed.node).unwrap();
    }

    fn on_node(&self, line: &str) -> String {
        self.bed.node.output(Command::new("sh").args(["-c", line])).unwrap()
    }

    /// What the pod hears from the outside; what the outside hears at the published port, and at the pod's own address.
    fn heard(&self) -> [bool; 3] {
        let said = |place: &Place, to: SocketAddr| matches!(ask(place, Protocol::Tcp, to).unwrap(), Answer::Said(text) if text.len() > 3);
        let (pod, outside) = (&self.pod.place, &self.bed.underlay.place);
        let address = self.pod.addresses[0].parse().unwrap();
        [
            said(pod, SocketAddr::from((OUTSIDE_V4, 80))),
            said(outside, SocketAddr::from((self.bed.node.v4, 8080))),
            said(outside, SocketAddr::new(address, 80)),
        ]
    }

    /// What netd says of other firewalls: names, chains, whether containers pass, remedies.
    fn told(&self) -> Vec<Value> {
        let netdctl = parts::ours().unwrap().join("netdctl");
        let text = self.bed.node.output(Command::new(netdctl).args(["status", "--output", "json"])).unwrap();
        let status: Value = serde_json::from_str(&text).unwrap();
        status["firewalls"].as_array().unwrap().clone()
    }

    /// Waits until netd tells of `name`, in each of its chains, that containers pass or do not.
    fn wait_until_told(&self, name: &str, passes: bool) -> Vec<Value> {
        let is_so = |told: &[Value]| !told.is_empty() && told.iter().all(|one| one["passes"] == passes);
        until(&format!("netd to say that {name} lets pass: {passes}"), SOON, || {
            let told: Vec<Value> = self.told().into_iter().filter(|one| one["name"] == name).collect();
            Ok(is_so(&told).then_some(told))
        })
        .unwrap()
    }

    /// All jumps to chains of netd's in tables of others, and those chains.
    fn rules_of_netd(&self) -> Vec<String> {
        let text = self.on_node("nft -s list ruleset");
        let mut is_inside = false;
        let mut is_ours = |line: &&str| {
            is_inside = line.contains("chain netd-forward") || (is_inside && !line.contains('}'));
            is_inside || line.contains("netd-forward")
        };
        text.lines().filter(&mut is_ours).map(str::to_owned).collect()
    }
}

/// A firewall on a node.
trait Firewall {
    const NAME: &'static str;
    /// Loads it again, as a person does after a change of its files.
    fn reload(&self, scene: &Scene);
    /// Where the commands are that a remedy names.
    fn path(&self, scene: &Scene) -> PathBuf;
    /// What the outside hears at the published port while netd only reports.
    const IS_PUBLISHED_HEARD: bool;
}

/// A person reads, types what is said, and it holds; netd does it by itself where it is told to, and undoes it.
fn lives_beside<F: Firewall>(mut scene: Scene, firewall: &F) {
    let told = scene.wait_until_told(F::NAME, false);
    assert_eq!(scene.heard(), [false, F::IS_PUBLISHED_HEARD, false], "{} drops", F::NAME);
    assert!(scene.rules_of_netd().is_empty());
    let doctor = scene.doctor();
    assert!(told.iter().all(|one| doctor.contains(one["remedy"].as_str().unwrap())), "{doctor}");

    scene.restart(INSERT);
    scene.wait_until_told(F::NAME, true);
    assert_eq!(scene.heard(), [true, true, false], "{}: all but what was never opened", F::NAME);
    let before = scene.rules_of_netd();
    for _ in 0..2 {
        firewall.reload(&scene);
        until("the same rules after a reload", SOON, || Ok((scene.rules_of_netd() == before).then_some(()))).unwrap();
        scene.wait_until_told(F::NAME, true);
        assert_eq!(scene.heard(), [true, true, false], "{} after a reload", F::NAME);
    }

    scene.restart(REPORT);
    scene.wait_until_told(F::NAME, false);
    assert!(scene.rules_of_netd().is_empty());
    assert_eq!(scene.heard(), [false, F::IS_PUBLISHED_HEARD, false], "{} drops again", F::NAME);

    scene.restart(INSERT);
    scene.wait_until_told(F::NAME, true);
    let withdraw = || {
        let mut netd = Command::new(parts::ours().unwrap().join("netd"));
        netd.args(["--config", "/etc/netd/netd.toml", "--withdraw"]);
        netd
    };
    let refused = scene.bed.node.place.outcome(&mut withdraw(), "").unwrap();
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(!refused.status.success() && said.contains("stop it first"), "{said}");
    assert_eq!(scene.rules_of_netd(), before, "a netd that runs keeps its rules");
    scene.bed.netd.as_mut().unwrap().daemon.terminate().unwrap();
    scene.bed.node.output(&mut withdraw()).unwrap();
    assert!(scene.rules_of_netd().is_empty());

    // Last, as it changes the firewall's own settings.
    scene.restart(REPORT);
    let path = firewall.path(&scene);
    for one in scene.wait_until_told(F::NAME, false) {
        let remedy = one["remedy"].as_str().unwrap();
        let commands = remedy.split('`').nth(1).unwrap();
        scene.on_node(&format!("set -e; PATH={}:$PATH; {commands}", path.display()));
    }
    let [sends, published, _] = scene.heard();
    assert!(sends && published, "{}: the remedy holds", F::NAME);
}

impl Scene {
    fn doctor(&self) -> String {
        let netdctl = parts::ours().unwrap().join("netdctl");
        let outcome = self.bed.node.place.outcome(Command::new(netdctl).arg("doctor"), "").unwrap();
        String::from_utf8(outcome.stdout).unwrap()
    }
}

/// A copy of `part` in the node's folder, which its programs may write into.
fn copy(node: &Node, part: &Path, name: &str) -> PathBuf {
    let folder = node.folder().join(name);
    let copied = Command::new("cp").arg("-r").arg(part).arg(&folder).status().unwrap();
    assert!(copied.success());
    folder
}

/// Puts a program `name` in a folder of its own, that runs `line` with its arguments.
fn wrapper(folder: &Path, name: &str, line: &str) {
    use std::os::unix::fs::PermissionsExt;
    let path = folder.join("wrapped");
    fs::create_dir_all(&path).unwrap();
    fs::write(path.join(name), format!("#!/bin/sh\n{line} \"$@\"\n")).unwrap();
    fs::set_permissions(path.join(name), fs::Permissions::from_mode(0o755)).unwrap();
}

struct Ufw {
    folder: PathBuf,
}

impl Ufw {
    /// Denies what is forwarded, as it does by default.
    fn start(scene: &Scene) -> Self {
        let folder = copy(&scene.bed.node, &parts::ufw().unwrap(), "ufw");
        let at = folder.display();
        // As the package's own script does.
        scene.on_node(&format!("cp {at}/usr/share/ufw/*.* {at}/etc/ufw/"));
        let python = format!("PYTHONPATH={at}/usr/lib/python3/dist-packages /usr/bin/python3");
        wrapper(&folder, "ufw", &format!("{python} {at}/usr/sbin/ufw --rootdir={at} --datadir={at}"));
        let ufw = Self { folder };
        ufw.run(scene, "--force enable");
        ufw
    }

    fn run(&self, scene: &Scene, arguments: &str) {
        scene.on_node(&format!("{}/wrapped/ufw {arguments}", self.folder.display()));
    }
}

impl Firewall for Ufw {
    const NAME: &'static str = "ufw";
    const IS_PUBLISHED_HEARD: bool = false;

    fn reload(&self, scene: &Scene) {
        self.run(scene, "reload");
    }

    fn path(&self, _: &Scene) -> PathBuf {
        self.folder.join("wrapped")
    }
}

#[test]
fn beside_ufw() {
    let scene = Scene::new();
    let ufw = Ufw::start(&scene);
    lives_beside(scene, &ufw);
}

/// With a bus of its own.
struct Firewalld {
    folder: PathBuf,
    _daemons: [Daemon; 2],
}

impl Firewalld {
    fn start(scene: &Scene) -> Self {
        const BUS: &str = r#"<busconfig><type>system</type><listen>unix:path=/run/bus</listen><auth>EXTERNAL</auth>
            <policy context="default"><allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/>
            <allow own="*"/></policy></busconfig>"#;
        let node = &scene.bed.node;
        let folder = copy(node, &parts::firewalld().unwrap(), "firewalld");
        node.write("/etc/netd/bus.xml", BUS).unwrap();
        let bus = ["--config-file=/etc/netd/bus.xml", "--nofork", "--nopidfile"];
        let bus = Daemon::start(node, Program::new("bus", Path::new("/usr/bin/dbus-daemon"), &bus)).unwrap();
        until("the bus", SOON, || Ok(node.outside("/run/bus").exists().then_some(()))).unwrap();

        let at = folder.display().to_string();
        fs::create_dir_all(folder.join("etc/firewalld")).unwrap();
        let libraries = format!("{at}/usr/lib/python3/dist-packages");
        let environment = format!("PYTHONPATH={libraries} DBUS_SYSTEM_BUS_ADDRESS=unix:path=/run/bus /usr/bin/python3");
        wrapper(&folder, "firewall-cmd", &format!("{environment} {at}/usr/bin/firewall-cmd"));
        let program = [
            &format!("{at}/usr/sbin/firewalld"),
            "--nofork",
            "--nopid",
            "--system-config",
            &format!("{at}/etc/firewalld"),
            "--default-config",
            &format!("{at}/usr/lib/firewalld"),
            "--log-file",
            "/var/log/firewalld",
        ];
        let program = Program::new("firewalld", Path::new("/usr/bin/python3"), &program)
            .env("PYTHONPATH", &libraries)
            .env("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/run/bus");
        let daemon = Daemon::start(node, program).unwrap();
        let firewalld = Self { folder, _daemons: [daemon, bus] };
        let ready = || Ok(scene.on_node("nft list tables").contains("firewalld").then_some(()));
        until("firewalld", Duration::from_secs(60), ready).unwrap();
        firewalld
    }
}

impl Firewall for Firewalld {
    const NAME: &'static str = "firewalld";
    // It accepts what was sent elsewhere than it was asked for.
    const IS_PUBLISHED_HEARD: bool = true;

    fn reload(&self, scene: &Scene) {
        scene.on_node(&format!("{}/wrapped/firewall-cmd --reload", self.folder.display()));
    }

    fn path(&self, _: &Scene) -> PathBuf {
        self.folder.join("wrapped")
    }
}

#[test]
fn beside_firewalld() {
    let scene = Scene::new();
    let firewalld = Firewalld::start(&scene);
    lives_beside(scene, &firewalld);
}

/// The chains that dockerd makes, by the iptables that it makes them with: it is no part of this rig.
struct Docker;

impl Docker {
    fn load(scene: &Scene) {
        for program in ["iptables", "ip6tables"] {
            scene.on_node(&format!(
                "{program} -N DOCKER-USER 2>/dev/null; {program} -C FORWARD -j DOCKER-USER 2>/dev/null || {program} -I FORWARD -j DOCKER-USER
                 {program} -C DOCKER-USER -j RETURN 2>/dev/null || {program} -A DOCKER-USER -j RETURN
                 {program} -P FORWARD DROP"
            ));
        }
    }
}

impl Firewall for Docker {
    const NAME: &'static str = "docker";
    const IS_PUBLISHED_HEARD: bool = false;

    /// As after `iptables -F`, when dockerd starts again.
    fn reload(&self, scene: &Scene) {
        scene.on_node("iptables -F; ip6tables -F");
        Self::load(scene);
    }

    fn path(&self, _: &Scene) -> PathBuf {
        PathBuf::from("/usr/sbin")
    }
}

#[test]
fn beside_the_chains_of_docker() {
    let scene = Scene::new();
    Docker::load(&scene);
    lives_beside(scene, &Docker);
}
