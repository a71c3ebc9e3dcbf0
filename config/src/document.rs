//! One CNI document as it comes on a plugin's standard input.

use serde_json::Value;

use crate::arguments;
use crate::error::{ConfigErrors, Mistake};
use crate::json::{Mistakes, Object};
use crate::name::NetworkName;
use crate::result::CniResult;
use crate::stanza::{self, Stanza};
use crate::version::CniVersion;

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
    /// GC: the attachments that live, as container id and interface.
    pub valid_attachments: Vec<(String, String)>,
}

impl Document {
    /// Reads `text`, the standard input of the plugin `plugin`, with `CNI_ARGS`.
    ///
    /// # Errors
    /// All mistakes at once; their code is CNI's.
    pub fn parse(text: &[u8], cni_args: &str, plugin: &str) -> Result<Self, ConfigErrors> {
        const SOURCE: &str = "CNI configuration on standard input";
        let single =
            |code, message: String| ConfigErrors::new(SOURCE, vec![Mistake { path: String::new(), message, code }]);
        let value: Value = serde_json::from_slice(text)
            .map_err(|error| single(6, format!("failed to decode JSON: {error}; the caller sent a broken file")))?;
        let Some(map) = value.as_object() else {
            return Err(single(6, "not an object {...}; the caller sent something else".to_owned()));
        };
        let mistakes = Mistakes::default();
        let root = Object::root(map, mistakes.clone());
        let cni_version = version(&root);
        let name = name(&root);
        let arguments = arguments::parse(cni_args, &mistakes);
        let kind = root.string("type").filter(|kind| !kind.is_empty()).unwrap_or(plugin);
        // A main plugin hands its whole configuration to its IPAM plugin: the name it is called by decides then.
        let kind = if matches!(plugin, "host-local" | "static") { plugin } else { kind };
        let stanza = stanza::parse(kind, &root, &arguments);
        let prev_result = root.object("prevResult").map(|object| CniResult::read(&object));
        let valid_attachments = attachments(&root);
        let found = mistakes.take();
        match (cni_version, name, stanza) {
            (Some(cni_version), Some(name), Some(stanza)) if found.is_empty() => {
                Ok(Self { cni_version, name, stanza, prev_result, valid_attachments })
            }
            _ => Err(ConfigErrors::new(SOURCE, found)),
        }
    }
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

/// Both spellings that libcni sends.
fn attachments(root: &Object<'_>) -> Vec<(String, String)> {
    let pair = |entry: &Object<'_>| Some((entry.string("containerID")?.to_owned(), entry.string("ifname")?.to_owned()));
    let listed = ["cni.dev/valid-attachments", "cni.dev/attachments"].map(|key| root.objects(key));
    listed.iter().flatten().filter_map(pair).collect()
}

#[cfg(test)]
mod tests;
