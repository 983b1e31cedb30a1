"""SIGKILL in the middle of a load: what was acknowledged long enough ago has to be there, and nothing may be wrong.

    kill9.py [--rounds 10] [--seconds 4] [--flush-interval-ms 200] [--server PROGRAM]

Each round sets records in order, notes when each was answered, kills the server at a random moment, starts it again and reads all
records. A record whose answer came more than the flush interval and a margin of a second before the kill must be there, with the
value of that or a later set. Prints how much of the tail was lost. Exits with 1 when a promise was broken.
"""

import argparse
import os
import random
import sys
import threading
import time

import common

BATCH = 100
MARGIN_SECONDS = 1.0


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--server", default=common.DEFAULT_SERVER)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=4.0, help="longest time before the kill")
    parser.add_argument("--flush-interval-ms", type=int, default=200)
    parser.add_argument("--records", type=int, default=20000, help="different keys of a round; they are overwritten in turn")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    return parser.parse_args()


class Writer(threading.Thread):
    """Sets records until the server is gone; `acknowledged` and `sent` hold (stamp, time) by record number."""

    def __init__(self, port, first_stamp, record_count):
        super().__init__(daemon=True)
        self.port, self.stamp, self.record_count = port, first_stamp, record_count
        self.acknowledged = {}
        self.sent = {}
        self.failure = None

    def run(self):
        try:
            client = common.Pipeline(self.port)
            while True:
                for start in range(0, self.record_count, BATCH):
                    self.batch(client, range(start, min(start + BATCH, self.record_count)))
                self.stamp += 1
        except OSError:
            pass
        except ValueError as error:
            self.failure = str(error)

    def batch(self, client, numbers):
        for number in numbers:
            self.sent.setdefault(number, []).append(self.stamp)
        client.send([common.set_request(number, self.stamp) for number in numbers])
        for number in numbers:
            answer = client.line()
            if answer != b"STORED\r\n":
                raise ValueError("answer to a set: %r" % answer)
            self.acknowledged.setdefault(number, []).append((self.stamp, time.monotonic()))


def judge(found, writer, earlier, killed, promised_age):
    """Compares what is there with what was said; gives (wrong, broken, lost, values kept by number, oldest loss in seconds)."""
    wrong = broken = lost = 0
    kept = {}
    oldest_loss = 0.0
    for number in range(writer.record_count):
        value = found.get(number)
        known = earlier.get(number, []) + writer.sent.get(number, [])
        stamp = next((stamp for stamp in reversed(known) if value == common.value_of(number, stamp)), None)
        if value is not None and stamp is None:
            wrong += 1
            continue
        if stamp is not None:
            kept[number] = [stamp]
        position = -1 if stamp is None else known.index(stamp)
        for answered, moment in writer.acknowledged.get(number, []):
            if known.index(answered) > position:
                lost += 1
                oldest_loss = max(oldest_loss, killed - moment)
                broken += killed - moment > promised_age
        if number not in writer.acknowledged and number in earlier and stamp is None:
            broken += 1
    return wrong, broken, lost, kept, oldest_loss


def read_all(port, count):
    client = common.Pipeline(port)
    found = {}
    for start in range(0, count, BATCH):
        found.update(client.get_many(range(start, min(start + BATCH, count))))
    client.close()
    return found


def main():
    options = arguments()
    print("seed %d" % options.seed)
    chooser = random.Random(options.seed)
    flags = ["-m", "64", "--capacity", "1g", "--table-size", "16m", "--flush-interval", "%dms" % options.flush_interval_ms]
    promised_age = options.flush_interval_ms / 1000 + MARGIN_SECONDS
    faults, stamp, earlier = 0, 1, {}
    with common.scratch_directory() as scratch:
        directory = os.path.join(scratch, "data")
        server = common.Server(options.server, directory, flags)
        for round_number in range(1, options.rounds + 1):
            writer = Writer(server.port, stamp, options.records)
            writer.start()
            time.sleep(chooser.uniform(promised_age + 0.2, max(options.seconds, promised_age + 0.3)))
            killed = time.monotonic()
            server.kill()
            writer.join(60)
            server = common.Server(options.server, directory, flags)
            found = read_all(server.port, options.records)
            wrong, broken, lost, earlier, oldest = judge(found, writer, earlier, killed, promised_age)
            acknowledged = sum(map(len, writer.acknowledged.values()))
            print(
                "round %d: %d acknowledged, tail of %d lost, the oldest %.0f ms before the kill; %d wrong, %d promises broken; "
                "restart %.2f s" % (round_number, acknowledged, lost, oldest * 1000, wrong, broken, server.start_seconds),
                flush=True,
            )
            if acknowledged == 0 or writer.failure:
                print("the writer failed: %s" % writer.failure)
                faults += 1
            faults += wrong + broken
            stamp = writer.stamp + 1
        server.terminate()
    print("ok" if faults == 0 else "FAILED: %d faults" % faults)
    sys.exit(0 if faults == 0 else 1)


if __name__ == "__main__":
    main()
