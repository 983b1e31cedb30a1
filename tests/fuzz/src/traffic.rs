//! What clients send, and what lies on disk: conversations for the corpus, and pseudo-random mixes of their parts.

use dmacached::digest::Digest;
use dmacached::disktable::format::{Distance, put_summary, seal_footer_page};
use dmacached::disktable::{Identity, Mark, MarkKind, Summary};
use dmacached::limits::PAGE_SIZE;
use dmacached::record::{Header, Kind, Place, SizeClass, encode};

use crate::input::random;
use crate::{connection, stored};

/// Conversations in text: a name and the lines. Those of client libraries are what these libraries send.
const TEXT: [(&str, &[u8]); 15] = [
    (
        "pymemcache",
        b"set k 0 0 5 noreply\r\nhello\r\nget k\r\ngets k\r\ncas k 0 0 3 17\r\nabc\r\n\
            delete k noreply\r\nquit\r\n",
    ),
    (
        "storing",
        b"set a 1 0 1\r\na\r\nadd b 2 9 2\r\nbb\r\nreplace a 3 -1 0\r\n\r\nappend a 0 0 1\r\n+\r\n\
            prepend a 0 0 1 noreply\r\n-\r\n",
    ),
    (
        "counting",
        b"set n 0 0 2\r\n10\r\nincr n 5\r\ndecr n 18446744073709551615\r\nincr n x\r\n\
            incr n 1 noreply\r\ndecr n -1\r\n",
    ),
    ("touching", b"touch a 60\r\ngat 60 a b\r\ngats -1 a\r\ntouch a 1700000000 noreply\r\ngat x a\r\ntouch a\r\n"),
    (
        "many-keys",
        b"get k0 k1 k2 k3 k4 k5 k6 k7 k8 k9 k10 k11 k12 k13 k14 k15 k16 k17 k18 k19\r\ngets  a   b \r\n\
            get a\t\r\n",
    ),
    (
        "administration",
        b"stats\r\nstats items\r\nstats cachedump 1 9\r\nversion\r\nverbosity 1\r\n\
            flush_all 5 noreply\r\nlru_crawler metadump all\r\nshutdown graceful\r\n",
    ),
    (
        "administration-2",
        b"slabs reassign 1 2\r\nlru mode flat\r\nlru tune 1 2 0.5 2.0\r\ncache_memlimit 100\r\n\
            watch fetchers mutations\r\nlru_crawler mgdump hash\r\nmisbehave\r\n",
    ),
    (
        "refused",
        b"set k x 0 5\r\nabcde\r\nset k 0 0 2\r\nabc\r\nget\r\nnonsense\r\n\r\nset k 0 0 -1\r\n\
            set k 0 0 9999999\r\nxx\r\ndelete k 5\r\n",
    ),
    ("blanks", b"  get   a  \r\nset  a  0  0  1 \r\nb\r\nset a 0 0  1\r\nc\r\nget a\n\x0bget b\r\nget c\r\r\n"),
    ("http", b"version\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n"),
    (
        "meta-get",
        b"mg k v f c t s k Oabc q\r\nmn\r\nmg k\r\nmg Zm9v b k v h l t N30 R10 T60 E5 u\r\nmg k v v\r\n\
            mg k C5 v\r\nme k\r\nme Zm9v b\r\n",
    ),
    (
        "meta-set",
        b"ms k 5 T60 F1 c b\r\nhello\r\nms k 2 MA N0 q\r\nhi\r\nms k S2\r\nms Zm9v 1 b I C9 E8 k s O1\r\n\
            1\r\nms k 99999 k\r\n",
    ),
    (
        "meta-delete",
        b"md k q\r\nmd k I T30 C5 x k O123\r\nmd Zm9v b\r\nma n N0 J10 D5 MD t c v\r\n\
            ma n MI D18446744073709551615 q\r\nma n Mx\r\n",
    ),
    (
        "meta-refused",
        b"mg\r\nmg k !\r\nms k x\r\nms k 18446744073709551613\r\nms k 3 MZ\r\nabc\r\nmg k Ttwo\r\n\
            mz k\r\nmg == b\r\nmn extra\r\n",
    ),
    (
        "packets-in-text",
        b"version\r\n\
            \x80\x0a\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\n\
            get a\r\n",
    ),
];

