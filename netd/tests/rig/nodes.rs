//! Several nodes with the real binary in them, on one underlay.
//!
//! ```text
//! sandbox eth0 ── nd… br0 [ node 1 ] up0 192.0.2.1, 2001:db8::1 ─┐
//!                                                                m1 ── u0 [ underlay ] 192.0.2.254 ── 198.51.100.254
//! sandbox eth0 ── nd… br0 [ node 2 ] up0 192.0.2.2, 2001:db8::2 ─┘                         (a node beyond it: 198.51.100.3)
//! ```

use std::fs;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use netd_api::v1::FailureCode;
use netd_api::{Client, Tag, blocking};

use super::daemon::answers;
use super::{Space, call};

const PATIENCE: Duration = Duration::from_secs(60);
/// Between two tries of what netd says to try again.
const PAUSE: Duration = Duration::from_millis(100);
/// An emulator loads modules of its kernel meanwhile.
const TO_START: Duration = Duration::from_secs(90);

/// What containerd's clients have by default, with a second family.
pub(crate) const NETWORK: &str = r#"{"cniVersion":"1.0.0","name":"bridge","type":"bridge","bridge":"br0","isGateway":true,
    "isDefaultGateway":true,"ipMasq":true,"hairpinMode":true,
    "ipam":{"type":"host-local","dataDir":"/nonexistent","ranges":[[{"subnet":"10.4.0.0/24"}],[{"subnet":"fd04::/64"}]]}}"#;

/// The nodes, and what is between them.
pub(crate) struct Nodes {
    pub(crate) underlay: Space,
    pub(crate) all: Vec<Member>,
}

/// A node.
pub(crate) struct Member {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) space: Space,
    pub(crate) number: usize,
    /// For netd alone.
    pub(crate) environment: Vec<(&'static str, String)>,
    child: Option<Child>,
}

/// A sandbox with its addresses.
pub(crate) struct Sandbox {
    pub(crate) space: Space,
    pub(crate) v4: String,
    pub(crate) v6: String,
    pub(crate) result: serde_json::Value,
}

fn quiet(space: &Space, link: &str) {
    let link = link.to_owned();
    space.run(move || fs::write(format!("/proc/sys/net/ipv6/conf/{link}/accept_dad"), "0").unwrap());
}

impl Nodes {
    /// So many nodes on one link, without netd yet.
    pub(crate) fn new(count: usize) -> Self {
        let underlay = Space::new();
        for line in ["ip link add u0 type bridge", "ip link add u1 type bridge", "ip link set lo up"] {
            underlay.command(line);
        }
        for (link, v4, v6) in
            [("u0", "192.0.2.254/24", "2001:db8::fe/64"), ("u1", "198.51.100.254/24", "2001:db8:1::fe/64")]
        {
            quiet(&underlay, link);
            underlay.command(&format!("ip addr add {v4} dev {link}"));
            underlay.command(&format!("ip addr add {v6} dev {link} nodad"));
            underlay.command(&format!("ip link set {link} up"));
        }
        underlay.run(|| {
            fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
            fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1").unwrap();
            drop(fs::write("/proc/sys/net/bridge/bridge-nf-call-iptables", "0"));
        });
        let mut nodes = Self { underlay, all: Vec::new() };
        (1..=count).for_each(|number| nodes.add(number, 0));
        nodes
    }

