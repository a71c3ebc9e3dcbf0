//! The systemd units, checked by systemd itself on a made-up file system. Nothing is started.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::say;

const UNITS: &str = "packaging/systemd";
/// What the units start, and nothing more than a name there.
const BINARIES: [&str; 2] = ["usr/sbin/netd", "usr/sbin/netd-hook"];

/// `is_strict`: that the units cannot be looked at is a fault too.
pub(crate) fn run(is_strict: bool) -> Result<()> {
    say("== packaging: systemd-analyze verify");
    if let Err(reason) = install() {
        if is_strict {
            return Err(reason);
        }
        say(&format!("SKIPPED packaging: units not verified: {reason:#}"));
        return Ok(());
    }
    let faults = faults(Path::new(UNITS))?;
    if faults.is_empty() {
        return Ok(());
    }
    faults.iter().for_each(|fault| say(fault));
    bail!("{} faults in {UNITS}", faults.len())
}

/// Fails only where the tool is missing and cannot be had.
fn install() -> Result<()> {
    let there =
        || Command::new("systemd-analyze").arg("--version").output().is_ok_and(|output| output.status.success());
    if there() {
        return Ok(());
    }
    say("systemd-analyze is missing; installing Debian's package systemd");
    for arguments in [vec!["update"], vec!["install", "--yes", "--no-install-recommends", "systemd"]] {
        let line = format!("apt-get {}", arguments.join(" "));
        let output = Command::new("apt-get").args(arguments).env("DEBIAN_FRONTEND", "noninteractive").output();
        let output = output.with_context(|| format!("cannot run `{line}`; install systemd by hand"))?;
        if !output.status.success() {
            bail!("`{line}` failed; install systemd by hand: {}", String::from_utf8_lossy(&output.stderr));
        }
    }
    if there() { Ok(()) } else { bail!("systemd is installed, systemd-analyze is not there") }
}

/// What systemd says about the units in `directory`, line by line.
fn faults(directory: &Path) -> Result<Vec<String>> {
    let root = Root::build(directory)?;
    let mut command = Command::new("systemd-analyze");
    command.args(["verify", "--man=no", "--recursive-errors=yes"]).arg(format!("--root={}", root.path.display()));
    let output = command.args(&root.units).output().context("cannot run systemd-analyze")?;
    let said = [output.stderr, output.stdout].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    // Older versions warn of an unknown key and still succeed: every line that names a unit of ours counts.
    let ours = |line: &&str| root.units.iter().any(|unit| line.contains(unit.as_str()));
    let mut faults: Vec<String> = said.lines().filter(ours).map(str::to_owned).collect();
    if !output.status.success() && faults.is_empty() {
        faults.push(format!("systemd-analyze verify failed: {}", said.trim()));
    }
    Ok(faults)
}

/// A file system with the units, systemd's own, and something to start; gone when dropped.
struct Root {
    path: PathBuf,
    units: Vec<String>,
}

impl Root {
    fn build(directory: &Path) -> Result<Self> {
        let made = Command::new("mktemp").args(["--directory", "--tmpdir", "netd-units.XXXXXX"]).output()?;
        let path = PathBuf::from(String::from_utf8(made.stdout)?.trim());
        if !path.is_absolute() {
            bail!("mktemp made no folder: {}", String::from_utf8_lossy(&made.stderr));
        }
        let mut root = Self { path, units: Vec::new() };
        let own = root.path.join("etc/systemd/system");
        fs::create_dir_all(&own)?;
        for entry in fs::read_dir(directory).with_context(|| format!("cannot list {}", directory.display()))? {
            let entry = entry?;
            fs::copy(entry.path(), own.join(entry.file_name()))?;
            root.units.push(entry.file_name().to_string_lossy().into_owned());
        }
        root.units.sort();
        root.add_targets()?;
        root.add_binaries()?;
        Ok(root)
    }

    /// The targets that the units depend on by default.
    fn add_targets(&self) -> Result<()> {
        let system = self.path.join("usr/lib/systemd/system");
        fs::create_dir_all(&system)?;
        for entry in fs::read_dir("/usr/lib/systemd/system").or_else(|_| fs::read_dir("/lib/systemd/system"))? {
            let entry = entry?;
            let is_unit = entry.path().extension().is_some_and(|kind| kind == "target" || kind == "slice");
            if is_unit && entry.path().is_file() {
                fs::copy(entry.path(), system.join(entry.file_name()))?;
            }
        }
        Ok(())
    }

    fn add_binaries(&self) -> Result<()> {
        fs::create_dir_all(self.path.join("usr/sbin"))?;
        for binary in BINARIES {
            let path = self.path.join(binary);
            fs::write(&path, "#!/bin/false\n")?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        }
        Ok(())
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.path));
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;
    use std::path::Path;

    use super::{Root, faults, install};

    /// The folder of a broken copy of a unit; `Root` is a folder that removes itself.
    fn broken(line: &str, instead: &str) -> Vec<String> {
        let units = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../packaging/systemd");
        let copy = Root::build(&units).unwrap();
        let unit = copy.path.join("etc/systemd/system/netd.service");
        let text = fs::read_to_string(&unit).unwrap();
        assert!(text.contains(line));
        fs::write(&unit, text.replace(line, instead)).unwrap();
        faults(unit.parent().unwrap()).unwrap()
    }

    #[test]
    fn a_wrong_unit_is_a_fault() {
        if let Err(reason) = install() {
            // Past the harness, which keeps `eprintln!` to itself; xtask counts it.
            writeln!(std::io::stderr(), "SKIPPED packaging: units not verified: {reason:#}").unwrap();
            return;
        }
        assert_eq!(broken("Type=notify", "Type=notify"), Vec::<String>::new());
        for (line, instead) in [
            ("Restart=always", "Restart=sometimes"),
            ("WatchdogSec=30s", "WatchdogSeconds=30s"),
            ("ExecStart=/usr/sbin/netd", "ExecStart=/usr/sbin/nothing"),
            ("SystemCallFilter=@system-service", "SystemCallFilter=@no-such-set"),
        ] {
            assert!(!broken(line, instead).is_empty(), "{instead} passed");
        }
    }
}
