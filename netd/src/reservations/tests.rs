//! Reservations of a host-local data directory are honoured.

use std::fs::{self, File};
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::time::SystemTime;

use super::Reservations;

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
        let read = reservations.read(None, path, "web").unwrap();
        assert_eq!(read.into_iter().collect::<Vec<_>>(), expected);
    }
}

#[test]
fn a_missing_directory_reserves_nothing_and_an_unreadable_one_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_str().unwrap();
    assert!(Reservations::default().read(None, path, "none").unwrap().is_empty());
    fs::write(folder.path().join("file"), "").unwrap();
    assert!(Reservations::default().read(None, path, "file").is_err());
}

#[test]
fn a_new_reservation_is_seen_at_the_next_read() {
    let folder = tempfile::tempdir().unwrap();
    let network = folder.path().join("web");
    fs::create_dir(&network).unwrap();
    let reservations = Reservations::default();
    let path = folder.path().to_str().unwrap();
    assert!(reservations.read(None, path, "web").unwrap().is_empty());
    fs::write(network.join("10.4.0.9"), "cid").unwrap();
    assert_eq!(reservations.read(None, path, "web").unwrap().len(), 1);
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
        let read = reservations.read(Some(&fd), "/var/lib/cni/networks", "web").unwrap();
        assert_eq!(read.into_iter().collect::<Vec<_>>(), [address.parse::<IpAddr>().unwrap()]);
    }
}
