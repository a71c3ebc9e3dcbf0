//! What netd is still to be told, pure: at most one word a pod, the newest. Telling is `courier`'s work.
//!
//! A word leaves when netd has taken it. netd refuses: that word waits, longer each time. netd is away: all words wait
//! together, and go at once when it is back. A pod that has just started does not wait for either on its first attempt.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};

use crate::backoff::Backoff;
use crate::pod::Pod;

const FIRST_WAIT: Duration = Duration::from_millis(100);
/// netd may be back at any moment, and asking costs nothing.
const LONGEST_ABSENCE: Duration = Duration::from_secs(1);
/// Such as a full pool, until somebody makes room.
const LONGEST_REFUSAL: Duration = Duration::from_secs(30);
/// A release that netd does not take is given up: netd frees what belongs to a dead namespace by itself.
const RELEASE_ATTEMPTS: u32 = 8;

/// Something to tell netd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Word {
    /// This is what the sandbox is.
    Describe(Pod),
    /// The container is gone.
    Release,
    /// These sandboxes live.
    Resync(Vec<String>),
}

/// A word on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Errand {
    /// Whose; empty for a resync.
    pub container: String,
    /// What.
    pub word: Word,
    version: u64,
}

/// How an errand ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// netd has taken it.
    Told,
    /// netd answered that it cannot now.
    Refused,
    /// netd answered that it never can.
    Rejected,
    /// There was no answer.
    Absent,
}

impl Outcome {
    /// What happens to the word now, in words.
    #[must_use]
    pub fn next(&self) -> &'static str {
        match self {
            Self::Told => "done",
            Self::Refused | Self::Absent => "tried again",
            Self::Rejected => "not tried again",
        }
    }
}

#[derive(Debug)]
struct Entry {
    word: Word,
    version: u64,
    on_its_way: bool,
    first_at_once: bool,
    /// The pod has gone while this was on its way: no further attempt.
    last: bool,
    attempts: u32,
    due: Instant,
    backoff: Backoff,
    /// Hears how the first attempt ended.
    listener: Option<SyncSender<Outcome>>,
}

impl Entry {
    /// Whether it stays in the outbox when its pod goes.
    fn outlives_its_pod(&mut self) -> bool {
        self.last = self.word != Word::Release;
        !self.last || self.on_its_way
    }

    fn may_go(&self, now: Instant, open: bool) -> bool {
        !self.on_its_way && self.due <= now && (open || self.first_at_once)
    }
}

/// All words, and who lives.
#[derive(Debug)]
pub struct Outbox {
    entries: BTreeMap<String, Entry>,
    living: BTreeSet<String>,
    resync: Option<Entry>,
    versions: u64,
    closed_until: Option<Instant>,
    absence: Backoff,
}

impl Default for Outbox {
    fn default() -> Self {
        Self {
            entries: BTreeMap::new(),
            living: BTreeSet::new(),
            resync: None,
            versions: 0,
            closed_until: None,
            absence: Backoff::new(FIRST_WAIT, LONGEST_ABSENCE),
        }
    }
}

impl Outbox {
    /// A pod has started: tell netd at once, and `listener` how that went.
    pub fn ran(&mut self, pod: Pod, now: Instant, listener: SyncSender<Outcome>) {
        self.living.insert(pod.id.clone());
        let entry =
            Entry { first_at_once: true, listener: Some(listener), ..self.entry(Word::Describe(pod.clone()), now) };
        self.put(pod.id, entry);
    }

    /// A pod lives, whatever its network.
    pub fn lives(&mut self, id: &str) {
        self.living.insert(id.to_owned());
    }

    /// A pod has stopped: nothing is to be attached to it any more.
    pub fn stopped(&mut self, id: &str) {
        self.entries.retain(|container, entry| container != id || entry.outlives_its_pod());
    }

    /// A pod is gone.
    pub fn removed(&mut self, id: String, now: Instant) {
        self.living.remove(&id);
        let entry = self.entry(Word::Release, now);
        self.put(id, entry);
    }

    /// These are all pods there are.
    pub fn synchronized(&mut self, pods: Vec<Pod>, now: Instant) {
        self.living = pods.iter().map(|pod| pod.id.clone()).collect();
        let living = &self.living;
        self.entries.retain(|id, entry| living.contains(id) || entry.outlives_its_pod());
        for pod in pods.into_iter().filter(|pod| pod.netns.is_some()) {
            let entry = self.entry(Word::Describe(pod.clone()), now);
            self.put(pod.id, entry);
        }
        self.resync = Some(self.entry(Word::Resync(Vec::new()), now));
    }

