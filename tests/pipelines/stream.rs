//! Random streams of requests, each with the answers that are right: a model of memcached in a hundred lines, which does
//! not know where a record lies.

use crate::support::value_of;
use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};

/// The keys of a world: `t` are texts and `n` numbers, which lie on disk before the stream begins; `f` are free.
const TEXT_COUNT: usize = 150;
const NUMBER_COUNT: usize = 40;
const FREE_COUNT: usize = 60;

/// A seed that differs from run to run, for the last of several; whoever uses it says which it was when something fails.
pub(crate) fn fresh_seed() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// Splitmix64: the same numbers for the same seed.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Random {
        Random(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).expect("below a usize")
    }

    /// True once in `count` times.
    pub(crate) fn once_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }
}

/// What a stream is made of beside the ordinary.
#[derive(Clone, Copy)]
pub(crate) struct Recipe {
    pub(crate) request_count: usize,
    /// Sets of more than `-I` among them, which are sent whole and refused.
    pub(crate) with_huge_sets: bool,
}

#[derive(Clone)]
struct Item {
    flags: u32,
    value: Vec<u8>,
    /// Where it is known.
    cas: Option<u64>,
}

/// What a server should hold under the keys of one prefix, and the stream that is being made.
pub(crate) struct World {
    prefix: String,
    random: Random,
    items: HashMap<String, Item>,
    serial: u32,
    pub(crate) requests: Vec<u8>,
    pub(crate) answers: Vec<u8>,
}

impl World {
    /// The same seed makes the same stream, but for the prefix in keys and values.
    pub(crate) fn new(prefix: &str, seed: u64) -> World {
        let mut world = World {
            prefix: prefix.to_owned(),
            random: Random(seed),
            items: HashMap::new(),
            serial: 0,
            requests: Vec::new(),
            answers: Vec::new(),
        };
        for number in 0..TEXT_COUNT {
            let key = world.key('t', number);
            let size = world.random.below(9000) * usize::from(number > 0);
            let value = text_of(&key, size);
            world.items.insert(key, Item { flags: world.serial + 1, value, cas: None });
        }
        for number in 0..NUMBER_COUNT {
            let key = world.key('n', number);
            let value = world.random.below(1_000_000).to_string().into_bytes();
            world.items.insert(key, Item { flags: 0, value, cas: None });
        }
        world
    }

    fn key(&self, kind: char, number: usize) -> String {
        format!("{}-{kind}{number:03}", self.prefix)
    }

    /// The sets that fill a server with what the stream finds there.
    pub(crate) fn filling(&self) -> Vec<u8> {
        let mut requests = Vec::new();
        for (key, item) in &self.items {
            requests
                .extend_from_slice(format!("set {key} {} 0 {} noreply\r\n", item.flags, item.value.len()).as_bytes());
            requests.extend_from_slice(&item.value);
            requests.extend_from_slice(b"\r\n");
        }
        requests
    }

    /// Keys whose CAS unique is of use.
    pub(crate) fn keys_for_cas(&self) -> Vec<String> {
        (0..TEXT_COUNT).step_by(10).map(|number| self.key('t', number)).collect()
    }

    pub(crate) fn know_cas(&mut self, key: &str, cas: u64) {
        self.items.get_mut(key).expect("it was asked for").cas = Some(cas);
    }

    /// Makes the stream; it ends with a `quit` and a request behind that, which nobody answers.
    pub(crate) fn make(&mut self, recipe: Recipe) {
        for _ in 0..recipe.request_count {
            match self.random.below(100) {
                0..40 => self.get(1),
                40..50 => {
                    let count = 2 + self.random.below(40);
                    self.get(count);
                }
                50..68 => self.store(),
                68..74 => self.delete(),
                74..86 => self.arithmetic(),
                86..89 => self.touch(),
                89..94 => self.compare_and_swap(),
                94 if recipe.with_huge_sets => self.huge_store(),
                _ => self.refused(),
            }
        }
        let last = self.key('t', 0);
        self.requests.extend_from_slice(format!("quit\r\nget {last}\r\n").as_bytes());
    }

