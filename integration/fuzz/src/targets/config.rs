//! Configuration: a network file, a plugin's standard input, a CNI result, netd's own settings.

use netd_config::{CniResult, CniVersion, ConfigErrors, Conflist, Document, Folders, NodeConfig, PluginFile};
use serde_json::{Value, json};

use super::{Verdict, promise, shape};

pub(super) const TOKENS: &[&str] = &[
    "cniVersion",
    "name",
    "type",
    "plugins",
    "bridge",
    "isGateway",
    "ipMasq",
    "hairpinMode",
    "mtu",
    "vlan",
    "ipam",
    "host-local",
    "static",
    "ranges",
    "subnet",
    "rangeStart",
    "rangeEnd",
    "gateway",
    "routes",
    "dst",
    "gw",
    "dataDir",
    "portmap",
    "firewall",
    "tuning",
    "loopback",
    "bandwidth",
    "capabilities",
    "portMappings",
    "runtimeConfig",
    "hostPort",
    "containerPort",
    "protocol",
    "hostIP",
    "ips",
    "mac",
    "sysctl",
    "ingressPolicy",
    "same-bridge",
    "isolated",
    "prevResult",
    "interfaces",
    "address",
    "interface",
    "sandbox",
    "dns",
    "nameservers",
    "args",
    "cni",
    "ip4",
    "ip6",
    "disableCheck",
    "loadOnlyInlinedPlugins",
    "cniVersions",
    "1.1.0",
    "0.2.0",
    "10.4.0.0/24",
    "fd00::/64",
    "0.0.0.0/0",
    "::ffff:10.0.0.1/96",
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "null",
    "true",
    "\"\"",
    "\\ud800",
];
pub(super) const SETTINGS_TOKENS: &[&str] = &[
    "instance",
    "run_dir",
    "socket",
    "link_prefix",
    "workers",
    "conf_dirs",
    " = ",
    "[[",
    "]]",
    "'''",
    "\"\"\"",
    "inf",
    "1979-05-27T07:32:00Z",
    "0x7fffffffffffffff",
    "\\u0000",
    ".",
    "\n",
];

const VERSIONS: [CniVersion; 4] = [CniVersion::V0_2_0, CniVersion::V0_4_0, CniVersion::V1_0_0, CniVersion::V1_1_0];

pub(super) fn conflist(input: &[u8]) -> Verdict {
    // Behind a zero octet: a file of the folder that bears the network's name.
    let (text, more) = split(input);
    let beside = PluginFile { file: "web/x.conf".to_owned(), text: Ok(more.to_vec()) };
    let folders = if more.is_empty() { Folders::new() } else { Folders::from([("web".to_owned(), vec![beside])]) };
    let mut shapes = Vec::new();
    for file in ["10-x.conflist", "10-x.conf"] {
        let read = Conflist::parse(file, text, &folders);
        shapes.push((read.types.len(), read.unknown_keys.len(), read.name.is_some(), read.cni_version.is_some()));
        match &read.network {
            Ok(_) => {
                promise(read.name.is_some() && !read.types.is_empty(), || format!("a network of nothing: {read:?}"))?
            }
            Err(errors) => told(errors)?,
        }
    }
    let errors = Conflist::parse("10-x.conflist", text, &folders).network.err();
    Ok(shape((shapes, errors.map(|errors| kinds(&errors)))))
}

/// `text \0 CNI_ARGS \0 plugin`.
pub(super) fn document(input: &[u8]) -> Verdict {
    let (text, rest) = split(input);
    let (arguments, plugin) = split(rest);
    let (arguments, plugin) = (String::from_utf8_lossy(arguments), String::from_utf8_lossy(plugin));
    match Document::parse(text, &arguments, &plugin) {
        Ok(document) => {
            let again = Document::parse(text, &arguments, &plugin);
            promise(again.as_ref() == Ok(&document), || {
                format!("read twice, two answers: {document:?} and {again:?}")
            })?;
            Ok(shape(std::mem::discriminant(&document.stanza)))
        }
        Err(errors) => {
            told(&errors)?;
            Ok(shape(kinds(&errors)))
        }
    }
}

/// What is printed reads as it was printed, in every version.
pub(super) fn result(input: &[u8]) -> Verdict {
    let Ok(value) = serde_json::from_slice::<Value>(input) else { return Ok(0) };
    let Some(first) = read_result(&value) else { return Ok(1) };
    for version in VERSIONS {
        let printed = first.to_json(version);
        let read = read_result(&printed).ok_or_else(|| format!("unreadable as printed: {printed}"))?;
        let again = read.to_json(version);
        promise(again == printed, || format!("printed {printed}, read back and printed {again}"))?;
    }
    Ok(shape((first.interfaces.len(), first.ips.len(), first.routes.len(), first.dns == Default::default())))
}

fn read_result(value: &Value) -> Option<CniResult> {
    let config = json!({"cniVersion": "1.1.0", "name": "web", "type": "portmap", "prevResult": value});
    Document::parse(config.to_string().as_bytes(), "", "").ok()?.prev_result
}

pub(super) fn settings(input: &[u8]) -> Verdict {
    let text = String::from_utf8_lossy(input);
    match NodeConfig::parse("netd.toml", &text) {
        Ok(settings) => {
            promise(settings.workers > 0 && settings.socket.starts_with('/'), || format!("accepted: {settings:?}"))?;
            Ok(shape((settings.conf_dirs.len(), settings.workers == 1)))
        }
        Err(errors) => {
            told(&errors)?;
            Ok(shape(kinds(&errors)))
        }
    }
}

fn split(input: &[u8]) -> (&[u8], &[u8]) {
    let at = input.iter().position(|byte| *byte == 0);
    at.map_or((input, &[]), |at| (&input[..at], &input[at + 1..]))
}

/// A person must learn something from every refusal.
fn told(errors: &ConfigErrors) -> Result<(), String> {
    let silent = errors.mistakes().is_empty() || errors.mistakes().iter().any(|mistake| mistake.message.is_empty());
    promise(!silent, || format!("refused without a word: {errors:?}"))
}

/// Which kinds of mistake, whatever the values and places.
fn kinds(errors: &ConfigErrors) -> Vec<(String, u32, String)> {
    let letters = |text: &str, count| text.chars().filter(|letter| !letter.is_ascii_digit()).take(count).collect();
    let kind = |path: &str, message: &str, code| (letters(path, 40), code, letters(message, 12));
    errors.mistakes().iter().take(3).map(|mistake| kind(&mistake.path, &mistake.message, mistake.code)).collect()
}
