//! The daemon's end of a connection: calls are answered in their order, in whatever pieces they come.
#![expect(clippy::unwrap_used, reason = "helpers of tests stand outside of them")]

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::thread::sleep;
use std::time::Duration;

use netd_api::server::{Bound, Netd, Server};
use netd_api::{Client, blocking, v1};
use protobuf::Message;
use ttrpc::asynchronous::TtrpcContext;
use ttrpc::proto::MESSAGE_LENGTH_MAX;
use ttrpc::{Code, MessageHeader, Request, Response, get_status};

const PREAMBLE: &[u8; 12] = b"netd\x01\0\0\0\0\0\0\0";

/// A status is its own version; a list is longer than a message may be; the rest it does not have.
struct Echo;

#[async_trait::async_trait]
impl Netd for Echo {
    async fn status(&self, _: &TtrpcContext, request: v1::StatusRequest) -> ttrpc::Result<v1::StatusResponse> {
        let version = String::from_utf8(request.config).map_err(|error| ttrpc::Error::Others(error.to_string()))?;
        Ok(v1::StatusResponse { version, ..v1::StatusResponse::default() })
    }

    async fn list(&self, _: &TtrpcContext, _: v1::ListRequest) -> ttrpc::Result<v1::ListResponse> {
        let mut attachment = v1::Attachment::new();
        attachment.name = "x".repeat(MESSAGE_LENGTH_MAX);
        Ok(v1::ListResponse { attachments: vec![attachment], ..v1::ListResponse::default() })
    }

    async fn gc(&self, _: &TtrpcContext, _: v1::GcRequest) -> ttrpc::Result<v1::GcResponse> {
        Err(ttrpc::Error::RpcStatus(get_status(Code::ABORTED, "no")))
    }
}

fn serve(socket: &Path) -> (tokio::runtime::Runtime, Server) {
    serve_at(netd_api::bind(socket).unwrap())
}

fn serve_at(bound: Bound) -> (tokio::runtime::Runtime, Server) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let server = runtime.block_on(async { bound.serve(Arc::new(Echo)) }).unwrap();
    (runtime, server)
}

/// A call as it goes over the wire.
fn call(stream: u32, service: &str, method: &str, config: &str) -> Vec<u8> {
    let question = v1::StatusRequest { config: config.into(), ..v1::StatusRequest::default() };
    let (service, method, payload) = (service.to_owned(), method.to_owned(), question.write_to_bytes().unwrap());
    let body = Request { service, method, payload, ..Request::default() }.write_to_bytes().unwrap();
    let mut frame: Vec<u8> = MessageHeader::new_request(stream, u32::try_from(body.len()).unwrap()).into();
    frame.extend(body);
    frame
}

fn answer(stream: &mut UnixStream) -> (u32, Response) {
    let mut header = [0; 10];
    stream.read_exact(&mut header).unwrap();
    let header = MessageHeader::from(header);
    let mut body = vec![0; usize::try_from(header.length).unwrap()];
    stream.read_exact(&mut body).unwrap();
    (header.stream_id, Response::parse_from_bytes(&body).unwrap())
}

fn echoed(response: &Response) -> String {
    v1::StatusResponse::parse_from_bytes(&response.payload).unwrap().version
}

#[test]
fn calls_that_come_together_are_answered_in_their_order() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("netd.sock");
    let (_runtime, _server) = serve(&socket);
    let mut stream = UnixStream::connect(&socket).unwrap();
    let calls = [call(1, "netd.v1.Netd", "Status", "one"), call(3, "netd.v1.Netd", "Status", "two")];
    stream.write_all(&[PREAMBLE.to_vec(), calls.concat()].concat()).unwrap();
    let answers = [answer(&mut stream), answer(&mut stream)];
    let heard = answers.map(|(id, response)| (id, echoed(&response)));
    assert_eq!(heard, [(1, "one".to_owned()), (3, "two".to_owned())]);
}

#[test]
fn who_calls_while_netd_begins_is_answered_when_it_serves_or_told_that_it_ended() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("netd.sock");
    let early = || {
        let mut stream = UnixStream::connect(&socket).unwrap();
        stream.write_all(&[PREAMBLE.to_vec(), call(1, "netd.v1.Netd", "Status", "early")].concat()).unwrap();
        stream
    };
    let bound = netd_api::bind(&socket).unwrap();
    let mut stream = early();
    drop(bound);
    assert!(matches!(stream.read(&mut [0]), Ok(0) | Err(_)), "nobody will answer");
    let bound = netd_api::bind(&socket).unwrap();
    let mut stream = early();
    let (_runtime, _server) = serve_at(bound);
    assert_eq!(echoed(&answer(&mut stream).1), "early");
}

#[test]
fn a_call_in_pieces_is_one_call() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("netd.sock");
    let (_runtime, _server) = serve(&socket);
    let mut stream = UnixStream::connect(&socket).unwrap();
    for piece in [PREAMBLE.to_vec(), call(1, "netd.v1.Netd", "Status", "whole")].concat().chunks(5) {
        stream.write_all(piece).unwrap();
        sleep(Duration::from_millis(1));
    }
    assert_eq!(echoed(&answer(&mut stream).1), "whole");
}

#[test]
fn what_cannot_be_answered_is_refused_and_the_next_call_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("netd.sock");
    let (_runtime, _server) = serve(&socket);
    let mut stream = UnixStream::connect(&socket).unwrap();
    stream.write_all(PREAMBLE).unwrap();
    for (service, method, code) in [
        ("netd.v1.Netd", "Nonsense", Code::UNIMPLEMENTED),
        ("netd.v9.Netd", "Status", Code::UNIMPLEMENTED),
        ("netd.v1.Netd", "Attach", Code::NOT_FOUND),
        ("netd.v1.Netd", "Gc", Code::ABORTED),
        ("netd.v1.Netd", "List", Code::RESOURCE_EXHAUSTED),
        ("netd.v1.Netd", "Status", Code::OK),
    ] {
        stream.write_all(&call(1, service, method, "")).unwrap();
        assert_eq!(answer(&mut stream).1.status.code(), code, "{service} {method}");
    }
}

#[test]
fn who_does_not_call_is_hung_up_on_and_a_client_meets_the_end_of_its_netd() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("netd.sock");
    let (_runtime, server) = serve(&socket);
    let mut answerer = UnixStream::connect(&socket).unwrap();
    let mut frame: Vec<u8> = MessageHeader::new_response(1, 0).into();
    frame.splice(0..0, *PREAMBLE);
    answerer.write_all(&frame).unwrap();
    assert_eq!(answerer.read(&mut [0]).unwrap(), 0, "a response is no call");
    let mut boaster = UnixStream::connect(&socket).unwrap();
    let mut frame: Vec<u8> = MessageHeader::new_request(1, u32::MAX).into();
    frame.splice(0..0, *PREAMBLE);
    boaster.write_all(&frame).unwrap();
    assert_eq!(boaster.read(&mut [0]).unwrap(), 0, "four gigabytes are no call");

    let client = Client::connect(&socket, &[]).unwrap();
    client.status(&blocking::StatusRequest::new()).unwrap();
    drop(server);
    let error = client.status(&blocking::StatusRequest::new()).unwrap_err();
    assert!(error.to_string().starts_with("netd did not answer Status"), "{error}");
}
