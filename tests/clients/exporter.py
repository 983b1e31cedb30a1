"""The prometheus memcached_exporter's client, rebuilt: what it asks for, how it reads the answers, and how it fails.

    exporter.py [--records 20000] [--server PROGRAM]

Per scrape it opens a connection for `stats`, `stats slabs` and `stats items`, and then sends `stats settings`. It reads lines until END and
skips what it does not know, so a sub-command that is answered with ERROR would hang it: here every answer has to come within seconds. What
it must find, what it reads if it is there, and what the usual dashboards compute from it is checked on a server whose records are on disk.
Exits with 1 when anything is missing or wrong.
"""

import argparse
import os
import random
import sys

import common

TIMEOUT_SECONDS = 10

# Without these in `stats` the exporter says that the server is down.
MANDATORY = "cmd_set cas_misses cas_hits cas_badval".split()
# Without these for a slab that it has any line of, too.
MANDATORY_PER_SLAB = "cmd_set cas_hits cas_badval".split()

# Everything that it reads of `stats`, but for what only memcached's proxy has.
COMMANDS = "get delete incr decr cas touch".split()
GLOBAL = (
    [name + end for name in COMMANDS for end in ("_hits", "_misses")]
    + MANDATORY
    + (
        "version uptime time cmd_flush rusage_user rusage_system bytes limit_maxbytes curr_items total_items bytes_read bytes_written "
        "curr_connections total_connections rejected_connections conn_yields listen_disabled_num evictions reclaimed "
        "store_too_large store_no_memory lru_crawler_starts direct_reclaims crawler_items_checked crawler_reclaimed moves_to_cold "
        "moves_to_warm moves_within_lru accepting_conns total_malloced"
    ).split()
)
EXTSTORE = (
    "compact_lost compact_rescues compact_skipped page_allocs page_evictions page_reclaims pages_free pages_used objects_evicted "
    "objects_read objects_written objects_used bytes_evicted bytes_written bytes_read bytes_used bytes_fragmented limit_maxbytes io_queue"
).split()
# What it reads of an item class. It can do without those that only a cache in RAM counts.
ITEMS = (
    "number age hits_to_hot hits_to_warm hits_to_cold hits_to_temp crawler_reclaimed evicted evicted_nonzero evicted_time "
    "outofmemory reclaimed tailrepairs mem_requested moves_to_cold moves_to_warm moves_within_lru number_hot number_warm "
    "number_cold age_hot age_warm"
).split()
SLABS = (
    "chunk_size chunks_per_page total_pages total_chunks used_chunks free_chunks free_chunks_end mem_requested get_hits delete_hits "
    "incr_hits decr_hits touch_hits"
).split()


class Complaint(Exception):
    """Something that would make the exporter fail, or show what is not so."""


class Scrape:
    """What one scrape has found."""

    def __init__(self, port):
        self.client = common.Pipeline(port)
        self.client.socket.settimeout(TIMEOUT_SECONDS)
        self.general, self.slabs, self.items, self.settings = {}, {}, {}, {}
        for command in ("stats", "stats slabs", "stats items"):
            for line in self.lines(command):
                self.parse(command, line)
        for line in self.lines("stats settings"):
            words = line.split(" ")
            if len(words) != 3 or words[0] != "STAT":
                raise Complaint("stats settings: %r is an error to the exporter" % line)
            self.settings[words[1]] = words[2]
        self.client.close()

    def lines(self, command):
        """The lines before END; an exporter would wait for that until its time is over."""
        self.client.send([command.encode(), b"\r\n"])
        found = []
        while True:
            try:
                line = self.client.line().decode()
            except TimeoutError as error:
                raise Complaint("%s: no END in %d s after %r" % (command, TIMEOUT_SECONDS, found[-1:])) from error
            if line == "END\r\n":
                return found
            if line.startswith("CLIENT_ERROR"):
                raise Complaint("%s: %r" % (command, line))
            found.append(line.rstrip("\r\n"))

    def parse(self, command, line):
        words = line.split(" ")
        if words[0] != "STAT" or len(words) != 3:
            # The exporter drops it without a word. Nothing of ours has to be dropped.
            raise Complaint("%s: %r has not the form of a statistic" % (command, line))
        parts = words[1].split(":")
        if len(parts) == 1:
            self.general[parts[0]] = words[2]
        elif len(parts) == 2:
            self.slabs.setdefault(int(parts[0]), {})[parts[1]] = words[2]
        elif parts[0] == "items":
            self.items.setdefault(int(parts[1]), {})[parts[2]] = words[2]
        else:
            raise Complaint("%s: %r is a name that the exporter cannot read" % (command, words[1]))

    def number(self, name):
        return int(self.general[name])

    def check(self):
        """Everything that the exporter makes a number of."""
        self.need("stats", self.general, GLOBAL + ["extstore_" + name for name in EXTSTORE])
        for name in ("rusage_user", "rusage_system"):
            seconds, _, micros = self.general[name].partition(".")
            if not seconds.isdigit() or not micros.isdigit():
                raise Complaint("%s is %r, not seconds.microseconds" % (name, self.general[name]))
        for name in GLOBAL + ["extstore_" + name for name in EXTSTORE]:
            if name not in ("version", "rusage_user", "rusage_system"):
                self.whole("stats", name, self.general[name])
        for where, classes, names in (("stats slabs", self.slabs, SLABS), ("stats items", self.items, ITEMS)):
            for number, found in classes.items():
                place = "%s, class %d" % (where, number)
                self.need(place, found, names + (MANDATORY_PER_SLAB if classes is self.slabs else []))
                for name, value in found.items():
                    self.whole(place, name, value)
        sets = self.number("cmd_set") - sum(map(self.number, ("cas_misses", "cas_hits", "cas_badval")))
        if sets < 0:
            raise Complaint("%d sets were no cas" % sets)
        self.need("stats settings", self.settings, ["maxconns", "lru_crawler"])
        self.whole("stats settings", "maxconns", self.settings["maxconns"])
        if self.settings["lru_crawler"] not in ("yes", "no"):
            raise Complaint("lru_crawler is %r" % self.settings["lru_crawler"])
        return sets

    @staticmethod
    def need(place, found, names):
        missing = [name for name in names if name not in found]
        if missing:
            raise Complaint("%s: no %s" % (place, " ".join(missing)))

    @staticmethod
    def whole(place, name, value):
        if not value.isdigit():
            raise Complaint("%s: %s is %r, not a whole number" % (place, name, value))


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--server", default=common.DEFAULT_SERVER)
    parser.add_argument("--records", type=int, default=20000)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    return parser.parse_args()


