//! Gathers what `checks` judges. Reads files, asks netd, runs programs that only read; changes nothing on the node.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use super::admin::{self, AdminChain};
use super::containerd::{self, Containerd, OURS, said};
use super::firewall::{self, Firewalls};
use super::fleet::{self, Fleet};
use super::kernel::Kernel;
use super::neighbours::{self, Table};
use super::sysctl::{self, Sysctls};
use super::{Place, trial};
use crate::ask::{AskError, Netd};
use crate::model::{Network, Sandbox, Status};

/// Where the official `host-local` keeps its reservations.
const RESERVATIONS: &str = "/var/lib/cni/networks";
/// Where distributions and Kubernetes put the official plugins.
const OTHER_PLUGINS: [&str; 3] = ["/opt/cni/bin", "/usr/lib/cni", "/usr/libexec/cni"];

/// Everything that is judged.
#[derive(Debug, Clone)]
pub(crate) struct Facts {
    pub(crate) kernel: Kernel,
    pub(crate) sysctls: Sysctls,
    pub(crate) neighbours: Vec<Table>,
    pub(crate) netd: Result<Answers, String>,
    /// netd's socket: path, and its state if it is there.
    pub(crate) socket: (String, Option<Socket>),
    pub(crate) containerd: Containerd,
    pub(crate) nerdctl: Nerdctl,
    pub(crate) plugins: Plugins,
    pub(crate) firewalls: Firewalls,
    pub(crate) admin: Vec<AdminChain>,
    pub(crate) fleet: Fleet,
    pub(crate) reservations: Vec<Reservation>,
    /// Ids of the tasks that containerd runs, as CNI knows them.
    pub(crate) tasks: BTreeSet<String>,
}

/// What netd answered.
#[derive(Debug, Clone)]
pub(crate) struct Answers {
    pub(crate) status: Status,
    pub(crate) networks: Result<Vec<Network>, String>,
    pub(crate) sandboxes: Vec<Sandbox>,
}

impl Default for Answers {
    fn default() -> Self {
        Self { status: Status::default(), networks: Ok(Vec::new()), sandboxes: Vec::new() }
    }
}

/// A socket's file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Socket {
    pub(crate) is_socket: bool,
    pub(crate) owner: u32,
    /// Permission bits.
    pub(crate) mode: u32,
}

/// What was found of nerdctl.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Nerdctl {
    pub(crate) installed: bool,
    /// `cni_path` of /etc/nerdctl/nerdctl.toml.
    pub(crate) cni_path: Option<String>,
    /// Why that file cannot be read.
    pub(crate) error: Option<String>,
}

/// Folders of CNI plugins.
#[derive(Debug, Clone, Default)]
pub(crate) struct Plugins {
    /// Names in ours.
    pub(crate) ours: BTreeSet<String>,
    /// Others with a plugin `bridge` that is not ours.
    pub(crate) others: Vec<&'static str>,
}

/// An address that the official `host-local` holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reservation {
    pub(crate) file: String,
    pub(crate) container: String,
}

/// Gathers everything.
pub(crate) fn gather(place: &Place) -> Facts {
    let (processes, netd) = (processes(place), ask_netd(&place.socket));
    Facts {
        kernel: kernel(place),
        sysctls: sysctl::gather(place),
        neighbours: neighbours::gather(place),
        admin: admin::gather(place, netd.as_ref().ok()),
        netd,
        socket: (place.socket.display().to_string(), socket(&place.socket)),
        containerd: containerd::gather(place, &processes),
        nerdctl: nerdctl(place),
        plugins: plugins(place),
        firewalls: firewalls(place, &processes),
        fleet: fleet::gather(place),
        reservations: reservations(place),
        tasks: tasks(place),
    }
}

fn ask_netd(socket: &Path) -> Result<Answers, String> {
    let ask = || {
        let netd = Netd::connect(socket)?;
        let networks = netd.networks().map_err(|error| netd_api::chain(&error));
        Ok(Answers { status: netd.status()?, networks, sandboxes: netd.sandboxes()? })
    };
    ask().map_err(|error: AskError| netd_api::chain(&error))
}

fn socket(path: &Path) -> Option<Socket> {
    let found = fs::metadata(path).ok()?;
    Some(Socket { is_socket: found.file_type().is_socket(), owner: found.uid(), mode: found.mode() & 0o777 })
}

