//! A node with netd, routed sandboxes that it knows the labels of, and policy files that appear and go at once.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use netd_api::Client;
use netd_api::blocking::DescribeRequest;

use crate::case::{Added, Api, Sandbox};
use crate::network::{self, Writing};
use crate::node::{Netd, Node};
use crate::space::Space;

const PATIENCE: Duration = Duration::from_secs(180);
const PAUSE: Duration = Duration::from_millis(1);

/// A node and who lives there.
#[derive(Debug)]
pub(super) struct Town {
    pub(super) node: Node,
    pub(super) netd: Option<Netd>,
    pub(super) people: Vec<Sandbox>,
    socket: PathBuf,
    writing: Writing,
}

impl Town {
    /// Nobody lives there, and no policy is in force.
    pub(super) fn new(program: &Path, writing: Writing) -> Result<Self> {
        let node = Node::fresh()?;
        node.space.unfilter_bridges()?;
        let netd = node.start(program)?;
        let socket = netd.socket.clone();
        Ok(Self { node, netd: Some(netd), people: Vec::new(), socket, writing })
    }

    /// Attaches one more.
    pub(super) fn attach(&mut self) -> Result<Added> {
        let number = u32::try_from(self.people.len())?;
        let sandbox = Sandbox { number, space: Space::fresh()? };
        let added = Api::attach(&self.socket, &self.node.data_dir(), self.writing, &sandbox)?;
        self.people.push(sandbox);
        Ok(added)
    }

    /// Detaches who came last.
    pub(super) fn detach(&mut self) -> Result<Sandbox> {
        let sandbox = self.people.pop().context("nobody is attached")?;
        Api::detach(&self.socket, &self.node.data_dir(), self.writing, &sandbox)?;
        self.netd.as_ref().context("netd has ended")?.wait_until_drained()?;
        Ok(sandbox)
    }

    /// Says who a sandbox is. Answered when all that policies say of it is in the kernel.
    pub(super) fn describe(&self, number: usize, namespace: &str, app: &str) -> Result<Duration> {
        let number = u32::try_from(number)?;
        let mut request = DescribeRequest::new();
        request.container_id = network::container(number);
        (request.name, request.namespace) = (network::container(number), namespace.to_owned());
        request.labels.insert("app".to_owned(), app.to_owned());
        "nri".clone_into(&mut request.source);
        let start = Instant::now();
        let answer = Client::connect(&self.socket, &[])?.describe(&request)?;
        let took = start.elapsed();
        let refused = answer.failure.as_ref().map(|failure| failure.message.as_str());
        ensure!(refused.is_none(), "netd refused to hear of sandbox {number}: {}", refused.unwrap_or_default());
        Ok(took)
    }

    /// Lays policy files down, all at once, and waits until netd says that so many policies are in force.
    pub(super) fn load(&self, texts: &[String], policies: usize) -> Result<Duration> {
        let (folder, prepared) = (self.node.policies_dir(), self.node.policies_dir().with_extension("new"));
        fs::create_dir_all(&prepared)?;
        for (number, text) in texts.iter().enumerate() {
            fs::write(prepared.join(format!("{number:04}.yaml")), text)?;
        }
        let said = self.said(policies)?;
        let start = Instant::now();
        // The directory is there, and empty: it is replaced.
        fs::rename(&prepared, &folder).with_context(|| format!("cannot lay down {}", folder.display()))?;
        self.wait_until_in_force(policies, said, start)
    }

    /// Takes all policy files away and waits until none is in force.
    pub(super) fn unload(&self) -> Result<Duration> {
        let (folder, old) = (self.node.policies_dir(), self.node.policies_dir().with_extension("old"));
        let said = self.said(0)?;
        let start = Instant::now();
        fs::rename(&folder, &old)?;
        fs::create_dir(&folder)?;
        let took = self.wait_until_in_force(0, said, start)?;
        fs::remove_dir_all(old)?;
        Ok(took)
    }

    /// Ends netd and starts it again, until it answers: it does when all holds.
    pub(super) fn restart(&mut self, program: &Path) -> Result<Duration> {
        self.end();
        let start = Instant::now();
        self.netd = Some(self.node.start(program)?);
        Ok(start.elapsed())
    }

    pub(super) fn end(&mut self) {
        drop(self.netd.take());
    }

    fn wait_until_in_force(&self, policies: usize, said: usize, start: Instant) -> Result<Duration> {
        while self.said(policies)? == said {
            ensure!(
                start.elapsed() < PATIENCE,
                "{policies} policies are not in force after {PATIENCE:?}; netd's log: {}",
                self.node.log()?
            );
            sleep(PAUSE);
        }
        Ok(start.elapsed())
    }

    /// How often netd has said that so many policies are in force.
    fn said(&self, policies: usize) -> Result<usize> {
        let words = format!("in force policies={policies}");
        Ok(self.node.log()?.lines().filter(|line| line.ends_with(&words)).count())
    }
}
