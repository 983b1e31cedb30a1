"""pymemcache: text protocol, pure Python."""

import pymemcache
from pymemcache.client.base import Client, PooledClient

from .cases import CLIENT_TIMEOUT_SECONDS

# No blanks: the library refuses them.
BINARY_KEY_TAILS = (b"\xff\xfe\x80", b"\x01\x02\x7f", bytes(range(128, 256)))


class Adapter:
    """One connection."""

    binary_key_tails = BINARY_KEY_TAILS

    def __init__(self, port):
        self.client = self.connect(port)

    def connect(self, port):
        return Client(("127.0.0.1", port), **OPTIONS)

    def close(self):
        self.client.close()

    def version(self):
        return self.client.version().decode()

    def set(self, key, value, expire=0):
        return self.client.set(key, value, expire, noreply=False)

    def get(self, key):
        return self.client.get(key)

    def set_many(self, values):
        # It gives the keys that failed.
        return self.client.set_many(values, noreply=False) == []

    def get_many(self, keys):
        return self.client.get_many(keys)

    def delete_many(self, keys):
        return self.client.delete_many(keys, noreply=False)

    def delete(self, key):
        return self.client.delete(key, noreply=False)

    def add(self, key, value):
        return self.client.add(key, value, noreply=False)

    def replace(self, key, value):
        return self.client.replace(key, value, noreply=False)

    def append(self, key, value):
        return self.client.append(key, value, noreply=False)

    def prepend(self, key, value):
        return self.client.prepend(key, value, noreply=False)

    def gets(self, key):
        return self.client.gets(key)

    def cas(self, key, value, unique):
        return self.client.cas(key, value, unique, noreply=False)

    def incr(self, key, delta):
        return self.client.incr(key, delta)

    def decr(self, key, delta):
        return self.client.decr(key, delta)

    def touch(self, key, expire):
        return self.client.touch(key, expire, noreply=False)

    def stats(self):
        return {name.decode(): value for name, value in self.client.stats().items()}

    def flush_all(self):
        self.client.flush_all(noreply=False)


OPTIONS = {
    "timeout": CLIENT_TIMEOUT_SECONDS,
    "connect_timeout": CLIENT_TIMEOUT_SECONDS,
    "no_delay": True,
    "allow_unicode_keys": True,
    "default_noreply": False,
}


class Pooled(Adapter):
    """Its pool of connections."""

    def connect(self, port):
        return PooledClient(("127.0.0.1", port), max_pool_size=4, **OPTIONS)


class Unanswered(Adapter):
    """As it is by default: without waiting for answers to changes."""

    hears_answers = False

    def set(self, key, value, expire=0):
        return self.client.set(key, value, expire, noreply=True)

    def set_many(self, values):
        return self.client.set_many(values, noreply=True) == []

    def delete_many(self, keys):
        return self.client.delete_many(keys, noreply=True)

    def delete(self, key):
        found = self.client.get(key) is not None
        self.client.delete(key, noreply=True)
        return found


ADAPTERS = {"pymemcache": Adapter, "pymemcache, pooled": Pooled, "pymemcache, noreply": Unanswered}
VERSION = pymemcache.__version__
