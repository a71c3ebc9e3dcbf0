//! The node's neighbours, as `ip` shows them. A program of its own: a child that is being started holds its parent's sockets
//! for a moment, and the ports of the other tests with them. Needs root.
#![expect(clippy::unwrap_used, reason = "helpers of tests stand outside of them")]

use std::process::Command;

use netd_config::LinkName;
use netd_kernel::{Bridge, Kernel, Key, LinuxKernel, Object, Step};
use nix::sched::{CloneFlags, unshare};

fn ip(line: &str) -> String {
    let output = Command::new("ip").args(line.split(' ')).output().unwrap();
    assert!(output.status.success(), "ip {line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_mac_of_an_addresss_last_holder_is_forgotten() {
    unshare(CloneFlags::CLONE_NEWNET).unwrap_or_else(|error| panic!("this test needs root (unshare: {error})"));
    let kernel = LinuxKernel::new("netd", "nd").unwrap();
    let bridge = LinkName::new("br0").unwrap();
    let addresses = vec!["10.4.0.1/24".parse().unwrap(), "fd00::1/64".parse().unwrap()];
    let object = Object::Bridge(Bridge { addresses, mtu: None, promisc: false, vlan_filtering: false });
    kernel.apply(&[Step::Create(Key::Bridge(bridge.clone()), object)], None).unwrap();
    for address in ["10.4.0.2", "10.4.0.3", "fd00::2", "fd00::3"] {
        ip(&format!("neigh add {address} lladdr 02:00:00:00:00:01 dev br0 nud reachable"));
    }
    for address in ["10.4.0.2", "fd00::2"] {
        kernel.forget(address.parse().unwrap(), Some(&bridge)).unwrap();
    }
    for (family, kept) in [("-4", "10.4.0.3 "), ("-6", "fd00::3 ")] {
        let known = ip(&format!("{family} neigh show dev br0 nud reachable"));
        assert!(known.starts_with(kept) && known.lines().count() == 1, "{known}");
    }
}