    fn any_key(&mut self) -> String {
        match self.random.below(10) {
            0..6 => {
                let number = self.random.below(TEXT_COUNT);
                self.key('t', number)
            }
            6 => {
                let number = self.random.below(NUMBER_COUNT);
                self.key('n', number)
            }
            _ => {
                let number = self.random.below(FREE_COUNT);
                self.key('f', number)
            }
        }
    }

    /// Adds a request of one line and its answer.
    fn line(&mut self, request: &str, answer: &str) {
        self.requests.extend_from_slice(format!("{request}\r\n").as_bytes());
        if !request.ends_with(" noreply") {
            self.answers.extend_from_slice(format!("{answer}\r\n").as_bytes());
        }
    }

    /// ` noreply`, now and then.
    fn maybe_noreply(&mut self) -> &'static str {
        if self.random.once_in(6) { " noreply" } else { "" }
    }

    fn get(&mut self, count: usize) {
        self.requests.extend_from_slice(b"get");
        for _ in 0..count {
            let key = self.any_key();
            self.requests.extend_from_slice(format!(" {key}").as_bytes());
            if let Some(item) = self.items.get(&key) {
                self.answers
                    .extend_from_slice(format!("VALUE {key} {} {}\r\n", item.flags, item.value.len()).as_bytes());
                self.answers.extend_from_slice(&item.value);
                self.answers.extend_from_slice(b"\r\n");
            }
        }
        self.requests.extend_from_slice(b"\r\n");
        self.answers.extend_from_slice(b"END\r\n");
    }

    /// A value for a storage command: numbers for the keys of numbers, otherwise texts, a few of them larger than what
    /// is received at once.
    fn new_value(&mut self, key: &str) -> Vec<u8> {
        self.serial += 1;
        if key.contains("-n") {
            return self.random.below(1000).to_string().into_bytes();
        }
        let size = if self.random.once_in(40) { 5000 + self.random.below(15_000) } else { self.random.below(500) };
        text_of(&format!("{key} {}", self.serial), size)
    }

    fn store(&mut self) {
        let key = self.any_key();
        let value = self.new_value(&key);
        let verb = ["set", "set", "set", "add", "replace", "append", "prepend"][self.random.below(7)];
        let noreply = self.maybe_noreply();
        let flags = self.serial;
        self.requests.extend_from_slice(format!("{verb} {key} {flags} 0 {}{noreply}\r\n", value.len()).as_bytes());
        self.requests.extend_from_slice(&value);
        self.requests.extend_from_slice(b"\r\n");
        let answer = self.stored(verb, &key, flags, value);
        if noreply.is_empty() {
            self.answers.extend_from_slice(answer);
        }
    }

    /// The answer to a storage command, and its effect.
    fn stored(&mut self, verb: &str, key: &str, flags: u32, value: Vec<u8>) -> &'static [u8] {
        let (flags, value) = match (verb, self.items.get(key)) {
            ("set", _) | ("add", None) | ("replace", Some(_)) => (flags, value),
            ("append", Some(old)) => (old.flags, [&old.value[..], &value].concat()),
            ("prepend", Some(old)) => (old.flags, [&value[..], &old.value].concat()),
            _ => return b"NOT_STORED\r\n",
        };
        self.items.insert(key.to_owned(), Item { flags, value, cas: None });
        b"STORED\r\n"
    }

    fn delete(&mut self) {
        let key = self.any_key();
        let noreply = self.maybe_noreply();
        let answer = if self.items.remove(&key).is_some() { "DELETED" } else { "NOT_FOUND" };
        self.line(&format!("delete {key}{noreply}"), answer);
    }

    fn arithmetic(&mut self) {
        let number = self.random.below(NUMBER_COUNT);
        let key = if self.random.once_in(6) { self.any_key() } else { self.key('n', number) };
        let (verb, delta) = (["incr", "decr"][self.random.below(2)], self.random.next() >> self.random.below(64));
        let noreply = self.maybe_noreply();
        let answer = self.computed(&key, verb, delta);
        self.line(&format!("{verb} {key} {delta}{noreply}"), &answer);
    }

    /// The answer to incr and decr, and its effect.
    fn computed(&mut self, key: &str, verb: &str, delta: u64) -> String {
        let Some(item) = self.items.get_mut(key) else { return "NOT_FOUND".to_owned() };
        // memcached reads digits up to a blank, whatever stands behind it.
        let text = String::from_utf8_lossy(&item.value).into_owned();
        let Ok(number) = text.split(' ').next().unwrap_or_default().parse::<u64>() else {
            return "CLIENT_ERROR cannot increment or decrement non-numeric value".to_owned();
        };
        let changed = if verb == "incr" { number.wrapping_add(delta) } else { number.saturating_sub(delta) };
        let answer = changed.to_string();
        item.value = format!("{answer:<width$}", width = item.value.len()).into_bytes();
        item.cas = None;
        answer
    }

    fn touch(&mut self) {
        let key = self.any_key();
        let noreply = self.maybe_noreply();
        let answer = match self.items.get_mut(&key) {
            Some(item) => {
                item.cas = None;
                "TOUCHED"
            }
            None => "NOT_FOUND",
        };
        self.line(&format!("touch {key} 1000{noreply}"), answer);
    }

    /// A cas with the right unique where it is known, and with a wrong one elsewhere.
    fn compare_and_swap(&mut self) {
        let key = if self.random.once_in(2) {
            let keys = self.keys_for_cas();
            let number = self.random.below(keys.len());
            keys[number].clone()
        } else {
            self.any_key()
        };
        let value = text_of(&format!("cas {key}"), self.random.below(300));
        let known = self.items.get(&key).and_then(|item| item.cas);
        let unique = known.unwrap_or(1);
        self.requests.extend_from_slice(format!("cas {key} 77 0 {} {unique}\r\n", value.len()).as_bytes());
        self.requests.extend_from_slice(&value);
        self.requests.extend_from_slice(b"\r\n");
        let answer: &[u8] = match (self.items.contains_key(&key), known) {
            (false, _) => b"NOT_FOUND\r\n",
            (true, None) => b"EXISTS\r\n",
            (true, Some(_)) => {
                self.items.insert(key, Item { flags: 77, value, cas: None });
                b"STORED\r\n"
            }
        };
        self.answers.extend_from_slice(answer);
    }

    /// Larger than `-I` lets values be: swallowed and refused, and a set takes the old value with it.
    fn huge_store(&mut self) {
        let key = self.any_key();
        let verb = ["set", "set", "append", "add"][self.random.below(4)];
        let size = 1_048_577 + self.random.below(300_000);
        self.requests.extend_from_slice(format!("{verb} {key} 0 0 {size}\r\n").as_bytes());
        self.requests.extend_from_slice(&text_of("huge", size));
        self.requests.extend_from_slice(b"\r\n");
        self.answers.extend_from_slice(b"SERVER_ERROR object too large for cache\r\n");
        if verb == "set" {
            self.items.remove(&key);
        }
    }

    fn refused(&mut self) {
        let key = self.any_key();
        let long = "k".repeat(251);
        let bad_line = "CLIENT_ERROR bad command line format";
        let cases = [
            ("bogus".to_owned(), "ERROR"),
            (format!("GET {key}"), "ERROR"),
            (format!("get {key} {long} {key}"), bad_line),
            (format!("delete {long}"), bad_line),
            (format!("incr {key} 1x"), "CLIENT_ERROR invalid numeric delta argument"),
            (format!("touch {key} x"), "CLIENT_ERROR invalid exptime argument"),
            (format!("set {key} 0 0 -1\r\nhello"), "CLIENT_ERROR bad command line format\r\nERROR"),
            (format!("set {key} 0 0 3\r\nabcdefghijkl"), "CLIENT_ERROR bad data chunk\r\nERROR"),
            ("verbosity 0".to_owned(), "OK"),
        ];
        let (request, answer) = &cases[self.random.below(cases.len())];
        self.line(request, answer);
    }
}

/// A value that is no number, whatever follows.
fn text_of(key: &str, size: usize) -> Vec<u8> {
    let mut value = value_of(key, size);
    if let Some(first) = value.first_mut() {
        *first = b'v';
    }
    value
}
