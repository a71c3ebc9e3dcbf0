//! Configuration files: what is understood of files from the wild, what is said of broken ones (`tests/golden-files`),
//! and what would reach each plugin's standard input.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::{Conflist, Folders, Network, PluginFile};
use crate::stanza::{self, Stanza};

fn parse(file: &str, text: &str) -> Conflist {
    Conflist::parse(file, text.as_bytes(), &Folders::new())
}

fn network(file: &str, text: &str) -> Network {
    parse(file, text).network.unwrap_or_else(|errors| panic!("{errors}"))
}

/// The golden files of a folder: those that end as configuration files do.
fn golden(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden-files").join(folder);
    let mut paths: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| ["conflist", "conf", "json"].iter().any(|end| path.extension().is_some_and(|is| is == *end)));
    paths.sort();
    paths
}

fn read(path: &Path) -> Conflist {
    let name = path.file_name().unwrap().to_str().unwrap();
    Conflist::parse(name, &fs::read(path).unwrap(), &Folders::new())
}

/// `UPDATE_GOLDEN=1` rewrites the file.
fn same_as_golden(path: &Path, text: &str) {
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(path, text).unwrap();
    }
    assert_eq!(text, fs::read_to_string(path).unwrap_or_default(), "{}", path.display());
}

#[test]
fn every_broken_file_says_what_is_wrong() {
    let files = golden("broken");
    assert!(files.len() >= 30, "{} broken files", files.len());
    let mut texts = BTreeSet::new();
    for path in files {
        let conflist = read(&path);
        let errors = conflist.network.unwrap_err();
        let name = conflist.name.map_or_else(|| "-".to_owned(), |name| name.to_string());
        let code = errors.code();
        same_as_golden(
            &path.with_extension("error"),
            &format!("name {name}, types {:?}, code {code}:\n{}\n", conflist.types, lines(&errors)),
        );
        let nameless = errors.mistakes().iter().map(|mistake| (mistake.path.clone(), mistake.message.clone()));
        assert!(texts.insert(nameless.collect::<Vec<_>>()), "{} says what another one says", path.display());
    }
}

/// One mistake a line, each as [`std::fmt::Display`] has it.
fn lines(errors: &crate::ConfigErrors) -> String {
    let text = errors.to_string();
    let file = text.split(':').next().unwrap();
    text.replace(&format!("; {file}: "), &format!("\n{file}: "))
}

#[test]
fn files_from_the_wild_are_understood() {
    let files = golden("good");
    assert!(files.len() >= 10, "{} good files", files.len());
    for path in files {
        let conflist = read(&path);
        let network = conflist.network.as_ref().unwrap_or_else(|errors| panic!("{}: {errors}", path.display()));
        same_as_golden(&path.with_extension("understood"), &understood(network, &conflist));
    }
}

fn understood(network: &Network, conflist: &Conflist) -> String {
    let unknown_keys = &conflist.unknown_keys;
    let mut text = format!(
        "network {} of {} in {}\ndisable check {}, gc {}\nnerdctl {:?} {:?}\nbridge {:?}, subnets {:?}\nunknown {unknown_keys:?}\n",
        network.name,
        network.file,
        network.cni_version,
        network.disable_check,
        network.disable_gc,
        network.nerdctl_id,
        network.labels,
        network.bridge().map(crate::LinkName::as_str),
        network.subnets(),
    );
    for unheeded in &conflist.unheeded_keys {
        writeln!(text, "unheeded {unheeded}").unwrap();
    }
    for (plugin, document) in network.plugins.iter().zip(network.documents()) {
        let document = String::from_utf8(document).unwrap();
        write!(text, "\n{} takes {:?}\n{:?}\n{document}\n", plugin.kind, plugin.capabilities, plugin.stanza).unwrap();
    }
    text
}

/// The texts are what `libcni` sends: entry, `name` and `cniVersion`, keys in Go's order; nothing from the top.
#[test]
fn documents_are_what_libcni_sends() {
    let text = r#"{"cniVersion":"0.4.0","cniVersions":["1.0.0"],"name":"web","nerdctlID":"x","nerdctlLabels":{},"args":{},"disableCheck":true,
        "plugins":[{"type":"bridge","bridge":"br0","ipam":{"type":"host-local","ranges":[[{"subnet":"10.4.0.0/24"}]]}},
                   {"type":"tuning","Name":"old","capabilities":{"mac":true}}]}"#;
    let documents = network("web.conflist", text).documents();
    let texts: Vec<_> = documents.iter().map(|document| std::str::from_utf8(document).unwrap()).collect();
    assert_eq!(
        texts,
        [
            r#"{"bridge":"br0","cniVersion":"1.0.0","ipam":{"ranges":[[{"subnet":"10.4.0.0/24"}]],"type":"host-local"},"name":"web","type":"bridge"}"#,
            r#"{"Name":"old","capabilities":{"mac":true},"cniVersion":"1.0.0","name":"web","type":"tuning"}"#,
        ]
    );
    // And netd reads them as the caller's own.
    let document = crate::Document::parse(&documents[1], "", "tuning").unwrap();
    assert_eq!((document.name.as_str(), document.cni_version.as_str()), ("web", "1.0.0"));
}

