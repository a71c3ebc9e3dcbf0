//! The environment as tables: what is read, what is refused, in which words.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use super::{Command, Environment, EnvironmentError};
use crate::failure::Failure;

fn read(line: &str) -> Result<Option<Environment>, EnvironmentError> {
    let variables: BTreeMap<&str, &str> = line.split_whitespace().map(|pair| pair.split_once('=').unwrap()).collect();
    Environment::read(|name| variables.get(name).map(|value| OsString::from(*value)))
}

fn refused(line: &str) -> (u32, String, String) {
    let failure = Failure::from(read(line).unwrap_err());
    (failure.code, failure.message, failure.details)
}

const FULL: &str = "CNI_CONTAINERID=a CNI_NETNS=/ns CNI_IFNAME=eth0 CNI_PATH=/bin";

#[test]
fn each_command_wants_its_variables() {
    let missing = [
        ("CNI_COMMAND=ADD", "CNI_CONTAINERID,CNI_NETNS,CNI_IFNAME,CNI_PATH"),
        ("CNI_COMMAND=CHECK", "CNI_CONTAINERID,CNI_NETNS,CNI_IFNAME,CNI_PATH"),
        ("CNI_COMMAND=DEL", "CNI_CONTAINERID,CNI_IFNAME,CNI_PATH"),
        ("CNI_COMMAND=GC", "CNI_PATH"),
        ("CNI_COMMAND=STATUS", "CNI_PATH"),
        ("CNI_COMMAND=ADD CNI_CONTAINERID=a CNI_NETNS= CNI_IFNAME=eth0 CNI_PATH=", "CNI_NETNS,CNI_PATH"),
    ];
    for (line, names) in missing {
        assert_eq!(refused(line), (4, format!("required env variables [{names}] missing"), String::new()), "{line}");
    }
    assert_eq!(read("CNI_COMMAND=VERSION").unwrap().unwrap().command, Command::Version);
    let detach = read("CNI_COMMAND=DEL CNI_CONTAINERID=a CNI_IFNAME=eth0 CNI_PATH=/bin").unwrap().unwrap();
    assert_eq!((detach.command, detach.netns.as_str()), (Command::Del, ""));
}

#[test]
fn a_call_without_a_command_is_a_persons() {
    assert_eq!(read("CNI_PATH=/bin"), Ok(None));
    assert_eq!(read("CNI_COMMAND="), Ok(None));
}

#[test]
fn names_are_checked_as_the_reference_does() {
    let cases = [
        ("CNI_CONTAINERID=a%b", "invalid characters in containerID", "a%b"),
        ("CNI_CONTAINERID=-a", "invalid characters in containerID", "-a"),
        (
            "CNI_IFNAME=a234567890123456",
            "interface name is too long",
            "interface name should be less than 16 characters",
        ),
        ("CNI_IFNAME=..", "interface name is . or ..", ""),
        ("CNI_IFNAME=a/b", "interface name contains / or : or whitespace characters", ""),
        ("CNI_IFNAME=a:b", "interface name contains / or : or whitespace characters", ""),
        ("CNI_COMMAND=add", "unknown CNI_COMMAND: add", ""),
    ];
    for (change, message, details) in cases {
        let line = format!("CNI_COMMAND=ADD {FULL} {change}");
        assert_eq!(refused(&line), (4, message.to_owned(), details.to_owned()), "{line}");
    }
    let space = |name: &str| Some(OsString::from(if name == "CNI_COMMAND" { "ADD" } else { "a b" }));
    assert!(Environment::read(space).is_err());
    let longest = read(&format!("CNI_COMMAND=ADD {FULL} CNI_IFNAME=a23456789012345 CNI_CONTAINERID=A.b-c_9"));
    assert_eq!(longest.unwrap().unwrap().interface, "a23456789012345");
}

#[test]
fn a_value_that_is_no_text_is_named() {
    let binary =
        |name: &str| Some(if name == "CNI_NETNS" { OsString::from_vec(vec![0xff]) } else { OsString::from("ADD") });
    assert_eq!(Environment::read(binary), Err(EnvironmentError::Encoding("CNI_NETNS")));
}

#[test]
fn an_override_is_1_or_true_in_any_case() {
    for (value, may) in [("1", true), ("TRUE", true), ("true", true), ("0", false), ("yes", false), ("", false)] {
        let environment = read(&format!("CNI_COMMAND=ADD {FULL} CNI_NETNS_OVERRIDE={value}")).unwrap().unwrap();
        assert_eq!(environment.may_share_netns, may, "{value:?}");
    }
}

#[test]
fn what_speaks_of_no_sandbox_needs_no_valid_names() {
    let status = read("CNI_COMMAND=STATUS CNI_PATH=/bin CNI_CONTAINERID=%").unwrap().unwrap();
    assert_eq!((status.command, status.container_id.as_str()), (Command::Status, ""));
}
