//! A file that is written whole or not at all. What is in it is its owner's; the journal in `/run`, which need not outlive the boot,
//! has its own way.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

/// After a loss of power the file is the old one or the new one, and nobody sees a half. One writer a path.
pub(crate) fn write_whole(path: &Path, content: &[u8]) -> io::Result<()> {
    let folder = path.parent().unwrap_or_else(|| Path::new("/"));
    fs::create_dir_all(folder)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let new = folder.join(format!(".{name}.new"));
    let mut file = File::create(&new)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    File::open(folder)?.sync_all()
}
