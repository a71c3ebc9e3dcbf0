//! nerdctl's port reserver: its hook has a process of the container's listen on each published port before it asks us.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use netd_config::{ContainerId, Protocol};
use netd_kernel::Publication;

/// Whether the process that reserves this container's ports has this one. Its number is in
/// `<namespace>/<id>/port-reserver.pid`; the CNI container id is `<namespace>-<id>`, and an id has no `-`.
pub(super) fn holds(nerdctl: &Path, container: &ContainerId, publication: Publication) -> bool {
    let Some((namespace, id)) = container.as_str().rsplit_once('-') else { return false };
    let file = nerdctl.join(namespace).join(id).join("port-reserver.pid");
    let Some(pid) = fs::read_to_string(file).ok().and_then(|text| text.trim().parse::<u32>().ok()) else {
        return false;
    };
    let inodes = listening(pid, publication);
    !inodes.is_empty() && has_socket(pid, &inodes)
}

/// Inodes of the sockets on this port, in the namespace of the process (proc_net(5)).
fn listening(pid: u32, publication: Publication) -> Vec<String> {
    let protocol = match publication.protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
        Protocol::Sctp => return Vec::new(),
    };
    let wide = if publication.address.is_ipv6() { "6" } else { "" };
    let table = fs::read_to_string(format!("/proc/{pid}/net/{protocol}{wide}")).unwrap_or_default();
    table.lines().skip(1).filter_map(|line| inode(line, publication)).collect()
}

/// Fields of a line: number, local address, remote address, state, ..., inode (the tenth).
fn inode(line: &str, publication: Publication) -> Option<String> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let (address, port) = fields.get(1)?.split_once(':')?;
    if u16::from_str_radix(port, 16).ok()? != publication.port {
        return None;
    }
    let covers = match publication.address {
        IpAddr::V4(wanted) => {
            let found = Ipv4Addr::from(u32::from_str_radix(address, 16).ok()?.to_ne_bytes());
            found.is_unspecified() || found == wanted || wanted.is_unspecified()
        }
        IpAddr::V6(_) => true,
    };
    covers.then(|| fields.get(9).map(|inode| (*inode).to_owned())).flatten()
}

fn has_socket(pid: u32, inodes: &[String]) -> bool {
    let links = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let mut targets = links.filter_map(|link| fs::read_link(link.path()).ok());
    targets.any(|target| inodes.iter().any(|inode| target.as_os_str() == format!("socket:[{inode}]").as_str()))
}
