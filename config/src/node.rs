//! `netd.toml`: the node's settings.

mod fleet;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use toml::de::DeTable;

use crate::error::{ConfigErrors, Mistake};

pub use fleet::{Addresses, Encapsulation, EtcdConfig, FleetConfig, ListedNode, PoolConfig};

/// The node's settings, each with its default.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeConfig {
    /// Two instances on one node need two names.
    pub instance: String,
    /// State that ends with the boot.
    pub run_dir: String,
    /// State that outlives a boot.
    pub state_dir: String,
    /// Where the API listens; where nothing is said, `netd.sock` in `run_dir`, which is where netd-cni looks for it.
    #[serde(default = "String::new")]
    pub socket: String,
    /// First letters of the links that netd makes; at most 4 bytes.
    pub link_prefix: String,
    /// Threads of the daemon's runtime. One request passes between its tasks: with several threads, from one to the other and
    /// back. More of them only help who sends much to ports that netd has to proxy.
    pub workers: usize,
    /// Directories of network configuration files, which are watched; of two networks of one name the first holds.
    pub conf_dirs: Vec<String>,
    /// containerd's socket, which need not be there; empty: containerd is never asked.
    pub containerd_socket: String,
    /// Directory of policy files, which is watched.
    pub policies_dir: String,
    /// What becomes of packets that policies deny.
    pub denied: Denied,
    /// Sandboxes send by their own MAC and addresses only.
    pub spoof_guard: bool,
    /// When a container whose labels are still to be said passes no packet.
    pub quarantine: Quarantine,
    /// What becomes of other programs' firewalls that drop what containers send and get.
    pub coexist: Coexist,
    /// What policies select namespaces by.
    pub namespaces: Namespaces,
    /// The nodes that share ranges of addresses with this one.
    pub fleet: FleetConfig,
}

/// Namespaces by name: pods', and those of containerd.
pub type Namespaces = BTreeMap<String, Namespace>;

/// What is known of a namespace. One that is not named here has no labels of its own.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Namespace {
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

/// What becomes of packets that policies deny.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Denied {
    /// TCP is reset, and everything else answered by ICMP: programs fail at once.
    #[default]
    Answered,
    /// They vanish: programs fail by their own patience.
    Dropped,
}

/// When a container whose labels are still to be said passes no packet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Quarantine {
    /// While a policy is in force: without its labels, nobody knows which policies are the container's.
    #[default]
    Policies,
    /// Always.
    Always,
    /// Never: until its labels are said, no policy is the container's.
    Never,
}

impl Quarantine {
    /// Whether such containers are held back now.
    #[must_use]
    pub fn holds(self, is_any_policy_in_force: bool) -> bool {
        match self {
            Self::Policies => is_any_policy_in_force,
            Self::Always => true,
            Self::Never => false,
        }
    }
}

/// What becomes of other programs' firewalls that drop what containers send and get.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Coexist {
    /// They are told, each with what lets containers pass.
    #[default]
    Report,
    /// One marked rule in each that netd knows lets containers pass.
    Insert,
}

/// Of it comes the name of a chain in iptables' tables, `INSTANCE-forward`, of which iptables reads 28 characters.
const LONGEST_INSTANCE: usize = 20;

const RUN_DIR: &str = "/run/netd";

const KEYS: [&str; 15] = [
    "instance",
    "run_dir",
    "state_dir",
    "socket",
    "link_prefix",
    "workers",
    "conf_dirs",
    "containerd_socket",
    "policies_dir",
    "denied",
    "spoof_guard",
    "quarantine",
    "coexist",
    "namespaces",
    "fleet",
];

