//! How large packets get to each peer's address whole: some links on the way are narrower than both ends know, and do not say
//! so. What is found becomes the routes' MTU.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use netd_kernel::{Asker, Echo, Path};
use tokio::time::sleep;
use tracing::{info, warn};

use super::Inner;
use super::check::{AT_A_TIME, LEAST, identifier};

/// A way is tried so often, with one packet where all is well: also where other ways come and go meanwhile.
const EVERY: Duration = Duration::from_mins(1);
/// After so long a narrow way may have become wider, and who did not answer may.
const ANEW: Duration = Duration::from_mins(10);
/// What is new is led to before it is measured.
const AFTER: Duration = Duration::from_millis(500);
/// What an echo may take.
const PATIENCE: Duration = Duration::from_millis(300);
/// Links have such sizes: jumbo frames, Ethernet, PPPoE, tunnels in it, and what every link carries of IPv6.
const USUAL: [u32; 14] =
    [8_900, 4_000, 1_500, 1_492, 1_480, 1_476, 1_460, 1_450, 1_430, 1_420, 1_400, 1_350, 1_300, 1_280];
/// A bridge forwards frames that have room for a VLAN's tag (`is_skb_forwardable`, net/core/dev.c): so much more is no find.
const TAG: u32 = 4;

/// What was found of a way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Found {
    /// Of the link by which it begins.
    link: u32,
    /// Octets of the largest packet that came back. `None`: not even the smallest did.
    mtu: Option<u32>,
    at: Instant,
    /// When it was tried last; `None`: it is to be tried again at once.
    tried: Option<Instant>,
}

impl Found {
    /// Who answers is tried often, and who does not seldom.
    fn is_due(&self, now: Instant) -> bool {
        let since = |at: Instant| now.duration_since(at);
        let is_often = self.mtu.is_some() && self.tried.is_none_or(|tried| since(tried) >= EVERY);
        is_often || since(self.at) >= ANEW
    }
}

/// By a peer's address.
pub(super) type Measured = BTreeMap<IpAddr, Found>;

/// Adds what was found to what the kernel says of these ways.
pub(super) fn narrow(paths: &mut BTreeMap<IpAddr, Path>, measured: &Measured) {
    for (to, path) in paths {
        let found = measured.get(to).filter(|found| found.link == path.mtu).and_then(|found| found.mtu);
        path.narrow = path.narrow.into_iter().chain(found).min().filter(|mtu| *mtu < path.mtu);
    }
}

/// Which ways are to be measured, and what they were the last time.
fn due(paths: &BTreeMap<IpAddr, Path>, measured: &Measured, now: Instant) -> Vec<(IpAddr, u32, Option<u32>)> {
    let all = paths.iter().filter_map(|(to, path)| {
        let Some(found) = measured.get(to).filter(|found| found.link == path.mtu) else {
            return Some((*to, path.mtu, None));
        };
        let is_over = now.duration_since(found.at) >= ANEW;
        found.is_due(now).then_some((*to, path.mtu, found.mtu.filter(|_| !is_over)))
    });
    all.collect()
}

impl Inner {
    /// For ever.
    pub(super) async fn measure(self: &Arc<Self>) {
        loop {
            let due = {
                let state = self.state();
                due(&state.here.paths, &state.measured, Instant::now())
            };
            if !due.is_empty()
                && let Ok(found) = tokio::task::spawn_blocking(move || all(&due)).await
                && self.learn(found)
            {
                self.kernel_changed.notify_one();
            }
            tokio::select! {
                () = self.paths_changed.notified() => {}
                () = sleep(EVERY) => {}
            }
            sleep(AFTER).await;
        }
    }

    /// All that answer, now: somebody has seen that a way is narrower than was found.
    pub(super) fn measure_again(&self) {
        self.state().measured.values_mut().for_each(|found| found.tried = None);
        self.paths_changed.notify_one();
    }

    /// Says whether some way is another than before.
    fn learn(&self, found: Vec<(IpAddr, u32, Option<u32>)>) -> bool {
        let mut state = self.state();
        let mut is_news = false;
        for (to, link, mtu) in found {
            let before = state.measured.get(&to).copied().filter(|before| before.link == link);
            let known = before.and_then(|before| before.mtu);
            let now = Instant::now();
            let at = before.filter(|before| before.mtu == mtu && now.duration_since(before.at) < ANEW);
            let at = at.map_or(now, |before| before.at);
            state.measured.insert(to, Found { link, mtu: mtu.or(known), at, tried: Some(now) });
            match mtu {
                Some(mtu) if mtu < link && known != Some(mtu) => {
                    warn!(%to, mtu, link, "a link on the way to a peer is narrower than this node's");
                    is_news = true;
                }
                Some(mtu) if known.is_some_and(|known| known != mtu) => {
                    info!(%to, mtu, "packets to a peer may be as large as this node's link carries again");
                    is_news = true;
                }
                Some(_) | None => {}
            }
        }
        let paths = state.here.paths.clone();
        state.measured.retain(|to, _| paths.contains_key(to));
        is_news
    }
}

fn all(due: &[(IpAddr, u32, Option<u32>)]) -> Vec<(IpAddr, u32, Option<u32>)> {
    let mut found = Vec::new();
    for some in due.chunks(AT_A_TIME) {
        thread::scope(|scope| {
            let one = |(to, link, known): &(IpAddr, u32, Option<u32>)| (*to, *link, one(*to, *link, *known));
            let running: Vec<_> = some.iter().map(|due| scope.spawn(move || one(due))).collect();
            found.extend(running.into_iter().filter_map(|one| one.join().ok()));
        });
    }
    found
}

/// Octets of the largest packet to `to`, as far as it answers. The whole size is tried again in the end: that it is lost for
/// other reasons must not make a way narrow.
fn one(to: IpAddr, link: u32, known: Option<u32>) -> Option<u32> {
    let mut asker = Asker::open(to, identifier(to), None).ok()?;
    let mut passes = |size: u32| {
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        for _ in 0..2 {
            match asker.ask(size, PATIENCE) {
                Ok(Echo::Heard(_)) => return true,
                Ok(Echo::Silence) => {}
                Ok(Echo::TooLarge) | Err(_) => return false,
            }
        }
        false
    };
    if passes(link) {
        return Some(link);
    }
    if let Some(known) = known.filter(|known| *known < link)
        && passes(known)
    {
        return Some(known);
    }
    let least = LEAST[usize::from(to.is_ipv6())].min(link);
    if !passes(least) {
        return None;
    }
    let found = largest(least, link, &mut passes);
    Some(if passes(link) { link } else { found })
}

/// The largest size that passes, of those from `low`, which does, to `high`, which does not.
pub(super) fn largest(mut low: u32, mut high: u32, mut passes: impl FnMut(u32) -> bool) -> u32 {
    let mut usual: Vec<u32> = USUAL.into_iter().filter(|size| (low + 1..high).contains(size)).collect();
    while !usual.is_empty() {
        let middle = usual[usual.len() / 2];
        if passes(middle) {
            low = middle;
        } else {
            high = middle;
        }
        usual.retain(|size| (low + 1..high).contains(size));
    }
    // One of these is what it is, or nobody's guess.
    if low + TAG + 1 < high && USUAL.contains(&low) && !passes(low + TAG + 1) {
        return low;
    }
    while high - low > 1 {
        let middle = low.midpoint(high);
        if passes(middle) {
            low = middle;
        } else {
            high = middle;
        }
    }
    low
}

#[cfg(test)]
mod tests;
