//! How many tests of a program run at once under `cargo xtask test`: cargo starts every program by this one, which then is that
//! program. The harness takes as many as there are processors, which is right for tests that compute. Some do nothing but
//! wait: for leases to end, and for packets that do not come.

use std::env;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

/// The word of the command line by which cargo starts programs.
pub(crate) const START: &str = "start";
/// The harness's own name for it. Whoever sets it has his will.
const THREADS: &str = "RUST_TEST_THREADS";
/// Folder of the crate, name of the program, and how many at once.
const WAITING: [(&str, &str, &str); 4] =
    [("netd/fleet", "etcd", "8"), ("netd/kernel", "packets", "8"), ("netd", "others", "4"), ("netd", "chaos", "3")];

/// For cargo's `--config`. Taken before cargo builds this program anew in its place.
pub(crate) fn runner() -> Result<String> {
    let this = env::current_exe().context("cannot say where this program is")?;
    Ok(format!("target.'cfg(all())'.runner=[{:?}, {START:?}]", this.to_string_lossy()))
}

/// Becomes the program that the arguments begin with; comes back only where that fails.
pub(crate) fn start(arguments: &[String]) -> Result<()> {
    let (program, arguments) = arguments.split_first().context("no program to start")?;
    let mut command = Command::new(program);
    command.args(arguments);
    // Cargo starts it in the folder of its crate.
    if let Some(threads) = threads(&env::current_dir()?, program)
        && env::var_os(THREADS).is_none()
    {
        command.env(THREADS, threads);
    }
    Err(command.exec()).with_context(|| format!("cannot start {program}"))
}

fn threads(folder: &Path, program: &str) -> Option<&'static str> {
    // target/debug/deps/<name>-<hash>
    let (name, _) = Path::new(program).file_name()?.to_str()?.rsplit_once('-')?;
    WAITING.iter().find(|(of, called, _)| folder.ends_with(of) && name == *called).map(|(_, _, threads)| *threads)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{WAITING, threads};

    #[test]
    fn a_program_is_known_by_its_crate_and_its_name() {
        let of =
            |folder: &str, program: &str| threads(Path::new(folder), &format!("/tree/target/debug/deps/{program}"));
        assert_eq!(of("/tree/netd/kernel", "packets-7c9828cbad9c0177"), Some("8"));
        assert_eq!(of("/tree/netd", "packets-ae19fd78935353b6"), None);
        assert_eq!(of("/tree/netd/kernel", "packets"), None);
    }

    #[test]
    fn each_of_them_is_there() {
        let tree = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        for (folder, name, _) in WAITING {
            let tests = tree.join(folder).join("tests");
            let is_there = tests.join(name).join("main.rs").exists() || tests.join(format!("{name}.rs")).exists();
            assert!(is_there, "{folder} has no test program {name}");
        }
    }
}
