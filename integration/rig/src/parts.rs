//! The parts that a rig is made of: which programs, in which versions, and where they are. How a folder gets into the store
//! is `store`'s, how a program is built `go`'s, and packages of the system are `debian`'s.

mod debian;
mod go;
mod kernel;
mod ours;
mod store;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

pub(crate) use self::ours::BUILT;
pub use self::ours::{TestProgram, cni_names, ours, test_program};
pub use self::store::Store;
use crate::image;

/// The runc that every containerd uses.
const RUNC: &str = "1.3.3";
/// The official CNI plugins, peers in tests and benches.
const PLUGINS: &str = "1.9.1";

/// A containerd that tests run against.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Release {
    /// 1.7.35: what Ubuntu 24.04 has; NRI by `StateChange`, off by default.
    V1_7,
    /// 2.2.9: NRI by `StateChange`, on by default.
    V2_2,
    /// 2.4.2: NRI by calls of their own.
    V2_4,
}

impl Release {
    /// Every release, oldest first.
    pub const ALL: [Self; 3] = [Self::V1_7, Self::V2_2, Self::V2_4];

    /// The version, without `v`.
    #[must_use]
    pub fn version(self) -> &'static str {
        match self {
            Self::V1_7 => "1.7.35",
            Self::V2_2 => "2.2.9",
            Self::V2_4 => "2.4.2",
        }
    }

    fn module(self) -> &'static str {
        match self {
            Self::V1_7 => "github.com/containerd/containerd",
            Self::V2_2 | Self::V2_4 => "github.com/containerd/containerd/v2",
        }
    }
}

/// Folder with `containerd`, `ctr` and `containerd-shim-runc-v2`.
///
/// # Errors
/// It cannot be built; the text has the remedy.
pub fn containerd(release: Release) -> Result<PathBuf> {
    let module = release.module();
    let packages = ["containerd", "ctr", "containerd-shim-runc-v2"].map(|name| format!("{module}/cmd/{name}"));
    let version = release.version();
    Store::open()?.part(&format!("containerd-{version}"), |folder| {
        go::build_modules(folder, &packages, version, &go::Flavour::Static)
    })
}

/// Folder with `runc`.
///
/// # Errors
/// It cannot be built; the text has the remedy.
pub fn runc() -> Result<PathBuf> {
    Store::open()?.part(&format!("runc-{RUNC}-seccomp"), |folder| {
        debian::ensure(&debian::TO_BUILD_RUNC)?;
        go::build_modules(folder, &["github.com/opencontainers/runc".to_owned()], RUNC, &go::Flavour::Cgo("seccomp"))
    })
}

/// Folder with the official CNI plugins.
///
/// # Errors
/// They cannot be built; the text has the remedy.
pub fn cni_plugins() -> Result<PathBuf> {
    let packages = ["main/bridge", "main/loopback", "meta/portmap", "meta/firewall", "meta/tuning", "ipam/host-local"]
        .map(|name| format!("github.com/containernetworking/plugins/plugins/{name}"));
    Store::open()?.part(&format!("cni-plugins-{PLUGINS}"), |folder| {
        go::build_modules(folder, &packages, PLUGINS, &go::Flavour::Static)
    })
}

/// Folder with our own clients: `cri` and `nerdlike`.
///
/// # Errors
/// They cannot be built; the text has the remedy.
pub fn clients() -> Result<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../go");
    let key = format!("clients-{}", store::digest_of_folder(&source)?);
    Store::open()?.part(&key, |folder| go::build_folder(folder, &source))
}

/// An OCI archive with the images `BUSYBOX` and `PAUSE`.
///
/// # Errors
/// It cannot be made; the text has the remedy.
pub fn images() -> Result<PathBuf> {
    debian::ensure(&debian::TO_RUN)?;
    let busybox = fs::canonicalize("/bin/busybox").context("no /bin/busybox; `apt-get install busybox-static`")?;
    let key = format!("images-{}", store::digest_of_file(&busybox)?);
    let folder = Store::open()?.part(&key, |folder| image::write_archive(&folder.join("images.tar"), &busybox))?;
    Ok(folder.join("images.tar"))
}

/// Folder with the modules of User-mode Linux, which is installed.
///
/// # Errors
/// It cannot be installed; the text has the remedy.
pub fn user_mode_linux() -> Result<PathBuf> {
    debian::ensure(&debian::FOR_USER_MODE)?;
    Store::open()?.part("user-mode-linux", kernel::link_user_mode_modules)
}

/// Folder with the kernel that this machine's Debian installs, unpacked for the emulator, which is installed. A newer one is
/// taken when the folder is removed.
///
/// # Errors
/// It cannot be installed or unpacked; the text has the remedy.
pub fn debian_kernel() -> Result<PathBuf> {
    debian::ensure(&debian::TO_EMULATE)?;
    Store::open()?.part(&format!("{}-1", kernel::PACKAGE), kernel::unpack)
}

/// Installs systemd, to be the first process of a guest.
///
/// # Errors
/// It cannot be installed; the text has the remedy.
pub fn systemd() -> Result<()> {
    debian::ensure(&debian::TO_MANAGE)
}

/// Debian's etcd server, unpacked and not installed: an installed one would start a service.
///
/// # Errors
/// There is no such package; the text has the remedy.
pub fn etcd() -> Result<PathBuf> {
    let folder = Store::open()?.part("etcd-server", |folder| debian::unpack("etcd-server", folder))?;
    Ok(folder.join("usr/bin/etcd"))
}

/// Debian's strace, by which a program's calls to the kernel can be slowed down.
///
/// # Errors
/// There is no such package; the text has the remedy.
pub fn strace() -> Result<PathBuf> {
    debian::ensure(&debian::TO_SLOW)?;
    Ok(PathBuf::from("/usr/bin/strace"))
}

/// Debian's library that gives one program a clock of its own, unpacked and not installed.
///
/// # Errors
/// There is no such package; the text has the remedy.
pub fn faketime() -> Result<PathBuf> {
    let folder = Store::open()?.part("libfaketime", |folder| debian::unpack("libfaketime", folder))?;
    Ok(folder.join("usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1"))
}

/// Debian's ufw, unpacked and not installed: an installed one would start at boot.
///
/// # Errors
/// There is no such package; the text has the remedy.
pub fn ufw() -> Result<PathBuf> {
    debian::ensure(&debian::FOR_UFW)?;
    Store::open()?.part("ufw", |folder| debian::unpack("ufw", folder))
}

/// Debian's firewalld with its own libraries, unpacked and not installed; the bus that it speaks by is installed.
///
/// # Errors
/// There is no such package; the text has the remedy.
pub fn firewalld() -> Result<PathBuf> {
    debian::ensure(&debian::FOR_FIREWALLD)?;
    Store::open()?.part("firewalld", |folder| {
        ["firewalld", "python3-firewall", "python3-nftables"].iter().try_for_each(|name| debian::unpack(name, folder))
    })
}

/// Installs the system's packages that a running node needs.
///
/// # Errors
/// A package is missing and cannot be installed.
pub fn packages() -> Result<()> {
    debian::ensure(&debian::TO_RUN)
}
