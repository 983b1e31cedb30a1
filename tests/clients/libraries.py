"""Client libraries against a server: all commands they have, large values, unicode and binary keys, timeouts, a restart.

    libraries.py [--server PROGRAM | --memcached PROGRAM | --port PORT] [--only NAME]

Each library goes through the same cases (libraries/cases.py) twice, the second time with all records forced to disk wherever a
case has written something, and reads what it has written again after a restart of the server. With --memcached they are run
against Debian's memcached, which has no disk and remembers nothing: that shows what the cases themselves are worth. Prints n of n
for each library; exits with 1 when one of them has failed.
"""

import argparse
import atexit
import contextlib
import importlib
import os
import signal
import socket
import subprocess
import sys
import time
import traceback

import common
from libraries import cases, programs

LIBRARIES = ("pymemcache", "pylibmc", "bmemcached", "aiomcache", "memcache")
REMEMBERED = {"remembered:%d" % size: cases.value_of("remembered", size) for size in (1, 5000, 300_000)}


class Server:
    """What the cases may do with a server beside asking it."""

    process = None
    has_disk = False

    def __init__(self, port):
        self.port = port

    def settle(self):
        """Forces all records to disk."""

    def restart(self):
        raise cases.Skipped("this server remembers nothing")

    @contextlib.contextmanager
    def stopped(self):
        self.process.send_signal(signal.SIGSTOP)
        try:
            if not cases.eventually(self.is_stopped):
                raise AssertionError("the server does not stop")
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)

    def is_stopped(self):
        """Whether all its threads are."""
        tasks = "/proc/%d/task" % self.process.pid
        return all(state_of(os.path.join(tasks, task, "stat")) == "T" for task in os.listdir(tasks))

    def end(self):
        pass


def state_of(path):
    with open(path) as stat:
        return stat.read().rpartition(")")[2].split()[0]


class Memcached(Server):
    """Debian's memcached."""

    def __init__(self, program):
        super().__init__(common.free_port())
        user = ["-u", "nobody"] if os.geteuid() == 0 else []
        self.process = subprocess.Popen([program, *user, "-l", "127.0.0.1", "-p", str(self.port), "-U", "0", "-m", "256"])
        atexit.register(self.end)
        if not cases.eventually(lambda: socket.create_connection(("127.0.0.1", self.port), timeout=1)):
            sys.exit("%s does not serve" % program)

    def end(self):
        self.process.kill()
        self.process.wait()


class Own(Server):
    """A server of our own."""

    has_disk = True

    def __init__(self, program, directory):
        self.program = program
        self.directory = directory
        self.begin()

    def begin(self):
        self.server = common.Server(self.program, self.directory, ["-m", "64", "--capacity", "1g", "--debug-commands"])
        self.process = self.server.process
        super().__init__(self.server.port)

    def settle(self):
        with socket.create_connection(("127.0.0.1", self.port), timeout=60) as connection:
            connection.sendall(b"debugflush\r\n")
            answer = connection.makefile("rb").readline()
            if answer != b"OK\r\n":
                raise AssertionError("debugflush was answered with %r" % answer)

    def restart(self):
        self.server.terminate()
        self.begin()

    def end(self):
        self.server.terminate()


class Tally:
    """How many cases of a library have passed."""

    def __init__(self, name, version):
        self.name = name
        self.version = version
        self.passed = 0
        self.failed = 0
        self.begun = time.monotonic()

    def run(self, what, action):
        try:
            action()
        except cases.Skipped:
            return
        except Exception:  # A library's own, or a check's: either way the case has failed.
            self.failed += 1
            print("FAILED: %s: %s\n%s" % (self.name, what, traceback.format_exc(limit=-3)), flush=True)
        else:
            self.passed += 1

    def show(self):
        seconds = time.monotonic() - self.begun
        print("%s %s: %d of %d, %.1f s" % (self.name, self.version, self.passed, self.passed + self.failed, seconds), flush=True)


def run_case(case, adapter_of, server, name, settles):
    client = adapter_of(server.port)
    try:
        for _ in case(client, name, server):
            if settles:
                server.settle()
    finally:
        client.close()


def run_library(name, version, adapter_of, server):
    tally = Tally(name, version)
    prefix = "".join(letter for letter in name if letter.isalnum())
    for settles in (False, True):
        for case, needed in cases.CASES:
            if not all(hasattr(adapter_of, method) for method in needed) or (case in cases.ONCE and not settles):
                continue
            key = "%s:%s:%s" % (prefix, case.__name__, "disk" if settles else "ram")
            what = "%s, records %s" % (case.__name__, "on disk" if settles else "in RAM")
            tally.run(what, lambda: run_case(case, adapter_of, server, key, settles))
    tally.run("restart", lambda: run_restart(adapter_of, server))
    tally.show()
    return tally.failed


def run_restart(adapter_of, server):
    """What was written before the server was started again is there after it."""
    client = adapter_of(server.port)
    for key, value in REMEMBERED.items():
        cases.check(client.set(key, value), True, "set of %s" % key)
    # A stop promises what the server has received, and a set without an answer may still be on its way.
    check_remembered(client, "before the restart")
    client.close()
    server.restart()
    client = adapter_of(server.port)
    check_remembered(client, "after the restart")
    client.close()


def check_remembered(client, when):
    for key, value in REMEMBERED.items():
        cases.check(client.get(key), value, "get of %s %s" % (key, when))


def run_program(name, program, server):
    """A program that runs its own cases, in another language."""
    if program.missing():
        print("%s %s: skipped: %s" % (name, program.version, program.missing()))
        return 0
    tally = Tally(name, program.version)
    for what, action in program.cases(server):
        tally.run(what, action)
    tally.show()
    return tally.failed


def start(options, directory):
    if options.port is not None:
        return Server(options.port)
    if options.memcached is not None:
        return Memcached(options.memcached)
    return Own(options.server, directory)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--server", default=common.DEFAULT_SERVER)
    parser.add_argument("--memcached", help="run against this memcached instead")
    parser.add_argument("--port", type=int, help="run against a server that is there")
    parser.add_argument("--only", help="libraries whose name begins so")
    options = parser.parse_args()
    failed = 0
    with common.scratch_directory() as scratch:
        server = start(options, os.path.join(scratch, "data"))
        try:
            for module_name in LIBRARIES:
                module = importlib.import_module("libraries." + module_name)
                for name, adapter_of in module.ADAPTERS.items():
                    if options.only is None or name.startswith(options.only):
                        failed += run_library(name, module.VERSION, adapter_of, server)
            for name, program in programs.PROGRAMS.items():
                if options.only is None or name.startswith(options.only):
                    failed += run_program(name, program, server)
        finally:
            server.end()
    print("ok" if failed == 0 else "FAILED: %d" % failed)
    sys.exit(0 if failed == 0 else 1)


if __name__ == "__main__":
    main()
