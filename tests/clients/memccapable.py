"""libmemcached's conformance tests against a server of our own, text and binary: memccapable.py [--server PROGRAM]

With --port they are run against a server that is there.
"""

import argparse
import contextlib
import os
import shutil
import subprocess
import sys

import common


@contextlib.contextmanager
def serving(options):
    """The port of a server."""
    if options.port is not None:
        yield options.port
        return
    with common.scratch_directory() as scratch:
        server = common.Server(options.server, os.path.join(scratch, "data"), ["-m", "64", "--capacity", "512m"])
        yield server.port
        server.terminate()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--server", default=common.DEFAULT_SERVER)
    parser.add_argument("--port", type=int)
    options = parser.parse_args()
    tool = shutil.which("memccapable") or shutil.which("memcapable")
    if tool is None:
        print("skipped: memccapable (libmemcached-tools) is not installed")
        sys.exit(0)
    failed = 0
    for protocol, flag in (("text", "-a"), ("binary", "-b")):
        with serving(options) as port:
            line = [tool, flag, "-h", "127.0.0.1", "-p", str(port), "-t", "20"]
            result = subprocess.run(line, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300, check=False)
        print(result.stdout + result.stderr)
        passed, failures = result.stdout.count("[pass]"), result.stdout.count("[FAIL]")
        if result.returncode != 0 or passed == 0:
            failures = max(failures, 1)
        print("%s: %d of %d" % (protocol, passed, passed + failures))
        failed += failures
    print("ok" if failed == 0 else "FAILED: %d" % failed)
    sys.exit(0 if failed == 0 else 1)


if __name__ == "__main__":
    main()
