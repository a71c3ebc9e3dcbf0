//! One CNI document as it comes on a plugin's standard input.

mod removal;

use serde_json::{Map, Value};

use crate::arguments;
use crate::error::{ConfigErrors, Mistake};
use crate::json::{Mistakes, Object};
use crate::name::NetworkName;
use crate::result::CniResult;
use crate::stanza::{self, Stanza};
use crate::version::CniVersion;
pub use removal::{Collection, Removal};

const SOURCE: &str = "CNI configuration on standard input";

/// A plugin's whole input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// The result is in this version.
    pub cni_version: CniVersion,
    /// The network.
    pub name: NetworkName,
    /// What this plugin is to do.
    pub stanza: Stanza,
    /// What the plugins before it did.
    pub prev_result: Option<CniResult>,
}

impl Document {
    /// Reads `text`, the standard input of the plugin `plugin`, with `CNI_ARGS`.
    ///
    /// # Errors
    /// All mistakes at once; their code is CNI's.
    pub fn parse(text: &[u8], cni_args: &str, plugin: &str) -> Result<Self, ConfigErrors> {
        let map = decode(text)?;
        let mistakes = Mistakes::default();
        let root = Object::root(&map, mistakes.clone());
        let cni_version = version(&root);
        let name = name(&root);
        let arguments = arguments::parse(cni_args, &mistakes);
        let stanza = stanza::parse(kind(&root, plugin), &root, &arguments);
        let prev_result = root.object("prevResult").map(|object| CniResult::read(&object));
        let found = mistakes.take();
        match (cni_version, name, stanza) {
            (Some(cni_version), Some(name), Some(stanza)) if found.is_empty() => {
                Ok(Self { cni_version, name, stanza, prev_result })
            }
            _ => Err(ConfigErrors::new(SOURCE, found)),
        }
    }
}

fn decode(text: &[u8]) -> Result<Map<String, Value>, ConfigErrors> {
    let wrong = |message: String| ConfigErrors::new(SOURCE, vec![Mistake { path: String::new(), message, code: 6 }]);
    let value: Value = serde_json::from_slice(text)
        .map_err(|error| wrong(format!("failed to decode JSON: {error}; the caller sent a broken file")))?;
    if let Value::Object(map) = value {
        Ok(map)
    } else {
        Err(wrong("not an object {...}; the caller sent something else".to_owned()))
    }
}

fn kind<'a>(root: &Object<'a>, plugin: &'a str) -> &'a str {
    // A main plugin hands its whole configuration to its IPAM plugin: the name it is called by decides then.
    if matches!(plugin, "host-local" | "static") {
        return plugin;
    }
    root.string("type").filter(|kind| !kind.is_empty()).unwrap_or(plugin)
}

fn version(root: &Object<'_>) -> Option<CniVersion> {
    let text = root.string("cniVersion").filter(|text| !text.is_empty()).unwrap_or("0.1.0");
    let version = CniVersion::parse(text);
    if version.is_none() {
        let supported = CniVersion::SUPPORTED.map(CniVersion::as_str).join(" ");
        let message = format!("incompatible CNI versions; config is {text:?}, plugin supports [{supported}]");
        root.mistakes.add("cniVersion", 1, message);
    }
    version
}

fn name(root: &Object<'_>) -> Option<NetworkName> {
    match root.string("name") {
        None | Some("") => {
            root.wrong("name", "missing network name");
            None
        }
        Some(text) => NetworkName::new(text).map_err(|error| root.wrong("name", error.to_string())).ok(),
    }
}

#[cfg(test)]
mod tests;