/// What clients say first who have to say who they are.
const CREDENTIALS: [(&str, &[u8]); 4] = [
    ("let-in", b"set auth 0 0 9\r\nuser pass\r\nset k 0 0 1\r\na\r\nget k\r\nmg k v\r\n"),
    (
        "not-let-in",
        b"get k\r\nset auth 0 0 4\r\nuser\r\nset auth 0 0 9\r\nuserxpassxx\r\nset auth 0 0 10\r\n\
            other pass\r\nset auth 0 0 9\r\nuser pass\r\nversion\r\n",
    ),
    ("too-long", b"set auth 0 0 256\r\n"),
    ("no-size", b"set auth 0 0 x\nset a\n \nset auth 0 0 0\r\n\r\n\x80\x0a\r\n"),
];

/// A packet of the binary protocol.
#[must_use]
pub fn packet(opcode: u8, extras: &[u8], key: &[u8], value: &[u8], cas: u64) -> Vec<u8> {
    let body_size = (extras.len() + key.len() + value.len()) as u32;
    let mut packet = vec![0x80, opcode];
    packet.extend((key.len() as u16).to_be_bytes());
    packet.extend([extras.len() as u8, 0, 0, 0]);
    packet.extend(body_size.to_be_bytes());
    packet.extend([0xde, 0xad, opcode, 1]);
    packet.extend(cas.to_be_bytes());
    [&packet, extras, key, value].concat()
}

/// Conversations in packets.
fn binary() -> Vec<(&'static str, Vec<u8>)> {
    let number = [[0; 7].as_slice(), &[1], &[0; 7], &[10], &[0; 4]].concat();
    let store = |opcode| packet(opcode, &[0, 0, 0, 1, 0, 0, 0, 60], b"key", b"value", 0);
    let key = |opcode| packet(opcode, &[], b"key", &[], 0);
    let bare = |opcode| packet(opcode, &[], &[], &[], 0);
    let each = |opcodes: &[u8], make: &dyn Fn(u8) -> Vec<u8>| opcodes.iter().flat_map(|opcode| make(*opcode)).collect();
    let mut oversized = store(1);
    oversized[8..12].copy_from_slice(&u32::MAX.to_be_bytes());
    let mut short = key(0);
    short[11] = 1;
    vec![
        ("gets", each(&[0x00, 0x09, 0x0c, 0x0d], &key)),
        ("stores", each(&[0x01, 0x02, 0x03, 0x11, 0x12, 0x13], &store)),
        ("appends", each(&[0x0e, 0x0f, 0x19, 0x1a], &|opcode| packet(opcode, &[], b"key", b"more", 7))),
        ("deletes", each(&[0x04, 0x14], &key)),
        ("numbers", each(&[0x05, 0x06, 0x15, 0x16], &|opcode| packet(opcode, &number, b"n", &[], 0))),
        ("touches", each(&[0x1c, 0x1d, 0x1e, 0x23, 0x24], &|opcode| packet(opcode, &[0, 0, 1, 0], b"key", &[], 0))),
        ("bare", each(&[0x0a, 0x0b, 0x08, 0x18, 0x10, 0x20, 0x07, 0x17], &bare)),
        ("flush-later", packet(0x08, &[0, 0, 0, 9], &[], &[], 0)),
        ("stat", packet(0x10, &[], b"items", &[], 0)),
        ("sasl", [packet(0x21, &[], b"PLAIN", b"\0user\0pass", 0), bare(0x0a)].concat()),
        ("unknown", [packet(0x77, &[1], b"key", b"dropped", 0), bare(0x0a)].concat()),
        ("key-too-long", packet(0x00, &[], &[b'k'; 251], &[], 0)),
        ("value-too-large", [store(1), oversized].concat()),
        ("body-too-short", [bare(0x0a), short].concat()),
        ("text-behind", [&bare(0x0a)[..], b"version\r\n"].concat()),
    ]
}

const PLACE: Place = Place { slot: 3, sequence: 77, offset: 4096 };

fn place_bytes(choice: u32) -> Vec<u8> {
    let Place { slot, sequence, offset } = PLACE;
    [&slot.to_le_bytes()[..], &sequence.to_le_bytes(), &offset.to_le_bytes(), &choice.to_le_bytes()].concat()
}

