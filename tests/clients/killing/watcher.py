"""Asks a server all the time how far it has come with its disk."""

import time

from killing.clients import Actor

# Requests to the device that may be done, one after the other, before a record that is in memory only is written, when its flush
# interval is over: three blocks in front of its own, the footer of one table and the header of the next, twice.
WRITES_IN_FRONT = 8
# Between two questions.
PAUSE_SECONDS = 0.004


class Watcher(Actor):
    """Knows when everything was on disk, and how long the device has kept the server waiting at most."""

    def __init__(self, port):
        super().__init__(port)
        # What was answered before this moment is on disk.
        self.all_on_disk = float("-inf")
        self.progressed = time.monotonic()
        self.longest_gap = 0.0

    def talk(self, connection):
        writes = None
        while True:
            asked = time.monotonic()
            stats = connection.stats()
            answered = time.monotonic()
            if stats["memtable_bytes"] == "0":
                self.all_on_disk = asked
            if stats["memtable_bytes"] == "0" or stats["disk_writes"] != writes:
                writes = stats["disk_writes"]
                self.longest_gap = max(self.longest_gap, answered - self.progressed)
                self.progressed = asked
            time.sleep(PAUSE_SECONDS)

    def lateness(self, killed, interval):
        """How old an answered write may be at most that is not on disk."""
        return interval + WRITES_IN_FRONT * max(self.longest_gap, killed - self.progressed) + 0.05
