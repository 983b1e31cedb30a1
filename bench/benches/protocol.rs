//! What parsing a request costs, and what encoding its answer costs, without a store or a socket.
//!
//! `cargo bench -p dmacached-bench --bench protocol`

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use dmacached::limits::MIB;
use dmacached::protocol::binary::{self, BinaryReply};
use dmacached::protocol::meta::encode as meta;
use dmacached::protocol::meta::encode::{Code, MetaItem, Standing};
use dmacached::protocol::text::encode as text;
use dmacached::protocol::text::encode::Answer;
use dmacached::protocol::{MetaRequest, ParseLimits, Parsed, Request, parse, parse_binary};

const LIMITS: ParseLimits = ParseLimits { item_size_max: MIB };
const KEY: &[u8] = b"key:0000000000000001";
const VALUE: [u8; 100] = [b'v'; 100];
const CAS: u64 = 123_456_789;

/// A request of the binary protocol.
fn packet(opcode: u8, extras: &[u8], value: &[u8]) -> Vec<u8> {
    let body_size = u8::try_from(extras.len() + KEY.len() + value.len()).expect("all of them are small");
    let head = [0x80, opcode, 0, KEY.len() as u8, extras.len() as u8, 0, 0, 0];
    [&head[..], &[0, 0, 0, body_size], &[0; 12], extras, KEY, value].concat()
}

/// Times a parser, with a walk over the keys of a get, which is what the shard does with it.
fn measure(criterion: &mut Criterion, name: &str, input: &[u8], parse: impl Fn(&[u8]) -> usize) {
    let mut group = criterion.benchmark_group("parse");
    group.throughput(Throughput::Elements(1));
    assert_eq!(parse(input), input.len(), "the request is parsed whole");
    group.bench_function(name, |bencher| bencher.iter(|| parse(black_box(input))));
    group.finish();
}

fn parse_text(input: &[u8]) -> usize {
    match parse(input, &LIMITS) {
        Parsed::Request { request: Request::Get { keys, .. }, consumed, .. } => {
            keys.for_each(|key| {
                black_box(key);
            });
            consumed
        }
        Parsed::Request { request, consumed, .. } => {
            black_box(&request);
            consumed
        }
        _ => 0,
    }
}

fn parse_packet(input: &[u8]) -> usize {
    match parse_binary(input, &LIMITS) {
        Parsed::Request { request, consumed, .. } => {
            black_box(&request);
            consumed
        }
        _ => 0,
    }
}

fn parsing(criterion: &mut Criterion) {
    let key = String::from_utf8_lossy(KEY);
    let value = String::from_utf8_lossy(&VALUE);
    let get = format!("get {key}\r\n");
    let get_32 = format!("get{}\r\n", format!(" {key}").repeat(32));
    let set = format!("set {key} 0 0 100\r\n{value}\r\n");
    let meta_get = format!("mg {key} k v f c\r\n");
    let meta_set = format!("ms {key} 100 T60 F1 c\r\n{value}\r\n");
    for (name, input) in
        [("get", &get), ("get of 32 keys", &get_32), ("set", &set), ("mg k v f c", &meta_get), ("ms", &meta_set)]
    {
        measure(criterion, name, input.as_bytes(), parse_text);
    }
    measure(criterion, "binary get", &packet(0x00, &[], &[]), parse_packet);
    measure(criterion, "binary set", &packet(0x01, &[0; 8], &VALUE), parse_packet);
}

/// Times what is written to a buffer that has grown.
fn encoded(criterion: &mut Criterion, name: &str, write: impl Fn(&mut Vec<u8>)) {
    let mut group = criterion.benchmark_group("encode");
    group.throughput(Throughput::Elements(1));
    let mut out = Vec::with_capacity(64 * 1024);
    group.bench_function(name, |bencher| {
        bencher.iter(|| {
            out.clear();
            write(&mut out);
            black_box(out.len())
        });
    });
    group.finish();
}

/// What `mg` and `ms` ask to be answered.
fn meta_request(line: &'static [u8]) -> MetaRequest<'static> {
    match parse(line, &LIMITS) {
        Parsed::Request { request: Request::Meta(request), .. } => request,
        other => panic!("not a meta command: {other:?}"),
    }
}

fn encoding(criterion: &mut Criterion) {
    let hit = |out: &mut Vec<u8>| text::encode_value(out, black_box(KEY), black_box(7), None, black_box(&VALUE));
    encoded(criterion, "get", |out| {
        hit(out);
        text::encode_answer(out, Answer::End);
    });
    encoded(criterion, "get of 32 keys", |out| {
        (0..32).for_each(|_| hit(out));
        text::encode_answer(out, Answer::End);
    });
    encoded(criterion, "set", |out| text::encode_answer(out, black_box(Answer::Stored)));
    let item = MetaItem {
        key: KEY,
        is_key_binary: false,
        value_size: VALUE.len(),
        client_flags: 7,
        cas: CAS,
        ttl: Some(60),
        age: 5,
        was_fetched: true,
    };
    let asked = meta_request(b"mg k k v f c\r\n").reply;
    encoded(criterion, "mg k v f c", |out| {
        meta::encode_item(out, black_box(&asked), black_box(&item), Standing::default(), true);
        out.extend_from_slice(black_box(&VALUE));
        out.extend_from_slice(b"\r\n");
    });
    let asked = meta_request(b"ms k 1 T60 F1 c\r\nv\r\n").reply;
    encoded(criterion, "ms", |out| meta::encode_stored(out, Code::Done, black_box(&asked), black_box(&item)));
    let reply = |opcode| BinaryReply { opcode, opaque: [1, 2, 3, 4] };
    encoded(criterion, "binary get", |out| {
        binary::encode::encode_value(out, black_box(reply(0)), black_box(KEY), 7, black_box(CAS), black_box(&VALUE));
    });
    encoded(criterion, "binary set", |out| binary::encode::encode_stored(out, black_box(reply(1)), black_box(CAS)));
}

fn short() -> Criterion {
    let criterion = Criterion::default().sample_size(50);
    criterion.warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1))
}

criterion_group! { name = benches; config = short(); targets = parsing, encoding }
criterion_main!(benches);
