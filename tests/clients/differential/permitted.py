"""Differences between memcached 1.6.18 and dmacached that are meant, each with its reason.

A rule holds for one command whose answers could be told from those around it. It gives patterns of the whole command, of
memcached's answer and of ours (for binary packets, of their bytes). Whatever differs and fits no rule is a failure.
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

    def fits(self, protocol, command, theirs, ours):
        return (
            protocol in self.protocols
            and re.fullmatch(self.command, command, re.DOTALL) is not None
            and re.fullmatch(self.theirs, theirs, re.DOTALL) is not None
            and re.fullmatch(self.ours, ours, re.DOTALL) is not None
        )


CLOSED = b"<closed>"
TEXT = ("text", "meta")
ALL = ("text", "meta", "binary")

RULES = ()


def rule_for(protocol, command, theirs, ours):
    return next((rule for rule in RULES if rule.fits(protocol, command, theirs, ours)), None)
