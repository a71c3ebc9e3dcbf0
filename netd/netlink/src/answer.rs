//! What a datagram from the kernel says. Pure: bytes in, answers out; any bytes are safe.

/// `NLMSG_ERROR` (linux/netlink.h): an error, or with code 0 an acknowledgement.
const ERROR: u16 = 2;
/// `NLMSG_DONE`: the end of a dump.
const DONE: u16 = 3;
/// `NLM_F_DUMP_INTR`: the dump is inconsistent and must be made again.
const DUMP_INTERRUPTED: u16 = 0x10;
/// `NLM_F_CAPPED`: the request's payload is not echoed.
const CAPPED: u16 = 0x100;
/// `NLM_F_ACK_TLVS`: extended-acknowledgement attributes follow.
const ACK_TLVS: u16 = 0x200;
/// `NLMSGERR_ATTR_MSG`: text for people.
const ATTRIBUTE_TEXT: u16 = 1;
const HEADER: usize = 16;

/// One message of a datagram.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// A request was carried out (`errno` 0) or refused.
    Ack {
        /// Of the request.
        sequence: u32,
        /// Positive, or 0.
        errno: i32,
        /// The kernel's explanation, where it has one.
        text: String,
    },
    /// A dump ended.
    Done {
        /// Of the request.
        sequence: u32,
        /// The dump changed after its last object.
        interrupted: bool,
        /// Positive, or 0.
        errno: i32,
    },
    /// An object of a dump, with its header.
    Object {
        /// Of the request.
        sequence: u32,
        /// The dump changed while it was made.
        interrupted: bool,
        /// The whole message.
        message: Vec<u8>,
    },
}

/// All messages of a datagram; what follows damage is left out.
#[must_use]
pub fn answers(mut datagram: &[u8]) -> Vec<Answer> {
    let mut answers = Vec::new();
    while let Some((answer, rest)) = first(datagram) {
        answers.push(answer);
        datagram = rest;
    }
    answers
}

fn first(datagram: &[u8]) -> Option<(Answer, &[u8])> {
    let length = usize::try_from(word(datagram, 0)?).ok()?;
    if length < HEADER {
        return None;
    }
    let message = datagram.get(..length)?;
    let (kind, flags, sequence) = (half(message, 4)?, half(message, 6)?, word(message, 8)?);
    let errno = || word(message, HEADER).map_or(0, |code| code.cast_signed().wrapping_neg());
    let interrupted = flags & DUMP_INTERRUPTED != 0;
    let answer = match kind {
        ERROR => Answer::Ack { sequence, errno: errno(), text: text(message, flags).unwrap_or_default() },
        DONE => Answer::Done { sequence, interrupted, errno: errno() },
        _ => Answer::Object { sequence, interrupted, message: message.to_vec() },
    };
    Some((answer, datagram.get(align(length)..).unwrap_or_default()))
}

/// The text attribute behind the echoed request: its header alone where capped, the whole of it otherwise.
fn text(message: &[u8], flags: u16) -> Option<String> {
    if flags & ACK_TLVS == 0 {
        return None;
    }
    let echoed = HEADER + 4;
    let request = usize::try_from(word(message, echoed)?).ok()?;
    let skip = if flags & CAPPED == 0 { align(request.max(HEADER)) } else { HEADER };
    let mut attributes = message.get(echoed.checked_add(skip)?..)?;
    loop {
        let length = usize::from(half(attributes, 0)?);
        let value = attributes.get(4..length)?;
        if half(attributes, 2)? == ATTRIBUTE_TEXT {
            let text = value.split(|byte| *byte == 0).next().unwrap_or_default();
            return Some(String::from_utf8_lossy(text).into_owned());
        }
        attributes = attributes.get(align(length)..)?;
    }
}

fn align(length: usize) -> usize {
    length.saturating_add(3) & !3
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|chunk| u32::from_ne_bytes(*chunk))
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|chunk| u16::from_ne_bytes(*chunk))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Answer, answers};

    fn message(kind: u16, flags: u16, sequence: u32, payload: &[u8]) -> Vec<u8> {
        let mut message = u32::try_from(16 + payload.len()).unwrap().to_ne_bytes().to_vec();
        message.extend(kind.to_ne_bytes());
        message.extend(flags.to_ne_bytes());
        message.extend(sequence.to_ne_bytes());
        message.extend(0_u32.to_ne_bytes());
        message.extend(payload);
        message
    }

    #[test]
    fn several_messages_of_one_datagram_and_the_kernels_words() {
        let mut refusal = (-17_i32).to_ne_bytes().to_vec();
        refusal.extend(message(16, 0, 7, b""));
        refusal.extend([11, 0, 1, 0]);
        refusal.extend(b"no luck\0");
        let mut datagram = message(2, 0x300, 7, &refusal);
        datagram.extend(message(2, 0x100, 8, &[0; 20]));
        let ack = |sequence, errno, text: &str| Answer::Ack { sequence, errno, text: text.to_owned() };
        assert_eq!(answers(&datagram), [ack(7, 17, "no luck"), ack(8, 0, "")]);
    }

    #[test]
    fn a_dump_that_lost_its_last_objects_says_so_in_its_end_alone() {
        let [Answer::Done { interrupted, .. }] = answers(&message(3, 0x12, 7, &[0; 4]))[..] else { panic!() };
        assert!(interrupted);
    }

    proptest! {
        #[test]
        fn any_bytes_are_safe(bytes in prop::collection::vec(any::<u8>(), 0..256)) {
            drop(answers(&bytes));
        }

        #[test]
        fn any_refusal_is_safe(flags in any::<u16>(), payload in prop::collection::vec(any::<u8>(), 0..64)) {
            prop_assert_eq!(answers(&message(2, flags, 1, &payload)).len(), 1);
        }
    }
}