    /// A node more: on the link of the others, or beyond the router.
    pub(crate) fn add(&mut self, number: usize, link: usize) {
        let space = self.machine(&format!("m{number}"), number, link);
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("etc")).unwrap();
        self.all.push(Member { folder, space, number, environment: Vec::new(), child: None });
    }

    /// A namespace that hangs on the link, there called `at`.
    pub(crate) fn machine(&self, at: &str, number: usize, link: usize) -> Space {
        let space = Space::new();
        let path = format!("/proc/{}/fd/{}", std::process::id(), space.fd.as_raw_fd());
        self.underlay.command(&format!("ip link add {at} master u{link} type veth peer name up0 netns {path}"));
        quiet(&self.underlay, at);
        quiet(&space, "up0");
        self.underlay.command(&format!("ip link set {at} up"));
        let (v4, v6) = if link == 0 { ("192.0.2", "2001:db8:") } else { ("198.51.100", "2001:db8:1:") };
        space.command(&format!("ip addr add {v4}.{number}/24 dev up0"));
        space.command(&format!("ip addr add {v6}:{number}/64 dev up0 nodad"));
        space.command("ip link set lo up");
        space.command("ip link set up0 up");
        space.command(&format!("ip route add default via {v4}.254"));
        space.command(&format!("ip -6 route add default via {v6}:fe"));
        space
    }

    /// Every node with the same lines of `[fleet]`, but for its name.
    pub(crate) fn start(&mut self, fleet: &str) {
        for member in &mut self.all {
            member.write(fleet);
            member.start();
        }
    }

    /// A store on the underlay; it ends with what is returned.
    pub(crate) fn etcd(&self) -> Etcd {
        let mut etcd = Etcd { folder: tempfile::tempdir().unwrap(), child: None };
        etcd.start(&self.underlay);
        etcd
    }

    pub(crate) fn write(&self, fleet: &str) {
        self.all.iter().for_each(|member| member.write(fleet));
    }
}

