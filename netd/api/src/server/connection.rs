//! One connection: the preamble, then ttrpc calls, one after another, all on the calling thread; the runtime's own server has
//! five tasks and a thread for it.

use std::collections::HashMap;
use std::convert::Infallible;
use std::io::{self, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use protobuf::Message;
use tokio::runtime::Handle;
use ttrpc::asynchronous::{Service, TtrpcContext};
use ttrpc::proto::{MESSAGE_HEADER_LENGTH, MESSAGE_LENGTH_MAX, MESSAGE_TYPE_REQUEST};
use ttrpc::{Code, ConnectionData, MessageHeader, Request, Response, Status, get_status};

use super::places::Places;
use crate::preamble;

/// A door that sends descriptors calls at once. One that was stopped in between would keep a sandbox's namespace alive.
const DEADLINE: Duration = Duration::from_secs(5);
/// For an answer to be taken.
const TAKEN: Duration = Duration::from_secs(30);

/// What the generated code makes of a service: its methods by name.
pub(super) type Services = HashMap<String, Service>;

/// Most calls are no longer (octets); the rest of a longer one is read as it is.
const USUAL: usize = 2 << 10;

/// Until the caller hangs up, or says what is no call.
pub(super) fn converse(
    mut stream: &UnixStream,
    (services, places): (&Services, &Places),
    runtime: &Handle,
) -> io::Result<Infallible> {
    let mut data = Arc::new(preamble::receive(stream)?);
    stream.set_write_timeout(Some(TAKEN))?;
    let has_descriptors = has_descriptors(&data);
    stream.set_read_timeout(has_descriptors.then_some(DEADLINE))?;
    let mut calls = BufReader::with_capacity(USUAL, stream);
    loop {
        let (header, body) = read(&mut calls)?;
        // Descriptors are of the first call, and end with it.
        let of_this = std::mem::replace(&mut data, Arc::new(ConnectionData::new()));
        let place = places.take();
        let answer = runtime.block_on(call(header, &body, services, of_this));
        drop(place);
        stream.write_all(&frame(header.stream_id, answer)?)?;
        if has_descriptors {
            stream.set_read_timeout(None)?;
        }
    }
}

fn has_descriptors(data: &Arc<ConnectionData>) -> bool {
    let context = TtrpcContext { connection_data: Arc::clone(data), ..TtrpcContext::default() };
    let found = preamble::descriptors(&context);
    [&found.caller_netns, &found.sandbox_netns, &found.ipam_dir].into_iter().any(Option::is_some)
}

fn read(stream: &mut impl Read) -> io::Result<(MessageHeader, Vec<u8>)> {
    let mut header = [0; MESSAGE_HEADER_LENGTH];
    stream.read_exact(&mut header)?;
    let header = MessageHeader::from(header);
    let length = usize::try_from(header.length).map_err(io::Error::other)?;
    if header.type_ != MESSAGE_TYPE_REQUEST || length > MESSAGE_LENGTH_MAX {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    Ok((header, body))
}

async fn call(
    header: MessageHeader,
    body: &[u8],
    services: &Services,
    connection_data: Arc<ConnectionData>,
) -> Result<Response, Status> {
    let bad = |error: protobuf::Error| get_status(Code::INVALID_ARGUMENT, error);
    let request = Request::parse_from_bytes(body).map_err(bad)?;
    let method = services.get(&request.service).and_then(|service| service.methods.get(&request.method));
    let unknown = || get_status(Code::UNIMPLEMENTED, format!("{} has no method {}", request.service, request.method));
    let method = method.ok_or_else(unknown)?;
    let timeout_nano = request.timeout_nano;
    let context = TtrpcContext { mh: header, timeout_nano, connection_data, ..TtrpcContext::default() };
    method.handler(context, request).await.map_err(|error| get_status(Code::UNKNOWN, error))
}

/// What is too long for a message is answered by saying so.
fn frame(stream_id: u32, answer: Result<Response, Status>) -> io::Result<Vec<u8>> {
    let mut body = encode(answer)?;
    if body.len() > MESSAGE_LENGTH_MAX {
        let text = format!("the answer has {} bytes, more than the {MESSAGE_LENGTH_MAX} of a message", body.len());
        body = encode(Err(get_status(Code::RESOURCE_EXHAUSTED, text)))?;
    }
    let length = u32::try_from(body.len()).map_err(io::Error::other)?;
    let mut frame: Vec<u8> = MessageHeader::new_response(stream_id, length).into();
    frame.extend(body);
    Ok(frame)
}

fn encode(answer: Result<Response, Status>) -> io::Result<Vec<u8>> {
    let refused = |status| Response { status: Some(status).into(), ..Response::default() };
    Ok(answer.unwrap_or_else(refused).write_to_bytes()?)
}
