"""Differences between memcached 1.6.18 and dmacached that are meant, each with its reason.

A rule gives patterns of a whole command, of memcached's answer and of ours (for binary packets, of their bytes). Most hold
for a command whose answers could be told from those around it. Some hold for one answer out of many, if one of the commands
that were answered fits. Whatever differs and fits no rule is a failure.
"""

import base64
import dataclasses
import re


@dataclasses.dataclass(frozen=True)
class Rule:
    """A permitted difference."""

    name: str
    reason: str
    protocols: tuple
    command: bytes
    theirs: bytes
    ours: bytes
    # For one answer out of many.
    is_for_one: bool = False
    # What ours has to become theirs by.
    rewritten: object = None

    def fits(self, command, theirs, ours):
        return (
            (self.rewritten is None or self.rewritten(ours) == theirs)
            and re.fullmatch(self.theirs, theirs, re.DOTALL) is not None
            and re.fullmatch(self.ours, ours, re.DOTALL) is not None
            and re.fullmatch(self.command, command, re.DOTALL) is not None
        )


CLOSED = b"<closed>"
TEXT = ("text", "meta")
META = ("meta",)
BINARY = ("binary",)


def with_key_decoded(answer):
    """An answer whose key is not in base64 any more."""
    answer = re.sub(rb"(?<= k)([A-Za-z0-9+/]+=*) b(?= )", lambda found: decoded(found[1]), answer)
    return re.sub(rb"(?<=^ME )[A-Za-z0-9+/]+=*(?= )", lambda found: decoded(found[0]), answer)


def decoded(key):
    try:
        return base64.b64decode(key, validate=True)
    except ValueError:
        return key


def error_packet(opcodes, status, message):
    """A pattern of an answer in the binary protocol that says what is wrong."""
    head = rb"\x81" + opcodes + rb"\x00\x00\x00\x00\x00" + status + rb"\x00\x00\x00" + re.escape(bytes([len(message)]))
    return head + rb".{12}" + message


REFUSED = rb"CLIENT_ERROR (?:bad command line format|options flags too long)\r\n"
NUMBER_REFUSALS = (
    rb"bad command line format|invalid exptime argument|invalid numeric delta argument|bad token in command line format|"
    rb"invalid or duplicate flag"
)
STORE = rb"(?:set|add|replace|append|prepend|cas|ms) "
UNKNOWN_OPCODE = rb"[\x1b\x1f\x21\x22\x25-\xff]"
UNKNOWN = error_packet(UNKNOWN_OPCODE, rb"\x81", b"Unknown command")
TIME_OPCODE = rb"[\x1c\x1d\x1e\x23\x24]"
CLOSES = re.escape(CLOSED)

