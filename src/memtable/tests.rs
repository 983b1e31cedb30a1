//! Blocks in memory.

use super::*;
use crate::record::{Kind, decode, record_size};

const TABLE: TableUse = TableUse { slot: 4, sequence: 9 };

fn header(version: u64) -> Header {
    Header { kind: Kind::Value, version, expiry: 0, client_flags: 0, bits: 0, own_cas: None }
}

fn pointer(offset: u32) -> Pointer {
    Pointer { slot: TABLE.slot, offset }
}

fn blocks(count: usize) -> Vec<Buffer> {
    (0..count).map(|_| Buffer::zeroed(64 * 1024)).collect()
}

fn append(memtable: &mut Memtable, key: &[u8], value: &[u8]) -> u32 {
    memtable.append(record_size(key.len(), value.len()), header(1), key, value)
}

#[test]
fn records_are_readable_from_the_first_to_the_last_state() {
    let mut memtable = Memtable::new(blocks(2), 0);
    assert!(memtable.start_block(TABLE, 4096, 100));
    let first = append(&mut memtable, b"a", b"one");
    let second = append(&mut memtable, b"b", b"two");
    let check = |memtable: &Memtable| {
        let bytes = memtable.find(pointer(second)).expect("in memory");
        assert_eq!(decode(bytes, TABLE.place(second)).expect("valid").value, b"two");
    };
    assert_eq!((first, second), (4096, 4096 + 32));
    check(&memtable);
    let block = memtable.freeze().expect("it has records");
    check(&memtable);
    assert_eq!((block.start, block.size), (4096, PAGE_SIZE));
    let records: Vec<_> = block.records().map(|(offset, record)| (offset, record.key.to_vec())).collect();
    assert_eq!(records, [(first, b"a".to_vec()), (second, b"b".to_vec())]);
    drop(block);
    memtable.retire_oldest(true);
    check(&memtable);
    assert_eq!(memtable.dirty_size(), 0);
    assert!(memtable.find(Pointer { slot: 5, offset: second }).is_none());
    memtable.forget(TABLE.slot);
    assert!(memtable.find(pointer(second)).is_none());
}

#[test]
fn blocks_run_out_until_one_is_written() {
    let mut memtable = Memtable::new(blocks(2), 0);
    for start in [4096, 8192] {
        assert!(memtable.start_block(TABLE, start, 100));
        append(&mut memtable, b"k", b"v");
        drop(memtable.freeze().expect("it has records"));
    }
    assert!(!memtable.start_block(TABLE, 12288, 100));
    memtable.retire_oldest(true);
    assert!(memtable.start_block(TABLE, 12288, 100));
    assert!(memtable.find(pointer(4096)).is_none(), "its buffer was needed");
    assert!(memtable.find(pointer(8192)).is_some());
}

#[test]
fn a_record_larger_than_a_block_gets_a_buffer_of_its_own() {
    let mut memtable = Memtable::new(blocks(1), 200 * 1024);
    let value = vec![7; 150 * 1024];
    let size = record_size(1, value.len());
    assert!(memtable.start_block(TABLE, 4096, size));
    let offset = append(&mut memtable, b"k", &value);
    drop(memtable.freeze().expect("it has records"));
    assert!(!memtable.start_block(TABLE, 1 << 20, size), "two would be above the budget");
    assert_eq!(
        decode(memtable.find(pointer(offset)).expect("in memory"), TABLE.place(offset)).expect("valid").value,
        value
    );
    memtable.retire_oldest(true);
    assert_eq!(memtable.memory_size(), 64 * 1024, "the block that is there from the start");
    assert!(memtable.start_block(TABLE, 1 << 20, size));
}

#[test]
fn a_record_that_still_fits_is_overwritten_where_it_is() {
    let mut memtable = Memtable::new(blocks(1), 0);
    assert!(memtable.start_block(TABLE, 4096, 100));
    let offset = append(&mut memtable, b"key", &[1; 50]);
    let next = append(&mut memtable, b"next", b"value");
    assert!(!memtable.overwrite(pointer(offset), header(2), b"key", &[2; 80]));
    for value in [&[3; 63][..], &[4; 1], &[5; 17]] {
        let fits = memtable.overwrite(pointer(offset), header(2), b"key", value);
        assert_eq!(fits, value.len() != 17, "the place has shrunk to 32 bytes");
    }
    let record = decode(memtable.find(pointer(offset)).expect("in memory"), TABLE.place(offset)).expect("valid");
    assert_eq!((record.header.version, record.value), (2, &[4; 1][..]));
    assert!(memtable.overwrite_expiry(pointer(next), 77));
    let block = memtable.freeze().expect("it has records");
    let found: Vec<_> = block.records().map(|(offset, record)| (offset, record.header.expiry)).collect();
    assert_eq!(found, [(offset, 0), (next, 77)], "the gap that was left is skipped");
    assert!(!memtable.overwrite(pointer(next), header(3), b"next", b"x"), "frozen blocks do not change");
}

#[test]
fn pages_are_not_crossed_when_that_is_cheap() {
    assert_eq!(place_record(0, 4096), 0);
    assert_eq!(place_record(3600, 400), 3600, "fits the page");
    assert_eq!(place_record(3600, 600), 4096, "skips 496");
    assert_eq!(place_record(3584, 600), 3584, "512 would be too much");
    assert_eq!(place_record(16, 8192), 16, "4080 would be too much");
    assert_eq!(place_record(4000, 8192), 4096);
    assert_eq!(place_record(4000, 5000), 4096, "two pages instead of three");
    assert_eq!(place_record(4000, 4100), 4000, "two pages either way");
}
