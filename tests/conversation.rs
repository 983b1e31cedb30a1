//! The scripted conversation of `conversation.txt`, with the server under test and with Debian's memcached.
//!
//! The expected answers are written down, so the test says something where memcached is not installed; where it is,
//! its answers to the same bytes have to be the same, which keeps the script itself honest.

use crate::support::{Client, Reference, Store, shown, skip};

/// One request and the answers that are right.
struct Step {
    /// The comment above it and the number of its first line, for messages.
    name: String,
    request: String,
    answers: Vec<String>,
}

impl Step {
    /// Sends the request; gives the answer with versions and CAS uniques masked. `cas` is the last unique seen.
    fn run(&self, client: &mut Client, cas: &mut String) -> Vec<u8> {
        masked(&client.exchange(&bytes_of(&self.request.replace("{cas}", cas))), cas)
    }

    fn accepts(&self, answer: &[u8]) -> bool {
        self.answers.iter().any(|expected| bytes_of(expected) == answer)
    }
}

/// Appends a line of the script to `text`, with its line end unless it says otherwise.
fn append_line(text: &mut String, line: &str) {
    match line.strip_suffix("\\c") {
        Some(open) => text.push_str(open),
        None => text.extend([line, "\\r\\n"]),
    }
}

/// Reads the script.
fn script() -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut comment = "";
    for (index, line) in include_str!("conversation.txt").lines().enumerate() {
        let (kind, rest) = line.split_at(line.len().min(2));
        let last = steps.last_mut();
        match (kind, last) {
            ("> ", _) => {
                let name = format!("line {}: {comment}", index + 1);
                steps.push(Step { name, request: String::new(), answers: vec![String::new()] });
                append_line(&mut steps.last_mut().expect("just pushed").request, rest);
            }
            (". ", Some(step)) => append_line(&mut step.request, rest),
            ("< ", Some(step)) => append_line(step.answers.last_mut().expect("every step has one"), rest),
            ("or", Some(step)) => step.answers.push(String::new()),
            ("# ", _) => comment = rest,
            ("" | "#", _) => {}
            _ => panic!("conversation.txt, line {}: {line}", index + 1),
        }
    }
    steps
}

/// The bytes that a text of the script stands for.
fn bytes_of(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let mut taken = 1;
        match (first, rest.as_bytes().get(1)) {
            ('\\', Some(b'x')) => {
                bytes.push(u8::from_str_radix(&rest[2..4], 16).expect("two hexadecimal digits follow \\x"));
                taken = 4;
            }
            ('\\', Some(letter)) => {
                bytes.push(match letter {
                    b'r' => b'\r',
                    b'n' => b'\n',
                    b't' => b'\t',
                    b'\\' => b'\\',
                    _ => panic!("unknown escape in {text}"),
                });
                taken = 2;
            }
            ('{', Some(byte)) if rest[2..].starts_with('*') => {
                let end = rest.find('}').expect("a repetition is closed");
                let count = rest[3..end].parse().expect("a repetition has a count");
                bytes.extend(std::iter::repeat_n(*byte, count));
                taken = end + 1;
            }
            _ => bytes.push(u8::try_from(first).expect("the script is ASCII")),
        }
        rest = &rest[taken..];
    }
    bytes
}

/// Puts `{cas}` and `{version}` where the answer has numbers that are nobody's promise; remembers the last CAS unique.
fn masked(answer: &[u8], cas: &mut String) -> Vec<u8> {
    let mut result = Vec::with_capacity(answer.len());
    for line in answer.split_inclusive(|byte| *byte == b'\n') {
        let text = line.trim_ascii_end();
        let words: Vec<&[u8]> = text.split(|byte| *byte == b' ').collect();
        if words[0] == b"VALUE" && words.len() == 5 {
            *cas = String::from_utf8(words[4].to_vec()).expect("a CAS unique is a number");
            assert!(cas.parse::<u64>().is_ok_and(|unique| unique > 0), "a CAS unique is a u64 above 0: {cas}");
            result.extend_from_slice(&text[..text.len() - cas.len()]);
            result.extend_from_slice(b"{cas}\r\n");
        } else if words[0] == b"VERSION" && words.len() == 2 {
            result.extend_from_slice(b"VERSION {version}\r\n");
        } else {
            result.extend_from_slice(line);
        }
    }
    result
}

/// Sends the whole script over one connection and reports every step that is answered wrongly.
fn converse(steps: &[Step], client: &mut Client) -> Vec<(Vec<u8>, bool)> {
    let mut cas = String::from("1");
    steps
        .iter()
        .map(|step| {
            let answer = step.run(client, &mut cas);
            let accepted = step.accepts(&answer);
            (answer, accepted)
        })
        .collect()
}

