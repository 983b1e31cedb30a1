"""The main job: load records, read random ones back and check every byte, stop, start, read again.

    main_job.py [--records 2000000] [--reads 200000] [--server PROGRAM] [--memory 256] [--capacity 4G]

All goes through pymemcache, as an application would; every byte of every answer is compared with what the key says it is.
Prints stats, resident memory and the time of the restart. Exits with 1 when anything is wrong or missing.
"""

import argparse
import os
import sys
import time

from pymemcache.client.base import Client

import common

LOAD_BATCH = 500
STATS = (
    "curr_items evictions get_hits get_misses get_extstore disk_reads disk_read_bytes disk_writes disk_write_bytes "
    "disk_read_errors badcrc_from_extstore index_entries index_bytes memtable_bytes recovery_ms shards"
).split()


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--server", default=common.DEFAULT_SERVER)
    parser.add_argument("--records", type=int, default=int(os.environ.get("RECORDS", "2000000")))
    parser.add_argument("--reads", type=int, default=int(os.environ.get("READS", "200000")))
    parser.add_argument("--memory", type=int, default=256, help="-m of the server, in MiB")
    parser.add_argument("--capacity", default="4G")
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


def load(port, count):
    """Sets all records with set_many, which looks at every answer; gives the number that were refused."""
    client = Client(("127.0.0.1", port), timeout=60, connect_timeout=60, no_delay=True)
    refused = 0
    for start in range(0, count, LOAD_BATCH):
        numbers = range(start, min(start + LOAD_BATCH, count))
        records = {common.key_of(number): common.value_of(number) for number in numbers}
        refused += len(client.set_many(records, noreply=False))
    client.close()
    return refused


def read(port, numbers):
    """Reads the records in batches and compares every byte; gives (wrong, missing)."""
    client = Client(("127.0.0.1", port), timeout=60, connect_timeout=60, no_delay=True)
    wrong = missing = 0
    for start in range(0, len(numbers), 50):
        part = numbers[start : start + 50]
        found = client.get_many([common.key_of(number) for number in part])
        for number in part:
            value = found.get(common.key_of(number))
            missing += value is None
            wrong += value is not None and value != common.value_of(number)
    client.close()
    return wrong, missing


def check(name, port, options, seed):
    """Reads and compares; gives the number of faults."""
    begun = time.monotonic()
    numbers = common.sample(options.reads, options.records, seed)
    wrong, missing = read(port, numbers)
    seconds = time.monotonic() - begun
    print("%s: %d reads in %.1f s, %d wrong, %d missing" % (name, len(numbers), seconds, wrong, missing), flush=True)
    return wrong + missing


def report(server):
    client = common.Pipeline(server.port)
    stats = client.stats()
    client.close()
    print("resident: " + common.mebibytes(server.resident_bytes()))
    print("stats: " + " ".join("%s=%s" % (name, stats.get(name, "-")) for name in STATS), flush=True)
    return stats


def main():
    options = arguments()
    flags = ["-m", str(options.memory), "--capacity", options.capacity]
    with common.scratch_directory() as scratch:
        directory = os.path.join(scratch, "data")
        server = common.Server(options.server, directory, flags)
        begun = time.monotonic()
        faults = load(server.port, options.records)
        print("load: %d records in %.1f s, %d refused" % (options.records, time.monotonic() - begun, faults), flush=True)
        faults += check("read back", server.port, options, options.seed)
        stats = report(server)
        if stats.get("curr_items") != str(options.records):
            print("curr_items is %s, not %d" % (stats.get("curr_items"), options.records))
            faults += 1
        begun = time.monotonic()
        server.terminate()
        print("stop: %.2f s" % (time.monotonic() - begun))
        server = common.Server(options.server, directory, flags)
        print("restart: %.2f s until it listens" % server.start_seconds, flush=True)
        faults += check("read after the restart", server.port, options, options.seed + 1)
        report(server)
        server.terminate()
    print("ok" if faults == 0 else "FAILED: %d faults" % faults)
    sys.exit(0 if faults == 0 else 1)


if __name__ == "__main__":
    main()
