"""Two servers that are sent the same commands, cut at different places, and heard until each has said all."""

import select
import socket
import time

# A connection that says nothing for so long although a marker was sent has swallowed it as part of a value: its sending
# side is closed then, which makes the server end it after its last answer. Too short a time costs nothing but a connection.
IDLE_SECONDS = 0.06
END_SECONDS = 10.0
# Between two pieces now and then, so that a server reads them apart.
PAUSE_SECONDS = 0.0003
NO_END = b"<the connection is not ended>"


class Side:
    """A connection to one of the servers."""

    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self.closed = False
        self.half_closed = False
        self.pieces = []
        self.pause = False
        self.heard = bytearray()
        self.ending = b""

    def begin(self, pieces, ending, pause):
        self.pieces = pieces
        self.pause = pause
        self.heard = bytearray()
        self.ending = ending

    def send(self):
        """Sends the next piece, or as much of it as goes."""
        try:
            sent = self.socket.send(self.pieces[0])
        except BlockingIOError:
            return
        except OSError:
            self.pieces = []
            return
        if sent < len(self.pieces[0]):
            self.pieces[0] = self.pieces[0][sent:]
        else:
            self.pieces.pop(0)
            if self.pause:
                time.sleep(PAUSE_SECONDS)

    def hear(self):
        try:
            data = self.socket.recv(1 << 18)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self.heard += data
        self.closed = not data

    def is_done(self):
        return self.closed or (not self.pieces and self.heard.endswith(self.ending))

    def end_sending(self):
        self.pieces = []
        self.half_closed = True
        self.ending = b"\0nothing ends so\0"
        try:
            self.socket.shutdown(socket.SHUT_WR)
        except OSError:
            self.closed = True

    def wanted(self):
        return select.POLLIN | (select.POLLOUT if self.pieces else 0)


def exchange(sides):
    """Sends what the sides were begun with, and hears them. Gives False when the connections are of no more use."""
    poller = select.poll()
    by_descriptor = {side.socket.fileno(): side for side in sides}
    waiting = list(sides)
    deadline = None
    for side in waiting:
        side.send()
        poller.register(side.socket, side.wanted())
    while waiting:
        events = poller.poll(1000 * (IDLE_SECONDS if deadline is None else END_SECONDS))
        for descriptor, happened in events:
            side = by_descriptor[descriptor]
            if happened & ~select.POLLOUT:
                side.hear()
            if side.pieces and not side.closed and happened & select.POLLOUT:
                side.send()
            if side.is_done():
                poller.unregister(side.socket)
                waiting.remove(side)
            else:
                poller.modify(side.socket, side.wanted())
        if not events and deadline is None:
            deadline = time.monotonic() + END_SECONDS
            for side in waiting:
                side.end_sending()
                poller.modify(side.socket, side.wanted())
        elif deadline is not None and time.monotonic() > deadline:
            for side in waiting:
                side.heard += NO_END
                side.closed = True
            break
    return not any(side.closed or side.half_closed for side in sides)


def cut(data, chooser):
    """The same bytes in a random number of pieces."""
    if chooser.random() < 0.4 or len(data) < 2:
        return [data]
    places = sorted({chooser.randrange(1, len(data)) for _ in range(chooser.randrange(1, 7))})
    return [data[start:end] for start, end in zip([0, *places], [*places, len(data)])]
