"""Public client libraries, each behind the same few methods, and the cases that all of them go through."""
