//! `dmabench fill`: how much fits before the first write is refused or evicts another.
//!
//! Fresh keys are set, a batch at a time, until the server refuses one (`-M`) or says that it has evicted.

use std::io::Write;

use super::arguments::FillArguments;
use super::snapshot::Asker;
use super::{footprint, mib};
use crate::workload::{Keys, Values};

/// Bytes of user data in a batch: evictions are looked at after each.
const BATCH_SIZE: u64 = 64 << 10;

/// How a fill ended.
#[derive(Debug, PartialEq, Eq)]
enum End {
    Refused(String),
    Evicted,
}

/// What was stored until then.
#[derive(Debug, Default)]
struct Stored {
    count: u64,
    user_size: u64,
    table_size: u64,
}

/// Fills a server and prints how much fitted.
///
/// # Errors
///
/// A sentence when the server is not empty, breaks off, or its memory was full before its disk.
pub(crate) fn run(arguments: &FillArguments) -> Result<(), String> {
    let mut asker = Asker::connect(&arguments.target.address)?;
    let capacity = super::empty_capacity(&mut asker)?;
    let capacity = arguments.capacity.unwrap_or(capacity);
    let keys = Keys { prefix: arguments.key_prefix.clone(), count: u64::from(u32::MAX) };
    let (stored, end) = fill(&mut asker, &keys, arguments.value_size)?;
    let stats = asker.ask()?;
    let end = match end {
        End::Refused(line) => format!("the first refused write (\"{line}\")"),
        End::Evicted => "the first evicted record".to_owned(),
    };
    println!("{} keys of {} bytes until {end}", stored.count, keys.size());
    println!("capacity                 {:>10.2} MiB", mib(capacity));
    let share = |size: u64| size as f64 * 100.0 / capacity as f64;
    println!("keys and values          {:>10.2} MiB  {:.2} %", mib(stored.user_size), share(stored.user_size));
    println!("records with summaries   {:>10.2} MiB  {:.2} %", mib(stored.table_size), share(stored.table_size));
    let number = |name: &str| stats.number(name).unwrap_or(0);
    println!(
        "tables                   {} of {} in use; index {:.2} MiB, limit of all memory {:.2} MiB",
        number("extstore_pages_used"),
        number("extstore_pages_used") + number("extstore_pages_free"),
        mib(number("index_bytes")),
        mib(number("limit_maxbytes"))
    );
    Ok(())
}

fn fill(asker: &mut Asker, keys: &Keys, values: Values) -> Result<(Stored, End), String> {
    let mut stored = Stored::default();
    let mut next = 0;
    loop {
        let (mut requests, mut indexes) = (Vec::new(), Vec::new());
        while (requests.len() as u64) < BATCH_SIZE {
            requests.extend_from_slice(b"set ");
            keys.append(next, &mut requests);
            write!(requests, " 0 0 {}\r\n", values.size(next)).expect("a Vec takes every write");
            values.append(next, 1, &mut requests);
            requests.extend_from_slice(b"\r\n");
            indexes.push(next);
            next += 1;
        }
        asker.send(&requests)?;
        if let Some(line) = take_answers(asker, &indexes, |index| {
            stored.count += 1;
            stored.user_size += (keys.size() + values.size(index)) as u64;
            stored.table_size += footprint(keys, values, index);
        })? {
            return Ok((stored, End::Refused(line)));
        }
        if asker.ask()?.need("evictions")? > 0 {
            return Ok((stored, End::Evicted));
        }
        if next >= keys.count {
            return Err("there are no more keys: the capacity is too large for so small values".to_owned());
        }
    }
}

/// Reads an answer for each of `indexes`. Returns the first that is not STORED; what came before it counts.
fn take_answers(asker: &mut Asker, indexes: &[u64], mut store: impl FnMut(u64)) -> Result<Option<String>, String> {
    let (mut answers, mut begin, mut refused) = (Vec::new(), 0, None);
    for &index in indexes {
        let end = loop {
            match answers[begin..].iter().position(|&byte| byte == b'\n') {
                Some(size) => break begin + size + 1,
                None => asker.receive(&mut answers)?,
            }
        };
        let line = answers[begin..end].trim_ascii();
        begin = end;
        match line {
            b"STORED" if refused.is_none() => store(index),
            b"STORED" => {}
            _ => _ = refused.get_or_insert_with(|| line.escape_ascii().to_string()),
        }
    }
    Ok(refused)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connection::Address;
    use crate::fake_server::{Behaviour, start};

    #[test]
    fn a_refused_write_ends_the_fill() {
        let mut asker = Asker::connect(&Address::Tcp(start(Behaviour::RefusesSets))).expect("it listens");
        let keys = Keys { prefix: "k".to_owned(), count: 1 << 20 };
        let values = Values { size_min: 100, size_max: 200 };
        let (stored, end) = fill(&mut asker, &keys, values).expect("it ends");
        assert_eq!((stored.count, stored.user_size), (0, 0));
        assert_eq!(end, End::Refused("SERVER_ERROR out of memory storing object".to_owned()));
    }

    #[test]
    fn what_came_before_the_refusal_counts() {
        let mut asker = Asker::connect(&Address::Tcp(start(Behaviour::Correct))).expect("it listens");
        asker.send(b"set a 0 0 1\r\nx\r\nset b 0 0 1\r\ny\r\nnonsense\r\nset c 0 0 1\r\nz\r\n").expect("sent");
        let mut seen = Vec::new();
        let refused = take_answers(&mut asker, &[7, 8, 9, 10], |index| seen.push(index)).expect("four answers");
        assert_eq!((refused.as_deref(), seen.as_slice()), (Some("ERROR"), &[7, 8][..]));
    }
}
