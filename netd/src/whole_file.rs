//! A file that is written whole or not at all. What is in it is its owner's; the journal in `/run`, which need not outlive the boot,
//! has its own way.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process;

/// After a loss of power the file is the old one or the new one, and nobody sees a half. One writer a path.
pub(crate) fn write_whole(path: &Path, content: &[u8]) -> io::Result<()> {
    write_all_whole(&[(path.to_owned(), content)])
}

/// Files of one directory, each as [`write_whole`] does it. Many wait for the disk once, and not one after another.
pub(crate) fn write_all_whole<T: AsRef<[u8]>>(files: &[(PathBuf, T)]) -> io::Result<()> {
    const ONE_BY_ONE: usize = 4;
    let Some(folder) = files.first().map(|(path, _)| path.parent().unwrap_or_else(|| Path::new("/"))) else {
        return Ok(());
    };
    fs::create_dir_all(folder)?;
    let mut written = Vec::new();
    let done = files.iter().try_for_each(|(path, content)| {
        let new = beside(path);
        written.push(new.clone());
        let mut file = File::create(new)?;
        file.write_all(content.as_ref())?;
        if files.len() > ONE_BY_ONE { Ok(()) } else { file.sync_all() }
    });
    let directory = File::open(folder);
    let done = done.and_then(|()| if files.len() > ONE_BY_ONE { sync(directory.as_ref()) } else { Ok(()) });
    let done = done.and_then(|()| files.iter().try_for_each(|(path, _)| fs::rename(beside(path), path)));
    if done.is_err() {
        // Those that have their name already are not there under the other.
        written.iter().for_each(|new| drop(fs::remove_file(new)));
    }
    done?;
    directory?.sync_all()
}

fn beside(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{}", process::id()))
}

/// All of the file system that this is in.
fn sync(directory: Result<&File, &io::Error>) -> io::Result<()> {
    let directory = directory.map_err(|error| io::Error::from(error.kind()))?;
    Ok(nix::unistd::syncfs(directory)?)
}
