//! Any bytes are safe, and where they are cut means nothing.

use proptest::collection::vec;
use proptest::prelude::*;

use super::{Frame, FrameDecoder, FrameError, LONGEST_RECEIVED, LONGEST_SENT, encode};

fn decode(pieces: &[&[u8]]) -> Result<Vec<Frame>, FrameError> {
    let mut decoder = FrameDecoder::default();
    let mut frames = Vec::new();
    for piece in pieces {
        decoder.push(piece);
        while let Some(frame) = decoder.pull()? {
            frames.push(frame);
        }
    }
    Ok(frames)
}

#[test]
fn the_header_is_connection_and_length_in_network_order() {
    assert_eq!(encode(2, b"ab"), [0, 0, 0, 2, 0, 0, 0, 2, b'a', b'b']);
}

#[test]
fn no_frame_that_we_send_is_longer_than_the_runtimes_buffer() {
    let frames = decode(&[&encode(1, &vec![7; 3 * LONGEST_SENT + 1])]).unwrap();
    let lengths: Vec<usize> = frames.iter().map(|frame| frame.payload.len()).collect();
    assert_eq!(lengths, [4096, 4096, 4096, 1]);
}

#[test]
fn a_frame_longer_than_any_is_refused_before_it_is_held() {
    let length = u32::try_from(LONGEST_RECEIVED + 1).unwrap();
    let header = [1_u32.to_be_bytes(), length.to_be_bytes()].concat();
    assert_eq!(decode(&[&header]), Err(FrameError { connection: 1, length: LONGEST_RECEIVED + 1 }));
}

proptest! {
    #[test]
    fn what_is_encoded_comes_back_however_it_is_cut(
        sent in vec((any::<u32>(), vec(any::<u8>(), 1..10_000)), 0..5),
        cut in 1_usize..9_000,
    ) {
        let bytes: Vec<u8> = sent.iter().flat_map(|(connection, payload)| encode(*connection, payload)).collect();
        let mut came: Vec<(u32, Vec<u8>)> = Vec::new();
        let mut left = sent.iter().map(|(_, payload)| payload.len());
        let mut expected = 0;
        for frame in decode(&bytes.chunks(cut).collect::<Vec<_>>()).unwrap() {
            prop_assert!(frame.payload.len() <= LONGEST_SENT);
            if expected == 0 {
                expected = left.next().unwrap();
                came.push((frame.connection, Vec::new()));
            }
            expected -= frame.payload.len();
            came.last_mut().unwrap().1.extend(frame.payload);
        }
        prop_assert_eq!(came, sent);
    }

    #[test]
    fn any_bytes_are_safe_and_read_alike_however_they_are_cut(bytes in vec(any::<u8>(), 0..4_000), cut in 1_usize..99) {
        let whole = decode(&[&bytes]);
        prop_assert_eq!(decode(&bytes.chunks(cut).collect::<Vec<_>>()), whole);
    }

    #[test]
    fn short_frames_of_any_bytes_are_read_alike_however_they_are_cut(
        frames in vec((0_u32..4, vec(any::<u8>(), 0..40)), 0..40),
        cut in 1_usize..99,
    ) {
        let bytes: Vec<u8> = frames
            .iter()
            .flat_map(|(connection, payload)| {
                let length = u32::try_from(payload.len()).unwrap();
                [&connection.to_be_bytes(), &length.to_be_bytes(), payload.as_slice()].concat()
            })
            .collect();
        let expected: Vec<Frame> =
            frames.into_iter().map(|(connection, payload)| Frame { connection, payload }).collect();
        prop_assert_eq!(decode(&bytes.chunks(cut).collect::<Vec<_>>()).unwrap(), expected);
    }
}
