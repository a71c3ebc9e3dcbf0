//! The NRI door's socket: frames of the multiplexer, and the runtime's calls within them.

use netd_grpc::Incoming;
use netd_hook::frame::{FrameDecoder, encode};
use netd_hook::message::MessageDecoder;

use super::{Verdict, promise, shape};

pub(super) const TOKENS: &[&str] =
    &["\0\0\0\u{1}", "\0\0\0\u{2}", "\0\0\0\n", "\u{1}\0", "\u{2}\0", "nri.pkg.api.v1alpha1.Plugin", "StateChange"];
/// Where reads of a socket may end.
const PIECE: usize = 7;

/// What each connection sent, and whether the socket was given up.
type Heard = (Vec<(u32, Vec<u8>)>, bool);

pub(super) fn socket(input: &[u8]) -> Verdict {
    let (whole, refused) = frames(input.chunks(input.len().max(1)));
    promise(frames(input.chunks(PIECE)) == (whole.clone(), refused), || {
        "read in pieces, it says otherwise".to_owned()
    })?;
    let octets: usize = whole.iter().map(|(_, payload)| payload.len()).sum();
    promise(octets <= input.len(), || format!("{octets} octets of {} read", input.len()))?;
    let mut kinds = Vec::new();
    for (connection, payload) in &whole {
        kinds.push((*connection, messages(payload)));
        let (back, _) = frames(encode(*connection, payload).chunks(PIECE));
        let payloads: Vec<u8> = back.into_iter().flat_map(|(_, piece)| piece).collect();
        promise(payloads == *payload, || "what was encoded does not come back".to_owned())?;
    }
    kinds.truncate(6);
    Ok(shape((kinds, refused)))
}

fn frames<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Heard {
    let mut decoder = FrameDecoder::default();
    let mut heard = Vec::new();
    for piece in pieces {
        decoder.push(piece);
        loop {
            match decoder.pull() {
                Ok(Some(frame)) => heard.push((frame.connection, frame.payload)),
                Ok(None) => break,
                Err(_) => return (heard, true),
            }
        }
    }
    (heard, false)
}

/// What a gRPC peer sends, as messages of up to so many octets.
pub(super) fn messages_of_grpc(input: &[u8]) -> Verdict {
    const LARGEST: usize = 1_000;
    let read = |pieces: std::slice::Chunks<'_, u8>| {
        let mut incoming = Incoming::new(LARGEST);
        let mut heard = Vec::new();
        for piece in pieces {
            incoming.push(piece);
            loop {
                match incoming.whole() {
                    Ok(Some(message)) => heard.push(message.to_vec()),
                    Ok(None) => break,
                    Err(_) => return (heard, true),
                }
            }
        }
        (heard, false)
    };
    let whole = read(input.chunks(input.len().max(1)));
    promise(read(input.chunks(PIECE)) == whole, || "read in pieces, it says otherwise".to_owned())?;
    let octets: usize = whole.0.iter().map(Vec::len).sum();
    promise(octets <= input.len() && whole.0.iter().all(|one| one.len() <= LARGEST), || {
        format!("{octets} octets of {} read", input.len())
    })?;
    let lengths: Vec<usize> = whole.0.iter().take(6).map(|one| one.len().min(40)).collect();
    Ok(shape((lengths, whole.1)))
}

/// How many messages, and whether they ended in a refusal.
fn messages(payload: &[u8]) -> (usize, bool) {
    let mut decoder = MessageDecoder::default();
    decoder.push(payload);
    for count in 0.. {
        match decoder.pull() {
            Ok(Some(_)) => {}
            Ok(None) => return (count, false),
            Err(_) => return (count, true),
        }
    }
    (0, false)
}
