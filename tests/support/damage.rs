//! Harm to the files of a store: flipped and missing bytes, at places that `src/disktable/FORMAT.md` names.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// The files of a store's tables, in the order of their names.
pub(crate) fn tables(data_directory: &Path) -> Vec<PathBuf> {
    let mut tables = Vec::new();
    for shard in std::fs::read_dir(data_directory).expect("the data directory can be listed") {
        let path = shard.expect("an entry of the data directory").path();
        if path.is_dir() {
            let entries = std::fs::read_dir(&path).expect("a shard's directory can be listed");
            tables.extend(entries.map(|entry| entry.expect("an entry of a shard's directory").path()));
        }
    }
    tables.retain(|path| path.extension().is_some_and(|extension| extension == "dmt"));
    tables.sort();
    tables
}

/// Every file with its bytes.
pub(crate) fn files(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(directory).expect("it can be listed").flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            let bytes = std::fs::read(&path).expect("it can be read");
            found.insert(path, bytes);
        }
    }
    found
}

/// The first table that holds `needle`, and the offset of it there.
pub(crate) fn find(data_directory: &Path, needle: &[u8]) -> (PathBuf, u64) {
    for path in tables(data_directory) {
        let bytes = std::fs::read(&path).expect("a table can be read");
        if let Some(offset) = find_in(&bytes, needle) {
            return (path, offset as u64);
        }
    }
    panic!("no table under {} holds {}", data_directory.display(), super::shown(needle));
}

/// The offset of `needle` in `bytes`: `windows` alone is too slow for megabytes in a debug build.
fn find_in(bytes: &[u8], needle: &[u8]) -> Option<usize> {
    let mut start = 0;
    while let Some(found) = bytes[start..].iter().position(|byte| *byte == needle[0]) {
        if bytes[start + found..].starts_with(needle) {
            return Some(start + found);
        }
        start += found + 1;
    }
    None
}

/// Inverts the lowest bit of one byte, and sees that it reaches the device.
pub(crate) fn flip(path: &Path, offset: u64) {
    let file = OpenOptions::new().read(true).write(true).open(path).expect("a file of the store can be opened");
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).expect("the byte is there");
    byte[0] ^= 1;
    file.write_all_at(&byte, offset).expect("the byte can be written");
    file.sync_all().expect("the file can be synced");
}

/// Overwrites `bytes` at `offset`.
pub(crate) fn overwrite(path: &Path, offset: u64, bytes: &[u8]) {
    let file = OpenOptions::new().write(true).open(path).expect("a file of the store can be opened");
    file.write_all_at(bytes, offset).expect("the bytes can be written");
    file.sync_all().expect("the file can be synced");
}

/// Cuts the file to `size` bytes.
pub(crate) fn cut(path: &Path, size: u64) {
    let file = OpenOptions::new().write(true).open(path).expect("a file of the store can be opened");
    file.set_len(size).expect("the file can be cut");
    file.sync_all().expect("the file can be synced");
}

/// Gives the superblock `version` as its format version, with a checksum that fits.
pub(crate) fn set_format_version(data_directory: &Path, version: u32) {
    let path = data_directory.join("superblock");
    let mut page = std::fs::read(&path).expect("the superblock can be read");
    assert_eq!((page.len(), &page[..8]), (4096, &b"DMASTORE"[..]), "the superblock is one page with its magic");
    let found = u32::from_le_bytes(page[8..12].try_into().expect("four bytes"));
    page[8..12].fill(0);
    assert_eq!(found, crc32c(&page), "the superblock's checksum is the CRC-32C that FORMAT.md promises");
    page[12..16].copy_from_slice(&version.to_le_bytes());
    let sum = crc32c(&page);
    page[8..12].copy_from_slice(&sum.to_le_bytes());
    overwrite(&path, 0, &page);
}

/// CRC-32C, bit by bit: independent of the crate that the server uses.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| (sum >> 1) ^ if sum & 1 == 1 { 0x82f6_3b78 } else { 0 })
    })
}
