//! A caller that is not the node's root. Alone in its file: a program that is copied while another test forks is busy. Needs
//! root, to become somebody else.
#![expect(clippy::unwrap_used, reason = "helpers of tests stand outside of them")]

mod door;

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;

use door::{BINARY, command, finish, text, variables};

#[test]
fn a_caller_that_is_not_root_is_told_that_rootless_is_not_supported() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let binary = folder.path().join("bridge");
    std::fs::copy(BINARY, &binary).unwrap();
    // netd's own folder is closed to others, whether netd runs or not.
    let closed = tempfile::tempdir().unwrap();
    for (command_name, run_dir) in
        [("ADD", closed.path().to_str().unwrap()), ("ADD", "/proc/netd"), ("DEL", "/proc/netd")]
    {
        let mut variables = variables(command_name, "/dev/null");
        variables.push(("NETD_RUN_DIR", run_dir));
        let mut call = command(&binary, "bridge", &variables);
        call.uid(65534).gid(65534);
        let output = finish(call, br#"{"name":"web","type":"bridge"}"#);
        let said = text(&output.stdout);
        assert!(output.status.code() == Some(1) && said.contains("\"code\": 11"), "{said}");
        assert!(said.contains("netd serves the node's root only, and no rootless containers"), "{said}");
    }
}
