//! Values that say what they are: a key, a stamp that no other value has, and a size.

use crate::model::{Fault, Item, Model, Wrong};
use dmacached::record::Record;

pub(crate) fn key_bytes(key: u8) -> Vec<u8> {
    format!("key-{key}").into_bytes()
}

/// The value with this stamp.
pub(crate) fn value_bytes(key: u8, stamp: u32, size: u32) -> Vec<u8> {
    let mut bytes = format!("k{key}.{stamp}.{size};").into_bytes();
    let mut word = u64::from(stamp).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    while bytes.len() < size as usize {
        word = word.wrapping_mul(0x2545_f491_4f6c_dd1d).wrapping_add(size.into());
        bytes.extend_from_slice(&word.to_le_bytes());
    }
    bytes
}

/// The bits of a value with this stamp.
pub(crate) fn bits_of(stamp: u32) -> u16 {
    (stamp % 8) as u16
}

fn parse(bytes: &[u8]) -> Option<(u8, u32, u32)> {
    let head = bytes.split(|byte| *byte == b';').next()?;
    let head = std::str::from_utf8(head).ok()?.strip_prefix('k')?;
    let mut numbers = head.split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// What the store says that a key is. It must be a value that was written under that key, byte by byte.
pub(crate) fn observe(model: &Model, key: u8, record: &Record<'_>) -> Result<Item, Fault> {
    let wrong = |what: &str| {
        let head = String::from_utf8_lossy(&record.value[..record.value.len().min(24)]).into_owned();
        Err(Fault::new(Wrong::Value, format!("key {key}: {what}: {} bytes, {head:?}", record.value.len())))
    };
    let Some((of, stamp, size)) = parse(record.value) else { return wrong("a value that nobody has written") };
    if of != key || !model.was_issued(key, stamp, size) {
        return wrong("a value of another key");
    }
    if record.value != value_bytes(key, stamp, size) || record.key != key_bytes(key) {
        return wrong("a value that is not as it was written");
    }
    let header = record.header;
    if header.client_flags != stamp || header.bits != bits_of(stamp) {
        return wrong("other flags than it was written with");
    }
    let (version, expiry, own_cas) = (header.version, header.expiry, header.own_cas);
    Ok(Item { stamp, size, version, expiry, flags: header.client_flags, own_cas })
}
