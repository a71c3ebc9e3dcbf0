//! Clients that make containers outside of pods: nerdctl and its like, and `ctr run --cni`. Pods are `cri`'s.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::on_path;
use crate::residue::own_group;
use crate::{BUSYBOX, Containerd, Node, Place, parts};

/// A container that runs.
#[derive(Debug, Clone)]
pub struct Container {
    /// Its id.
    pub id: String,
    /// Its network namespace.
    pub place: Place,
}

/// nerdctl, or our program that works as nerdctl does where networks are concerned: CNI inside OCI hooks.
#[derive(Debug)]
pub struct Nerdctl<'node> {
    node: &'node Node,
    program: PathBuf,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Real,
    Like,
}

impl<'node> Nerdctl<'node> {
    /// Our program, which is there on every machine.
    ///
    /// # Errors
    /// The client cannot be built.
    pub fn like(node: &'node Node) -> Result<Self> {
        Ok(Self { node, program: parts::clients()?.join("nerdlike"), kind: Kind::Like })
    }

    /// The real nerdctl, where it is on `PATH`.
    #[must_use]
    pub fn real(node: &'node Node) -> Option<Self> {
        on_path("nerdctl").map(|program| Self { node, program, kind: Kind::Real })
    }

    /// `nerdctl` or `nerdlike`, to be shown.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self.kind {
            Kind::Real => "nerdctl",
            Kind::Like => "nerdlike",
        }
    }

    /// Runs a container of the busybox image. `flags` are nerdctl's own: `-p`, `--net`, `--ip`, `--ip6`, `--mac-address`,
    /// `--label`, `--name`.
    ///
    /// # Errors
    /// It did not start; the text has what the hook and the plugin said.
    pub fn run(&self, flags: &[&str], command: &[&str]) -> Result<Container> {
        let run: &[&str] = match self.kind {
            Kind::Real => &["run", "--detach", "--pull=never"],
            Kind::Like => &["run"],
        };
        let id = self.output(&[run, flags, &[BUSYBOX], command].concat())?;
        self.container(id)
    }

    /// Ends a container's process and keeps the container.
    ///
    /// # Errors
    /// It does not end, or its networks cannot be removed.
    pub fn stop(&self, id: &str) -> Result<()> {
        self.output(&["stop", id]).map(drop)
    }

    /// Starts a stopped container.
    ///
    /// # Errors
    /// As for [`Self::run`].
    pub fn start(&self, id: &str) -> Result<Container> {
        self.output(&["start", id])?;
        self.container(id.to_owned())
    }

    /// Removes a container by force.
    ///
    /// # Errors
    /// It does not end, or its networks cannot be removed.
    pub fn remove(&self, id: &str) -> Result<()> {
        let remove: &[&str] = match self.kind {
            Kind::Real => &["rm", "--force"],
            Kind::Like => &["rm"],
        };
        self.output(&[remove, &[id]].concat()).map(drop)
    }

    /// Any other command of the real nerdctl; what it printed.
    ///
    /// # Errors
    /// It failed; the text is nerdctl's.
    pub fn call(&self, arguments: &[&str]) -> Result<String> {
        self.output(arguments)
    }

    /// A container that runs, by its name or its id.
    ///
    /// # Errors
    /// There is none.
    pub fn find(&self, name: &str) -> Result<Container> {
        self.container(name.to_owned())
    }

    fn container(&self, id: String) -> Result<Container> {
        let ask: &[&str] = match self.kind {
            Kind::Real => &["inspect", "--format={{.State.Pid}}"],
            Kind::Like => &["pid"],
        };
        let pid = self.output(&[ask, &[&id]].concat())?.parse().context("the client printed no process id")?;
        Ok(Container { id, place: Place::of_process(pid)? })
    }

    fn output(&self, arguments: &[&str]) -> Result<String> {
        Ok(self.node.output(Command::new(&self.program).args(arguments))?.trim().to_owned())
    }
}

/// `ctr run --cni`: CNI from containerd's own tool, between the creation and the start of the task.
#[derive(Debug)]
pub struct Ctr<'node> {
    node: &'node Node,
    containerd: &'node Containerd,
}

impl<'node> Ctr<'node> {
    /// The tool of that containerd.
    #[must_use]
    pub fn new(node: &'node Node, containerd: &'node Containerd) -> Self {
        Self { node, containerd }
    }

    /// Runs a container of the busybox image.
    ///
    /// # Errors
    /// It did not start; the text has what the plugin said.
    pub fn run(&self, id: &str, command: &[&str]) -> Result<Container> {
        let group = Path::new("/").join(own_group(self.node.folder())).join(id);
        let group = group.to_string_lossy();
        self.output(&[&["run", "--detach", "--cni", "--cgroup", &group, BUSYBOX, id], command].concat())?;
        let tasks = self.output(&["task", "list"])?;
        let row = tasks.lines().find(|row| row.split_whitespace().next() == Some(id));
        let pid = row.and_then(|row| row.split_whitespace().nth(1)).context("ctr lists no such task")?;
        Ok(Container { id: id.to_owned(), place: Place::of_process(pid.parse()?)? })
    }

    /// Removes a container by force.
    ///
    /// # Errors
    /// It does not end, or its networks cannot be removed.
    pub fn remove(&self, id: &str) -> Result<()> {
        self.output(&["task", "kill", "--signal", "SIGKILL", id])?;
        self.output(&["task", "delete", "--force", id])?;
        self.output(&["container", "delete", id]).map(drop)
    }

    fn output(&self, arguments: &[&str]) -> Result<String> {
        self.node.output(self.containerd.ctr("default").args(arguments))
    }
}
