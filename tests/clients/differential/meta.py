"""Commands of the meta protocol, with all flags that both servers know, and odd and broken ones."""

from . import words
from .model import ALL_KEYS, KEY_SIZE_MAX, TOO_LONG_ENCODED_KEY, TOO_LONG_KEY, Command, Key

# For each command the flags without and with a word behind them.
FLAGS = {
    b"mg": (b"cfhklqstvvvvu", b"ONRT"),
    b"ms": (b"cIkq", b"CFMNOT"),
    b"md": (b"Ikq", b"COT"),
    b"ma": (b"cktvvvq", b"CDJMNOT"),
}
VERBS = (b"mg", b"mg", b"mg", b"mg", b"ms", b"ms", b"ms", b"md", b"ma", b"ma", b"me", b"mn")
PAST = (b"T-1", b"T-100", b"T-2147483648", b"T2592001", b"T1000000000")
MODES = {b"ms": b"SARPEsarpe", b"ma": b"IDid+-"}
BROKEN = (
    b"mg|ms|md|ma|me|mn x|mg |ms a|ms a x|ms a -1|ms a S2|ms a 2x|ms|md  |ma  |me  |mg a a a|mgg|mn\t|me a b b b|mg a ~|"
    b"mg a \x80|mg a vv|mg a v v|mg a v k v|mg a T|mg a Tx|mg a T1x|mg a N|mg a Nx|mg a R|mg a Rx|mg a O|mg a T1 T2|mg a 1|mg a -|"
    b"ma a N|ma a J|ma a Jx|ma a Dx|ma a D-1|ma a D|ma a MX|ma a M|ma a MII|ma a J1 J1|ma a T|ma a C|ma a Cx|ma a z|ma a D1x v|"
    b"md a T|md a Tx|md a C|md a Cx|md a z|md a q q|md a C1 C2|md a I I|md a Nx|mg a Ox kx|mg a v0|mg a P|mg a L|mg a Pxyz Labc|"
    b"mg a P P|mg a b|mg !!!! b|mg a=== b|mg aaaaa b|mg YQ b|mg YQ= b|mg YQ== b b|me !!!! b|me YQ== x|md !!!! b|ma !!!! b|mg a S|"
    b"mg a I|mg a C|mg a M|mg a D|mg a J|mg a F|md a v|md a k k|ma a f|ma a s|ma a h"
).split(b"|")
BROKEN_STORES = (
    (b"",), (b"x",), (b"C",), (b"Cx",), (b"T",), (b"Tx",), (b"F",), (b"Fx",), (b"F-1",), (b"F4294967296",), (b"M",), (b"MX",), (b"Mset",),
    (b"z",), (b"I", b"I"), (b"q", b"q"), (b"T1500", b"T1500"), (b"O", b"k"), (b"N",), (b"MA", b"Nx"), (b"v",), (b"t",), (b"!",), (b"b",),
    (b"D1",), (b"R1",), (b"Pabc", b"Labc"), (b"c", b"c"), (b"S3",), (b"3",), (b"noreply",),
)


