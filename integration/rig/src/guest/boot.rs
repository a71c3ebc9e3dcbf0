//! The command that starts a guest. What the guest then does is `init.sh`'s.

use std::path::Path;
use std::process::Command;

use anyhow::Result;

use super::{First, Guest};
use crate::parts;

/// Memory of a guest: its root's changes are in it too.
const MEMORY: &str = "2G";
/// A processor of a guest that the kernel itself keeps from all else for two minutes does not come back: the guest ends, and its
/// console says where both processors were.
const LOCKUP: &str = "watchdog_thresh=60 softlockup_panic=1 sysctl.kernel.softlockup_all_cpu_backtrace=1";

pub(super) fn command(guest: Guest, first: First, exchange: &Path) -> Result<Command> {
    match guest {
        Guest::UserMode => Ok(user_mode(first, exchange, &parts::user_mode_linux()?)),
        Guest::Debian => Ok(debian(first, exchange, &parts::debian_kernel()?)),
    }
}

fn user_mode(first: First, exchange: &Path, modules: &Path) -> Command {
    let mut linux = Command::new("linux.uml");
    linux.arg(format!("mem={MEMORY}")).args(["root=none", "rootfstype=hostfs", "ro", "quiet"]);
    linux.args(["con=null", "con0=null,fd:1"]).arg(format!("init={}/init", exchange.display()));
    linux.args(variables(first, exchange, modules, "hostfs"));
    linux
}

/// Emulated wholly: a machine that lets its guests have guests of their own is rare, and one that says so and then hangs is
/// worse.
fn debian(first: First, exchange: &Path, kernel: &Path) -> Command {
    let mut qemu = Command::new("qemu-system-x86_64");
    qemu.args(["-accel", "tcg,thread=multi", "-smp", "2", "-m", MEMORY]);
    qemu.args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-serial", "stdio"]);
    qemu.arg("-kernel").arg(kernel.join("vmlinuz")).arg("-initrd").arg(kernel.join("initrd"));
    // On a busy machine the emulated timer is late, and the kernel would take it for broken.
    let line = [format!("console=ttyS0 loglevel=5 panic=-1 mitigations=off no_timer_check {LOCKUP}")];
    let line: Vec<String> = line.into_iter().chain(variables(first, exchange, kernel, "9p")).collect();
    qemu.arg("-append").arg(line.join(" "));
    share(&mut qemu, "machine", Path::new("/"), ",readonly=on");
    share(&mut qemu, "exchange", exchange, "");
    qemu
}

fn share(qemu: &mut Command, tag: &str, folder: &Path, option: &str) {
    let folder = folder.display();
    qemu.arg("-fsdev").arg(format!("local,id={tag},path={folder},security_model=none,multidevs=remap{option}"));
    qemu.arg("-device").arg(format!("virtio-9p-pci,fsdev={tag},mount_tag={tag}"));
}

fn variables(first: First, exchange: &Path, modules: &Path, share: &str) -> [String; 4] {
    let first = match first {
        First::Shell => "shell",
        First::Systemd => "systemd",
    };
    [
        format!("netd_first={first}"),
        format!("netd_exchange={}", exchange.display()),
        format!("netd_modules={}", modules.display()),
        format!("netd_share={share}"),
    ]
}
