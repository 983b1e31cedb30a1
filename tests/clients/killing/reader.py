"""Reads all records after a start."""

import time

import common
from killing.clients import EXPIRY_STEP
from killing.history import State, value_of

BATCH = 100


def read_all(port, keys):
    """The records by key, and sentences about values that are none of ours."""
    connection = common.Pipeline(port)
    found, broken = {}, []
    for start in range(0, len(keys), BATCH):
        part = keys[start : start + BATCH]
        connection.send([b"mg key:%d v f t c\r\n" % key for key in part])
        for key in part:
            words = connection.line().split()
            if words == [b"EN"]:
                continue
            if words[0] != b"VA":
                raise ValueError("answer to an mg: %r" % words)
            value = connection.answers.read(int(words[1]) + 2)[:-2]
            told = {word[:1]: int(word[1:]) for word in words[2:]}
            numbers = value[:40].partition(b"|")[0].split(b":")
            if len(numbers) != 3 or int(numbers[0]) != key or value != value_of(key, int(numbers[1]), len(value)):
                broken.append("key %d has a value that was never written: %r" % (key, value[:60]))
                continue
            found[key] = State(int(numbers[1]), len(value), told[b"f"], expiry_of(told[b"t"]), told[b"c"])
    connection.close()
    return found, broken


def expiry_of(time_left):
    """The expiry time that leaves so many seconds now; as it is when it is none of ours."""
    if time_left < 0:
        return 0
    expiry = int(time.time()) + time_left
    nearest = (expiry + EXPIRY_STEP // 2) // EXPIRY_STEP * EXPIRY_STEP
    return nearest if abs(nearest - expiry) < EXPIRY_STEP // 3 else expiry