fn records() -> Vec<(&'static str, Vec<u8>)> {
    let write = |kind, own_cas, bits, key: &[u8], value: &[u8]| {
        let header = Header { kind, version: 9, expiry: 1_700_000_000, client_flags: 0xdead_beef, bits, own_cas };
        let mut target = vec![0; header.record_size(key.len(), value.len())];
        encode(&mut target, PLACE, header, key, value);
        [place_bytes(1234), target].concat()
    };
    vec![
        ("value", write(Kind::Value, None, 0, b"key", b"value")),
        ("value-empty", write(Kind::Value, None, 3, b"k", b"")),
        ("value-with-cas", write(Kind::Value, Some(u64::MAX), 7, b"key", b"value")),
        ("value-empty-with-cas", write(Kind::Value, Some(1), 0, &[b'k'; 250], b"")),
        ("tombstone", write(Kind::Tombstone, None, 0, b"key", b"")),
        ("touch", write(Kind::Touch, Some(5), 1, b"key", b"")),
        ("flush", write(Kind::Flush, None, 0, b"", b"")),
        ("padding", write(Kind::Padding, None, 0, b"", &[0; 100])),
    ]
}

fn pages() -> Vec<(&'static str, Vec<u8>)> {
    let identity = Identity { store_id: [9; 16], shard: 2, slot: PLACE.slot, table_size: 1 << 20 };
    let mark = Mark { identity, sequence: 12, records_end: 8192, summary_count: 3, written: 1_700_000_000 };
    let marked = |kind| {
        let mut page = vec![0; PAGE_SIZE];
        mark.encode(kind, &mut page);
        // The rest is zeros, which the target adds.
        [place_bytes(8), page[..80].to_vec()].concat()
    };
    let footer = |count: u32| {
        let mut page = vec![0; PAGE_SIZE];
        for number in 0..count {
            let (kind, class) = (Kind::from_byte(1 + number as u8 % 4), SizeClass(number as u8));
            let (digest, offset) = (Digest([number as u8; 20]), 4096 + number * 16);
            let kind = kind.unwrap_or(Kind::Value);
            put_summary(
                &mut page,
                number as usize,
                &Summary { digest, version: 5, expiry: number, offset, kind, class, distance: Distance::NONE },
            );
        }
        seal_footer_page(&mut page, PLACE, count as usize);
        [place_bytes(8), page[..16 + 40 * count as usize].to_vec()].concat()
    };
    vec![
        ("header", marked(MarkKind::Header)),
        ("free", marked(MarkKind::Free)),
        ("trailer", marked(MarkKind::Trailer)),
        ("footer", footer(3)),
        ("footer-full", footer(102)),
    ]
}

/// The seeds of a target, with their names. Those of the index are made by hand, and some of the others too: what has
/// once failed.
#[must_use]
pub fn seeds(target: &str) -> Vec<(String, Vec<u8>)> {
    let behind = |head: &[u8], (name, stream): (&str, &[u8])| (name.to_owned(), [head, stream].concat());
    let text = TEXT.iter().copied();
    // Once it mattered whether the end of such a line came with it.
    let long_line = [&[b'x'; 2049][..], b"\r\nversion\r\n"].concat();
    let credentials = CREDENTIALS.iter().copied().chain([("long-line", long_line.as_slice())]);
    let packets = binary();
    let packets = packets.iter().map(|(name, stream)| (*name, stream.as_slice()));
    match target {
        "text" => text.map(|one| behind(&[0], one)).collect(),
        "binary" => packets.map(|one| behind(&[1], one)).collect(),
        "credentials" => credentials.map(|one| behind(&[], one)).collect(),
        "connection" => {
            let unlocked = text.map(|one| behind(&[8, 1, 1, 4, 0, 9, 30, 2], one));
            let binary = packets.map(|one| behind(&[2, 0, 2, 11, 23, 0, 1, 40], one));
            let locked = credentials.map(|one| behind(&[4, 0, 0, 3, 17, 1, 0, 5], one));
            unlocked.chain(binary).chain(locked).collect()
        }
        "record" => records().into_iter().map(|(name, bytes)| (name.to_owned(), bytes)).collect(),
        "page" => pages().into_iter().map(|(name, bytes)| (name.to_owned(), bytes)).collect(),
        _ => Vec::new(),
    }
}