/// What to tell about the steps that were not answered as written.
fn complaints(steps: &[Step], answers: &[(Vec<u8>, bool)]) -> Vec<String> {
    let wrong = steps.iter().zip(answers).filter(|(_, (_, accepted))| !accepted);
    wrong
        .map(|(step, (answer, _))| {
            format!("{}\n  {}\n  got  {}\n  not  {}", step.name, step.request, shown(answer), step.answers[0])
        })
        .collect()
}

#[test]
fn every_command_and_error_is_answered_as_written_down() {
    let steps = script();
    let server = Store::new(&[]).start();
    let answers = converse(&steps, &mut server.client());
    let complaints = complaints(&steps, &answers);
    assert!(complaints.is_empty(), "{} of {} steps:\n{}", complaints.len(), steps.len(), complaints.join("\n"));
}

#[test]
fn memcached_answers_the_same_bytes() {
    let steps = script();
    // Its background threads hold items at times, and then incr does not pad; without them its answers are always the
    // same.
    let Some(reference) = Reference::start(&["-m", "64", "-o", "no_lru_maintainer,no_lru_crawler"]) else {
        return skip("memcached_answers_the_same_bytes", "memcached is not installed");
    };
    let theirs = converse(&steps, &mut reference.client());
    let complaints = complaints(&steps, &theirs);
    assert!(complaints.is_empty(), "the script is wrong about memcached:\n{}", complaints.join("\n"));

    let store = Store::new(&[]);
    let server = store.start();
    let ours = converse(&steps, &mut server.client());
    for (step, (our, their)) in steps.iter().zip(ours.iter().zip(&theirs)) {
        if step.answers.len() == 1 {
            assert_eq!(shown(&our.0), shown(&their.0), "{}: ours is left\n  {}", step.name, step.request);
        }
    }
}

#[test]
fn the_version_is_one_that_clients_accept() {
    // Dalli demands 1.6.27 and compares the numbers; memccapable switches its rules at 1.6.
    let server = Store::new(&[]).start();
    let answer = server.client().ask("version");
    let version = answer.strip_prefix("VERSION ").unwrap_or_else(|| panic!("{answer}"));
    let number =
        version.split(|letter: char| letter != '.' && !letter.is_ascii_digit()).next().expect("split gives one");
    let parts: Vec<u32> = number.split('.').map(|part| part.parse().expect("a number")).collect();
    assert!(parts.as_slice() >= [1, 6, 27].as_slice(), "{answer}");
}

#[test]
fn quit_closes_after_what_came_before_it_is_answered() {
    let server = Store::new(&[]).start();
    let mut client = server.client();
    client.send(b"set a 0 0 1\r\nx\r\nget a\r\nquit\r\nget a\r\n");
    assert_eq!(shown(&client.until_closed()), shown(b"STORED\r\nVALUE a 0 1\r\nx\r\nEND\r\n"));
}

#[test]
fn stats_has_the_names_that_dashboards_read() {
    let server = Store::new(&[]).start();
    let mut client = server.client();
    client.set("a", b"x");
    assert_eq!(client.get("a").as_deref(), Some(&b"x"[..]));
    assert_eq!(client.get("b"), None);
    let stats = client.stats();
    let names = "pid uptime time version pointer_size rusage_user rusage_system max_connections curr_connections \
         total_connections \
         rejected_connections cmd_get cmd_set cmd_flush cmd_touch get_hits get_misses get_expired get_flushed delete_hits \
         delete_misses incr_hits incr_misses decr_hits decr_misses cas_misses cas_hits cas_badval touch_hits touch_misses \
         bytes_read bytes_written limit_maxbytes threads bytes curr_items total_items evictions get_extstore \
         badcrc_from_extstore miss_from_extstore disk_reads disk_read_bytes disk_writes disk_write_bytes disk_read_errors \
         index_entries index_bytes memtable_bytes recovery_ms shards";
    let missing: Vec<&str> = names.split_whitespace().filter(|name| !stats.contains_key(*name)).collect();
    assert!(missing.is_empty(), "stats lacks {missing:?}; it has {:?}", stats.keys());
    for (name, value) in
        [("cmd_get", "2"), ("cmd_set", "1"), ("get_hits", "1"), ("get_misses", "1"), ("curr_items", "1")]
    {
        assert_eq!(stats[name], value, "{name}");
    }
    assert_eq!(stats["limit_maxbytes"], (64 << 20).to_string(), "-m 64 in bytes");
    assert_eq!(stats["max_connections"], "1024");
    assert_eq!(stats["curr_connections"], "1");
}
