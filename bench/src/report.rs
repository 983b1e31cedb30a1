//! The results of one load, for people and for programs.

use std::fmt::Write;

use crate::load::{Length, Outcome, Plan};
use crate::procstat;
use crate::tally::Latencies;
use crate::workload::KeyOrder;

/// The client's share of its threads' time above which its own speed is what was measured.
const CLIENT_SHARE_MAX: f64 = 0.9;

/// Whether the client was too busy for its figures to say much about the server.
pub(crate) fn is_client_limited(plan: &Plan, outcome: &Outcome) -> bool {
    outcome.client_share(plan.thread_count) > CLIENT_SHARE_MAX
}

/// A report of some lines, with a note for each reason to doubt it.
pub(crate) fn text(plan: &Plan, outcome: &Outcome) -> String {
    let tally = &outcome.tally;
    let mut lines = vec![describe_load(plan), format!("pace         {}", describe_pace(plan))];
    let gets = format!("{:.1} % gets of {} key(s)", plan.workload.get_share * 100.0, plan.workload.multiget_count);
    lines.push(format!("workload     {}, {gets}", describe_keys(plan)));
    if let Some((count, time)) = outcome.fill {
        lines.push(format!("fill         {count} keys stored in {:.2} s", time.as_secs_f64()));
    }
    lines.push(format!(
        "requests     {} in {:.3} s: {:.0}/s ({} gets, {} sets)",
        tally.requests(),
        outcome.elapsed.as_secs_f64(),
        outcome.rate(),
        tally.gets,
        tally.sets
    ));
    lines.push(format!("keys         {} hits, {} misses; {} error answers", tally.hits, tally.misses, tally.errors));
    if plan.workload.verify {
        lines.push(format!("verified     {} values, {} wrong", tally.hits, tally.wrong));
    }
    lines.push(format!("network      {} bytes sent, {} received", tally.sent_size, tally.received_size));
    let kinds = [("all", &tally.latencies()), ("get", &tally.get_latencies), ("set", &tally.set_latencies)];
    lines
        .extend(kinds.iter().filter(|(_, latencies)| latencies.count() > 0).map(|(name, all)| latency_line(name, all)));
    lines.push(format!(
        "client CPU   {:.2} us/request, {:.0} % of {} thread(s)",
        outcome.client_cpu.as_secs_f64() * 1e6 / tally.requests().max(1) as f64,
        outcome.client_share(plan.thread_count) * 100.0,
        plan.thread_count
    ));
    if let (Some(server), Some(cpu_us), Some(switches)) =
        (outcome.server, outcome.server_cpu_us(), outcome.server_switches())
    {
        let share = server.cpu.as_secs_f64() / outcome.elapsed.as_secs_f64().max(1e-9) * 100.0;
        lines.push(format!("server CPU   {cpu_us:.2} us/request, {share:.0} % of one CPU"));
        lines.push(format!("server       {switches:.3} context switches/request"));
    }
    lines.extend(notes(plan, outcome).iter().map(|note| format!("note         {note}")));
    lines.join("\n") + "\n"
}

fn describe_load(plan: &Plan) -> String {
    let length = match plan.length {
        Length::Time(time) => format!("{} s", time.as_secs_f64()),
        Length::Requests(count) => format!("{count} requests"),
    };
    let burst = if plan.burst { " in bursts" } else { "" };
    let (threads, warmup) = (plan.thread_count, plan.warmup.as_secs_f64());
    format!(
        "load         {}: {} connections x {} in flight{burst}, {threads} thread(s), {length} after {warmup} s warm-up",
        plan.address, plan.connection_count, plan.pipeline
    )
}

/// What decides when a request is sent.
pub(crate) fn describe_pace(plan: &Plan) -> String {
    match plan.rate {
        Some(rate) => format!("open loop, {rate} requests/s due at even times; latency counts from when one is due"),
        None => "closed loop: each connection sends only after an answer, so a slow server is asked less".to_owned(),
    }
}

/// The keys, their order, the values and the seed.
pub(crate) fn describe_keys(plan: &Plan) -> String {
    let workload = &plan.workload;
    let order = match workload.order {
        KeyOrder::Uniform => "uniform".to_owned(),
        KeyOrder::Sequential => "sequential".to_owned(),
        KeyOrder::Hot => "90 % of requests for 10 % of keys".to_owned(),
        KeyOrder::Recent(span) => format!("the last {span} written"),
        KeyOrder::Zipf => format!("zipf {}", workload.zipf_exponent),
    };
    let sizes = match (workload.values.size_min, workload.values.size_max) {
        (first, last) if first == last => format!("{first}"),
        (first, last) => format!("{first} to {last}"),
    };
    format!("{} keys ({order}), values of {sizes} bytes, seed {}", workload.keys.count, workload.seed)
}

