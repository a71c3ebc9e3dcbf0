//! What a DEL and a GC need of their input. A container must be removable although its stanza is not flawless any more, so
//! nothing else of it is looked at.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{SOURCE, decode, kind, name};
use crate::error::ConfigErrors;
use crate::json::{Mistakes, Object};
use crate::name::NetworkName;

/// What a DEL is about, beside its environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removal {
    /// The network.
    pub name: NetworkName,
    /// The plugin's type, which nobody need know.
    pub kind: String,
}

impl Removal {
    /// Reads `text`, the standard input of the plugin `plugin`.
    ///
    /// # Errors
    /// It is no object, or names no network.
    pub fn parse(text: &[u8], plugin: &str) -> Result<Self, ConfigErrors> {
        let map = decode(text)?;
        let root = Object::root(&map, Mistakes::default());
        let kind = kind(&root, plugin).to_owned();
        // A type that is no text is nobody's.
        drop(root.mistakes.take());
        let name = name(&root);
        let found = root.mistakes.take();
        name.map(|name| Self { name, kind }).ok_or_else(|| ConfigErrors::new(SOURCE, found))
    }
}

/// What a GC is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Collection {
    /// The network.
    pub name: NetworkName,
    /// The attachments that live, as container id and interface; all others of the network go.
    pub valid: BTreeSet<(String, String)>,
}

impl Collection {
    /// Reads `text`, the standard input of a plugin.
    ///
    /// # Errors
    /// It is no object, names no network, or does not say which attachments live: that is no list of none. An entry that
    /// cannot be read might be anybody's.
    pub fn parse(text: &[u8]) -> Result<Self, ConfigErrors> {
        let map = decode(text)?;
        let root = Object::root(&map, Mistakes::default());
        let (name, valid) = (name(&root), valid(&root));
        let found = root.mistakes.take();
        match name {
            Some(name) if found.is_empty() => Ok(Self { name, valid }),
            _ => Err(ConfigErrors::new(SOURCE, found)),
        }
    }
}

/// Both spellings that libcni sends. It writes `null` where its caller has a list of none (a slice of Go's that nobody made),
/// and leaves the keys out where its caller has no list.
fn valid(root: &Object<'_>) -> BTreeSet<(String, String)> {
    const KEYS: [&str; 2] = ["cni.dev/valid-attachments", "cni.dev/attachments"];
    if !KEYS.iter().any(|key| root.map().keys().any(|found| found.eq_ignore_ascii_case(key))) {
        root.wrong(
            KEYS[0],
            "missing; name the attachments that live, or write [] if there are none: the others are removed",
        );
    }
    let entry = |entry: &Object<'_>| {
        let text = |key: &str| {
            let text = entry.string(key).filter(|text| !text.is_empty());
            if text.is_none() && entry.value(key).is_none_or(Value::is_string) {
                entry.wrong(key, "missing; without it nobody knows which attachment lives");
            }
            text.map(str::to_owned)
        };
        let (container, interface) = (text("containerID"), text("ifname"));
        Some((container?, interface?))
    };
    let listed = KEYS.map(|key| root.objects(key));
    listed.iter().flatten().filter_map(entry).collect()
}

#[cfg(test)]
mod tests {
    use super::{Collection, Removal};

    fn removal(text: &str) -> Result<(String, String), String> {
        let read = Removal::parse(text.as_bytes(), "bridge");
        read.map(|read| (read.name.to_string(), read.kind)).map_err(|error| format!("{} {error}", error.code()))
    }

    #[test]
    fn a_detach_goes_by_name_and_type_only() {
        let expected = Ok(("web".to_owned(), "portmap".to_owned()));
        let text = r#"{"cniVersion":"9.9.9","name":"web","type":"portmap","snat":false,"prevResult":7,
            "runtimeConfig":{"portMappings":[{"hostPort":-1}]},"ipam":[]}"#;
        assert_eq!(removal(text), expected);
        assert_eq!(removal(r#"{"name":"web"}"#), Ok(("web".to_owned(), "bridge".to_owned())));
        assert_eq!(removal(r#"{"name":"web","type":3}"#), Ok(("web".to_owned(), "bridge".to_owned())));
        let nameless = removal(r#"{"type":"bridge"}"#).unwrap_err();
        assert_eq!(nameless, "7 CNI configuration on standard input: name: missing network name");
        assert!(removal("{").unwrap_err().starts_with("6 "));
    }

    fn collection(more: &str) -> Result<String, String> {
        let text = format!(r#"{{"cniVersion":"1.1.0","name":"web","type":"bridge","mtu":"big"{more}}}"#);
        let show = |read: Collection| {
            read.valid
                .iter()
                .map(|(container, interface)| format!("{container}/{interface}"))
                .collect::<Vec<_>>()
                .join(" ")
        };
        let told = |error: crate::ConfigErrors| format!("{} {error}", error.code());
        Collection::parse(text.as_bytes()).map(show).map_err(told)
    }

    #[test]
    fn a_collection_that_does_not_say_who_lives_is_refused() {
        let listed = r#"[{"containerID":"a","ifname":"eth0"},{"containerID":"b","ifname":"eth1"}]"#;
        let (new, old) = (r#","cni.dev/valid-attachments":"#, r#","cni.dev/attachments":"#);
        assert_eq!(collection(&format!("{new}{listed}{old}{listed}")).as_deref(), Ok("a/eth0 b/eth1"));
        assert_eq!(collection(&format!("{old}{listed}")).as_deref(), Ok("a/eth0 b/eth1"));
        for none in ["[]", "null"] {
            assert_eq!(collection(&format!("{new}{none}{old}{none}")).as_deref(), Ok(""), "{none}");
        }
        let refused = |more: &str, expected: &str| {
            let told = collection(more).unwrap_err();
            assert!(told.starts_with("7 ") && told.contains(expected), "{more}: {told}");
        };
        refused("", "cni.dev/valid-attachments: missing; name the attachments that live");
        refused(&format!(r#"{new}[{{"containerID":"a"}}]"#), "cni.dev/valid-attachments[0].ifname: missing");
        refused(&format!(r#"{new}[{{"containerID":7,"ifname":"eth0"}}]"#), "[0].containerID: 7 is not a string");
        refused(&format!("{new}[{listed}]"), "cni.dev/valid-attachments[0]: ");
        refused(&format!("{new}{{}}"), "cni.dev/valid-attachments: {} is not a list");
    }
}
