//! One network configuration file: `.conflist`, or `.conf` and `.json` with a single plugin. Which files there are, and
//! which of two networks of one name holds it, is netd's business; a plugin's own keys are `stanza`'s.
//!
//! ```text
//! text ─▶ json (Go's rules) ─▶ Conflist { name, types, unknown keys, Network or all that is wrong }
//! ```

mod keys;
mod known;
mod network;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

pub use network::{Mode, Network, Plugin};

use crate::arguments::Arguments;
use crate::error::ConfigErrors;
use crate::ipam;
use crate::json::{Mistakes, Object, quote};
use crate::name::NetworkName;
use crate::stanza::{self, Stanza};
use crate::version::CniVersion;
use keys::Place;

/// One of the `*.conf` in the folder that bears a network's name: one more plugin of that network (CNI 1.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PluginFile {
    /// The file, as errors name it.
    pub file: String,
    /// Its text, or why it cannot be read.
    pub text: Result<Vec<u8>, String>,
}

/// The plugin files of each folder, by the folder's name.
pub type Folders = BTreeMap<String, Vec<PluginFile>>;

/// What a configuration file says. What could be read stands beside what is wrong, so that a broken file is still
/// listed under its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflist {
    /// The network's name.
    pub name: Option<NetworkName>,
    /// The version that is spoken: the highest that both the file and netd know.
    pub cni_version: Option<CniVersion>,
    /// Plugin types in the order of the chain.
    pub types: Vec<String>,
    /// Paths of keys that netd does not know, such as `plugins[0].colour`.
    pub unknown_keys: Vec<String>,
    /// Keys that have no effect with netd and take nothing away, each with its value and what that means.
    pub unheeded_keys: Vec<String>,
    /// The network, or all mistakes at once.
    pub network: Result<Network, ConfigErrors>,
}

impl Conflist {
    /// Reads the text of `file`; its ending tells whether it may be a single plugin's. `folders` are those beside it.
    #[must_use]
    pub fn parse(file: &str, text: &[u8], folders: &Folders) -> Self {
        let mut reading = Reading::default();
        let network = decode(text, &reading.mistakes).and_then(|map| reading.network(file, &map, folders));
        let found = reading.mistakes.take();
        Self {
            name: reading.name,
            cni_version: reading.cni_version,
            types: reading.types,
            unknown_keys: reading.unknown_keys,
            unheeded_keys: reading.unheeded_keys,
            network: network.filter(|_| found.is_empty()).ok_or_else(|| ConfigErrors::new(file, found)),
        }
    }
}

/// The object in `text`.
fn decode(text: &[u8], mistakes: &Mistakes) -> Option<Map<String, Value>> {
    if text.trim_ascii().is_empty() {
        mistakes.add("", 6, "the file is empty; write a network configuration into it, or remove it");
        return None;
    }
    match serde_json::from_slice(text) {
        Ok(Value::Object(map)) => Some(map),
        Ok(other) => {
            mistakes.add("", 6, format!("{} is not an object; put the configuration into {{...}}", quote(&other)));
            None
        }
        Err(error) => {
            mistakes.add("", 6, format!("not JSON: {error}; correct the text there"));
            None
        }
    }
}

/// What has been read of one file.
#[derive(Default)]
struct Reading {
    mistakes: Mistakes,
    name: Option<NetworkName>,
    cni_version: Option<CniVersion>,
    types: Vec<String>,
    unknown_keys: Vec<String>,
    unheeded_keys: Vec<String>,
}