impl Member {
    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("run/netd.sock")
    }

    pub(crate) fn settings(&self) -> PathBuf {
        self.folder.path().join("etc/netd.toml")
    }

    /// Replaces the settings as an editor does. Without lines there is no fleet.
    pub(crate) fn write(&self, fleet: &str) {
        let folder = self.folder.path().display();
        let mut text = format!(
            "run_dir = '{folder}/run'\nstate_dir = '{folder}/state'\nsocket = '{folder}/run/netd.sock'\nconf_dirs = []\ncontainerd_socket = ''\npolicies_dir = '{folder}/policies'\n",
        );
        if !fleet.is_empty() {
            text += &format!("[fleet]\nname = 'n{}'\n{fleet}", self.number);
        }
        let draft = self.folder.path().join("etc/draft");
        fs::write(&draft, text).unwrap();
        fs::rename(draft, self.settings()).unwrap();
    }

    pub(crate) fn start(&mut self) {
        let config = self.settings();
        fs::create_dir_all(self.folder.path().join("state")).unwrap();
        let log = fs::File::options().create(true).append(true).open(self.log()).unwrap();
        let environment = self.environment.clone();
        // The child is made on the namespace's thread, and inherits it.
        let child = self.space.run(move || {
            let mut netd = Command::new(env!("CARGO_BIN_EXE_netd"));
            netd.arg("--config").arg(config).envs(environment).stderr(log).process_group(0).spawn().unwrap()
        });
        self.child = Some(child);
        let start = Instant::now();
        while !answers(&self.socket()) {
            assert!(self.child.as_mut().unwrap().try_wait().unwrap().is_none(), "netd ended at once");
            assert!(start.elapsed() < TO_START, "netd does not answer");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// All that netd has said.
    pub(crate) fn log(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    pub(crate) fn runs(&self) -> bool {
        self.child.is_some()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    /// As `kill -9`.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    pub(crate) fn client(&self) -> Client {
        Client::connect(&self.socket(), &[]).unwrap()
    }

    pub(crate) fn attach(&self, container: &str) -> Sandbox {
        self.attach_in_time(NETWORK, container)
    }

    /// As runtimes do, again where netd says so: a store that is slow gives blocks late.
    pub(crate) fn attach_in_time(&self, network: &str, container: &str) -> Sandbox {
        let begin = Instant::now();
        loop {
            match self.attach_to(network, container, "") {
                Ok(sandbox) => return sandbox,
                Err(failure) if failure.code == FailureCode::TRY_AGAIN.into() && begin.elapsed() < PATIENCE => {
                    std::thread::sleep(PAUSE);
                }
                Err(failure) => panic!("{failure:?}"),
            }
        }
    }

    pub(crate) fn attach_to(
        &self,
        network: &str,
        container: &str,
        cni_args: &str,
    ) -> Result<Sandbox, blocking::Failure> {
        let space = Space::new();
        space.command("ip link set lo up");
        let client = Client::connect(&self.socket(), &[(Tag::SandboxNetns, space.fd.as_fd())]).unwrap();
        let path = format!("/proc/{}/fd/{}", std::process::id(), space.fd.as_raw_fd());
        let mut request = blocking::AttachRequest::new();
        let mut asked = call(network, container, &path);
        asked.cni_args = cni_args.to_owned();
        request.call = Some(asked).into();
        let response = client.attach(&request).unwrap();
        if let Some(failure) = response.failure.as_ref() {
            return Err(failure.clone());
        }
        let result: serde_json::Value = serde_json::from_slice(&response.result).unwrap();
        let address = |is_v6: bool| {
            let all = result["ips"].as_array().unwrap().iter().map(|ip| ip["address"].as_str().unwrap());
            let found = all.into_iter().find(|address| address.contains(':') == is_v6).unwrap_or_default();
            found.split('/').next().unwrap().to_owned()
        };
        Ok(Sandbox { space, v4: address(false), v6: address(true), result })
    }

    pub(crate) fn detach(&self, container: &str) {
        let mut request = blocking::DetachRequest::new();
        request.call = Some(call(NETWORK, container, "")).into();
        let response = self.client().detach(&request).unwrap();
        assert!(response.failure.is_none(), "{response:?}");
    }

    pub(crate) fn warnings(&self) -> Vec<String> {
        self.client().status(&blocking::StatusRequest::new()).unwrap().warnings
    }

    pub(crate) fn fleet(&self) -> blocking::FleetResponse {
        self.client().fleet(&blocking::FleetRequest::new()).unwrap()
    }

    /// Tries a peer, or all.
    pub(crate) fn check(&self, name: &str) -> Vec<blocking::PeerCheck> {
        let request = blocking::CheckPeersRequest { name: name.to_owned(), ..blocking::CheckPeersRequest::new() };
        let response = self.client().check_peers(&request).unwrap();
        assert!(response.failure.is_none(), "{response:?}");
        response.peers
    }

    /// Tries a peer, or all, until the answer is so: a machine that stands still for a moment answers late. The last answer.
    pub(crate) fn check_until(
        &self,
        name: &str,
        is_so: impl Fn(&[blocking::PeerCheck]) -> bool,
    ) -> Vec<blocking::PeerCheck> {
        let begin = Instant::now();
        loop {
            let answer = self.check(name);
            if is_so(&answer) || begin.elapsed() > PATIENCE {
                return answer;
            }
        }
    }

    /// Makes record and kernel agree; says what was done.
    pub(crate) fn resync(&self, dry_run: bool) -> Vec<String> {
        let request = blocking::ResyncRequest { dry_run, ..blocking::ResyncRequest::new() };
        let response = self.client().resync(&request).unwrap();
        assert!(response.failure.is_none(), "{response:?}");
        response.steps
    }

    /// Our routes, one a line, without what does not matter.
    pub(crate) fn routes(&self) -> String {
        let all = ["ip -4 route show proto 110", "ip -6 route show proto 110"].map(|line| self.space.command(line));
        all.concat()
    }
}

/// One real member.
pub(crate) struct Etcd {
    folder: tempfile::TempDir,
    child: Option<Child>,
}

impl Etcd {
    pub(crate) const ENDPOINT: &str = "http://192.0.2.254:2379";

    pub(crate) fn start(&mut self, underlay: &Space) {
        let folder = self.folder.path().to_owned();
        let child = underlay.run(move || {
            let log = fs::File::create(folder.join("log")).unwrap();
            let mut command = Command::new(netd_rig::parts::etcd().unwrap());
            command.args(["--name", "m", "--data-dir"]).arg(folder.join("data"));
            command.args(["--listen-client-urls", Self::ENDPOINT, "--advertise-client-urls", Self::ENDPOINT]);
            let peer = "http://192.0.2.254:2380";
            command.args(["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer]);
            command.args(["--initial-cluster", &format!("m={peer}"), "--logger", "zap"]);
            command.stdout(std::process::Stdio::null()).stderr(log).process_group(0).spawn().unwrap()
        });
        self.child = Some(child);
        let listens = || underlay.run(|| std::net::TcpStream::connect("192.0.2.254:2379").is_ok());
        soon("etcd listens", listens);
    }

    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let log = fs::read_to_string(self.log()).unwrap_or_default();
            drop(std::io::stderr().write_all(format!("== n{}\n{log}", self.number).as_bytes()));
        }
    }
}

/// Waits for what comes about by itself.
#[track_caller]
pub(crate) fn soon(what: &str, is_so: impl Fn() -> bool) {
    let begin = Instant::now();
    while !is_so() {
        assert!(begin.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
