"""What every client library has to be able to do with a server.

A case is a generator: where it yields, records are forced to disk, or not, depending on the pass. It takes an adapter of a
library, a name for its keys, and the server under test. Cases whose methods a library does not have are not run for it.
"""

import hashlib
import time

VALUE_SIZES = (0, 1, 100, 4095, 4096, 10_000, 100_000, 1_000_000, (1 << 20) - 400)
TOO_LARGE_SIZE = (1 << 20) + 100
# For larger ones memcached looks at the memory behind them.
NUMBER_MAX = (1 << 63) - 1
CLIENT_TIMEOUT_SECONDS = 1.0


class Skipped(Exception):
    """The server or the library cannot be asked for this."""


def value_of(name, size):
    """Bytes of all kinds, told by a name."""
    block = b"".join(hashlib.blake2b(b"%s %d" % (name.encode(), number)).digest() for number in range(min(64, size // 64 + 1)))
    return (block * (size // len(block) + 1))[:size]


def check(actual, expected, what):
    if actual != expected:
        raise AssertionError("%s: %s, not %s" % (what, shortened(actual), shortened(expected)))


def shortened(value):
    text = repr(value)
    return text if len(text) < 100 else text[:70] + "... (%d characters)" % len(text)


def fails(action):
    """Whether a library says in its way that something did not work: an exception, or a result that is none."""
    try:
        return not action()
    except Exception:  # Each library has its own.
        return True


def version(client, _name, _server):
    answer = client.version()
    check(answer.startswith("1.6."), True, "version %s begins with 1.6." % answer)
    yield


def store_and_read(client, name, _server):
    check(client.get(name), None, "get of what is absent")
    check(client.set(name, b"first"), True, "set")
    yield
    check(client.get(name), b"first", "get")
    check(client.set(name, b"second value"), True, "set again")
    check(client.get(name), b"second value", "get again")
    yield
    check(client.delete(name), True, "delete")
    yield
    check(client.get(name), None, "get of what is deleted")
    check(client.delete(name), False, "delete of what is absent")


def values_of_all_sizes(client, name, _server):
    for size in VALUE_SIZES:
        check(client.set("%s:%d" % (name, size), value_of(name, size)), True, "set of %d bytes" % size)
    yield
    for size in VALUE_SIZES:
        check(client.get("%s:%d" % (name, size)), value_of(name, size), "get of %d bytes" % size)


def value_too_large(client, name, _server):
    check(client.set(name, b"small"), True, "set")
    yield
    is_refused = fails(lambda: client.set(name, bytes(TOO_LARGE_SIZE)))
    check(is_refused, getattr(client, "hears_answers", True), "a value that is too large is refused")
    check(eventually(lambda: client.set(name + ":other", b"x")), True, "set after it")
    check(client.get(name), None, "the old value is gone")


def eventually(action, seconds=10):
    """Tries until it works: some libraries avoid a server for a while after an error."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not fails(action):
            return True
        time.sleep(0.05)
    return False


def many_keys(client, name, _server):
    values = {"%s:%d" % (name, number): value_of(name, number * 10) for number in range(1, 200)}
    check(client.set_many(values), True, "set of many")
    yield
    check(client.get_many([*values, name + ":absent"]), values, "get of many")
    check(client.get_many([name + ":none", name + ":neither"]), {}, "get of many that are absent")


def many_deletes(client, name, _server):
    values = {"%s:%d" % (name, number): b"x" for number in range(20)}
    check(client.set_many(values), True, "set of many")
    yield
    check(client.delete_many(list(values)), True, "delete of many")
    yield
    check(client.get_many(list(values)), {}, "get of many that are deleted")


def add_and_replace(client, name, _server):
    check(client.replace(name, b"a"), False, "replace of what is absent")
    check(client.add(name, b"b"), True, "add")
    yield
    check(client.add(name, b"c"), False, "add of what is there")
    check(client.get(name), b"b", "get")
    check(client.replace(name, b"d"), True, "replace")
    yield
    check(client.get(name), b"d", "get after replace")


def append_and_prepend(client, name, _server):
    check(client.append(name, b"x"), False, "append to what is absent")
    check(client.prepend(name, b"x"), False, "prepend to what is absent")
    check(client.set(name, b"middle" * 100), True, "set")
    yield
    check(client.append(name, b"-end"), True, "append")
    yield
    check(client.prepend(name, b"begin-"), True, "prepend")
    yield
    check(client.get(name), b"begin-" + b"middle" * 100 + b"-end", "get")


def compare_and_swap(client, name, _server):
    check(client.set(name, b"one"), True, "set")
    yield
    value, unique = client.gets(name)
    check(value, b"one", "gets")
    check(client.cas(name, b"two", unique), True, "cas")
    yield
    check(fails(lambda: client.cas(name, b"three", unique)), True, "cas with an old unique")
    check(client.get(name), b"two", "get")
    _, unique = client.gets(name)
    check(client.delete(name), True, "delete")
    yield
    check(fails(lambda: client.cas(name, b"four", unique)), True, "cas of what is absent")
    check(client.get(name), None, "get of what is absent")


def count(client, name, _server):
    check(fails(lambda: client.incr(name, 1)), True, "incr of what is absent")
    check(client.set(name, b"10"), True, "set")
    yield
    check(client.incr(name, 5), 15, "incr")
    yield
    check(client.decr(name, 6), 9, "decr")
    check(client.get(name).rstrip(), b"9", "get")
    yield
    check(client.decr(name, 100), 0, "decr stops at 0")
    check(client.set(name, b"%d" % (NUMBER_MAX - 2)), True, "set of much")
    yield
    check(client.incr(name, 2), NUMBER_MAX, "incr of much")
    check(client.set(name, b"text"), True, "set of a text")
    yield
    check(fails(lambda: client.incr(name, 1)), True, "incr of a text")
    # Some take the refusal for a server that is down.
    check(eventually(lambda: client.get(name) == b"text"), True, "get of the text")


def count_from_nothing(client, name, _server):
    """For libraries whose incr and decr make a number where there is none."""
    check(client.count(name, 5), 0, "the first")
    yield
    check(client.count(name, 5), 5, "the second")
    yield
    check(client.count(name, -2), 3, "down")
    check(client.count(name, -10), 0, "down to 0")
    yield
    check(client.count(name, 1), 1, "up")


def expiry(client, name, _server):
    check(client.set(name + ":short", b"x", 1), True, "set for a second")
    check(client.set(name + ":long", b"x", 1000), True, "set for a thousand")
    check(client.set(name + ":date", b"x", int(time.time()) + 1000), True, "set until a date")
    yield
    check(client.get(name + ":long"), b"x", "get")
    time.sleep(2.2)
    check(client.get(name + ":short"), None, "get of what has expired")
    check(client.get(name + ":long"), b"x", "get of what lives longer")
    check(client.get(name + ":date"), b"x", "get of what lives until a date")


def touch(client, name, _server):
    check(client.touch(name, 10), False, "touch of what is absent")
    for suffix in (":shorter", ":longer"):
        check(client.set(name + suffix, b"value", 1000 if suffix == ":shorter" else 2), True, "set")
    yield
    check(client.touch(name + ":shorter", 1), True, "touch")
    check(client.touch(name + ":longer", 1000), True, "touch")
    yield
    time.sleep(3.2)
    check(client.get(name + ":shorter"), None, "get of what was touched to expire")
    check(client.get(name + ":longer"), b"value", "get of what was touched to live")


def get_and_touch(client, name, _server):
    check(client.set(name, b"value", 2), True, "set")
    yield
    check(client.gat(name, 1000), b"value", "gat")
    check(client.gat(name + ":absent", 1000), None, "gat of what is absent")
    yield
    time.sleep(3.2)
    check(client.get(name), b"value", "get of what was touched to live")


def keys_of_all_kinds(client, name, _server):
    keys = [name + ":" + "k" * (249 - len(name)), name + ":!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"]
    for key in keys:
        check(client.set(key, key.encode()), True, "set of %s" % key)
    yield
    for key in keys:
        check(client.get(key), key.encode(), "get of %s" % key)
    check(fails(lambda: client.set(name + "k" * 250, b"x")), True, "a key of more than 250 bytes is refused")
    check(eventually(lambda: client.set(name, b"x")), True, "set after it")


def unicode_keys(client, name, _server):
    keys = [name + ":" + text for text in ("\u043a\u043b\u044e\u0447", "\u9375", "cl\u00e9", "\U0001f511")]
    for key in keys:
        check(client.set(key, key.encode()), True, "set of %s" % ascii(key))
    yield
    for key in keys:
        check(client.get(key), key.encode(), "get of %s" % ascii(key))
        check(client.delete(key), True, "delete of %s" % ascii(key))


def binary_keys(client, name, _server):
    keys = [name.encode() + b":" + tail for tail in client.binary_key_tails]
    for key in keys:
        check(client.set(key, b"value of " + key), True, "set of %r" % key)
    yield
    for key in keys:
        check(client.get(key), b"value of " + key, "get of %r" % key)
        check(client.delete(key), True, "delete of %r" % key)


def objects(client, name, _server):
    """The library keeps types in the flags."""
    for number, item in enumerate(client.objects):
        check(client.set_object("%s:%d" % (name, number), item), True, "set of %r" % (item,))
    yield
    for number, item in enumerate(client.objects):
        check(client.get_object("%s:%d" % (name, number)), item, "get of %r" % (item,))


def statistics(client, name, _server):
    check(client.set(name, b"x"), True, "set")
    yield
    stats = client.stats()
    for wanted in ("pid", "uptime", "version", "curr_items", "cmd_get", "limit_maxbytes", "threads", "evictions"):
        check(wanted in stats, True, "stats have %s" % wanted)
    check(int(stats["curr_items"]) > 0, True, "curr_items is more than 0")


def flush(client, name, _server):
    check(client.set(name, b"x"), True, "set")
    yield
    client.flush_all()
    yield
    check(client.get(name), None, "get after flush_all")
    check(client.set(name, b"y"), True, "set after flush_all")
    yield
    check(client.get(name), b"y", "get of what was set after flush_all")


def time_out(client, name, server):
    """A server that does not answer, and answers again."""
    if server.process is None:
        raise Skipped("the server was not started by this program")
    check(client.set(name, b"x"), True, "set")
    yield
    with server.stopped():
        begun = time.monotonic()
        check(fails(lambda: client.get(name)), True, "get of a server that is stopped fails")
        check(time.monotonic() - begun < 20 * CLIENT_TIMEOUT_SECONDS, True, "it fails in time")
    check(eventually(lambda: client.get(name) == b"x"), True, "get of the server when it goes on")
    check(client.get(name), b"x", "and again")


# Each with the methods it takes.
CASES = (
    (version, ("version",)),
    (store_and_read, ()),
    (values_of_all_sizes, ()),
    (value_too_large, ()),
    (many_keys, ("set_many", "get_many")),
    (many_deletes, ("set_many", "get_many", "delete_many")),
    (add_and_replace, ("add", "replace")),
    (append_and_prepend, ("append", "prepend")),
    (compare_and_swap, ("gets", "cas")),
    (count, ("incr", "decr")),
    (count_from_nothing, ("count",)),
    (expiry, ()),
    (touch, ("touch",)),
    (get_and_touch, ("gat",)),
    (keys_of_all_kinds, ()),
    (unicode_keys, ()),
    (binary_keys, ("binary_key_tails",)),
    (objects, ("set_object", "get_object")),
    (statistics, ("stats",)),
    (time_out, ()),
    (flush, ("flush_all",)),
)
# They take seconds, or nothing of theirs is on disk: one pass is enough.
ONCE = (version, expiry, touch, get_and_touch, time_out)