impl Reading {
    fn network(&mut self, file: &str, map: &Map<String, Value>, folders: &Folders) -> Option<Network> {
        let single = Object::root(map, self.mistakes.clone());
        let is_single = single.value("plugins").is_none() && !file.ends_with(".conflist");
        let root = if is_single { single } else { Object::list_root(map, self.mistakes.clone()) };
        self.name = name(&root);
        self.cni_version = version(&root);
        let only_inlined = switch(&root, "loadOnlyInlinedPlugins");
        let (disable_check, disable_gc) = (switch(&root, "disableCheck"), switch(&root, "disableGC"));
        let folder = self.name.as_ref().filter(|_| !only_inlined).and_then(|name| folders.get(name.as_str()));
        let files = folder.map_or(&[][..], Vec::as_slice);
        let mut plugins =
            if is_single { vec![self.plugin(&root, Place::Single)] } else { self.listed(&root, !files.is_empty()) };
        plugins.extend(files.iter().map(|one| self.in_folder(one)));
        self.first_makes_an_interface(if is_single { "type" } else { "plugins[0].type" });
        Some(Network {
            name: self.name.clone()?,
            file: file.to_owned(),
            cni_version: self.cni_version?,
            disable_check,
            disable_gc,
            nerdctl_id: root.string("nerdctlID").map(str::to_owned),
            labels: labels(&root),
            plugins: plugins.into_iter().collect::<Option<_>>()?,
        })
    }

    /// The list `plugins`. An empty one is right only where a folder has more.
    fn listed(&mut self, root: &Object<'_>, has_folder: bool) -> Vec<Option<Plugin>> {
        self.unknown_keys.extend(keys::check(root, Place::Top));
        let is_empty = root.value("plugins").is_none_or(|value| value.as_array().is_some_and(Vec::is_empty));
        if is_empty && !has_folder {
            let remedy = if root.value("type").is_some() {
                "missing; this is a single plugin: write \"plugins\": [{...}] around it, or end the file's name in .conf"
            } else {
                "no plugins; add some, such as \"plugins\": [{\"type\": \"bridge\", ...}]"
            };
            root.wrong("plugins", remedy);
        }
        root.objects("plugins").iter().map(|entry| self.plugin(entry, Place::Listed)).collect()
    }

    /// A plugin in a file of its own; mistakes and unknown keys name that file.
    fn in_folder(&mut self, one: &PluginFile) -> Option<Plugin> {
        let outer = std::mem::take(&mut self.mistakes);
        let seen = (self.unknown_keys.len(), self.unheeded_keys.len());
        let text = one.text.as_ref().map_err(|error| self.mistakes.add("", 5, error)).ok();
        let plugin = text
            .and_then(|text| decode(text, &self.mistakes))
            .and_then(|map| self.plugin(&Object::root(&map, self.mistakes.clone()), Place::Listed));
        let place = |path: &str| if path.is_empty() { one.file.clone() } else { format!("{}: {path}", one.file) };
        for mistake in std::mem::replace(&mut self.mistakes, outer).take() {
            self.mistakes.add(&place(&mistake.path), mistake.code, mistake.message);
        }
        self.unknown_keys.iter_mut().skip(seen.0).for_each(|path| *path = place(path));
        self.unheeded_keys.iter_mut().skip(seen.1).for_each(|path| *path = place(path));
        plugin
    }

    fn plugin(&mut self, entry: &Object<'_>, place: Place) -> Option<Plugin> {
        let kind = entry.string("type").unwrap_or_default();
        if kind.is_empty() && entry.value("type").is_none_or(Value::is_string) {
            entry.wrong("type", "missing; name the plugin, such as \"type\": \"bridge\"");
        }
        self.types.extend(Some(kind).filter(|kind| !kind.is_empty()).map(str::to_owned));
        let stanza = if kind.is_empty() { None } else { executed(kind, entry) };
        self.unknown_keys.extend(keys::check(entry, place));
        self.unheeded_keys.extend(stanza::unheeded(kind, entry));
        let capabilities = capabilities(entry);
        Some(Plugin { kind: kind.to_owned(), stanza: stanza?, capabilities, entry: entry.map().clone() })
    }

