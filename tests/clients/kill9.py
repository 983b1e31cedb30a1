"""SIGKILL in the middle of a load, again and again: what was promised must be there, and nothing may be that was not written.

    kill9.py [--rounds 50] [--durability memory|sync|both] [--seed NUMBER] [--flush-interval-ms 20] [--server PROGRAM] [--verbose]

In each round several clients store, delete and touch records of their own, pipelined, with flush_all in between; the server is
killed at a random moment, now and then while it stops, may be killed again while it starts, and then every record is compared
with what its client knows. The seed makes all choices again, not the moments. What is judged is told in killing/history.py. Exits
with 1 when something is wrong.
"""

import argparse
import os
import random
import subprocess
import sys
import time

import common
from killing.clients import Client, Gate, Pacer
from killing.history import Unique, faults_of
from killing.reader import read_all
from killing.watcher import Watcher

CLIENT_COUNT = 4
KEYS_PER_CLIENT = 250
ROUNDS_PER_DIRECTORY = 10
# Tables that are never used again, and tables that are all the time.
ROOMY = ["--capacity", "512m", "--table-size", "4m"]
NARROW = ["--capacity", "20m", "--table-size", "1m"]


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--server", default=common.DEFAULT_SERVER)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=1.0, help="longest time before the kill")
    parser.add_argument("--flush-interval-ms", type=int, default=20)
    parser.add_argument("--durability", choices=("memory", "sync", "both"), default="both", help="both: in turns")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    parser.add_argument("--verbose", action="store_true", help="a line for each round")
    return parser.parse_args()


