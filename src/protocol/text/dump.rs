//! Lists of keys: the lines of `lru_crawler metadump`, `lru_crawler mgdump` and `stats cachedump`.

use std::io::Write;

use super::super::meta::base64;

/// An item as lists of keys show it.
#[derive(Clone, Copy, Debug)]
pub struct DumpItem<'a> {
    /// Its key.
    pub key: &'a [u8],
    /// The key was sent in base64.
    pub is_key_binary: bool,
    /// Unix second at which it is gone; 0 = never.
    pub expiry: u32,
    /// Unix second of the last access, as far as is known.
    pub last_access: u32,
    /// Its CAS unique.
    pub cas: u64,
    /// Whether somebody has fetched it.
    pub was_fetched: bool,
    /// The client's 32 bits.
    pub client_flags: u32,
    /// Bytes of the value.
    pub value_size: usize,
    /// Bytes of the item as memcached counts them.
    pub item_size: usize,
    /// Page and offset of an item on disk.
    pub on_disk: Option<(u32, u32)>,
}

/// Appends a line of `lru_crawler metadump`, which ends without `\r` as in memcached.
pub fn encode_metadump(out: &mut Vec<u8>, item: &DumpItem<'_>) {
    out.extend_from_slice(b"key=");
    append_uri(out, item.key);
    let expiry = if item.expiry == 0 { -1 } else { i64::from(item.expiry) };
    let fetched = if item.was_fetched { "yes" } else { "no" };
    let DumpItem { last_access, cas, item_size, client_flags, .. } = *item;
    let line = write!(
        out,
        " exp={expiry} la={last_access} cas={cas} fetch={fetched} cls=1 size={item_size} flags={client_flags}"
    );
    line.expect("writing to a Vec does not fail");
    if let Some((page, offset)) = item.on_disk {
        write!(out, " ext_page={page} ext_offset={offset}").expect("writing to a Vec does not fail");
    }
    out.push(b'\n');
}

/// Appends a line of `lru_crawler mgdump`: a request that fetches the item.
pub fn encode_mgdump(out: &mut Vec<u8>, item: &DumpItem<'_>) {
    out.extend_from_slice(b"mg ");
    if item.is_key_binary {
        base64::encode(out, item.key);
        out.extend_from_slice(b" b");
    } else {
        out.extend_from_slice(item.key);
    }
    out.extend_from_slice(b"\r\n");
}

/// Appends a line of `stats cachedump`.
pub fn encode_cachedump(out: &mut Vec<u8>, item: &DumpItem<'_>) {
    out.extend_from_slice(b"ITEM ");
    out.extend_from_slice(item.key);
    write!(out, " [{} b; {} s]\r\n", item.value_size, item.expiry).expect("writing to a Vec does not fail");
}

/// Appends `bytes` with all but letters, digits and `-._~` as `%XX`.
pub fn append_uri(out: &mut Vec<u8>, bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    for &byte in bytes {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(byte);
        } else {
            out.extend_from_slice(&[b'%', DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(item: &DumpItem<'_>) -> [String; 3] {
        [encode_metadump, encode_mgdump, encode_cachedump].map(|encode| {
            let mut out = Vec::new();
            encode(&mut out, item);
            String::from_utf8(out).expect("the tests' keys are text")
        })
    }

    #[test]
    fn lines_are_those_of_memcached() {
        let item = DumpItem {
            key: b"k%y+-_.~/",
            is_key_binary: false,
            expiry: 0,
            last_access: 1_795_375_964,
            cas: 3,
            was_fetched: false,
            client_flags: 5,
            value_size: 2,
            item_size: 69,
            on_disk: None,
        };
        let metadata = "key=k%25y%2B-_.~%2F exp=-1 la=1795375964 cas=3 fetch=no cls=1 size=69 flags=5\n";
        assert_eq!(lines(&item), [metadata, "mg k%y+-_.~/\r\n", "ITEM k%y+-_.~/ [2 b; 0 s]\r\n"]);
        let item = DumpItem {
            key: b"base",
            is_key_binary: true,
            expiry: 1_795_376_064,
            was_fetched: true,
            on_disk: Some((7, 4096)),
            ..item
        };
        let metadata =
            "key=base exp=1795376064 la=1795375964 cas=3 fetch=yes cls=1 size=69 flags=5 ext_page=7 ext_offset=4096\n";
        assert_eq!(lines(&item), [metadata, "mg YmFzZQ== b\r\n", "ITEM base [2 b; 1795376064 s]\r\n"]);
    }
}
