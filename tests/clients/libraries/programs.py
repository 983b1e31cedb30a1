"""Client libraries of other languages: programs that run cases of their own.

They are started with a port, `cases`, `remember` or `recall`, whether records are forced to disk, and the server's process
number or 0; they print `ok NAME` or `FAILED NAME: reason` for each case.
"""

import json
import os
import shutil
import subprocess

import common

from . import cases

HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
TARGET = os.path.abspath(os.environ.get("CARGO_TARGET_DIR", os.path.join(common.ROOT, "target")))
SECONDS_MAX = 300


class Program:
    """A program and what it is started with."""

    def __init__(self, version, line, environment=None, needed=()):
        self.version = version
        self.line = line
        self.environment = {**os.environ, **(environment or {})}
        self.needed = needed

    def missing(self):
        """Why it cannot be run, if so."""
        absent = [path for path in (self.line[0], *self.needed) if not (shutil.which(path) or os.path.exists(path))]
        return "%s is not there" % absent[0] if absent else None

    def results(self, server, phase, settles):
        """Names of cases, and why they have failed, or None."""
        process = server.process.pid if server.process else 0
        line = [*self.line, str(server.port), phase, "1" if settles else "0", str(process)]
        options = {"env": self.environment, "stdin": subprocess.DEVNULL, "timeout": SECONDS_MAX}
        done = subprocess.run(line, capture_output=True, text=True, check=False, **options)
        found = []
        for text in done.stdout.splitlines():
            if text.startswith("ok "):
                found.append((text[3:], None))
            elif text.startswith("FAILED "):
                found.append(tuple(text[7:].split(": ", 1)))
        if done.returncode != 0 or not found:
            found.append(("the program itself", "status %d: %s" % (done.returncode, done.stdout[-500:] + done.stderr[-2000:])))
        return found

    def cases(self, server):
        """All cases: names, and functions that raise when they have failed."""
        for settles in (False, True) if server.has_disk else (False,):
            for name, reason in self.results(server, "cases", settles):
                yield "%s, records %s" % (name, "on disk" if settles else "in RAM"), lambda: raise_for(reason)
        yield "restart", lambda: self.restart(server)

    def restart(self, server):
        for name, reason in self.results(server, "remember", False):
            cases.check(reason, None, name)
        server.restart()
        for name, reason in self.results(server, "recall", False):
            cases.check(reason, None, name)


def raise_for(reason):
    if reason is not None:
        raise AssertionError(reason)


def pinned(*path):
    with open(os.path.join(HERE, *path)) as source:
        return json.load(source)["dependencies"]["memjs"]


def crate_version(name):
    with open(os.path.join(HERE, "rust", "Cargo.toml")) as source:
        line = next(line for line in source if line.startswith(name + " "))
    return line.split('"')[1].lstrip("=")


# tests/run installs the modules and builds the program.
NODE_MODULES = os.path.join(TARGET, "memjs", "node_modules")
RUST_PROGRAM = os.path.join(TARGET, "release", "memcache-cases")
PROGRAMS = {
    "memjs": Program(
        pinned("memjs", "package.json"), ["node", os.path.join(HERE, "memjs", "cases.js")], {"NODE_PATH": NODE_MODULES}, [NODE_MODULES]
    ),
    "memcache crate, text": Program(crate_version("memcache"), [RUST_PROGRAM, "ascii"]),
    "memcache crate, binary": Program(crate_version("memcache"), [RUST_PROGRAM, "binary"]),
}
