"""Commands of the classic text protocol: valid, odd and broken ones."""

from . import words
from .model import TOO_LONG_KEY, Command, Key

STORES = (b"set", b"set", b"set", b"set", b"add", b"replace", b"append", b"append", b"prepend", b"prepend", b"cas", b"cas", b"cas")
# Answered alike at any time, and what they set matters to no answer.
ADMINISTRATION = (
    b"version|verbosity 0|verbosity 1|version noreply|lru mode flat|lru mode segmented\r\nlru mode flat|lru temp_ttl 0|lru temp_ttl 61|"
    b"lru tune 20 40 0.2 2.0|slabs automove 0|slabs automove 1|slabs automove 2|lru_crawler sleep 100|lru_crawler tocrawl 0|"
    b"lru_crawler tocrawl 100|cache_memlimit 1024|stats reset|mn|mn x"
).split(b"|")
BROKEN = (
    b"|set|set a|set a 0 0|get|gets|gat|gat 0|gats|gats 0|touch|touch a|delete|incr|incr a|decr|decr a|verbosity|verbosity x|"
    b"verbosity 1 2|verbosity 1 2 3|flush_all x|flush_all x 2|flush_all 1 2 3|flush_all noreply x|GET a|Set a 0 0 1|get\ta|"
    b"version x y|versionx|bget|foo|foo bar|slabs|slabs x|slabs reassign|slabs reassign 1|slabs reassign x 2|slabs automove|"
    b"slabs automove x|slabs automove 3|slabs automove 1 2|slabs automove ratio x|lru|lru x|lru mode|lru mode x|lru tune|"
    b"lru tune 1 2|lru tune 50 50 0.1 2.0|lru tune x y z w|lru temp_ttl|lru temp_ttl x|lru_crawler|lru_crawler x|"
    b"lru_crawler sleep|lru_crawler sleep 2000000|lru_crawler sleep x|lru_crawler tocrawl|lru_crawler tocrawl x|"
    b"lru_crawler crawl|lru_crawler crawl x|cache_memlimit|cache_memlimit x|cache_memlimit 1|"
    b"shutdown|shutdown x|shutdown graceful|quit x y|m|mx|mg|ms|md|ma|me|mgx a|extstore|extstore x|stats x|"
    b"stats detail|stats detail x|stats cachedump|\x80|\x00|\xff\xfe|\t|noreply|STORED|END|"
    b"get a HTTP/1.1|set noreply|delete a b|delete a 0 1|delete a 0 noreply x|touch a 0 noreply x|incr a 1 noreply x"
).split(b"|")

# Lines of more than 2,048 bytes end the connection, except those of `get` and `gets`, and depending on how they arrive.
LINE_SIZE_SAFE = 1900


def storage_line(verb, key, arguments, value, ending=b"\r\n"):
    """A storage command; an argument may be the place of a CAS number."""
    parts = [verb + b" ", key]
    for argument in arguments:
        parts += [b" ", argument]
    return (*parts, ending + value)