impl Default for NodeConfig {
    fn default() -> Self {
        Self {
            instance: "netd".to_owned(),
            run_dir: RUN_DIR.to_owned(),
            state_dir: "/var/lib/netd".to_owned(),
            socket: socket_in(RUN_DIR),
            link_prefix: "nd".to_owned(),
            workers: 1,
            conf_dirs: vec!["/etc/cni/net.d".to_owned()],
            containerd_socket: "/run/containerd/containerd.sock".to_owned(),
            policies_dir: "/etc/netd/policies".to_owned(),
            denied: Denied::default(),
            spoof_guard: true,
            quarantine: Quarantine::default(),
            coexist: Coexist::default(),
            namespaces: Namespaces::default(),
            fleet: FleetConfig::default(),
        }
    }
}

impl NodeConfig {
    /// Reads the text of `file_name`.
    ///
    /// # Errors
    /// What is wrong, where, and what to write instead.
    pub fn parse(file_name: &str, text: &str) -> Result<Self, ConfigErrors> {
        let mut mistakes = unknown_keys(text);
        match toml::from_str::<Self>(text) {
            Ok(mut config) => {
                if config.socket.is_empty() {
                    config.socket = socket_in(&config.run_dir);
                }
                mistakes.extend(config.mistakes());
                if mistakes.is_empty() { Ok(config) } else { Err(ConfigErrors::new(file_name, mistakes)) }
            }
            Err(error) => {
                mistakes.push(unreadable(text, &error));
                Err(ConfigErrors::new(file_name, mistakes))
            }
        }
    }

    /// Where netd listens, as this text says, whatever else is wrong with it.
    #[must_use]
    pub fn socket_of(text: &str) -> String {
        let table: toml::Table = text.parse().unwrap_or_default();
        let said = |key| table.get(key).and_then(toml::Value::as_str).filter(|said| !said.is_empty());
        let run_dir = said("run_dir").unwrap_or(RUN_DIR);
        said("socket").map_or_else(|| socket_in(run_dir), str::to_owned)
    }

    fn mistakes(&self) -> Vec<Mistake> {
        let mut mistakes = Vec::new();
        let instance = &self.instance;
        let is_of_names = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if !(1..=LONGEST_INSTANCE).contains(&instance.len()) || !instance.chars().all(is_of_names) {
            let rule = format!("must be 1 to {LONGEST_INSTANCE} letters, digits, '-' or '_'");
            mistakes.push(mistake("instance", format!("{instance:?} {rule}")));
        }
        let prefix = &self.link_prefix;
        if prefix.is_empty() || prefix.len() > 4 || !prefix.chars().all(|c| c.is_ascii_alphanumeric()) {
            mistakes.push(mistake("link_prefix", format!("{prefix:?} must be 1 to 4 letters or digits")));
        }
        if self.workers == 0 {
            mistakes.push(mistake("workers", "0 threads do no work; use 1 or more".to_owned()));
        }
        let folders = self.conf_dirs.iter().enumerate().map(|(at, path)| (format!("conf_dirs[{at}]"), path));
        let fixed = [
            ("run_dir", &self.run_dir),
            ("state_dir", &self.state_dir),
            ("socket", &self.socket),
            ("policies_dir", &self.policies_dir),
        ];
        let fixed = fixed.map(|(key, path)| (key.to_owned(), path));
        let containerd = ("containerd_socket".to_owned(), &self.containerd_socket);
        let containerd = (!containerd.1.is_empty()).then_some(containerd);
        for (key, path) in fixed.into_iter().chain(folders).chain(containerd) {
            if !path.starts_with('/') {
                mistakes.push(mistake(&key, format!("{path:?} is not absolute; start it with /")));
            }
        }
        mistakes.extend(self.fleet.mistakes());
        mistakes
    }
}

fn socket_in(run_dir: &str) -> String {
    format!("{}/netd.sock", run_dir.trim_end_matches('/'))
}

fn mistake(path: &str, message: String) -> Mistake {
    Mistake { path: path.to_owned(), message, code: 7 }
}

