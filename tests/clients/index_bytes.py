"""What a key costs in RAM: by the server's own account (`index_bytes`), and by what the kernel says of the process.

    index_bytes.py [--records 3000000] [--memory 256] [--capacity 1G] [--directory DIR] [--server PROGRAM]

Stores small records and compares what the process' anonymous resident memory has grown by, less what `memtable_bytes` has, with
what `index_bytes` has. They have to agree within 3 %, and a key must cost at most 30 bytes when there are a million or more.
"""

import argparse
import os
import sys
import time

import common

ATTEMPTS_MAX = 4
DIFFERENCE_MAX = 0.03
BYTES_PER_KEY_MAX = 30.0
# From here on what the index takes for itself is nothing beside its entries.
MANY_RECORDS = 1000000
BATCH = 1000


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--server", default=common.DEFAULT_SERVER)
    parser.add_argument("--records", type=int, default=3000000)
    parser.add_argument("--memory", default="256", help="-m in MiB")
    parser.add_argument("--capacity", default="1G")
    parser.add_argument("--directory", help="where the data directory is made, instead of the system's scratch directory")
    return parser.parse_args()


def anonymous_bytes(pid):
    with open("/proc/%d/status" % pid) as status:
        for line in status:
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
    raise RuntimeError("no RssAnon in /proc/%d/status" % pid)


def look(server, client):
    """Once the last full table is sealed, which takes the disk a moment: its summaries are in memory until then."""
    looks = []
    for _ in range(8):
        time.sleep(0.7)
        looks.append(look_once(server, client))
    return min(looks, key=lambda look: look[0])


def look_once(server, client):
    stats = client.stats()
    numbers = {name: int(stats[name]) for name in ("index_bytes", "index_entries", "memtable_bytes")}
    return anonymous_bytes(server.process.pid), numbers


def store(client, start, end):
    """Without answers, which would only cost time; a version request at the end says that all is done."""
    for first in range(start, end, BATCH):
        numbers = range(first, min(first + BATCH, end))
        client.send([b"set key:%09d 0 0 4 noreply\r\nabcd\r\n" % number for number in numbers])
    client.send([b"version\r\n"])
    client.line()


def compare(options, directory):
    server = common.Server(options.server, directory, ["-m", options.memory, "--capacity", options.capacity])
    client = common.Pipeline(server.port)
    # What a server takes once, whatever it stores, it has taken after a few tables: the summaries of open ones above all.
    warm = options.records // 3
    store(client, 0, warm)
    resident_before, before = look(server, client)
    store(client, warm, options.records)
    resident, after = look(server, client)
    client.close()
    server.terminate()
    entries = after["index_entries"]
    if entries != options.records:
        sys.exit("FAILED: %d entries of %d records" % (entries, options.records))
    grown = {name: after[name] - before[name] for name in after}
    by_stats = grown["index_bytes"] / grown["index_entries"]
    by_kernel = (resident - resident_before - grown["memtable_bytes"]) / grown["index_entries"]
    per_key = after["index_bytes"] / entries
    difference = by_kernel / by_stats - 1
    print("%d records: index_bytes / index_entries %.2f" % (entries, per_key))
    print("while growing from %d: %.2f bytes per key by stats, %.2f by RssAnon (%+.1f %%)"
          % (warm, by_stats, by_kernel, 100 * difference))
    return abs(difference) <= DIFFERENCE_MAX and (entries < MANY_RECORDS or per_key <= BYTES_PER_KEY_MAX)


def main():
    options = arguments()
    # glibc keeps large blocks once it has seen some freed, and what it keeps is not the index: the summaries of a table are 15 MB.
    os.environ["MALLOC_MMAP_THRESHOLD_"] = "131072"
    # Memory comes in huge pages: two of them more or less at the moment of a look are 4 MiB. What is always wrong is so each time.
    for attempt in range(ATTEMPTS_MAX):
        with common.scratch_directory() as scratch:
            if compare(options, os.path.join(options.directory or scratch, "data-%d" % attempt)):
                print("ok")
                return
    sys.exit("FAILED")


if __name__ == "__main__":
    main()
