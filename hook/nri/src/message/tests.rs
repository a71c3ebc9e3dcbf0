//! Any bytes are safe, and where they are cut means nothing.

use proptest::collection::vec;
use proptest::prelude::*;

use super::{Answer, LONGEST, Message, MessageDecoder, MessageError, request, response};

fn decode(pieces: &[&[u8]]) -> Result<Vec<Message>, MessageError> {
    let mut decoder = MessageDecoder::default();
    let mut messages = Vec::new();
    for piece in pieces {
        decoder.push(piece);
        while let Some(message) = decoder.pull()? {
            messages.push(message);
        }
    }
    Ok(messages)
}

#[test]
fn a_call_and_its_answer_have_ttrpcs_header() {
    assert_eq!(request("s", "m", vec![9]).unwrap()[..10], [0, 0, 0, 9, 0, 0, 0, 1, 1, 0]);
    assert_eq!(response(3, Answer::Done(vec![9])).unwrap(), [0, 0, 0, 3, 0, 0, 0, 3, 2, 0, 0x12, 1, 9]);
}

#[test]
fn a_message_longer_than_ttrpc_allows_is_neither_read_nor_written() {
    let header = [&u32::try_from(LONGEST + 1).unwrap().to_be_bytes()[..], &[0, 0, 0, 1, 1, 0]].concat();
    assert!(matches!(decode(&[&header]), Err(MessageError::TooLong(length)) if length == LONGEST + 1));
    assert!(matches!(response(1, Answer::Done(vec![0; LONGEST])), Err(MessageError::TooLong(_))));
}

#[test]
fn parts_of_streaming_calls_are_passed_over() {
    let data = [0, 0, 0, 1, 0, 0, 0, 1, 3, 0, 0xff];
    let bytes = [&data[..], &response(1, Answer::Done(Vec::new())).unwrap()].concat();
    assert!(matches!(decode(&[&bytes]).unwrap()[..], [Message::Other, Message::Response(_)]));
}

proptest! {
    #[test]
    fn what_is_encoded_comes_back_however_it_is_cut(
        calls in vec(("[a-z]{0,9}", "[A-Z]{0,9}", vec(any::<u8>(), 0..9_000)), 0..4),
        cut in 1_usize..5_000,
    ) {
        let bytes: Vec<u8> =
            calls.iter().flat_map(|(service, method, payload)| request(service, method, payload.clone()).unwrap()).collect();
        let came: Vec<_> = decode(&bytes.chunks(cut).collect::<Vec<_>>())
            .unwrap()
            .into_iter()
            .map(|message| match message {
                Message::Request { request, .. } => (request.service, request.method, request.payload),
                other @ (Message::Response(_) | Message::Other) => panic!("{other:?} is no request"),
            })
            .collect();
        prop_assert_eq!(came, calls);
    }

    #[test]
    fn any_bytes_are_safe_and_read_alike_however_they_are_cut(bytes in vec(any::<u8>(), 0..400), cut in 1_usize..40) {
        let whole = decode(&[&bytes]).map_err(|error| error.to_string());
        let cut = decode(&bytes.chunks(cut).collect::<Vec<_>>()).map_err(|error| error.to_string());
        prop_assert_eq!(cut, whole);
    }

    #[test]
    fn any_payload_in_a_whole_message_is_safe(kind in 1_u8..4, payload in vec(any::<u8>(), 0..99)) {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let bytes = [&length[..], &[0, 0, 0, 1, kind, 0], &payload].concat();
        let mut decoder = MessageDecoder::default();
        decoder.push(&bytes);
        if decoder.pull().is_ok() {
            prop_assert_eq!(decoder.pull().unwrap(), None);
        }
    }
}
