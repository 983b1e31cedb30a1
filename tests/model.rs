//! Random commands against a model of a few lines: whatever the order of commands, flushes and restarts, the answers
//! are the same.

use crate::support::{Client, Server, Store, value_of};
use proptest::prelude::*;
use proptest::test_runner::Config;
use std::collections::HashMap;

/// One step of a client, or of the world.
#[derive(Debug, Clone)]
enum Operation {
    Store { verb: &'static str, key: u8, size: usize },
    StoreNumber { key: u8, number: u64 },
    Get { key: u8 },
    Delete { key: u8 },
    Increment { key: u8, delta: u64 },
    Decrement { key: u8, delta: u64 },
    Touch { key: u8, expiry: i64 },
    FlushAll,
    WaitUntilFlushed,
    Restart,
    Kill,
}

/// What should be stored.
#[derive(Default)]
struct Model {
    items: HashMap<u8, (u32, Vec<u8>)>,
    /// Makes every stored value another one.
    serial: u32,
}

impl Model {
    /// The answer to a storage command of `value`, and its effect.
    fn store(&mut self, verb: &str, key: u8, value: Vec<u8>) -> &'static str {
        self.serial += 1;
        let old = self.items.get(&key).cloned();
        let new = match (verb, old) {
            ("set", _) | ("add", None) | ("replace", Some(_)) => (self.serial, value),
            ("append", Some((flags, old))) => (flags, [old, value].concat()),
            ("prepend", Some((flags, old))) => (flags, [value, old].concat()),
            _ => return "NOT_STORED",
        };
        self.items.insert(key, new);
        "STORED"
    }

    /// The answer to incr and decr, and its effect.
    fn arithmetic(&mut self, key: u8, change: impl Fn(u64) -> u64) -> String {
        let Some((_, value)) = self.items.get_mut(&key) else {
            return "NOT_FOUND".to_owned();
        };
        let text = String::from_utf8_lossy(value).into_owned();
        // memcached reads digits up to a blank, whatever stands behind it.
        let Ok(number) = text.split(' ').next().unwrap_or_default().parse::<u64>() else {
            return "CLIENT_ERROR cannot increment or decrement non-numeric value".to_owned();
        };
        let answer = change(number).to_string();
        *value = format!("{answer:<width$}", width = value.len()).into_bytes();
        answer
    }
}

fn operations() -> impl Strategy<Value = Vec<Operation>> {
    let key = 0..8_u8;
    let verb = prop_oneof![4 => Just("set"), 1 => Just("add"), 1 => Just("replace"), 1 => Just("append"), 1 => Just("prepend")];
    let size = prop_oneof![0..100_usize, 3900..4200_usize, 0..60_000_usize];
    let delta = prop_oneof![0..100_u64, any::<u64>()];
    let expiry = prop_oneof![Just(0_i64), Just(1000), Just(-1)];
    let operation = prop_oneof![
        12 => (verb, key.clone(), size).prop_map(|(verb, key, size)| Operation::Store { verb, key, size }),
        3 => (key.clone(), delta.clone()).prop_map(|(key, number)| Operation::StoreNumber { key, number }),
        10 => key.clone().prop_map(|key| Operation::Get { key }),
        3 => key.clone().prop_map(|key| Operation::Delete { key }),
        3 => (key.clone(), delta.clone()).prop_map(|(key, delta)| Operation::Increment { key, delta }),
        2 => (key.clone(), delta).prop_map(|(key, delta)| Operation::Decrement { key, delta }),
        2 => (key, expiry).prop_map(|(key, expiry)| Operation::Touch { key, expiry }),
        1 => Just(Operation::FlushAll),
        1 => Just(Operation::WaitUntilFlushed),
        1 => Just(Operation::Restart),
        1 => Just(Operation::Kill),
    ];
    prop::collection::vec(operation, 1..120)
}

/// Values that are never numbers: they begin with a letter.
fn text_value(serial: u32, size: usize) -> Vec<u8> {
    let mut value = value_of(&serial.to_string(), size);
    if let Some(first) = value.first_mut() {
        *first = b'v';
    }
    value
}

/// Asks for the key and compares value and flags.
fn check(client: &mut Client, model: &Model, key: u8) {
    let found = client.gets(&format!("key-{key}")).map(|item| (item.flags, item.value));
    assert!(
        found.as_ref() == model.items.get(&key),
        "key-{key}: {} instead of {}",
        sizes(found.as_ref()),
        sizes(model.items.get(&key))
    );
}

fn sizes(item: Option<&(u32, Vec<u8>)>) -> String {
    item.map_or_else(|| "nothing".to_owned(), |(flags, value)| format!("{} bytes with flags {flags}", value.len()))
}

/// Does one command on both sides.
fn command(client: &mut Client, model: &mut Model, operation: &Operation) {
    let (answer, expected) = match *operation {
        Operation::Store { verb, key, size } => {
            let value = text_value(model.serial, size);
            let answer = client.store(verb, &format!("key-{key}"), &value, model.serial + 1, 0);
            (answer, model.store(verb, key, value).to_owned())
        }
        Operation::StoreNumber { key, number } => {
            let value = number.to_string().into_bytes();
            let answer = client.store("set", &format!("key-{key}"), &value, model.serial + 1, 0);
            (answer, model.store("set", key, value).to_owned())
        }
        Operation::Delete { key } => {
            let expected = if model.items.remove(&key).is_some() { "DELETED" } else { "NOT_FOUND" };
            (client.ask(&format!("delete key-{key}")), expected.to_owned())
        }
        Operation::Increment { key, delta } => {
            (client.ask(&format!("incr key-{key} {delta}")), model.arithmetic(key, |number| number.wrapping_add(delta)))
        }
        Operation::Decrement { key, delta } => (
            client.ask(&format!("decr key-{key} {delta}")),
            model.arithmetic(key, |number| number.saturating_sub(delta)),
        ),
        Operation::Touch { key, expiry } => {
            let there = if expiry < 0 { model.items.remove(&key).is_some() } else { model.items.contains_key(&key) };
            (client.ask(&format!("touch key-{key} {expiry}")), if there { "TOUCHED" } else { "NOT_FOUND" }.to_owned())
        }
        Operation::FlushAll => {
            model.items.clear();
            (client.ask("flush_all"), "OK".to_owned())
        }
        Operation::Get { key } => return check(client, model, key),
        Operation::WaitUntilFlushed | Operation::Restart | Operation::Kill => return client.wait_until_flushed(),
    };
    assert_eq!(answer, expected, "{operation:?}");
}

/// Runs all operations on a new store; at the end all keys are compared once more, before and after a restart.
fn agree(operations: &[Operation]) {
    let store = Store::new(&["--flush-interval", "20ms", "--table-size", "1m", "--capacity", "16m", "-I", "512k"]);
    let mut server = store.start();
    let mut client = server.client();
    let mut model = Model::default();
    for operation in operations {
        command(&mut client, &mut model, operation);
        let end = match operation {
            Operation::Restart => Server::terminate,
            Operation::Kill => Server::kill,
            _ => continue,
        };
        drop(client);
        end(server);
        server = store.start();
        client = server.client();
    }
    (0..8).for_each(|key| check(&mut client, &model, key));
    drop(client);
    server.terminate();
    let server = store.start();
    (0..8).for_each(|key| check(&mut server.client(), &model, key));
}

proptest! {
    #![proptest_config(Config { cases: 24, max_shrink_iters: 60, failure_persistence: None, ..Config::default() })]

    #[test]
    fn random_commands_and_restarts_agree_with_a_model(operations in operations()) {
        agree(&operations);
    }
}
