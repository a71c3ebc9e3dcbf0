//! One call against a server that the test plays byte by byte.

use std::error::Error;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use protobuf::Message;
use ttrpc::proto::MESSAGE_HEADER_LENGTH;
use ttrpc::{Code, MessageHeader, Request, Response};

use super::{CallError, PATIENCE, Wire};
use crate::v1::{StatusRequest, StatusResponse};

/// A server that answers the first request by `answer`, which gets the request's stream id.
fn serve(
    answer: impl FnOnce(u32, &mut UnixStream) + Send + 'static,
) -> (tempfile::TempDir, PathBuf, JoinHandle<Request>) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("netd.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let (id, request) = request(&mut stream);
        answer(id, &mut stream);
        request
    });
    (folder, path, server)
}

fn request(stream: &mut UnixStream) -> (u32, Request) {
    let mut header = [0; MESSAGE_HEADER_LENGTH];
    stream.read_exact(&mut header).unwrap();
    let header = MessageHeader::from(header);
    let mut body = vec![0; header.length as usize];
    stream.read_exact(&mut body).unwrap();
    (header.stream_id, Request::parse_from_bytes(&body).unwrap())
}

fn frame(id: u32, response: &Response) -> Vec<u8> {
    let body = response.write_to_bytes().unwrap();
    let mut frame: Vec<u8> = MessageHeader::new_response(id, u32::try_from(body.len()).unwrap()).into();
    frame.extend(body);
    frame
}

fn status(attachments: u64) -> Response {
    let status = StatusResponse { attachments, ..StatusResponse::default() };
    Response { payload: status.write_to_bytes().unwrap(), ..Response::default() }
}

fn connect(path: &Path, patience: Duration) -> Wire {
    Wire::connect(path, patience).unwrap()
}

fn call(path: &Path, patience: Duration) -> Result<StatusResponse, CallError> {
    connect(path, patience).call("netd.v1.Netd", "Status", &StatusRequest::new())
}

#[test]
fn a_call_names_service_method_and_deadline_and_reads_an_answer_in_pieces() {
    let (_folder, path, server) = serve(|id, stream| {
        for byte in frame(id, &status(7)) {
            stream.write_all(&[byte]).unwrap();
        }
    });
    assert_eq!(call(&path, PATIENCE).unwrap().attachments, 7);
    let request = server.join().unwrap();
    assert_eq!((request.service.as_str(), request.method.as_str()), ("netd.v1.Netd", "Status"));
    assert_eq!(request.timeout_nano, 30_000_000_000);
}

#[test]
fn a_call_without_an_answer_ends_the_connection() {
    let (given_up, is_given_up) = std::sync::mpsc::channel();
    let (_folder, path, server) = serve(move |id, stream| {
        is_given_up.recv().unwrap();
        // Nobody listens any more, which the kernel may tell.
        drop(stream.write_all(&frame(id, &status(1))));
    });
    let mut wire = connect(&path, Duration::from_millis(50));
    let mut ends = || {
        let end = wire.call::<_, StatusResponse>("s", "Status", &StatusRequest::new());
        assert!(matches!(end, Err(CallError::Unanswered { .. })), "{end:?}");
    };
    ends();
    given_up.send(()).unwrap();
    server.join().unwrap();
    ends();
}

#[test]
fn a_silent_netd_is_given_up() {
    let (_folder, path, server) = serve(|_, stream| {
        // Held open until the client has gone.
        drop(stream.read(&mut [0]));
    });
    let start = Instant::now();
    let error = call(&path, Duration::from_millis(50)).unwrap_err();
    assert!(start.elapsed() < Duration::from_secs(20), "waited {:?}", start.elapsed());
    assert_eq!(
        error.to_string(),
        "netd did not answer Status; is it stopping? (`systemctl status netd`, `journalctl -u netd -e`)"
    );
    assert_eq!(error.source().unwrap().to_string(), "it was silent for too long");
    server.join().unwrap();
}

#[test]
fn a_netd_that_hangs_up_or_babbles_did_not_answer() {
    let cases: [fn(u32, &mut UnixStream); 4] = [
        |_, _| {},
        |id, stream| stream.write_all(&frame(id, &status(1))[..12]).unwrap(),
        |id, stream| stream.write_all(&frame(id + 2, &status(1))).unwrap(),
        |_, stream| stream.write_all(b"HTTP/1.1 400 Bad Request\r\n").unwrap(),
    ];
    for case in cases {
        let (_folder, path, server) = serve(case);
        let error = call(&path, PATIENCE).unwrap_err();
        assert!(matches!(error, CallError::Unanswered { .. }), "{error:?}");
        server.join().unwrap();
    }
}

#[test]
fn a_refusal_has_netds_words() {
    let (_folder, path, server) = serve(|id, stream| {
        let refused = ttrpc::get_status(Code::NOT_FOUND, "no method Status");
        let response = Response { status: Some(refused).into(), ..Response::default() };
        stream.write_all(&frame(id, &response)).unwrap();
    });
    let error = call(&path, PATIENCE).unwrap_err();
    assert!(error.to_string().contains("no method Status"), "{error}");
    server.join().unwrap();
}

#[test]
fn what_ttrpc_cannot_carry_is_not_sent() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("netd.sock");
    let _listener = UnixListener::bind(&path).unwrap();
    let question = StatusRequest { config: vec![b' '; 5 << 20], ..StatusRequest::default() };
    let error = connect(&path, PATIENCE).call::<_, StatusResponse>("s", "Status", &question).unwrap_err();
    assert!(matches!(error, CallError::TooLong { .. }), "{error:?}");
}