RULES = (
    Rule(
        "value of a refused command",
        "a storage command that is refused although its size can be read has its value dropped, as by 1.6.45; 1.6.18 runs it as commands",
        TEXT,
        STORE + rb"[^\n]*\nv*\r\n",
        rb"(?:" + REFUSED + rb")?ERROR\r\n",
        rb"(?:" + REFUSED + rb")?",
    ),
    Rule(
        "NUL in a line",
        "a NUL is a byte like any other; memcached ends the line there",
        TEXT,
        rb"[^\n]*\0[^\n]*\n.*",
        rb".*",
        rb".*",
    ),
    Rule(
        "number out of range",
        "numbers of more bits than the protocol has are refused; 1.6.18 keeps the low bits of flags, size and time",
        TEXT,
        rb"[^\n]* [A-Z]?-?(?:\d{10,})[ \r][^\n]*\n.*",
        rb".*",
        rb"(?:CLIENT_ERROR (?:" + NUMBER_REFUSALS + rb")\r\n)?(?:ERROR\r\n)*",
    ),
    Rule(
        "line too long",
        "whether a line is too long depends on its bytes alone; memcached takes one that arrives whole",
        TEXT,
        rb"(?!g(?:et|at)s? )[^\n]{2049,}\n.*",
        rb".*",
        CLOSES,
    ),
    Rule(
        "N of ms",
        "an append to what is absent makes it, as by 1.6.45; 1.6.18 takes the flag and does nothing about it",
        META,
        rb"ms [^\n]* N\d+[ \r].*",
        rb"NS[^\n]*\n",
        rb"(?:HD[^\n]*\n)?",
    ),
    Rule(
        "flags of 1.6.45",
        "E and x are flags of 1.6.45",
        META,
        rb"m[gsda] [^\n]* (?:E|x)[^\n]*\n.*",
        rb"CLIENT_ERROR invalid (?:or duplicate )?flag\r\n(?:ERROR\r\n)*",
        rb".*",
    ),
    Rule(
        "base64 key of a new item",
        "an item that mg makes knows that its key was sent in base64, and gives it back so, as by 1.6.45; in 1.6.18 it does not",
        META,
        rb"m[gasd] .*",
        rb".* k.*",
        rb".* k[A-Za-z0-9+/=]+ b .*",
        is_for_one=True,
        rewritten=with_key_decoded,
    ),
    Rule(
        "time that is left of what has expired",
        "there is none; memcached counts on below zero in 32 bits without a sign",
        META,
        rb"m[ga] [^\n]* T(?:-\d+|2592001|1000000000)[ \r].*",
        rb"[^\n]* t42949\d{5}[ \r].*",
        rb"[^\n]* t-1[ \r].*",
    ),
    Rule(
        "time of more than 32 bits",
        "it is far in the future; memcached keeps its low 32 bits, with a sign",
        META,
        rb"m[gsad] [^\n]* [TNR]-?(?:[2-9]\d{9}|\d{11,})[ \r].*",
        rb".*",
        rb".*",
    ),
    Rule(
        "refused before the value has come",
        "the answer to a command that is refused is sent at once; memcached sends it when the value has come that it drops",
        META,
        rb"ms [^\n]*\n.*",
        rb"",
        rb"(?:CLIENT|SERVER)_ERROR [^\n]*\n",
    ),
    Rule(
        "long opaque of ma",
        "a command with an opaque that is too long is not executed; memcached executes ma, and then says so",
        META,
        rb"ma [^\n]* O[^ \n]{32,}[ \r].*",
        rb".*",
        rb"CLIENT_ERROR opaque token too long\r\n",
    ),
    Rule(
        "base64 key in me",
        "an item whose key was sent in base64 is shown with it so, as by 1.6.45; 1.6.18 shows its bytes",
        META,
        rb"me .*",
        rb"ME .*",
        rb"ME [A-Za-z0-9+/=]+ .*",
        is_for_one=True,
        rewritten=with_key_decoded,
    ),
    Rule(
        "body of an unknown opcode",
        "it is dropped; memcached drops as many bytes once more, and then closes on what it takes for the next request",
        BINARY,
        rb"\x80" + UNKNOWN_OPCODE + rb".*",
        rb"(?:" + UNKNOWN + rb")?(?:.*" + CLOSES + rb")?",
        UNKNOWN + rb".*",
    ),
    Rule(
        "touch or gat with a value",
        "it is refused; memcached executes it, takes the value for the next request, and closes",
        BINARY,
        rb"\x80" + TIME_OPCODE + rb".*",
        rb".*" + CLOSES,
        error_packet(TIME_OPCODE, rb"\x04", b"Invalid arguments") + CLOSES,
    ),
    Rule(
        "size beyond 2 GiB",
        "a value that large is refused at once; memcached says nothing, ever",
        BINARY,
        rb"\x80.{7}[\x7f-\xff].*",
        rb"(?:" + CLOSES + rb")?",
        rb"\x81.{6}\x03.*Too large\.",
    ),
)


def rules_for(protocol, commands, parts, unlike):
    """The rules that permit how the answers to commands differ; none when one difference is not permitted."""
    if len(commands) == 1:
        for rule in RULES:
            if protocol in rule.protocols and not rule.is_for_one and rule.fits(commands[0], *parts):
                return [rule]
    rules = [rule_for_one(protocol, commands, unit, other) for unit, other in unlike or ()]
    return rules if all(rules) else []


def rule_for_one(protocol, commands, unit, other):
    # Numbers that are not compared as such stand there as their kind.
    theirs, ours = (b" ".join(word if isinstance(word, bytes) else str(word).encode() for word in found.words) for found in (unit, other))
    for rule in RULES:
        if protocol in rule.protocols and rule.is_for_one and any(rule.fits(command, theirs, ours) for command in commands):
            return rule
    return None
