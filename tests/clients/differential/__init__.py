"""The parts of differential.py: generators of command streams, the driver of two servers, and what compares answers."""
