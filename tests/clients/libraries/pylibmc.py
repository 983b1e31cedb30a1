"""pylibmc: libmemcached (C), text and binary protocol."""

import pylibmc

from .cases import CLIENT_TIMEOUT_SECONDS

MICROSECONDS = 1_000_000


class Adapter:
    """Text protocol."""

    is_binary = False
    objects = (1, 2**70, "text", "\u043a\u043b\u044e\u0447", b"bytes", True, {"a": [1, 2.5, None]})
    binary_key_tails = (b"\xff\xfe\x80", bytes(range(128, 256)))

    def __init__(self, port):
        behaviors = {
            "cas": True,
            "tcp_nodelay": True,
            "connect_timeout": int(CLIENT_TIMEOUT_SECONDS * 1000),
            "receive_timeout": int(CLIENT_TIMEOUT_SECONDS * MICROSECONDS),
            "send_timeout": int(CLIENT_TIMEOUT_SECONDS * MICROSECONDS),
            "_poll_timeout": int(CLIENT_TIMEOUT_SECONDS * 1000),
            "retry_timeout": 1,
        }
        self.client = pylibmc.Client(["127.0.0.1:%d" % port], binary=self.is_binary, behaviors=behaviors)

    def close(self):
        self.client.disconnect_all()

    def set(self, key, value, expire=0):
        return self.client.set(key, value, time=expire)

    def get(self, key):
        return self.client.get(key)

    set_object = set
    get_object = get

    def set_many(self, values):
        return self.client.set_multi(values) == []

    def get_many(self, keys):
        return self.client.get_multi(keys)

    def delete_many(self, keys):
        return self.client.delete_multi(keys)

    def delete(self, key):
        return self.client.delete(key)

    def add(self, key, value):
        return self.client.add(key, value)

    def replace(self, key, value):
        return self.client.replace(key, value)

    def append(self, key, value):
        return self.client.append(key, value)

    def prepend(self, key, value):
        return self.client.prepend(key, value)

    def gets(self, key):
        return self.client.gets(key)

    def cas(self, key, value, unique):
        return self.client.cas(key, value, unique)

    def incr(self, key, delta):
        return self.client.incr(key, delta)

    def decr(self, key, delta):
        return self.client.decr(key, delta)

    def touch(self, key, expire):
        return self.client.touch(key, expire)

    def stats(self):
        ((_, stats),) = self.client.get_stats()
        return {as_text(name): as_text(value) for name, value in stats.items()}

    def flush_all(self):
        self.client.flush_all()


class Binary(Adapter):
    """Binary protocol."""

    is_binary = True

    def replace(self, key, value):
        try:
            return self.client.replace(key, value)
        except pylibmc.NotFound:
            return False


def as_text(data):
    return data.decode() if isinstance(data, bytes) else data


ADAPTERS = {"pylibmc, text": Adapter, "pylibmc, binary": Binary}
VERSION = pylibmc.__version__
