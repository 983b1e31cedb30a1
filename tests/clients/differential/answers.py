"""Answers of two servers compared: structure by structure, with what may differ taken out.

What may differ: CAS numbers (each server has its own, but they must stand for the same versions), times (a second more or
less), the version, the time since the last access, and of `me` the slab class, the size and the sign of the time that is left.
"""

import base64
import dataclasses
import re

from . import model

ANY = "any"  # stands for what is not compared
META_ANSWERS = (b"HD", b"VA", b"EN", b"NF", b"NS", b"EX")
BINARY_HEADER_SIZE = 24
BINARY_VERSION = 0x0B
TIME_SLACK = 2


@dataclasses.dataclass(frozen=True)
class Number:
    """A number that is not compared as such: kind `cas` or `time`."""

    kind: str
    value: int

    def __str__(self):
        return self.kind


@dataclasses.dataclass
class Unit:
    """One answer: its words, and the key it names, if it does."""

    words: list
    key: bytes = None
    opaque: int = None

    def cas(self):
        return next((word.value for word in self.words if isinstance(word, Number) and word.kind == "cas"), None)


def text_units(raw):
    """The answers of a text connection."""
    units = []
    position = 0
    while position < len(raw):
        end = raw.find(b"\n", position)
        line = raw[position:] if end < 0 else raw[position : end + 1]
        position += len(line)
        unit, body_size = text_unit(line)
        if body_size is not None:
            unit.words.append(raw[position : position + body_size])
            position += body_size
        units.append(unit)
    return units


def text_unit(line):
    """A line's unit, and the size of what follows it, with its end."""
    words = line.rstrip(b"\r\n").split(b" ")
    ending = line[len(line.rstrip(b"\r\n")) :]
    if words[0] == b"VALUE" and len(words) in (4, 5) and words[3].isdigit():
        cas = [Number("cas", int(words[4]))] if len(words) == 5 and words[4].isdigit() else words[4:]
        return Unit(words[:4] + cas + [ending], key=words[1]), int(words[3]) + 2
    if words[0] in META_ANSWERS:
        body_size = int(words[1]) + 2 if words[0] == b"VA" and len(words) > 1 and words[1].isdigit() else None
        return Unit([meta_word(word) for word in words] + [ending], key=meta_key(words)), body_size
    if words[0] == b"ME":
        return Unit([debug_word(word) for word in words] + [ending]), None
    if words[0] == b"VERSION":
        return Unit([b"VERSION", ANY, ending]), None
    return Unit([line]), None


def meta_word(word):
    if word[1:].isdigit():
        if word[:1] == b"c":
            return Number("cas", int(word[1:]))
        if word[:1] == b"t":
            return Number("time", int(word[1:]))
        if word[:1] == b"l":
            return ANY
    return word


def meta_key(words):
    key = next((word[1:] for word in words[1:] if word[:1] == b"k"), None)
    if key is not None and b"b" in words:
        try:
            return base64.b64decode(key, validate=True)
        except ValueError:
            return None
    return key


def debug_word(word):
    name, _, value = word.partition(b"=")
    if name == b"exp" and value.lstrip(b"-").isdigit() and value != b"-1":
        # memcached 1.6.18 gives the seconds that are left as a negative number.
        return Number("time", abs(int(value)))
    if name == b"cas" and value.isdigit():
        return Number("cas", int(value))
    if name in (b"la", b"cls", b"size"):
        return name
    return word


def binary_units(raw):
    """The answers of a binary connection."""
    units = []
    position = 0
    while len(raw) - position >= BINARY_HEADER_SIZE:
        header = raw[position : position + BINARY_HEADER_SIZE]
        body_size = int.from_bytes(header[8:12], "big")
        body = raw[position + BINARY_HEADER_SIZE : position + BINARY_HEADER_SIZE + body_size]
        position += BINARY_HEADER_SIZE + body_size
        cas = Number("cas", int.from_bytes(header[16:], "big"))
        fixed = header[:16]
        if header[1] == BINARY_VERSION and header[6:8] == b"\0\0":
            fixed, body = header[:8] + header[12:16], ANY
        units.append(Unit([fixed, cas, body], opaque=int.from_bytes(header[12:16], "big")))
    if raw[position:]:
        units.append(Unit([raw[position:]]))
    return units


class CasNumbers:
    """Which number of one server stands for which of the other; and the numbers that were given last for keys."""

    def __init__(self):
        self.there = {0: 0}
        self.back = {0: 0}
        self.known = {}

    def agree(self, first, second):
        """Whether both can stand for the same version; if neither has been seen, they do from now on."""
        if first not in self.there and second not in self.back:
            self.there[first] = second
            self.back[second] = first
        return self.there.get(first) == second and self.back.get(second) == first

    def learn(self, units, other_units, key_numbers, opaque_keys):
        """Notes the numbers that equal answers gave for keys."""
        for unit, other in zip(units, other_units):
            cas = unit.cas()
            number = opaque_keys.get(unit.opaque) if unit.opaque is not None else key_numbers.get(unit.key)
            if cas and number is not None:
                self.known[number] = (cas, other.cas())


def unlike(units, other_units, cas_numbers):
    """The pairs of answers that differ; None when there are not as many of the one as of the other."""
    if len(units) != len(other_units):
        return None
    pairs = zip(units, other_units)
    return [(unit, other) for unit, other in pairs if not same(unit.words, other.words, cas_numbers)]


def same(words, other_words, cas_numbers):
    """Whether two servers said the same."""
    if len(words) != len(other_words):
        return False
    for word, other in zip(words, other_words):
        if isinstance(word, Number) and isinstance(other, Number) and word.kind == other.kind:
            if word.kind == "time" and abs(word.value - other.value) <= TIME_SLACK:
                continue
            if word.kind == "cas" and cas_numbers.agree(word.value, other.value):
                continue
            return False
        if word != other:
            return False
    return True


def units_of(protocol, raw):
    return binary_units(raw) if protocol == "binary" else text_units(raw)


@dataclasses.dataclass(frozen=True)
class Markers:
    """Commands that change nothing and whose answer names a number: they tell the answers around them apart."""

    protocol: str

    def command(self, number):
        if self.protocol == "binary":
            return b"\x80\x0a" + bytes(10) + (MARKER_OPAQUE + number).to_bytes(4, "big") + bytes(8)
        if self.protocol == "meta":
            return b"md ~ O~%d~\r\n" % number
        return b"set ~ 0 0 10 noreply\r\n%010d\r\nget ~\r\n" % number

    def answer(self, number):
        if self.protocol == "binary":
            return b"\x81\x0a" + bytes(10) + (MARKER_OPAQUE + number).to_bytes(4, "big") + bytes(8)
        if self.protocol == "meta":
            return b"NF O~%d~\r\n" % number
        return b"VALUE ~ 0 10\r\n%010d\r\nEND\r\n" % number


# Opaques of generated commands are below it.
MARKER_OPAQUE = 0x7000_0000


def show(raw):
    return model.escaped(raw, 600)
