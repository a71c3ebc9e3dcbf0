//! nerdctl's port reserver: its hook has a process of the container's listen on each published port before it asks us.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use netd_config::{ContainerId, Protocol};
use netd_kernel::Publication;

/// The process that reserves a container's ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reserver {
    pid: u32,
    /// Ticks since the boot: another process of this number has begun at another time.
    started: u64,
}

impl Reserver {
    /// Its number is in `<namespace>/<id>/port-reserver.pid`; the CNI container id is `<namespace>-<id>`, and an id has no `-`.
    pub(super) fn of(nerdctl: &Path, container: &ContainerId) -> Option<Self> {
        let (namespace, id) = container.as_str().rsplit_once('-')?;
        let file = nerdctl.join(namespace).join(id).join("port-reserver.pid");
        let pid = fs::read_to_string(file).ok()?.trim().parse().ok()?;
        Some(Self { pid, started: started(pid)? })
    }

    pub(super) fn lives(self) -> bool {
        started(self.pid) == Some(self.started)
    }

    /// Which of these it has. Reads the tables of all sockets in its namespace, each once.
    pub(super) fn held_of(self, publications: &[Publication]) -> BTreeSet<Publication> {
        let own = self.sockets();
        let mut held = BTreeSet::new();
        for table in ["tcp", "tcp6", "udp", "udp6"] {
            let wanted: Vec<&Publication> = publications.iter().filter(|one| table_of(one) == Some(table)).collect();
            if wanted.is_empty() || own.is_empty() {
                continue;
            }
            let text = fs::read_to_string(format!("/proc/{}/net/{table}", self.pid)).unwrap_or_default();
            let rows = text.lines().skip(1).filter_map(Row::read).filter(|row| own.contains(row.inode));
            held.extend(rows.flat_map(|row| wanted.iter().filter(move |one| row.covers(one))).map(|one| **one));
        }
        held
    }

    /// Inodes of its sockets.
    fn sockets(self) -> BTreeSet<String> {
        let links = fs::read_dir(format!("/proc/{}/fd", self.pid)).into_iter().flatten().flatten();
        let targets = links.filter_map(|link| fs::read_link(link.path()).ok()?.into_os_string().into_string().ok());
        let inode = |target: String| Some(target.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned());
        targets.filter_map(inode).collect()
    }
}

/// The 22nd field (proc_pid_stat(5)); the name, which is the second, may hold anything.
fn started(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

fn table_of(publication: &Publication) -> Option<&'static str> {
    match (publication.protocol, publication.address.is_ipv6()) {
        (Protocol::Tcp, false) => Some("tcp"),
        (Protocol::Tcp, true) => Some("tcp6"),
        (Protocol::Udp, false) => Some("udp"),
        (Protocol::Udp, true) => Some("udp6"),
        (Protocol::Sctp, _) => None,
    }
}

/// Of a table of sockets (proc_net(5)).
#[derive(Debug, Clone, Copy)]
struct Row<'a> {
    address: &'a str,
    port: &'a str,
    inode: &'a str,
}

impl<'a> Row<'a> {
    /// Fields of a line: number, local address, remote address, state, ..., inode (the tenth).
    fn read(line: &'a str) -> Option<Self> {
        let mut fields = line.split_whitespace();
        let (address, port) = fields.nth(1)?.split_once(':')?;
        Some(Self { address, port, inode: fields.nth(7)? })
    }

    fn covers(self, publication: &Publication) -> bool {
        if u16::from_str_radix(self.port, 16).ok() != Some(publication.port) {
            return false;
        }
        match publication.address {
            IpAddr::V4(wanted) => u32::from_str_radix(self.address, 16).is_ok_and(|found| {
                let found = Ipv4Addr::from(found.to_ne_bytes());
                found.is_unspecified() || found == wanted || wanted.is_unspecified()
            }),
            IpAddr::V6(_) => true,
        }
    }
}