fn latency_line(name: &str, latencies: &Latencies) -> String {
    let at = |percent| latencies.percentile_us(percent);
    format!(
        "latency {name}  p50 {:.1}  p99 {:.1}  p99.9 {:.1}  max {:.1} us",
        at(50.0),
        at(99.0),
        at(99.9),
        latencies.max_us()
    )
}

/// Every reason not to take the figures at face value.
pub(crate) fn notes(plan: &Plan, outcome: &Outcome) -> Vec<String> {
    let tally = &outcome.tally;
    let mut notes = Vec::new();
    if is_client_limited(plan, outcome) {
        notes.push("the client was the bottleneck: requests/s and latency are its own".to_owned());
    }
    if let Some(pid) = plan.server_pid {
        let used = if plan.cpus.is_empty() { procstat::allowed_cpus(0) } else { plan.cpus.clone() };
        if procstat::allowed_cpus(pid).iter().any(|cpu| used.contains(cpu)) {
            notes.push("client and server may use the same CPUs and disturb each other; pin both".to_owned());
        }
    }
    if outcome.fill.is_some() && tally.misses > 0 {
        notes.push("the server dropped keys that were filled; misses cost it less than hits".to_owned());
    }
    if tally.unsent > 0 {
        let unsent = tally.unsent;
        notes.push(format!("{unsent} requests came due and were never sent; no percentile contains them"));
    }
    if let Some(line) = &tally.first_error {
        notes.push(format!("the first error answer: {line}"));
    }
    if let Some(wrong) = &tally.first_wrong {
        notes.push(format!("the first wrong value: {wrong}"));
    }
    notes
}

/// One JSON object on one line. `extra` members come first; their values are texts.
pub(crate) fn json(plan: &Plan, outcome: &Outcome, extra: &[(&str, &str)]) -> String {
    let (tally, workload) = (&outcome.tally, &plan.workload);
    let mut object = Object::new();
    extra.iter().for_each(|(name, value)| object.text(name, value));
    object.text("address", &plan.address.to_string());
    object.text("loop", if plan.rate.is_some() { "open" } else { "closed" });
    object.number("rate_asked", plan.rate);
    object.count("connections", plan.connection_count);
    object.count("pipeline", plan.pipeline as u64);
    object.raw("burst", plan.burst);
    object.count("threads", plan.thread_count as u64);
    object.count("keys", workload.keys.count);
    object.text("key_order", &format!("{:?}", workload.order).to_lowercase());
    object.count("value_size_min", workload.values.size_min as u64);
    object.count("value_size_max", workload.values.size_max as u64);
    object.number("get_share", Some(workload.get_share));
    object.count("multiget", u64::from(workload.multiget_count));
    object.count("seed", workload.seed);
    object.raw("verify", workload.verify);
    object.number("seconds", Some(outcome.elapsed.as_secs_f64()));
    object.count("requests", tally.requests());
    object.number("requests_per_second", Some(outcome.rate()));
    let counts = [
        ("gets", tally.gets),
        ("sets", tally.sets),
        ("hits", tally.hits),
        ("misses", tally.misses),
        ("errors", tally.errors),
        ("wrong_values", tally.wrong),
        ("unsent", tally.unsent),
        ("sent_bytes", tally.sent_size),
        ("received_bytes", tally.received_size),
    ];
    counts.iter().for_each(|&(name, count)| object.count(name, count));
    object.raw("latency_us", json_latencies(&tally.latencies()));
    object.raw("get_latency_us", json_latencies(&tally.get_latencies));
    object.raw("set_latency_us", json_latencies(&tally.set_latencies));
    object.number("client_cpu_seconds", Some(outcome.client_cpu.as_secs_f64()));
    object.number("server_cpu_seconds", outcome.server.map(|server| server.cpu.as_secs_f64()));
    object.number("server_cpu_us_per_request", outcome.server_cpu_us());
    object.number("server_context_switches_per_request", outcome.server_switches());
    let notes: Vec<_> = notes(plan, outcome).iter().map(|note| quote(note)).collect();
    object.raw("notes", format!("[{}]", notes.join(",")));
    object.finish()
}

fn json_latencies(latencies: &Latencies) -> String {
    let mut object = Object::new();
    for (name, percent) in [("p50", 50.0), ("p90", 90.0), ("p99", 99.0), ("p99_9", 99.9), ("p99_99", 99.99)] {
        object.number(name, Some(latencies.percentile_us(percent)));
    }
    object.number("max", Some(latencies.max_us()));
    object.finish()
}

