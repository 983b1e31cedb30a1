"""Differences between memcached 1.6.18 and dmacached that are meant, each with its reason.

A rule gives patterns of a whole command, of memcached's answer and of ours (for binary packets, of their bytes). Most hold
for a command whose answers could be told from those around it. Some hold for one answer out of many, if one of the commands
that were answered fits. Whatever differs and fits no rule is a failure.
"""

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

    def fits(self, command, theirs, ours):
        return (
            re.fullmatch(self.theirs, theirs, re.DOTALL) is not None
            and re.fullmatch(self.ours, ours, re.DOTALL) is not None
            and re.fullmatch(self.command, command, re.DOTALL) is not None
        )


CLOSED = b"<closed>"
TEXT = ("text", "meta")
BINARY = ("binary",)


def error_packet(opcodes, status, message):
    """A pattern of an answer in the binary protocol that says what is wrong."""
    head = rb"\x81" + opcodes + rb"\x00\x00\x00\x00\x00" + status + rb"\x00\x00\x00" + re.escape(bytes([len(message)]))
    return head + rb".{12}" + message


REFUSED = rb"CLIENT_ERROR bad command line format\r\n"
STORE = rb"(?:set|add|replace|append|prepend|cas) "
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
        rb"[^\n]* -?(?:\d{10,})[ \r][^\n]*\n.*",
        rb".*",
        rb"(?:" + REFUSED + rb"|CLIENT_ERROR invalid (?:exptime|numeric delta) argument\r\n)?(?:ERROR\r\n)?",
    ),
    Rule(
        "line too long",
        "whether a line is too long depends on its bytes alone; memcached takes one that arrives whole",
        TEXT,
        rb"(?!gets? )[^\n]{2049,}\n.*",
        rb".*",
        CLOSES,
    ),
    Rule(
        "join too large",
        "an append or prepend whose result is too large is answered with that; memcached says that nothing was stored",
        TEXT,
        rb"(?:append|prepend) .*",
        rb"NOT_STORED\r\n",
        rb"SERVER_ERROR object too large for cache\r\n",
        is_for_one=True,
    ),
    Rule(
        "body of an unknown opcode",
        "it is dropped; memcached drops as many bytes once more, and then closes on what it takes for the next request",
        BINARY,
        rb"\x80" + UNKNOWN_OPCODE + rb".*",
        rb"(?:" + UNKNOWN + rb")?(?:" + CLOSES + rb")?",
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
        rb"",
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
    theirs, ours = (b"".join(word for word in found.words if isinstance(word, bytes)) for found in (unit, other))
    for rule in RULES:
        if protocol in rule.protocols and rule.is_for_one and any(rule.fits(command, theirs, ours) for command in commands):
            return rule
    return None
