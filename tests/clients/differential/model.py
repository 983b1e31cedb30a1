"""What a stream is made of, before it is bytes: commands with places for keys and CAS numbers.

Keys begin with a prefix that is known only when a stream is sent, so that the same stream can be sent again on fresh keys.
A CAS number is the one that each server gave last for a key, so the two servers are sent different bytes.
"""

import base64
import dataclasses

PREFIX_SIZE = 4
KEY_SIZE_MAX = 250

# What follows the prefix. No line ends: memcached gives some keys back as they are, and its answers would have no end. The first are keys of all protocols, the next can only be given in base64 or in binary.
KEY_TAILS = (
    [b"k%d" % number for number in range(8)]
    + [b"L" * (KEY_SIZE_MAX - PREFIX_SIZE), b"M" * 120, b"\xd0\xba\xd0\xbb\xd1\x8e\xd1\x87\xe2\x98\x83", b"\x01\t\x7f\xff\x80"]
    + [b" blank \0\x01end ", bytes(byte for byte in range(45) if byte not in b"\r\n"), b"\xff" * (186 - PREFIX_SIZE)]
)
TEXT_KEYS = range(12)
ALL_KEYS = range(len(KEY_TAILS))
TOO_LONG_KEY = len(KEY_TAILS)
TOO_LONG_ENCODED_KEY = TOO_LONG_KEY + 1
KEY_TAILS += [b"T" * (KEY_SIZE_MAX + 1 - PREFIX_SIZE), b"E" * (187 - PREFIX_SIZE)]

# incr, decr, and their quiet forms.
BINARY_COUNTS = (0x05, 0x06, 0x15, 0x16)
# Sent for a key whose number is not known: no item has it.
UNKNOWN_CAS = 999_999_999_999_999


@dataclasses.dataclass(frozen=True)
class Key:
    """The place of a key."""

    number: int
    encoded: bool = False

    def render(self, prefix):
        name = prefix + KEY_TAILS[self.number]
        return base64.b64encode(name) if self.encoded else name

    @property
    def size(self):
        return PREFIX_SIZE + len(KEY_TAILS[self.number])


@dataclasses.dataclass(frozen=True)
class Cas:
    """The place of the CAS number that a server gave last for a key, in digits or in eight bytes."""

    number: int
    binary: bool = False

    def render(self, cas):
        return cas.to_bytes(8, "big") if self.binary else b"%d" % cas


@dataclasses.dataclass(frozen=True)
class Command:
    """A command of any protocol, whole, broken or odd."""

    parts: tuple
    # Its answer is told from those around it: something is odd about it.
    fenced: bool = False
    # Sent as a segment of its own, in one piece: it may end the connection, and memcached loses answers of commands that it
    # has read together with such a one.
    alone: bool = False
    # Servers may come to differ by it (and say so in their answers): its keys are deleted behind it.
    cleaned: bool = False

    def render(self, prefix, known_cas, side):
        rendered = []
        for part in self.parts:
            if isinstance(part, bytes):
                rendered.append(part)
            elif isinstance(part, Key):
                rendered.append(part.render(prefix))
            else:
                numbers = known_cas.get(part.number)
                rendered.append(part.render(numbers[side] if numbers else UNKNOWN_CAS))
        return b"".join(rendered)

    def keys(self):
        return [part for part in self.parts if isinstance(part, Key)]

    def counts(self):
        """Whether it is an `incr` or `decr` of any protocol."""
        first = self.parts[0]
        return first.lstrip().startswith((b"incr ", b"decr ", b"ma ")) or (first[:1] == b"\x80" and first[1] in BINARY_COUNTS)


@dataclasses.dataclass
class Session:
    """What is sent over one connection: segments of commands, each sent when the one before it is answered."""

    protocol: str
    segments: list


def key_numbers(prefix):
    """From a key's bytes to its number."""
    return {prefix + tail: number for number, tail in enumerate(KEY_TAILS)}


def escaped(data, size_max=300):
    """Bytes for people to read."""
    text = "".join(chr(byte) if 32 <= byte < 127 and byte != 92 else ESCAPES.get(byte, "\\x%02x" % byte) for byte in data)
    if len(text) > size_max:
        text = "%s ... %s (%d bytes)" % (text[: size_max * 2 // 3], text[-size_max // 3 :], len(data))
    return text


ESCAPES = {13: "\\r", 10: "\\n", 92: "\\\\"}