def knows(program, *words):
    """Whether the program's help, asked with the words but the last, has the last."""
    line = [program, *words[:-1], "--help"]
    asked = subprocess.run(line, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    return asked.returncode == 0 and words[-1] in asked.stdout


class Totals:
    """What was seen in all rounds."""

    def __init__(self):
        self.rounds = self.acknowledged = self.lost = self.interrupted = self.stopped = self.verified = self.faults = 0
        self.oldest_loss = 0.0


class Life:
    """One data directory, through some kills."""

    def __init__(self, options, directory, durability, chooser, totals):
        self.options, self.directory, self.durability = options, directory, durability
        self.chooser, self.totals = chooser, totals
        self.is_narrow = chooser.random() < 0.5
        size = NARROW if self.is_narrow else ROOMY
        self.flags = ["-m", "64", "-I", "256k", *size, "--flush-interval", "%dms" % options.flush_interval_ms]
        if knows(options.server, "--durability"):
            self.flags += ["--durability", durability]
        self.can_verify = knows(options.server, "verify")
        self.unique = Unique()
        # What is known of each key of each client.
        self.known = [{} for _ in range(CLIENT_COUNT)]
        self.stamp = 0
        self.server = self.start()

    def start(self):
        return common.Server(self.options.server, self.directory, self.flags)

    def name(self):
        return "%s, %s" % (self.durability, "tables are used again" if self.is_narrow else "roomy")

    def fault(self, text):
        self.totals.faults += 1
        print("FAULT in round %d (%s): %s" % (self.totals.rounds, self.name(), text), flush=True)

    def round(self):
        """Load, a kill, a start, and the comparison."""
        chooser, gate = self.chooser, Gate()
        # Often so short that nothing of it is on disk.
        seconds = chooser.uniform(0.005, 0.06) if chooser.random() < 0.25 else chooser.uniform(0.05, self.options.seconds)
        seeds = [chooser.randrange(1 << 30) for _ in range(CLIENT_COUNT + 1)]
        clients = []
        for number in range(CLIENT_COUNT):
            keys = range(number * KEYS_PER_CLIENT, (number + 1) * KEYS_PER_CLIENT)
            client = Client(self.server.port, keys, self.known[number], self.stamp, seeds[number], gate, self.is_narrow)
            clients.append(client)
        watcher, pacer = Watcher(self.server.port), Pacer(self.server.port, clients, seeds[-1], gate)
        threads = [watcher, pacer, *clients]
        for thread in threads:
            thread.start()
        time.sleep(seconds)
        killed = time.monotonic()
        ended_well = chooser.random() < 0.15 and self.stop(chooser.uniform(0, 0.15))
        self.server.kill()
        gate.finish()
        for thread in threads:
            thread.join(120)
            if thread.is_alive():
                sys.exit("FAILED: %s does not end" % thread.__class__.__name__)
            if thread.failure is not None:
                self.fault(thread.failure)
        self.totals.rounds += 1
        interval = self.options.flush_interval_ms / 1000
        if self.durability == "sync" or ended_well:
            # What was answered until the very end.
            promised = time.monotonic()
        else:
            promised = max(watcher.all_on_disk, killed - watcher.lateness(killed, interval))
        self.start_again()
        self.judge(clients, promised, killed)
        self.stamp = max(client.stamp for client in clients)

    def stop(self, seconds):
        """Asks the server to end, and says whether it has done so after that time: if not, it is killed on its way."""
        self.server.process.terminate()
        try:
            code = self.server.process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            return False
        if code != 0:
            self.fault("SIGTERM ended the server with %d:\n%s" % (code, "".join(self.server.stderr)))
        self.totals.stopped += 1
        return code == 0

    def start_again(self):
        """Starts the server, after some starts that are killed as well."""
        chooser, took = self.chooser, self.server.start_seconds
        while chooser.random() < 0.4:
            line = [self.options.server, "-p", "-1", "-l", "127.0.0.1", "--data-dir", self.directory, *self.flags]
            process = subprocess.Popen(line, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            time.sleep(chooser.uniform(0, 1.3 * took))
            if process.poll() not in (None, 0):
                self.fault("a start ended with %s" % process.returncode)
            process.kill()
            process.wait()
            self.totals.interrupted += 1
        if self.can_verify and chooser.random() < 0.1:
            self.verify()
        self.server = self.start()

    def verify(self):
        line = [self.options.server, "verify", "--data-dir", self.directory]
        done = subprocess.run(line, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        self.totals.verified += 1
        if done.returncode != 0:
            self.fault("%s ended with %d:\n%s%s" % (" ".join(line), done.returncode, done.stdout, done.stderr))

    def judge(self, clients, promised, killed):
        keys = [key for client in clients for key in client.keys]
        found, broken_values = read_all(self.server.port, keys)
        for text in broken_values:
            self.fault(text)
        acknowledged = lost = 0
        oldest = 0.0
        for number, client in enumerate(clients):
            text = self.unique.check(client.uniques)
            if text is not None:
                self.fault(text)
            for key in client.keys:
                history = client.histories[key]
                result = faults_of(history, found.get(key), promised, self.is_narrow)
                acknowledged += history.acknowledged()
                lost += result.lost
                if result.oldest is not None:
                    oldest = max(oldest, killed - result.oldest)
                if result.fault is not None:
                    self.fault("key %d: %s; %s" % (key, result.fault, history.told(promised, killed)))
                self.known[number][key] = found.get(key)
        self.unique.end_round(state.cas for state in found.values())
        totals = self.totals
        totals.acknowledged += acknowledged
        totals.lost += lost
        totals.oldest_loss = max(totals.oldest_loss, oldest)
        if self.options.verbose:
            print(
                "round %d (%s): %d acknowledged, tail of %d lost, the oldest %.0f ms before the kill, promised up to %.0f ms; "
                "start %.2f s" % (totals.rounds, self.name(), acknowledged, lost, oldest * 1000, (killed - promised) * 1000,
                                  self.server.start_seconds),
                flush=True,
            )

    def end(self):
        """A clean stop loses nothing."""
        self.server.terminate()
        if self.can_verify:
            self.verify()
        self.server = self.start()
        keys = [key for known in self.known for key in known]
        found, broken_values = read_all(self.server.port, keys)
        for text in broken_values:
            self.fault(text)
        for known in self.known:
            for key, state in known.items():
                if found.get(key) != state:
                    self.fault("key %d: %s before a clean stop, %s after it" % (key, state, found.get(key)))
        self.server.terminate()


def main():
    options = arguments()
    levels = ["memory", "sync"] if options.durability == "both" else [options.durability]
    if "sync" in levels and not knows(options.server, "--durability"):
        if options.durability == "sync":
            sys.exit("FAILED: %s has no --durability" % options.server)
        levels.remove("sync")
        print("%s has no --durability: memory only" % options.server)
    print("--seed %d" % options.seed, flush=True)
    chooser, totals, begun = random.Random(options.seed), Totals(), time.monotonic()
    life_count = 0
    while totals.rounds < options.rounds:
        with common.scratch_directory() as scratch:
            level = levels[life_count % len(levels)]
            life = Life(options, os.path.join(scratch, "data"), level, chooser, totals)
            try:
                for _ in range(min(ROUNDS_PER_DIRECTORY, options.rounds - totals.rounds)):
                    life.round()
                life.end()
            finally:
                life.server.kill()
        life_count += 1
        if life_count % 10 == 0:
            print("%d rounds, %d faults" % (totals.rounds, totals.faults), flush=True)
    print(
        "%d rounds on %d directories in %.0f s, %d ended well, %d starts killed, %d times verified"
        % (totals.rounds, life_count, time.monotonic() - begun, totals.stopped, totals.interrupted, totals.verified)
    )
    print(
        "%d writes acknowledged, %d lost with the tail, the oldest %.0f ms before its kill; %d faults"
        % (totals.acknowledged, totals.lost, totals.oldest_loss * 1000, totals.faults)
    )
    if totals.acknowledged == 0:
        sys.exit("FAILED: nothing was acknowledged")
    print("ok" if totals.faults == 0 else "FAILED: %d faults" % totals.faults)
    sys.exit(0 if totals.faults == 0 else 1)


if __name__ == "__main__":
    main()
