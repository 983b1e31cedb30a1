"""Connections that come and go in every way there is: afterwards the server has as many descriptors as before, and no more memory.

    soak.py [--connections 20000] [--processes 4] [--server PROGRAM]

CONNECTIONS in the environment sets the number, too; 200,000 take some minutes. Descriptors and resident memory are looked at whenever a
fifth of the connections is over and all of them are closed. Exits with 1 when a descriptor is left over, when memory grows by more than
10 % and 2 MiB after the first fifth, or when a server that has been through all of this does not answer rightly.
"""

import argparse
import multiprocessing
import os
import random
import socket
import struct
import sys
import time

import common

LARGE_SIZE = 1 << 20
LARGE_KEYS = [b"large-%d" % number for number in range(4)]
RECORD_COUNT = 2000
SAMPLES = 5
SECONDS_MAX = 60
TIMEOUT_SECONDS = 60
RESET = struct.pack("ii", 1, 0)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--server", default=common.DEFAULT_SERVER)
    parser.add_argument("--connections", type=int, default=int(os.environ.get("CONNECTIONS", "20000")))
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    return parser.parse_args()


def connect(port):
    connection = socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_SECONDS)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def reset(connection):
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)


def expect(connection, answer):
    """Reads as many bytes as the answer has; they must be the answer."""
    got = bytearray()
    while len(got) < len(answer):
        piece = connection.recv(len(answer) - len(got))
        if not piece:
            break
        got += piece
    if got != answer:
        raise ValueError("got %r... instead of %r..." % (bytes(got[:100]), answer[:100]))


def expect_end(connection):
    piece = connection.recv(100)
    if piece:
        raise ValueError("%r where the connection had to be closed" % piece)


def value_answer(number):
    value = common.value_of(number)
    return b"VALUE %b 0 %d\r\n%b\r\nEND\r\n" % (common.key_of(number), len(value), value)


def get_request(number):
    return b"get %b\r\n" % common.key_of(number)


def set_and_get(connection, chooser):
    number = chooser.randrange(RECORD_COUNT)
    connection.sendall(common.set_request(number))
    expect(connection, b"STORED\r\n")
    connection.sendall(get_request(number))
    expect(connection, value_answer(number))


def quit_politely(connection, chooser):
    number = chooser.randrange(RECORD_COUNT)
    connection.sendall(get_request(number) + b"quit\r\nversion\r\n")
    expect(connection, value_answer(number))
    # What stands behind the quit may make this a reset.
    try:
        expect_end(connection)
    except ConnectionResetError:
        pass


def half_close(connection, chooser):
    numbers = [chooser.randrange(RECORD_COUNT) for _ in range(20)]
    connection.sendall(b"".join(map(get_request, numbers)))
    connection.shutdown(socket.SHUT_WR)
    expect(connection, b"".join(map(value_answer, numbers)))
    expect_end(connection)


def reset_with_requests(connection, chooser):
    connection.sendall(b"".join(get_request(chooser.randrange(RECORD_COUNT)) for _ in range(50)))
    reset(connection)


def say_nothing(connection, chooser):
    if chooser.random() < 0.5:
        reset(connection)


def half_a_request(connection, chooser):
    number = chooser.randrange(RECORD_COUNT)
    request = chooser.choice([common.set_request(number), get_request(number)])
    connection.sendall(request[: chooser.randrange(1, len(request))])


def half_a_large_value(connection, chooser):
    connection.sendall(b"set half 0 0 1000000\r\n" + bytes(chooser.randrange(200_000)))


def read_slowly_and_reset(connection, chooser):
    connection.sendall(b"".join(b"get %b\r\n" % key for key in LARGE_KEYS))
    for _ in range(chooser.randrange(4)):
        connection.recv(4096)
    reset(connection)


# What connections do, and how many of 100 do it.
MIX = [
    (set_and_get, 30),
    (quit_politely, 15),
    (half_close, 10),
    (reset_with_requests, 12),
    (say_nothing, 15),
    (half_a_request, 12),
    (half_a_large_value, 4),
    (read_slowly_and_reset, 2),
]


