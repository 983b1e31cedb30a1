"""The parts of kill9.py: clients that know what they have written, a watcher of what is on disk, and the judge."""
