//! Flags as people write them.

use std::path::Path;
use std::time::Duration;

use clap::FromArgMatches;

use super::arguments::ServeArguments;
use super::listen::Port;
use super::{Cli, grammar};
use crate::server::{Address, Endpoint};
use crate::shard::Binding;

fn parse(line: &str) -> Result<ServeArguments, clap::Error> {
    let words = std::iter::once("dmacached").chain(line.split_whitespace());
    Ok(Cli::from_arg_matches(&grammar().try_get_matches_from(words)?)?.serve)
}

fn arguments(line: &str) -> ServeArguments {
    parse(line).unwrap_or_else(|error| panic!("{line}: {error}"))
}

fn tcp(line: &str) -> Vec<(String, Binding)> {
    let endpoints = arguments(line).endpoints().unwrap_or_else(|error| panic!("{line}: {error}"));
    endpoints.into_iter().map(|Endpoint { address, binding }| (address.to_string(), binding)).collect()
}

fn addresses(line: &str) -> Vec<String> {
    tcp(line).into_iter().map(|(address, _)| address).collect()
}

#[test]
fn the_grammar_is_sound() {
    grammar().debug_assert();
}

#[test]
fn defaults_are_memcacheds() {
    let serve = arguments("");
    assert!(serve.check().is_ok());
    let (network, memory) = (&serve.network, &serve.memory);
    assert_eq!((network.port, network.connections), (Port::Number(11211), 1024));
    assert_eq!((memory.mib, memory.item_size), (64, 1 << 20));
    assert_eq!((network.requests_per_turn, network.backlog, network.unix_permissions), (20, 1024, 0o700));
    assert_eq!(addresses(""), ["127.0.0.1:11211"]);
    assert_eq!(serve.binding(), Binding::Auto);
    assert_eq!(serve.data_dir().expect("good"), Path::new("./dmacached-data"));
    assert_eq!(serve.capacity().expect("good"), None);
}

#[test]
fn every_flag_of_memcached_is_known_in_both_forms() {
    let pairs = [
        ("-p 5", "--port=5"),
        ("-U 0", "--udp-port=0"),
        ("-s /tmp/a", "--unix-socket=/tmp/a"),
        ("-a 755", "--unix-mask=755"),
        ("-A", "--enable-shutdown"),
        ("-l 127.0.0.2", "--listen=127.0.0.2"),
        ("-d", "--daemon"),
        ("-r", "--enable-coredumps"),
        ("-u nobody", "--user=nobody"),
        ("-m 100", "--memory-limit=100"),
        ("-M", "--disable-evictions"),
        ("-c 9", "--conn-limit=9"),
        ("-k", "--lock-memory"),
        ("-vv", "--verbose --verbose"),
        ("-P /tmp/a", "--pidfile=/tmp/a"),
        ("-f 1.25", "--slab-growth-factor=1.25"),
        ("-n 48", "--slab-min-size=48"),
        ("-L", "--enable-largepages"),
        ("-t 4", "--threads=4"),
        ("-R 9", "--max-reqs-per-event=9"),
        ("-C", "--disable-cas"),
        ("-b 9", "--listen-backlog=9"),
        ("-B ascii", "--protocol=ascii"),
        ("-I 2m", "--max-item-size=2m"),
        ("-F", "--disable-flush-all"),
        ("-X", "--disable-dumping"),
        ("-W", "--disable-watch"),
        ("-Y /tmp/a", "--auth-file=/tmp/a"),
        ("-o modern", "--extended=modern"),
        ("-N 4", "--napi-ids=4"),
    ];
    let unset = format!("{:?}", arguments(""));
    for (short, long) in pairs {
        let (first, second) = (arguments(short), arguments(long));
        assert!(first.check().is_ok(), "{short}");
        assert_eq!(format!("{first:?}"), format!("{second:?}"));
        assert!(short == "-U 0" || format!("{first:?}") != unset, "{short} changes nothing");
    }
}

#[test]
fn flags_are_written_as_getopt_takes_them() {
    // The last word wins, flags without a value are joined, values are attached.
    let serve = arguments("-p 1 -MA -p2 -m64 -m 128 -M -vvv -l 127.0.0.1 -l 127.0.0.2 -U0");
    assert_eq!((serve.network.port, serve.memory.mib, serve.process.verbosity), (Port::Number(2), 128, 3));
    assert!(serve.memory.disable_evictions && serve.commands.enable_shutdown);
    assert_eq!(serve.network.listen, ["127.0.0.1", "127.0.0.2"]);
    let serve = parse("serve -p 7").map(|_| ());
    assert!(serve.is_ok(), "the subcommand has the same flags");
}

#[test]
fn addresses_come_in_lists_with_and_without_ports() {
    let line = "-p 5 -l 127.0.0.1,127.0.0.2:7 -l [::1]:8;::1;127.0.0.1";
    assert_eq!(addresses(line), ["127.0.0.1:5", "127.0.0.2:7", "[::1]:8", "[::1]:5"]);
    assert_eq!(addresses("-l * -p 5"), ["0.0.0.0:5"]);
    assert_eq!(addresses("-p -1"), ["127.0.0.1:0"]);
    assert_eq!(addresses("--port=-1 -l 127.0.0.3"), ["127.0.0.3:0"]);
    for line in ["-l 127.0.0.1:x", "-l ,", "-l 127.0.0.1:70000", "-l tag_x:127.0.0.1", "-l proto[proxy]:127.0.0.1"] {
        assert!(arguments(line).endpoints().is_err(), "{line}");
    }
    for line in ["-l mtls:127.0.0.1", "-l proto[ascii:127.0.0.1", "-l proto[]:127.0.0.1"] {
        let sentence = arguments(line).endpoints().expect_err(line).to_string();
        assert!(sentence.starts_with(line), "{sentence}");
    }
}

