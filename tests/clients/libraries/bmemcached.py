"""python-binary-memcached: binary protocol, pure Python."""

import importlib.metadata

import bmemcached

from .cases import CLIENT_TIMEOUT_SECONDS


class Adapter:
    """One server."""

    objects = (1, 2**70, "text", "\u043a\u043b\u044e\u0447", {"a": [1, 2.5, None]})

    def __init__(self, port):
        self.client = bmemcached.Client(("127.0.0.1:%d" % port,), socket_timeout=CLIENT_TIMEOUT_SECONDS)

    def close(self):
        self.client.disconnect_all()

    def set(self, key, value, expire=0):
        # Without its compression, so that values have the size they have.
        return self.client.set(key, value, time=expire, compress_level=0)

    def get(self, key):
        return self.client.get(key)

    def set_object(self, key, value):
        return self.client.set(key, value)

    get_object = get

    def set_many(self, values):
        # It gives the keys that failed.
        return not self.client.set_multi(values)

    def get_many(self, keys):
        return self.client.get_multi(keys)

    def delete_many(self, keys):
        return self.client.delete_multi(keys)

    def delete(self, key):
        # It takes an absent key for a deleted one.
        found = self.client.get(key) is not None
        return self.client.delete(key) and found

    def add(self, key, value):
        return self.client.add(key, value)

    def replace(self, key, value):
        return self.client.replace(key, value)

    def gets(self, key):
        return self.client.gets(key)

    def cas(self, key, value, unique):
        return self.client.cas(key, value, unique)

    def count(self, key, delta):
        return self.client.incr(key, delta) if delta > 0 else self.client.decr(key, -delta)

    def stats(self):
        (stats,) = self.client.stats().values()
        return {as_text(name): as_text(value) for name, value in stats.items()}

    def flush_all(self):
        self.client.flush_all()


def as_text(data):
    return data.decode() if isinstance(data, bytes) else data


ADAPTERS = {"python-binary-memcached": Adapter}
VERSION = importlib.metadata.version("python-binary-memcached")
