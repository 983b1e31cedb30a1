"""aiomcache: text protocol, asyncio."""

import asyncio
import importlib.metadata

import aiomcache

from .cases import CLIENT_TIMEOUT_SECONDS


class Adapter:
    """A pool of connections."""

    def __init__(self, port):
        self.loop = asyncio.new_event_loop()
        self.client = aiomcache.Client("127.0.0.1", port, pool_size=4)

    def close(self):
        self.run(self.client.close())
        self.loop.close()

    def run(self, action):
        """The library has no timeouts of its own: asyncio's are what its users take."""
        return self.loop.run_until_complete(asyncio.wait_for(action, CLIENT_TIMEOUT_SECONDS))

    def version(self):
        return self.run(self.client.version()).decode()

    def set(self, key, value, expire=0):
        return self.run(self.client.set(as_bytes(key), value, expire))

    def get(self, key):
        return self.run(self.client.get(as_bytes(key)))

    def set_many(self, values):
        async def all_of_them():
            return await asyncio.gather(*(self.client.set(as_bytes(key), value) for key, value in values.items()))

        return all(self.run(all_of_them()))

    def get_many(self, keys):
        found = self.run(self.client.multi_get(*map(as_bytes, keys)))
        return {key: value for key, value in zip(keys, found) if value is not None}

    def delete(self, key):
        return self.run(self.client.delete(as_bytes(key)))

    def add(self, key, value):
        return self.run(self.client.add(as_bytes(key), value))

    def replace(self, key, value):
        return self.run(self.client.replace(as_bytes(key), value))

    def append(self, key, value):
        return self.run(self.client.append(as_bytes(key), value))

    def prepend(self, key, value):
        return self.run(self.client.prepend(as_bytes(key), value))

    def gets(self, key):
        return self.run(self.client.gets(as_bytes(key)))

    def cas(self, key, value, unique):
        return self.run(self.client.cas(as_bytes(key), value, unique))

    def incr(self, key, delta):
        return self.run(self.client.incr(as_bytes(key), delta))

    def decr(self, key, delta):
        return self.run(self.client.decr(as_bytes(key), delta))

    def touch(self, key, expire):
        return self.run(self.client.touch(as_bytes(key), expire))

    def stats(self):
        return {name.decode(): value.decode() for name, value in self.run(self.client.stats()).items()}

    def flush_all(self):
        self.run(self.client.flush_all())


def as_bytes(key):
    return key.encode() if isinstance(key, str) else key


ADAPTERS = {"aiomcache": Adapter}
VERSION = importlib.metadata.version("aiomcache")
