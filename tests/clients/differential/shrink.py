"""The shortest stream that still shows a difference, found by leaving parts out and sending the rest on fresh keys."""

import time

from . import model

TRIES_MAX = 600
SECONDS_MAX = 60


class Shrinking:
    """A stream that failed, while it is made shorter."""

    def __init__(self, sends, sessions):
        # From sessions to what differs, or None.
        self.sends = sends
        self.tries = 0
        self.deadline = time.monotonic() + SECONDS_MAX
        self.commands = [
            (number, session.protocol, place, command)
            for number, session in enumerate(sessions)
            for place, segment in enumerate(session.segments)
            for command in segment
        ]
        self.difference = None

    def differs(self, commands):
        self.tries += 1
        found = self.sends(sessions_of(commands))
        if found is None:
            return False
        self.commands, self.difference = commands, found
        return True

    def is_over(self):
        return self.tries >= TRIES_MAX or time.monotonic() > self.deadline

    def run(self):
        """Gives the sessions that are left and what differs with them; nothing when it does not happen again."""
        if not self.differs(self.commands):
            return None
        size = max(1, len(self.commands) // 2)
        while not self.is_over():
            start, is_shorter = 0, False
            while start < len(self.commands) and not self.is_over():
                rest = self.commands[:start] + self.commands[start + size :]
                if rest and self.differs(rest):
                    is_shorter = True
                else:
                    start += size
            if size == 1 and not is_shorter:
                break
            size = max(1, size // 2)
        return sessions_of(self.commands), self.difference


def sessions_of(commands):
    """Commands as sessions and segments again."""
    sessions = []
    last_session = last_segment = None
    for number, protocol, place, command in commands:
        if number != last_session:
            sessions.append(model.Session(protocol, []))
            last_session, last_segment = number, None
        if place != last_segment:
            sessions[-1].segments.append([])
            last_segment = place
        sessions[-1].segments[-1].append(command)
    return sessions


def description(sessions, prefix):
    """A stream for people to read, with keys as they were sent last."""
    lines = []
    for session in sessions:
        lines.append("  connection (%s)" % session.protocol)
        for segment in session.segments:
            lines.append("    segment")
            for command in segment:
                lines.append("      " + model.escaped(described(command, prefix)))
    return lines


def described(command, prefix):
    return b"".join(
        part if isinstance(part, bytes) else part.render(prefix) if isinstance(part, model.Key) else b"{cas of key %d}" % part.number
        for part in command.parts
    )
