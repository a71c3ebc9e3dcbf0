//! What tests of policies say and ask: who a container is, which policies hold, and whether a flow goes on.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use netd_api::{Client, blocking};

use super::Space;

/// Says of a container that it is `name` of `shop`, with these labels.
pub(crate) fn describe(client: &Client, container: &str, name: &str, labels: &[(&str, &str)]) {
    let mut request = blocking::DescribeRequest::new();
    (request.container_id, request.name) = (container.to_owned(), name.to_owned());
    request.namespace = "shop".to_owned();
    request.labels.extend(labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
    request.source = "nri".to_owned();
    assert_eq!(client.describe(&request).unwrap().failure, None.into());
}

/// The names of those that were applied.
pub(crate) fn apply(client: &Client, text: &str) -> Vec<String> {
    let mut request = blocking::ApplyPoliciesRequest::new();
    request.file = "shop.yaml".to_owned();
    request.text = text.as_bytes().to_vec();
    let answer = client.apply_policies(&request).unwrap();
    assert_eq!(answer.failure, None.into());
    answer.applied.into_iter().map(|name| name.name).collect()
}

/// A flow to an echo.
pub(crate) fn open(space: &Space, address: &str) -> TcpStream {
    let address = address.to_owned();
    space.run(move || {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        stream.write_all(b"x").unwrap();
        stream.read_exact(&mut [0]).unwrap();
        stream
    })
}

pub(crate) fn echoes(stream: &mut TcpStream) -> bool {
    stream.write_all(b"y").and_then(|()| stream.read_exact(&mut [0])).is_ok()
}
