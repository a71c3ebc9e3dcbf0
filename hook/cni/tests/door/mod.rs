//! Runs the door as a runtime does: by a plugin's name, with nothing in its environment but what the test gives.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_netd-cni");

/// The variables of a call of `command` for the container `a` on `eth0`.
pub(crate) fn variables<'a>(command: &'a str, netns: &'a str) -> Vec<(&'a str, &'a str)> {
    let all = [
        ("CNI_COMMAND", command),
        ("CNI_CONTAINERID", "a"),
        ("CNI_NETNS", netns),
        ("CNI_IFNAME", "eth0"),
        ("CNI_PATH", "/bin"),
    ];
    all.to_vec()
}

/// A call by the name `argv0` of the program at `path`.
pub(crate) fn command(path: &Path, argv0: &str, variables: &[(&str, &str)]) -> Command {
    let mut command = Command::new(path);
    command.arg0(argv0).env_clear().envs(variables.iter().copied());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs it to its end, with `stdin`.
pub(crate) fn finish(mut command: Command, stdin: &[u8]) -> Output {
    let mut child = command.spawn().unwrap();
    // A call that refuses early does not read its input.
    drop(child.stdin.take().unwrap().write_all(stdin));
    child.wait_with_output().unwrap()
}

pub(crate) fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}
