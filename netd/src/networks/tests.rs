//! Networks: what a catalogue makes of files (pure), and real directories that change under a real watch.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use netd_config::Folders;

use super::catalogue::{Catalogue, Entry};
use super::directory::{self, Source};
use super::{Networks, read};
use crate::directories;

fn list(name: &str, plugin: &str) -> String {
    format!(r#"{{"cniVersion":"1.0.0","name":"{name}","plugins":[{plugin}]}}"#)
}

fn bridge(name: &str, bridge: &str) -> String {
    list(name, &format!(r#"{{"type":"bridge","bridge":"{bridge}"}}"#))
}

fn source(file: &str, text: &str) -> Source {
    Source { file: file.to_owned(), text: Ok(text.as_bytes().to_vec()), folders: Folders::new() }
}

fn bridge_of(catalogue: &Catalogue, name: &str) -> Option<String> {
    catalogue.lookup(name).map(|network| network.bridge().unwrap().to_string())
}

fn error(entry: &Entry) -> &str {
    entry.error.as_deref().unwrap_or_default()
}

#[test]
fn a_bad_file_hides_no_good_one_and_what_was_good_holds_on() {
    let good = Catalogue::default().next(&[source("a", &bridge("web", "br0")), source("b", &bridge("db", "br1"))]);
    assert_eq!((good.generation, good.networks().count()), (1, 2));
    let broken = good.next(&[source("a", "{"), source("b", &bridge("db", "br2")), source("c", "")]);
    assert_eq!(bridge_of(&broken, "web").unwrap(), "br0");
    assert_eq!(bridge_of(&broken, "db").unwrap(), "br2");
    assert!(error(&broken.entries[0]).ends_with("; network web goes on as it last stood there"), "{broken:?}");
    assert_eq!(error(&broken.entries[2]), "c: the file is empty; write a network configuration into it, or remove it");
    // Still broken, otherwise: still held. Good again: the new one, and no error. Gone: gone.
    let worse = broken.next(&[source("a", "[]"), source("b", &bridge("db", "br2"))]);
    assert_eq!(bridge_of(&worse, "web").unwrap(), "br0");
    let fixed = worse.next(&[source("a", &bridge("web", "br9"))]);
    assert_eq!((bridge_of(&fixed, "web").unwrap().as_str(), error(&fixed.entries[0])), ("br9", ""));
    assert!(fixed.lookup("db").is_none());
    let same = fixed.next(&[source("a", &bridge("web", "br9"))]);
    assert_eq!((same.generation, fixed.generation), (4, 4));
}

#[test]
fn an_unreadable_file_holds_on_too() {
    let good = Catalogue::default().next(&[source("a", &bridge("web", "br0"))]);
    let mut unread = source("a", "");
    unread.text = Err("cannot read it".to_owned());
    let next = good.next(std::slice::from_ref(&unread));
    assert_eq!((bridge_of(&next, "web").unwrap().as_str(), next.entries[0].name.as_str()), ("br0", "web"));
    assert_eq!(error(&next.entries[0]), "a: cannot read it; network web goes on as it last stood there");
    // And it says so once, however often it is looked at.
    assert_eq!(next.next(std::slice::from_ref(&unread)), next);
}

#[test]
fn a_network_given_to_another_plugin_is_netds_no_longer() {
    let good = Catalogue::default().next(&[source("a", &bridge("web", "br0"))]);
    let given = good.next(&[source("a", &list("web", r#"{"type":"macvlan"}"#))]);
    assert!(given.lookup("web").is_none());
    assert!(error(&given.entries[0]).contains("netd does not run \"macvlan\" yet"), "{given:?}");
    assert_eq!((given.entries[0].name.as_str(), given.entries[0].types.join(" ").as_str()), ("web", "macvlan"));
}

#[test]
fn of_two_files_with_one_name_the_first_holds_it_and_the_other_says_so() {
    let both = [source("a", &bridge("web", "br0")), source("b", &bridge("web", "br1"))];
    let catalogue = Catalogue::default().next(&both);
    assert_eq!(bridge_of(&catalogue, "web").unwrap(), "br0");
    assert_eq!(
        error(&catalogue.entries[1]),
        "b: name: \"web\" is the network of a already; rename one of them, or remove a file"
    );
    // A broken holder holds on; only when it is gone does the other one hold.
    let broken = catalogue.next(&[source("a", "{"), both[1].clone()]);
    assert_eq!(bridge_of(&broken, "web").unwrap(), "br0");
    let gone = broken.next(&both[1..]);
    assert_eq!((bridge_of(&gone, "web").unwrap().as_str(), error(&gone.entries[0])), ("br1", ""));
}

#[test]
fn files_are_read_in_order_with_namespaces_last_and_plugin_folders_left_out() {
    let folder = tempfile::tempdir().unwrap();
    let put = |path: &str, text: &str| {
        fs::create_dir_all(folder.path().join(path).parent().unwrap()).unwrap();
        fs::write(folder.path().join(path), text).unwrap();
    };
    put("20-b.conf", &bridge("b", "br0"));
    put("10-a.conflist", &bridge("web", "br1"));
    put("30-c.json", "{}");
    put("README", "not read");
    put("k8s.io/10-ns.conflist", &bridge("ns", "br2"));
    put("web/10-tune.conf", r#"{"type":"tuning"}"#);
    put("web/20-own.conflist", &bridge("own", "br3"));
    put("deep/er/10-no.conflist", &bridge("no", "br4"));
    let sources = directory::read(&[folder.path().to_owned(), folder.path().to_owned()], &[]);
    let names = sources.iter().map(|source| Path::new(&source.file).strip_prefix(folder.path()).unwrap().to_owned());
    let expected = ["10-a.conflist", "20-b.conf", "30-c.json", "k8s.io/10-ns.conflist", "web/20-own.conflist"];
    assert_eq!(names.collect::<Vec<_>>(), expected.map(PathBuf::from));
    let catalogue = Catalogue::default().next(&sources);
    let web = catalogue.lookup("web").unwrap();
    assert_eq!(web.plugins.iter().map(|plugin| plugin.kind.as_str()).collect::<Vec<_>>(), ["bridge", "tuning"]);
}

#[test]
fn what_is_no_readable_file_is_told_and_waited_for_by_nobody() {
    let folder = tempfile::tempdir().unwrap();
    nix::unistd::mkfifo(&folder.path().join("a.conflist"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    symlink("/nonexistent/b", folder.path().join("b.conflist")).unwrap();
    fs::write(folder.path().join("c.conflist"), vec![b' '; 300_000]).unwrap();
    let is_a_file = folder.path().join("c.conflist");
    let catalogue = Catalogue::default().next(&directory::read(&[folder.path().to_owned(), is_a_file], &[]));
    let errors: Vec<_> = catalogue.entries.iter().map(error).collect();
    assert!(errors[0].ends_with("a.conflist: not a file; remove it"), "{errors:?}");
    assert!(errors[1].contains("cannot read it: No such file"), "{errors:?}");
    assert!(errors[2].contains("longer than 262144 bytes"), "{errors:?}");
    assert_eq!(errors.len(), 3, "{errors:?}");
}

/// A directory that turns into something that cannot be listed: its files are not taken for gone.
#[test]
fn an_unlistable_directory_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path().join("net.d");
    fs::create_dir(&directory).unwrap();
    fs::write(directory.join("a.conflist"), bridge("web", "br0")).unwrap();
    let good = Catalogue::default().next(&directory::read(std::slice::from_ref(&directory), &[]));
    fs::remove_dir_all(&directory).unwrap();
    fs::write(&directory, "a file").unwrap();
    let files: Vec<_> = good.entries.iter().map(|entry| entry.file.clone()).collect();
    let next = good.next(&directory::read(std::slice::from_ref(&directory), &files));
    assert_eq!(bridge_of(&next, "web").unwrap(), "br0");
    assert!(
        error(&next.entries[0]).contains("cannot list") && error(&next.entries[1]).contains("web goes on"),
        "{next:?}"
    );
}

/// A watched directory, and the catalogue it makes.
struct Watched {
    _folder: tempfile::TempDir,
    directory: PathBuf,
    networks: Networks,
}

fn watched(directory: &str) -> Watched {
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path().join(directory);
    let networks = Networks::watch(vec![directory.clone()]).unwrap();
    Watched { _folder: folder, directory, networks }
}

impl Watched {
    fn put(&self, file: &str, text: &str) {
        fs::write(self.directory.join(file), text).unwrap();
    }

    /// Waits for a catalogue that `fits`; each one on the way must be `sound`.
    async fn until(&self, sound: impl Fn(&Catalogue) -> bool, fits: impl Fn(&Catalogue) -> bool) -> Arc<Catalogue> {
        let mut seen = self.networks.subscribe();
        let fitting = seen.wait_for(|catalogue| {
            assert!(sound(catalogue), "{catalogue:?}");
            fits(catalogue)
        });
        let found = tokio::time::timeout(Duration::from_secs(30), fitting).await;
        let Ok(found) = found else { panic!("never came: {:?}", self.networks.snapshot()) };
        Arc::clone(&found.unwrap())
    }
}

fn any(_: &Catalogue) -> bool {
    true
}

#[tokio::test]
async fn files_come_break_are_fixed_and_go_and_the_directory_with_them() {
    let watched = watched("etc/cni/net.d");
    assert_eq!(*watched.networks.snapshot(), Catalogue::default());
    // Nothing of the path is there; it comes piece by piece.
    fs::create_dir_all(&watched.directory).unwrap();
    watched.put("10-web.conflist", &bridge("web", "br0"));
    watched.put("20-db.conflist", &bridge("db", "br1"));
    watched.until(any, |now| now.networks().count() == 2).await;
    let both = |now: &Catalogue| now.networks().count() == 2;
    // Broken in place: nothing is lost on the way.
    watched.put("10-web.conflist", "{");
    let broken = watched.until(both, |now| now.entries[0].error.is_some()).await;
    assert_eq!(bridge_of(&broken, "web").unwrap(), "br0");
    watched.put("10-web.conflist", &bridge("web", "br7"));
    watched.until(both, |now| bridge_of(now, "web").unwrap() == "br7" && now.entries[0].error.is_none()).await;
    // Replaced by a rename, as nerdctl writes.
    watched.put("new", &bridge("web", "br8"));
    fs::rename(watched.directory.join("new"), watched.directory.join("10-web.conflist")).unwrap();
    watched.until(both, |now| bridge_of(now, "web").unwrap() == "br8").await;
    fs::remove_file(watched.directory.join("20-db.conflist")).unwrap();
    watched.until(any, |now| now.lookup("db").is_none() && now.lookup("web").is_some()).await;
    // The directory goes, and with it all above; then it comes anew.
    fs::remove_dir_all(watched.directory.ancestors().nth(2).unwrap()).unwrap();
    watched.until(any, |now| now.entries.is_empty()).await;
    fs::create_dir_all(&watched.directory).unwrap();
    watched.put("10-web.conflist", &bridge("web", "br9"));
    watched.until(any, |now| bridge_of(now, "web").is_some_and(|bridge| bridge == "br9")).await;
}

#[tokio::test]
async fn a_namespaces_directory_is_followed_and_so_is_one_that_replaces_another() {
    let watched = watched("net.d");
    fs::create_dir_all(watched.directory.join("k8s.io")).unwrap();
    watched.put("k8s.io/a.conflist", &bridge("a", "br0"));
    watched.until(any, |now| now.lookup("a").is_some()).await;
    watched.put("k8s.io/a.conflist", &bridge("b", "br0"));
    watched.until(any, |now| now.lookup("b").is_some()).await;
    // The whole directory is exchanged for another one.
    let other = watched.directory.with_file_name("other");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("c.conflist"), bridge("c", "br0")).unwrap();
    fs::rename(&watched.directory, watched.directory.with_file_name("old")).unwrap();
    symlink(&other, &watched.directory).unwrap();
    watched.until(any, |now| now.lookup("c").is_some() && now.lookup("b").is_none()).await;
    fs::write(other.join("c.conflist"), bridge("d", "br0")).unwrap();
    watched.until(any, |now| now.lookup("d").is_some()).await;
    // What is no longer watched changes nothing.
    let before = watched.networks.snapshot().generation;
    fs::write(watched.directory.with_file_name("old").join("e.conflist"), bridge("e", "br0")).unwrap();
    watched.put("f.conflist", &bridge("f", "br0"));
    let after = watched.until(any, |now| now.lookup("f").is_some()).await;
    assert!(after.lookup("e").is_none() && after.generation > before);
    // A link put in the place of the link says nothing to whoever watches what it led to.
    let third = watched.directory.with_file_name("third");
    fs::create_dir(&third).unwrap();
    fs::write(third.join("g.conflist"), bridge("g", "br0")).unwrap();
    symlink(&third, watched.directory.with_file_name("link")).unwrap();
    fs::rename(watched.directory.with_file_name("link"), &watched.directory).unwrap();
    watched.until(any, |now| now.lookup("g").is_some() && now.lookup("f").is_none()).await;
}

#[tokio::test]
async fn a_burst_of_files_is_read_whole() {
    let watched = watched("net.d");
    fs::create_dir(&watched.directory).unwrap();
    for at in 0..200 {
        watched.put(&format!("{at:03}.conflist"), &bridge(&format!("n{at}"), "br0"));
    }
    let all = watched.until(any, |now| now.networks().count() == 200).await;
    assert!(all.generation <= 50, "{} readings for one burst", all.generation);
}

/// The thread ends with the last handle: its end of the channel is dropped.
#[tokio::test]
async fn the_watching_ends_with_the_last_handle() {
    let folder = tempfile::tempdir().unwrap();
    let (publish, mut current) = tokio::sync::watch::channel(Arc::default());
    let paths = vec![folder.path().to_owned()];
    let ending = directories::watch("networks", paths, move |paths| read(paths, &publish)).unwrap();
    assert!(current.has_changed().is_ok());
    drop(ending);
    let ended = tokio::time::timeout(Duration::from_secs(30), current.changed()).await;
    assert!(ended.unwrap().is_err());
}