/// A JSON object being written.
struct Object(String);

impl Object {
    fn new() -> Self {
        Self("{".to_owned())
    }

    fn raw(&mut self, name: &str, value: impl std::fmt::Display) {
        let comma = if self.0.len() > 1 { "," } else { "" };
        write!(self.0, "{comma}{}:{value}", quote(name)).expect("a String takes every write");
    }

    fn text(&mut self, name: &str, value: &str) {
        self.raw(name, quote(value));
    }

    fn count(&mut self, name: &str, value: u64) {
        self.raw(name, value);
    }

    /// `null` stands for a figure that is not known.
    fn number(&mut self, name: &str, value: Option<f64>) {
        match value.filter(|value| value.is_finite()) {
            Some(value) => self.raw(name, value),
            None => self.raw(name, "null"),
        }
    }

    fn finish(self) -> String {
        self.0 + "}"
    }
}

fn quote(text: &str) -> String {
    let mut quoted = "\"".to_owned();
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            ' '.. => quoted.push(character),
            _ => write!(quoted, "\\u{:04x}", u32::from(character)).expect("a String takes every write"),
        }
    }
    quoted + "\""
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::args::{Arguments, Command};
    use crate::procstat::Usage;
    use crate::tally::Tally;
    use clap::Parser;

    fn plan(line: &str) -> Plan {
        let words = ["dmabench", "load", "--seed", "1"].into_iter().chain(line.split_whitespace());
        match Arguments::parse_from(words).command {
            Command::Load(arguments) => arguments.plan(),
            _ => unreachable!("the words say load"),
        }
    }

    fn outcome() -> Outcome {
        let mut tally = Tally::new();
        (tally.gets, tally.sets, tally.hits) = (900, 100, 900);
        (0..900).for_each(|_| tally.get_latencies.record(100_000));
        (0..100).for_each(|_| tally.set_latencies.record(300_000));
        Outcome {
            tally,
            elapsed: Duration::from_millis(500),
            client_cpu: Duration::from_millis(5),
            server: Some(Usage { cpu: Duration::from_millis(8), switch_count: 1_500 }),
            fill: None,
        }
    }

    #[test]
    fn figures_per_request_are_divided_by_all_requests() {
        let report = text(&plan(""), &outcome());
        for part in [
            "1000 in 0.500 s: 2000/s",
            "server CPU   8.00 us/request, 2 % of one CPU",
            "1.500 context switches/request",
            "client CPU   5.00 us/request, 1 % of 1 thread(s)",
            "closed loop",
            "seed 1",
            "latency get  p50 100.0",
        ] {
            assert!(report.contains(part), "{part} is not in:\n{report}");
        }
        assert!(!report.contains("note"), "{report}");
        assert!(text(&plan("--rate 5"), &outcome()).contains("open loop, 5 requests/s"));
    }

    #[test]
    fn reasons_for_doubt_are_printed() {
        let mut doubtful = outcome();
        doubtful.client_cpu = Duration::from_millis(490);
        doubtful.tally.unsent = 7;
        doubtful.tally.misses = 1;
        doubtful.fill = Some((5, Duration::from_secs(1)));
        doubtful.tally.refuse(b"SERVER_ERROR out of memory");
        let own_pid = format!("--server-pid {}", std::process::id());
        let report = text(&plan(&own_pid), &doubtful);
        for part in [
            "may use the same CPUs",
            "dropped keys",
            "the client was the bottleneck",
            "7 requests came due",
            "SERVER_ERROR out of memory",
        ] {
            assert!(report.contains(part), "{part} is not in:\n{report}");
        }
    }

    #[test]
    fn json_is_one_valid_looking_line() {
        let mut outcome = outcome();
        outcome.server = None;
        outcome.tally.refuse(b"ERROR \"\\\x01");
        let line = json(&plan(""), &outcome, &[("target", "a\"b")]);
        assert!(line.starts_with("{\"target\":\"a\\\"b\",\"address\":\"127.0.0.1:11211\","), "{line}");
        assert!(line.contains("\"server_cpu_us_per_request\":null"), "{line}");
        assert!(line.contains("\"requests\":1000,\"requests_per_second\":2000,"), "{line}");
        assert!(!line.contains('\n') && line.ends_with("]}"), "{line}");
        assert_eq!(quote("\u{1}\n"), "\"\\u0001\\u000a\"");
    }
}
