"""Packets of the binary protocol: all opcodes and their quiet forms, and odd and broken ones."""

from . import words
from .model import ALL_KEYS, TOO_LONG_KEY, Cas, Command, Key

GET, SET, ADD, REPLACE, DELETE, INCREMENT, DECREMENT, QUIT, FLUSH, GETQ, NOOP, VERSION, GETK, GETKQ, APPEND, PREPEND = range(16)
STAT = 0x10
SETQ, ADDQ, REPLACEQ, DELETEQ, INCREMENTQ, DECREMENTQ, QUITQ, FLUSHQ, APPENDQ, PREPENDQ, VERBOSITY, TOUCH, GAT, GATQ = range(0x11, 0x1F)
SASL_LIST, SASL_AUTH, SASL_STEP, GATK, GATKQ = 0x20, 0x21, 0x22, 0x23, 0x24
# Written values, numbers with an initial value, values without extras, times, and keys alone: each with its quiet form.
VALUE_STORES = (SET, SET, ADD, REPLACE, SETQ, SETQ, ADDQ, REPLACEQ)
JOINS = (APPEND, APPENDQ, PREPEND, PREPENDQ)
NUMBERS = (INCREMENT, DECREMENT, INCREMENTQ, DECREMENTQ)
TIMES = (TOUCH, GAT, GATQ, GATK, GATKQ)
GETS = (GET, GET, GETK, GETQ, GETKQ)
DELETES = (DELETE, DELETEQ)
NO_EXPTIME = 0xFFFF_FFFF
UNKNOWN = (0x1F, 0x25, 0x30, 0x31, 0x3C, 0x40, 0x4C, 0x7F, 0x80, 0xFF)
# A stat has many packets, whose values are each server's own.
KNOWN = [opcode for opcode in range(0x25) if opcode not in (STAT, 0x1F, QUIT, QUITQ)]


def packet(opcode, opaque, extras=b"", key=None, value=b"", cas=0, **odd):
    """A packet as parts. `odd` overrides fields of the header."""
    key_size = key.size if key is not None else 0
    header = (
        bytes([odd.get("magic", 0x80), opcode])
        + odd.get("key_size", key_size).to_bytes(2, "big")
        + bytes([odd.get("extras_size", len(extras)), odd.get("datatype", 0)])
        + odd.get("bucket", 0).to_bytes(2, "big")
        + odd.get("body_size", len(extras) + key_size + len(value)).to_bytes(4, "big")
        + opaque.to_bytes(4, "big")
    )
    parts = [header, cas if isinstance(cas, Cas) else cas.to_bytes(8, "big"), extras]
    return (*parts, *([key] if key is not None else []), value)


