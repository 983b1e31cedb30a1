//! The `memcache` crate against a server: `memcache-cases ascii|binary PORT PHASE SETTLES PID`.
//!
//! PHASE is `cases`, `remember` or `recall` (what was remembered before a restart of the server). With SETTLES 1 records
//! are forced to disk where a case says so. PID is the server's process, or 0. Prints `ok NAME` or `FAILED NAME: reason`
//! for each case.

use std::collections::HashMap;
use std::error::Error;
use std::fmt::Debug;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

use memcache::Client;

type Outcome = Result<(), Box<dyn Error>>;
type Case = fn(&Setting, &Client, &str) -> Outcome;

const MIB: usize = 1 << 20;
const REMEMBERED_SIZES: [usize; 3] = [1, 5000, 300_000];
const CASES: [(&str, Case); 13] = [
    ("version", version),
    ("store_and_read", store_and_read),
    ("values_of_all_sizes", values_of_all_sizes),
    ("value_too_large", value_too_large),
    ("many_keys", many_keys),
    ("add_and_replace", add_and_replace),
    ("append_and_prepend", append_and_prepend),
    ("compare_and_swap", compare_and_swap),
    ("count", count),
    ("expiry_and_touch", expiry_and_touch),
    ("keys_of_all_kinds", keys_of_all_kinds),
    ("time_out", time_out),
    ("flush", flush),
];

/// What the program was started with.
struct Setting {
    protocol: String,
    port: u16,
    phase: String,
    settles: bool,
    process: u32,
}

impl Setting {
    fn of_arguments() -> Option<Self> {
        let mut words = std::env::args().skip(1);
        Some(Self {
            protocol: words.next()?,
            port: words.next()?.parse().ok()?,
            phase: words.next()?,
            settles: words.next()? == "1",
            process: words.next()?.parse().ok()?,
        })
    }

    fn connect(&self) -> Result<Client, Box<dyn Error>> {
        let address =
            format!("memcache://127.0.0.1:{}?protocol={}&tcp_nodelay=true&timeout=1", self.port, self.protocol);
        let builder = Client::builder().add_server(address)?.with_connection_timeout(Duration::from_secs(3));
        Ok(builder.with_read_timeout(Duration::from_secs(1)).build()?)
    }

    /// Forces all records to disk.
    fn settle(&self) -> Outcome {
        if self.settles {
            let mut connection = TcpStream::connect(("127.0.0.1", self.port))?;
            connection.write_all(b"debugflush\r\n")?;
            let mut answer = String::new();
            BufReader::new(connection).read_line(&mut answer)?;
            same("debugflush", answer.as_str(), "OK\r\n")?;
        }
        Ok(())
    }

    fn signal(&self, name: &str) -> Outcome {
        let status = Command::new("kill").args([name, &self.process.to_string()]).status()?;
        same(name, status.success(), true)
    }