    /// A plugin that works on what the one before it made cannot come first.
    fn first_makes_an_interface(&self, path: &str) {
        const FOLLOWERS: [&str; 7] = ["portmap", "bandwidth", "firewall", "isolation", "tuning", "sbr", "vrf"];
        const ADDRESSES_ONLY: [&str; 3] = ["host-local", "static", "dhcp"];
        let Some(first) = self.types.first().map(String::as_str) else { return };
        if FOLLOWERS.contains(&first) {
            let message = format!("{first:?} works on an interface that a plugin before it made; put one first");
            self.mistakes.add(path, 7, message);
        } else if ADDRESSES_ONLY.contains(&first) {
            let message =
                format!("{first:?} only gives addresses; put it into \"ipam\" of a plugin such as \"bridge\"");
            self.mistakes.add(path, 7, message);
        }
    }
}

/// The stanza, if netd runs such a one.
fn executed(kind: &str, entry: &Object<'_>) -> Option<Stanza> {
    // As on standard input without arguments: those come with each attach.
    let arguments = Arguments::default();
    if !stanza::knows_plugin(kind) {
        let message = format!(
            "{kind:?} is no type of netd's; correct the name, or leave the network to that plugin's own binary (netd attaches nothing to it)"
        );
        entry.mistakes.add(&entry.path("type"), 2, message);
        return None;
    }
    let stanza = stanza::parse(kind, entry, &arguments)?;
    if let Stanza::NotYet { kind } = &stanza {
        let message = format!(
            "netd does not run {kind:?} yet; leave the network to the official plugin binaries, or use \"bridge\""
        );
        entry.mistakes.add(&entry.path("type"), 2, message);
        // Flannel's section is not an IPAM plugin's but something to add to one.
        if kind != "flannel" {
            drop(ipam::parse(entry, &arguments));
        }
        return None;
    }
    Some(stanza)
}

fn name(root: &Object<'_>) -> Option<NetworkName> {
    if root.value("name").is_none_or(|value| value == "") {
        root.wrong("name", "missing; give the network one, such as \"name\": \"web\"");
        return None;
    }
    NetworkName::new(root.string("name")?).map_err(|error| root.wrong("name", error.to_string())).ok()
}

/// The highest of `cniVersion` and `cniVersions` that netd knows; 0.1.0 where neither is there.
fn version(root: &Object<'_>) -> Option<CniVersion> {
    let mut texts = root.strings("cniVersions");
    texts.extend(root.string("cniVersion").filter(|text| !text.is_empty()).map(str::to_owned));
    if texts.is_empty() {
        return Some(CniVersion::V0_1_0);
    }
    let known = texts.iter().filter_map(|text| CniVersion::parse(text)).max();
    if known.is_none() {
        let (texts, supported) = (texts.join(" "), CniVersion::SUPPORTED.map(CniVersion::as_str).join(" "));
        let message = format!("netd speaks none of [{texts}]; write one of [{supported}]");
        root.mistakes.add("cniVersion", 1, message);
    }
    known
}

/// A switch at the top, which libcni takes as `true` or as `"true"`.
fn switch(root: &Object<'_>, key: &str) -> bool {
    let Some(value) = root.value(key) else { return false };
    let read = value.as_bool().or_else(|| match value.as_str()?.to_ascii_lowercase().as_str() {
        "true" => Some(true),
        "false" => Some(false),
        _ => None,
    });
    if read.is_none() {
        root.wrong(key, format!("{} is neither true nor false; write true or false", quote(value)));
    }
    read.unwrap_or_default()
}

/// `nerdctlLabels`.
fn labels(root: &Object<'_>) -> BTreeMap<String, String> {
    let Some(labels) = root.object("nerdctlLabels") else { return BTreeMap::new() };
    let label = |(key, _): (&String, &Value)| Some((key.clone(), labels.string(key)?.to_owned()));
    labels.entries().filter_map(label).collect()
}

/// The capabilities that the plugin declares; a runtime passes no others.
fn capabilities(entry: &Object<'_>) -> BTreeSet<String> {
    let Some(declared) = entry.object("capabilities") else { return BTreeSet::new() };
    declared.entries().filter(|(_, value)| **value == true).map(|(name, _)| name.clone()).collect()
}

#[cfg(test)]
mod tests;
