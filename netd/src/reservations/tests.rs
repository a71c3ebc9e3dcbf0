//! Reservations of a host-local data directory are honoured.

use std::fs::{self, File};
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::time::{Duration, SystemTime};

use std::sync::Arc;

use netd_config::{ContainerId, LinkName, NetworkName};

use super::Reservations;
use crate::attachment::AttachmentKey;

#[test]
fn file_names_that_are_addresses_count_and_others_do_not() {
    let folder = tempfile::tempdir().unwrap();
    let network = folder.path().join("web");
    fs::create_dir(&network).unwrap();
    for name in ["10.4.0.2", "fd00::2", "lock", "last_reserved_ip.0"] {
        fs::write(network.join(name), "cid\r\neth0").unwrap();
    }
    let reservations = Reservations::default();
    let path = folder.path().to_str().unwrap();
    let expected: Vec<IpAddr> = vec!["10.4.0.2".parse().unwrap(), "fd00::2".parse().unwrap()];
    for _ in 0..2 {
        let read = reservations.read(None, path, "web", SystemTime::now()).unwrap();
        assert_eq!(read.into_iter().collect::<Vec<_>>(), expected);
    }
}

#[test]
fn a_missing_directory_reserves_nothing_and_an_unreadable_one_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_str().unwrap();
    assert!(Reservations::default().read(None, path, "none", SystemTime::now()).unwrap().is_empty());
    fs::write(folder.path().join("file"), "").unwrap();
    assert!(Reservations::default().read(None, path, "file", SystemTime::now()).is_err());
}

#[test]
fn a_new_reservation_is_seen_at_the_next_read() {
    let folder = tempfile::tempdir().unwrap();
    let network = folder.path().join("web");
    fs::create_dir(&network).unwrap();
    let reservations = Reservations::default();
    let path = folder.path().to_str().unwrap();
    assert!(reservations.read(None, path, "web", SystemTime::now()).unwrap().is_empty());
    fs::write(network.join("10.4.0.9"), "cid").unwrap();
    assert_eq!(reservations.read(None, path, "web", SystemTime::now()).unwrap().len(), 1);
}

#[test]
fn two_callers_mean_two_directories_by_one_path() {
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let reservations = Reservations::default();
    for (folder, address) in folders.iter().zip(["10.4.0.2", "10.4.0.3"]) {
        let network = folder.path().join("web");
        fs::create_dir(&network).unwrap();
        fs::write(network.join(address), "cid").unwrap();
        File::open(&network).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
        let fd = OwnedFd::from(File::open(folder.path()).unwrap());
        let read = reservations.read(Some(&fd), "/var/lib/cni/networks", "web", SystemTime::now()).unwrap();
        assert_eq!(read.into_iter().collect::<Vec<_>>(), [address.parse::<IpAddr>().unwrap()]);
    }
}

/// As two changes in one tick of the file system's clock are.
#[test]
fn a_change_at_the_time_of_the_last_look_is_seen_and_an_old_directory_is_not_listed_again() {
    let folder = tempfile::tempdir().unwrap();
    let network = folder.path().join("web");
    fs::create_dir(&network).unwrap();
    let path = folder.path().to_str().unwrap();
    let changed = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
    let reservations = Reservations::default();
    let reserve = |address: &str| {
        fs::write(network.join(address), "cid").unwrap();
        File::open(&network).unwrap().set_modified(changed).unwrap();
    };
    let count = |now| reservations.read(None, path, "web", now).unwrap().len();
    reserve("10.4.0.2");
    assert_eq!(count(changed), 1);
    reserve("10.4.0.3");
    assert_eq!(count(changed), 2);
    // The clock was set back.
    assert_eq!(count(SystemTime::UNIX_EPOCH), 2);
    let later = changed + Duration::from_secs(60);
    assert_eq!(count(later), 2);
    reserve("10.4.0.4");
    assert_eq!(count(later), 2, "what has not moved for a minute is remembered");
    // Nobody asked for an hour, and another directory is looked at.
    let much_later = later + Duration::from_secs(3_600);
    let other = folder.path().join("other");
    fs::create_dir(&other).unwrap();
    assert!(reservations.read(None, path, "other", much_later).unwrap().is_empty());
    assert_eq!(count(much_later), 3, "it was forgotten");
}

fn key(container: &str) -> AttachmentKey {
    AttachmentKey {
        network: NetworkName::new("web").unwrap(),
        container: ContainerId::new(container).unwrap(),
        interface: LinkName::new("eth0").unwrap(),
    }
}

#[tokio::test]
async fn a_detach_takes_the_reservations_of_its_own_interface_and_no_others() {
    let folder = tempfile::tempdir().unwrap();
    let network = folder.path().join("web");
    fs::create_dir(&network).unwrap();
    for (name, text) in [
        ("10.4.0.2", "abc\r\neth0"),
        ("fd00::2", "abc\neth0\n"),
        ("10.4.0.3", "abc"),
        ("10.4.0.4", "abc\r\neth1"),
        ("10.4.0.5", "abcd\r\neth0"),
        ("lock", "abc\r\neth0"),
        ("last_reserved_ip.0", "10.4.0.5"),
    ] {
        fs::write(network.join(name), text).unwrap();
    }
    let reservations = Arc::new(Reservations::default());
    let path = folder.path().to_str().unwrap();
    let addresses = vec!["10.4.0.4".parse().unwrap(), "10.4.0.5".parse().unwrap(), "10.4.0.9".parse().unwrap()];
    let holders = reservations.holders(None, path, "web", addresses).await.unwrap();
    let own: Vec<bool> = holders.values().map(|holder| holder.is(&key("abc"))).collect();
    assert_eq!((own, holders.values().filter(|one| one.is(&key("abcd"))).count()), (vec![false, false], 1));
    let release = |container: &str| {
        let directory = OwnedFd::from(File::open(folder.path()).unwrap());
        let (reservations, key) = (Arc::clone(&reservations), key(container));
        async move { reservations.release(directory, key, SystemTime::now()).await.unwrap() }
    };
    assert_eq!((release("abc").await, release("abc").await, release("gone").await), (3, 0, 0));
    let mut left: Vec<_> = fs::read_dir(&network).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["10.4.0.4", "10.4.0.5", "last_reserved_ip.0", "lock"]);
}