fn kernel(place: &Place) -> Kernel {
    let release = place.text("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned();
    let unpack = || said("gzip", &["-dc", &place.at("/proc/config.gz").to_string_lossy()]);
    let config = place.text(&format!("/boot/config-{release}")).or_else(unpack);
    let mut modules: BTreeSet<String> = place.names("/sys/module").into_iter().collect();
    for (list, end) in [("modules.builtin", ""), ("modules.dep", ":")] {
        let text = place.text(&format!("/lib/modules/{release}/{list}")).unwrap_or_default();
        modules.extend(text.lines().filter_map(|line| module_name(line, end)));
    }
    let trials = if place.is_host() { trial::run() } else { Default::default() };
    Kernel { release, config, modules, trials }
}

/// `kernel/net/veth.ko.xz: ...` is veth.
fn module_name(line: &str, end: &str) -> Option<String> {
    let path = if end.is_empty() { line } else { line.split_once(end)?.0 };
    let file = path.rsplit('/').next()?;
    Some(file.split_once(".ko")?.0.replace('-', "_"))
}

/// Names of all processes, as the kernel cuts them (15 bytes).
fn processes(place: &Place) -> Vec<String> {
    let is_process = |name: &String| name.bytes().all(|octet| octet.is_ascii_digit());
    let names = place.names("/proc").into_iter().filter(is_process);
    names.filter_map(|id| Some(place.text(&format!("/proc/{id}/comm"))?.trim().to_owned())).collect()
}

fn nerdctl(place: &Place) -> Nerdctl {
    let on_path = |folder: &&str| place.at(&format!("{folder}/nerdctl")).exists();
    let installed = ["/usr/local/bin", "/usr/bin", "/usr/local/sbin", "/usr/sbin"].iter().any(on_path);
    let Some(text) = place.text("/etc/nerdctl/nerdctl.toml") else {
        return Nerdctl { installed, ..Nerdctl::default() };
    };
    match text.parse::<toml::Table>() {
        Err(error) => Nerdctl { installed, cni_path: None, error: Some(error.to_string()) },
        Ok(table) => {
            let cni_path = table.get("cni_path").and_then(toml::Value::as_str).map(str::to_owned);
            Nerdctl { installed, cni_path, error: None }
        }
    }
}

fn plugins(place: &Place) -> Plugins {
    let target = |folder: &str| fs::canonicalize(place.at(&format!("{folder}/bridge"))).ok();
    let ours = target(OURS);
    let others = OTHER_PLUGINS.into_iter().filter(|folder| {
        let found = target(folder);
        found.is_some() && found != ours
    });
    Plugins { ours: place.names(OURS).into_iter().collect(), others: others.collect() }
}

fn firewalls(place: &Place, processes: &[String]) -> Firewalls {
    let runs = |program: &str| processes.iter().any(|name| name == program);
    let ufw = place.text("/etc/ufw/ufw.conf").unwrap_or_default();
    let active = [
        ("docker", runs("dockerd")),
        ("ufw", ufw.lines().any(|line| line.trim().eq_ignore_ascii_case("enabled=yes"))),
        ("firewalld", runs("firewalld")),
    ];
    let legacy = ["/proc/net/ip_tables_names", "/proc/net/ip6_tables_names"]
        .into_iter()
        .any(|file| place.text(file).unwrap_or_default().lines().any(|table| table == "filter"));
    let listed = place.is_host().then(|| said("nft", &["-j", "list", "chains"])).flatten();
    Firewalls {
        names: active.into_iter().filter_map(|(name, active)| active.then_some(name)).collect(),
        chains: listed.and_then(|text| firewall::chains(&text)),
        legacy,
    }
}

/// Files `<network>/<address>`, whose first line is the container's id.
fn reservations(place: &Place) -> Vec<Reservation> {
    let mut found = Vec::new();
    for network in place.names(RESERVATIONS) {
        let folder = format!("{RESERVATIONS}/{network}");
        // IPv6 addresses are written with `_` where a file system takes no colons.
        let is_address = |name: &String| name.replace('_', ":").parse::<std::net::IpAddr>().is_ok();
        for name in place.names(&folder).into_iter().filter(is_address) {
            let file = format!("{folder}/{name}");
            let container = place.text(&file).unwrap_or_default().lines().next().unwrap_or_default().trim().to_owned();
            found.push(Reservation { file, container });
        }
    }
    found
}

/// `/run/containerd/io.containerd.runtime.v2.task/<namespace>/<id>`: CRI calls CNI with the id, nerdctl and `ctr` with
/// `<namespace>-<id>`.
fn tasks(place: &Place) -> BTreeSet<String> {
    const TASKS: &str = "/run/containerd/io.containerd.runtime.v2.task";
    let mut found = BTreeSet::new();
    for namespace in place.names(TASKS) {
        for id in place.names(&format!("{TASKS}/{namespace}")) {
            found.insert(format!("{namespace}-{id}"));
            found.insert(id);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::{gather, module_name};
    use crate::doctor::Place;
    use crate::doctor::neighbours::{Family, Table};

    #[test]
    fn modules_are_named_as_the_kernel_names_them() {
        assert_eq!(module_name("kernel/drivers/net/veth.ko", ""), Some("veth".to_owned()));
        assert_eq!(module_name("kernel/net/nft-x.ko.xz: kernel/a.ko", ":"), Some("nft_x".to_owned()));
        assert_eq!(module_name("", ":"), None);
    }

    #[test]
    fn a_node_is_read_from_its_files() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write("proc/sys/kernel/osrelease", "6.1.0-9-amd64\n");
        write("boot/config-6.1.0-9-amd64", "CONFIG_VETH=m\n");
        write("lib/modules/6.1.0-9-amd64/modules.dep", "kernel/drivers/net/veth.ko:\n");
        write("proc/sys/net/ipv4/ip_forward", "1\n");
        write("proc/sys/net/ipv4/conf/all/rp_filter", "1\n");
        write("proc/sys/net/ipv4/neigh/default/gc_thresh3", "1024\n");
        write("proc/net/stat/arp_cache", "entries table_fulls\n00000010 00000000\n");
        write("proc/77/comm", "netd-hook\n");
        write("proc/78/comm", "dockerd\n");
        write("etc/containerd/config.toml", "version = 3\nimports = [\"conf.d/*.toml\"]\n");
        write("etc/containerd/conf.d/netd.toml", include_str!("../../../../packaging/containerd/netd.toml"));
        write("etc/nerdctl/nerdctl.toml", include_str!("../../../../packaging/nerdctl/nerdctl.toml"));
        for plugin in ["usr/libexec/netd/cni/bridge", "usr/lib/cni/bridge"] {
            write(plugin, "");
        }
        std::fs::create_dir_all(root.path().join("opt/cni/bin")).unwrap();
        let ours = root.path().join("usr/libexec/netd/cni/bridge");
        std::os::unix::fs::symlink(ours, root.path().join("opt/cni/bin/bridge")).unwrap();
        write("var/lib/cni/networks/bridge/10.4.0.7", "abc\r\neth0");
        write("var/lib/cni/networks/bridge/last_reserved_ip.0", "10.4.0.7");
        write("run/containerd/io.containerd.runtime.v2.task/default/abc/pid", "1");
        let place = Place { root: root.path().to_owned(), socket: root.path().join("netd.sock") };
        let facts = gather(&place);
        assert_eq!(facts.plugins.others, ["/usr/lib/cni"]);
        assert_eq!((facts.kernel.release.as_str(), facts.kernel.modules.contains("veth")), ("6.1.0-9-amd64", true));
        assert_eq!((facts.sysctls.ip_forward, facts.sysctls.rp_filter["all"]), (Some(1), 1));
        assert_eq!(facts.neighbours, [Table { family: Family::V4, most: 1_024, entries: 16, fulls: 0 }]);
        assert_eq!((facts.containerd.hook, facts.firewalls.names), (true, vec!["docker"]));
        let settings = facts.containerd.settings.unwrap();
        assert_eq!(settings.bin_dirs.unwrap()[0], "/usr/libexec/netd/cni");
        assert_eq!((settings.internal_loopback, settings.nri_disabled), (Some(true), Some(false)));
        assert_eq!(facts.containerd.newer_import, None);
        write("etc/containerd/config.toml", "version = 2\nimports = [\"conf.d/*.toml\"]\n");
        let newer = gather(&place).containerd.newer_import;
        assert_eq!(newer.as_deref(), Some("/etc/containerd/conf.d/netd.toml"));
        assert_eq!(facts.nerdctl.cni_path.as_deref(), Some("/usr/libexec/netd/cni"));
        let held: Vec<&str> = facts.reservations.iter().map(|one| one.container.as_str()).collect();
        assert_eq!((held, facts.tasks.contains("default-abc")), (vec!["abc"], true));
        assert!(facts.netd.unwrap_err().contains("there is no socket"));
    }
}
