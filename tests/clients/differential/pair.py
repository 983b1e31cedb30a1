"""Epochs of sessions, sent to two servers, and the first thing that differs."""

import dataclasses
import random

from . import answers, binary, exchange, meta, model, permitted, text

GENERATORS = {"text": text.TextCommands, "meta": meta.MetaCommands, "binary": binary.BinaryCommands}
SESSIONS_PER_EPOCH = 8
BASE = b"0123456789abcdefghijklmnopqrstuvwxyz"


@dataclasses.dataclass
class Difference:
    """Commands that were answered differently, and the answers."""

    protocol: str
    commands: list
    theirs: bytes
    ours: bytes


@dataclasses.dataclass
class Chunk:
    """Commands between two markers."""

    commands: list
    marker: int
    is_compared: bool = True


def prefix_of(number):
    """Keys of one sending are no other's."""
    digits = bytearray()
    for _ in range(model.PREFIX_SIZE - 1):
        number, digit = divmod(number, len(BASE))
        digits.append(BASE[digit])
    return b"e" + bytes(reversed(digits))


def make_epoch(seed, number, protocols):
    """The sessions of an epoch: told by the seed and the number."""
    chooser = random.Random("%s %d" % (seed, number))
    has_encoded_keys = "meta" in protocols
    delays_flush = chooser.random() < 0.4
    makers = {protocol: GENERATORS[protocol](chooser, has_encoded_keys, delays_flush) for protocol in protocols}
    sessions = []
    for _ in range(SESSIONS_PER_EPOCH):
        protocol = chooser.choice(protocols)
        segments = []
        for _ in range(chooser.randrange(1, 7)):
            segments += split([one_of(makers, protocol, chooser) for _ in range(chooser.randrange(1, 21))])
        sessions.append(model.Session(protocol, segments))
    opaque_keys = makers["binary"].opaque_keys if "binary" in makers else {}
    return sessions, opaque_keys


def one_of(makers, protocol, chooser):
    """On a connection of the meta protocol classic commands come too: a server keeps no such distinction."""
    if protocol == "meta" and "text" in makers and chooser.random() < 0.2:
        return makers["text"].one()
    return makers[protocol].one()


def split(commands):
    """Commands as segments: those that stand alone have one of their own, and a number is changed in another segment than
    those in which its key was named before: memcached pads a number that gets shorter with blanks, but not while an
    answer with the old one is not sent yet."""
    segments = [[]]
    named = set()
    for command in commands:
        keys = {key.number for key in command.keys()}
        if command.alone:
            segments += [[command], []]
            named = set()
            continue
        if command.counts() and keys & named:
            segments.append([])
            named = set()
        segments[-1].append(command)
        named |= keys
    return [segment for segment in segments if segment]


def chunks_of(commands, next_marker, fence_all):
    """The commands with markers around those that are fenced, and deletes behind those that are cleaned."""
    chunks = []
    gathered = []

    def close(part, is_compared=True):
        chunks.append(Chunk(part, next_marker(), is_compared))

    for command in commands:
        if not (command.fenced or fence_all):
            gathered.append(command)
            continue
        if gathered:
            close(gathered)
            gathered = []
        close([command])
        if command.cleaned:
            close([CleaningOf(command)], is_compared=False)
    if gathered:
        close(gathered)
    return chunks


class CleaningOf:
    """Deletes the keys of a command."""

    def __init__(self, command):
        self.keys = [key for key in command.keys() if key.number < model.TOO_LONG_KEY]

    def render_for(self, protocol, prefix):
        return b"".join(deletion(protocol, key, prefix) for key in self.keys)


def deletion(protocol, key, prefix):
    if protocol == "binary":
        name = model.Key(key.number).render(prefix)
        return bytes([0x80, binary.DELETE]) + len(name).to_bytes(2, "big") + bytes(4) + len(name).to_bytes(4, "big") + bytes(12) + name
    if key.encoded:
        return b"md " + key.render(prefix) + b" b q\r\n"
    return b"delete " + key.render(prefix) + b" noreply\r\n"