    /// The runtime is away: who lives is no longer known.
    pub fn disconnected(&mut self) {
        self.resync = None;
    }

    /// The next errand that may go now. A resync goes when nothing else can.
    pub fn take(&mut self, now: Instant) -> Option<Errand> {
        let open = self.closed_until.is_none_or(|until| until <= now);
        let ready = self.entries.iter_mut().filter(|(_, entry)| entry.may_go(now, open));
        let next = ready.min_by_key(|(_, entry)| (!entry.first_at_once, entry.version));
        if let Some((container, entry)) = next {
            entry.on_its_way = true;
            return Some(Errand { container: container.clone(), word: entry.word.clone(), version: entry.version });
        }
        let is_quiet = !self.is_busy();
        let resync = self.resync.as_mut().filter(|entry| is_quiet && entry.may_go(now, open))?;
        resync.on_its_way = true;
        let word = Word::Resync(self.living.iter().cloned().collect());
        Some(Errand { container: String::new(), word, version: resync.version })
    }

    /// When to ask [`Outbox::take`] again, if nothing else happens.
    #[must_use]
    pub fn next_due(&self) -> Option<Instant> {
        let resync = self.resync.as_ref().filter(|_| !self.is_busy());
        let waiting = self.entries.values().chain(resync).filter(|entry| !entry.on_its_way);
        waiting.map(|entry| if entry.first_at_once { entry.due } else { self.opens(entry.due) }).min()
    }

    fn is_busy(&self) -> bool {
        self.entries.values().any(|entry| entry.on_its_way)
    }

    fn opens(&self, due: Instant) -> Instant {
        self.closed_until.map_or(due, |until| until.max(due))
    }

    /// An errand has ended. Returns how many words are left.
    pub fn settle(&mut self, errand: &Errand, outcome: &Outcome, now: Instant) -> usize {
        self.hear(outcome, now);
        if let Word::Resync(_) = errand.word {
            self.resync = self.resync.take().and_then(|entry| after(entry, errand, outcome, now));
        } else if let Some(entry) = self.entries.remove(&errand.container)
            && let Some(entry) = after(entry, errand, outcome, now)
        {
            self.entries.insert(errand.container.clone(), entry);
        }
        self.entries.len()
    }

    fn hear(&mut self, outcome: &Outcome, now: Instant) {
        match outcome {
            Outcome::Told | Outcome::Refused | Outcome::Rejected => {
                self.closed_until = None;
                self.absence.succeeded();
            }
            // Several errands fail together when netd goes away: that is one failure.
            Outcome::Absent if self.closed_until.is_some_and(|until| until > now) => {}
            Outcome::Absent => self.closed_until = Some(now + self.absence.failed()),
        }
    }

    fn entry(&mut self, word: Word, now: Instant) -> Entry {
        self.versions += 1;
        Entry {
            word,
            version: self.versions,
            on_its_way: false,
            first_at_once: false,
            last: false,
            attempts: 0,
            due: now,
            backoff: Backoff::new(FIRST_WAIT, LONGEST_REFUSAL),
            listener: None,
        }
    }

    /// Puts a word in the place of an older one. While that one is on its way the new one waits: netd must hear them in
    /// order.
    fn put(&mut self, container: String, mut entry: Entry) {
        entry.on_its_way = self.entries.get(&container).is_some_and(|older| older.on_its_way);
        self.entries.insert(container, entry);
    }
}

/// What is left of an entry when `errand` has ended.
fn after(mut entry: Entry, errand: &Errand, outcome: &Outcome, now: Instant) -> Option<Entry> {
    entry.on_its_way = false;
    if entry.version != errand.version {
        return Some(entry);
    }
    if let Some(listener) = entry.listener.take() {
        // Who no longer listens has told the runtime that the answer is late.
        drop(listener.try_send(outcome.clone()));
    }
    entry.first_at_once = false;
    entry.attempts += 1;
    match outcome {
        Outcome::Told | Outcome::Rejected => return None,
        Outcome::Refused => entry.due = now + entry.backoff.failed(),
        Outcome::Absent => entry.due = now,
    }
    let given_up = entry.last || (entry.word == Word::Release && entry.attempts >= RELEASE_ATTEMPTS);
    (!given_up).then_some(entry)
}

#[cfg(test)]
mod tests;
