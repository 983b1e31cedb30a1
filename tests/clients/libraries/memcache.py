"""python-memcached: text protocol, pure Python."""

import importlib.metadata

import memcache

from .cases import CLIENT_TIMEOUT_SECONDS


class Adapter:
    """One server."""

    objects = (1, 2**70, "text", "\u043a\u043b\u044e\u0447", {"a": [1, 2.5, None]})

    def __init__(self, port):
        # A dead server is asked again after a second.
        options = {"socket_timeout": CLIENT_TIMEOUT_SECONDS, "dead_retry": 1, "cache_cas": True}
        self.client = memcache.Client(["127.0.0.1:%d" % port], server_max_value_length=1 << 30, **options)

    def close(self):
        self.client.disconnect_all()

    def set(self, key, value, expire=0):
        return bool(self.client.set(key, value, time=expire))

    def get(self, key):
        return self.client.get(key)

    set_object = set
    get_object = get

    def set_many(self, values):
        return self.client.set_multi(values) == []

    def get_many(self, keys):
        return self.client.get_multi(keys)

    def delete_many(self, keys):
        return self.client.delete_multi(keys) == 1

    def delete(self, key):
        # It takes an absent key for a deleted one.
        found = self.client.get(key) is not None
        return self.client.delete(key) == 1 and found

    def add(self, key, value):
        return bool(self.client.add(key, value))

    def replace(self, key, value):
        return bool(self.client.replace(key, value))

    def append(self, key, value):
        return bool(self.client.append(key, value))

    def prepend(self, key, value):
        return bool(self.client.prepend(key, value))

    def gets(self, key):
        """It keeps the unique to itself."""
        value = self.client.gets(key)
        return value, self.client.cas_ids.get(key)

    def cas(self, key, value, unique):
        self.client.cas_ids[key] = unique
        return bool(self.client.cas(key, value))

    def incr(self, key, delta):
        return self.client.incr(key, delta)

    def decr(self, key, delta):
        return self.client.decr(key, delta)

    def touch(self, key, expire):
        return self.client.touch(key, expire) == 1

    def stats(self):
        ((_, stats),) = self.client.get_stats()
        return stats

    def flush_all(self):
        self.client.flush_all()


ADAPTERS = {"python-memcached": Adapter}
VERSION = importlib.metadata.version("python-memcached")
