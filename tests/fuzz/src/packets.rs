//! Packets of the binary protocol: keys of requests, and whether answers are what their headers say.

use dmacached::protocol::BinaryRequest;
use dmacached::protocol::binary::{Command, HEADER_SIZE, RESPONSE_MAGIC, Status, encode};

/// The key of a request; `None` of one that is refused.
///
/// # Panics
/// When it is one that has no key.
#[must_use]
pub fn key<'a>(request: &BinaryRequest<'a>) -> Option<&'a [u8]> {
    match request.command {
        Command::Get { key, .. }
        | Command::Store { key, .. }
        | Command::TooLarge { key, .. }
        | Command::Delete { key, .. }
        | Command::Arithmetic { key, .. }
        | Command::Touch { key, .. } => Some(key),
        Command::Refused { .. } => None,
        other => panic!("a key was announced for {other:?}"),
    }
}

/// Every answer to the request is packets that repeat its opcode and opaque, and are as long as they say.
///
/// # Panics
/// When one is not.
pub fn check_answers(request: &BinaryRequest<'_>) {
    let reply = request.reply;
    let key = if let Command::Get { key, .. } = request.command { key } else { b"key" };
    let (success, miss) = (usize::from(!reply.hides_success()), usize::from(!reply.hides_miss()));
    check(request, 1, |out| encode::encode_status(out, reply, Status::OutOfMemory));
    check(request, miss, |out| encode::encode_miss(out, reply, key));
    check(request, 1, |out| encode::encode_value(out, reply, key, u32::MAX, u64::MAX, &[b'v'; 300]));
    check(request, 1, |out| encode::encode_touched(out, reply, u32::MAX, u64::MAX));
    check(request, success, |out| encode::encode_stored(out, reply, u64::MAX));
    check(request, success, |out| encode::encode_empty(out, reply));
    check(request, success, |out| encode::encode_number(out, reply, u64::MAX, u64::MAX));
    check(request, 1, |out| encode::encode_version(out, reply, "1.6.45"));
    check(request, 1, |out| encode::encode_stat(out, reply, "a_name", u64::MAX));
}

fn check(request: &BinaryRequest<'_>, count: usize, write: impl FnOnce(&mut Vec<u8>)) {
    let mut out = Vec::new();
    write(&mut out);
    let mut rest = out.as_slice();
    for _ in 0..count {
        let (header, body) = rest.split_first_chunk::<HEADER_SIZE>().expect("an answer has a header");
        let body_size = u32::from_be_bytes([header[8], header[9], header[10], header[11]]) as usize;
        let key_size = usize::from(u16::from_be_bytes([header[2], header[3]]));
        assert_eq!((header[0], header[1]), (RESPONSE_MAGIC, request.reply.opcode));
        assert_eq!(header[12..16], request.reply.opaque);
        assert!(usize::from(header[4]) + key_size <= body_size);
        rest = body.get(body_size..).expect("an answer is as long as it says");
    }
    assert!(rest.is_empty(), "something follows the answer");
}