def expect(what, found, wanted):
    if found != wanted:
        raise Complaint("%s: %r instead of %r" % (what, found, wanted))


def load(port, count):
    client = common.Pipeline(port)
    for start in range(0, count, 500):
        numbers = range(start, min(start + 500, count))
        client.send([common.set_request(number) for number in numbers])
        expect("answers to sets", {client.line() for _ in numbers}, {b"STORED\r\n"})
    client.close()


def ask(port, requests):
    """Sends requests that are answered with a line each."""
    client = common.Pipeline(port)
    for request in requests:
        client.send([request, b"\r\n"])
        client.line()
    client.close()


def check_empty(port):
    scrape = Scrape(port)
    expect("sets of an empty server", scrape.check(), 0)
    expect("classes of an empty server", (scrape.slabs, scrape.items), ({}, {}))
    print("empty: %d statistics, %d settings" % (len(scrape.general), len(scrape.settings)))


def check_full(port, options):
    """After a restart: all records are on disk, and none is in memory."""
    before = Scrape(port)
    expect("sets after a restart", before.check(), 0)
    reads = options.records // 10
    wrong, missing = common.verify(port, common.sample(reads, options.records, options.seed))
    expect("wrong and missing values", (wrong, missing), (0, 0))
    ask(port, [b"get absent", b"delete absent", b"incr absent 1", b"decr absent 1", b"touch absent 0", b"cas absent 0 0 1 1\r\nx"])
    ask(port, [b"set n 0 0 1\r\n5", b"incr n 2", b"decr n 1", b"touch n 0", b"cas n 0 0 1 1\r\nx", b"delete n", b"delete %b" % common.key_of(0)])
    scrape = Scrape(port)
    expect("sets", scrape.check(), 1)
    for name in COMMANDS:
        hits, misses = (reads, 1) if name == "get" else (1, 1)
        expect(name + "_misses", scrape.number(name + "_misses"), misses)
        expect(name + "_hits", scrape.number(name + "_hits"), {"cas": 0, "delete": 2}.get(name, hits))
    expect("cas_badval", scrape.number("cas_badval"), 1)
    expect("curr_items", scrape.number("curr_items"), options.records - 1)
    expect("extstore_objects_used", scrape.number("extstore_objects_used"), options.records - 1)
    expect("extstore_objects_read", scrape.number("extstore_objects_read"), reads)
    expect("item class", {number: found["number"] for number, found in scrape.items.items()}, {1: str(options.records - 1)})
    expect("slab class", sorted(scrape.slabs), [1])
    check_dashboards(scrape, options)
    print("on disk: %d statistics, %d of the slab class, %d of the item class" % tuple(
        map(len, (scrape.general, scrape.slabs[1], scrape.items[1]))))


def check_dashboards(scrape, options):
    """What the usual panels compute: how full it is, how much of the disk is used, how often it hits."""
    used, limit = scrape.number("extstore_bytes_used"), scrape.number("extstore_limit_maxbytes")
    stored = sum(common.value_size(number) for number in range(1, options.records))
    if not stored <= used <= 1.3 * stored + 100 * options.records:
        raise Complaint("extstore_bytes_used is %d for %d bytes of values" % (used, stored))
    expect("bytes", scrape.number("bytes"), used)
    expect("limit of the disk", limit, 256 << 20)
    expect("limit of memory", scrape.number("limit_maxbytes"), 64 << 20)
    pages = scrape.number("extstore_pages_used") + scrape.number("extstore_pages_free")
    expect("pages", pages, limit // (16 << 20))
    fragmented = scrape.number("extstore_bytes_fragmented")
    expect("used and fragmented bytes", used + fragmented, scrape.number("extstore_pages_used") * (16 << 20))
    slab = {name: int(value) for name, value in scrape.slabs[1].items()}
    expect("bytes of chunks", slab["used_chunks"] * slab["chunk_size"], used)
    if not 0 < scrape.number("get_hits") / (scrape.number("get_hits") + scrape.number("get_misses")) <= 1:
        raise Complaint("the hit ratio is none")
    if int(scrape.settings["maxconns"]) < scrape.number("curr_connections"):
        raise Complaint("more connections than there may be")


def main():
    options = arguments()
    print("seed %d" % options.seed)
    flags = ["-m", "64", "--capacity", "256m", "--table-size", "16m", "--hot-cache", "0"]
    with common.scratch_directory() as scratch:
        directory = os.path.join(scratch, "data")
        server = common.Server(options.server, directory, flags)
        try:
            check_empty(server.port)
            load(server.port, options.records)
            expect("sets", Scrape(server.port).check(), options.records)
            server.terminate()
            server = common.Server(options.server, directory, flags)
            check_full(server.port, options)
            server.terminate()
        except Complaint as complaint:
            server.kill()
            sys.exit("WRONG: %s" % complaint)
    print("ok")


if __name__ == "__main__":
    main()
