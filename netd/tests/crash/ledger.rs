//! What all clients together were told: who holds which address, what happened how often, and what was wrong.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// How often what happened.
#[derive(Debug, Default, Clone)]
pub(crate) struct Counts(BTreeMap<&'static str, u64>);

impl Counts {
    pub(crate) fn of(&self, what: &str) -> u64 {
        self.0.get(what).copied().unwrap_or_default()
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts: Vec<String> = self.0.iter().map(|(what, count)| format!("{count} {what}")).collect();
        f.write_str(&parts.join(", "))
    }
}

#[derive(Debug, Default)]
struct Book {
    holders: BTreeMap<IpAddr, String>,
    counts: Counts,
    wrongs: Vec<String>,
}

/// Shared by all clients.
#[derive(Debug, Default)]
pub(crate) struct Ledger(Mutex<Book>);

impl Ledger {
    /// The container was told that it has this address; it holds it from now on.
    pub(crate) fn claim(&self, container: &str, address: IpAddr) {
        let mut book = self.book();
        if let Some(holder) = book.holders.insert(address, container.to_owned())
            && holder != container
        {
            book.wrongs.push(format!("{address} was given to {container} while {holder} has it"));
        }
    }

    /// The container is about to be detached or to die: others may be given what it held.
    pub(crate) fn give_back(&self, container: &str) {
        self.book().holders.retain(|_, holder| holder != container);
    }

    pub(crate) fn count(&self, what: &'static str) {
        *self.book().counts.0.entry(what).or_default() += 1;
    }

    pub(crate) fn counts(&self) -> Counts {
        self.book().counts.clone()
    }

    pub(crate) fn wrong(&self, what: String) {
        self.book().wrongs.push(what);
    }

    pub(crate) fn wrongs(&self) -> Vec<String> {
        self.book().wrongs.clone()
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
