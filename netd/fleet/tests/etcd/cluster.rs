//! Real etcd members on the loopback of a network namespace of their own.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use netd_rig::{Place, parts};
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Cluster {
    pub(crate) place: Place,
    pub(crate) folder: TempDir,
    members: Vec<Member>,
    arguments: Vec<String>,
    scheme: &'static str,
}

struct Member {
    name: String,
    client: u16,
    peer: u16,
    child: Option<Child>,
}

impl Cluster {
    pub(crate) fn start(count: u16) -> Self {
        Self::start_with(count, "http", |_| Vec::new())
    }

    pub(crate) fn start_with(count: u16, scheme: &'static str, arguments: impl FnOnce(&Path) -> Vec<String>) -> Self {
        let place = Place::fresh().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let member =
            |at: u16| Member { name: format!("m{at}"), client: 2379 + 10 * at, peer: 2380 + 10 * at, child: None };
        let members = (0..count).map(member).collect();
        let arguments = arguments(folder.path());
        let mut cluster = Self { place, folder, members, arguments, scheme };
        (0..cluster.members.len()).for_each(|at| cluster.launch(at));
        cluster.wait();
        cluster
    }

    pub(crate) fn endpoints(&self) -> Vec<String> {
        self.members.iter().map(|member| format!("{}://127.0.0.1:{}", self.scheme, member.client)).collect()
    }

    pub(crate) fn data(&self, at: usize) -> PathBuf {
        self.folder.path().join(&self.members[at].name)
    }

    pub(crate) fn launch(&mut self, at: usize) {
        let peer = |member: &Member| format!("http://127.0.0.1:{}", member.peer);
        let all: Vec<_> = self.members.iter().map(|member| format!("{}={}", member.name, peer(member))).collect();
        let member = &self.members[at];
        let client = format!("{}://127.0.0.1:{}", self.scheme, member.client);
        let log = fs::File::create(self.folder.path().join(format!("{}.log", member.name))).unwrap();
        let mut command = Command::new(parts::etcd().unwrap());
        command
            .args(["--name", &member.name, "--data-dir"])
            .arg(self.data(at))
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer(member), "--initial-advertise-peer-urls", &peer(member)])
            .args(["--initial-cluster", &all.join(","), "--logger", "zap"])
            .args(&self.arguments)
            .stdout(Stdio::null())
            .stderr(log);
        self.members[at].child = Some(self.place.spawn(&mut command).unwrap());
    }

    pub(crate) fn kill(&mut self, at: usize) {
        if let Some(mut child) = self.members[at].child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Until every running member listens.
    pub(crate) fn wait(&self) {
        let end = Instant::now() + PATIENCE;
        for member in self.members.iter().filter(|member| member.child.is_some()) {
            let connect = || TcpStream::connect(("127.0.0.1", member.client)).is_ok();
            while !self.place.run(connect).unwrap() {
                assert!(Instant::now() < end, "{} does not listen", member.name);
                sleep(Duration::from_millis(20));
            }
        }
    }

    /// Asks the first member something that is no part of the client under test.
    pub(crate) fn post(&self, path: &str, body: &str) -> String {
        let answer = self.ask(path, body);
        assert!(answer.starts_with("HTTP/1.1 200"), "{path}: {answer}");
        answer
    }

    fn ask(&self, path: &str, body: &str) -> String {
        let port = self.members[0].client;
        let ask = || {
            let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
            let length = body.len();
            write!(
                stream,
                "POST {path} HTTP/1.1\r\nHost: e\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
            )
            .unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            answer
        };
        self.place.run(ask).unwrap()
    }

    /// As if nobody had kept one alive.
    pub(crate) fn end_leases(&self) {
        let answer = self.post("/v3/lease/leases", "{}");
        for part in answer.split("\"ID\":\"").skip(1) {
            let (id, _) = part.split_once('"').unwrap();
            self.post("/v3/lease/revoke", &format!("{{\"ID\":\"{id}\"}}"));
        }
    }

    /// What stands by a key below the prefix, as etcd's gateway writes it.
    pub(crate) fn value(&self, key: &str) -> Option<String> {
        let answer = self.post("/v3/kv/range", &format!("{{\"key\":\"{}\"}}", base64(&format!("/netd/{key}"))));
        let (_, rest) = answer.split_once("\"value\":\"")?;
        rest.split_once('"').map(|(value, _)| value.to_owned())
    }

    /// As somebody writes it by hand.
    pub(crate) fn put(&self, key: &str, value: &str) {
        let (key, value) = (base64(&format!("/netd/{key}")), base64(value));
        self.post("/v3/kv/put", &format!("{{\"key\":\"{key}\",\"value\":\"{value}\"}}"));
    }

    pub(crate) fn remove(&self, key: &str) {
        self.post("/v3/kv/deleterange", &format!("{{\"key\":\"{}\"}}", base64(&format!("/netd/{key}"))));
    }

    /// Fills it with what is nobody's, until it takes nothing more.
    pub(crate) fn fill(&self) {
        let body = format!("{{\"key\":\"{}\",\"value\":\"{}\"}}", base64("filler"), base64(&"x".repeat(1 << 20)));
        let is_taken = |_: &u32| self.ask("/v3/kv/put", &body).starts_with("HTTP/1.1 200");
        assert!((0..50).take_while(is_taken).count() < 50, "there is no quota");
    }

    /// As an operator does who is told that it is full.
    pub(crate) fn make_room(&self) {
        self.compact();
        self.post("/v3/maintenance/defragment", "{}");
        let alarms = self.post("/v3/maintenance/alarm", r#"{"action":"GET"}"#);
        for part in alarms.split("\"memberID\":\"").skip(1) {
            let (member, _) = part.split_once('"').unwrap();
            let body = format!("{{\"action\":\"DEACTIVATE\",\"memberID\":\"{member}\",\"alarm\":\"NOSPACE\"}}");
            self.post("/v3/maintenance/alarm", &body);
        }
    }

    /// Forgets every revision but the last.
    pub(crate) fn compact(&self) {
        let answer = self.post("/v3/kv/range", r#"{"key":"AA=="}"#);
        let (_, rest) = answer.split_once("\"revision\":\"").unwrap();
        let (revision, _) = rest.split_once('"').unwrap();
        self.post("/v3/kv/compaction", &format!("{{\"revision\":\"{revision}\",\"physical\":true}}"));
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        (0..self.members.len()).for_each(|at| self.kill(at));
    }
}

fn base64(text: &str) -> String {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let of = |three: &[u8]| {
        let bits = (0..3).fold(0, |bits, at| bits << 8 | usize::from(three.get(at).copied().unwrap_or_default()));
        let digit = |at: usize| if at <= three.len() { char::from(DIGITS[bits >> (18 - 6 * at) & 63]) } else { '=' };
        (0..4).map(digit).collect::<String>()
    };
    text.as_bytes().chunks(3).map(of).collect()
}

pub(crate) fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}
