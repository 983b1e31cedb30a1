//! The requests of one connection that are sent and not yet answered, and the matching of answers with them.
//!
//! A server of this protocol answers in the order of the requests, and within one get in the order of its keys, leaving
//! out what it does not have. Anything else is reported as a broken server.

use std::collections::VecDeque;

use crate::reply::Reply;
use crate::tally::Tally;
use crate::workload::Workload;

/// A request in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pending {
    /// A get, the time its latency counts from, and how many of its keys may still be answered.
    Get { start_ns: u64, keys_left: u32 },
    /// A set, the time its latency counts from, its key and, if there is a ledger, its version.
    Set { start_ns: u64, index: u64, version: u32 },
}

/// The requests in flight, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Window {
    pending: VecDeque<Pending>,
    /// The keys of all gets in flight, in the order of the requests, and the versions that they had at least.
    keys: VecDeque<(u64, u32)>,
}

impl Window {
    /// How many requests are in flight.
    pub(crate) fn len(&self) -> usize {
        self.pending.len()
    }

    /// Whether nothing is in flight.
    pub(crate) fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    /// Notes one key of the get that [`Window::push_get`] will complete, and the oldest version that is right.
    pub(crate) fn push_key(&mut self, index: u64, least: u32) {
        self.keys.push_back((index, least));
    }

    /// Notes a get of the `key_count` keys pushed last. Times are nanoseconds on the clock of the whole run.
    pub(crate) fn push_get(&mut self, start_ns: u64, key_count: u32) {
        self.pending.push_back(Pending::Get { start_ns, keys_left: key_count });
    }

    /// Notes a set.
    pub(crate) fn push_set(&mut self, start_ns: u64, index: u64, version: u32) {
        self.pending.push_back(Pending::Set { start_ns, index, version });
    }

    /// Matches `reply`, which came at `now_ns`, with the oldest request.
    ///
    /// # Errors
    ///
    /// A sentence when the reply cannot belong to that request: no later answer could be trusted.
    pub(crate) fn answer(
        &mut self,
        reply: &Reply<'_>,
        workload: &Workload,
        now_ns: u64,
        tally: &mut Tally,
    ) -> Result<(), String> {
        let pending =
            self.pending.front().copied().ok_or_else(|| format!("the server sent {reply} without a request"))?;
        match (pending, reply) {
            (Pending::Get { start_ns, keys_left }, Reply::Value { key, flags, value }) => {
                let (found, passed) = self.matching_key(keys_left, workload, key, tally)?;
                tally.hits += 1;
                let keys_left = keys_left - passed - 1;
                self.pending[0] = Pending::Get { start_ns, keys_left };
                check(found, (*flags, value), workload, now_ns.saturating_sub(start_ns), tally);
            }
            (Pending::Get { start_ns, keys_left }, Reply::End | Reply::Refused(_)) => {
                self.pending.pop_front();
                let keys = self.keys.drain(..keys_left as usize);
                match reply {
                    Reply::Refused(line) => tally.refuse(line),
                    _ => keys.for_each(|key| miss(key, workload, tally)),
                }
                tally.gets += 1;
                tally.get_latencies.record(now_ns.saturating_sub(start_ns));
            }
            (Pending::Set { start_ns, index, version }, Reply::Stored | Reply::Refused(_)) => {
                self.pending.pop_front();
                match (reply, &workload.ledger) {
                    (Reply::Refused(line), _) => tally.refuse(line),
                    (_, Some(ledger)) => ledger.end_set(index, version),
                    _ => {}
                }
                tally.sets += 1;
                tally.set_latencies.record(now_ns.saturating_sub(start_ns));
            }
            (Pending::Get { .. }, _) => return Err(format!("the server answered a get with {reply}")),
            (Pending::Set { .. }, _) => return Err(format!("the server answered a set with {reply}")),
        }
        Ok(())
    }

    /// Takes the keys of the oldest get up to the one that came; returns it and how many were passed over, which are misses.
    fn matching_key(
        &mut self,
        keys_left: u32,
        workload: &Workload,
        key: &[u8],
        tally: &mut Tally,
    ) -> Result<((u64, u32), u32), String> {
        for passed in 0..keys_left {
            let asked = self.keys.pop_front().expect("each key of a get in flight is noted");
            if workload.keys.matches(asked.0, key) {
                return Ok((asked, passed));
            }
            miss(asked, workload, tally);
        }
        Err(format!("the server sent \"{}\", which the request does not ask for", key.escape_ascii()))
    }
}

fn miss((index, least): (u64, u32), workload: &Workload, tally: &mut Tally) {
    tally.misses += 1;
    if workload.ledger.as_ref().is_some_and(|ledger| ledger.is_lost(index, least)) {
        tally.lose(index, least);
    }
}

