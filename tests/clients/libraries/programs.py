"""Client libraries of other languages, as programs that run their own cases."""

PROGRAMS = {}
