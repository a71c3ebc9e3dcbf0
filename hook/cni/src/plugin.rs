//! The names this program answers to, and what it says of itself. What a plugin does is netd's business.

use std::ffi::OsStr;
use std::path::Path;

use serde_json::{Value, json};
use thiserror::Error;

/// Its own name; it then is the plugin that the stanza's `type` names.
const OWN: &str = "netd-cni";
/// Also the links that an installation makes.
const NAMES: &str = include_str!("../plugins.txt");
const SPECIFICATIONS: [&str; 7] = ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];
/// The official plugins whose behaviour netd has. nerdctl wants `firewall` to be 1.7.1 or newer. What is ours stands behind
/// a `+`: behind a `-` it would be a pre-release, which is older than the release.
const BANNER_VERSION: &str = concat!("v1.9.1+netd.", env!("CARGO_PKG_VERSION"));

/// It was called by a name of somebody else's plugin.
#[derive(Debug, PartialEq, Eq, Error)]
#[error(
    "netd does not run a plugin named {called:?}; put the official plugin of that name in its place, or link netd-cni to one of: {}",
    names()
)]
pub(crate) struct UnknownPlugin {
    called: String,
}

/// Which plugin it was called as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Plugin(&'static str);

impl Plugin {
    /// The plugin that `argv0` names by its last part.
    pub(crate) fn called(argv0: &OsStr) -> Result<Self, UnknownPlugin> {
        let called = Path::new(argv0).file_name().unwrap_or(argv0).to_string_lossy();
        let known = NAMES.lines().find(|name| *name == called);
        known.map(Self).ok_or_else(|| UnknownPlugin { called: called.into_owned() })
    }

    /// The plugin's type, where the stanza says `stanza_type`.
    pub(crate) fn kind<'a>(&'a self, stanza_type: &'a str) -> &'a str {
        if self.0 == OWN { stanza_type } else { self.0 }
    }

    /// What a call without `CNI_COMMAND` is told, on standard error.
    pub(crate) fn banner(&self) -> String {
        let specifications = SPECIFICATIONS.join(", ");
        format!("CNI {} plugin {BANNER_VERSION}\nCNI protocol versions supported: {specifications}\n", self.0)
    }
}

/// The answer to VERSION, which does not depend on the plugin.
pub(crate) fn versions() -> Value {
    let newest = SPECIFICATIONS.last();
    json!({ "cniVersion": newest, "supportedVersions": SPECIFICATIONS })
}

fn names() -> String {
    NAMES.lines().collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::{Plugin, names};

    fn called(argv0: &str) -> Option<Plugin> {
        Plugin::called(OsStr::new(argv0)).ok()
    }

    #[test]
    fn the_last_part_of_the_path_is_the_name() {
        for argv0 in ["bridge", "/opt/cni/bin/bridge", "./bridge"] {
            assert_eq!(called(argv0), Some(Plugin("bridge")), "{argv0}");
        }
        for argv0 in ["", "/", "Bridge", "bridge2", "/opt/bridge/vlan"] {
            assert_eq!(called(argv0), None, "{argv0:?}");
        }
    }

    #[test]
    fn its_own_name_leaves_the_choice_to_the_stanza() {
        assert_eq!(Plugin("netd-cni").kind("portmap"), "portmap");
        assert_eq!(Plugin("host-local").kind("bridge"), "host-local");
    }

    #[test]
    fn nerdctl_reads_a_firewall_of_1_7_1_or_newer_and_no_prerelease() {
        let banner = Plugin("firewall").banner();
        let version = banner.lines().next().unwrap().strip_prefix("CNI firewall plugin v").unwrap();
        let (release, build) = version.split_once('+').unwrap();
        let release: Vec<u32> = release.split('.').map(|part| part.parse().unwrap()).collect();
        assert!(release >= vec![1, 7, 1], "{version}");
        assert!(build.chars().all(|c| c.is_ascii_alphanumeric() || c == '.' || c == '-'), "{version}");
    }

    #[test]
    fn every_plugin_that_netd_runs_has_its_name() {
        let expected =
            "netd-cni, netd, bridge, ptp, loopback, host-local, static, portmap, firewall, tuning, isolation";
        assert_eq!(names(), expected);
    }
}