class MetaCommands:
    """Makes commands, one after the other."""

    def __init__(self, chooser, has_encoded_keys, delays_flush):
        self.words = words.Words(chooser, has_encoded_keys, delays_flush)

    def one(self):
        draw = self.words.chooser.random()
        if draw < 0.86:
            return self.valid()
        if draw < 0.93:
            return Command((self.words.one(BROKEN) + self.words.one((b"\r\n", b"\r\n", b"\n")),), fenced=True)
        if draw < 0.965:
            return self.broken_store()
        return self.odd()

    def key(self):
        """A key, and the flag that goes with it."""
        chosen = self.words
        key = chosen.key(ALL_KEYS)
        if key.number >= 12 or (key.size < KEY_SIZE_MAX and chosen.chance(0.08)):
            return Key(key.number, encoded=True), [b"b"]
        return key, []

    def valid(self):
        chosen = self.words
        verb = chosen.one(VERBS)
        if verb == b"mn":
            return Command((b"mn\r\n",))
        key, flags = self.key()
        if verb == b"me":
            return Command((b"me ", key, b" b\r\n" if flags else b"\r\n"))
        flags, is_odd = self.flags(verb, key, flags)
        chosen.chooser.shuffle(flags)
        if verb != b"ms":
            return Command(line(verb, key, flags, b"\r\n"), fenced=is_odd, cleaned=is_odd)
        value = chosen.join() if any(flag[:1] == b"M" and flag[1:] not in (b"S", b"s") for flag in flags) else chosen.value()
        return Command(line(b"ms", key, [b"%d" % len(value), *flags], b"\r\n" + value + b"\r\n"), fenced=is_odd, cleaned=is_odd)

    def flags(self, verb, key, flags):
        """Some of the command's flags; and whether its answer has to stand alone."""
        chosen = self.words
        plain, worded = FLAGS[verb]
        count = chosen.one((0, 1, 1, 2, 2, 3, 4, 6))
        letters = set()
        for _ in range(count):
            letters.add(chosen.one(plain) if chosen.chance(0.6) else chosen.one(worded))
        is_odd = False
        for letter in sorted(letters):
            if letter in plain:
                flags.append(bytes([letter]))
                continue
            flag = self.worded(verb, letter, key)
            # What an item that is past its time still has of it, memcached answers with a number that has wrapped.
            # And numbers of 2^63 and more: see Words.numeric(). An N of ms does nothing yet in 1.6.18; a T of ma is lost there
            # when the number gets longer.
            is_odd |= isinstance(flag, bytes) and (
                flag in PAST
                or (flag[:1] in (b"D", b"J") and len(flag) > 17)
                or (verb == b"ms" and flag[:1] == b"N")
                or (verb == b"ma" and flag[:1] == b"T")
            )
            flags.append(flag)
        return flags, is_odd

    def worded(self, verb, letter, key):
        """A flag with a word behind it."""
        chosen = self.words
        name = bytes([letter])
        if letter in b"TN":
            exptime = chosen.exptime() if letter in b"T" else chosen.one((0, 1500, 2500, 86400))
            return name + b"%d" % exptime
        if letter in b"R":
            return name + b"%d" % chosen.one((0, 30, 2000, 3000, 100000))
        if letter in b"C":
            return (name, chosen.cas(key))
        if letter in b"F":
            return name + b"%d" % chosen.flags()
        if letter in b"M":
            return name + bytes([chosen.one(MODES[verb])])
        if letter in b"O":
            return name + chosen.one((b"1", b"abc", b"x" * 31, b"0", b"\x80\xff", b"O"))
        return name + b"%d" % (chosen.huge_delta() if chosen.chance(0.05) else chosen.delta())

    def broken_store(self):
        chosen = self.words
        key, value = chosen.key(), words.HARMLESS * int(chosen.chooser.random() * 20)
        size = b"%d" % len(value)
        is_alone = chosen.chance(0.3)
        if is_alone:
            size = chosen.one((b"-1", b"x", b"+3", b"2147483648", b"4294967299", b"1x", b"", b"00", b"99999999999999999999", b"65536"))
        end_of_value = chosen.one((b"\r\n", b"\r\n", b"\r\n", b"\r\n", b"\n\r\n", b"x\r\n\r\n", b"vv\r\n\r\n", b"\r\n"))
        parts = line(b"ms", key, [size, *chosen.one(BROKEN_STORES)], b"\r\n" + value + end_of_value)
        return Command(parts, fenced=True, cleaned=True, alone=is_alone)

    def odd(self):
        chosen = self.words
        verb = chosen.one((b"mg", b"md", b"ma", b"me", b"ms"))
        key, flags = self.key()
        form = chosen.one(("key", "key", "number", "number", "many", "blanks", "opaque", "ending"))
        ending = b"\r\n"
        if form == "key":
            key, flags = chosen.one(((Key(TOO_LONG_KEY), []), (Key(TOO_LONG_ENCODED_KEY, encoded=True), [b"b"])))
        elif form == "number" and verb in FLAGS:
            letter = chosen.one([letter for letter in FLAGS[verb][1] if letter not in b"MO"])
            flags.append(bytes([letter]) + chosen.one(words.ODD_NUMBERS))
        elif form == "many":
            letters = b"qkcfhlstvPL0123456789abdeghij"[: chosen.one((15, 16, 17, 18, 19, 20, 21, 24, 29))]
            flags += [bytes([letter]) for letter in letters]
        elif form == "blanks":
            flags = [chosen.one((b"", b" ", b"  ")), *flags, b"", b"k" if verb != b"me" else b"", b""]
        elif form == "opaque":
            flags.append(b"O" + b"x" * chosen.one((30, 31, 32, 33, 100)))
        else:
            ending = chosen.one((b"\n", b"\r\r\n", b"\0\r\n", b"\t\r\n", b" \r\n"))
        if verb == b"ms":
            ending += words.HARMLESS * 5 + b"\r\n"
            flags.insert(0, b"5")
        return Command(line(verb, key, flags, ending), fenced=True, cleaned=True)


def line(verb, key, flags, ending):
    """A command from its flags, some of which are a letter and the place of a CAS number."""
    parts = [verb + b" ", key]
    for flag in flags:
        parts += [b" ", *flag] if isinstance(flag, tuple) else [b" " + flag]
    return (*parts, ending)