/// Nothing where the text is no TOML: that is said once, by whoever reads the values.
fn unknown_keys(text: &str) -> Vec<Mistake> {
    let Ok(table) = DeTable::parse(text) else { return Vec::new() };
    let unknown = table.get_ref().keys().filter(|key| !KEYS.contains(&key.get_ref().as_ref()));
    let mut unknown: Vec<_> = unknown.map(|key| (key.span().start, key.get_ref().to_string())).collect();
    unknown.sort();
    let told = |(start, key): (usize, String)| {
        let known = KEYS.join(", ");
        mistake(&key, format!("unknown key in line {}; use one of {known}, or remove it", line(text, start)))
    };
    unknown.into_iter().map(told).collect()
}

fn unreadable(text: &str, error: &toml::de::Error) -> Mistake {
    let place = error.span().map_or_else(String::new, |span| {
        let at = line(text, span.start);
        format!("line {at} ({}): ", text.lines().nth(at - 1).unwrap_or_default().trim())
    });
    // The library breaks its text into lines, and names types of this language.
    let message = error.message().lines().collect::<Vec<_>>().join(", ");
    let message = message.replace("expected u8", "expected a whole number from 0 to 255");
    let message = ["expected usize", "expected u64"].iter().fold(message, |said, kind| said.replace(kind, WHOLE));
    mistake("", format!("{place}{message}; correct it there"))
}

const WHOLE: &str = "expected a whole number, 0 or more";

/// Counted from 1.
fn line(text: &str, offset: usize) -> usize {
    1 + text.bytes().take(offset).filter(|byte| *byte == b'\n').count()
}

#[cfg(test)]
mod tests {
    use super::{Coexist, KEYS, NodeConfig, Quarantine};

    fn error(text: &str) -> String {
        NodeConfig::parse("netd.toml", text).unwrap_err().to_string()
    }

    #[test]
    fn the_list_of_keys_is_whole() {
        let table = toml::Table::try_from(NodeConfig::default()).unwrap();
        let mut keys = KEYS.to_vec();
        keys.sort_unstable();
        assert_eq!(table.keys().map(String::as_str).collect::<Vec<_>>(), keys);
    }

    #[test]
    fn what_is_left_out_has_its_default() {
        let config = NodeConfig::parse("netd.toml", "workers = 4\n").unwrap();
        assert_eq!(config, NodeConfig { workers: 4, ..NodeConfig::default() });
        assert_eq!(config.conf_dirs, ["/etc/cni/net.d"]);
        let two = NodeConfig::parse("netd.toml", "conf_dirs = ['/a', '/b']").unwrap();
        assert_eq!(two.conf_dirs, ["/a", "/b"]);
        assert!(NodeConfig::parse("netd.toml", "conf_dirs = []").unwrap().conf_dirs.is_empty());
        assert_eq!(config.containerd_socket, "/run/containerd/containerd.sock");
        assert!(NodeConfig::parse("netd.toml", "containerd_socket = ''").unwrap().containerd_socket.is_empty());
        let never = NodeConfig::parse("netd.toml", "quarantine = 'never'").unwrap();
        assert_eq!(never.quarantine, Quarantine::Never);
        assert_eq!(NodeConfig::parse("netd.toml", "coexist = 'insert'").unwrap().coexist, Coexist::Insert);
        let second = NodeConfig::parse("netd.toml", "run_dir = '/run/two/'").unwrap();
        assert_eq!(second.socket, "/run/two/netd.sock", "where netd-cni looks");
        assert_eq!(NodeConfig::parse("netd.toml", "socket = '/s'\nrun_dir = '/r'").unwrap().socket, "/s");
        for instance in ["", "a b", "äh", "a/b", "abcdefghijklmnopqrstu"] {
            let said = error(&format!("instance = '{instance}'"));
            assert_eq!(said, format!("netd.toml: instance: {instance:?} must be 1 to 20 letters, digits, '-' or '_'"));
        }
        assert!(NodeConfig::parse("netd.toml", "instance = 'abcdefghij-lmnopqr_t'").is_ok());
        assert!(error("containerd_socket = 'a'").contains("containerd_socket: \"a\" is not absolute"));
    }

