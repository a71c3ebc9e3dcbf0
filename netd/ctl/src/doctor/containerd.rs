//! containerd's configuration, as far as it decides which CNI plugins run and whether NRI speaks.

use std::path::{Path, PathBuf};
use std::process::Command;

use toml::{Table, Value};

use super::{Finding, Place};

/// Where our plugins are.
pub(crate) const OURS: &str = "/usr/libexec/netd/cni";
const MAIN: &str = "/etc/containerd/config.toml";

/// What was found of containerd.
#[derive(Debug, Clone)]
pub(crate) struct Containerd {
    /// Its socket is there.
    pub(crate) socket: bool,
    /// Such as "2.4.2"; `None`: the program was not found.
    pub(crate) version: Option<String>,
    /// What holds in the end, or why that is not known.
    pub(crate) settings: Result<Settings, String>,
    pub(crate) nri_socket: bool,
    /// A process `netd-hook` runs.
    pub(crate) hook: bool,
}

/// The settings that matter here. `None`: not set, so containerd's default holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Settings {
    pub(crate) bin_dirs: Option<Vec<String>>,
    pub(crate) conf_dir: Option<String>,
    pub(crate) internal_loopback: Option<bool>,
    pub(crate) nri_disabled: Option<bool>,
    /// CRI is switched off (`disabled_plugins`), as Docker's package does.
    pub(crate) cri_disabled: bool,
}

pub(super) fn gather(place: &Place, processes: &[String]) -> Containerd {
    Containerd {
        socket: place.at("/run/containerd/containerd.sock").exists(),
        version: place.is_host().then(|| said("containerd", &["--version"])).flatten().and_then(|text| version(&text)),
        settings: effective(place),
        nri_socket: place.at("/run/nri/nri.sock").exists(),
        hook: processes.iter().any(|name| name == "netd-hook"),
    }
}

