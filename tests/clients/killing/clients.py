"""Clients that write until the server is gone, each its own keys, and remember what each key must be."""

import dataclasses
import random
import threading
import time

import common
from killing.history import History, State, value_of

BATCH_SIZE_MAX = 40
# Expiry times are multiples of it, so that what is found says which one it was.
EXPIRY_STEP = 1000


class Gate:
    """Many batches at once, or none."""

    def __init__(self):
        self.condition = threading.Condition()
        self.active = 0
        self.is_closed = self.is_finished = False

    def enter(self):
        with self.condition:
            self.condition.wait_for(lambda: self.is_finished or not self.is_closed)
            self.active += 1

    def leave(self):
        with self.condition:
            self.active -= 1
            self.condition.notify_all()

    def close(self):
        """Waits until no batch is under way. False at the end."""
        with self.condition:
            self.is_closed = True
            self.condition.wait_for(lambda: self.is_finished or self.active == 0)
            return not self.is_finished

    def open(self):
        with self.condition:
            self.is_closed = False
            self.condition.notify_all()

    def finish(self):
        """The server is gone."""
        with self.condition:
            self.is_finished = True
            self.condition.notify_all()

    def pause(self, seconds):
        """False at the end."""
        with self.condition:
            self.condition.wait_for(lambda: self.is_finished, seconds)
            return not self.is_finished


class Actor(threading.Thread):
    """A thread that talks with a server that will be killed; `failure` says what went wrong before."""

    def __init__(self, port):
        super().__init__(daemon=True)
        self.port, self.failure = port, None

    def run(self):
        try:
            self.talk(common.Pipeline(self.port))
        except OSError:
            # The kill.
            pass
        except ValueError as error:
            self.failure = "%s: %s" % (type(self).__name__, error)


class Client(Actor):
    """Writes to its keys in batches."""

    def __init__(self, port, keys, known, stamp, seed, gate, may_be_evicted):
        super().__init__(port)
        self.keys, self.stamp, self.gate, self.may_be_evicted = keys, stamp, gate, may_be_evicted
        self.histories = {key: History(known.get(key)) for key in keys}
        self.uniques = []
        self.chooser = random.Random(seed)

    def talk(self, connection):
        while not self.gate.is_finished:
            self.gate.enter()
            try:
                self.batch(connection)
            finally:
                self.gate.leave()

    def batch(self, connection):
        chooser = self.chooser
        # A few keys are written again and again.
        keys = [self.keys[int(len(self.keys) * chooser.random() ** 2)] for _ in range(chooser.randint(1, BATCH_SIZE_MAX))]
        used, pending = set(), []
        for key in keys:
            pending.append(self.request(key, key not in used))
            used.add(key)
        connection.send([request for request, _ in pending])
        for _, heed in pending:
            heed(connection.line()[:-2], time.monotonic())

    def request(self, key, is_settled):
        """A request, and what is to be done with its answer. `is_settled`: nothing of the key is under way."""
        known, drawn = self.histories[key].last(), self.chooser.random()
        if drawn < 0.40:
            return self.set_plain(key)
        if drawn < 0.65:
            return self.set_meta(key, None)
        if drawn < 0.75 and is_settled and known is not None and known.cas is not None:
            return self.set_meta(key, known.cas)
        if drawn < 0.87:
            return self.delete(key)
        return self.touch(key)

    def state(self):
        chooser, drawn = self.chooser, self.chooser.random()
        least, most = (40, 900) if drawn < 0.7 else (900, 6000) if drawn < 0.96 else (6000, 90000)
        self.stamp += 1
        expiry = self.expiry() if chooser.random() < 0.3 else 0
        return State(self.stamp, chooser.randint(least, most), chooser.randrange(1 << 32), expiry)

    def expiry(self):
        """Days away, and a number of its own."""
        return (int(time.time()) // EXPIRY_STEP + self.chooser.randint(100, 100000)) * EXPIRY_STEP

    def set_plain(self, key):
        state = self.state()
        write = self.histories[key].add(state)

        def heed(answer, moment):
            if answer != b"STORED":
                raise ValueError("answer to a set: %r" % answer)
            write.moment = moment

        value = value_of(key, state.stamp, state.size)
        return b"set key:%d %d %d %d\r\n%b\r\n" % (key, state.flags, state.expiry, state.size, value), heed

    def set_meta(self, key, compared):
        state = self.state()
        write = self.histories[key].add(state)

        def heed(answer, moment):
            if compared is not None and answer.startswith(b"NF") and self.may_be_evicted:
                write.state, write.moment = None, moment
                return
            if not answer.startswith(b"HD c"):
                raise ValueError("answer to an ms: %r" % answer)
            unique = int(answer[4:])
            self.uniques.append(unique)
            write.state, write.moment = dataclasses.replace(write.state, cas=unique), moment

        expiry = b" T%d" % state.expiry if state.expiry else b""
        compare = b" C%d" % compared if compared is not None else b""
        value = value_of(key, state.stamp, state.size)
        request = b"ms key:%d %d c F%d%b%b\r\n%b\r\n" % (key, state.size, state.flags, expiry, compare, value)
        return request, heed

    def delete(self, key):
        is_there = self.histories[key].last() is not None
        write = self.histories[key].add(None)

        def heed(answer, moment):
            if answer != (b"DELETED" if is_there else b"NOT_FOUND") and not (answer == b"NOT_FOUND" and self.may_be_evicted):
                raise ValueError("answer to a delete of key %d: %r" % (key, answer))
            write.moment = moment

        return b"delete key:%d\r\n" % key, heed

    def touch(self, key):
        before, expiry = self.histories[key].writes[-1], self.expiry()
        is_there = before.state is not None
        write = self.histories[key].add(dataclasses.replace(before.state, expiry=expiry) if is_there else None)

        def heed(answer, moment):
            if answer == b"NOT_FOUND" and (not is_there or self.may_be_evicted):
                write.state = None
            elif answer != b"TOUCHED" or not is_there:
                raise ValueError("answer to a touch of key %d: %r" % (key, answer))
            elif before.state is not None:
                # Its CAS unique may be known by now.
                write.state = dataclasses.replace(before.state, expiry=expiry)
            write.moment = moment

        return b"touch key:%d %d\r\n" % (key, expiry), heed


class Pacer(Actor):
    """Silences all clients now and then, so that everything gets to disk, and sometimes flushes all."""

    def __init__(self, port, clients, seed, gate):
        super().__init__(port)
        self.clients, self.chooser, self.gate = clients, random.Random(seed), gate

    def talk(self, connection):
        chooser = self.chooser
        while self.gate.pause(chooser.uniform(0.01, 0.15) if chooser.random() < 0.6 else chooser.uniform(0.2, 1.0)):
            if not self.gate.close():
                return
            try:
                if chooser.random() < 0.15:
                    self.flush(connection)
                self.gate.pause(chooser.uniform(0, 0.12))
            finally:
                self.gate.open()

    def flush(self, connection):
        writes = [history.add(None) for client in self.clients for history in client.histories.values()]
        connection.send([b"flush_all\r\n"])
        answer = connection.line()
        if answer != b"OK\r\n":
            raise ValueError("answer to flush_all: %r" % answer)
        moment = time.monotonic()
        for write in writes:
            write.moment = moment
