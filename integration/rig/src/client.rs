//! Clients of containerd. The networks that they get are CNI's; none of them is told which.

mod container;
mod cri;
mod crictl;

use std::env;
use std::path::PathBuf;

pub use self::container::{Container, Ctr, Nerdctl};
pub use self::cri::{Cri, Pod, PodWish, Ran};
pub use self::crictl::Crictl;

const SOCKET: &str = "/run/containerd/containerd.sock";

/// A program that is in no registry, where somebody has put it on `PATH`.
fn on_path(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.is_file())
}
