"""What commands of all protocols have in common: keys that meet, values, numbers that are valid, odd or none."""

from . import model

ODD_NUMBERS = (
    b"-1 +1 007 1x x 0x10 4294967295 4294967296 4294967299 2147483647 2147483648 2147483646 -2147483648 -2147483649 "
    b"9223372036854775807 9223372036854775808 -9223372036854775808 -9223372036854775809 18446744073709551615 "
    b"18446744073709551616 99999999999999999999999 -99999999999999999999999 1.5 - + 1e3 noreply 00 -0"
).split() + [b"1\t", b"\t1", b"\x0b5", b"1\r", b"\xff1"]
DIGITS = b"0123456789"
NEARLY_NUMBERS = (
    (b"18446744073709551616", b"99999999999999999999", b"0", b"", b"-1", b" 5", b"5 ", b"12 a", b"5a", b"a5", b"+5", b"007", b"5\r\n")
    + (b"123456789012345678901234567890", b"0x1", b"10" + b" " * 30, b"5\0", b"5\x006", b"\t7")
    + (b"1\n2", b"\x0b3", b"\0", b"10000000")
)
# Of those of 2^63 and more, memcached says that they are numbers or not, depending on the memory behind them up to the next
# NUL.
BIG_NUMBERS = (b"18446744073709551615\0", b"9223372036854775808\0", b"9223372036854775807\0", b"18446744073709551614 \0")
# A value whose bytes are run as commands when it is not taken for one does no harm.
HARMLESS = b"v"
CAS_LITERALS = (0, 1, 2**63 - 1, 2**64 - 1, model.UNKNOWN_CAS)


class Words:
    """A chooser of words. Everything that is random comes from `chooser`."""

    def __init__(self, chooser, has_encoded_keys, delays_flush):
        self.chooser = chooser
        self.has_encoded_keys = has_encoded_keys
        # A flush to come revives what an immediate one before it has killed (memcached has one time for both): so an epoch
        # has either of the two.
        self.delays_flush = delays_flush

    def one(self, choices):
        return choices[int(self.chooser.random() * len(choices))]

    def chance(self, probability):
        return self.chooser.random() < probability

    def key(self, numbers=model.TEXT_KEYS):
        """Few of them, and the first more often, so that commands meet."""
        if self.chance(0.75):
            return model.Key(int(self.chooser.random() * 4))
        return model.Key(self.one(numbers))

    def exptime(self):
        """Never, long ago, or so far off that no second matters."""
        draw = self.chooser.random()
        if draw < 0.55:
            return 0
        if draw < 0.85:
            return self.one((1500, 2500, 3500, 86400, 2592000))
        if draw < 0.93:
            return self.one((2592001, 2147483647, 1000000000))
        return self.one((-1, -100, -2147483648))

    def value(self):
        draw = self.chooser.random()
        if draw < 0.35:
            return self.numeric()
        if draw < 0.75:
            size = int(self.chooser.random() * 120)
        elif draw < 0.95:
            size = int(self.chooser.random() * 3000)
        elif draw < 0.993:
            size = 3000 + int(self.chooser.random() * 6000)
        else:
            size = self.one((16000, 16050, 16150, 16300, 16320, 16324, 16330, 20000))
        alphabet = self.one((b"abcdefgh", DIGITS, b"\r\n\0 \x80", bytes(range(256))))
        # Neither a number of 2^63 nor one that a few joins make so large: see BIG_NUMBERS.
        if alphabet == DIGITS and 12 < size <= 20:
            size = 25
        piece = bytes(alphabet[int(self.chooser.random() * len(alphabet))] for _ in range(min(size, 64)))
        value = (piece * (size // 64 + 1))[:size]
        # In a value of blanks memcached looks for a number beyond its end.
        return b"a" if value.isspace() else value

    def numeric(self):
        """Something like a number. None is 2^63 or more, and none becomes so soon: see BIG_NUMBERS."""
        draw = self.chooser.random()
        if draw < 0.75:
            return b"%d" % int(self.chooser.random() * 10 ** self.one((1, 2, 3, 6)))
        return self.one(NEARLY_NUMBERS)

    def join(self):
        """A value that is put to another."""
        value = self.value()
        return value.strip()[:1] if value[-1:].isdigit() or value[:1].isdigit() else value

    def delta(self):
        return int(self.chooser.random() * 10 ** self.one((1, 2, 6, 9)))

    def huge_delta(self):
        """For a command whose key is deleted then."""
        return self.one((10**18, 2**63 - 1, 2**63, 2**64 - 2, 2**64 - 1))

    def flags(self):
        return 0 if self.chance(0.6) else self.one((1, 5, 255, 65536, 2**31, 2**32 - 1))

    def cas(self, key, binary=False):
        """The number that the server gave for the key, or one that is not it."""
        if self.chance(0.7):
            return model.Cas(key.number, binary)
        if self.chance(0.3):
            return model.Cas(self.key().number, binary)
        literal = self.one(CAS_LITERALS)
        return literal.to_bytes(8, "big") if binary else b"%d" % literal