class BinaryCommands:
    """Makes packets, one after the other. `opaque_keys` tells whose key an opaque goes with."""

    def __init__(self, chooser, has_encoded_keys, delays_flush):
        self.words = words.Words(chooser, has_encoded_keys, delays_flush)
        self.opaque = int(chooser.random() * 0x4000_0000)
        self.opaque_keys = {}

    def one(self):
        draw = self.words.chooser.random()
        if draw < 0.9:
            return self.valid()
        if draw < 0.995:
            return self.odd()
        return self.last()

    def next_opaque(self, key=None):
        self.opaque += 1
        if key is not None:
            self.opaque_keys[self.opaque] = key.number
        return self.opaque

    def valid(self):
        chosen = self.words
        draw = chosen.chooser.random()
        key = chosen.key(ALL_KEYS)
        opaque = self.next_opaque(key)
        if draw < 0.28:
            opcode, value = chosen.one(VALUE_STORES), chosen.value()
            return Command(packet(opcode, opaque, self.value_extras(), key, value, self.condition(key)))
        if draw < 0.38:
            return Command(packet(chosen.one(JOINS), opaque, b"", key, chosen.join(), self.condition(key)))
        if draw < 0.52:
            is_huge = chosen.chance(0.06)
            extras = self.number_extras(is_huge)
            return Command(packet(chosen.one(NUMBERS), opaque, extras, key, b"", self.condition(key)), fenced=is_huge, cleaned=is_huge)
        if draw < 0.64:
            return Command(packet(chosen.one(TIMES), opaque, self.time(chosen.exptime()), key))
        if draw < 0.90:
            return Command(packet(chosen.one(GETS), opaque, b"", key))
        if draw < 0.97:
            return Command(packet(chosen.one(DELETES), opaque, b"", key, b"", self.condition(key)))
        return self.keyless()

    def keyless(self):
        chosen = self.words
        opaque = self.next_opaque()
        opcode = chosen.one((NOOP, NOOP, NOOP, NOOP, VERSION, VERSION, VERBOSITY, FLUSH, FLUSHQ, SASL_LIST))
        extras = self.time(0) if opcode == VERBOSITY else b""
        if opcode in (FLUSH, FLUSHQ):
            extras = self.time(5000) if chosen.delays_flush else chosen.one((b"", self.time(0)))
        # memcached answers to the verbosity that it is unknown, and closes.
        return Command(packet(opcode, opaque, extras), fenced=opcode == VERBOSITY, alone=opcode == VERBOSITY)

    def time(self, exptime):
        # Without a sign these are beyond 2038, which memcached's `me` tells in 32 bits: it is asked for no such times.
        return (max(exptime, 0)).to_bytes(4, "big")

    def value_extras(self):
        return self.words.flags().to_bytes(4, "big") + self.time(self.words.exptime())

    def number_extras(self, is_huge=False):
        chosen = self.words
        delta = chosen.huge_delta if is_huge else chosen.delta
        exptime = NO_EXPTIME if chosen.chance(0.3) else chosen.exptime()
        return delta().to_bytes(8, "big") + delta().to_bytes(8, "big") + self.time(exptime)

    def condition(self, key):
        """A CAS number, seldom."""
        if self.words.chance(0.8):
            return 0
        cas = self.words.cas(key, binary=True)
        return cas if isinstance(cas, Cas) else int.from_bytes(cas, "big")

    def extras_of(self, opcode):
        """What the opcode takes."""
        if opcode in VALUE_STORES:
            return self.value_extras()
        if opcode in NUMBERS:
            return self.number_extras()
        return self.time(0) if opcode in (*TIMES, VERBOSITY) else b""

    def odd(self):
        """A packet that is whole, so that what follows is understood, but not as the opcode wants it."""
        chosen = self.words
        # One flush or the other: see Words.delays_flush.
        opcode = chosen.one([opcode for opcode in KNOWN if not (chosen.delays_flush and opcode in (FLUSH, FLUSHQ))])
        key, value, extras = chosen.key(), words.HARMLESS * chosen.one((0, 1, 5, 30)), self.extras_of(opcode)
        odd = {}
        form = chosen.one(("unknown", "extras", "extras", "keyless", "long key", "value", "datatype", "bucket", "sizes", "large"))
        if form == "unknown":
            opcode = chosen.one(UNKNOWN)
        elif form == "extras":
            extras = b"\0" * chosen.one((0, 1, 3, 4, 5, 7, 8, 9, 12, 19, 20, 21, 24, 40))
        elif form == "keyless":
            key = None
        elif form == "long key":
            key = Key(TOO_LONG_KEY)
        elif form == "datatype":
            odd["datatype"] = 1
        elif form == "bucket":
            odd["bucket"] = 1
        elif form == "sizes":
            # The body is as long as it says but its parts are not: an extra byte may be the key's, or the value's.
            odd["key_size"] = chosen.one((0, 1, 2, key.size + len(value)))
        elif form == "large":
            opcode, value = chosen.one((SET, SETQ, ADD, REPLACE, APPEND)), words.HARMLESS * chosen.one((16330, 16400, 20000, 70000))
            extras = self.extras_of(opcode)
        cas = 0 if key is None or chosen.chance(0.8) else Cas(key.number, binary=True)
        parts = packet(opcode, self.next_opaque(), extras, key, value, cas, **odd)
        return Command(parts, fenced=True, cleaned=True, alone=True)

    def last(self):
        """A packet that ends the connection, or leaves the server waiting."""
        chosen = self.words
        key = chosen.key()
        opaque = self.next_opaque()
        form = chosen.one(("quit", "quit", "magic", "body", "body", "keys"))
        if form == "quit":
            return Command(packet(chosen.one((QUIT, QUITQ)), opaque), fenced=True, alone=True)
        if form == "magic":
            parts = packet(GET, opaque, b"", key, magic=chosen.one((0x81, 0x00, 0x67, 0xFF)))
        elif form == "keys":
            parts = packet(chosen.one((GET, SET, DELETE, NOOP)), opaque, b"", key, key_size=chosen.one((300, 5000, 65535)))
        else:
            opcode = chosen.one((GET, SET, DELETE, INCREMENT, TOUCH, VERSION, NOOP))
            extras = self.extras_of(opcode)
            size = len(extras) + key.size
            parts = packet(opcode, opaque, extras, key, b"vvv", body_size=chosen.one((0, 1, size - 1, size + 300, 2**31 - 1, 2**31, 2**32 - 1)))
        return Command(parts, fenced=True, alone=True)