#[test]
fn an_address_may_have_a_protocol_of_its_own() {
    let line = "-p 5 -l proto[ascii]:127.0.0.1,proto[binary]:127.0.0.2:6 -l notls:127.0.0.3 -l tag_a_b_:proto[negotiating]:[::1]";
    let expected = [
        ("127.0.0.1:5", Binding::Ascii),
        ("127.0.0.2:6", Binding::Binary),
        ("127.0.0.3:5", Binding::Auto),
        ("[::1]:5", Binding::Auto),
    ];
    assert_eq!(tcp(line), expected.map(|(address, binding)| (address.to_owned(), binding)));
    assert_eq!(tcp("-B binary -l 127.0.0.1:5")[0].1, Binding::Binary);
    assert_eq!(tcp("-Y /tmp/users -l proto[ascii]:127.0.0.1")[0].1, Binding::Ascii);
    assert!(arguments("-Y /tmp/users -l proto[binary]:127.0.0.1").endpoints().is_err());
}

#[test]
fn a_unix_socket_is_instead_of_tcp() {
    let serve = arguments("-s /tmp/a -a 755 -p 0 -o idle_timeout=9");
    assert!(serve.check().is_ok());
    let expected = Endpoint { address: Address::Unix("/tmp/a".into(), 0o755), binding: Binding::Auto };
    assert_eq!(serve.endpoints().expect("good"), [expected]);
    assert_eq!(serve.extended().expect("good").idle_timeout, Some(Duration::from_secs(9)));
    let long = format!("-s {}", "x".repeat(108));
    assert!(arguments(&long).check().is_err());
}

#[test]
fn the_external_path_is_where_the_data_lives_unless_flags_say_otherwise() {
    let place = |line: &str| {
        let serve = arguments(line);
        (serve.data_dir().expect("good"), serve.capacity().expect("good"))
    };
    assert_eq!(place("-o ext_path=/mnt/a:1g"), ("/mnt/a".into(), Some(1 << 30)));
    assert_eq!(place("-o ext_path=/mnt/a:1g --data-dir /b"), ("/b".into(), Some(1 << 30)));
    assert_eq!(place("-o ext_path=/mnt/a:1g --capacity 2g"), ("/mnt/a".into(), Some(2 << 30)));
}

#[test]
fn authentication_and_the_delimiter_imply_something() {
    assert_eq!(arguments("-Y /tmp/users").binding(), Binding::Ascii);
    assert_eq!(arguments("-D |").commands.delimiter, Some(b'|'));
    assert_eq!(arguments("").commands.delimiter, None);
}

#[test]
fn paths_become_whole() {
    let mut serve = arguments("-s a -P /run/b -Y c -o ext_path=d:1g");
    serve.make_absolute().expect("there is a working directory");
    let here = std::env::current_dir().expect("there is a working directory");
    assert_eq!(serve.network.unix_socket, Some(here.join("a")));
    assert_eq!(serve.process.pid_file, Some("/run/b".into()));
    assert_eq!(serve.commands.auth_file, Some(here.join("c")));
    assert_eq!(serve.data_dir().expect("good"), here.join("d"));
    assert_eq!(serve.capacity().expect("good"), Some(1 << 30));
}

#[test]
fn what_cannot_be_is_refused_by_name() {
    for line in [
        "-m 4",
        "-m 0",
        "-I 500",
        "-I 40m",
        "-I 2g -m 9000",
        "-c 0",
        "-p 0",
        "-U 11211",
        "-U -1",
        "-t 0",
        "--table-size 3m",
        "--table-size 512k",
        "--flush-interval 1ms",
        "-R 0",
        "-b 0",
        "-a 1777",
        "--spin-us 2000000",
        "-o nonsense",
        "-o idle_timeout=x",
        "-f 1",
        "-f nan",
        "-n 0",
        "-N 0",
        "-S",
        "-Z",
        "-e /tmp/a",
        "-B binary -Y /tmp/a",
    ] {
        let sentence = arguments(line).check().expect_err(line).to_string();
        let flag = line.split_whitespace().next().expect("a flag");
        assert!(sentence.starts_with(flag) && sentence.split_whitespace().count() > 5, "{line}: {sentence}");
    }
}

#[test]
fn what_is_no_value_is_refused_by_name() {
    for (line, flag) in [
        ("-p x", "--port"),
        ("-p 70000", "--port"),
        ("-p -2", "--port"),
        ("-m x", "--memory-limit"),
        ("-m -1", "-1"),
        ("-I x", "--max-item-size"),
        ("-c x", "--conn-limit"),
        ("-t x", "--threads"),
        ("-B foo", "--protocol"),
        ("-D ab", "-D"),
        ("-a 8", "--unix-mask"),
        ("-f x", "--slab-growth-factor"),
        ("--nonsense", "--nonsense"),
        ("-z", "-z"),
        ("more", "more"),
    ] {
        let error = parse(line).expect_err(line);
        assert_eq!(error.exit_code(), 2, "{line}");
        assert!(error.to_string().contains(flag), "{line}: {error}");
    }
}
