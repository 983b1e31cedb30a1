"""libmemcached's conformance tests of the text protocol against a server of our own: memccapable.py [--server PROGRAM]"""

import argparse
import os
import shutil
import subprocess
import sys

import common


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--server", default=common.DEFAULT_SERVER)
    options = parser.parse_args()
    tool = shutil.which("memccapable") or shutil.which("memcapable")
    if tool is None:
        print("skipped: memccapable (libmemcached-tools) is not installed")
        sys.exit(0)
    with common.scratch_directory() as scratch:
        server = common.Server(options.server, os.path.join(scratch, "data"), ["-m", "64", "--capacity", "512m"])
        line = [tool, "-a", "-h", "127.0.0.1", "-p", str(server.port), "-t", "20"]
        result = subprocess.run(line, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300, check=False)
        server.terminate()
    print(result.stdout + result.stderr)
    passed = result.stdout.count("[pass]")
    good = result.returncode == 0 and passed > 0 and "[FAIL]" not in result.stdout
    print("ok: %d" % passed if good else "FAILED")
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
