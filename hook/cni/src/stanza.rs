//! The few keys of the stanza that this program needs itself. The stanza goes to netd unread: what it means, and what is
//! wrong with it, netd says.

use serde_json::{Map, Value};

const DEFAULT_DATA_DIR: &str = "/var/lib/cni/networks";

/// What was found; empty where there is nothing readable.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Stanza {
    pub(crate) cni_version: Option<String>,
    pub(crate) name: String,
    pub(crate) kind: String,
    ipam_kind: String,
    data_dir: Option<String>,
}

impl Stanza {
    pub(crate) fn read(text: &[u8]) -> Self {
        let Ok(Value::Object(root)) = serde_json::from_slice(text) else { return Self::default() };
        let ipam = value(&root, "ipam").and_then(Value::as_object);
        let in_ipam = |key| ipam.and_then(|ipam| string(ipam, key));
        Self {
            cni_version: string(&root, "cniVersion"),
            name: string(&root, "name").unwrap_or_default(),
            kind: string(&root, "type").unwrap_or_default(),
            ipam_kind: in_ipam("type").unwrap_or_default(),
            data_dir: in_ipam("dataDir"),
        }
    }

    /// host-local's data directory, where `plugin` or its IPAM is host-local.
    pub(crate) fn data_dir(&self, plugin: &str) -> Option<&str> {
        let is_host_local = plugin == "host-local" || self.ipam_kind == "host-local";
        is_host_local.then(|| self.data_dir.as_deref().unwrap_or(DEFAULT_DATA_DIR))
    }

    /// Whether the stanza is in a version before `major.minor`, such as (1, 1). Never, where the version is none: netd says
    /// so then.
    pub(crate) fn is_before(&self, first: (u32, u32)) -> bool {
        let text = self.cni_version.as_deref().unwrap_or("0.1.0");
        let mut parts = text.splitn(3, '.').map_while(|part| part.parse().ok());
        matches!((parts.next(), parts.next()), (Some(major), Some(minor)) if (major, minor) < first)
    }
}

/// By Go's rules, because files were only ever read by Go: keys match without regard to case, the last one counts, `null`
/// is nothing.
fn value<'a>(object: &'a Map<String, Value>, key: &str) -> Option<&'a Value> {
    object.iter().rfind(|(name, value)| name.eq_ignore_ascii_case(key) && !value.is_null()).map(|(_, value)| value)
}

fn string(object: &Map<String, Value>, key: &str) -> Option<String> {
    value(object, key)?.as_str().filter(|text| !text.is_empty()).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::Stanza;

    #[test]
    fn keys_are_found_as_go_finds_them() {
        let text = br#"{"CNIVERSION":"1.0.0","name":"a","Name":"b","NAME":null,"type":7,
            "IPAM":{"TYPE":"host-local","datadir":"/x"},"unknown":[{}]}"#;
        let stanza = Stanza::read(text);
        assert_eq!(stanza.cni_version.as_deref(), Some("1.0.0"));
        assert_eq!((stanza.name.as_str(), stanza.kind.as_str()), ("b", ""));
        assert_eq!(stanza.data_dir("bridge"), Some("/x"));
    }

    #[test]
    fn what_cannot_be_read_is_empty() {
        for text in ["", "{", "[]", "7", "\"a\"", "\u{feff}{}"] {
            assert_eq!(Stanza::read(text.as_bytes()), Stanza::default(), "{text:?}");
        }
    }

    #[test]
    fn only_host_local_has_a_data_directory() {
        let check = |text: &str, plugin: &str, expected: Option<&str>| {
            assert_eq!(Stanza::read(text.as_bytes()).data_dir(plugin), expected, "{text} {plugin}");
        };
        check(r#"{"ipam":{"type":"host-local"}}"#, "bridge", Some("/var/lib/cni/networks"));
        check(r#"{"ipam":{"type":"host-local","dataDir":""}}"#, "bridge", Some("/var/lib/cni/networks"));
        check(r#"{"ipam":{"type":"static"}}"#, "bridge", None);
        check(r#"{"ipam":{"dataDir":"/x"}}"#, "host-local", Some("/x"));
        check("{}", "portmap", None);
    }

    #[test]
    fn a_missing_version_is_the_first_one() {
        let before = |text: &str, first| Stanza::read(text.as_bytes()).is_before(first);
        assert!(before("{}", (0, 4)));
        assert!(before(r#"{"cniVersion":"0.3.1"}"#, (0, 4)));
        assert!(!before(r#"{"cniVersion":"0.4.0"}"#, (0, 4)));
        assert!(before(r#"{"cniVersion":"1.0.0"}"#, (1, 1)));
        assert!(!before(r#"{"cniVersion":"1.1.0"}"#, (1, 1)));
        assert!(!before(r#"{"cniVersion":"x"}"#, (1, 1)), "netd refuses it, in its words");
    }
}
