//! What all files together say: each file's network or its mistakes, one holder a name, nothing lost to a bad edit.
//! Pure; the reading is `directory`'s.

use std::collections::BTreeMap;
use std::sync::Arc;

use netd_config::{Conflist, Network};

use super::directory::Source;

/// One configuration file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Entry {
    /// The file.
    pub file: String,
    /// Its text as last read.
    pub text: Vec<u8>,
    /// The network's name; empty where the text does not say it.
    pub name: String,
    /// The version that is spoken; empty where the text does not say it.
    pub cni_version: String,
    /// Plugin types in the order of the chain.
    pub types: Vec<String>,
    /// Paths of keys that nobody reads.
    pub unknown_keys: Vec<String>,
    /// Keys without effect, each with what that means.
    pub unheeded_keys: Vec<String>,
    /// The network that this file holds. Beside an error: the one of the file's last good text.
    pub network: Option<Arc<Network>>,
    /// What is wrong, and what to do.
    pub error: Option<String>,
    /// What the file would hold if no other held that name.
    last_good: Option<Arc<Network>>,
}

/// All files, in the order of precedence.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Catalogue {
    /// The files.
    pub entries: Vec<Entry>,
    /// Grows with every change.
    pub generation: u64,
}

impl Catalogue {
    /// The network of this name.
    #[must_use]
    pub fn lookup(&self, name: &str) -> Option<Arc<Network>> {
        self.networks().find(|network| network.name.as_str() == name).cloned()
    }

    /// The networks that can be attached to.
    pub fn networks(&self) -> impl Iterator<Item = &Arc<Network>> {
        self.entries.iter().filter_map(|entry| entry.network.as_ref())
    }

    /// The catalogue after this one, when `sources` are all files there are.
    pub(super) fn next(&self, sources: &[Source]) -> Self {
        let before = |file: &str| self.entries.iter().find(|entry| entry.file == file);
        let mut entries: Vec<_> = sources.iter().map(|source| entry(source, before(&source.file))).collect();
        one_holder_a_name(&mut entries);
        let changed = entries != self.entries;
        Self { entries, generation: self.generation + u64::from(changed) }
    }
}

fn entry(source: &Source, before: Option<&Entry>) -> Entry {
    let text = match &source.text {
        Ok(text) => text,
        Err(unreadable) => return unread(source, before, unreadable),
    };
    let conflist = Conflist::parse(&source.file, text, &source.folders);
    let mut entry = Entry {
        file: source.file.clone(),
        text: text.clone(),
        name: conflist.name.map_or_else(String::new, |name| name.to_string()),
        cni_version: conflist.cni_version.map_or_else(String::new, |version| version.to_string()),
        types: conflist.types,
        unknown_keys: conflist.unknown_keys,
        unheeded_keys: conflist.unheeded_keys,
        ..Entry::default()
    };
    match conflist.network {
        Ok(network) => entry.last_good = Some(Arc::new(network)),
        // The text is right and gives the network to other plugins: it is netd's no longer.
        Err(errors) if errors.is_unsupported() => entry.error = Some(errors.to_string()),
        Err(errors) => keep(&mut entry, before, errors.to_string()),
    }
    entry
}

/// A file or directory that is there and cannot be read.
fn unread(source: &Source, before: Option<&Entry>, error: &str) -> Entry {
    let mut entry = before.cloned().unwrap_or_else(|| Entry { file: source.file.clone(), ..Entry::default() });
    keep(&mut entry, before, format!("{}: {error}", source.file));
    entry
}

fn keep(entry: &mut Entry, before: Option<&Entry>, error: String) {
    entry.last_good = before.and_then(|before| before.last_good.clone());
    entry.error = Some(match &entry.last_good {
        Some(network) => format!("{error}; network {} goes on as it last stood there", network.name),
        None => error,
    });
}

/// Of several files that describe one name, the first holds it; the others say so.
fn one_holder_a_name(entries: &mut [Entry]) {
    let mut holders: BTreeMap<String, String> = BTreeMap::new();
    for entry in entries {
        let Some(network) = entry.last_good.clone() else {
            entry.network = None;
            continue;
        };
        if let Some(holder) = holders.get(network.name.as_str()) {
            entry.network = None;
            let told = format!(
                "{}: name: {:?} is the network of {holder} already; rename one of them, or remove a file",
                entry.file,
                network.name.as_str()
            );
            entry.error = Some(entry.error.take().map_or_else(|| told.clone(), |error| format!("{error}; {told}")));
        } else {
            holders.insert(network.name.to_string(), entry.file.clone());
            entry.network = Some(network);
        }
    }
}
