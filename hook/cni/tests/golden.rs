//! What a caller sees where no netd answers: one file a case, of standard output, standard error and exit status.
//! `UPDATE_GOLDEN=1` rewrites them.
#![expect(clippy::unwrap_used, reason = "helpers of tests stand outside of them")]

mod door;

use std::path::Path;

use door::{BINARY, command, finish, text, variables};

/// No folder can be made there.
const NOWHERE: &str = "/proc/netd";
const WEB: &str = r#"{"cniVersion":"1.1.0","name":"web","type":"bridge"}"#;

fn check(case: &str, argv0: &str, changes: &[(&str, &str)], stdin: &str) {
    let mut variables = variables("ADD", "/dev/null");
    variables.push(("NETD_RUN_DIR", NOWHERE));
    variables.retain(|(name, _)| changes.iter().all(|(changed, _)| changed != name));
    variables.extend(changes);
    let output = finish(command(Path::new(BINARY), argv0, &variables), stdin.as_bytes());
    let status = output.status.code().unwrap();
    let seen = format!("{}-- stderr\n{}-- status {status}\n", ended(text(&output.stdout)), ended(text(&output.stderr)));
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(case);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&file, &seen).unwrap();
    }
    let expected = std::fs::read_to_string(&file).unwrap_or_default();
    assert_eq!(seen, expected, "{case}; UPDATE_GOLDEN=1 rewrites it");
}

fn ended(text: &str) -> String {
    if text.is_empty() || text.ends_with('\n') { text.to_owned() } else { format!("{text}\n") }
}

#[test]
fn a_person_gets_the_banner() {
    check("banner-firewall", "firewall", &[("CNI_COMMAND", "")], "");
    check("banner-netd-cni", "/opt/cni/bin/netd-cni", &[("CNI_COMMAND", "")], "");
}

#[test]
fn version_needs_neither_netd_nor_input() {
    check("version", "bridge", &[("CNI_COMMAND", "VERSION")], "not JSON");
}

#[test]
fn a_bad_call_is_refused_with_the_references_words() {
    check("missing", "bridge", &[("CNI_NETNS", ""), ("CNI_PATH", "")], WEB);
    check("unknown-command", "bridge", &[("CNI_COMMAND", "REMOVE")], WEB);
    check("bad-container-id", "bridge", &[("CNI_CONTAINERID", "a/b")], WEB);
    check("long-interface", "bridge", &[("CNI_IFNAME", "a234567890123456")], WEB);
    check("old-check", "bridge", &[("CNI_COMMAND", "CHECK")], r#"{"cniVersion":"0.3.1","name":"web","type":"bridge"}"#);
    check("old-gc", "bridge", &[("CNI_COMMAND", "GC")], r#"{"cniVersion":"1.0.0","name":"web","type":"bridge"}"#);
    check("old-status", "bridge", &[("CNI_COMMAND", "STATUS")], r#"{"name":"web","type":"bridge"}"#);
    check("own-netns", "bridge", &[("CNI_NETNS", "/proc/self/ns/net")], WEB);
    check("no-netns", "bridge", &[("CNI_NETNS", "/proc/netns")], WEB);
}

#[test]
fn a_name_that_is_not_ours_says_what_to_do() {
    check("unknown-plugin", "/opt/cni/bin/macvlan", &[], WEB);
}

#[test]
fn a_wrong_place_is_named() {
    check("relative-run-dir", "bridge", &[("NETD_RUN_DIR", "run")], WEB);
}

#[test]
fn without_netd_each_command_says_so_in_its_way() {
    check("away-add", "bridge", &[], WEB);
    check("away-add-no-version", "bridge", &[], r#"{"name":"web","type":"bridge"}"#);
    check("away-check", "portmap", &[("CNI_COMMAND", "CHECK")], WEB);
    check("away-gc", "firewall", &[("CNI_COMMAND", "GC")], WEB);
    check("away-status", "bridge", &[("CNI_COMMAND", "STATUS")], WEB);
    check("away-del-no-tombstone", "bridge", &[("CNI_COMMAND", "DEL")], WEB);
    check("away-del-no-name", "bridge", &[("CNI_COMMAND", "DEL")], r#"{"cniVersion":"1.0.0","type":"bridge"}"#);
}
