//! Descriptors reach the handler, and a stranger on the socket disturbs nobody.
#![expect(clippy::unwrap_used, reason = "helpers of tests stand outside of them")]

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use netd_api::server::Netd;
use netd_api::{Client, Tag, blocking, v1};
use ttrpc::asynchronous::TtrpcContext;

/// Answers a status with the inode of the sandbox descriptor that came with the connection.
struct Inode;

#[async_trait::async_trait]
impl Netd for Inode {
    async fn status(&self, context: &TtrpcContext, _: v1::StatusRequest) -> ttrpc::Result<v1::StatusResponse> {
        let descriptors = netd_api::descriptors(context);
        let mut response = v1::StatusResponse::new();
        if let Some(fd) = &descriptors.sandbox_netns {
            response.attachments = File::from(fd.try_clone().unwrap()).metadata().unwrap().ino();
        }
        Ok(response)
    }
}

fn inode_seen(socket: &Path, file: Option<&File>) -> u64 {
    let descriptors: Vec<_> = file.iter().map(|file| (Tag::SandboxNetns, file.as_fd())).collect();
    let client = Client::connect(socket, &descriptors).unwrap();
    client.status(&blocking::StatusRequest::new()).unwrap().attachments
}

fn serve(folder: &Path) -> (tokio::runtime::Runtime, netd_api::server::Server, PathBuf) {
    let socket = folder.join("netd.sock");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let server = runtime.block_on(async { netd_api::bind(&socket).unwrap().serve(Arc::new(Inode)) }).unwrap();
    (runtime, server, socket)
}

#[test]
fn the_handler_has_the_very_file_that_the_door_sent() {
    let folder = tempfile::tempdir().unwrap();
    let (_runtime, _server, socket) = serve(folder.path());
    for name in ["a", "b"] {
        let file = File::create(folder.path().join(name)).unwrap();
        assert_eq!(inode_seen(&socket, Some(&file)), file.metadata().unwrap().ino());
    }
    assert_eq!(inode_seen(&socket, None), 0, "no descriptor is no error");
}

#[test]
fn who_sends_something_else_is_dropped_and_others_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let (_runtime, _server, socket) = serve(folder.path());
    let silent = UnixStream::connect(&socket).unwrap();
    let mut stranger = UnixStream::connect(&socket).unwrap();
    stranger.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    let mut left = Vec::new();
    // The server hangs up with our bytes unread, which the kernel may report as a reset.
    drop(stranger.read_to_end(&mut left));
    assert!(left.is_empty(), "the stranger was answered");
    let file = File::create(folder.path().join("a")).unwrap();
    assert_eq!(inode_seen(&socket, Some(&file)), file.metadata().unwrap().ino());
    drop(silent);
}

/// Returns when nobody has the other end of the pipe any more.
fn ended(mut end: std::io::PipeReader) {
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || tell.send(end.read(&mut [0]).unwrap()).ok());
    assert_eq!(told.recv_timeout(Duration::from_secs(60)), Ok(0), "the descriptor is still held");
}

#[test]
fn a_descriptor_is_held_no_longer_than_one_request_and_not_for_one_that_does_not_come() {
    let folder = tempfile::tempdir().unwrap();
    let (_runtime, _server, socket) = serve(folder.path());
    for calls in [true, false] {
        let (reader, writer) = std::io::pipe().unwrap();
        let client = Client::connect(&socket, &[(Tag::SandboxNetns, writer.as_fd())]).unwrap();
        drop(writer);
        if calls {
            assert_ne!(client.status(&blocking::StatusRequest::new()).unwrap().attachments, 0);
        }
        ended(reader);
        assert_eq!(client.status(&blocking::StatusRequest::new()).is_ok(), calls);
    }
}

#[test]
fn a_dead_netds_socket_is_replaced_and_another_file_is_not() {
    let folder = tempfile::tempdir().unwrap();
    drop(std::os::unix::net::UnixListener::bind(folder.path().join("netd.sock")).unwrap());
    let (_runtime, _server, socket) = serve(folder.path());
    assert_eq!(inode_seen(&socket, None), 0);
    let other = folder.path().join("precious");
    std::fs::write(&other, "mine").unwrap();
    assert!(netd_api::bind(&other).is_err());
    assert_eq!(std::fs::read_to_string(&other).unwrap(), "mine");
}

#[test]
fn a_netd_that_lives_keeps_its_socket_which_is_roots_alone() {
    let folder = tempfile::tempdir().unwrap();
    let (_runtime, _server, socket) = serve(folder.path());
    let error = netd_api::bind(&socket).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse);
    assert_eq!(inode_seen(&socket, None), 0, "the first one answers still");
    assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o700);
}

#[test]
fn an_absent_netd_is_named_with_its_remedy() {
    let folder = tempfile::tempdir().unwrap();
    let Err(error) = Client::connect(&folder.path().join("none.sock"), &[]) else { panic!("connected") };
    assert!(error.to_string().ends_with("none.sock; is it running? (`systemctl start netd`)"), "{error}");
}
