//! Three real members of etcd, each in a namespace of its own on the nodes' link. What nodes do with them is the scenarios'.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::rig::Space;
use crate::rig::nodes::{Nodes, soon};

/// The ports of the link that members hang on.
pub(crate) const PORTS: [&str; 3] = ["e1", "e2", "e3"];
const FIRST: usize = 101;
const PATIENCE: Duration = Duration::from_secs(1);
/// A member that is asked in vain is asked again; all of them may be busy for a moment.
const TRIES: usize = 60;

pub(crate) struct Store {
    members: Vec<Member>,
}

struct Member {
    name: String,
    address: String,
    folder: tempfile::TempDir,
    space: Space,
    child: Option<Child>,
}

/// What slows a member's disk down; it is as fast as before when this is dropped.
pub(crate) struct Slow {
    tracer: Child,
}

impl Store {
    pub(crate) fn new(nodes: &Nodes) -> Self {
        let member = |at: usize| {
            let (name, number) = (PORTS[at].to_owned(), FIRST + at);
            let space = nodes.machine(&name, number, 0);
            Member {
                name,
                address: format!("192.0.2.{number}"),
                folder: tempfile::tempdir().unwrap(),
                space,
                child: None,
            }
        };
        let mut store = Self { members: (0..3).map(member).collect() };
        store.launch_all();
        soon("the members agree", || store.leader(nodes).is_some());
        store
    }

    /// All endpoints as `netd.toml` has them.
    pub(crate) fn endpoints(&self) -> String {
        let all = self.members.iter();
        all.map(|member| format!("'http://{}:2379'", member.address)).collect::<Vec<_>>().join(", ")
    }

    pub(crate) fn launch_all(&mut self) {
        (0..3).for_each(|at| self.launch(at));
    }

    pub(crate) fn launch(&mut self, at: usize) {
        let peer = |member: &Member| format!("http://{}:2380", member.address);
        let all: Vec<String> = self.members.iter().map(|member| format!("{}={}", member.name, peer(member))).collect();
        let member = &self.members[at];
        let (folder, name) = (member.folder.path().to_owned(), member.name.clone());
        let (peer, client) = (peer(member), format!("http://{}:2379", member.address));
        let child = member.space.run(move || {
            let log = File::options().create(true).append(true).open(folder.join("log")).unwrap();
            let mut etcd = Command::new(netd_rig::parts::etcd().unwrap());
            etcd.args(["--name", &name, "--data-dir"]).arg(folder.join("data"));
            etcd.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
            etcd.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
            etcd.args(["--initial-cluster", &all.join(","), "--logger", "zap"]);
            etcd.stdout(Stdio::null()).stderr(log).process_group(0).spawn().unwrap()
        });
        self.members[at].child = Some(child);
    }

    pub(crate) fn kill(&mut self, at: usize) {
        self.members[at].end();
    }

    pub(crate) fn kill_all(&mut self) {
        self.members.iter_mut().for_each(Member::end);
    }

    /// The member stands still, its connections open.
    pub(crate) fn halt(&self, at: usize) {
        kill(self.members[at].pid(), Signal::SIGSTOP).unwrap();
    }

    pub(crate) fn go_on(&self, at: usize) {
        kill(self.members[at].pid(), Signal::SIGCONT).unwrap();
    }

    /// Every time that the member waits for its disk it waits for `delay` more.
    pub(crate) fn slow(&self, nodes: &Nodes, at: usize, delay: Duration) -> Slow {
        let log = self.members[at].folder.path().join("strace");
        let inject = format!("inject=fsync,fdatasync:delay_enter={}", delay.as_micros());
        let pid = self.members[at].pid().to_string();
        let mut strace = Command::new(netd_rig::parts::strace().unwrap());
        strace.args(["-f", "-q", "-e", "trace=fsync,fdatasync", "-e", &inject, "-p", &pid, "-o"]).arg(&log);
        let tracer = strace.stdin(Stdio::null()).stderr(Stdio::null()).process_group(0).spawn().unwrap();
        soon("the disk is slow", || {
            self.stir(nodes);
            fs::read_to_string(&log).is_ok_and(|text| text.contains("DELAYED"))
        });
        Slow { tracer }
    }

    /// The member that leads, as those that are asked say.
    pub(crate) fn leader(&self, nodes: &Nodes) -> Option<usize> {
        let says = |member: &Member| member.post(nodes, "/v3/maintenance/status", "{}");
        let said: Vec<Option<String>> = self.members.iter().map(says).collect();
        said.iter().position(|text| {
            let number = |key: &str| text.as_deref().and_then(|text| field(text, key));
            number("member_id").is_some() && number("member_id") == number("leader")
        })
    }

    /// The same, once there is one.
    pub(crate) fn leads(&self, nodes: &Nodes) -> usize {
        soon("the members agree", || self.leader(nodes).is_some());
        (0..TRIES).find_map(|_| self.leader(nodes)).unwrap()
    }

    /// Forgets every revision but the last.
    pub(crate) fn compact(&self, nodes: &Nodes) {
        let any = |path: &str, body: &str| self.members.iter().find_map(|member| member.post(nodes, path, body));
        let ask = |path: &str, body: &str| (0..TRIES).find_map(|_| any(path, body)).unwrap();
        let revision = field(&ask("/v3/kv/range", r#"{"key":"AA=="}"#), "revision").unwrap();
        ask("/v3/kv/compaction", &format!("{{\"revision\":\"{revision}\",\"physical\":true}}"));
    }

    /// Changes something that is nobody's.
    pub(crate) fn stir(&self, nodes: &Nodes) {
        let put = |member: &Member| member.post(nodes, "/v3/kv/put", r#"{"key":"eA==","value":"eA=="}"#);
        drop(self.members.iter().find_map(put));
    }
}

impl Member {
    fn pid(&self) -> Pid {
        pid(self.child.as_ref().unwrap())
    }

    fn end(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Asks from the link itself, which no partition reaches.
    fn post(&self, nodes: &Nodes, path: &str, body: &str) -> Option<String> {
        self.child.as_ref()?;
        let (address, path, body) = (format!("{}:2379", self.address), path.to_owned(), body.to_owned());
        let answer = nodes.underlay.run(move || {
            let mut stream = TcpStream::connect_timeout(&address.parse().unwrap(), PATIENCE).ok()?;
            stream.set_read_timeout(Some(PATIENCE)).ok()?;
            let head =
                format!("POST {path} HTTP/1.1\r\nHost: e\r\nConnection: close\r\nContent-Length: {}", body.len());
            stream.write_all(format!("{head}\r\n\r\n{body}").as_bytes()).ok()?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).ok()?;
            Some(answer)
        })?;
        answer.starts_with("HTTP/1.1 200").then_some(answer)
    }
}

fn pid(child: &Child) -> Pid {
    Pid::from_raw(i32::try_from(child.id()).unwrap())
}

/// A number in an answer.
fn field(text: &str, key: &str) -> Option<String> {
    let (_, rest) = text.split_once(&format!("\"{key}\":\""))?;
    Some(rest.split_once('"')?.0.to_owned())
}

impl Drop for Slow {
    fn drop(&mut self) {
        // It lets go of the member and ends.
        kill(pid(&self.tracer), Signal::SIGINT).unwrap();
        drop(self.tracer.wait());
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.kill_all();
    }
}
