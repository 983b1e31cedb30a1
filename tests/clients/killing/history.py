"""What is known of a record, and what may be found of it after a kill.

Only one client writes a key, and flush_all comes when all of them are silent, so the writes to a key have an order. What is found
must be what one of them has left: of the last one that was promised, or of a later one. A write is promised when it was answered
- with --durability sync: always;
- otherwise: before the server itself said that nothing waits to be written (memtable_bytes of stats), or so long ago that the
  flush interval is over, and what waits in front of it could be written: see watcher.py.
None of this looks at how fast the machine is: one that stalls promises less. Where tables are used again, a record may have been
evicted, and may be absent. A CAS unique must be the one that was handed out for just this write, and none is handed out twice.
"""

import dataclasses
import hashlib
import math

NEVER = math.inf


def value_of(key, stamp, size):
    """`size` bytes that tell what they are, at least as many as that takes."""
    front = b"%d:%d:%d|" % (key, stamp, size)
    filler = hashlib.blake2b(front, digest_size=64).digest()
    return (front + filler * (size // 64 + 1))[:size]


@dataclasses.dataclass(frozen=True)
class State:
    """A record. Its CAS unique may not be known yet."""

    stamp: int
    size: int
    flags: int
    expiry: int
    cas: int | None = None

    def is_found_as(self, found):
        return found is not None and dataclasses.replace(self, cas=None) == dataclasses.replace(found, cas=None) and (
            self.cas is None or self.cas == found.cas
        )


class Write:
    """What a write leaves: a state, or None. Not answered as long as `moment` is NEVER."""

    def __init__(self, state, moment=NEVER):
        self.state, self.moment = state, moment

    def is_found_as(self, found):
        return found is None if self.state is None else self.state.is_found_as(found)


class History:
    """The writes to one key in a round, behind what was there before."""

    def __init__(self, state):
        self.writes = [Write(state, -NEVER)]

    def last(self):
        return self.writes[-1].state

    def add(self, state):
        write = Write(state)
        self.writes.append(write)
        return write

    def acknowledged(self):
        return sum(-NEVER < write.moment < NEVER for write in self.writes)

    def told(self, promised, killed):
        """For people: the last writes, with their age when the server was killed."""
        lines = []
        for number, write in enumerate(self.writes[-12:], max(0, len(self.writes) - 12)):
            age = "not answered" if write.moment == NEVER else "%.1f ms before the kill" % ((killed - write.moment) * 1000)
            lines.append("  %d: %s, %s%s" % (number, write.state, age, ", promised" if write.moment <= promised else ""))
        return "writes:\n" + "\n".join(lines)


@dataclasses.dataclass
class Result:
    fault: str | None = None
    """Answered writes that are lost."""
    lost: int = 0
    """When the first of them was answered."""
    oldest: float | None = None


def faults_of(history, found, promised, may_be_evicted):
    """Compares what was found of a key with its history."""
    writes = history.writes
    floor = max(number for number, write in enumerate(writes) if write.moment <= promised)
    matching = [number for number, write in enumerate(writes) if write.is_found_as(found)]
    if not matching or matching[-1] < floor:
        if found is None and may_be_evicted:
            return Result()
        if not matching:
            return Result("%s was never written" % (found,) if found else "it is lost")
        what = "has come back" if writes[floor].state is None else "is there instead of what was promised later"
        return Result("%s %s (write %d, promised: %d)" % (found or "its absence", what, matching[-1], floor))
    lost = [write.moment for write in writes[matching[-1] + 1 :] if write.moment < NEVER]
    return Result(None, len(lost), min(lost, default=None))


class Unique:
    """The CAS uniques that were ever handed out. They grow, so the largest of earlier rounds says enough."""

    def __init__(self):
        self.before = self.largest = 0
        self.handed_out = set()

    def check(self, uniques):
        """Those that one client was handed for its writes of this round; a sentence if one is not new."""
        again = []
        for unique in uniques:
            if unique <= self.before or unique in self.handed_out:
                again.append(unique)
            self.handed_out.add(unique)
        self.largest = max(self.largest, max(uniques, default=0))
        if not again:
            return None
        return "%d CAS uniques were handed out before, for other writes: %d is one" % (len(again), again[0])

    def end_round(self, found):
        """The records that are there now have these."""
        self.before = self.largest = max(self.largest, max(found, default=0))
        self.handed_out.clear()
