//! Switches in `/proc/sys/net`: by which the node forwards packets, and those of its links.

use std::{fs, io};

use netd_config::LinkName;

use crate::object::{Family, Key, Object, Objects, Step};
use crate::seam::KernelError;

fn switch(family: Family) -> &'static str {
    match family {
        Family::V4 => "/proc/sys/net/ipv4/ip_forward",
        Family::V6 => "/proc/sys/net/ipv6/conf/all/forwarding",
    }
}

/// The switch decides whether it is on, the guard's element (if it was seen) whether it is guarded.
pub(super) fn observe(objects: &mut Objects) {
    for family in [Family::V4, Family::V6] {
        let key = Key::Forwarding(family);
        if is_on(family) {
            objects.entry(key).or_insert(Object::Forwarding { guarded: false });
        } else {
            objects.remove(&key);
        }
    }
}

fn is_on(family: Family) -> bool {
    fs::read_to_string(switch(family)).is_ok_and(|text| text.trim() == "1")
}

/// On, once its guard stands. It is never switched off: others may count on it.
pub(super) fn switch_on(step: &Step) -> Result<(), KernelError> {
    let (Step::Create(Key::Forwarding(family), _) | Step::Replace(Key::Forwarding(family), _)) = step else {
        return Ok(());
    };
    if is_on(*family) {
        return Ok(());
    }
    fs::write(switch(*family), "1").map_err(|source| match family {
        Family::V6 if source.kind() == io::ErrorKind::NotFound => KernelError::NoIpv6,
        Family::V4 | Family::V6 => KernelError::Refused { action: format!("switch {} on", switch(*family)), source },
    })
}

/// Set before the bridge goes up. The node takes no router's word from its sandboxes; its own link-local address works at
/// once (the first packet to a sandbox would wait for it, 1 to 2 s); replies may come by another way than the routes say;
/// and 127/8 reaches published ports (the ruleset drops it from everywhere else).
pub(super) const OF_BRIDGE: [Sysctl; 4] = [
    ("ipv4", "route_localnet", "1"),
    ("ipv4", "rp_filter", "2"),
    ("ipv6", "accept_ra", "0"),
    ("ipv6", "accept_dad", "0"),
];

/// A new link has what the node's `all` and `default` say, and with 1 it takes no IPv6 address.
pub(super) const WITH_IPV6: [Sysctl; 1] = [("ipv6", "disable_ipv6", "0")];

/// IP version, name and value of a link's switch.
pub(super) type Sysctl = (&'static str, &'static str, &'static str);

pub(super) fn set(name: &LinkName, sysctls: &[Sysctl]) -> Result<(), KernelError> {
    for (version, switch, value) in sysctls.iter().copied() {
        let path = format!("/proc/sys/net/{version}/conf/{name}/{switch}");
        match fs::write(&path, value) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && version == "ipv6" => {}
            written => written.map_err(|source| KernelError::Refused { action: format!("write {path}"), source })?,
        }
    }
    Ok(())
}

/// A bridge answers for addresses that are reached by another link; `proxy_delay` would have who asks wait up to 0.8 s.
pub(super) fn answer(bridge: &LinkName) -> Result<(), KernelError> {
    for (kind, switch, value) in [("neigh", "proxy_delay", "0"), ("conf", "proxy_arp", "1")] {
        let path = format!("/proc/sys/net/ipv4/{kind}/{bridge}/{switch}");
        match fs::write(&path, value) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            written => written.map_err(|source| KernelError::Refused { action: format!("write {path}"), source })?,
        }
    }
    Ok(())
}
