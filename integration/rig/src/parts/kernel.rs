//! Kernels for guests: Debian's, unpacked with what its first moments need, and the modules of User-mode Linux. How they are
//! started is `guest`'s.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::debian;

/// The package that depends on the newest kernel of the machine's Debian.
pub(super) const PACKAGE: &str = "linux-image-amd64";
const USER_MODE_MODULES: &str = "/usr/lib/uml/modules";
const INITRD: &str = include_str!("initrd.sh");
/// What must be there to see the machine's files.
const TO_MOUNT: [&str; 3] = ["virtio_pci", "9pnet_virtio", "9p"];

/// Fills `folder` with `vmlinuz`, `initrd` and `lib/modules`.
pub(super) fn unpack(folder: &Path) -> Result<()> {
    let kernel = debian::dependency(PACKAGE)?;
    let package = debian::download(&kernel, folder)?;
    run(Command::new("dpkg-deb").arg("-x").arg(&package).arg(folder))?;
    fs::remove_file(package)?;
    let release = kernel.strip_prefix("linux-image-").context("a kernel's package bears its release")?;
    fs::rename(folder.join("boot").join(format!("vmlinuz-{release}")), folder.join("vmlinuz"))?;
    run(Command::new("depmod").arg("-b").arg(folder).arg(release))?;
    initrd(folder, release).context("cannot make the initrd")
}

/// Fills `folder` with `lib/modules`, as modprobe wants it.
pub(super) fn link_user_mode_modules(folder: &Path) -> Result<()> {
    fs::create_dir(folder.join("lib"))?;
    Ok(symlink(USER_MODE_MODULES, folder.join("lib/modules"))?)
}

fn initrd(folder: &Path, release: &str) -> Result<()> {
    let root = tempfile::tempdir()?;
    for name in ["bin", "dev", "modules", "root"] {
        fs::create_dir(root.path().join(name))?;
    }
    fs::copy("/bin/busybox", root.path().join("bin/busybox")).context("cannot copy busybox")?;
    for (number, module) in modules(folder, release)?.iter().enumerate() {
        // Loaded in the order of their names.
        fs::copy(module, root.path().join(format!("modules/{number:02}.ko")))
            .with_context(|| format!("cannot copy {module}"))?;
    }
    let init = root.path().join("init");
    fs::write(&init, INITRD)?;
    fs::set_permissions(&init, fs::Permissions::from_mode(0o755))?;
    let pack = format!("set -o pipefail; find . | busybox cpio -o -H newc > {}", folder.join("initrd").display());
    run(Command::new("bash").args(["-c", &pack]).current_dir(root.path()))
}

/// Files of the modules, each behind those that it needs.
fn modules(folder: &Path, release: &str) -> Result<Vec<String>> {
    let mut files: Vec<String> = Vec::new();
    for module in TO_MOUNT {
        let mut modprobe = Command::new("modprobe");
        modprobe.arg("-d").arg(folder).args(["-S", release, "--show-depends", module]);
        let output = modprobe.output().context("cannot run modprobe")?;
        if !output.status.success() {
            bail!("{modprobe:?} failed: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        for file in inserted(&String::from_utf8_lossy(&output.stdout)) {
            if !files.iter().any(|known| known == file) {
                files.push(file.to_owned());
            }
        }
    }
    Ok(files)
}

/// The files of `insmod FILE [PARAMETERS]`; what is built in is told in other words.
fn inserted(text: &str) -> Vec<&str> {
    text.lines().filter_map(|line| line.strip_prefix("insmod ")?.split_whitespace().next()).collect()
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("cannot run {command:?}"))?;
    if output.status.success() {
        return Ok(());
    }
    bail!("{command:?} failed: {}", String::from_utf8_lossy(&output.stderr).trim())
}

#[cfg(test)]
mod tests {
    use super::inserted;

    #[test]
    fn modules_are_read_from_what_modprobe_shows() {
        let text = "builtin virtio\ninsmod /k/9pnet.ko \ninsmod /k/9p.ko debug=1\n";
        assert_eq!(inserted(text), ["/k/9pnet.ko", "/k/9p.ko"]);
    }
}
