//! What the cache is compared with: simulated, by number of keys, without a byte of values.

use std::collections::{BinaryHeap, VecDeque};

use super::trace::Trace;

/// A contender.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Policy {
    /// First in, first out.
    Fifo,
    /// The least recently used goes.
    Lru,
    /// Belady's MIN, which knows the future: the one goes that is asked for last, or does not come in at all.
    Belady,
}

/// Misses among the requests from `first` on, with room for `capacity` keys.
pub(crate) fn miss_count(policy: Policy, trace: &Trace, next_uses: &[u32], capacity: usize, first: usize) -> u64 {
    let misses: Box<dyn FnMut(usize, u32) -> bool> = match policy {
        Policy::Fifo => fifo(trace.key_count, capacity),
        Policy::Lru => lru(trace.key_count, capacity),
        Policy::Belady => belady(trace.key_count, capacity, next_uses),
    };
    let mut misses = misses;
    let missed = |(number, key): (usize, &u32)| u64::from(misses(number, *key) && number >= first);
    trace.requests.iter().enumerate().map(missed).sum()
}

fn fifo(key_count: u32, capacity: usize) -> Box<dyn FnMut(usize, u32) -> bool> {
    let mut is_in = vec![false; key_count as usize];
    let mut queue = VecDeque::with_capacity(capacity + 1);
    Box::new(move |_, key| {
        if is_in[key as usize] {
            return false;
        }
        is_in[key as usize] = true;
        queue.push_back(key);
        if queue.len() > capacity
            && let Some(oldest) = queue.pop_front()
        {
            is_in[oldest as usize] = false;
        }
        true
    })
}

/// A queue of uses: a use counts if it is the last of its key.
fn lru(key_count: u32, capacity: usize) -> Box<dyn FnMut(usize, u32) -> bool> {
    let mut last_use = vec![usize::MAX; key_count as usize];
    let mut uses: VecDeque<(usize, u32)> = VecDeque::new();
    let mut count = 0;
    Box::new(move |number, key| {
        let is_miss = last_use[key as usize] == usize::MAX;
        last_use[key as usize] = number;
        uses.push_back((number, key));
        count += usize::from(is_miss);
        while count > capacity
            && let Some((number, key)) = uses.pop_front()
        {
            if last_use[key as usize] == number {
                last_use[key as usize] = usize::MAX;
                count -= 1;
            }
        }
        is_miss
    })
}

fn belady(key_count: u32, capacity: usize, next_uses: &[u32]) -> Box<dyn FnMut(usize, u32) -> bool> {
    let next_uses = next_uses.to_vec();
    let mut next_of = vec![None; key_count as usize];
    // The latest next use first; out of date where the key has been used since.
    let mut heap: BinaryHeap<(u32, u32)> = BinaryHeap::new();
    let mut count = 0;
    Box::new(move |number, key| {
        let is_miss = next_of[key as usize].is_none();
        next_of[key as usize] = Some(next_uses[number]);
        heap.push((next_uses[number], key));
        count += usize::from(is_miss);
        while count > capacity
            && let Some((next, key)) = heap.pop()
        {
            if next_of[key as usize] == Some(next) {
                next_of[key as usize] = None;
                count -= 1;
            }
        }
        is_miss
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::trace::Shape;

    fn misses(policy: Policy, requests: &[u32], capacity: usize) -> u64 {
        let trace = Trace { requests: requests.to_vec(), key_count: 10 };
        miss_count(policy, &trace, &trace.next_uses(), capacity, 0)
    }

    #[test]
    fn each_lets_go_what_its_name_says() {
        // With room for two, the third key drives out 1 (the first that came), 2 (the one not used for longest), or
        // whichever is not asked for again.
        assert_eq!(misses(Policy::Fifo, &[1, 2, 1, 3, 1, 2], 2), 5);
        assert_eq!(misses(Policy::Lru, &[1, 2, 1, 3, 1, 2], 2), 4);
        assert_eq!(misses(Policy::Belady, &[1, 2, 1, 3, 1, 2], 2), 3);
    }

    #[test]
    fn nobody_beats_who_knows_the_future() {
        for shape in Shape::ALL {
            let trace = Trace::new(shape, 2_000, 50_000, 3);
            let next_uses = trace.next_uses();
            let [fifo, lru, belady] = [Policy::Fifo, Policy::Lru, Policy::Belady]
                .map(|policy| miss_count(policy, &trace, &next_uses, 100, 0));
            assert!(belady < lru && lru < fifo, "{belady} {lru} {fifo}");
        }
    }
}