/// What a program writes, if it succeeds.
pub(super) fn said(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// From `containerd github.com/containerd/containerd/v2 v2.4.2 0123abc`.
fn version(text: &str) -> Option<String> {
    let word =
        text.split_whitespace().find(|word| word.trim_start_matches('v').starts_with(|c: char| c.is_ascii_digit()))?;
    Some(word.trim_start_matches('v').to_owned())
}

/// containerd's own word where it can be had: how it merges imports differs between its versions.
fn effective(place: &Place) -> Result<Settings, String> {
    let dump = place.is_host().then(|| said("containerd", &["config", "dump"])).flatten();
    match dump {
        Some(text) => text.parse().map(|table| settings(&table)).map_err(|error: toml::de::Error| error.to_string()),
        None => read(place, Path::new(MAIN), 0).map(|table| settings(&table)),
    }
}

/// A file with its imports on top of it. A main file that is not there is an empty one.
fn read(place: &Place, path: &Path, depth: usize) -> Result<Table, String> {
    // As deep as anybody goes; an import in a circle ends here.
    if depth > 8 {
        return Ok(Table::new());
    }
    let Some(text) = place.text(&path.to_string_lossy()) else { return Ok(Table::new()) };
    let parsed = text.parse();
    let mut table: Table = parsed.map_err(|error: toml::de::Error| format!("{}: {error}", path.display()))?;
    let imports = table.get("imports").and_then(Value::as_array).cloned().unwrap_or_default();
    for import in imports.iter().filter_map(Value::as_str) {
        for file in matching(place, &path.parent().unwrap_or_else(|| Path::new("/")).join(import)) {
            merge(&mut table, read(place, &file, depth + 1)?);
        }
    }
    Ok(table)
}

/// Files that an import names; a `*` stands in the last part only.
fn matching(place: &Place, pattern: &Path) -> Vec<PathBuf> {
    let (Some(folder), Some(name)) = (pattern.parent(), pattern.file_name()) else { return Vec::new() };
    let name = name.to_string_lossy();
    let Some((before, after)) = name.split_once('*') else { return vec![pattern.to_owned()] };
    let fits = |file: &String| file.starts_with(before) && file.ends_with(after);
    place.names(&folder.to_string_lossy()).into_iter().filter(fits).map(|file| folder.join(file)).collect()
}

fn merge(below: &mut Table, above: Table) {
    for (key, value) in above {
        match (below.get_mut(&key), value) {
            (Some(Value::Table(below)), Value::Table(above)) => merge(below, above),
            (_, value) => drop(below.insert(key, value)),
        }
    }
}

/// Reads versions 2, 3 and 4 of the file, which differ in the plugins' names only.
pub(super) fn settings(table: &Table) -> Settings {
    let plugin = |name: &str| table.get("plugins")?.get(name);
    let cni = plugin("io.containerd.cri.v1.runtime").or_else(|| plugin("io.containerd.grpc.v1.cri"));
    let cni = cni.and_then(|cri| cri.get("cni"));
    let strings = |value: &Value| -> Option<Vec<String>> {
        Some(value.as_array()?.iter().filter_map(|one| one.as_str().map(str::to_owned)).collect())
    };
    let single = || Some(vec![cni?.get("bin_dir")?.as_str()?.to_owned()]);
    let disabled = table.get("disabled_plugins").and_then(strings).unwrap_or_default();
    Settings {
        bin_dirs: cni.and_then(|cni| strings(cni.get("bin_dirs")?)).filter(|dirs| !dirs.is_empty()).or_else(single),
        conf_dir: cni.and_then(|cni| cni.get("conf_dir")?.as_str().map(str::to_owned)),
        internal_loopback: cni.and_then(|cni| cni.get("use_internal_loopback")?.as_bool()),
        nri_disabled: plugin("io.containerd.nri.v1.nri").and_then(|nri| nri.get("disable")?.as_bool()),
        cri_disabled: disabled.iter().any(|name| matches!(name.as_str(), "cri" | "io.containerd.grpc.v1.cri")),
    }
}

pub(super) fn check(found: &Containerd) -> Vec<Finding> {
    let major: Option<u32> = found.version.as_ref().and_then(|version| version.split('.').next()?.parse().ok());
    let mut findings = vec![presence(found)];
    if found.version.is_none() && !found.socket {
        return findings;
    }
    match &found.settings {
        Err(error) => findings.push(Finding::problem(
            MAIN,
            format!("cannot be read: {error}"),
            "correct it; `containerd config dump` must succeed",
        )),
        Ok(settings) if settings.cri_disabled => findings.push(Finding::ok(
            "containerd CRI",
            "switched off (disabled_plugins): no pods, no NRI; nerdctl and ctr go by their own settings",
        )),
        Ok(settings) => {
            findings.push(bin_dirs(settings));
            findings.extend(loopback(settings, major));
            findings.extend(nri(found, settings, major));
        }
    }
    findings
}

fn presence(found: &Containerd) -> Finding {
    match (&found.version, found.socket) {
        (None, false) => Finding::warning("containerd", "not found", "install it, or run doctor where it runs"),
        (Some(version), false) => Finding::warning(
            format!("containerd {version}"),
            "does not run: /run/containerd/containerd.sock is missing",
            "start it: `systemctl start containerd`",
        ),
        (version, true) => {
            Finding::ok(format!("containerd {}", version.as_deref().unwrap_or("of unknown version")), "runs")
        }
    }
}

fn bin_dirs(settings: &Settings) -> Finding {
    let object = "containerd CNI bin_dirs";
    let dirs = settings.bin_dirs.clone().unwrap_or_else(|| vec!["/opt/cni/bin".to_owned()]);
    let remedy = format!("put {OURS:?} first in bin_dirs (packaging/containerd/netd.toml), then restart containerd");
    match dirs.iter().position(|dir| dir.trim_end_matches('/') == OURS) {
        Some(0) => Finding::ok(object, format!("{OURS} comes first")),
        Some(_) => {
            let meaning = format!("{} comes before {OURS}: pods get the plugins there, not netd", dirs[0]);
            Finding::problem(object, meaning, remedy)
        }
        None => {
            let meaning = format!("{} without {OURS}: pods do not reach netd", dirs.join(", "));
            Finding::problem(object, meaning, remedy)
        }
    }
}

/// Only containerd 2 has the key.
fn loopback(settings: &Settings, major: Option<u32>) -> Option<Finding> {
    let object = "containerd use_internal_loopback";
    match (settings.internal_loopback, major) {
        (Some(true), _) => Some(Finding::ok(object, "true: containerd brings lo up itself")),
        (_, Some(0 | 1)) => None,
        _ => Some(Finding::warning(
            object,
            "false: each pod starts one more process, to bring lo up",
            "set use_internal_loopback = true (packaging/containerd/netd.toml)",
        )),
    }
}

fn nri(found: &Containerd, settings: &Settings, major: Option<u32>) -> Vec<Finding> {
    // Off by default up to 1.7.
    let disabled = settings.nri_disabled.unwrap_or(matches!(major, Some(0 | 1)));
    if disabled {
        let meaning = "switched off: pods get addresses, but netd does not learn their names and labels";
        let remedy = "set disable = false in io.containerd.nri.v1.nri (packaging/containerd), then restart containerd";
        return vec![Finding::problem("containerd NRI", meaning, remedy)];
    }
    let socket = if found.nri_socket {
        Finding::ok("containerd NRI", "on")
    } else {
        let meaning = "on, but /run/nri/nri.sock is missing; containerd makes it when it starts";
        Finding::warning(
            "containerd NRI",
            meaning,
            "start or restart containerd; look at socket_path of its NRI section",
        )
    };
    let hook = if found.hook {
        Finding::ok("netd-hook", "runs")
    } else {
        let meaning = "does not run: pods start without their names and labels, and nothing says so";
        Finding::problem("netd-hook", meaning, "start it: `systemctl enable --now netd-hook`")
    };
    vec![socket, hook]
}