/// Checks an answer that took `latency_ns`.
fn check(
    (index, least): (u64, u32),
    (flags, value): (u32, &[u8]),
    workload: &Workload,
    latency_ns: u64,
    tally: &mut Tally,
) {
    if !workload.verify {
        return;
    }
    if let Some(difference) = workload.values.difference(index, value) {
        tally.reject(index, &difference.to_string());
    } else if flags != 0 {
        tally.reject(index, &format!("flags {flags} instead of 0"));
    } else if let Some((ledger, version)) = workload.ledger.as_ref().zip(workload.values.stamp(index, value)) {
        let age_seconds = latency_ns.div_ceil(1_000_000_000);
        if let Some(fault) = ledger.fault(index, least, version, age_seconds) {
            tally.reject(index, &fault);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::{KeyOrder, Keys, Values};

    fn workload() -> Workload {
        Workload {
            keys: Keys { prefix: "k".to_owned(), count: 100 },
            values: Values { size_min: 20, size_max: 20 },
            get_share: 1.0,
            multiget_count: 3,
            order: KeyOrder::Uniform,
            zipf_exponent: 0.99,
            seed: 1,
            verify: true,
            ledger: None,
        }
    }

    fn window_with_get(indexes: &[u64]) -> Window {
        let mut window = Window::default();
        indexes.iter().for_each(|&index| window.push_key(index, 0));
        window.push_get(1_000, indexes.len() as u32);
        window
    }

    fn key(index: u64) -> Vec<u8> {
        let mut key = Vec::new();
        workload().keys.append(index, &mut key);
        key
    }

    fn send_value(window: &mut Window, index: u64, value: &[u8], tally: &mut Tally) -> Result<(), String> {
        let reply = Reply::Value { key: &key(index), flags: 0, value };
        window.answer(&reply, &workload(), 2_000, tally)
    }

    fn good_value(index: u64) -> Vec<u8> {
        let mut value = Vec::new();
        workload().values.append(index, 7, &mut value);
        value
    }

    #[test]
    fn a_multiget_counts_the_keys_that_were_left_out() {
        let mut tally = Tally::new();
        let mut window = window_with_get(&[1, 2, 2, 3]);
        send_value(&mut window, 2, &good_value(2), &mut tally).expect("asked for");
        send_value(&mut window, 2, &good_value(2), &mut tally).expect("asked for twice");
        window.answer(&Reply::End, &workload(), 3_000, &mut tally).expect("the end");
        assert_eq!((tally.gets, tally.hits, tally.misses, tally.wrong), (1, 2, 2, 0));
        assert!(window.is_empty() && window.keys.is_empty());
        assert!((tally.get_latencies.max_us() - 2.0).abs() < 0.01);
    }

    #[test]
    fn keys_out_of_order_or_never_asked_for_break_the_run() {
        let mut tally = Tally::new();
        let mut window = window_with_get(&[1, 2]);
        send_value(&mut window, 2, &good_value(2), &mut tally).expect("asked for");
        assert!(send_value(&mut window, 1, &good_value(1), &mut tally).is_err());
        let mut window = window_with_get(&[1]);
        assert!(send_value(&mut window, 9, &good_value(9), &mut tally).is_err());
        assert!(window_with_get(&[1]).answer(&Reply::Stored, &workload(), 0, &mut tally).is_err());
        assert!(Window::default().answer(&Reply::End, &workload(), 0, &mut tally).is_err());
    }

    #[test]
    fn wrong_bytes_are_counted_and_the_run_goes_on() {
        let mut tally = Tally::new();
        let mut window = window_with_get(&[1, 2]);
        send_value(&mut window, 1, &good_value(2), &mut tally).expect("the right key");
        send_value(&mut window, 2, &good_value(2), &mut tally).expect("the right key");
        window.answer(&Reply::End, &workload(), 3_000, &mut tally).expect("the end");
        assert_eq!((tally.hits, tally.wrong), (2, 1));
        assert!(tally.verdict().is_err_and(|message| message.contains("key number 1")));
    }

    #[test]
    fn a_refused_get_leaves_the_next_request_in_step() {
        let mut tally = Tally::new();
        let mut window = window_with_get(&[1, 2]);
        window.push_set(1_500, 1, 0);
        window.answer(&Reply::Refused(b"SERVER_ERROR x"), &workload(), 2_000, &mut tally).expect("refused");
        window.answer(&Reply::Stored, &workload(), 2_000, &mut tally).expect("stored");
        assert_eq!((tally.gets, tally.sets, tally.errors, tally.misses), (1, 1, 1, 0));
        assert!(window.is_empty() && window.keys.is_empty());
    }

    #[test]
    fn a_ledger_finds_stale_and_lost_values() {
        use crate::ledger::{Ledger, Lifetimes};
        use std::sync::Arc;
        let ledger = Arc::new(Ledger::new(100, Lifetimes::Endless));
        let workload = Workload { ledger: Some(Arc::clone(&ledger)), ..workload() };
        let (mut tally, mut window) = (Tally::new(), Window::default());
        for _ in 0..2 {
            let (version, _) = ledger.begin_set(5);
            window.push_set(1_000, 5, version);
        }
        window.answer(&Reply::Stored, &workload, 2_000, &mut tally).expect("stored");
        window.answer(&Reply::Refused(b"SERVER_ERROR x"), &workload, 2_000, &mut tally).expect("refused");
        assert_eq!(ledger.stored(5), 1, "the second was refused");
        ledger.end_set(5, 2);
        for (version, wrong) in [(2, 0), (1, 1)] {
            let mut value = Vec::new();
            workload.values.append(5, version, &mut value);
            window.push_key(5, ledger.stored(5));
            window.push_get(1_000, 1);
            let reply = Reply::Value { key: &key(5), flags: 0, value: &value };
            window.answer(&reply, &workload, 2_000, &mut tally).expect("asked for");
            window.answer(&Reply::End, &workload, 2_000, &mut tally).expect("the end");
            assert_eq!((tally.wrong, tally.lost), (wrong, 0), "version {version}");
        }
        for (index, lost) in [(6, 0), (5, 1)] {
            window.push_key(index, ledger.stored(index));
            window.push_get(1_000, 1);
            window.answer(&Reply::End, &workload, 2_000, &mut tally).expect("the end");
            assert_eq!(tally.lost, lost);
        }
    }
}
