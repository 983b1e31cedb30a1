"""memcached-tool, as Debian installs it, against a server whose records are on disk: display, stats, settings, sizes, keys, dump.

    memcached_tool.py [--records 300] [--server PROGRAM] [--tool PROGRAM]

What the tool prints is read back and compared with what was stored and with what the server says of itself. `keys` and `dump` send
`lru_crawler metadump all`; a server that does not know it is told so on a line of its own, and the rest is checked all the same.
Exits with 1 when anything is wrong.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys

import common

PLACES = ["memcached-tool", "/usr/share/memcached/scripts/memcached-tool"]
TIMEOUT_SECONDS = 60
CAPACITY = 64 << 20
TABLE_SIZE = 4 << 20


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--server", default=common.DEFAULT_SERVER)
    parser.add_argument("--tool", default=next(filter(None, map(shutil.which, PLACES)), None))
    parser.add_argument("--records", type=int, default=300)
    return parser.parse_args()


class Tool:
    """The tool, asking one server."""

    def __init__(self, program, port):
        self.line = ["perl", program, "127.0.0.1:%d" % port]
        self.complaints = []

    def run(self, *words):
        """What it prints; it must end well, and not complain."""
        done = subprocess.run([*self.line, *words], capture_output=True, timeout=TIMEOUT_SECONDS, check=False)
        self.expect("exit of %s" % " ".join(words), done.returncode, 0)
        noise = [line for line in done.stderr.decode().splitlines() if line and not line.startswith("Dumping memcache")]
        self.expect("what %s says on stderr" % " ".join(words), noise, [])
        return done.stdout

    def table(self, word):
        """The names and values that it prints below a line with `#`."""
        head, *rows = self.run(word).decode().splitlines()
        self.expect("first line of %s" % word, head.startswith("#127.0.0.1:"), True)
        return dict(row.split() for row in rows)

    def expect(self, what, found, wanted):
        if found != wanted:
            self.complaints.append("%s: %r instead of %r" % (what, found, wanted))


def has_metadump(port):
    """Whether the server knows the command that `keys` and `dump` send."""
    client = common.Pipeline(port)
    client.send([b"lru_crawler metadump all\r\n"])
    first = client.line()
    client.close()
    return first not in (b"ERROR\r\n", b"CLIENT_ERROR bad command line format\r\n")


def check_display(tool, options):
    head, *rows = tool.run("display").decode().splitlines()
    tool.expect("columns", head.split(), "# Item_Size Max_age Pages Count Full? Evicted Evict_Time OOM".split())
    tool.expect("number of classes", len(rows), 1)
    number, size, age, pages, count, full, *zeros = rows[0].split()
    tool.expect("class, size and count", (number, size, count), ("1", "16B", str(options.records)))
    tool.expect("age", bool(re.fullmatch(r"\d+s", age)), True)
    tool.expect("full, evicted, time, out of memory", (full, zeros), ("no", ["0", "0", "0"]))
    tool.expect("pages", 0 < int(pages) <= CAPACITY // TABLE_SIZE, True)


def check_numbers(tool, options):
    stats = tool.table("stats")
    tool.expect("curr_items", stats.get("curr_items"), str(options.records))
    tool.expect("version", stats.get("version", "").startswith("1.6."), True)
    tool.expect("extstore_limit_maxbytes", stats.get("extstore_limit_maxbytes"), str(CAPACITY))
    settings = tool.table("settings")
    tool.expect("maxbytes", settings.get("maxbytes"), str(64 << 20))
    tool.expect("maxconns", settings.get("maxconns"), "1024")
    sizes = {int(size): int(count) for size, count in tool.table("sizes").items()}
    tool.expect("items in sizes", sum(sizes.values()), options.records)
    tool.expect("steps of sizes", [size for size in sizes if size % 32], [])
    smallest, largest = min(map(common.value_size, range(options.records))), max(map(common.value_size, range(options.records)))
    tool.expect("range of sizes", smallest <= min(sizes) and max(sizes) <= 1.125 * (largest + 100) + 32, True)
    print("display, stats (%d), settings (%d), sizes (%d): read" % (len(stats), len(settings), len(sizes)))


def check_keys(tool, options):
    lines = tool.run("keys").splitlines()
    keys = {match.replace(b"%3A", b":") for line in lines for match in re.findall(rb"^key=(\S+) exp=-1 ", line)}
    tool.expect("lines of keys", len(lines), len(keys))
    tool.expect("keys", keys, set(map(common.key_of, range(options.records))))
    tool.expect("keys with a limit", len(tool.run("keys", "10").splitlines()) <= 10, True)
    print("keys: %d" % len(keys))


def check_dump(tool, options):
    """The dump is a script of `add` commands: values are told by their sizes, as they hold line ends."""
    dump, found = tool.run("dump"), {}
    while dump:
        line, dump = dump.split(b"\r\n", 1)
        word, key, flags, expiry, size = line.split()
        tool.expect("command for %r" % key, (word, flags, expiry), (b"add", b"0", b"0"))
        found[key], dump = dump[: int(size)], dump[int(size) + 2 :]
    expected = {common.key_of(number): common.value_of(number) for number in range(options.records)}
    wrong = [key for key in expected if found.get(key) != expected[key]]
    tool.expect("values in the dump that are wrong or missing", wrong, [])
    tool.expect("values in the dump", len(found), len(expected))
    print("dump: %d values" % len(found))


def main():
    options = arguments()
    if options.tool is None or shutil.which("perl") is None:
        print("skipped: memcached-tool or perl is not installed")
        return
    flags = ["-m", "64", "--capacity", str(CAPACITY), "--table-size", str(TABLE_SIZE)]
    with common.scratch_directory() as scratch:
        directory = os.path.join(scratch, "data")
        filled = common.Server(options.server, directory, flags)
        client = common.Pipeline(filled.port)
        client.send([common.set_request(number) for number in range(options.records)])
        refused = [line for line in (client.line() for _ in range(options.records)) if line != b"STORED\r\n"]
        client.close()
        # The restart leaves all records on disk.
        filled.terminate()
        server = common.Server(options.server, directory, flags)
        tool = Tool(options.tool, server.port)
        tool.expect("answers to sets", refused, [])
        check_display(tool, options)
        check_numbers(tool, options)
        if has_metadump(server.port):
            check_keys(tool, options)
            check_dump(tool, options)
        else:
            print("skipped: keys and dump, as the server has no lru_crawler metadump")
        server.terminate()
    for complaint in tool.complaints:
        print("WRONG:", complaint)
    if not tool.complaints:
        print("ok")
    sys.exit(1 if tool.complaints else 0)


if __name__ == "__main__":
    main()
