//! A connection as the runtime sees it, byte by byte.

use proptest::collection::vec;
use proptest::prelude::*;

use super::{Event, Identity, Session, SessionError, register};
use crate::frame::{self, PLUGIN, RUNTIME};
use crate::message::{self, Answer, UNIMPLEMENTED};
use crate::request::{Request, SERVICE};

fn events(pieces: &[&[u8]]) -> Result<Vec<Event>, SessionError> {
    let mut session = Session::default();
    let mut events = Vec::new();
    for piece in pieces {
        session.push(piece);
        while let Some(event) = session.pull()? {
            events.push(event);
        }
    }
    Ok(events)
}

#[test]
fn registration_is_one_frame_even_with_the_longest_sensible_name() {
    let identity = Identity { name: "n".repeat(200), index: "10".to_owned() };
    let bytes = register(&identity).unwrap();
    assert_eq!(bytes[..4], RUNTIME.to_be_bytes());
    assert_eq!(u32::from_be_bytes(bytes[4..8].try_into().unwrap()) as usize, bytes.len() - 8);
}

#[test]
fn frames_of_other_connections_are_dropped_and_calls_may_precede_the_registrations_answer() {
    let call = message::request(SERVICE, "Shutdown", Vec::new()).unwrap();
    let answer = message::response(1, Answer::Done(Vec::new())).unwrap();
    let bytes =
        [frame::encode(0, b"?"), frame::encode(PLUGIN, &call), frame::encode(9, b"?"), frame::encode(RUNTIME, &answer)];
    let expected = [Event::Asked { stream: 1, request: Request::Irrelevant }, Event::Registered];
    assert_eq!(events(&[&bytes.concat()]).unwrap(), expected);
    let bytes = bytes.concat();
    assert_eq!(events(&bytes.chunks(1).collect::<Vec<_>>()).unwrap(), expected);
}

#[test]
fn a_refused_registration_has_the_runtimes_words() {
    let refused = Answer::Refused { code: UNIMPLEMENTED, message: "no plugins here".to_owned() };
    let error = events(&[&frame::encode(RUNTIME, &message::response(1, refused).unwrap())]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the runtime refuses the plugin: no plugins here (code 12); are --name and --index well formed?"
    );
}

proptest! {
    #[test]
    fn any_bytes_are_safe(bytes in vec(any::<u8>(), 0..2_000)) {
        drop(events(&[&bytes]));
    }

    #[test]
    fn any_payloads_in_whole_frames_are_safe(payloads in vec((0_u32..4, vec(any::<u8>(), 1..60)), 0..20)) {
        let bytes: Vec<u8> = payloads.iter().flat_map(|(connection, payload)| frame::encode(*connection, payload)).collect();
        drop(events(&[&bytes]));
    }

    #[test]
    fn any_payload_of_any_call_is_answered(
        method in "Configure|Synchronize|RunPodSandbox|RemovePodSandbox|StateChange|[A-Z][a-z]{3}",
        payload in vec(any::<u8>(), 0..200),
    ) {
        let bytes = frame::encode(PLUGIN, &message::request(SERVICE, &method, payload).unwrap());
        for event in events(&[&bytes]).unwrap() {
            if let Event::Asked { stream, request } = event {
                prop_assert!(super::answer(stream, request.answer()).is_ok());
            }
        }
    }
}
