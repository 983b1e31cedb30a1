"""What the client programs share: a server that is started and ended, values derived from keys, a quick pipelined client.

pymemcache does the asking where the API matters; `Pipeline` does it where millions of records would take too long.
"""

import hashlib
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
DEFAULT_SERVER = os.path.join(os.environ.get("CARGO_TARGET_DIR", os.path.join(ROOT, "target")), "release", "dmacached")
START_SECONDS_MAX = 120


def key_of(number):
    return b"record:%010d" % number


def value_size(number):
    """100 to 2,000 bytes, told by the number."""
    return 100 + (number * 2654435761 >> 7) % 1901


def value_of(number, stamp=0):
    """The value of a record: a digest of its number and of a stamp, repeated."""
    digest = hashlib.blake2b(b"%d %d" % (number, stamp), digest_size=64).digest()
    size = value_size(number)
    return (digest * (size // 64 + 1))[:size]


def free_port():
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        return holder.getsockname()[1]


def scratch_directory():
    """A directory on the build's disk: /tmp may be a tmpfs."""
    base = os.path.join(os.environ.get("CARGO_TARGET_DIR", os.path.join(ROOT, "target")), "tmp")
    os.makedirs(base, exist_ok=True)
    return tempfile.TemporaryDirectory(prefix="clients-", dir=base)


class Server:
    """A dmacached that is started on a directory, and what it says on stderr."""

    def __init__(self, program, directory, flags):
        self.port = free_port()
        line = [program, "-p", str(self.port), "-l", "127.0.0.1", "--data-dir", directory, *flags]
        begun = time.monotonic()
        self.process = subprocess.Popen(line, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace")
        self.stderr = []
        self.listening = threading.Event()
        threading.Thread(target=self._collect, daemon=True).start()
        if not self.listening.wait(START_SECONDS_MAX) or self.process.poll() is not None:
            self.process.kill()
            sys.exit("%s does not serve:\n%s" % (" ".join(line), "".join(self.stderr)))
        self.start_seconds = time.monotonic() - begun

    def _collect(self):
        for text in self.process.stderr:
            self.stderr.append(text)
            if "listening on 127.0.0.1:%d" % self.port in text:
                self.listening.set()
        self.listening.set()

    def resident_bytes(self):
        with open("/proc/%d/status" % self.process.pid) as status:
            for text in status:
                if text.startswith("VmRSS:"):
                    return int(text.split()[1]) * 1024
        raise RuntimeError("no VmRSS")

    def terminate(self):
        """SIGTERM; anything but a clean exit ends the program with 1."""
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(timeout=120)
        except subprocess.TimeoutExpired:
            self.process.kill()
            sys.exit("SIGTERM did not end the server in 120 s:\n" + "".join(self.stderr))
        if code != 0:
            sys.exit("SIGTERM ended the server with %d:\n%s" % (code, "".join(self.stderr)))

    def kill(self):
        self.process.kill()
        self.process.wait()


class Pipeline:
    """One connection that sends many requests at once and reads their answers in order."""

    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.answers = self.socket.makefile("rb", buffering=1 << 18)

    def send(self, requests):
        self.socket.sendall(b"".join(requests))

    def line(self):
        text = self.answers.readline()
        if not text.endswith(b"\n"):
            raise ConnectionError("the server closed the connection")
        return text

    def get_many(self, numbers):
        """The values of records, in one multiget: a dictionary by number."""
        self.send([b"get ", b" ".join(map(key_of, numbers)), b"\r\n"])
        found = {}
        while True:
            words = self.line().split()
            if words == [b"END"]:
                return found
            if words[0] != b"VALUE":
                raise ValueError("answer to a get: %r" % b" ".join(words))
            found[int(words[1].split(b":")[1])] = self.answers.read(int(words[3]) + 2)[:-2]

    def stats(self):
        self.send([b"stats\r\n"])
        found = {}
        while True:
            words = self.line().split(None, 2)
            if words[0] == b"END":
                return found
            found[words[1].decode()] = words[2].strip().decode() if len(words) > 2 else ""

    def close(self):
        self.answers.close()
        self.socket.close()


def set_request(number, stamp=0):
    value = value_of(number, stamp)
    return b"set %b 0 0 %d\r\n%b\r\n" % (key_of(number), len(value), value)


def verify(port, numbers, batch=50):
    """Reads the records one `get` each, pipelined, and compares every byte; gives (wrong, missing)."""
    client = Pipeline(port)
    wrong = missing = 0
    for start in range(0, len(numbers), batch):
        part = numbers[start : start + batch]
        client.send([b"get %b\r\n" % key_of(number) for number in part])
        for number in part:
            words = client.line().split()
            if words == [b"END"]:
                missing += 1
                continue
            value = client.answers.read(int(words[3]) + 2)[:-2]
            if words[:2] != [b"VALUE", key_of(number)] or value != value_of(number) or client.line() != b"END\r\n":
                wrong += 1
    client.close()
    return wrong, missing


def sample(count, record_count, seed):
    chooser = random.Random(seed)
    return [chooser.randrange(record_count) for _ in range(count)]


def mebibytes(count):
    return "%.1f MiB" % (count / (1 << 20))