#[test]
fn a_lone_plugin_is_a_list_of_one_and_keeps_its_own_keys() {
    let text = r#"{"cniVersion":"0.3.1","name":"lone","type":"loopback","nerdctlLabels":{"a":"b"}}"#;
    for file in ["lone.conf", "lone.json"] {
        let network = network(file, text);
        assert_eq!(network.labels["a"], "b");
        assert!(String::from_utf8(network.documents().remove(0)).unwrap().contains("nerdctlLabels"));
    }
    assert!(parse("lone.conflist", text).network.is_err());
}

#[test]
fn plugins_in_the_networks_folder_follow_those_in_its_file() {
    let folder = |text: &str| {
        let file = PluginFile { file: "web/10-tune.conf".to_owned(), text: Ok(text.as_bytes().to_vec()) };
        Folders::from([("web".to_owned(), vec![file])])
    };
    let text = r#"{"cniVersion":"1.1.0","name":"web","plugins":[{"type":"bridge"}]}"#;
    let read = |folders: &Folders, text: &str| Conflist::parse("/etc/web.conflist", text.as_bytes(), folders);
    let good = read(&folder(r#"{"type":"tuning","tone":1}"#), text);
    assert_eq!(
        (good.types.join(" "), good.unknown_keys.join(" ")),
        ("bridge tuning".into(), "web/10-tune.conf: tone".into())
    );
    let unheeded = read(&folder(r#"{"type":"portmap","markMasqBit":14}"#), text).unheeded_keys.join(" ");
    assert!(unheeded.starts_with("web/10-tune.conf: markMasqBit 14: "), "{unheeded}");
    assert_eq!(good.network.unwrap().documents().len(), 2);
    let broken = read(&folder(r#"{"type":"tuning","sysctl":3}"#), text).network.unwrap_err();
    assert_eq!(broken.to_string(), "/etc/web.conflist: web/10-tune.conf: sysctl: 3 is not an object {...}");
    let shut = text.replace(r#""plugins""#, r#""loadOnlyInlinedPlugins":true,"plugins""#);
    assert_eq!(read(&folder("not read"), &shut).network.unwrap().plugins.len(), 1);
    let without = r#"{"cniVersion":"1.1.0","name":"web"}"#;
    assert_eq!(read(&folder(r#"{"type":"bridge"}"#), without).network.unwrap().plugins.len(), 1);
}

#[test]
fn only_a_right_text_with_foreign_or_later_plugins_is_called_unsupported() {
    let errors = |plugins: &str| {
        parse("a.conflist", &format!(r#"{{"cniVersion":"1.0.0","name":"a","plugins":[{plugins}]}}"#))
            .network
            .unwrap_err()
    };
    assert!(errors(r#"{"type":"calico","mtu":"any"}"#).is_unsupported());
    assert!(errors(r#"{"type":"macvlan"},{"type":"bandwidth"}"#).is_unsupported());
    assert!(!errors(r#"{"type":"macvlan","mtu":"x"}"#).is_unsupported());
    assert!(!errors("").is_unsupported());
}

#[test]
fn what_netd_does_nothing_for_is_told_and_a_rate_is_refused() {
    let read = |kind: &str, more: &str| {
        let ipam = r#""ipam":{"type":"host-local","subnet":"10.4.0.0/24"}"#;
        parse("a.conf", &format!(r#"{{"cniVersion":"1.0.0","name":"a","type":"{kind}",{ipam},{more}}}"#))
    };
    for kind in ["bridge", "ptp"] {
        let declared =
            r#""capabilities":{"bandwidth":true,"dns":true,"aliases":false,"deviceID":true,"portMappings":true}"#;
        let unheeded = read(kind, declared).unheeded_keys;
        let names: Vec<_> = unheeded.iter().filter_map(|one| one.split_once(" true: ")).map(|(name, _)| name).collect();
        assert_eq!(names, ["capabilities.bandwidth", "capabilities.dns", "capabilities.deviceID"], "{unheeded:?}");
        let asked = |rate: u32| read(kind, &format!(r#""runtimeConfig":{{"bandwidth":{{"ingressRate":{rate}}}}}"#));
        assert!(asked(0).network.is_ok());
        let refused = asked(1_000).network.unwrap_err();
        assert!(
            refused.is_unsupported() && refused.to_string().contains("runtimeConfig.bandwidth: netd limits no rates"),
            "{refused}"
        );
    }
    assert_eq!(read("macvlan", r#""capabilities":{"bandwidth":true}"#).unheeded_keys, Vec::<String>::new());
}

/// Each official type is read with its keys in every spelling of case, and a key of no plugin is reported for each.
#[test]
fn every_official_type_is_known_and_has_a_table() {
    for kind in stanza::ALL.iter().flat_map(|kinds| kinds.iter()) {
        let text = format!(r#"{{"cniVersion":"1.0.0","name":"a","TYPE":"{kind}","DNS":{{}},"colour":1}}"#);
        let conflist = parse("a.conf", &text);
        assert_eq!(conflist.types, [(*kind).to_owned()]);
        let unjudged = ["flannel", "dnsname"].contains(kind);
        assert_eq!(conflist.unknown_keys, if unjudged { vec![] } else { vec!["colour".to_owned()] }, "{kind}");
        let text = conflist.network.map_or_else(|errors| errors.to_string(), |_| String::new());
        assert!(!text.contains("is no type of netd's"), "{text}");
    }
}

#[test]
fn executed_types_are_those_that_become_stanzas() {
    let ipam = r#""ipam":{"type":"host-local","subnet":"10.4.0.0/24"}"#;
    let [executed, later] = stanza::ALL;
    for kind in executed {
        let text = format!(
            r#"{{"cniVersion":"1.0.0","name":"a","plugins":[{{"type":"bridge"}},{{"type":"{kind}",{ipam}}}]}}"#
        );
        assert!(!matches!(network("a.conflist", &text).plugins[1].stanza, Stanza::NotYet { .. }), "{kind}");
    }
    for kind in later {
        let errors = parse("a.conf", &format!(r#"{{"name":"a","type":"{kind}"}}"#)).network.unwrap_err();
        assert!(errors.to_string().contains(&format!("a.conf: type: netd does not run \"{kind}\" yet")), "{errors}");
    }
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..256)) {
        for file in ["a.conflist", "a.conf"] {
            let read = Conflist::parse(file, &bytes, &Folders::new()).network;
            prop_assert!(read.map_or_else(|errors| !errors.mistakes().is_empty(), |network| !network.plugins.is_empty()));
        }
    }

    /// Whatever stands under a known key: an answer, and never a network beside a mistake or neither.
    #[test]
    fn any_value_under_any_known_key_is_read_without_panic(
        place in prop::sample::select(vec!["top", "bridge", "macvlan", "ipam", "runtimeConfig", "range"]),
        key in prop::sample::select(vec!["cniVersion", "cniVersions", "name", "type", "plugins", "mtu", "ipam", "dns", "vlanTrunk",
            "ranges", "routes", "addresses", "subnet", "rangeEnd", "portMappings", "ipRanges", "capabilities", "nerdctlLabels",
            "disableCheck", "sysctl", "runtimeConfig", "\u{e9}"]),
        value in prop::sample::select(vec!["null", "true", "-1", "1e99", "\"x\"", "\"\"", "[]", "[[]]", "[null]", "{}", "[[{}]]",
            "[{\"type\":\"tuning\"}]", "{\"type\":\"dhcp\",\"provide\":3}", "{\"\u{e9}\":{}}", "\"::/0\"", "[\"1.0.0\"]"]),
    ) {
        let put = |at: &str| if at == place { format!(",\"{key}\":{value}") } else { String::new() };
        let (range, ipam, runtime) = (put("range"), put("ipam"), put("runtimeConfig"));
        let text = format!(
            r#"{{"cniVersion":"1.0.0","name":"web","plugins":[{{"type":"bridge","ipam":{{"type":"host-local","ranges":
                [[{{"subnet":"10.4.0.0/24"{range}}}]]{ipam}}},"runtimeConfig":{{"mac":"02:42:ac:11:00:02"{runtime}}}{bridge}}},
                {{"type":"macvlan"{macvlan}}}]{top}}}"#,
            bridge = put("bridge"), macvlan = put("macvlan"), top = put("top"),
        );
        match parse("a.conflist", &text).network {
            Ok(network) => prop_assert!(!network.plugins.is_empty()),
            Err(errors) => prop_assert!(!errors.mistakes().is_empty(), "{text}"),
        }
    }
}