    #[test]
    fn where_netd_listens_is_found_beside_other_mistakes() {
        for (text, expected) in [
            ("", "/run/netd/netd.sock"),
            ("run_dir = '/r'", "/r/netd.sock"),
            ("wrokers = 4\nworkers = 'many'\nsocket = '/s'\nrun_dir = '/r'", "/s"),
            ("socket = 7", "/run/netd/netd.sock"),
            ("no toml", "/run/netd/netd.sock"),
        ] {
            assert_eq!(NodeConfig::socket_of(text), expected, "{text}");
            let read = NodeConfig::parse("netd.toml", text);
            assert!(read.is_err() || read.unwrap().socket == expected, "{text}");
        }
    }

    #[test]
    fn all_mistakes_are_told_with_their_place() {
        assert_eq!(
            error(
                "# x\ncolour = 1\nworkers = 0\nsocket = 'a'\nconf_dirs = ['/a', 'b']\npolicies_dir = 'p'\n[shade]\nx = 1\n"
            ),
            "netd.toml: colour: unknown key in line 2; use one of instance, run_dir, state_dir, socket, link_prefix, workers, conf_dirs, containerd_socket, policies_dir, denied, spoof_guard, quarantine, coexist, namespaces, fleet, or remove it; \
             netd.toml: shade: unknown key in line 7; use one of instance, run_dir, state_dir, socket, link_prefix, workers, conf_dirs, containerd_socket, policies_dir, denied, spoof_guard, quarantine, coexist, namespaces, fleet, or remove it; \
             netd.toml: workers: 0 threads do no work; use 1 or more; \
             netd.toml: socket: \"a\" is not absolute; start it with /; \
             netd.toml: policies_dir: \"p\" is not absolute; start it with /; \
             netd.toml: conf_dirs[1]: \"b\" is not absolute; start it with /"
        );
    }

    #[test]
    fn what_holds_back_is_said_by_one_key() {
        let table = [
            (Quarantine::Policies, false, false),
            (Quarantine::Policies, true, true),
            (Quarantine::Always, false, true),
            (Quarantine::Never, true, false),
        ];
        for (setting, policies, expected) in table {
            assert_eq!(setting.holds(policies), expected, "{setting:?} with policies: {policies}");
        }
        let text = error("quarantine = 'sometimes'");
        assert!(text.contains("line 1") && text.contains("`policies`, `always`, `never`"), "{text}");
        let text = error("coexist = 'flush'");
        assert!(text.contains("line 1") && text.contains("`report` or `insert`"), "{text}");
    }

    #[test]
    fn namespaces_have_labels_and_nothing_else() {
        let config = NodeConfig::parse("netd.toml", "[namespaces.shop]\nlabels = { tier = 'front' }\n").unwrap();
        assert_eq!(config.namespaces["shop"].labels["tier"], "front");
        assert!(error("[namespaces.shop]\nlabel = {}\n").contains("line 2 (label = {}): unknown field `label`"));
    }

    #[test]
    fn what_cannot_be_read_is_told_with_its_line() {
        let text = error("\nworkers = \"many\"\n");
        let expected = "netd.toml: line 2 (workers = \"many\"): invalid type: string \"many\", expected a whole number, 0 or more; correct it there";
        assert_eq!(text, expected);
        let text = error("instance = 'a'\n\nsocket = \n");
        assert!(text.starts_with("netd.toml: line 3 (socket =): ") && !text.contains('\n'), "{text}");
        let text = error("workers = 1\nworkers = 2\n");
        assert!(text.starts_with("netd.toml: line 2 (workers = 2): duplicate key"), "{text}");
        let text = error("shade = 1\nconf_dirs = '/etc'\n");
        assert!(
            text.contains("shade: unknown key in line 1") && text.contains("netd.toml: line 2 (conf_dirs = '/etc'): "),
            "{text}"
        );
    }
}