def work(port, count, seed):
    """Opens and closes so many connections, several at a time; gives what went wrong."""
    chooser = random.Random(seed)
    kinds, weights = zip(*MIX)
    kept = []
    for _ in range(count):
        kind = chooser.choices(kinds, weights)[0]
        try:
            connection = connect(port)
            kind(connection, chooser)
        except (OSError, ValueError) as error:
            return "%s: %s" % (kind.__name__, error)
        kept.append(connection)
        # The connections of a process overlap.
        while len(kept) > chooser.randrange(20):
            kept.pop(chooser.randrange(len(kept))).close()
    for connection in kept:
        connection.close()
    return ""


def fill(port):
    client = common.Pipeline(port)
    for number in range(RECORD_COUNT):
        client.send([common.set_request(number)])
    for key in LARGE_KEYS:
        # One byte below what fits in an item of the default size is not worth the trouble.
        client.send([b"set %b 0 0 %d\r\n%b\r\n" % (key, LARGE_SIZE - 1000, bytes(LARGE_SIZE - 1000))])
    for _ in range(RECORD_COUNT + len(LARGE_KEYS)):
        if client.line() != b"STORED\r\n":
            sys.exit("the records could not be stored")
    client.close()


def descriptor_count(server):
    """Open descriptors but for the tables, whose number grows with what is stored."""
    directory = "/proc/%d/fd" % server.process.pid
    count = 0
    for name in os.listdir(directory):
        try:
            count += not os.readlink(os.path.join(directory, name)).endswith(".dmt")
        except FileNotFoundError:  # closed in between
            pass
    return count


def settled_descriptor_count(server, expected):
    """The number of descriptors once it is what is expected, or after a while in which it has not become that."""
    end = time.monotonic() + SECONDS_MAX
    while descriptor_count(server) != expected and time.monotonic() < end:
        time.sleep(0.02)
    return descriptor_count(server)


def connections_of(server):
    client = common.Pipeline(server.port)
    stats = client.stats()
    client.close()
    return stats


def soak(server, options):
    """Gives the complaints, after printing the table."""
    complaints = []
    at_start = descriptor_count(server)
    print("%12s %12s %12s %10s" % ("connections", "descriptors", "resident", "seconds"))
    print("%12d %12d %12s %10s" % (0, at_start, common.mebibytes(server.resident_bytes()), "-"))
    resident = []
    part = options.connections // SAMPLES // options.processes
    begun = time.monotonic()
    with multiprocessing.Pool(options.processes) as pool:
        for sample in range(SAMPLES):
            seeds = [options.seed + sample * options.processes + number for number in range(options.processes)]
            failures = pool.starmap(work, [(server.port, part, seed) for seed in seeds])
            complaints += [failure for failure in failures if failure]
            if server.process.poll() is not None:
                return complaints + ["the server has ended: %s" % "".join(server.stderr)]
            descriptors = settled_descriptor_count(server, at_start)
            resident.append(server.resident_bytes())
            done = part * options.processes * (sample + 1)
            row = (done, descriptors, common.mebibytes(resident[-1]), time.monotonic() - begun)
            print("%12d %12d %12s %10.1f" % row, flush=True)
            if descriptors != at_start:
                complaints.append("%d descriptors after %d connections, %d at the start" % (descriptors, done, at_start))
    bound = resident[0] * 1.1 + (2 << 20)
    if resident[-1] > bound:
        complaints.append("resident %d bytes, more than %d: 10 %% and 2 MiB above those of the first fifth" % (resident[-1], bound))
    return complaints


def main():
    options = arguments()
    print("seed %d" % options.seed)
    with common.scratch_directory() as scratch:
        flags = ["-m", "64", "--capacity", "256m", "--table-size", "16m"]
        directory = os.path.join(scratch, "data")
        # The restart leaves all records on disk; those that are set again move to memory.
        filled = common.Server(options.server, directory, flags)
        fill(filled.port)
        filled.terminate()
        server = common.Server(options.server, directory, flags)
        complaints = soak(server, options)
        if server.process.poll() is None:
            wrong, missing = common.verify(server.port, list(range(RECORD_COUNT)))
            if wrong or missing:
                complaints.append("%d records wrong, %d missing" % (wrong, missing))
            stats = connections_of(server)
            print(", ".join("%s %s" % (name, stats[name]) for name in ("total_connections", "curr_connections", "idle_kicks")))
            if stats["curr_connections"] != "1":
                complaints.append("curr_connections is %s, 1 is there" % stats["curr_connections"])
            server.terminate()
    for complaint in complaints:
        print("WRONG:", complaint)
    sys.exit(1 if complaints else 0)


if __name__ == "__main__":
    main()