class TextCommands:
    """Makes commands, one after the other."""

    def __init__(self, chooser, has_encoded_keys, delays_flush):
        self.words = words.Words(chooser, has_encoded_keys, delays_flush)

    def one(self):
        draw = self.words.chooser.random()
        if draw < 0.30:
            return self.storage()
        if draw < 0.62:
            return self.retrieval()
        if draw < 0.86:
            return self.change()
        if draw < 0.875:
            return self.flush() if self.words.chance(0.4) else self.administration()
        if draw < 0.92:
            return self.odd_storage()
        if draw < 0.96:
            return self.odd_line()
        if draw < 0.998:
            return self.broken()
        return self.last()

    def noreply(self):
        return b" noreply" if self.words.chance(0.12) else b""

    def storage(self):
        chosen = self.words
        verb, key = chosen.one(STORES), chosen.key()
        value = chosen.join() if verb in (b"append", b"prepend") else chosen.value()
        arguments = [b"%d" % chosen.flags(), b"%d" % chosen.exptime(), b"%d" % len(value)]
        if verb == b"cas":
            arguments.append(chosen.cas(key))
        if chosen.chance(0.12):
            arguments.append(b"noreply")
        return Command(storage_line(verb, key, arguments, value + b"\r\n"))

    def retrieval(self):
        chosen = self.words
        verb = chosen.one((b"get ", b"get ", b"gets ", b"gets ", b"gat ", b"gats "))
        if verb.startswith(b"gat"):
            verb += b"%d " % chosen.exptime()
        key_count = 1 if chosen.chance(0.75) else chosen.one((2, 3, 5, 9, 24, 25, 60))
        keys = [chosen.key() for _ in range(key_count)]
        # What memcached makes of a longer one depends on how it arrives.
        while verb.startswith(b"gat") and sum(key.size + 1 for key in keys) > LINE_SIZE_SAFE:
            keys.pop()
        return Command(keys_line(verb, keys))

    def change(self):
        chosen = self.words
        verb, key = chosen.one((b"incr", b"incr", b"decr", b"delete", b"touch")), chosen.key()
        if verb == b"delete":
            argument = chosen.one((b"", b"", b"", b" 0"))
        elif verb == b"touch":
            argument = b" %d" % chosen.exptime()
        else:
            is_huge = chosen.chance(0.06)
            argument = b" %d" % (chosen.huge_delta() if is_huge else chosen.delta())
            return Command((verb + b" ", key, argument + self.noreply() + b"\r\n"), fenced=is_huge, cleaned=is_huge)
        return Command((verb + b" ", key, argument + self.noreply() + b"\r\n"))

    def flush(self):
        delay = b" %d" % self.words.one((5000, 2592000, 2147483647)) if self.words.delays_flush else self.words.one((b"", b" 0", b" -1"))
        return Command((b"flush_all" + delay + self.noreply() + b"\r\n",))

    def administration(self):
        return Command((self.words.one(ADMINISTRATION) + b"\r\n",), fenced=True)

    def broken(self):
        line = self.words.one(BROKEN)
        is_alone = b"HTTP/" in line
        return Command((line + self.words.one((b"\r\n", b"\r\n", b"\n", b"\r\r\n")),), fenced=True, alone=is_alone)

    def odd_storage(self):
        """A storage command with something wrong, and a value that does no harm as a command."""
        chosen = self.words
        verb, key, value = chosen.one(STORES), chosen.key(), words.HARMLESS * int(chosen.chooser.random() * 20)
        arguments = [b"%d" % chosen.flags(), b"%d" % chosen.exptime(), b"%d" % len(value)]
        if verb == b"cas":
            arguments.append(chosen.cas(key))
        ending, end_of_value = b"\r\n", b"\r\n"
        is_alone = False
        oddity = chosen.one(("number", "number", "drop", "add", "key", "value", "value", "ending", "noreply"))
        if oddity == "number":
            place = int(chosen.chooser.random() * len(arguments))
            arguments[place] = chosen.one(words.ODD_NUMBERS)
            # A server that waits for a long value does not send the answers before it.
            is_alone = place == 2
        elif oddity == "drop":
            del arguments[-1]
        elif oddity == "add":
            arguments += [b"0"] * chosen.one((1, 2, 5, 30, 300))
        elif oddity == "key":
            key = Key(TOO_LONG_KEY)
        elif oddity == "value":
            value, end_of_value = chosen.one(
                ((value, b"\n"), (value, b""), (value, b"x\r\n"), (value + b"vv", b"\r\n"), (value[:-1], b"\r\n"), (value, b"\r\r\n"))
            )
            # So that what comes behind it is whole.
            end_of_value += b"\r\n"
        elif oddity == "ending":
            ending = chosen.one((b"\n", b" \r\n", b"\r\r\n", b"\t\r\n"))
        else:
            arguments += [chosen.one((b"noreply ", b"noreply x", b"norepl", b"noreplyx", b"NOREPLY", b"x noreply", b"noreply noreply"))]
        parts = storage_line(verb, key, arguments, value + end_of_value, ending)
        return Command(parts, fenced=True, cleaned=oddity == "number", alone=is_alone)

    def odd_line(self):
        """A command without a value that has something odd about it."""
        chosen = self.words
        key = chosen.key()
        number = chosen.one(words.ODD_NUMBERS)
        form = chosen.one(("blanks", "number", "number", "number", "key", "many", "ending", "tail", "long get", "big"))
        if form == "big":
            verb, value = chosen.one((b"incr ", b"decr ")), chosen.one(words.BIG_NUMBERS)
            tail = b" %d\r\nget " % chosen.one((0, 1, 2, 100, 2**63, 2**64 - 1))
            parts = storage_line(b"set", key, [b"0", b"0", b"%d" % len(value)], value + b"\r\n" + verb)
            return Command((*parts, key, tail, key, b"\r\n"), fenced=True, cleaned=True)
        if form == "blanks":
            parts = (chosen.one((b" ", b"   ", b" " * 90, b"")) + chosen.one((b"get", b"gets", b"incr", b"gat 0")) + b"   ", key)
            tail = chosen.one((b"  1", b" ", b"\t1", b" 1 "))
            # What follows the longest key makes it too long.
            return Command((*parts, tail + b"\r\n"), fenced=True, alone=tail == b"\t1")
        if form == "number":
            verb = chosen.one((b"incr", b"decr", b"touch", b"delete", b"gat", b"gats", b"flush_all"))
            if verb == b"flush_all":
                return Command((verb + b" " + chosen.one((b"x", b"1x", b"-", b"1.5", b"99999999999999999999")) + b"\r\n",), fenced=True)
            parts = (verb + b" " + number + b" ", key, b"\r\n") if verb.startswith(b"gat") else (verb + b" ", key, b" " + number + b"\r\n")
            return Command(parts, fenced=True, cleaned=True)
        if form == "key":
            verb = chosen.one((b"get ", b"gets ", b"gat 0 ", b"delete ", b"touch ", b"incr ", b"decr "))
            tail = {b"t": b" 0", b"i": b" 1"}.get(verb[:1], b" 1" if verb == b"decr " else b"")
            is_retrieval = verb[:1] == b"g"
            return Command((verb, Key(TOO_LONG_KEY), tail + self.noreply() + b"\r\n"), fenced=True, alone=is_retrieval)
        if form == "many":
            keys = [chosen.key() for _ in range(chosen.one((7, 23, 24, 47, 100)))]
            is_bad = chosen.chance(0.7)
            if is_bad:
                keys[int(chosen.chooser.random() * len(keys))] = Key(TOO_LONG_KEY)
            # With such a key memcached drops answers of requests before it, if they are not sent yet, and the keys before it
            # count as fetched.
            return Command(keys_line(chosen.one((b"get ", b"gets ", b"gat 1500 ")), keys), fenced=True, alone=is_bad, cleaned=is_bad)
        if form == "ending":
            verb = chosen.one((b"get ", b"delete ", b"gets "))
            ending = chosen.one((b"\n", b"\r\r\n", b"\r \r\n", b"\t\r\n", b"\0\r\n", b"\0x\r\n"))
            return Command((verb, key, ending), fenced=True, alone=True, cleaned=True)
        if form == "tail":
            verb = chosen.one((b"delete ", b"touch ", b"incr ", b"decr "))
            tail = chosen.one((b" 5", b" 0 5", b" x", b" noreply", b" 0 noreply", b" 5 noreply", b" noreply 0", b" 5 x", b" 5 6 7 8"))
            return Command((verb, key, tail + b"\r\n"), fenced=True, cleaned=True)
        # Short keys, far beyond what another line may have.
        keys = [Key(int(chosen.chooser.random() * 8)) for _ in range(chosen.one((280, 300, 700)))]
        return Command(keys_line(chosen.one((b"get ", b"gets ", b" get ")), keys), fenced=True)

    def last(self):
        """A command that ends the connection, or may."""
        chosen = self.words
        line = chosen.one((b"quit", b"quit", b"quit x", b"GET / HTTP/1.0", b"get", b"delete", b"incr"))
        if line in (b"get", b"delete", b"incr"):
            line += b" " + b"z" * chosen.one((1800, 2040, 2047, 2100, 5000, 20000))
        return Command((line + b"\r\n",), fenced=True, alone=True)


def keys_line(verb, keys):
    parts = [verb]
    for key in keys:
        parts += [key, b" "]
    parts[-1] = b"\r\n"
    return tuple(parts)


