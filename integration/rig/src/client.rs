//! Clients of containerd. The networks that they get are CNI's; none of them is told which.

mod container;
mod cri;

pub use self::container::{Container, Ctr, Nerdctl};
pub use self::cri::{Cri, Pod, PodWish, Ran};

const SOCKET: &str = "/run/containerd/containerd.sock";