    /// Whether all threads of the server are stopped.
    fn is_stopped(&self) -> Result<bool, Box<dyn Error>> {
        for task in std::fs::read_dir(format!("/proc/{}/task", self.process))? {
            let stat = std::fs::read_to_string(task?.path().join("stat"))?;
            let state = stat.rsplit(')').next().and_then(|rest| rest.trim_start().chars().next());
            if state != Some('T') {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

fn same<T: PartialEq + Debug>(what: &str, actual: T, expected: T) -> Outcome {
    if actual == expected { Ok(()) } else { Err(format!("{what}: {actual:?}, not {expected:?}").into()) }
}

fn refused<T: Debug, E>(what: &str, result: Result<T, E>) -> Outcome {
    match result {
        Ok(value) => Err(format!("{what} gave {value:?}").into()),
        Err(_) => Ok(()),
    }
}

fn text(client: &Client, key: &str) -> Result<Option<String>, Box<dyn Error>> {
    Ok(client.get(key)?)
}

fn is_text(client: &Client, key: &str, expected: &str) -> Outcome {
    same(key, text(client, key)?, Some(expected.to_owned()))
}

fn is_absent(client: &Client, key: &str) -> Outcome {
    same(key, text(client, key)?, None)
}

/// Bytes of all kinds, told by their number.
fn value_of(size: usize) -> Vec<u8> {
    (0..size).map(|at| (at * 31 + (at >> 8) * 17 + size) as u8).collect()
}

fn is_value(client: &Client, key: &str, size: usize) -> Outcome {
    let value: Option<Vec<u8>> = client.get(key)?;
    same(key, value == Some(value_of(size)), true)
}

fn version(setting: &Setting, client: &Client, _: &str) -> Outcome {
    let versions = client.version()?;
    same("versions of 1.6", versions.iter().all(|(_, version)| version.starts_with("1.6.")), true)?;
    // In text, the library takes the first line of the statistics for all.
    let stats = if setting.protocol == "binary" { client.stats()? } else { Vec::new() };
    for name in ["pid", "uptime", "version", "curr_items", "cmd_get", "limit_maxbytes"] {
        same(name, stats.iter().all(|(_, stats)| stats.contains_key(name)), true)?;
    }
    Ok(())
}

fn store_and_read(setting: &Setting, client: &Client, key: &str) -> Outcome {
    is_absent(client, key)?;
    client.set(key, "first", 0)?;
    setting.settle()?;
    is_text(client, key, "first")?;
    client.set(key, "second value", 0)?;
    setting.settle()?;
    is_text(client, key, "second value")?;
    same("delete", client.delete(key)?, true)?;
    setting.settle()?;
    is_absent(client, key)?;
    same("delete", client.delete(key)?, false)
}

fn values_of_all_sizes(setting: &Setting, client: &Client, key: &str) -> Outcome {
    let sizes = [0, 1, 100, 4095, 4096, 10_000, 100_000, 1_000_000, MIB - 400];
    for size in sizes {
        client.set(&format!("{key}:{size}"), value_of(size).as_slice(), 0)?;
    }
    setting.settle()?;
    sizes.iter().try_for_each(|size| is_value(client, &format!("{key}:{size}"), *size))
}

fn value_too_large(setting: &Setting, client: &Client, key: &str) -> Outcome {
    client.set(key, "small", 0)?;
    setting.settle()?;
    refused("a value that is too large", client.set(key, vec![0; MIB + 100].as_slice(), 0))?;
    client.set(&format!("{key}:other"), "x", 0)?;
    is_absent(client, key)
}

fn many_keys(setting: &Setting, client: &Client, key: &str) -> Outcome {
    let keys: Vec<String> = (0..200).map(|number| format!("{key}:{number}")).collect();
    for (number, each) in keys.iter().enumerate() {
        client.set(each, value_of(number * 10).as_slice(), 0)?;
    }
    setting.settle()?;
    let asked: Vec<&str> = keys.iter().map(String::as_str).chain(["absent:1", "absent:2"]).collect();
    let found: HashMap<String, Vec<u8>> = client.gets(&asked)?;
    same("found", found.len(), keys.len())?;
    for (number, each) in keys.iter().enumerate() {
        same(each, found.get(each) == Some(&value_of(number * 10)), true)?;
    }
    Ok(())
}

fn add_and_replace(setting: &Setting, client: &Client, key: &str) -> Outcome {
    // In text, the library takes "NOT_STORED" for a success: so what is there is looked at.
    let _ = client.replace(key, "a", 0);
    is_absent(client, key)?;
    client.add(key, "b", 0)?;
    setting.settle()?;
    let _ = client.add(key, "c", 0);
    is_text(client, key, "b")?;
    client.replace(key, "d", 0)?;
    setting.settle()?;
    is_text(client, key, "d")
}

fn append_and_prepend(setting: &Setting, client: &Client, key: &str) -> Outcome {
    let _ = client.append(key, "x");
    is_absent(client, key)?;
    client.set(key, "middle", 0)?;
    setting.settle()?;
    client.append(key, "-end")?;
    setting.settle()?;
    client.prepend(key, "begin-")?;
    setting.settle()?;
    is_text(client, key, "begin-middle-end")
}

fn compare_and_swap(setting: &Setting, client: &Client, key: &str) -> Outcome {
    client.set(key, "one", 0)?;
    setting.settle()?;
    let found: HashMap<String, (Vec<u8>, u32, Option<u64>)> = client.gets(&[key])?;
    let unique = found.get(key).and_then(|(_, _, unique)| *unique).ok_or("gets gave no unique")?;
    same("cas", client.cas(key, "two", 0, unique)?, true)?;
    setting.settle()?;
    same("cas with an old unique", client.cas(key, "three", 0, unique)?, false)?;
    is_text(client, key, "two")?;
    client.delete(key)?;
    setting.settle()?;
    same("cas of what is absent", client.cas(key, "four", 0, unique)?, false)
}

fn count(setting: &Setting, client: &Client, key: &str) -> Outcome {
    client.set(key, 40, 0)?;
    setting.settle()?;
    same("increment", client.increment(key, 3)?, 43)?;
    setting.settle()?;
    same("decrement", client.decrement(key, 4)?, 39)?;
    setting.settle()?;
    same("decrement to 0", client.decrement(key, 1000)?, 0)?;
    client.set(key, i64::MAX as u64 - 2, 0)?;
    setting.settle()?;
    same("increment of much", client.increment(key, 2)?, i64::MAX as u64)?;
    client.set(key, "text", 0)?;
    setting.settle()?;
    refused("increment of a text", client.increment(key, 1))?;
    is_text(client, key, "text")
}

fn expiry_and_touch(setting: &Setting, client: &Client, key: &str) -> Outcome {
    let named = |suffix: &str| format!("{key}:{suffix}");
    for (suffix, expiration) in [("short", 1), ("long", 1000), ("shorter", 1000), ("longer", 2)] {
        client.set(&named(suffix), "x", expiration)?;
    }
    setting.settle()?;
    same("touch", client.touch(&named("shorter"), 1)?, true)?;
    same("touch", client.touch(&named("longer"), 1000)?, true)?;
    same("touch of what is absent", client.touch(&named("absent"), 1000)?, false)?;
    setting.settle()?;
    std::thread::sleep(Duration::from_millis(3200));
    is_absent(client, &named("short"))?;
    is_absent(client, &named("shorter"))?;
    is_text(client, &named("long"), "x")?;
    is_text(client, &named("longer"), "x")
}

fn keys_of_all_kinds(setting: &Setting, client: &Client, key: &str) -> Outcome {
    let keys = ["k".repeat(250), format!("{key}:\u{43a}\u{43b}\u{44e}\u{447}"), format!("{key}:\u{9375}")];
    for each in &keys {
        client.set(each, each.as_str(), 0)?;
    }
    setting.settle()?;
    for each in &keys {
        is_text(client, each, each)?;
    }
    refused("a key that is too long", client.set(&"k".repeat(251), "x", 0))?;
    Ok(client.set(key, "x", 0)?)
}

fn time_out(setting: &Setting, _: &Client, key: &str) -> Outcome {
    if setting.process == 0 {
        return Ok(());
    }
    let client = setting.connect()?;
    client.set(key, "x", 0)?;
    setting.settle()?;
    setting.signal("-STOP")?;
    let begun = Instant::now();
    let result = (|| -> Outcome {
        while !setting.is_stopped()? {
            std::thread::sleep(Duration::from_millis(10));
        }
        refused("get of a server that is stopped", text(&client, key))
    })();
    setting.signal("-CONT")?;
    result?;
    same("it fails in time", begun.elapsed() < Duration::from_secs(20), true)?;
    is_text(&setting.connect()?, key, "x")
}

fn flush(setting: &Setting, client: &Client, key: &str) -> Outcome {
    client.set(key, "x", 0)?;
    setting.settle()?;
    client.flush()?;
    setting.settle()?;
    is_absent(client, key)?;
    client.set(key, "y", 0)?;
    setting.settle()?;
    is_text(client, key, "y")
}

fn remember(_: &Setting, client: &Client, _: &str) -> Outcome {
    for size in REMEMBERED_SIZES {
        client.set(&format!("crate:remembered:{size}"), value_of(size).as_slice(), 0)?;
    }
    Ok(())
}

fn recall(_: &Setting, client: &Client, _: &str) -> Outcome {
    REMEMBERED_SIZES.iter().try_for_each(|size| is_value(client, &format!("crate:remembered:{size}"), *size))
}

fn run(setting: &Setting, name: &str, case: Case) {
    let key = format!("crate:{}:{}:{name}", setting.protocol, if setting.settles { "disk" } else { "ram" });
    match setting.connect().and_then(|client| case(setting, &client, &key)) {
        Ok(()) => println!("ok {name}"),
        Err(reason) => println!("FAILED {name}: {}", reason.to_string().replace('\n', " ")),
    }
}

fn main() {
    let Some(setting) = Setting::of_arguments() else {
        eprintln!("memcache-cases ascii|binary PORT cases|remember|recall SETTLES PID");
        std::process::exit(2);
    };
    match setting.phase.as_str() {
        "remember" => run(&setting, "remember", remember),
        "recall" => run(&setting, "recall", recall),
        _ => CASES.iter().for_each(|(name, case)| run(&setting, name, *case)),
    }
}
