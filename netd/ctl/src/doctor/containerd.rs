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
    /// An import of a higher version than the main file's.
    pub(crate) newer_import: Option<String>,
    pub(crate) nri_socket: bool,
    /// A process `netd-hook` runs.
    pub(crate) hook: bool,
}

/// The settings that matter here. `None`: not set, so containerd's default holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Settings {
    pub(crate) bin_dirs: Option<Vec<String>>,
    /// `bin_dir` stands beside `bin_dirs`.
    pub(crate) has_both_dirs: bool,
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
        newer_import: newer_import(place),
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

fn newer_import(place: &Place) -> Option<String> {
    let main: Table = place.text(MAIN)?.parse().ok()?;
    let version = |table: &Table| table.get("version").and_then(Value::as_integer);
    let own = version(&main)?;
    let imports = main.get("imports").and_then(Value::as_array).cloned().unwrap_or_default();
    let folder = Path::new(MAIN).parent().unwrap_or_else(|| Path::new("/"));
    let mut files = imports.iter().filter_map(Value::as_str).flat_map(|import| matching(place, &folder.join(import)));
    let newer = |file: &PathBuf| {
        let table: Option<Table> = place.text(&file.to_string_lossy()).and_then(|text| text.parse().ok());
        table.as_ref().and_then(version).is_some_and(|version| version > own)
    };
    files.find(newer).map(|file| file.display().to_string())
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
    let single = cni.and_then(|cni| cni.get("bin_dir")?.as_str()).filter(|dir| !dir.is_empty());
    // What `config dump` says of a `bin_dirs` that nobody wrote: then `bin_dir` holds.
    let is_default = |dirs: &[String]| single.is_some() && dirs == ["/opt/cni/bin"];
    let dirs = cni.and_then(|cni| strings(cni.get("bin_dirs")?));
    let dirs = dirs.filter(|dirs| !dirs.is_empty() && !is_default(dirs));
    let disabled = table.get("disabled_plugins").and_then(strings).unwrap_or_default();
    Settings {
        has_both_dirs: dirs.is_some() && single.is_some(),
        bin_dirs: dirs.or_else(|| Some(vec![single?.to_owned()])),
        conf_dir: cni.and_then(|cni| cni.get("conf_dir")?.as_str().map(str::to_owned)),
        internal_loopback: cni.and_then(|cni| cni.get("use_internal_loopback")?.as_bool()),
        nri_disabled: plugin("io.containerd.nri.v1.nri").and_then(|nri| nri.get("disable")?.as_bool()),
        cri_disabled: disabled.iter().any(|name| matches!(name.as_str(), "cri" | "io.containerd.grpc.v1.cri")),
    }
}

pub(super) fn check(found: &Containerd) -> Vec<Finding> {
    let release = found.version.as_deref().and_then(release);
    let major = release.map(|(major, _)| major);
    let mut findings = vec![presence(found)];
    if found.version.is_none() && !found.socket {
        return findings;
    }
    // Later ones bring each file to their own version before they merge them.
    let merges_well = release.is_some_and(|release| release >= (2, 4));
    findings.extend(found.newer_import.as_deref().filter(|_| !merges_well).map(newer));
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
            findings.push(bin_dirs(settings, release));
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

/// Major and minor.
fn release(version: &str) -> Option<(u32, u32)> {
    let mut numbers = version.split('.').map_while(|number| number.parse().ok());
    Some((numbers.next()?, numbers.next()?))
}

fn newer(import: &str) -> Finding {
    Finding::warning(
        MAIN,
        format!(
            "is of an older version than {import}: containerd before 2.4 loses the CRI section of {MAIN} without a word, or \
             refuses both"
        ),
        format!(
            "`containerd config migrate` writes {MAIN} in the newest version; or take packaging/containerd/netd-1.7.toml"
        ),
    )
}

fn bin_dirs(settings: &Settings, release: Option<(u32, u32)>) -> Finding {
    let object = "containerd CNI bin_dirs";
    let dirs = settings.bin_dirs.clone().unwrap_or_else(|| vec!["/opt/cni/bin".to_owned()]);
    // 2.1 was the first with `bin_dirs`.
    let remedy = if release.is_some_and(|release| release < (2, 1)) {
        format!("set bin_dir = {OURS:?} (packaging/containerd/netd-1.7.toml), then restart containerd")
    } else {
        format!(
            "put {OURS:?} first in bin_dirs (packaging/containerd/netd.toml) and remove bin_dir, then restart containerd"
        )
    };
    if settings.has_both_dirs {
        let meaning =
            "bin_dir and bin_dirs are both set: CRI does not load, and no pod starts (2.0 takes bin_dir alone)";
        return Finding::problem(object, meaning, remedy);
    }
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
