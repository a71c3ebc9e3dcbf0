//! A node: its disk, which outlives a crash, and what runs on it, which does not.

use std::collections::BTreeMap;

use ipnet::IpNet;
use netd_fleet::{Action, Hold, Key, Memory, Value, View, Wish};

use crate::store::Change;

#[derive(Debug, Clone)]
pub(crate) struct Machine {
    /// What is on its disk; nobody while the machine is destroyed.
    pub(crate) disk: Memory,
    pub(crate) is_destroyed: bool,
    pub(crate) is_cut_off: bool,
    pub(crate) running: Option<Running>,
    pub(crate) wish: Wish,
    /// Its clock beside the world's.
    pub(crate) offset: i64,
    /// When it last heard that its lease lives, by its own clock.
    pub(crate) renewed: i64,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Running {
    pub(crate) view: Option<View>,
    pub(crate) seen: u64,
    pub(crate) reign: u64,
    pub(crate) work: Work,
}

#[derive(Debug, Clone, Default)]
pub(crate) enum Work {
    #[default]
    Idle,
    Saving(Box<Memory>),
    Awaiting(u64),
}

impl Machine {
    pub(crate) fn new(disk: Memory, wish: Wish) -> Self {
        Self {
            disk,
            is_destroyed: false,
            is_cut_off: false,
            running: Some(Running::default()),
            wish,
            offset: 0,
            renewed: 0,
        }
    }

    /// What its sandboxes have addresses from. They live on while netd does not run.
    pub(crate) fn used(&self) -> Vec<IpNet> {
        if self.is_destroyed { Vec::new() } else { self.disk.usable() }
    }

    /// The same for one that does not wait to be confirmed.
    pub(crate) fn used_in_haste(&self) -> Vec<IpNet> {
        let mut hasty = self.disk.clone();
        hasty.holdings.values_mut().for_each(|holding| holding.state = Hold::Confirmed);
        if self.is_destroyed { Vec::new() } else { hasty.usable() }
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.running.as_ref().is_some_and(|running| matches!(running.work, Work::Idle))
    }

    /// It ends in the middle of whatever it does; a write to its disk was done, or not.
    pub(crate) fn crash(&mut self, is_written: bool) {
        if let Some(Running { work: Work::Saving(memory), .. }) = self.running.take()
            && is_written
        {
            self.disk = *memory;
        }
    }

    pub(crate) fn written(&mut self) {
        let Some(running) = &mut self.running else { return };
        match std::mem::take(&mut running.work) {
            Work::Saving(memory) => self.disk = *memory,
            other @ (Work::Idle | Work::Awaiting(_)) => running.work = other,
        }
    }

    pub(crate) fn decide(&self, fresh: u128) -> Option<Action> {
        let view = self.running.as_ref()?.view.as_ref()?;
        netd_fleet::decide(&self.disk, view, &self.wish, fresh)
    }
}

impl Running {
    pub(crate) fn listed(&mut self, content: BTreeMap<Key, Value>, revision: u64, reign: u64) {
        let mut view = View::default();
        content.into_iter().for_each(|(key, value)| view.apply(key, Some(value)));
        (self.view, self.seen, self.reign) = (Some(view), revision, reign);
    }

    pub(crate) fn heard(&mut self, changes: Vec<Change>) {
        let Some(view) = &mut self.view else { return };
        for change in changes {
            self.seen = change.revision;
            view.apply(change.key, change.value);
        }
    }
}
