//! The client against a server that answers octet by octet as a test says.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Response};
use protobuf::Message;
use protobuf::well_known_types::wrappers::StringValue;

use crate::{Call, CallError, Connection, Incoming, Limits, within};

const LIMITS: Limits = Limits { message: 100, window: 1_000 };
const CALL: Call<'_> = Call::to("/test.Service/Method");

/// What the server says to every request.
#[derive(Debug, Clone, Default)]
struct Script {
    head: &'static [(&'static str, &'static str)],
    body: Vec<Vec<u8>>,
    trailers: Option<&'static [(&'static str, &'static str)]>,
}

fn word(text: &str) -> StringValue {
    StringValue { value: text.to_owned(), ..StringValue::default() }
}

fn framed(text: &str) -> Vec<u8> {
    crate::message::frame(&word(text)).unwrap().to_vec()
}

fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
    pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
}

async fn connect(script: Script) -> Connection {
    let (near, far) = tokio::io::duplex(1 << 16);
    tokio::spawn(async move {
        let mut server = h2::server::handshake(far).await.unwrap();
        let mut unended = Vec::new();
        while let Some(Ok((request, mut respond))) = server.accept().await {
            assert_eq!(request.headers()["content-type"], "application/grpc");
            let mut response = Response::new(());
            *response.headers_mut() = headers(script.head);
            let is_all = script.body.is_empty() && script.trailers.is_none();
            let mut stream = respond.send_response(response, is_all).unwrap();
            for piece in &script.body {
                stream.send_data(Bytes::from(piece.clone()), false).unwrap();
            }
            if let Some(trailers) = script.trailers {
                stream.send_trailers(headers(trailers)).unwrap();
            } else if !is_all {
                unended.push(stream);
            }
        }
    });
    Connection::over(near, "http://test".to_owned(), LIMITS).await.unwrap()
}

async fn asked(script: Script) -> Result<String, CallError> {
    let answer: StringValue = connect(script).await.unary(CALL, &word("x")).await?;
    Ok(answer.value)
}

const FINE: Option<&[(&str, &str)]> = Some(&[("grpc-status", "0")]);

#[tokio::test]
async fn an_answer_in_pieces_is_one() {
    let whole = framed("hello");
    let pieces = whole.chunks(3).map(<[u8]>::to_vec).collect();
    assert_eq!(asked(Script { body: pieces, trailers: FINE, ..Script::default() }).await.unwrap(), "hello");
}

#[tokio::test]
async fn several_answers_in_one_piece_are_several() {
    let body = vec![[framed("a"), framed(""), framed("b")].concat()];
    let connection = connect(Script { body, trailers: FINE, ..Script::default() }).await;
    for is_open in [false, true] {
        let request = word("x");
        let stream = if is_open {
            connection.open_stream(CALL, &request).await
        } else {
            connection.stream(CALL, &request).await
        };
        let mut answers = stream.unwrap();
        let mut heard = Vec::new();
        while let Some(StringValue { value, .. }) = answers.next().await.unwrap() {
            heard.push(value);
        }
        assert_eq!(heard, ["a", "", "b"]);
        assert!(answers.next::<StringValue>().await.unwrap().is_none(), "the end stays the end");
    }
}

#[tokio::test]
async fn a_refusal_is_told_from_the_head_and_from_the_end() {
    let refusal: &[(&str, &str)] = &[("grpc-status", "5"), ("grpc-message", "no such thing")];
    let in_head = Script { head: refusal, ..Script::default() };
    let at_end = Script { trailers: Some(refusal), ..Script::default() };
    let after_an_answer = Script { body: vec![framed("a")], ..at_end.clone() };
    for script in [in_head, at_end, after_an_answer] {
        let error = asked(script).await.unwrap_err();
        assert!(matches!(&error, CallError::Status { code: 5, message } if message == "no such thing"), "{error}");
        assert!(error.is_absence());
    }
    let odd = asked(Script { head: &[("grpc-status", "what")], ..Script::default() }).await.unwrap_err();
    assert!(matches!(odd, CallError::Status { code: 2, .. }) && !odd.is_absence(), "{odd}");
}

#[tokio::test]
async fn what_is_no_answer_is_garbled() {
    let of = |body: Vec<u8>| Script { body: vec![body], trailers: FINE, ..Script::default() };
    let compressed = vec![1, 0, 0, 0, 0];
    let no_message = vec![0, 0, 0, 0, 1, 0xff];
    let half = framed("hello")[..4].to_vec();
    let without_status = Script { body: vec![framed("a")], trailers: Some(&[]), ..Script::default() };
    let silent = Script { trailers: FINE, ..Script::default() };
    for script in [of(compressed), of(no_message), of(half), without_status, silent] {
        let error = asked(script.clone()).await.unwrap_err();
        assert!(matches!(error, CallError::Garbled(_)), "{script:?}: {error}");
    }
}

#[tokio::test]
async fn a_message_that_is_too_large_is_refused_before_it_has_come() {
    let head = Script { body: vec![vec![0, 0, 0, 0, 101]], ..Script::default() };
    let error = asked(head).await.unwrap_err();
    assert!(matches!(&error, CallError::Garbled(why) if why.contains("101")), "{error}");
}

#[tokio::test]
async fn a_peer_that_is_silent_is_late_and_one_that_is_gone_broke() {
    let silent = Script { body: vec![vec![0]], ..Script::default() };
    let late = within(Duration::from_millis(50), asked(silent)).await.unwrap_err();
    assert!(matches!(late, CallError::Late), "{late}");
    let (near, far) = tokio::io::duplex(1 << 10);
    let connection = Connection::over(near, "http://test".to_owned(), LIMITS).await.unwrap();
    drop(far);
    let gone = connection.unary::<StringValue>(CALL, &word("x")).await.unwrap_err();
    assert!(matches!(gone, CallError::Broken(_)), "{gone}");
}

#[test]
fn messages_are_cut_wherever_they_are_torn() {
    let octets = [framed("one"), framed(""), framed("two")].concat();
    for at in 0..=octets.len() {
        let mut incoming = Incoming::new(LIMITS.message);
        let mut heard = Vec::new();
        for piece in [&octets[..at], &octets[at..]] {
            incoming.push(piece);
            while let Some(message) = incoming.whole().unwrap() {
                heard.push(StringValue::parse_from_bytes(&message).unwrap().value);
            }
        }
        assert_eq!((heard, incoming.is_empty()), (vec!["one".to_owned(), String::new(), "two".to_owned()], true));
    }
}
