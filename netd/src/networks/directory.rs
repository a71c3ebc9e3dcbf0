//! Reads the watched directories: which files, in which order. What they say is not looked at, but for a network's
//! folder, whose `*.conf` are plugins and not networks.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use netd_config::{Conflist, Folders, PluginFile};

use crate::directories;

/// Octets; real files have some thousand.
const LONGEST: u64 = 256 * 1024;

/// One configuration file as it was found.
#[derive(Debug, Clone)]
pub(super) struct Source {
    pub(super) file: String,
    /// Or why there is none.
    pub(super) text: Result<Vec<u8>, String>,
    /// The plugin files beside it.
    pub(super) folders: Folders,
}

/// The files of all directories, those that hold a name first in front: as the directories are listed, within one by
/// name, then those of its subdirectories (nerdctl's, one a containerd namespace). `before` are the files known so far:
/// where a directory is there and cannot be read, its files are not taken for gone.
pub(super) fn read(directories: &[PathBuf], before: &[String]) -> Vec<Source> {
    let mut sources: Vec<_> = directories.iter().flat_map(|directory| read_one(directory, before)).collect();
    let mut seen = BTreeSet::new();
    // One directory may be listed twice, or lie in another.
    sources.retain(|source| seen.insert(source.file.clone()));
    sources
}

fn read_one(directory: &Path, before: &[String]) -> Vec<Source> {
    let listing = match list(directory) {
        Ok(listing) => listing,
        Err(error) => return unlisted(directory, &error, before),
    };
    let (mut subdirectories, mut lost) = (BTreeMap::new(), Vec::new());
    for path in &listing.directories {
        match list(path) {
            Ok(listing) => drop(subdirectories.insert(path, listing.files)),
            Err(error) => lost.extend(unlisted(path, &error, before)),
        }
    }
    let folders: Folders = subdirectories.iter().map(|(path, files)| (name(path), plugin_files(path, files))).collect();
    let mut sources: Vec<_> = listing.files.iter().map(|path| source(path, folders.clone())).collect();
    let networks: Vec<String> = sources.iter().filter_map(network_name).collect();
    for (path, files) in subdirectories {
        let is_networks = networks.contains(&name(path));
        let own = files.iter().filter(|file| !(is_networks && ends_in(file, &["conf"])));
        sources.extend(own.map(|file| source(file, Folders::new())));
    }
    sources.extend(lost);
    sources
}

/// A directory that cannot be listed: an entry of its own says so, and what was known below it stands, unread.
fn unlisted(directory: &Path, error: &io::Error, before: &[String]) -> Vec<Source> {
    // Not there: nothing is described, and the watch waits for it.
    if error.kind() == io::ErrorKind::NotFound {
        return Vec::new();
    }
    let failed = |file: String| Source {
        file,
        text: Err(format!(
            "cannot list {}: {error}; see that it is a directory that netd may read",
            directory.display()
        )),
        folders: Folders::new(),
    };
    let below = before.iter().filter(|file| Path::new(file).starts_with(directory) && Path::new(file) != directory);
    let below = below.cloned().map(failed);
    std::iter::once(failed(directory.display().to_string())).chain(below).collect()
}

#[derive(Default)]
struct Listing {
    files: Vec<PathBuf>,
    directories: Vec<PathBuf>,
}

fn list(directory: &Path) -> io::Result<Listing> {
    let mut paths =
        fs::read_dir(directory)?.map(|entry| entry.map(|entry| entry.path())).collect::<Result<Vec<_>, _>>()?;
    paths.sort();
    let mut listing = Listing::default();
    for path in paths {
        if path.is_dir() {
            listing.directories.push(path);
        } else if ends_in(&path, &["conflist", "conf", "json"]) {
            listing.files.push(path);
        }
    }
    Ok(listing)
}

fn ends_in(path: &Path, endings: &[&str]) -> bool {
    path.extension().is_some_and(|is| endings.iter().any(|ending| is == *ending))
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn source(path: &Path, folders: Folders) -> Source {
    Source { file: path.display().to_string(), text: text(path), folders }
}

fn plugin_files(directory: &Path, files: &[PathBuf]) -> Vec<PluginFile> {
    let plugin = |path: &PathBuf| PluginFile { file: format!("{}/{}", name(directory), name(path)), text: text(path) };
    files.iter().filter(|path| ends_in(path, &["conf"])).map(plugin).collect()
}

fn text(path: &Path) -> Result<Vec<u8>, String> {
    directories::text(path, LONGEST, "network configuration")
}

fn network_name(source: &Source) -> Option<String> {
    let text = source.text.as_ref().ok()?;
    Conflist::parse(&source.file, text, &Folders::new()).name.map(|name| name.to_string())
}
