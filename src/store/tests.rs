//! The engine in a simulated world.

mod basics;
mod broken;
mod by_hand;
mod checkpoint;
mod commit;
mod crash;
mod crawl;
mod doubt;
mod export;
mod forget;
mod found;
mod full;
mod model;
mod moved;
mod reclaim;
mod regressions;
mod restart;
mod scrub;
mod verify;
mod walk;

use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;

use super::*;
use crate::io::sim::Sim;
use crate::limits::MIB;

const DIRECTORY: &str = "/data";

fn options() -> StoreOptions {
    StoreOptions {
        directory: PathBuf::from(DIRECTORY),
        capacity: 16 * MIB as u64,
        table_size: Some(MIB as u64),
        memory: 8 * MIB,
        item_size_max: 64 * 1024,
        evict: true,
        flush_interval: Duration::from_secs(1),
        durability: Durability::Memory,
    }
}

fn world() -> Sim {
    Sim::new(0x5eed, 1 << 30)
}

async fn open(sim: &Sim, options: StoreOptions) -> Store<Sim> {
    Store::open(sim.clone(), options, |_| {}).await.expect("the store opens")
}

fn flags(client_flags: u32) -> Meta {
    Meta { client_flags, ..Meta::default() }
}

fn expiring(expiry: Seconds) -> Meta {
    Meta { expiry, ..Meta::default() }
}

/// A value that says which key and which version of it it belongs to, `size` bytes long.
fn value(key: u32, stamp: u32, size: usize) -> Vec<u8> {
    let unit = format!("<{key}:{stamp}>");
    unit.bytes().cycle().take(size.max(unit.len())).collect()
}

fn key(number: u32) -> Vec<u8> {
    format!("key-{number}").into_bytes()
}

async fn bytes(store: &Store<Sim>, key: &[u8]) -> Option<Vec<u8>> {
    store.get(key).await.expect("the disk works").map(|value| value.bytes)
}

/// Records as counted by their size and as counted otherwise are the same.
fn check_sizes(store: &Store<Sim>) {
    let (sizes, gauges) = (store.sizes(), store.gauges());
    assert_eq!(sizes.iter().map(|(_, count)| count).sum::<u64>(), gauges.index_entries);
    assert_eq!(sizes.iter().map(|(size, count)| *size as u64 * count).sum::<u64>(), gauges.live_bytes);
    assert_eq!(store.tables().iter().map(|table| table.live_bytes).sum::<u64>(), gauges.live_bytes);
    assert!(sizes.is_sorted_by(|one, next| one.0 < next.0), "{sizes:?}");
}

/// Enough of a value to tell it from others, for messages that can be read.
fn brief(bytes: Option<Vec<u8>>) -> Option<(String, usize, bool)> {
    let bytes = bytes?;
    let head: String = bytes.iter().take_while(|byte| **byte != b'>').map(|byte| char::from(*byte)).take(20).collect();
    let tail_count = bytes.iter().filter(|byte| **byte == b'+').count();
    Some((format!("{head} +{tail_count}"), bytes.len(), bytes.iter().take(1).all(|byte| *byte == b'<')))
}
