"""The same random commands to Debian's memcached and to a server of our own; every answer is compared.

    differential.py [--server PROGRAM] [--memcached PROGRAM] [--commands 100000] [--seed 1] [--mode ram|disk|both]
        [--protocols text,meta,binary] [--epoch NUMBER] [--failures 3] [--self-check]

Valid, odd and broken commands of the text, meta and binary protocols, pipelined, cut at random places that differ between the
two servers. In mode `disk` all our records are written to disk and leave RAM after every segment of a few commands; in mode
`ram` none is. What may differ is masked (differential/answers.py) or stands in a list with its reason (differential/permitted.py);
anything else is a failure: the shortest stream that shows it is printed. Exits with 1 then.

With --self-check a second memcached takes the place of our server: with the same options nothing may differ, with others
something must.
"""

import argparse
import atexit
import os
import random
import shutil
import socket
import subprocess
import sys
import time

import common
from differential import answers, model, pair, permitted, shrink

ITEM_SIZE = 16384
# A difference has to be seen again in so many sendings of its epoch, or to be the only one of its run: memcached pads numbers
# that get shorter by whether something else holds the item at the moment.
SENDINGS = 20
UNREPEATED = 1


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--server", default=common.DEFAULT_SERVER)
    parser.add_argument("--memcached", default="memcached")
    parser.add_argument("--commands", type=int, default=int(os.environ.get("DIFFERENTIAL_COMMANDS", "100000")), help="per mode")
    parser.add_argument("--seed", type=int, help="default: a new one each time, which is printed")
    parser.add_argument("--mode", choices=("ram", "disk", "both"), default="both")
    parser.add_argument("--protocols", default="text,meta,binary")
    parser.add_argument("--epoch", type=int, help="only this one: the one that a failure named")
    parser.add_argument("--failures", type=int, default=3, help="stop after so many")
    parser.add_argument("--self-check", action="store_true", help="compare memcached with memcached")
    return parser.parse_args()