/// A pseudo-random number below `bound`.
fn below(state: &mut u64, bound: usize) -> usize {
    (random(state) % bound as u64) as usize
}

/// A part of a conversation of the kind that `kind` is, perhaps changed.
fn fragment(state: &mut u64, kind: usize) -> Vec<u8> {
    let mut bytes = match kind {
        0 => TEXT[below(state, TEXT.len())].1.to_vec(),
        1 => binary().swap_remove(below(state, 15)).1,
        _ => CREDENTIALS[below(state, CREDENTIALS.len())].1.to_vec(),
    };
    match below(state, 8) {
        // A large value, of bytes that are commands.
        0 => {
            let value = b"get k\r\n".repeat(below(state, 200));
            let (size, missed) = (value.len(), below(state, 3));
            let head = match kind {
                1 => return packet(1, &[0; 8], b"k", &value, 0),
                _ if below(state, 2) == 0 => format!("ms k {} k\r\n", size + missed),
                _ => format!("set k 0 0 {}\r\n", size + missed),
            };
            bytes = [head.as_bytes(), &value, b"\r\n"].concat();
        }
        // A long line.
        1 if kind != 1 => bytes = [&b"gets"[..], &b" key".repeat(below(state, 900)), b"\r\n"].concat(),
        2 if kind != 1 => bytes = vec![b'x'; below(state, 2100)],
        3 | 4 => mutate(state, &mut bytes),
        5 => bytes.truncate(below(state, bytes.len() + 1)),
        _ => {}
    }
    bytes
}

/// Bytes that mean something.
const BYTES: &[u8] = b" \r\n\0\x80\xff019kbOTvq";

/// Changes some bytes.
fn mutate(state: &mut u64, bytes: &mut Vec<u8>) {
    for _ in 0..=below(state, 4) {
        let at = below(state, bytes.len().max(1));
        let byte = BYTES[below(state, BYTES.len())];
        match below(state, 3) {
            _ if bytes.is_empty() => {}
            0 => bytes.insert(at, byte),
            1 => {
                bytes.remove(at);
            }
            _ => bytes[at] = byte,
        }
    }
}

/// A pseudo-random input of a target that reads requests.
fn random_stream(number: u64, header_size: usize, kinds: &[usize]) -> Vec<u8> {
    let mut state = number;
    let mut bytes: Vec<u8> = (0..header_size).map(|_| random(&mut state) as u8).collect();
    for _ in 0..=below(&mut state, 6) {
        let kind = kinds[below(&mut state, kinds.len())];
        bytes.extend(fragment(&mut state, kind));
    }
    bytes
}

/// See [`crate::Target::random`].
#[must_use]
pub fn random_text(number: u64) -> Vec<u8> {
    random_stream(number, 1, &[0])
}

/// See [`crate::Target::random`].
#[must_use]
pub fn random_binary(number: u64) -> Vec<u8> {
    random_stream(number, 1, &[1])
}

/// See [`crate::Target::random`].
#[must_use]
pub fn random_credentials(number: u64) -> Vec<u8> {
    random_stream(number, 0, &[2, 2, 0])
}

/// See [`crate::Target::random`].
#[must_use]
pub fn random_connection(number: u64) -> Vec<u8> {
    let kinds: &[usize] = [&[0, 0, 2][..], &[1], &[2, 0]][(number % 3) as usize];
    random_stream(number, connection::HEADER_SIZE, kinds)
}

/// See [`crate::Target::random`].
#[must_use]
pub fn random_record(number: u64) -> Vec<u8> {
    random_stored(number, &records())
}

/// See [`crate::Target::random`].
#[must_use]
pub fn random_page(number: u64) -> Vec<u8> {
    random_stored(number, &pages())
}

/// One of `all`, in another place, with some bits flipped.
fn random_stored(number: u64, all: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut state = number;
    let mut bytes = all[below(&mut state, all.len())].1.clone();
    bytes[stored::HEADER_SIZE - 4..stored::HEADER_SIZE].copy_from_slice(&(random(&mut state) as u32).to_le_bytes());
    for _ in 0..below(&mut state, 5) {
        let at = below(&mut state, bytes.len());
        bytes[at] ^= 1 << below(&mut state, 8);
    }
    if below(&mut state, 4) == 0 {
        bytes.truncate(below(&mut state, bytes.len() + 1));
    }
    bytes
}
