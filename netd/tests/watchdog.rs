//! The binary under a service manager: says when it is ready, then pings. Needs root.

use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};

#[test]
fn it_says_ready_and_then_pings() {
    let folder = tempfile::tempdir().unwrap();
    let (path, config) = (folder.path().join("notify"), folder.path().join("netd.toml"));
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let run_dir = folder.path().join("run");
    std::fs::write(
        &config,
        format!("run_dir = {run_dir:?}\nstate_dir = {run_dir:?}\nsocket = \"{}/netd.sock\"\n", run_dir.display()),
    )
    .unwrap();
    let mut netd = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap_or_else(|error| panic!("this test needs root (unshare: {error})"));
        let mut command = Command::new(env!("CARGO_BIN_EXE_netd"));
        command.arg("--config").arg(config).env("NOTIFY_SOCKET", path).env("WATCHDOG_USEC", "300000");
        command.env_remove("WATCHDOG_PID").spawn().unwrap()
    })
    .join()
    .unwrap();
    let mut heard = Vec::new();
    let start = Instant::now();
    while heard.len() < 4 && start.elapsed() < Duration::from_secs(60) {
        let mut buffer = [0; 256];
        let Ok(length) = manager.recv(&mut buffer) else { break };
        heard.push(String::from_utf8_lossy(&buffer[..length]).trim().to_owned());
    }
    netd.kill().unwrap();
    netd.wait().unwrap();
    assert_eq!(heard, ["READY=1", "WATCHDOG=1", "WATCHDOG=1", "WATCHDOG=1"]);
}