class Memcached:
    """A memcached of Debian's."""

    def __init__(self, program, flags=()):
        found = shutil.which(program)
        if found is None:
            sys.exit("%s is not installed" % program)
        self.port = common.free_port()
        user = ["-u", "nobody"] if os.geteuid() == 0 else []
        items = ["-I", str(ITEM_SIZE), "-o", "slab_chunk_max=%d" % ITEM_SIZE] if "-I" not in flags else []
        # One thread: another may hold on to items of the connection before, and then numbers that get shorter are not padded.
        line = [found, *user, "-l", "127.0.0.1", "-p", str(self.port), "-U", "0", "-t", "1", "-m", "1024", *items, *flags]
        self.process = subprocess.Popen(line, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        # However this program ends.
        atexit.register(self.kill)
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                time.sleep(0.02)
        sys.exit("%s does not serve" % " ".join(line))

    def kill(self):
        self.process.kill()
        self.process.wait()


class Control:
    """A connection of the driver's own."""

    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        self.answers = self.socket.makefile("rb")

    def flush_to_disk(self):
        self.socket.sendall(b"debugflush\r\n")
        answer = self.answers.readline()
        if answer != b"OK\r\n":
            sys.exit("FAILED: debugflush was answered with %r: was the server started with --debug-commands?" % answer)

    def do(self, requests):
        """Sends requests whose answers do not matter."""
        self.socket.sendall(requests + b"version\r\n")
        while not self.answers.readline().startswith(b"VERSION "):
            pass


class Comparison:
    """A run of one mode."""

    def __init__(self, ports, options, mode, seed):
        self.protocols = options.protocols.split(",")
        self.controls = [Control(port) for port in ports]
        before_segment = self.controls[1].flush_to_disk if mode == "disk" else lambda: None
        self.pair = pair.Pair(ports, self.protocols, before_segment, self.send_aside, seed)
        self.options = options
        self.mode = mode
        self.seed = seed
        self.failures = 0
        self.unrepeated = 0
        # In memcached's other mode a thread holds on to items now and then, and what it does then to numbers that get
        # shorter, and to their times, depends on the moment.
        self.controls[0].do(b"lru mode flat\r\n")
        if options.self_check:
            self.controls[1].do(b"lru mode flat\r\n")

    def run(self):
        epoch = 0 if self.options.epoch is None else self.options.epoch
        while sum(self.pair.compared.values()) < self.options.commands and self.failures < self.options.failures:
            sessions, opaque_keys = pair.make_epoch(self.seed, epoch, self.protocols)
            found = self.pair.run(sessions, opaque_keys)
            self.clean_up()
            if found is not None and self.is_failure(epoch, sessions[: found[0] + 1], opaque_keys, found[1]):
                self.failures += 1
                self.report(epoch, sessions[: found[0] + 1], opaque_keys, found[1])
            epoch += 1
            if self.options.epoch is not None:
                break
        return self.failures

    def is_failure(self, epoch, sessions, opaque_keys, difference):
        """Whether a difference is seen again, or is one too many of those that are not."""
        compared = dict(self.pair.compared)
        for _ in range(SENDINGS):
            found = self.pair.run(sessions, opaque_keys)
            self.clean_up()
            if found is not None:
                break
        self.pair.compared = compared
        if found is None:
            self.unrepeated += 1
            print("seen once in %d sendings of epoch %d:" % (SENDINGS + 1, epoch))
            show(difference)
        return found is not None or self.unrepeated > UNREPEATED

    def clean_up(self):
        """Takes the keys of an epoch away, and a flush that is to come."""
        self.send_aside(self.pair.forget(self.pair.last_prefix()) + b"flush_all\r\n")

    def send_aside(self, requests):
        for control in self.controls:
            control.do(requests)

    def report(self, epoch, sessions, opaque_keys, difference):
        """Prints the difference with the shortest stream that shows it."""
        print("DIFFERENCE: --seed %s --epoch %d --mode %s --protocols %s" % (self.seed, epoch, self.mode, self.options.protocols))
        compared = dict(self.pair.compared)

        def sends(shorter, fence_all=True):
            found = self.pair.run(shorter, opaque_keys, fence_all)
            self.clean_up()
            return found[1] if found is not None else None

        shrinking = shrink.Shrinking(sends, sessions)
        result = shrinking.run()
        if result is None:
            shrinking = shrink.Shrinking(lambda shorter: sends(shorter, fence_all=False), sessions)
            result = shrinking.run()
        self.pair.compared = compared
        if result is None:
            print("it did not happen again; it was seen with")
            show(difference)
        else:
            print("the shortest stream, after %d tries:" % shrinking.tries)
            print("\n".join(shrink.description(result[0], self.pair.last_prefix())))
            show(result[1])


def show(difference):
    print("differs (%s):" % difference.protocol)
    for command in difference.commands:
        print("  sent      " + model.escaped(command))
    print("  memcached " + answers.show(difference.theirs))
    print("  server    " + answers.show(difference.ours), flush=True)


def compare(ports, options, mode, seed, name):
    """One run; gives its number of failures."""
    begun = time.monotonic()
    comparison = Comparison(ports, options, mode, seed)
    failures = comparison.run()
    by_protocol = ", ".join("%s %d" % item for item in comparison.pair.compared.items())
    total = sum(comparison.pair.compared.values())
    print("%s: %d commands compared (%s) in %.1f s, seed %s" % (name, total, by_protocol, time.monotonic() - begun, seed))
    for rule in permitted.RULES:
        count = comparison.pair.permitted.get(rule.name, 0)
        if count:
            print("  permitted, %d times: %s: %s" % (count, rule.name, rule.reason))
    print("  other differences: %s" % (failures if failures < options.failures else "%d, then it was stopped" % failures), flush=True)
    return failures


def against_server(options, seed):
    failures = 0
    for mode in ("ram", "disk") if options.mode == "both" else (options.mode,):
        memcached = Memcached(options.memcached)
        flags = ["-I", str(ITEM_SIZE), "-m", "64", "--capacity", "1g"]
        flags += ["--debug-commands"] if mode == "disk" else ["--flush-interval", "60s"]
        with common.scratch_directory() as scratch:
            server = common.Server(options.server, os.path.join(scratch, "data"), flags)
            try:
                failures += compare((memcached.port, server.port), options, mode, seed, "mode " + mode)
                server.terminate()
            finally:
                server.kill()
                memcached.kill()
    return failures


def self_check(options, seed):
    """Whether this program sees what it should: memcached against itself, and against itself with other options."""
    faults = 0
    for flags, differs in (((), False), (("-C",), True), (("-I", "2m"), True), (("-F",), True)):
        servers = [Memcached(options.memcached), Memcached(options.memcached, flags)]
        name = "memcached and memcached %s" % " ".join(flags)
        found = compare([server.port for server in servers], options, "ram", seed, name)
        for server in servers:
            server.kill()
        if (found > 0) != differs:
            print("FAILED: %s: %s" % (name, "no difference was seen" if differs else "differences were seen"))
            faults += 1
    return faults


def main():
    options = arguments()
    seed = random.randrange(1 << 32) if options.seed is None else options.seed
    failures = self_check(options, seed) if options.self_check else against_server(options, seed)
    print("ok" if failures == 0 else "FAILED: %d" % failures)
    sys.exit(0 if failures == 0 else 1)


if __name__ == "__main__":
    main()