class Pair:
    """Two servers. The first is memcached, the second is compared with it."""

    def __init__(self, ports, protocols, before_segment, send_aside, seed):
        self.ports = ports
        self.markers = {}
        for protocol in protocols:
            self.markers[protocol] = answers.Markers(protocol if protocol == "binary" or "meta" not in protocols else "meta")
        self.has_meta = "meta" in protocols
        self.before_segment = before_segment
        # Sends requests to both over connections of the driver's own; their answers do not matter.
        self.send_aside = send_aside
        self.chooser = random.Random("cuts %s" % seed)
        self.marker_number = 0
        self.prefix_number = 0
        self.compared = dict.fromkeys(protocols, 0)
        self.permitted = {}

    def next_marker(self):
        self.marker_number += 1
        return self.marker_number

    def run(self, sessions, opaque_keys, fence_all=False):
        """Sends an epoch, on keys that are used by no other. Gives a difference that is not permitted, with the number of
        its session, or None."""
        self.prefix_number += 1
        prefix = prefix_of(self.prefix_number)
        run = Run(self, prefix, opaque_keys, fence_all)
        for number, session in enumerate(sessions):
            difference = run.session(session)
            if difference is not None:
                return number, difference
        return None

    def count(self, protocol, command_count):
        self.compared[protocol] += command_count

    def forget(self, keys_prefix):
        """What is to be sent to both so that the keys of a sending take no memory."""
        keys = [model.Key(number) for number in model.TEXT_KEYS]
        keys += [model.Key(number, encoded=True) for number in model.ALL_KEYS[12:]] if self.has_meta else []
        return b"".join(deletion("text", key, keys_prefix) for key in keys)

    def last_prefix(self):
        return prefix_of(self.prefix_number)


class Run:
    """One sending of an epoch: its keys, and the CAS numbers that were seen."""

    def __init__(self, pair, prefix, opaque_keys, fence_all):
        self.pair = pair
        self.prefix = prefix
        self.opaque_keys = opaque_keys
        self.fence_all = fence_all
        self.key_numbers = model.key_numbers(prefix)
        self.cas = answers.CasNumbers()

    def session(self, session):
        sides = [exchange.Side(port) for port in self.pair.ports]
        try:
            for segment in session.segments:
                self.pair.before_segment()
                difference, goes_on = self.segment(session.protocol, segment, sides)
                if difference is not None:
                    return difference
                if not goes_on:
                    self.clean_after(session.protocol, segment)
                    break
        finally:
            for side in sides:
                side.socket.close()
        return None

    def clean_after(self, protocol, commands):
        """What was to be deleted behind commands that have ended the connection."""
        keys = [key for command in commands if command.cleaned for key in command.keys() if key.number < model.TOO_LONG_KEY]
        if keys:
            requests = b"".join(deletion("text" if protocol == "binary" else protocol, key, self.prefix) for key in keys)
            self.pair.send_aside(requests)

    def segment(self, protocol, commands, sides):
        """Sends a segment; gives a difference or None, and whether the connections can be used on."""
        markers = self.pair.markers[protocol]
        chunks = chunks_of(commands, self.pair.next_marker, self.fence_all)
        chooser = self.pair.chooser
        pause = chooser.random() < 0.2
        is_whole = any(command.alone for command in commands)
        for number, side in enumerate(sides):
            data = b"".join(self.rendered(protocol, chunk, number) + markers.command(chunk.marker) for chunk in chunks)
            side.begin([data] if is_whole else exchange.cut(data, chooser), markers.answer(chunks[-1].marker), pause)
        goes_on = exchange.exchange(sides)
        heard = [bytes(side.heard) + (permitted.CLOSED if side.closed and not side.half_closed else b"") for side in sides]
        self.pair.count(protocol, len(commands))
        return self.compare(protocol, chunks, heard), goes_on

    def rendered(self, protocol, chunk, side):
        return b"".join(
            command.render_for(protocol, self.prefix) if isinstance(command, CleaningOf) else command.render(self.prefix, self.cas.known, side)
            for command in chunk.commands
        )

    def compare(self, protocol, chunks, heard):
        """Compares what lies between markers. A marker that was answered by none belongs to the chunk behind it."""
        positions = [0, 0]
        commands = []
        is_compared = True
        for chunk in chunks:
            commands += chunk.commands
            is_compared = is_compared and chunk.is_compared
            answer = self.pair.markers[protocol].answer(chunk.marker)
            ends = [raw.find(answer, position) for raw, position in zip(heard, positions)]
            if min(ends) < 0:
                is_compared = True
                continue
            parts = [raw[position:end] for raw, position, end in zip(heard, positions, ends)]
            if is_compared:
                difference = self.compare_part(protocol, commands, parts)
                if difference is not None:
                    return difference
            positions = [end + len(answer) for end in ends]
            commands = []
            is_compared = True
        parts = [raw[position:] for raw, position in zip(heard, positions)]
        return self.compare_part(protocol, commands, parts) if any(parts) else None

    def compare_part(self, protocol, commands, parts):
        units, other_units = (answers.units_of(protocol, part) for part in parts)
        unlike = answers.unlike(units, other_units, self.cas)
        if unlike == []:
            self.cas.learn(units, other_units, self.key_numbers, self.opaque_keys)
            return None
        own = [command for command in commands if isinstance(command, model.Command)]
        rendered = [command.render(self.prefix, self.cas.known, 0) for command in own]
        rules = permitted.rules_for(protocol, rendered, parts, unlike)
        if not rules:
            return Difference(protocol, rendered, *parts)
        for rule in rules:
            self.pair.permitted[rule.name] = self.pair.permitted.get(rule.name, 0) + 1
        return None
